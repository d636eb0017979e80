"""Normalising flows made of masked autoregressive networks: densities of codes that a diagonal normal cannot have.

An affine autoregressive map takes x to y_d = x_d exp(a_d) + m_d, where m_d and a_d are functions of x_<d and of a
context vector h. From x to y it is one pass of a network; from y to x it is D passes, one number at a time. An inverse
autoregressive flow draws in the first direction, a masked autoregressive flow in the second: one map, two uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.densities.codes import LOG_2PI, LatentDistribution

# One map stretches a number by at most e^2. An unbounded exponential overflows in the first steps of training, and an
# inversion multiplies rounding errors by it in each of its D passes. More maps, or the outer scale, reach further.
MOST_LOG_SCALE = 2.0
SPREAD_PAIRS = 64  # of noise and its negative, behind the spread of a flow: the mean square then errs by about a tenth


class AutoregressiveMap(NamedTuple):
    """One map at a given context: weights with their masks applied, offsets with the context in them."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # (weight (out, in), offset (*batch, out))

    def shift_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m and a, each (..., D); row d depends on x_<d and the context alone."""
        *hidden, (weight, offset) = self.layers
        for inner, given in hidden:
            # bounded units: the D passes of an inversion feed the network its own output, and cannot run away
            x = torch.tanh(F.linear(x, inner) + given)
        shift, raw = (F.linear(x, weight) + offset).chunk(2, dim=-1)
        return shift, MOST_LOG_SCALE * torch.tanh(raw / MOST_LOG_SCALE)

    def parallel(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and log |dy/dx|, (..., D) and (...), in one pass."""
        shift, log_scale = self.shift_and_log_scale(x)
        return x * log_scale.exp() + shift, log_scale.sum(-1)

    def sequential(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and log |dy/dx| for a given y, in D passes: after k of them the first k numbers are right."""
        x = torch.zeros_like(y)
        log_scale = x
        for _ in range(y.shape[-1]):
            shift, log_scale = self.shift_and_log_scale(x)
            x = (y - shift) * (-log_scale).exp()
        return x, log_scale.sum(-1)

    @property
    def width(self) -> int:
        """Of its widest layer."""
        return max(offset.shape[-1] for _, offset in self.layers)

    def at(self, index: Tensor) -> AutoregressiveMap:
        """The same at these of its contexts (K, context): contexts of the index's shape."""
        return AutoregressiveMap(tuple((weight, offset[index]) for weight, offset in self.layers))

    def detach(self) -> AutoregressiveMap:
        """The same with weights and context stopped."""
        return AutoregressiveMap(tuple((weight.detach(), offset.detach()) for weight, offset in self.layers))


class MaskedLayer(nn.Module):
    """A masked linear map of the numbers, plus a whole one of the context."""

    mask: Tensor

    def __init__(self, mask: Tensor, context: int) -> None:
        super().__init__()
        outputs, inputs = mask.shape
        self.linear, self.context = nn.Linear(inputs, outputs), nn.Linear(context, outputs, bias=False)
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Its weight (out, in) and its offset (*batch, out) at context h."""
        return self.linear.weight * self.mask, self.linear.bias + self.context(h)


class MaskedNetwork(nn.Module):
    """The weights behind an `AutoregressiveMap`: a network whose masks leave output d no path from inputs d and after.

    Starts as the identity map. `reverse` counts the numbers from the last to the first.
    Germain, Gregor, Murray & Larochelle 2015, arXiv:1502.03509
    """

    def __init__(self, dims: int, context: int, widths: Sequence[int], *, reverse: bool = False) -> None:
        super().__init__()
        order = torch.arange(1, dims + 1)
        order = order.flip(0) if reverse else order
        # a unit of degree k sees the first k numbers; those of degree 0 see the context alone
        below, layers = order, []
        for width in widths:
            degrees = torch.arange(width) * dims // width
            layers.append(MaskedLayer(degrees[:, None] >= below, context))
            below = degrees
        layers.append(MaskedLayer(order.repeat(2)[:, None] > below, context))
        for weight in layers[-1].parameters():
            nn.init.zeros_(weight)
        self.layers = nn.ModuleList(layers)

    def forward(self, h: Tensor) -> AutoregressiveMap:
        """The map at context h (*batch, context)."""
        return AutoregressiveMap(tuple(layer(h) for layer in self.layers))


class FlowNormal(LatentDistribution):
    """z = loc + exp(log_scale) f(e | h) for standard-normal noise e: loc and log_scale (*batch, D), event (D,).

    The affine part is outermost, so that the networks see numbers of unit size whatever the scale of a posterior.
    `mean` is the image of e = 0: the code that stands for an image, which is not the mean of the density (that has no
    closed form). `variance` is the mean square around it, by a fixed set of noise.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, maps: tuple[AutoregressiveMap, ...]) -> None:
        self.loc, self.log_scale, self.maps = loc, log_scale, maps
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """f(e) and log |df/de|."""
        raise NotImplementedError

    def pulled(self, standard: Tensor) -> tuple[Tensor, Tensor]:
        """e and log |df/de| for a given f(e)."""
        raise NotImplementedError

    def drawn(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z and log q(z), without an inversion."""
        standard, log_det = self.pushed(noise)
        return self.loc + self.log_scale.exp() * standard, self._log_density(noise, log_det)

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """The image of temperature * noise."""
        standard, _ = self.pushed(noise if temperature == 1 else temperature * noise)
        return self.loc + self.log_scale.exp() * standard

    def log_prob(self, value: Tensor) -> Tensor:
        """log q of any z, nats: exact, and differentiable in z and in the parameters."""
        return self._log_density(*self.pulled((value - self.loc) * (-self.log_scale).exp()))

    def _log_density(self, noise: Tensor, log_det: Tensor) -> Tensor:
        return (-0.5 * noise.square() - self.log_scale - 0.5 * LOG_2PI).sum(-1) - log_det

    @property
    def mean(self) -> Tensor:
        return self.from_noise(torch.zeros_like(self.loc))

    @property
    def variance(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn((SPREAD_PAIRS, *[1] * len(self.batch_shape), *self.event_shape), generator=generator)
        noise = noise.to(self.loc)
        return (self.from_noise(torch.cat([noise, -noise])) - self.mean).square().mean(0)

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    @property
    def like(self) -> Tensor:
        return self.loc

    @property
    def width(self) -> int:
        return max(step.width for step in self.maps)

    @property
    def width_each(self) -> int:
        return self.width

    def at(self, index: Tensor) -> FlowNormal:
        return type(self)(self.loc[index], self.log_scale[index], tuple(step.at(index) for step in self.maps))

    def detach(self) -> FlowNormal:
        return type(self)(self.loc.detach(), self.log_scale.detach(), tuple(step.detach() for step in self.maps))


class InverseFlowNormal(FlowNormal):
    """Draws in one pass of each network; the density of a foreign z takes D.

    Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling 2016, arXiv:1606.04934
    """

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(noise[..., 0])
        for step in self.maps:
            noise, log_det = step.parallel(noise)
            total = total + log_det
        return noise, total

    def pulled(self, standard: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(standard[..., 0])
        for step in reversed(self.maps):
            standard, log_det = step.sequential(standard)
            total = total + log_det
        return standard, total


class MaskedFlowNormal(FlowNormal):
    """The density of any z in one pass of each network; drawing takes D.

    Papamakarios, Pavlakou & Murray 2017, arXiv:1705.07057
    """

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(noise[..., 0])
        for step in reversed(self.maps):
            noise, log_det = step.sequential(noise)
            total = total - log_det
        return noise, total

    def pulled(self, standard: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(standard[..., 0])
        for step in self.maps:
            standard, log_det = step.parallel(standard)
            total = total - log_det
        return standard, total
