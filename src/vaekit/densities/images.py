"""Distributions of images, each a true density or mass."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.densities.codes import LOG_2PI

IMAGE_DIMS = (-3, -2, -1)


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
