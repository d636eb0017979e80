"""Files that are whole or absent, and storage errors in one sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vaekit.errors import StorageError
from vaekit.system import sync_folder

SUM = "sum_sha256"  # of the other values of a JSON file
PARTIAL = ".partial"  # the end of the names of files and folders that are being written


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into one sentence. Readers' errors pass."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space, or choose another folder with --out",
            errno.EDQUOT: "the disk quota is used up; free some space, or choose another folder with --out",
            errno.EFBIG: "the limit on file sizes is reached; raise it with ulimit -f",
            errno.EACCES: "permission denied; choose another folder with --out",
            errno.EPERM: "permission denied; choose another folder with --out",
            errno.EROFS: "the disk is read-only; choose another folder with --out",
            errno.EEXIST: "a file stands where a folder should be; choose another folder with --out",
            errno.ENOTDIR: "a file stands where a folder should be; choose another folder with --out",
        }
        reason = reasons.get(error.errno or 0, str(error))
        raise StorageError(f"cannot write to {where}: {reason}. What was saved before is intact") from error


def write_text_atomically(path: Path, text: str) -> None:
    """The whole new text or the old one, never a part."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
        try:
            # names of files may hold bytes that are no text
            with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def with_sum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values for a JSON file, and the SHA-256 by which `held_to_sum` knows them again."""
    return {**values, SUM: _sum_of(values)}


def held_to_sum(found: Any) -> dict[str, Any] | None:
    """The values without their sum; None where any of them changed, or there is no sum.

    Example:
        >>> written = with_sum({"nll_nats": 27.23})
        >>> held_to_sum(written), held_to_sum({**written, "nll_nats": 37.23})
        ({'nll_nats': 27.23}, None)
    """
    if not isinstance(found, dict):
        return None
    values = {key: value for key, value in found.items() if key != SUM}
    return values if found.get(SUM) == _sum_of(values) else None


def _sum_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def save_array(values: np.ndarray[Any, Any], path: Path) -> Path:
    """Write a .npy file, making its folder."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values, allow_pickle=False)
    return path
