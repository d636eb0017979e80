"""Codes out of a finite set: z is `groups` vectors side by side, each a row of a codebook (codes, D / groups).

Of a grid (C, h, w) every place has such a z, along the channels.

Both distributions here are with respect to counting measure over the rows: q is certain, p is uniform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.densities.codes import KL_PER_DIM, LatentDistribution


def channels_first(values: Tensor, places: int) -> Tensor:
    """(*batch, *places, C) to (*batch, C, *places), for a grid of two axes of places; a flat code stays."""
    return values.movedim(-1, -1 - places) if places else values


def channels_last(values: Tensor, places: int) -> Tensor:
    """The reverse."""
    return values.movedim(-1 - places, -1) if places else values


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The row of codebook (codes, d) nearest to each of the vectors (*batch, d): int64 (*batch)."""
    # |v - e|^2 without |v|^2, which is the same for every row
    return (codebook.square().sum(-1) - 2 * vectors @ codebook.T).argmin(-1)


class Quantised(LatentDistribution):
    """All mass on one z (*batch, *event), made of rows `index` (*batch, *places, groups): log q(z) = 0.

    `penalty` (*batch) is what training the codebook adds to the loss, nats.
    """

    noise_shape = torch.Size([0])  # nothing is random

    def __init__(self, z: Tensor, index: Tensor, penalty: Tensor | None = None, event_dims: int = 1) -> None:
        self.z, self.index, self.penalty = z, index, penalty
        super().__init__(z.shape[:-event_dims], z.shape[-event_dims:], validate_args=False)

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
        return self.z.expand(*noise.shape[:-1], *self.event_shape)

    def drawn(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_noise(noise), self.z.new_zeros(noise.shape[:-1])

    def log_prob(self, value: Tensor) -> Tensor:
        """0 at z, -inf elsewhere."""
        same = (value == self.z).flatten(-self.event_dims).all(-1)
        return value.new_zeros(same.shape).masked_fill(~same, -math.inf)

    def detach(self) -> Quantised:
        penalty = None if self.penalty is None else self.penalty.detach()
        return Quantised(self.z.detach(), self.index, penalty, self.event_dims)


class UniformCodes(LatentDistribution):
    """Each group is any row of codebook (codes, d) with probability 1 / codes: batch (), event (groups * d,).

    With `places` (h, w) there are as many groups at each: event (groups * d, h, w). `nats_per_dim` (groups * d,) is
    log(codes) of each group, shared out among its numbers. No temperature makes a uniform choice sharper, so it has
    none.
    """

    has_rsample = False

    def __init__(self, codebook: Tensor, groups: int, nats_per_dim: Tensor, places: Sequence[int] = ()) -> None:
        self.codebook, self.groups, self.places = codebook, groups, tuple(places)
        event = torch.Size([groups * codebook.shape[1], *self.places])
        self.nats_of_place = nats_per_dim
        self.nats_per_dim = nats_per_dim.view(-1, *(1 for _ in self.places)).expand(event)
        super().__init__(torch.Size(), event, validate_args=False)

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size([*self.places, self.groups])

    def _everywhere(self, values: Tensor) -> Tensor:
        """One row's numbers (d,) for each group and place."""
        return values.repeat(self.groups).view(-1, *(1 for _ in self.places)).expand(self.event_shape)

    @property
    def mean(self) -> Tensor:
        return self._everywhere(self.codebook.mean(0))

    @property
    def variance(self) -> Tensor:
        return self._everywhere(self.codebook.var(0, correction=0))

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """The row in whose share of the normal the noise (*sample, *places, groups) falls."""
        count = len(self.codebook)
        index = (torch.special.ndtr(noise) * count).long().clamp_max(count - 1)
        return channels_first(self.codebook[index].flatten(-2), len(self.places))

    def log_prob(self, value: Tensor) -> Tensor:
        """-groups * log(codes), for a z that is made of rows; whether it is one is not asked."""
        return -self.nats_per_dim.sum().expand(value.shape[: value.ndim - self.event_dims])

    def detach(self) -> UniformCodes:
        return UniformCodes(self.codebook.detach(), self.groups, self.nats_of_place, self.places)


def _kl_per_dim(q: Quantised, p: UniformCodes) -> Any:
    return p.nats_per_dim.expand(q.z.shape)


KL_PER_DIM[Quantised, UniformCodes] = _kl_per_dim
