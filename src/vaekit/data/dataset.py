"""Images with their labels, and their split into train, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from vaekit.errors import DataError

if TYPE_CHECKING:
    pass


class Factors(NamedTuple):
    """What made each image: whole numbers (N, F) from 0, with the name and the number of values of each factor.

    A factor is ordered where neighbouring numbers are neighbouring things, as for a place; a class is not.

    Example:
        >>> Factors(torch.tensor([[0, 2], [1, 0]]), ("class", "x"), (2, 3), (False, True)).subset(torch.tensor([1]))
        Factors(values=tensor([[1, 0]]), names=('class', 'x'), sizes=(2, 3), ordered=(False, True))
    """

    values: Tensor  # int64 (N, F)
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    ordered: tuple[bool, ...]

    def subset(self, indices: Tensor) -> Factors:
        """Those of the images at these positions.

        Example:
            >>> Factors(torch.tensor([[0], [1]]), ("x",), (2,), (True,)).subset(torch.tensor([1])).values
            tensor([[1]])
        """
        return self._replace(values=self.values[indices])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, uint8 (N, C, H, W), in memory or memory-mapped, and what is known about each.

    Example:
        >>> data = Dataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8))
        >>> len(data), data.shape
        (10, (1, 2, 2))
    """

    images: Tensor
    labels: Tensor | None = None  # int64 (N,), positions in class_names
    class_names: tuple[str, ...] = ()
    names: Sequence[str] | None = None  # file names
    factors: Factors | None = None  # of made images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W).

        Example:
            >>> Dataset(torch.zeros(10, 1, 2, 3, dtype=torch.uint8)).shape
            (1, 2, 3)
        """
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def context(self, device: torch.device, start: int = 0, count: int | None = None) -> Tensor:
        """The labels that a conditional model is given, int64, of images start … DataError where there are none."""
        if self.labels is None:
            raise DataError("a conditional model needs labelled images; use a folder for each class, or other data")
        stop = len(self) if count is None else start + count
        return self.labels[start:stop].to(device)

    def subset(self, indices: Tensor) -> Dataset:
        """The images at these positions: a view where they are consecutive, else a copy in memory.

        Example:
            >>> len(Dataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8)).subset(torch.tensor([0, 3, 9])))
            3
        """
        names = None if self.names is None else [self.names[i] for i in indices.tolist()]
        labels = None if self.labels is None else self.labels[indices]
        factors = None if self.factors is None else self.factors.subset(indices)
        return Dataset(_rows(self.images, indices), labels, self.class_names, names, factors)


def spread(count: int, most: int) -> Tensor:
    """At most so many of the indices 0 … count - 1, evenly spread: the first ones of a sorted set are of few classes.

    Example:
        >>> spread(10, 4).tolist(), spread(3, 4).tolist()
        ([0, 2, 5, 7], [0, 1, 2])
    """
    chosen = min(count, most)
    return torch.arange(chosen) * count // chosen


def _rows(images: Tensor, indices: Tensor) -> Tensor:
    if len(indices) == 0:
        return images[:0]
    first, last = int(indices[0]), int(indices[-1])
    if last - first + 1 == len(indices) and bool((indices.diff() == 1).all()):
        return images[first : last + 1]
    return images[indices]
