"""Closed-form KL divergences against averages of log q(z) - log p(z) over samples of q."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from vaekit import build
from vaekit.distributions import DiagonalNormal
from vaekit.selftest.figure import refuse_without_float64
from vaekit.selftest.likelihoods import Constant

SETTINGS, DIMS = 30, 2
SCALES = torch.logspace(-3, 3, SETTINGS // 3, dtype=torch.float64)
REPLICATIONS, POINTS = 64, 1024
WORTH_COMPARING = 0.1  # nats: below it a relative difference says nothing


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


def _normals(device: torch.device) -> tuple[DiagonalNormal, DiagonalNormal]:
    """q of batch (30,) whose scale goes from 1e-3 to 1e3, and three priors: standard, shifted, far wider."""

    def column(values: Tensor) -> Tensor:
        return values[:, None].expand(SETTINGS, DIMS).to(device)

    def of_third(*values: float) -> Tensor:
        return column(torch.tensor(values, dtype=torch.float64).repeat_interleave(len(SCALES)))

    logs = column(SCALES.log().repeat(3))

    q = DiagonalNormal(of_third(0.0, 1.5, -0.3), logs)
    return q, DiagonalNormal(of_third(0.0, -0.7, 0.7), of_third(0.0, 0.0, 3.4))


def _parts_of_the_tables(device: torch.device) -> Iterator[tuple[Any, Distribution]]:
    """Every posterior of the table, shown 30 random outputs of its network, beside every prior."""
    like = torch.zeros(SETTINGS, 1, 1, 1, dtype=torch.float64, device=device)
    for posterior in build.POSTERIORS.values():
        for prior in build.PRIORS.values():
            q, p = posterior(_random_network, DIMS).to(like)(like), prior(DIMS).to(like)()
            if _has_closed_form(q, p):
                yield q, p


def _random_network(outputs: int) -> nn.Module:
    """Says numbers between -ln 1000 and ln 1000, another row for each setting."""
    rows = 2 * torch.rand(SETTINGS, outputs, dtype=torch.float64) - 1
    return Constant(rows * float(SCALES.log()[-1]))


def _has_closed_form(q: Distribution, p: Distribution) -> bool:
    try:
        kl_divergence(q, p)
    except NotImplementedError:
        return False
    return True


@torch.no_grad()
def _agreement(q: Any, p: Distribution, device: torch.device) -> Agreement:
    """The average is over independent Latin hypercubes, so their spread is an honest standard error."""
    noise = latin_hypercubes(REPLICATIONS, POINTS, DIMS).unsqueeze(2).to(device)
    means = []
    for cube in noise:
        z = q.from_noise(cube)
        means.append((q.log_prob(z) - p.log_prob(z)).mean(0))
    drawn = torch.stack(means)
    return Agreement(kl_divergence(q, p), drawn.mean(0), drawn.std(0) / len(drawn) ** 0.5)


def latin_hypercubes(count: int, points: int, dims: int) -> Tensor:
    """Standard-normal numbers (count, points, dims), float64: in each dimension one in each of `points` equal shares.

    Each point is standard normal, and the mean over a hypercube of what adds up over dimensions is almost exact.
    McKay, Beckman & Conover 1979, Technometrics 21
    """
    shares = torch.rand(count, points, dims).argsort(1)
    return torch.special.ndtri((shares + torch.rand(count, points, dims, dtype=torch.float64)) / points)
