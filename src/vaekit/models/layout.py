"""Codes of a model as a matrix and back: the only place that knows both forms.

A model speaks groups, coarsest first: a tensor (*lead, *event) for each. Tools speak matrices (N, D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.errors import ConfigError, suggest

Codes = tuple[Tensor | None, ...]  # a tensor (*lead, *event) for each group; None: to be drawn from its prior


class Group(NamedTuple):
    """A group of latent variables: what it is called, and the shape of its event, (D,) or (C, h, w)."""

    name: str
    event: tuple[int, ...]

    @property
    def width(self) -> int:
        """How many numbers it has."""
        return math.prod(self.event)

    @property
    def is_grid(self) -> bool:
        """Whether it is a small image of codes."""
        return len(self.event) == 3


class Unit(NamedTuple):
    """What is looked at as one: a number of a flat code, or a channel of a grid with all its places."""

    name: str
    columns: range


@dataclass(frozen=True)
class Layout:
    """Some or all groups of a model, side by side in the columns of a matrix.

    Example:
        >>> layout = Layout((Group("coarse", (2,)), Group("fine", (3, 4, 4))))
        >>> layout.width, layout.column(1), layout.column(2 + 16 + 4 * 2 + 3)
        (50, 'coarse z1', 'fine channel 1 at 2,3')
        >>> [tuple(part.shape) for part in layout.codes(torch.zeros(7, 50)) if part is not None]
        [(7, 2), (7, 3, 4, 4)]
    """

    groups: tuple[Group, ...]
    chosen: tuple[str, ...] = ()  # names of the groups in the matrix; none: all

    @property
    def shown(self) -> tuple[Group, ...]:
        """The groups that have columns."""
        return tuple(group for group in self.groups if not self.chosen or group.name in self.chosen)

    @property
    def width(self) -> int:
        """D, the columns of the matrix."""
        return sum(group.width for group in self.shown)

    @property
    def is_grid(self) -> bool:
        """Whether the columns are the channels and places of one grid."""
        return len(self.shown) == 1 and self.shown[0].is_grid

    def only(self, names: Sequence[str]) -> Layout:
        """The layout of these groups alone, in the model's order; the others are drawn when decoded. ConfigError."""
        known = [group.name for group in self.groups]
        for name in names:
            if name not in known:
                raise ConfigError(f"unknown group '{name}'; {suggest(name, known)}")
        return Layout(self.groups, tuple(names))

    def matrix(self, codes: Sequence[Tensor | None]) -> Tensor:
        """(*lead, D) of a tensor (*lead, *event) for each group of the model."""
        parts = [
            code.flatten(code.ndim - len(group.event))
            for group, code in zip(self.groups, codes, strict=True)
            if code is not None and group in self.shown
        ]
        return torch.cat(parts, -1) if len(parts) != 1 else parts[0]

    def codes(self, matrix: Tensor) -> Codes:
        """The reverse: None for a group that has no columns. ConfigError for another number of columns."""
        if matrix.shape[-1] != self.width:
            raise ConfigError(f"codes are {tuple(matrix.shape)} but this model decodes (N, {self.width})")
        parts = iter(matrix.split([group.width for group in self.shown], -1))
        return tuple(next(parts).unflatten(-1, g.event) if g in self.shown else None for g in self.groups)

    def column(self, index: int) -> str:
        """What a column is: `z3`, `channel 5 at 3,1` (row, column); the group before it where there are several."""
        for group in self.shown:
            if index < group.width:
                before = f"{group.name} " if len(self.groups) > 1 else ""
                if not group.is_grid:
                    return f"{before}z{index}"
                channel, place = divmod(index, group.event[1] * group.event[2])
                row, column = divmod(place, group.event[2])
                return f"{before}channel {channel} at {row},{column}"
            index -= group.width
        raise IndexError(index)

    @property
    def units(self) -> list[Unit]:
        """The numbers of flat groups and the channels of grids, in the order of their columns."""
        found, first = [], 0
        for group in self.shown:
            before = f"{group.name} " if len(self.groups) > 1 else ""
            size = group.width // group.event[0]
            word = "channel " if group.is_grid else "z"
            for number in range(group.event[0]):
                found.append(Unit(f"{before}{word}{number}", range(first, first + size)))
                first += size
        return found

    def pooled(self, matrix: Tensor) -> Tensor:
        """Rows of a matrix (N, D) unit by unit: of a grid every place is a row of its channels, (N · places, C)."""
        if not self.is_grid:
            return matrix
        return matrix.unflatten(-1, (len(self.units), -1)).transpose(-2, -1).flatten(0, -2)

    def by_unit(self, values: Tensor) -> Tensor:
        """Columns (…, D) added up within each unit: (…, units)."""
        if self.width == len(self.units):
            return values
        return torch.stack([values[..., unit.columns.start : unit.columns.stop].sum(-1) for unit in self.units], -1)


def as_layout(events: Sequence[Sequence[int]]) -> Layout:
    """Groups without names of their own: `z` alone, or `level 0`, `level 1` …, the coarsest first."""
    names = ["z"] if len(events) == 1 else [f"level {number}" for number in range(len(events))]
    return Layout(tuple(Group(name, tuple(event)) for name, event in zip(names, events, strict=True)))
