"""How far two sets of features (N, D) are apart: Fréchet and kernel distances, and precision, recall, coverage.

All in float64. None is a property of the images alone: name the feature extractor beside the number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def frechet(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of the normal distributions with the moments of x (N, D) and y (M, D).

    |m_x - m_y|² + tr(C_x + C_y - 2 (C_x C_y)^½). Biased upwards in small sets: compare only at equal counts.
    Heusel et al. 2017, arXiv:1706.08500
    """
    x, y = x.double(), y.double()
    return frechet_of_moments(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))


def frechet_of_moments(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """The same from means (D,) and covariances (D, D), float64, singular ones included."""
    # tr (C_x C_y)^½ is the sum of the singular values of C_x^½ C_y^½: no root of a matrix that is not symmetric
    overlap = torch.linalg.svdvals(_root(cov_x) @ _root(cov_y)).sum()
    distance = (mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * overlap
    return max(0.0, float(distance))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


class Kernel(NamedTuple):
    """An estimate of the squared distance, and its standard error."""

    value: float
    se: float


def kernel_distance(x: Tensor, y: Tensor) -> Kernel:
    """Squared maximum mean discrepancy with the kernel (a·b / D + 1)³, unbiased, so it may be negative; x, y (N, D).

    All pairs are used at once: the mean that the paper's random subsets scatter around. The standard error is that of
    a U-statistic, also right where the distance is 0. Bińkowski et al. 2018, arXiv:1801.01401; Gretton et al. 2012
    """
    count = len(x)
    assert len(y) == count > 2, "sets of equal size, three or more"
    x, y = x.double(), y.double()
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    for same in (xx, yy):
        same.fill_diagonal_(0)
    pairs = count * (count - 1)
    value = float((xx.sum() + yy.sum()) / pairs - 2 * xy.mean())
    h = xx + yy - xy - xy.T
    h.fill_diagonal_(0)
    mean, total = h.sum() / pairs, h.square().sum() / pairs
    spread = total - mean.square()
    rows = (h.sum(1) / (count - 1)).var() - spread / (count - 1)  # of the conditional mean, without its own noise
    variance = 2 / pairs * (2 * (count - 2) * rows.clamp_min(0) + spread)
    return Kernel(value, math.sqrt(float(variance)))


class Coverage(NamedTuple):
    """Shares in [0, 1], except density, which is around 1 where the sets are alike."""

    precision: float  # of the samples, those near a real one: quality
    recall: float  # of the real ones, those near a sample: variety
    density: float  # precision that counts in how many real neighbourhoods a sample lies
    coverage: float  # of the real ones, those whose neighbourhood holds a sample


def coverage(real: Tensor, samples: Tensor, *, neighbours: int = 3, density_neighbours: int = 5) -> Coverage:
    """Precision, recall, density and coverage of samples (M, D) among real features (N, D).

    A neighbourhood is the ball around a point that reaches its k-th nearest neighbour in its own set.
    Kynkäänniemi et al. 2019, arXiv:1904.06991 (k = 3); Naeem et al. 2020, arXiv:2002.09797 (k = 5)
    """
    assert min(len(real), len(samples)) > max(neighbours, density_neighbours), "more points than neighbours"
    real, samples = real.double(), samples.double()
    between = torch.cdist(real, samples)
    within = torch.cdist(real, real)
    near, wide = _radius(within, neighbours), _radius(within, density_neighbours)
    around_samples = _radius(torch.cdist(samples, samples), neighbours)
    inside = between <= wide[:, None]
    return Coverage(
        precision=_share((between <= near[:, None]).any(0)),
        recall=_share((between <= around_samples[None]).any(1)),
        density=float(inside.sum(0).double().mean()) / density_neighbours,
        coverage=_share(inside.any(1)),
    )


def _radius(within: Tensor, neighbours: int) -> Tensor:
    return within.kthvalue(neighbours + 1, dim=1).values  # the nearest is the point itself


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
