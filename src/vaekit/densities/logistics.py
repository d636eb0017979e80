"""Probabilities of grey values that are integrals of logistics: one for each value, or a mixture that ties the colours.

A value of `bits` bits is k / (2^bits - 1), k = 0 … 2^bits - 1; the first and the last one own the tails, so that the
probabilities of all values sum to 1 whatever the parameters.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.densities.images import ImageDistribution

NODES = 17  # of the rule that averages over the colours before: it is exact to 1/34 at worst, and usually to 1e-3
LATTICE = 5  # generates a rank-1 lattice of 17 points, spread evenly in each colour and in pairs of them


class GreyValues(constraints.Constraint):
    """0, 1/steps … 1."""

    is_discrete = True
    event_dim = 0

    def __init__(self, steps: int) -> None:
        self.steps = steps
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        level = value * self.steps
        return (level >= 0) & (level <= self.steps) & ((level - level.round()).abs() < 1e-3)


def log_mass(x: Tensor, loc: Tensor, log_scale: Tensor, steps: int) -> Tensor:
    """log P(value) of a logistic integrated over the cell of each grey value x = k / steps; nats, broadcast shape.

    Every term of the sum is negative or zero, so none of the precision is lost in a difference, in either tail.
    """
    rate = (-log_scale).exp() / steps  # logits per grey value
    k = (x * steps).round()
    # k + 1/2 - steps * loc, with a product by a power of two, which is exact: near an edge a sharp logistic magnifies
    # the rounding of (k + 1/2) / steps - loc by thousands
    centre = ((k + 0.5) - (steps + 1) * loc) + loc
    above, below = centre * rate, (centre - 1) * rate
    # s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)) exactly, so no difference of two nearly equal numbers in a tail
    width = torch.log(-torch.expm1(-rate))
    inside = F.logsigmoid(above) + F.logsigmoid(-below) + width
    upper = torch.where(k > steps - 0.5, F.logsigmoid(-below), inside)
    return torch.where(k < 0.5, F.logsigmoid(above), upper)


def mean_value(loc: Tensor, log_scale: Tensor, steps: int) -> Tensor:
    """The mean of those probabilities: a sum of P(X >= k) over grey values.

    For many of them, the integral of which that sum is the midpoint rule: at most half a grey value off.
    """
    scale = log_scale.exp()
    if steps < 16:
        edges = (torch.arange(steps, dtype=loc.dtype, device=loc.device) + 0.5) / steps
        return torch.sigmoid((loc.unsqueeze(-1) - edges) / scale.unsqueeze(-1)).mean(-1)
    return scale * (F.softplus(loc / scale) - F.softplus((loc - 1) / scale))


def value_at(u: Tensor, loc: Tensor, log_scale: Tensor, steps: int) -> Tensor:
    """The grey value below which the share u of the probability lies: a sample, for uniform u in (0, 1)."""
    value = loc + log_scale.exp() * (torch.log(u) - torch.log1p(-u))
    return (value.clamp(0, 1) * steps).round() / steps


class DiscretisedLogisticImage(ImageDistribution):
    """A logistic integrated over each of 2^bits grey values; the first and last value own the tails.

    Kingma et al. 2016, arXiv:1606.04934; Salimans et al. 2017, arXiv:1701.05517
    """

    base_measure = "discrete-256"

    def __init__(self, loc: Tensor, log_scale: Tensor, bits: int = 8, validate_args: bool | None = None) -> None:
        self.log_scale, self.steps = log_scale, 2**bits - 1
        self.base_measure = f"discrete-{2**bits}"
        super().__init__(loc, validate_args)

    @property
    def support(self) -> Any:
        """Images of these grey values."""
        return constraints.independent(GreyValues(self.steps), 3)

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        return log_mass(x, self.loc, self.log_scale, self.steps)

    @property
    def mean(self) -> Tensor:
        return mean_value(self.loc, self.log_scale, self.steps)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return value_at(self._uniform(sample_shape), self.loc, self.log_scale, self.steps)


class LogisticMixtureImage(ImageDistribution):
    """Pixels from a mixture of K discretised logistics whose weights the channels share, so that colours agree.

    p(pixel) = sum_k weight_k prod_c P(x_c | loc_kc + sum_(j < c) coupling_kcj (x_j - 1/2), scale_kc): red is free,
    green leans on red, blue on both. A pixel of any number of channels follows the same rule.
    logits (*batch, K, H, W); loc and log_scale (*batch, K, C, H, W); coupling (*batch, K, C (C - 1) / 2, H, W) in the
    order (1, 0), (2, 0), (2, 1) …, or None.
    Salimans, Karpathy, Chen & Kingma 2017, arXiv:1701.05517
    """

    base_measure = "discrete-256"

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        coupling: Tensor | None = None,
        bits: int = 8,
        validate_args: bool | None = None,
    ) -> None:
        self.log_weights = logits.log_softmax(-3)
        self.loc, self.log_scale, self.coupling = loc, log_scale, coupling
        self.steps = 2**bits - 1
        self.base_measure = f"discrete-{2**bits}"
        # not ImageDistribution's own, whose loc has no axis of components
        Distribution.__init__(self, loc.shape[:-4], loc.shape[-3:], validate_args)

    @property
    def support(self) -> Any:
        """Images of these grey values."""
        return constraints.independent(GreyValues(self.steps), 3)

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        """log p of each pixel, its channels together: (*batch, 1, H, W), nats."""
        values = x.unsqueeze(-4).unbind(-3)
        total = self.log_weights
        for channel, value in enumerate(values):
            loc, log_scale = self._channel(self.loc, self.log_scale, self.coupling, channel, values)
            total = total + log_mass(value, loc, log_scale, self.steps)
        return total.logsumexp(-3).unsqueeze(-3)

    @staticmethod
    def _channel(
        loc: Tensor, log_scale: Tensor, coupling: Tensor | None, channel: int, values: Any
    ) -> tuple[Tensor, Tensor]:
        """loc and log_scale (…, H, W) of one channel, given the values of those before it."""
        coupled, first = loc[..., channel, :, :], channel * (channel - 1) // 2
        for other in range(channel if coupling is not None else 0):
            assert coupling is not None
            coupled = coupled + coupling[..., first + other, :, :] * (values[other] - 0.5)
        return coupled, log_scale[..., channel, :, :]

    @property
    def mean(self) -> Tensor:
        """E[x], (*batch, C, H, W): components by their weights, each channel by the expectation over those before it.

        The first channel, and every one without coupling, is as close as `mean_value`; a coupled one is averaged over
        17 evenly spread quantiles of the channels before it, rounded to grey values as in a sample.
        """
        channels = self.event_shape[0]
        nodes = NODES if self.coupling is not None and channels > 1 else 1
        means = torch.zeros_like(self.loc)
        for node in range(nodes):
            values: list[Tensor] = []
            found = []
            for channel in range(channels):
                loc, log_scale = self._channel(self.loc, self.log_scale, self.coupling, channel, values)
                found.append(mean_value(loc, log_scale, self.steps))
                u = torch.full_like(loc, ((node * LATTICE**channel) % nodes + 0.5) / nodes)
                values.append(value_at(u, loc, log_scale, self.steps))
            means = means + torch.stack(found, -3) / nodes
        return (self.log_weights.exp().unsqueeze(-3) * means).sum(-4)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """A component for each pixel, then each channel given those before it; values of the grid."""
        lead = torch.Size(sample_shape)
        logits = self.log_weights.expand(*lead, *self.log_weights.shape)
        chosen = (logits - self._uniform_like(logits).log().neg().log()).argmax(-3, keepdim=True).unsqueeze(-3)

        def of_chosen(parameters: Tensor) -> Tensor:
            """(…, K, P, H, W) to (…, P, H, W)."""
            every = parameters.expand(*lead, *parameters.shape)
            index = chosen.expand(*every.shape[:-4], 1, *every.shape[-3:])
            return every.gather(-4, index).squeeze(-4)

        loc, log_scale = of_chosen(self.loc), of_chosen(self.log_scale)
        coupling = None if self.coupling is None else of_chosen(self.coupling)
        values: list[Tensor] = []
        for channel in range(self.event_shape[0]):
            location, spread = self._channel(loc, log_scale, coupling, channel, values)
            values.append(value_at(self._uniform_like(location), location, spread, self.steps))
        return torch.stack(values, -3)

    @staticmethod
    def _uniform_like(values: Tensor) -> Tensor:
        return torch.rand_like(values).clamp_min(torch.finfo(values.dtype).tiny)
