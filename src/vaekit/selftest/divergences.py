"""Distributions of codes: KL divergences against averages of log q(z) - log p(z), and total probability 1."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.config.schema import Part
from vaekit.densities.codes import DiagonalNormal, LatentDistribution, kl_of
from vaekit.models import build
from vaekit.models.build import vae
from vaekit.models.priors import Vamp
from vaekit.models.priors.normal import Prior
from vaekit.models.trace import Latent, log_q
from vaekit.models.vae import VAE
from vaekit.selftest.figure import NotHere, refuse_without_float64
from vaekit.selftest.likelihoods import Constant

SETTINGS, DIMS, SHAPE = 30, 2, (1, 2, 2)
CLASSES, COMPONENTS = 3, 4
SCALES = torch.logspace(-3, 3, SETTINGS // 3, dtype=torch.float64)
REPLICATIONS, POINTS = 64, 1024
WORTH_COMPARING = 0.1  # nats: below it a relative difference says nothing
SIDE, REACH = 401, 12.0  # points along a side of a square grid, and half that side in standard deviations
PANELS = torch.cat([torch.arange(0, 12, 0.25), torch.tensor([12.0, 14, 18, 24, 40])])  # in standard deviations
FINE_SIDE, SMOOTH, POINTS_AT_ONCE = 2401, 1e-9, 2**14
Pair = tuple[LatentDistribution, LatentDistribution]


class Agreement(NamedTuple):
    """Closed form and average of each setting, (B,), nats, with the standard error of the average."""

    closed: Tensor
    average: Tensor
    error: Tensor

    def standard_errors(self) -> float:
        """Largest distance in standard errors; what float64 rounds away is not counted."""
        rounding = 1e-10 * (1 + self.closed.abs())
        distance = ((self.average - self.closed).abs() - rounding).clamp_min(0)
        return float((distance / self.error.clamp_min(1e-300)).max())

    def relative(self) -> float:
        """Largest relative distance where the average is worth comparing."""
        large = self.average > WORTH_COMPARING
        return float(((self.closed - self.average).abs() / self.average)[large].max())


def worst_in_standard_errors(device: torch.device) -> float:
    """Largest |closed form - average| / standard error, over every pair of posterior and prior."""
    return max(found.standard_errors() for found in _agreements(device))


def worst_relative(device: torch.device) -> float:
    """Largest relative difference where the divergence is above 0.1 nats."""
    return max(found.relative() for found in _agreements(device))


def _agreements(device: torch.device) -> Iterator[Agreement]:
    refuse_without_float64(device)
    for q, p in [_normals(device), *_parts_of_the_tables(device)]:
        yield _agreement(q, p, device)


def _normals(device: torch.device) -> Pair:
    """q of batch (30,) whose scale goes from 1e-3 to 1e3, and three priors: standard, shifted, far wider."""

    def column(values: Tensor) -> Tensor:
        return values[:, None].expand(SETTINGS, DIMS).to(device)

    def of_third(*values: float) -> Tensor:
        return column(torch.tensor(values, dtype=torch.float64).repeat_interleave(len(SCALES)))

    logs = column(SCALES.log().repeat(3))

    q = DiagonalNormal(of_third(0.0, 1.5, -0.3), logs)
    return q, DiagonalNormal(of_third(0.0, -0.7, 0.7), of_third(0.0, 0.0, 3.4))


def _models(device: torch.device) -> Iterator[VAE]:
    """Small models with every posterior of the table beside every prior, where both are densities; float64."""
    for posterior, encoding in build.POSTERIORS.items():
        for prior, family in build.PRIORS.items():
            if encoding.discrete or family.discrete or lacks_package(family):
                continue
            few = {"components": COMPONENTS} if "components" in inspect.signature(family).parameters else {}
            model = vae(
                SHAPE,
                DIMS,
                Part("mlp", {"widths": (8,)}),
                posterior=posterior,
                prior=Part(prior, few),
                classes=CLASSES if family.of_class else 0,
            )
            yield model.to(device, torch.float64).eval()


def lacks_package(family: type[Prior]) -> bool:
    """Whether a package that the part needs is not installed."""
    return family.package is not None and importlib.util.find_spec(family.package) is None


def parts_that_are_not_here(device: torch.device) -> float:
    """0 where every part can be checked. NotHere names those that the checks of codes leave out."""
    absent = [
        f"the prior '{name}' needs {family.package}" for name, family in build.PRIORS.items() if lacks_package(family)
    ]
    if absent:
        raise NotHere(f"{'; '.join(absent)}: not checked")
    return 0.0


def _given(model: VAE, x: Tensor) -> Tensor | None:
    """The context of each image, where the model wants one: the classes in turn."""
    return torch.arange(len(x), device=x.device) % CLASSES if model.classes else None


@torch.no_grad()
def _parts_of_the_tables(device: torch.device) -> Iterator[Pair]:
    """Where there is a closed form, with 30 random outputs between -ln 1000 and ln 1000 for the posterior's network."""
    x = torch.zeros(SETTINGS, *SHAPE, dtype=torch.float64, device=device)
    for model in _models(device):
        given = _given(model, x)
        p, outputs = model.p(given), model.posterior.parameters_of(x, given)
        model.posterior.network = Constant((2 * torch.rand_like(outputs) - 1) * float(SCALES.log()[-1]))
        q = model.q(x, given)
        if kl_of(q, p) is not None:
            yield q, p


