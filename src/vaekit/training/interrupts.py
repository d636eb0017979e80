"""SIGINT, SIGTERM and SIGHUP: the loop saves first, then ends with the exit code that shells expect."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vaekit.errors import VaekitError
from vaekit.system import STOP_SIGNALS


class Interrupted(VaekitError):
    """Such a signal arrived; a checkpoint was written. The exit code is 128 + the signal's number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def stop_signals(patient: bool = False) -> Iterator[list[int]]:
    """Collects these signals so that the loop can save first; a second one kills at once.

    One that is ignored already stays so, but for Ctrl-C: `nohup` ignores SIGHUP. Unless `patient`: torchrun hands on
    the signal that a terminal has sent already.
    """
    arrived: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if not patient:
            signal.signal(number, before[number] or signal.SIG_DFL)

    try:
        for number in STOP_SIGNALS:
            if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue
            before[int(number)] = signal.signal(number, note)
    except ValueError:  # not in the main thread: the caller's handlers stay
        before = {}
    try:
        yield arrived
    finally:
        for stopped, handler in before.items():
            signal.signal(stopped, handler or signal.SIG_DFL)
