"""Codes out of a finite set: z is `groups` vectors side by side, each a row of a codebook (codes, D / groups).

Both distributions here are with respect to counting measure over the rows: q is certain, p is uniform.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaekit.densities.codes import KL_PER_DIM, LatentDistribution


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The row of codebook (codes, d) nearest to each of the vectors (*batch, d): int64 (*batch)."""
    # |v - e|^2 without |v|^2, which is the same for every row
    return (codebook.square().sum(-1) - 2 * vectors @ codebook.T).argmin(-1)


class Quantised(LatentDistribution):
    """All mass on one z (*batch, D), made of rows `index` (*batch, groups): log q(z) = 0.

    `penalty` (*batch) is what training the codebook adds to the loss, nats.
    """

    noise_shape = torch.Size([0])  # nothing is random

    def __init__(self, z: Tensor, index: Tensor, penalty: Tensor | None = None) -> None:
        self.z, self.index, self.penalty = z, index, penalty
        super().__init__(z.shape[:-1], z.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.z

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.z)

    @property
    def stddev(self) -> Tensor:
        return torch.zeros_like(self.z)

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """z for every sample, whatever the temperature; noise (*sample, *batch, 0)."""
        return self.z.expand(*noise.shape[:-1], -1)

    def drawn(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_noise(noise), self.z.new_zeros(noise.shape[:-1])

    def log_prob(self, value: Tensor) -> Tensor:
        """0 at z, -inf elsewhere."""
        same = (value == self.z).all(-1)
        return torch.zeros_like(value[..., 0]).masked_fill(~same, -math.inf)

    def detach(self) -> Quantised:
        return Quantised(self.z.detach(), self.index, None if self.penalty is None else self.penalty.detach())


class UniformCodes(LatentDistribution):
    """Each group is any row of codebook (codes, d) with probability 1 / codes: batch (), event (groups * d,).

    `nats_per_dim` (groups * d,) is log(codes) of each group, shared out among its numbers. No temperature makes a
    uniform choice sharper, so it has none.
    """

    has_rsample = False

    def __init__(self, codebook: Tensor, groups: int, nats_per_dim: Tensor) -> None:
        self.codebook, self.groups, self.nats_per_dim = codebook, groups, nats_per_dim
        super().__init__(torch.Size(), torch.Size([groups * codebook.shape[1]]), validate_args=False)

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size([self.groups])

    @property
    def mean(self) -> Tensor:
        return self.codebook.mean(0).repeat(self.groups)

    @property
    def variance(self) -> Tensor:
        return self.codebook.var(0, correction=0).repeat(self.groups)

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """The row in whose share of the normal the noise (*sample, groups) falls."""
        count = len(self.codebook)
        index = (torch.special.ndtr(noise) * count).long().clamp_max(count - 1)
        return self.codebook[index].flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """-groups * log(codes), for a z that is made of rows; whether it is one is not asked."""
        return -self.nats_per_dim.sum().expand(value.shape[:-1])

    def detach(self) -> UniformCodes:
        return UniformCodes(self.codebook.detach(), self.groups, self.nats_per_dim)


def _kl_per_dim(q: Quantised, p: UniformCodes) -> Any:
    return p.nats_per_dim.expand(q.z.shape)


KL_PER_DIM[Quantised, UniformCodes] = _kl_per_dim
