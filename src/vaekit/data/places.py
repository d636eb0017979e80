"""Where data lies now: as a config says, below --data-dir, or moved together with the run that was trained on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vaekit.config.schema import DataConfig
from vaekit.data.download import Progress
from vaekit.data.sources import SOURCES, Source
from vaekit.data.splits import Splits, load_splits, same_data
from vaekit.errors import DataError


class Held(NamedTuple):
    """Data held to what a run was trained on."""

    config: DataConfig  # with the place where it lies
    splits: Splits
    same: bool  # by its fingerprint


def with_data_dir(config: DataConfig, data_dir: str) -> DataConfig:
    """The config of a new training with --data-dir: the data's own folder, or the one in which data.path lies.

    A path is taken from there where it is there, else as it was typed; nothing is guessed, since no fingerprint is
    there to decide.
    """
    source = SOURCES.get(config.source)
    if source is None or not source.reads_path or (config.path is None and not source.needs_path):
        return replace(config, root=data_dir)
    place = Path(data_dir).expanduser()
    if config.path is None:
        return replace(config, path=str(place), root=None)
    path = Path(config.path).expanduser()
    found = next((each for each in (place / path, path, place / path.name) if _fits(source, each)), path)
    return replace(config, path=str(found), root=None)


def find_same(
    config: DataConfig,
    facts: Mapping[str, Any],
    run: Path,
    data_dir: str | None = None,
    progress: Progress | None = None,
) -> Held:
    """The data with these facts, wherever of the likely places it lies; else the first that is there, not the same.

    `data_dir` is its own folder or file, or the folder in which that lies. DataError where there is none at all.
    """
    first: Held | None = None
    trouble: DataError | None = None
    for place in whereabouts(config, run, data_dir):
        try:
            splits = load_splits(place, progress)
        except DataError as error:
            trouble = trouble or error
            continue
        held = Held(place, splits, same_data(facts, splits.facts))
        if held.same:
            return held
        first = first or held
    if first is not None:
        return first
    raise trouble or DataError(_lost(config, run, data_dir))


def whereabouts(config: DataConfig, run: Path, data_dir: str | None = None) -> Iterator[DataConfig]:
    """Where the data of a run may lie now, the likeliest first. `config` has absolute paths, perhaps of another time.

    Below --data-dir, or as data-dir itself; as the run says; in the run; or where it lies relative to a folder above
    the run as it once did, which is what a project that was moved as a whole looks like.
    """
    source = SOURCES[config.source]
    if not source.reads_path or config.path is None:
        yield from _roots(config, run, data_dir)
        return
    tails = _tails(config.path)
    if data_dir is not None:
        place = Path(data_dir).expanduser()
        paths = [*(place / tail for tail in tails), place]
    else:
        paths = [Path(config.path), *_moved(tails, run)]
    found = dict.fromkeys(path for path in paths if _fits(source, path))
    yield from (replace(config, path=str(path), root=None) for path in found)


def _roots(config: DataConfig, run: Path, data_dir: str | None) -> Iterator[DataConfig]:
    """The same of a data set that has a name, whose folder may also be the one for all runs."""
    if data_dir is not None or config.root is None:
        yield replace(config, root=data_dir)
        return
    here = (root for root in (Path(config.root), *_moved(_tails(config.root), run)) if root.is_dir())
    yield from (replace(config, root=root) for root in (*map(str, dict.fromkeys(here)), None))


def _tails(path: str) -> list[Path]:
    """The last parts of a path, the longest first: of `/a/b/c` they are `b/c` and `c`. Also of another system's."""
    parts = [part for part in re.split(r"[\\/]+", path) if part not in ("", "..")]
    return [Path(*parts[start:]) for start in range(min(1, len(parts) - 1), len(parts))]


def _moved(tails: list[Path], run: Path) -> Iterator[Path]:
    here = run.absolute()
    above = [here, *here.parents][:-1]  # not the root of the file system
    return (folder / tail for tail in tails for folder in above)


def _fits(source: Source, path: Path) -> bool:
    return path.is_file() if source.in_a_file else path.is_dir()


def _lost(config: DataConfig, run: Path, data_dir: str | None) -> str:
    looked = f"in {data_dir}" if data_dir else f"at {config.path}"
    kind = "the .npz file" if SOURCES[config.source].in_a_file else "the folder"
    return (
        f"the data of {run} is not {looked}; give --data-dir {kind} where it lies now, or the folder above it "
        "(data_dir=… in Python)"
    )
