"""What people see: lines, tables and progress bars. Without a terminal the bars are plain lines, now and then."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vaekit.names import printable


class _Console(Console):
    """One that goes quiet when its reader goes away (a pipe into head), so that the command ends its work."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.quiet = True  # the terminal was closed, and the run has yet to be saved

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


OUT = _Console(highlight=False, soft_wrap=True)
ERROR = _Console(stderr=True, highlight=False, soft_wrap=True)
QUIET_SECONDS = 10.0  # between two lines where there is no terminal to draw a bar on


def say(text: str) -> None:
    """A line to standard output."""
    OUT.print(printable(text), markup=False)


def complain(text: str) -> None:
    """A line to standard error."""
    ERROR.print(printable(text), markup=False)


def table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Two columns under a title."""
    OUT.print(Text(printable(title), style="bold"))
    grid = Table(show_header=False, box=None, padding=(0, 2))
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")  # a path is worth its letters
    for name, value in rows:
        grid.add_row(Text(printable(name)), Text(printable(value)))
    _Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(grid)


def columns(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a name for each column; the first column is to the left, the others to the right."""
    OUT.print(Text(printable(title), style="bold"))
    grid = Table(box=None, padding=(0, 2))
    for number, name in enumerate(header):
        grid.add_column(Text(printable(name)), overflow="fold", justify="right" if number else "left")
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    _Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(grid)


class _Drawn:
    """Something that draws while a `with` block runs."""

    _progress: Progress

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class Bar(_Drawn):
    """A bar for one job whose progress is told as a share."""

    def __init__(self, name: str) -> None:
        self._progress = Progress(
            TextColumn(name),
            BarColumn(),
            TimeRemainingColumn(),
            console=ERROR,
            transient=True,
            disable=not ERROR.is_terminal,
        )
        self._task = self._progress.add_task(name, total=1.0)

    def share(self, done: float) -> None:
        """`done` of 1 is done."""
        self._progress.update(self._task, completed=done)


class TrainingBar(_Drawn):
    """A logger that draws the training: step, −ELBO, rate, distortion, images per second."""

    def __init__(self, shown: bool = True) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        self._progress = Progress(*columns, console=ERROR, disable=not (shown and ERROR.is_terminal))
        self._task: TaskID | None = None
        self._preparing: dict[str, TaskID] = {}
        self._spoken = 0.0

    def preparing(self, what: str, done: int, total: int) -> None:
        """Progress of a download, or of decoding a folder of images."""
        if what not in self._preparing:
            self._preparing[what] = self._progress.add_task(what, total=total, numbers="")
        self._progress.update(self._preparing[what], completed=done, total=total)

    def started(self, first_step: int, total_steps: int) -> None:
        self._task = self._progress.add_task("training", total=total_steps, completed=first_step, numbers="")

    def progressed(self, row: Any, images_per_second: float) -> None:
        terms = f"ELBO {row['elbo']:.2f} · distortion {row['distortion']:.2f} · rate {row['rate']:.2f} nats"
        numbers = f"{terms} · {images_per_second:,.0f} img/s"
        if self._task is not None:
            self._progress.update(self._task, completed=row["step"], numbers=numbers)
        if not ERROR.is_terminal and time.monotonic() - self._spoken > QUIET_SECONDS:
            self._spoken = time.monotonic()
            complain(f"step {row['step']} · epoch {row['epoch']:.1f} · {numbers}")

    def validated(self, row: Any, pictures: Any) -> None:
        text = f"epoch {row['epoch']:.1f} · validation ELBO {row['elbo']:.2f} · rate {row['rate']:.2f} nats"
        if ERROR.is_terminal:
            self._progress.console.print(text, markup=False)

    def message(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False)

    def close(self) -> None:
        self._progress.stop()
