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
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

LOG_2PI = math.log(2 * math.pi)
SEEDED_DRAWS = 4096  # behind moments and quantiles that have no formula
IMAGE_DIMS = (-3, -2, -1)


class LatentDistribution(Distribution):
    """A distribution of codes z, event (D,): what a model asks of q(z | x) and p(z)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support: Any = constraints.real_vector
    has_rsample = True
    penalty: Tensor | None = None  # (*batch), nats, that the distribution itself asks a loss to add

    @property
    def noise_shape(self) -> torch.Size:
        """Of the standard-normal noise behind one draw."""
        return self.event_shape

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """z (*sample, *batch, D) from noise (*sample, *batch, *noise_shape), reparameterised where z is continuous.

        `temperature` multiplies the spread.
        """
        raise NotImplementedError

    def drawn(self, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """z, and log q(z) (*sample, *batch) where it comes with the drawing; None where log_prob is as cheap."""
        return self.from_noise(noise), None

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """log q of each dimension, broadcast, not summed: (*batch, D). TypeError where they are not independent."""
        raise TypeError(f"the dimensions of {type(self).__name__} are not independent; choose posterior=diagonal")

    def detach(self) -> LatentDistribution:
        """The same distribution with its parameters stopped (sticking the landing, DReG)."""
        raise NotImplementedError

    @property
    def like(self) -> Tensor:
        """A tensor of the type and on the device of its parameters."""
        return self.mean

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
        """(*batch, D, D); here of independent dimensions."""
        return torch.diag_embed(self.variance)

    def log_prob_each(self, value: Tensor) -> Tensor:
        """log-density of codes (*lead, D) under each of a batch (K,): (*lead, K), nats, float32 or float64."""
        return self.log_prob(value.unsqueeze(-2))

    def at(self, index: Tensor) -> LatentDistribution:
        """The members of a batch (K,) at these positions: batch as the index."""
        raise NotImplementedError

    @torch.no_grad()
    def seeded_draws(self, count: int = SEEDED_DRAWS) -> Tensor:
        """(count, *batch, D): the same every time, and nothing of the generator."""
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
    """Normal with independent dimensions: loc and log_scale (*batch, D); event (D,).

    Kept in log-scale so that no logarithm of an exponential is taken on the way to a density.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "log_scale": constraints.real_vector,
    }

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args)

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

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.log_prob_per_dim(value).sum(-1)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        standard = (value - self.loc) * (-self.log_scale).exp()
        return -0.5 * standard.square() - self.log_scale - 0.5 * LOG_2PI

    @property
    def width_each(self) -> int:
        return self.event_shape.numel() if self.loc.is_mps else 2  # one float64

    def log_prob_each(self, value: Tensor) -> Tensor:
        """By one matrix product, without the (*lead, K, D) differences that it stands for."""
        if value.is_mps:  # Apple's GPUs know no float64
            return super().log_prob_each(value)
        # float64: of z² - 2 z loc + loc² over a scale of 0.01, float32 would leave errors of a hundredth of a nat
        z, loc, log_scale = value.double(), self.loc.double(), self.log_scale.double()
        precision = (-2 * log_scale).exp()
        constant = (0.5 * loc.square() * precision + log_scale + 0.5 * LOG_2PI).sum(-1)
        return torch.cat([z.square(), z], -1) @ torch.cat([-0.5 * precision, loc * precision], -1).mT - constant

    def at(self, index: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.loc[index], self.log_scale[index], validate_args=False)

    def quantile(self, shares: Tensor) -> Tensor:
        return self.loc + self.stddev * torch.special.ndtri(shares.to(self.loc)).unsqueeze(-1)

    def entropy(self) -> Tensor:
        return (self.log_scale + 0.5 * (1 + LOG_2PI)).sum(-1)

    def detach(self) -> DiagonalNormal:
        return DiagonalNormal(self.loc.detach(), self.log_scale.detach(), validate_args=False)


