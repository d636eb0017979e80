"""Files of known data sets: found on disk or downloaded once, and never used before their checksum is right."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import secrets
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vaekit.errors import DataError, StorageError

TIMEOUT = 30  # seconds without a byte
Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


class RemoteFile(NamedTuple):
    """One file of a data set: where it lies below the data root, where it comes from, how it is recognised."""

    folder: str  # below the data root, in torchvision's layout
    name: str  # as it is downloaded, with .gz
    url: str
    md5: str | None = None  # of the decompressed bytes
    md5_compressed: str | None = None  # of the file as it is downloaded
    size: int | None = None  # of the decompressed bytes, for files of unknown sum


def data_root(root: str | None) -> Path:
    """Where data sets lie: the config's root, else $VAEKIT_DATA, else the user's cache folder.

    Example:
        >>> data_root("/data")
        PosixPath('/data')
    """
    chosen = root or os.environ.get("VAEKIT_DATA") or Path.home() / ".cache" / "vaekit" / "data"
    return Path(chosen).expanduser()


def places(file: RemoteFile, root: Path) -> list[Path]:
    """Folders that may hold the file: its own place below the root, and the root itself where it is that folder.

    Example:
        >>> [str(place) for place in places(RemoteFile("MNIST/raw", "a.gz", ""), Path("/d"))]
        ['/d/MNIST/raw', '/d/raw', '/d']
    """
    parts = Path(file.folder).parts
    return [root.joinpath(*parts[start:]) for start in range(len(parts) + 1)]


def locate(file: RemoteFile, root: Path) -> Path | None:
    """The file on disk, decompressed or not; None where it is absent.

    Example:
        >>> locate(RemoteFile("MNIST/raw", "a.gz", ""), Path("/nowhere")) is None
        True
    """
    spellings = dict.fromkeys([file.name.removesuffix(".gz"), file.name])
    candidates = (place / name for place in places(file, root) for name in spellings)
    return next((path for path in candidates if path.is_file()), None)


def fetch(source: str, files: Sequence[RemoteFile], root: Path, progress: Progress) -> list[Path]:
    """The files on disk, in this order; those that are absent are downloaded and verified first.

    A DataError names every file that is missing, the places that were searched, and where to put them.
    """
    missing = [file for file in files if locate(file, root) is None]
    for number, file in enumerate(missing):
        reason = _download(file, root, progress)
        if reason is not None:
            raise DataError(_absent(source, missing[number:], root, reason))
    return [path for file in files if (path := locate(file, root)) is not None]


def _absent(source: str, missing: Sequence[RemoteFile], root: Path, reason: str) -> str:
    looked = ", ".join(str(place) for place in places(missing[0], root))
    names = ", ".join(file.name for file in missing)
    return (
        f"'{source}' needs {names}: not found in {looked}; {_url(missing[0])} {reason}; "
        f"put them into {root / missing[0].folder}, or give the folder that has them with --data-dir or $VAEKIT_DATA"
    )


def _url(file: RemoteFile) -> str:
    mirror = os.environ.get("VAEKIT_MIRROR")  # serves the layout of a data root
    return "/".join([mirror.rstrip("/"), *Path(file.folder).parts, file.name]) if mirror else file.url


def _download(file: RemoteFile, root: Path, progress: Progress) -> str | None:
    """None, or why the download failed. The file appears under its name only when whole and verified."""
    import pooch
    import requests

    goal = root / file.folder / file.name
    # A name of its own for each process: two at once both succeed, and the last rename wins.
    part = goal.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        bar = _Bar(f"downloading {file.name}", progress)
        pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT, chunk_size=2**16)(_url(file), str(part), None)
        _check_download(file, part)
        part.replace(goal)
    except DataError as error:
        return f"sent something else ({error})"
    except requests.RequestException as error:
        return f"cannot be downloaded ({type(error).__name__})"
    except OSError as error:
        raise StorageError(
            f"cannot write {goal} ({error.strerror or error}); choose another folder with --data-dir"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # absent, or its folder is no folder
            part.unlink()
    return None


class _Bar:
    """What pooch wants of a progress bar."""

    def __init__(self, what: str, progress: Progress) -> None:
        self.what, self.progress, self.total, self.done = what, progress, 0, 0

    def update(self, amount: int) -> None:
        self.done = min(self.done + amount, self.total)
        self.progress(self.what, self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass


def _check_download(file: RemoteFile, path: Path) -> None:
    if file.md5_compressed is not None:
        _compare(file.name, _md5_of_file(path), file.md5_compressed)
    else:
        _check(file, file.name, read_compressed(path))


def check_archive(file: RemoteFile, path: Path) -> None:
    """DataError where an archive on disk is not the known one, byte for byte."""
    if file.md5_compressed is not None:
        _compare(str(path), _md5_of_file(path), file.md5_compressed)


def read_verified(file: RemoteFile, path: Path) -> bytes:
    """The decompressed bytes of a file on disk, or a DataError where they are not the known ones.

    Checked by the sum of the decompressed bytes where it is known, else by that of the compressed file, else by size.
    """
    if path.suffix != ".gz":
        data = path.read_bytes()
    else:
        if file.md5 is None:
            check_archive(file, path)
        data = read_compressed(path)
    _check(file, str(path), data)
    return data


def read_compressed(path: Path) -> bytes:
    """The decompressed bytes of a .gz file. DataError where it is damaged."""
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); delete it to download it again") from error


def _check(file: RemoteFile, name: str, data: bytes) -> None:
    if file.md5 is not None:
        _compare(name, hashlib.md5(data, usedforsecurity=False).hexdigest(), file.md5)
    elif file.size is not None and len(data) != file.size:
        raise DataError(f"{name} has {len(data)} bytes, expected {file.size}; delete it to download it again")


def _compare(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise DataError(
            f"{name} is damaged or another file: MD5 {found}, expected {expected}; delete it or move it away"
        )


def _md5_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
