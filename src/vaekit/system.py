"""What differs between operating systems: every such call is here, with what is done where it is missing.

The tests run on Linux and simulate Windows and macOS by taking away what they lack (tests/test_systems.py).
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import signal
import stat
import sys
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # all but Windows
    msvcrt = None  # type: ignore[assignment]

# that end a program unless it asks to be told; the last is what a closed terminal or ssh session sends
STOP_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__
)
KILLED = -signal.Signals["SIGKILL"] if "SIGKILL" in signal.Signals.__members__ else 1  # what Popen.kill makes of it
UNKNOWN_MEMORY = 2**32  # bytes, where a system does not say what it has
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a Linux container


def open_lock(path: Path) -> IO[bytes]:
    """A file of our own to lock, made where it is absent. OSError where a link or anything but a file stands there:
    in a folder from a stranger it could name any file, which opening it for writing would empty."""
    descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o644
    )
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or path.is_symlink():
        os.close(descriptor)
        raise OSError(errno.ELOOP, "it is no file of vaekit but a link, a pipe or a device", str(path))
    return os.fdopen(descriptor, "r+b")


def hold(file: IO[Any]) -> bool:
    """Lock an open file until it is closed or the process dies; False where another process holds it.

    True also where nothing can be locked, as on some network drives: there is nobody to ask.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined, unused-ignore]
        elif msvcrt is not None:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except (BlockingIOError, PermissionError):  # in flock's words, and in Windows's
        return False
    except OSError:
        pass
    return True


def unlink_held(path: Path, file: IO[Any]) -> None:
    """Take away the file that is open, while it is held where that can be: Windows must close it first."""
    try:
        path.unlink()
    except PermissionError:
        file.close()
        path.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Windows opens no folders; there its journal must do."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_memory() -> int:
    """Bytes of the host's memory that are free; half of all where only that is known, as on macOS."""
    free, whole = _pages("SC_AVPHYS_PAGES"), _pages("SC_PHYS_PAGES")
    return free or whole // 2 or _free_on_windows() or UNKNOWN_MEMORY


def _pages(name: str) -> int:
    """Bytes; 0 where the system does not say."""
    try:
        return max(0, os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))  # type: ignore[attr-defined, unused-ignore]
    except (AttributeError, ValueError, OSError):  # no such function, no such name, no answer
        return 0


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("whole", ctypes.c_uint64),
        ("free", ctypes.c_uint64),
        *((name, ctypes.c_uint64) for name in ("page", "page_free", "virtual", "virtual_free", "extended_free")),
    )


def _free_on_windows() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    try:
        found = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    except AttributeError:  # not Windows
        return 0
    return int(status.free) if found else 0


def cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined, unused-ignore]
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def usable_cores(quota: Path = QUOTA) -> int:
    """Cores that this process may use: its affinity, and the share that a container is given.

    More threads than that wait for each other; torch sees the first limit and not the second.
    """
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        return max(1, min(cores(), int(allowed) // int(period)))
    except (OSError, ValueError):  # no such limit: no file, or "max"
        return cores()


def print_any_text() -> None:
    """Let output into a file or pipe of another encoding, as on Windows, lose a letter and not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding or "").lower() not in ("utf-8", "utf8"):
            stream.reconfigure(errors="replace")
