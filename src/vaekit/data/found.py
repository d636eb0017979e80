"""The files below a folder: those that are images by their endings, and what else lies there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vaekit.data.images import SUFFIXES
from vaekit.errors import DataError


class Found(NamedTuple):
    """An image file below a folder, and what changes when its content does."""

    name: str  # relative, with forward slashes
    size: int
    mtime_ns: int


class Listing(NamedTuple):
    """Every file below a folder but hidden ones, sorted by name."""

    images: list[Found]
    others: list[str]  # whose endings are not those of images


def find_images(root: Path) -> list[Found]:
    """Every image file below a folder, sorted by name; hidden ones are ignored, links followed but not in circles.

    DataError where the folder is absent or unreadable.

    Example:
        >>> import tempfile
        >>> find_images(Path(tempfile.mkdtemp()))
        []
    """
    return look_through(root).images


def look_through(root: Path) -> Listing:
    """The same, and the other files."""
    if not root.is_dir():
        raise DataError(f"there is no folder '{root}'; set data.path to a folder of images")
    try:
        return _walk(root)
    except OSError as error:
        raise DataError(f"cannot list '{error.filename}': {error.strerror}") from error


def by_ending(names: Sequence[str]) -> str:
    """How many files have which ending, the most frequent first.

    Example:
        >>> by_ending(["a/b.txt", "c.TXT", "README"])
        '.txt 2, without an ending 1'
    """
    counts = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in names)
    said = [f"{ending} {count:,}" for ending, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    return ", ".join(said[:8]) + (f" and {len(said) - 8} more endings" if len(said) > 8 else "")


def _walk(root: Path) -> Listing:
    """With a list of what is still to be opened: folders may be nested deeper than Python calls itself."""
    images, others = [], []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        prefix, above = waiting.pop()
        folder = root / prefix
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that we are in
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    waiting.append((f"{prefix}{entry.name}/", above | {here}))
                elif PurePosixPath(entry.name).suffix.lower() in SUFFIXES:
                    images.append(_found(prefix, entry))
                else:
                    others.append(prefix + entry.name)
    return Listing(sorted(images), sorted(others))


def _found(prefix: str, entry: os.DirEntry[str]) -> Found:
    try:
        status = entry.stat()
        return Found(prefix + entry.name, status.st_size, status.st_mtime_ns)
    except OSError:  # a link to nothing: found, and skipped when it is read
        return Found(prefix + entry.name, 0, 0)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
