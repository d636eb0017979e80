"""What torch.distributions lacks, each a true density: distributions of codes, and distributions of images.

Codes are z with event shape (D,). They are drawn from standard-normal noise, so that a seed fixes a draw whatever the
batch.

Images are x in [0, 1] with event shape (C, H, W); densities are in nats with respect to the measure that
`base_measure` names: counting measure on {0, 1} (`binary`) or on the 256 grey values (`discrete-256`), or length on
the real line in units of x (`density`). Parameters broadcast: an image batch (B, C, H, W) meets (S, B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

LOG_2PI = math.log(2 * math.pi)
SEEDED_DRAWS = 4096  # behind moments and quantiles that have no formula


def summed(values: Tensor, event_dims: int) -> Tensor:
    """Over the axes of an event: (*batch, *event) to (*batch)."""
    return values.sum(tuple(range(-event_dims, 0)))


class LatentDistribution(Distribution):
    """A distribution of codes z: what a model asks of q(z | x) and p(z). Its event is (D,), or (C, h, w) of a grid."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support: Any = constraints.real_vector
    has_rsample = True
    penalty: Tensor | None = None  # (*batch), nats, that the distribution itself asks a loss to add

    @property
    def noise_shape(self) -> torch.Size:
        """Of the standard-normal noise behind one draw."""
        return self.event_shape

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """z (*sample, *batch, *event) from noise (*sample, *batch, *noise_shape), reparameterised where continuous.

        `temperature` multiplies the spread.
        """
        raise NotImplementedError

    def drawn(self, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """z, and log q(z) (*sample, *batch) where it comes with the drawing; None where log_prob is as cheap."""
        return self.from_noise(noise), None

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z) of codes (*sample, *batch, *event): (*sample, *batch), nats; here of independent numbers."""
        if self._validate_args:
            self._validate_sample(value)
        return summed(self.log_prob_per_dim(value), self.event_dims)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """log q of each number, broadcast, not summed: (*batch, *event). TypeError where they are not independent."""
        raise TypeError(f"the dimensions of {type(self).__name__} are not independent; choose posterior=diagonal")

    def detach(self) -> LatentDistribution:
        """The same distribution with its parameters stopped (sticking the landing, DReG)."""
        raise NotImplementedError

    @property
    def like(self) -> Tensor:
        """A tensor of the type and on the device of its parameters."""
        return self.mean

    @property
    def event_dims(self) -> int:
        """How many axes an event has: 1 of a flat code, 3 of a grid."""
        return len(self.event_shape)

    @property
    def width(self) -> int:
        """float32 numbers that log_prob makes for each code, at its widest."""
        return self.event_shape.numel()

    @property
    def width_each(self) -> int:
        """The same of `log_prob_each`, for each member of the batch."""
        return self.event_shape.numel()

    @property
    def covariance(self) -> Tensor:
        """(*batch, D, D), D numbers of an event in a row; here of independent ones."""
        return torch.diag_embed(self.variance.flatten(-self.event_dims))

    def log_prob_each(self, value: Tensor) -> Tensor:
        """log-density of codes (*lead, D) under each of a batch (K,): (*lead, K), nats, float32 or float64."""
        return self.log_prob(value.unsqueeze(-2))

    def at(self, index: Tensor) -> LatentDistribution:
        """The members of a batch (K,) at these positions: batch as the index."""
        raise NotImplementedError

    @torch.no_grad()
    def seeded_draws(self, count: int = SEEDED_DRAWS) -> Tensor:
        """(count, *batch, *event): the same every time, and nothing of the generator."""
        shape = (count, *self.batch_shape, *self.noise_shape)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return self.from_noise(noise.to(self.like))

    def quantile(self, shares: Tensor) -> Tensor:
        """Quantiles (n, D) of the marginal of each dimension, of batch (); here those of seeded draws."""
        return torch.quantile(self.seeded_draws().to(shares), shares.to(self.like.device), dim=0)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size((*sample_shape, *self.batch_shape, *self.noise_shape))
        return self.from_noise(torch.randn(shape, dtype=self.like.dtype, device=self.like.device))


class DiagonalNormal(LatentDistribution):
    """Normal with independent dimensions: loc and log_scale (*batch, *event), an event of 1 axis or, of a grid, 3.

    Kept in log-scale so that no logarithm of an exponential is taken on the way to a density.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "log_scale": constraints.real_vector,
    }

    def __init__(self, loc: Tensor, log_scale: Tensor, event_dims: int = 1, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape[:-event_dims], self.loc.shape[-event_dims:], validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.log_scale.exp()

    @property
    def variance(self) -> Tensor:
        return (2 * self.log_scale).exp()

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """loc + temperature * scale * noise."""
        return self.loc + self.stddev * (noise if temperature == 1 else temperature * noise)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        standard = (value - self.loc) * (-self.log_scale).exp()
        return -0.5 * standard.square() - self.log_scale - 0.5 * LOG_2PI

    @property
    def width_each(self) -> int:
        return self.event_shape.numel() if self.loc.is_mps else 2  # one float64

    def log_prob_each(self, value: Tensor) -> Tensor:
        """By one matrix product, without the (*lead, K, D) differences that it stands for. For flat codes."""
        if value.is_mps:  # Apple's GPUs know no float64
            return super().log_prob_each(value)
        # float64: of z² - 2 z loc + loc² over a scale of 0.01, float32 would leave errors of a hundredth of a nat
        z, loc, log_scale = value.double(), self.loc.double(), self.log_scale.double()
        precision = (-2 * log_scale).exp()
        constant = (0.5 * loc.square() * precision + log_scale + 0.5 * LOG_2PI).sum(-1)
        return torch.cat([z.square(), z], -1) @ torch.cat([-0.5 * precision, loc * precision], -1).mT - constant

    def at(self, index: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.loc[index], self.log_scale[index], self.event_dims, validate_args=False)

    def quantile(self, shares: Tensor) -> Tensor:
        return self.loc + self.stddev * torch.special.ndtri(shares.to(self.loc)).unsqueeze(-1)

    def flattened(self) -> DiagonalNormal:
        """The same with the numbers of an event in a row: event (D,)."""
        loc, log_scale = (values.flatten(-self.event_dims) for values in (self.loc, self.log_scale))
        return DiagonalNormal(loc, log_scale, validate_args=False)

    def entropy(self) -> Tensor:
        return summed(self.log_scale + 0.5 * (1 + LOG_2PI), self.event_dims)

    def detach(self) -> DiagonalNormal:
        return DiagonalNormal(self.loc.detach(), self.log_scale.detach(), self.event_dims, validate_args=False)


def _normal_kl_per_dim(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    ratio = q.log_scale - p.log_scale
    shift = (q.loc - p.loc) * (-p.log_scale).exp()
    # expm1: near q = p the plain form subtracts two numbers that are almost 1
    return 0.5 * (torch.expm1(2 * ratio) + shift.square()) - ratio


KL_PER_DIM: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {
    (DiagonalNormal, DiagonalNormal): _normal_kl_per_dim,
}


def kl_of(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in closed form, nats, of the broadcast batch; None where there is none."""
    rule = KL_PER_DIM.get((type(q), type(p)))
    return None if rule is None else summed(rule(q, p), len(q.event_shape))


@register_kl(DiagonalNormal, DiagonalNormal)
def _normal_kl(q: DiagonalNormal, p: DiagonalNormal) -> Tensor | None:
    return kl_of(q, p)  # so that torch's own kl_divergence knows it too


def kl_per_dim_of(q: Distribution, p: Distribution) -> Tensor:
    """KL(q || p) of each number, nats, (..., *event). TypeError where the two do not factorise together."""
    try:
        rule = KL_PER_DIM[type(q), type(p)]
    except KeyError:
        raise TypeError(
            f"KL per dimension needs a posterior and a prior with independent dimensions; "
            f"{type(q).__name__} and {type(p).__name__} are not such a pair; use free bits per level"
        ) from None
    return rule(q, p)