def _normal_kl_per_dim(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    ratio = q.log_scale - p.log_scale
    shift = (q.loc - p.loc) * (-p.log_scale).exp()
    # expm1: near q = p the plain form subtracts two numbers that are almost 1
    return 0.5 * (torch.expm1(2 * ratio) + shift.square()) - ratio


@register_kl(DiagonalNormal, DiagonalNormal)
def _normal_kl(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    return _normal_kl_per_dim(q, p).sum(-1)


KL_PER_DIM: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {
    (DiagonalNormal, DiagonalNormal): _normal_kl_per_dim,
}


def kl_of(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in closed form, nats, of the broadcast batch; None where there is none."""
    rule = KL_PER_DIM.get((type(q), type(p)))
    return None if rule is None else rule(q, p).sum(-1)


def kl_per_dim_of(q: Distribution, p: Distribution) -> Tensor:
    """KL(q || p) per dimension, nats, (..., D). TypeError where the two do not factorise together."""
    try:
        rule = KL_PER_DIM[type(q), type(p)]
    except KeyError:
        raise TypeError(
            f"KL per dimension needs a posterior and a prior with independent dimensions; "
            f"{type(q).__name__} and {type(p).__name__} are not such a pair; use free bits per level"
        ) from None
    return rule(q, p)


class ImageDistribution(Distribution):
    """p(x | z) over images: subclasses give the log-probability of each pixel value, its mean and a sample.

    `base_measure` is what the density is with respect to; `is_likelihood` is False for a loss that does not normalise.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support: Any = constraints.independent(constraints.unit_interval, 3)
    base_measure: str = "density"
    is_likelihood: ClassVar[bool] = True

    def __init__(self, loc: Tensor, validate_args: bool | None = None) -> None:
        self.loc = loc
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args)

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        """log p of each value, or of a pixel whose channels depend on each other: (*batch, C or 1, H, W), nats."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.pixel_log_prob(value).sum(IMAGE_DIMS)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def _uniform(self, sample_shape: Any) -> Tensor:
        shape = self._extended_shape(sample_shape)
        tiny = torch.finfo(self.loc.dtype).tiny
        return torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp_min(tiny)


def refusal(px: Distribution, x: Tensor) -> str | None:
    """Why some of these images (B, C, H, W) are outside the support, in words; None where none is."""
    support: Any = px.support  # torch says it may be None
    inside = support.check(x)
    if bool(inside.all()):
        return None
    low, high, count = float(x.min()), float(x.max()), int((~inside).sum())
    return f"{count} of {len(x)} images have values that it does not describe (they go from {low:.3g} to {high:.3g})"


class BernoulliImage(ImageDistribution):
    """0/1 pixels from logits (stable for any size of logit)."""

    support = constraints.independent(constraints.boolean, 3)
    base_measure = "binary"

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        # the threshold leaves float64 exact to 1e-17; torch's own 20 would cost 2e-9 of the mass
        return x * self.loc - F.softplus(self.loc, threshold=40)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.loc)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return (self._uniform(sample_shape) < self.mean).to(self.loc.dtype)


class CrossEntropyImage(BernoulliImage):
    """The binary cross-entropy of grey or colour values. Not a likelihood: it does not normalise over [0, 1]."""

    support = constraints.independent(constraints.unit_interval, 3)
    base_measure = "none"
    is_likelihood = False

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.mean.expand(self._extended_shape(sample_shape))


class ContinuousBernoulliImage(ImageDistribution):
    """Density proportional to exp(logit * x) on [0, 1].

    Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845
    """

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        # log((e^l - 1) / l) = l/2 + log(sinh(l/2) / (l/2)): the second part is even, so it has no jump at 0
        small, size = self._split()
        series = self.loc.square() * (1 / 24 - self.loc.square() / 2880)
        even = torch.where(small, series, size / 2 + torch.log(-torch.expm1(-size) / size))
        return (x - 0.5) * self.loc - even

    def _split(self) -> tuple[Tensor, Tensor]:
        """Where the logit is too near 0 for the closed form, and |logit| with those entries made harmless."""
        size = self.loc.abs()
        small = size < 0.1
        return small, torch.where(small, torch.ones_like(size), size)

    @property
    def mean(self) -> Tensor:
        small, _ = self._split()
        safe = torch.where(small, torch.ones_like(self.loc), self.loc)
        series = 0.5 + self.loc / 12 - self.loc**3 / 720
        return torch.where(small, series, -1 / torch.expm1(-safe) - 1 / safe)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        u = self._uniform(sample_shape)
        small, size = self._split()
        falling = (
            -torch.log1p(u * torch.expm1(-size)) / size
        )  # inverse CDF of a negative logit; mirrored for a positive
        near = u + 0.5 * self.loc * u * (1 - u)
        return torch.where(small, near, torch.where(self.loc > 0, 1 - falling, falling)).clamp(0, 1)


class GaussianImage(ImageDistribution):
    """Normal pixels around loc; log_scale broadcasts to it, in units of x."""

    support = constraints.independent(constraints.real, 3)

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        self.log_scale = log_scale
        super().__init__(loc, validate_args)

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * ((x - self.loc) * (-self.log_scale).exp()).square() - self.log_scale - 0.5 * LOG_2PI

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.log_scale.exp() * noise


class LaplaceImage(GaussianImage):
    """Laplace pixels: the likelihood behind an L1 loss."""

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        return -(x - self.loc).abs() * (-self.log_scale).exp() - self.log_scale - math.log(2)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        u = self._uniform(sample_shape) - 0.5
        return self.loc - self.log_scale.exp() * u.sign() * torch.log1p((-2 * u.abs()).clamp_min(-1 + 1e-7))


class LogBesselK1(torch.autograd.Function):
    """log(e^t K1(t)) for t > 0. Scaled, so that it does not underflow; torch has no gradient for it."""

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        return torch.special.scaled_modified_bessel_k1(t).log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        k0, k1 = torch.special.scaled_modified_bessel_k0(t), torch.special.scaled_modified_bessel_k1(t)
        return grads[0] * (1 - k0 / k1 - 1 / t)  # K1' = -K0 - K1 / t


class HyperbolicImage(GaussianImage):
    """Symmetric hyperbolic pixels: the likelihood behind the Charbonnier loss sqrt(d^2 + epsilon^2).

    p(d) = exp(-sqrt(d^2 + epsilon^2) / s) / (2 epsilon K1(epsilon / s)). Barndorff-Nielsen 1977; the loss is
    Charbonnier et al. 1994. log_scale holds log s, one scalar.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, epsilon: float, validate_args: bool | None = None) -> None:
        self.epsilon = epsilon
        super().__init__(loc, log_scale, validate_args)

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        inverse_scale = (-self.log_scale).exp()
        difference = x - self.loc
        # sqrt(d^2 + e^2) - e without the cancellation: d^2 / (sqrt(d^2 + e^2) + e)
        root = (difference.square() + self.epsilon**2).sqrt()
        excess = difference.square() / (root + self.epsilon)
        log_bessel: Tensor = LogBesselK1.apply(self.epsilon * inverse_scale)
        return -excess * inverse_scale - math.log(2 * self.epsilon) - log_bessel

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """By the inverse of a tabulated CDF (the scale is one number)."""
        u = self._uniform(sample_shape)
        scale = self.log_scale.exp().reshape(()).double()
        spread = (self.epsilon * scale).sqrt() + scale  # wide enough in the normal and in the Laplace regime
        grid = torch.linspace(-6.5, 6.5, 8193, dtype=torch.float64, device=u.device).sinh() * spread / 10
        weight = torch.exp(-((grid.square() + self.epsilon**2).sqrt() - self.epsilon) / scale)
        cdf = torch.cumulative_trapezoid(weight, grid)
        cdf = torch.cat([cdf.new_zeros(1), cdf]) / cdf[-1]
        right = torch.searchsorted(cdf, u.double().contiguous()).clamp(1, grid.numel() - 1)
        low, high = cdf[right - 1], cdf[right]
        share = ((u - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
        return self.loc + (grid[right - 1] + share * (grid[right] - grid[right - 1])).to(self.loc.dtype)


class OptimalScaleImage(ImageDistribution):
    """Pixels whose one scale is the best for this very batch, so its log_prob couples the batch. Training only.

    `family` is GaussianImage (scale = root mean square error) or LaplaceImage (mean absolute error).
    Rybkin, Daniilidis & Levine 2021, arXiv:2006.13202
    """

    support = constraints.independent(constraints.real, 3)

    def __init__(self, loc: Tensor, family: type[GaussianImage], log_scale_floor: float) -> None:
        self.family, self.log_scale_floor = family, log_scale_floor
        super().__init__(loc, validate_args=False)

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        log_scale = optimal_log_scale(self.family, x, self.loc).clamp_min(self.log_scale_floor)
        return self.family(self.loc, log_scale, validate_args=False).pixel_log_prob(x)


def optimal_log_scale(family: type[GaussianImage], x: Tensor, loc: Tensor) -> Tensor:
    """The log-scale of highest likelihood for these errors: a scalar."""
    error = x - loc
    if family is LaplaceImage:
        return error.abs().mean().log()
    return 0.5 * error.square().mean().log()
