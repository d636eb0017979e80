"""Images with their labels, and their split into train, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vaekit.config.schema import DataConfig
from vaekit.data.counter import Stream, permutation
from vaekit.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from vaekit.data.sources import Loaded, Source

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


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


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets, and the facts about them that a run records.

    facts: `source`, `train`, `validation`, `test` and `skipped` (counts), `skipped_csv`, `shape` (C, H, W),
    `content_size` (H, W before padding), `classes`, `fingerprint` (of data, preprocessing and split together).
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    facts: dict[str, Any]


class Rows(NamedTuple):
    """Ascending positions, int64, of a split."""

    train: Tensor
    validation: Tensor
    test: Tensor


def _rows(images: Tensor, indices: Tensor) -> Tensor:
    if len(indices) == 0:
        return images[:0]
    first, last = int(indices[0]), int(indices[-1])
    if last - first + 1 == len(indices) and bool((indices.diff() == 1).all()):
        return images[first : last + 1]
    return images[indices]


def split_rows(count: int, validation: float, test: float, seed: int, source: str = "this data set") -> Rows:
    """Which of `count` images each split gets: a function of the seed and the count. Sizes are images, or shares < 1.

    The test set is drawn first: it does not change with the size of the validation set.

    Example:
        >>> [len(rows) for rows in split_rows(100, validation=0.1, test=20, seed=0)]
        [70, 10, 20]
    """
    held = _size("validation", validation, count), _size("test", test, count)
    if sum(held) >= count:
        asked = f"{held[0]} for validation, {held[1]} for test and 1 or more to train"
        raise DataError(
            f"{source} has {count} images but the split asks for {asked}; set data.validation and data.test"
        )
    order = permutation(Stream.SPLIT, seed, 0, count)
    drawn = torch.split(order, [held[1], held[0], count - sum(held)])
    return Rows(*(part.sort().values for part in reversed(drawn)))


def _size(name: str, asked: float, count: int) -> int:
    if 0 < asked < 1:
        return max(1, round(asked * count))
    if asked != int(asked):
        raise ConfigError(f"data.{name}={asked} is neither a share below 1 nor a whole number of images")
    return int(asked)


def load_splits(
    config: DataConfig, progress: Progress | None = None, *, sources: Mapping[str, Source] | None = None
) -> Splits:
    """Train, validation and test images of a source, at the shape that the config asks for.

    A source's own test set, and a folder's own `validation`, are used as they are. The rest is drawn from the training
    images by (seed, count) alone; `limit` then draws from what is left. DataError where images are missing, damaged
    or too few.

    Example:
        >>> len(load_splits(DataConfig(source="digits")).train)
        1258
    """
    from vaekit.data import sources as table  # here: sources build Datasets, so they import this module

    known = table.SOURCES if sources is None else sources
    if config.source not in known:
        raise ConfigError(f"unknown data source '{config.source}'; {suggest(config.source, known)}")
    source, report = known[config.source], progress or _silent
    if source.needs_path and config.path is None:
        raise ConfigError(f"data source '{source.name}' needs your own images; set data.path")
    loaded = source.load(source, config, report)
    own = {"validation": loaded.validation, "test": loaded.test}
    held = {name: _held_out(source, config, name, own[name]) for name in own}
    rows = split_rows(len(loaded.train), held["validation"], held["test"], config.seed, f"'{source.name}'")
    if config.limit is not None and config.limit < len(rows.train):
        chosen = permutation(Stream.LIMIT, config.seed, 0, len(rows.train))[: config.limit]
        rows = rows._replace(train=rows.train[chosen.sort().values])
    parts = {"train": loaded.take(rows.train)}
    for name in own:
        drawn = own[name]
        parts[name] = loaded.take(getattr(rows, name)) if drawn is None else drawn
        if drawn is not None and getattr(config, name) == 0:
            parts[name] = drawn.subset(torch.arange(0))
    return _finish(config, source, loaded, {k: table.shaped(v, loaded, config, report) for k, v in parts.items()})


def _held_out(source: Source, config: DataConfig, name: str, own: Dataset | None) -> float:
    """Images, or their share, to draw from the training images for this split."""
    asked: float | None = getattr(config, name)
    if own is None:
        return getattr(source, name) if asked is None else asked
    if asked:
        raise ConfigError(f"'{source.name}' comes with a {name} set of {len(own)} images; leave data.{name} out")
    return 0.0


def _finish(config: DataConfig, source: Source, loaded: Loaded, parts: dict[str, Dataset]) -> Splits:
    train = parts["train"]
    counts = {name: len(part) for name, part in parts.items()}
    prepared = (config.size, config.fit, config.pad, config.channels, train.shape)
    identity = json.dumps([source.name, loaded.content, prepared, counts, config.seed, config.limit])
    facts = {
        "source": source.name,
        **counts,
        "skipped": len(loaded.store.skipped) if loaded.store else 0,
        "skipped_csv": str(loaded.store.skipped_csv) if loaded.store and loaded.store.skipped else None,
        "shape": list(train.shape),
        "content_size": list(loaded.unpadded(config)[1:]),
        "classes": list(train.class_names),
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest(),
    }
    return Splits(parts["train"], parts["validation"], parts["test"], facts)


def _silent(what: str, done: int, total: int) -> None:
    pass
