"""Files that are whole or absent, and storage errors in one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vaekit.errors import StorageError
from vaekit.system import sync_folder

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


def save_array(values: np.ndarray[Any, Any], path: Path) -> Path:
    """Write a .npy file, making its folder."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values, allow_pickle=False)
    return path