@torch.no_grad()
def _agreement(q: LatentDistribution, p: LatentDistribution, device: torch.device) -> Agreement:
    """The average is over independent Latin hypercubes, so their spread is an honest standard error."""
    means = []
    for cube in latin_hypercubes(REPLICATIONS, POINTS, *q.noise_shape).unsqueeze(2).to(device):
        z, known = q.drawn(cube)
        means.append((log_q(Latent(z, q, p, known)) - p.log_prob(z)).mean(0))
    drawn, closed = torch.stack(means), kl_of(q, p)
    assert closed is not None
    return Agreement(closed, drawn.mean(0), drawn.std(0) / len(drawn) ** 0.5)


def latin_hypercubes(count: int, points: int, dims: int) -> Tensor:
    """Standard-normal numbers (count, points, dims), float64: in each dimension one in each of `points` equal shares.

    Each point is standard normal, and the mean over a hypercube of what adds up over dimensions is almost exact.
    McKay, Beckman & Conover 1979, Technometrics 21
    """
    shares = torch.rand(count, points, dims).argsort(1)
    return torch.special.ndtri((shares + torch.rand(count, points, dims, dtype=torch.float64)) / points)


@torch.no_grad()
def worst_integral_of_codes(device: torch.device) -> float:
    """Largest |∫ p(z) dz - 1| over every density of codes in the tables, in two dimensions, on a fine grid."""
    refuse_without_float64(device)
    x = torch.rand(1, *SHAPE, dtype=torch.float64, device=device)
    found: dict[tuple[type, ...], float] = {}
    for model in _models(device):
        given, posterior, prior = _given(model, x), type(model.posterior), type(model.prior)
        made_of = (posterior,) if isinstance(model.prior, Vamp) else ()  # else it is the same beside every posterior
        for part, distribution in (((posterior,), model.q(x, given)), ((prior, *made_of), model.p(given))):
            if part not in found:
                found[part] = abs(_integral(distribution) - 1)
    return max(found.values())


def _integral(distribution: LatentDistribution) -> float:
    """By the rectangle rule, whose error falls faster than any power of the step for a smooth density.

    A flow of rectified units has kinks, where it falls with the square of the step: such a one gets a finer grid.
    """
    for rule in (partial(_on_a_grid, side=SIDE), _on_panels):
        found = rule(distribution)
        if abs(found - 1) < SMOOTH:
            return found
    return _on_a_grid(distribution, FINE_SIDE)


def _on_panels(distribution: LatentDistribution) -> float:
    """By Gauss–Legendre panels that meet at the mean, where a density such as Laplace's has its kink."""
    spread = distribution.stddev.reshape(-1, DIMS)[0]
    nodes, weights = (torch.from_numpy(values).to(spread) for values in np.polynomial.legendre.leggauss(8))
    edges = torch.cat([-PANELS.flip(0), PANELS[1:]]).to(spread)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    line = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes).flatten()
    grid = distribution.mean.reshape(-1, DIMS)[0] + spread * torch.cartesian_prod(line, line)
    area = torch.outer(*[(half * weights).flatten()] * 2).flatten() * spread.prod()
    shape = (-1, *[1] * len(distribution.batch_shape))
    chunks = zip(grid.view(*shape, DIMS).split(POINTS_AT_ONCE), area.view(shape).split(POINTS_AT_ONCE), strict=True)
    return sum(float((distribution.log_prob(some).exp() * each).sum()) for some, each in chunks)


def _on_a_grid(distribution: LatentDistribution, side: int) -> float:
    """The sum over side × side points times their area."""
    like = distribution.mean
    noise = torch.randn(4000, *distribution.batch_shape, *distribution.noise_shape).to(like)
    z = distribution.from_noise(noise).reshape(-1, DIMS)
    steps = torch.linspace(-REACH, REACH, side, dtype=like.dtype, device=like.device)
    grid = z.mean(0) + z.std(0) * torch.cartesian_prod(steps, steps)
    cell = z.std(0).prod() * (steps[1] - steps[0]) ** 2
    rows = grid.view(-1, *[1] * len(distribution.batch_shape), DIMS).split(POINTS_AT_ONCE)
    return sum(float(distribution.log_prob(some).exp().sum() * cell) for some in rows)
