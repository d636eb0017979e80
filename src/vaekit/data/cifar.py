"""CIFAR-10 as it is published: the binary version and the one for Python, each as its archive or unpacked."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from vaekit.data.download import Progress, RemoteFile, check_archive, fetch
from vaekit.data.images import Uint8Array
from vaekit.data.plain_pickle import read_plain_pickle
from vaekit.errors import DataError

RECORD = 3073  # bytes: a label, and 3×32×32 values


def _archive(name: str, md5: str) -> RemoteFile:
    return RemoteFile("", name, f"https://www.cs.toronto.edu/~kriz/{name}", None, md5)


BINARY = _archive("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
PYTHON = _archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"
PYTHON_SUMS = {  # MD5 of each file, as torchvision has them too
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7cd3b",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class Records(NamedTuple):
    """Images (N, 3, 32, 32) and labels (N,)."""

    images: Uint8Array
    labels: Uint8Array


def read_cifar10(
    source: str, binary: RemoteFile, root: Path, progress: Progress, sums: Mapping[str, str] = PYTHON_SUMS
) -> tuple[Records, Records]:
    """The training and the test records: of what lies below `root`, or else of the binary version, downloaded.

    DataError for files that are not the known ones.
    """
    unpacked = _folder(root, "cifar-10-batches-bin", f"{BATCHES[0]}.bin")
    python = _folder(root, "cifar-10-batches-py", BATCHES[0])
    names = [*BATCHES, TEST]
    if unpacked is not None:
        read = [_binary(unpacked / f"{name}.bin", _bytes(unpacked / f"{name}.bin")) for name in names]
    elif (root / binary.name).is_file() or not (python or (root / PYTHON.name).is_file()):
        try:
            (archive,) = fetch(source, (binary,), root, progress)
        except DataError as error:
            raise DataError(
                f"{error}; cifar-10-batches-py and {PYTHON.name}, as torchvision has them, also do"
            ) from error
        check_archive(binary, archive)
        found = _members(archive, [f"{name}.bin" for name in names])
        read = [_binary(archive / f"{name}.bin", found.get(f"{name}.bin", b"")) for name in names]
    elif python is not None:
        read = [_pickled(python / name, _bytes(python / name), sums[name]) for name in names]
    else:
        found = _members(root / PYTHON.name, names)
        read = [_pickled(root / PYTHON.name / name, found.get(name, b""), sums[name]) for name in names]
    train = Records(*(np.concatenate(part) for part in zip(*read[:5], strict=True)))
    return train, read[5]


def _folder(root: Path, name: str, member: str) -> Path | None:
    """The folder of a version below the root, or the root itself where it is that folder."""
    return next((place for place in (root / name, root) if (place / member).is_file()), None)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _binary(path: Path, data: bytes) -> Records:
    if not data or len(data) % RECORD:
        raise DataError(
            f"{path.name} in {path.parent} has {len(data)} bytes, expected a multiple of {RECORD}; "
            f"download {BINARY.name} again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    return Records(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])


def _pickled(path: Path, data: bytes, expected: str) -> Records:
    """A batch of the version for Python: a dict with `data` (N, 3072) and `labels`."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is missing, damaged or another file: MD5 {found}, expected {expected}; "
            f"download {PYTHON.name} again"
        )
    held = read_plain_pickle(data, str(path))
    try:
        images, labels = np.asarray(held[b"data"], np.uint8), np.asarray(held[b"labels"], np.uint8)
        return Records(images.reshape(-1, 3, 32, 32), labels.reshape(len(images)))
    except (TypeError, KeyError, ValueError, OverflowError):
        raise DataError(f"{path} holds no images and labels of CIFAR-10; download {PYTHON.name} again") from None


def _members(archive: Path, members: list[str]) -> dict[str, bytes]:
    """Files of a .tar.gz by their last name, read in memory: nothing is unpacked to disk."""
    found = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                stream = tar.extractfile(member) if member.isfile() and name in members else None
                if stream is not None:
                    found[name] = stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{archive} is damaged ({error}); delete it to download it again") from error
    return found
