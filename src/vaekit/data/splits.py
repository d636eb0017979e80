"""Train, validation and test images of a source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.config.schema import DataConfig
from vaekit.data.counter import Stream, permutation
from vaekit.data.dataset import Dataset
from vaekit.data.download import Progress
from vaekit.data.sources import SOURCES, Loaded, Source, shaped
from vaekit.errors import ConfigError, DataError, suggest


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets, and the facts about them that a run records.

    facts: `source`, `train`, `validation`, `test` and `skipped` (counts), `others` (files that are no images, by
    ending), `skipped_csv`, `shape` (C, H, W),
    `content_size` (H, W before padding), `classes`, `fingerprint` (of data, preprocessing and split together).
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    facts: dict[str, Any]


def same_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the facts of two splits are of the same images, preprocessing, split and classes."""
    return all(before.get(fact) == now.get(fact) for fact in ("fingerprint", "classes"))


class Rows(NamedTuple):
    """Ascending positions, int64, of a split."""

    train: Tensor
    validation: Tensor
    test: Tensor


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
    known = SOURCES if sources is None else sources
    if config.source not in known:
        raise ConfigError(f"unknown data source '{config.source}'; {suggest(config.source, known)}")
    source, report = known[config.source], progress or _silent
    if source.needs_path and config.path is None:
        raise ConfigError(f"data source '{source.name}' needs your own images; set data.path, or give --data-dir")
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
    return _finish(config, source, loaded, {k: shaped(v, loaded, config, report) for k, v in parts.items()})


def _held_out(source: Source, config: DataConfig, name: str, own: Dataset | None) -> float:
    """Images, or their share, to draw from the training images for this split."""
    asked: float | None = getattr(config, name)
    if own is None:
        return getattr(source, name) if asked is None else asked
    if asked:
        raise ConfigError(f"'{source.name}' comes with a {name} set of {len(own)} images; leave data.{name} out")
    return 0.0


def _finish(config: DataConfig, source: Source, loaded: Loaded, parts: dict[str, Dataset]) -> Splits:
    train, store = parts["train"], loaded.store
    counts = {name: len(part) for name, part in parts.items()}
    prepared = (config.size, config.fit, config.pad, config.channels, train.shape)
    identity = json.dumps([source.name, loaded.content, prepared, counts, config.seed, config.limit])
    facts = {
        "source": source.name,
        **counts,
        "others": store.others if store else "",
        "skipped": len(store.skipped) if store else 0,
        "skipped_csv": str(store.skipped_csv) if store and (store.skipped or store.others) else None,
        "shape": list(train.shape),
        "content_size": list(loaded.unpadded(config)[1:]),
        "classes": list(train.class_names),
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest(),
    }
    return Splits(parts["train"], parts["validation"], parts["test"], facts)


def _silent(what: str, done: int, total: int) -> None:
    pass
