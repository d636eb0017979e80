"""Every likelihood of the table has total probability 1: over its values, or over the real line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.densities.images import ImageDistribution
from vaekit.models import build
from vaekit.models.likelihoods import Likelihood
from vaekit.selftest.figure import refuse_without_float64

BITS = (1, 5, 8)
SPREADS = (0.3, 1.0, 3.0)  # of the network's random outputs: easy to extreme
SEEDS = range(12)
DOUBLE = torch.zeros((), dtype=torch.float64)
NODES = 32  # of each panel of a quadrature
REACHES = 2.0 ** torch.arange(-24, 18, dtype=torch.float64)  # panels that widen from a kink to a heavy tail


class Constant(nn.Module):
    """A network that says the same whatever it is given: values (B or 1, *outputs)."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.values: Tensor

    def forward(self, given: Tensor, context: Tensor | None = None) -> Tensor:
        return self.values.expand(len(given), *self.values.shape[1:])


def one_pixel(
    kind: Callable[..., Likelihood], spread: float, seed: int, like: Tensor = DOUBLE, **options: Any
) -> ImageDistribution:
    """p(x | z) of a single pixel, batch (1,), from a network with random outputs; of the type and device of `like`."""
    generator = torch.Generator().manual_seed(seed)

    def network_for(outputs: int) -> nn.Module:
        return Constant(spread * torch.randn(1, outputs, 1, 1, generator=generator, dtype=torch.float64))

    likelihood = kind(network_for, (1, 1, 1), **options).to(like).eval()
    px: ImageDistribution = likelihood(torch.zeros(1, 2).to(like))
    return px


def values_of(px: ImageDistribution) -> Tensor:
    """The values in [0, 1] that a discrete pixel can have: float64 (K,)."""
    count = 2 if px.base_measure == "binary" else int(px.base_measure.removeprefix("discrete-"))
    return torch.arange(count, dtype=torch.float64) / (count - 1)


def _pixels(like: Tensor, discrete: bool) -> Iterator[ImageDistribution]:
    """One-pixel distributions of every likelihood, at each number of bits that it takes."""
    for kind in build.LIKELIHOODS.values():
        if not kind.family.is_likelihood:
            continue
        choices: list[dict[str, int]] = [{}]
        if "bits" in inspect.signature(kind).parameters:
            choices = [{"bits": bits} for bits in BITS]
        for options in choices:
            for seed in SEEDS:
                for spread in SPREADS:
                    px = one_pixel(kind, spread, seed, like, **options)
                    if (px.base_measure != "density") == discrete:
                        yield px


@torch.no_grad()
def _sum_error(px: ImageDistribution, like: Tensor) -> float:
    x = values_of(px).to(like).view(-1, 1, 1, 1)
    return abs(float(px.log_prob(x).cpu().double().exp().sum()) - 1)


def worst_sum(device: torch.device) -> float:
    """Largest |Σ p(x) - 1| over the values of a pixel, the edge values included, in float64."""
    refuse_without_float64(device)
    like = DOUBLE.to(device)
    return max(_sum_error(px, like) for px in _pixels(like, discrete=True))


def worst_single_precision_sum(device: torch.device) -> float:
    """The same where the density is computed in float32, as in training."""
    like = torch.zeros((), device=device)
    return max(_sum_error(px, like) for px in _pixels(like, discrete=True))


@torch.no_grad()
def worst_integral(device: torch.device) -> float:
    """Largest |∫ p(x) dx - 1| over [0, 1] or the real line, by Gauss–Legendre panels around the mean; float64."""
    refuse_without_float64(device)
    like = DOUBLE.to(device)
    return max(abs(integral(px, like) - 1) for px in _pixels(like, discrete=False))


@torch.no_grad()
def integral(px: ImageDistribution, like: Tensor) -> float:
    """∫ p(x) dx. The panels meet at the mean, where a Laplace density has its kink, and widen from there."""
    edges = _edges(px)
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(NODES))
    half = (edges[1:] - edges[:-1])[:, None] / 2
    x = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes).to(like)
    density = px.log_prob(x.view(-1, 1, 1, 1)).exp().view_as(x).cpu()
    return float((density * weights * half).sum())


def _edges(px: ImageDistribution) -> Tensor:
    samples = px.sample(torch.Size([2000])).double().cpu().flatten()
    centre = px.mean.double().cpu().flatten()
    width = (samples - centre).abs().median() + 1e-9
    edges = torch.cat([centre - width * REACHES.flip(0), centre, centre + width * REACHES])
    two = torch.full((1, 1, 1), 2.0, device=px.loc.device)
    if bool(px.support.check(two)):
        return edges
    inside = edges[(edges > 0) & (edges < 1)]
    return torch.cat([inside.new_zeros(1), inside, inside.new_ones(1)])
