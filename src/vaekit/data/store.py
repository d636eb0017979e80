"""A tree of image files, decoded once into a memory-mapped file of 8-bit pixels in the user's cache."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.data.download import Progress
from vaekit.data.found import Found, by_ending
from vaekit.data.images import Target, Uint8Array, header, open_image, prepare
from vaekit.errors import DataError, StorageError, VaekitWarning
from vaekit.names import printable
from vaekit.system import cores

VERSION = 2  # part of every key: raise it when the same files would decode to other pixels, or the index says more
CHUNK = 64  # images per worker between two writes
CHUNK_BYTES = 2**28  # of decoded pixels between two writes, if that is fewer
FREE_SHARE = 0.95  # of the free disk that a store may take
HASHED_ALWAYS = 2**31  # bytes: a larger store is compared with its sum once after each change of its file
STALE_SECONDS = 3600.0  # without a write: what writes a store writes all the time
WORKERS = min(32, cores())


class Skipped(NamedTuple):
    """An image file that is not used, and why."""

    name: str
    reason: str


class Store(NamedTuple):
    """Decoded images, in the order of `names`; used + skipped = found."""

    images: Tensor  # uint8 (N, C, H, W), memory-mapped
    names: list[str]
    skipped: list[Skipped]
    unpadded: tuple[int, int, int]  # (C, H, W)
    content: str  # SHA-256 of the pixels
    folder: Path
    others: str = ""  # how many files with which endings are no images

    @property
    def skipped_csv(self) -> Path:
        """The table of skipped files (path, reason)."""
        return self.folder / "skipped.csv"


def cache_root() -> Path:
    """Where stores lie: $VAEKIT_CACHE, else the user's cache folder.

    Example:
        >>> isinstance(cache_root(), Path)
        True
    """
    return Path(os.environ.get("VAEKIT_CACHE") or Path.home() / ".cache" / "vaekit" / "store").expanduser()


def open_store(
    root: Path,
    files: Sequence[Found],
    target: Target,
    progress: Progress,
    *,
    outside: Sequence[Skipped] = (),
    others: Sequence[str] = (),
    strict: bool = False,
) -> Store:
    """The decoded images of these files below a folder: from the cache, or decoded now.

    `outside` are files that the caller left out, listed with the unreadable ones. `strict` refuses both. `others` are
    no images by their endings, and only listed.
    """
    key = _key(root, files, target, outside)
    folder = cache_root() / key
    store = _read(folder)
    if store is None:
        _build(root, files, target, progress, outside, folder)
        store = _read(folder)
    assert store is not None, f"{folder} was just written"
    store = store._replace(others=by_ending(others))
    _list_skipped(store, others)
    if strict and store.skipped:
        name, reason = store.skipped[0]
        said = (
            f"{len(store.skipped)} of {len(files) + len(outside)} images cannot be used, listed in {store.skipped_csv}"
        )
        raise DataError(f"{said}; the first is '{name}': {reason}; repair or remove them, or set data.strict=false")
    return store


def _list_skipped(store: Store, others: Sequence[str]) -> None:
    """Write skipped.csv, unless it says so already: files that are no images come and go without a new decoding."""
    reason = "its ending is not that of an image"
    rows = [("path", "reason"), *store.skipped, *((name, reason) for name in others)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[printable(cell) for cell in row] for row in rows])
    path = store.skipped_csv
    with contextlib.suppress(OSError):  # a cache that may only be read
        if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
            path.write_text(text.getvalue(), encoding="utf-8", newline="")


def _key(root: Path, files: Sequence[Found], target: Target, outside: Sequence[Skipped]) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, str(root.resolve()), asdict(target)]).encode())
    for file in (*files, *outside):
        digest.update(json.dumps(file).encode())
    return digest.hexdigest()[:32]


def _read(folder: Path) -> Store | None:
    """The store in this folder; None where there is none, or one of which any byte is another: that is said."""
    if not (folder / "index.json").exists():
        return None
    try:
        index: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        whole = index.pop("sum", None) == _sum_of(index) and _has_sum(folder / "images.npy", index["file"])
        images = map_images(folder / "images.npy") if whole else None
    except (OSError, ValueError, AttributeError, KeyError):
        images = None
    if images is None:
        warnings.warn(
            f"the decoded images in {folder} are damaged, so they are decoded again", VaekitWarning, stacklevel=2
        )
        return None
    skipped = [Skipped(*entry) for entry in index["skipped"]]
    channels, height, width = index["unpadded"]
    return Store(images, index["names"], skipped, (channels, height, width), index["content"], folder)


def _sum_of(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()


def _has_sum(path: Path, digest: str) -> bool:
    """Whether a file has this SHA-256; beside a large one stands when it was last looked at."""
    status, note = path.stat(), path.with_suffix(".checked")
    seen = f"{status.st_size} {status.st_mtime_ns} {digest}"
    if status.st_size > HASHED_ALWAYS and note.exists() and note.read_text(encoding="ascii", errors="replace") == seen:
        return True
    if _file_sum(path) != digest:
        return False
    with contextlib.suppress(OSError):  # a cache that may only be read is looked at each time
        note.write_text(seen, encoding="ascii", newline="\n")
    return True


def _file_sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_images(path: Path) -> Tensor:
    """A .npy file of uint8 pixels as a memory-mapped tensor.

    Copy-on-write, so that writing to it harms nobody; read-only where the system will not promise that much memory.
    """
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    except OSError:  # Linux refuses private maps that are larger than memory and swap together
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            return torch.from_numpy(np.load(path, mmap_mode="r"))


def _build(
    root: Path, files: Sequence[Found], target: Target, progress: Progress, outside: Sequence[Skipped], folder: Path
) -> None:
    """Write a store under a temporary name, and rename it when it is whole."""
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    _sweep(folder.parent)
    with ThreadPoolExecutor(WORKERS) as pool:  # Pillow releases the GIL while it decodes and resizes
        target, unpadded = _settle(root, files, target, progress, pool)
        _refuse_too_large(root, len(files), target, folder.parent)
        try:
            temporary.mkdir(parents=True)
            names, skipped, content = _decode(root, files, target, progress, pool, temporary / "images.npy")
            skipped = sorted([*skipped, *outside])
            index = {"names": names, "skipped": skipped, "unpadded": unpadded, "content": content, "root": str(root)}
            index["file"] = _file_sum(temporary / "images.npy")
            (temporary / "index.json").write_text(
                json.dumps({**index, "sum": _sum_of(index)}), encoding="utf-8", newline="\n"
            )
            if _read(folder) is None:  # else another process was faster
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
        except OSError as error:
            if _read(folder) is None:
                place = f"cannot store decoded images in {folder.parent} ({error.strerror or error})"
                raise StorageError(f"{place}; free some space, or set $VAEKIT_CACHE to another folder") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _settle(
    root: Path, files: Sequence[Found], target: Target, progress: Progress, pool: ThreadPoolExecutor
) -> tuple[Target, tuple[int, int, int]]:
    """The target with size and channels known, and the shape before padding."""
    if target.size is None or target.channels is None:
        headers: Counter[tuple[bool, int, int]] = Counter()
        for start, chunk in _chunks(files):
            headers.update(found for found in pool.map(_header_or_none, (root / f.name for f in chunk)) if found)
            progress("looking at images", start + len(chunk), len(files))
        if not headers:
            raise DataError(f"none of the {len(files)} images in '{root}' can be read")
        target = replace(target, channels=target.channels or (1 if all(grey for grey, _, _ in headers) else 3))
        target = replace(target, size=target.size or _common_size(root, headers))
    assert target.size is not None and target.channels is not None
    return target, target.shape((target.channels, *target.size))


def _refuse_too_large(root: Path, count: int, target: Target, place: Path) -> None:
    """StorageError where the disk has no room for so many images of this shape, before one of them is decoded."""
    size = target.pad or target.size
    assert size is not None and target.channels is not None
    each = size[0] * size[1] * target.channels
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    room = FREE_SHARE * shutil.disk_usage(there).free
    if count * each > room:
        side = math.isqrt(int(room // (count * target.channels)))
        raise StorageError(
            f"{count:,} images of {size[0]}×{size[1]}×{target.channels} from '{root}' are {count * each / 1e9:,.1f} GB "
            f"decoded, and {there} has room for {room / 1e9:,.1f}; set data.size to {side} or less, or $VAEKIT_CACHE "
            "to a folder on a larger disk"
        )


def _sweep(place: Path) -> None:
    """Delete stores that nobody is writing any more: those of processes that were killed."""
    for left in place.glob(".*-*-*") if place.is_dir() else ():
        with contextlib.suppress(OSError):
            written = max(file.stat().st_mtime for file in (left, *left.iterdir()))
            if time.time() - written > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _header_or_none(path: Path) -> tuple[bool, int, int] | None:
    try:
        return header(path)
    except DataError:  # decoding will fail too, and say why
        return None


def _common_size(root: Path, headers: Counter[tuple[bool, int, int]]) -> tuple[int, int]:
    sizes: Counter[tuple[int, int]] = Counter()
    for (_, height, width), count in headers.items():
        sizes[height, width] += count
    if len(sizes) > 1:
        common = ", ".join(f"{height}×{width} ({count} images)" for (height, width), count in sizes.most_common(3))
        raise DataError(
            f"images in '{root}' have {len(sizes)} sizes (height×width), most often {common}; set data.size"
        )
    return next(iter(sizes))


def _chunks(files: Sequence[Found], each: int = 1) -> Iterator[tuple[int, Sequence[Found]]]:
    """Files that are looked at together, of so many bytes each when decoded."""
    step = max(WORKERS, min(CHUNK * WORKERS, CHUNK_BYTES // each))
    return ((start, files[start : start + step]) for start in range(0, len(files), step))


def _decode(
    root: Path, files: Sequence[Found], target: Target, progress: Progress, pool: ThreadPoolExecutor, path: Path
) -> tuple[list[str], list[Skipped], str]:
    """Names used, files skipped, SHA-256 of the pixels that were written to `path`."""

    def decode(file: Found) -> Uint8Array | Skipped:
        try:
            return prepare(open_image(root / file.name, target.channels), target)
        except DataError as error:
            return Skipped(file.name, str(error))

    names: list[str] = []
    skipped: list[Skipped] = []
    size = target.pad or target.size
    assert size is not None and target.channels is not None
    with NpyWriter(path, (target.channels, *size)) as writer:
        for start, chunk in _chunks(files, target.channels * size[0] * size[1]):
            for file, result in zip(chunk, pool.map(decode, chunk), strict=True):
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    writer.append(result)
                    names.append(file.name)
            progress("decoding images", start + len(chunk), len(files))
    if not names:
        raise DataError(f"none of the {len(files)} images in '{root}' can be used; {skipped[0].reason}")
    return names, skipped, writer.digest.hexdigest()


class NpyWriter:
    """Appends images to a .npy file whose length is not known before.

    Written in sequence, not through a memory map: a map on a full disk kills the process instead of raising OSError.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path, self.shape, self.count = path, shape, 0
        self.digest = hashlib.sha256()

    def __enter__(self) -> NpyWriter:
        self.stream = self.path.open("wb")
        self._header()
        return self

    def _header(self) -> None:
        # numpy leaves room in the header for the first axis to grow, so that rewriting it moves nothing
        layout = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.stream, layout)

    def append(self, pixels: Uint8Array) -> None:
        """Add one image, or several in one array."""
        data = pixels.tobytes()
        self.stream.write(data)
        self.digest.update(data)
        self.count += len(data) // int(np.prod(self.shape))

    def __exit__(self, *error: object) -> None:
        with self.stream:
            self.stream.seek(0)
            self._header()


def _has_own_sum(path: Path) -> bool:
    """Whether a file is there and has the sum that stands beside it."""
    try:
        return _has_sum(path, path.with_suffix(".sum").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False


def take_on_disk(store: Store, rows: Tensor) -> Tensor:
    """These images as a memory-mapped file of their own, written once: for splits that are too large for memory."""
    name = hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16]
    path = store.folder / f"rows-{name}.npy"
    if not _has_own_sum(path):
        temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
        channels, height, width = store.images.shape[1:]
        try:
            with NpyWriter(temporary, (channels, height, width)) as writer:
                for chunk in torch.split(rows, CHUNK):
                    writer.append(store.images[chunk].numpy())
            path.with_suffix(".sum").write_text(_file_sum(temporary), encoding="ascii", newline="\n")
            temporary.replace(path)
        except OSError as error:
            raise StorageError(
                f"cannot write {path} ({error.strerror}); free some space or set $VAEKIT_CACHE"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
    return map_images(path)
