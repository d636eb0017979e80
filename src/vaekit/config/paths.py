"""The paths that a config names: from where they were typed, in the config that a run keeps, and read there again.

A run keeps a path relative to itself where it lies in it, else absolute: neither its own move nor another working
directory loses what it names.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vaekit.config.schema import Config

KEYS = (("data", "path"), ("data", "root"), ("training", "start_from"))


def absolute(config: Config) -> Config:
    """With paths as they were typed made absolute, from the working directory of now."""
    return _changed(config, lambda path: os.path.normpath(Path(path).expanduser().absolute()))


def kept(config: Config, run: Path) -> Config:
    """As the run keeps it: paths relative to it, with forward slashes, where they lie in it."""
    return _changed(config, lambda path: _inside(Path(path), run) or path)


def of_run(config: Config, run: Path) -> Config:
    """What `kept` gave, absolute again where the run lies now. Older runs kept paths as they were typed."""
    return absolute(_changed(config, lambda path: in_run(path, run)))


def in_run(path: Any, folder: Path) -> Any:
    """A relative path below a run's folder where something lies there; anything else as it is."""
    if not isinstance(path, str) or not path or ".." in Path(path).parts:
        return path
    here = folder.absolute() / path  # an absolute path stays as it is
    return str(here) if here.exists() else path


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: a config.yaml there says paths as a run keeps them."""
    return (folder / "checkpoints").is_dir()


def _inside(path: Path, run: Path) -> str | None:
    for one, other in ((path, run.absolute()), (path.resolve(), run.resolve())):
        if one.is_absolute() and one != other and one.is_relative_to(other):
            return one.relative_to(other).as_posix()
    return None


def _changed(config: Config, change: Callable[[str], str]) -> Config:
    for section, key in KEYS:
        before = getattr(config, section)
        if (path := getattr(before, key)) is not None:
            config = replace(config, **{section: replace(before, **{key: change(path)})})
    return config
