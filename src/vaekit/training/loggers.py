"""Where a run's numbers and pictures go: train.log and history.csv always, TensorBoard and wandb where asked for."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from vaekit.config.schema import Config, LoggingConfig
from vaekit.errors import ConfigError, missing_extra
from vaekit.files import storage_errors, write_text_atomically
from vaekit.names import printable

Row = Mapping[str, Any]  # step, epoch, split, then numbers in nats per example
Pictures = Callable[[], Mapping[str, Tensor]]  # name -> (N, C, H, W) in [0, 1], computed only where somebody looks


class Logger(Protocol):
    """Something that listens to a run."""

    def started(self, first_step: int, total_steps: int) -> None:
        """Training is about to do its first step of total_steps."""

    def progressed(self, row: Row, images_per_second: float) -> None:
        """A log point: means since the last one."""

    def validated(self, row: Row, pictures: Pictures) -> None:
        """A validation is done."""

    def message(self, text: str) -> None:
        """A sentence for a reader."""

    def close(self) -> None:
        """Training has ended, for whatever reason."""


class Silent:
    """Listens to nothing; a base for loggers that need only some of the calls."""

    def started(self, first_step: int, total_steps: int) -> None:
        pass

    def progressed(self, row: Row, images_per_second: float) -> None:
        pass

    def validated(self, row: Row, pictures: Pictures) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Several:
    """Passes everything on to each of its loggers."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = list(loggers)

    def started(self, first_step: int, total_steps: int) -> None:
        for logger in self.loggers:
            logger.started(first_step, total_steps)

    def progressed(self, row: Row, images_per_second: float) -> None:
        for logger in self.loggers:
            logger.progressed(row, images_per_second)

    def validated(self, row: Row, pictures: Pictures) -> None:
        for logger in self.loggers:
            logger.validated(row, pictures)

    def message(self, text: str) -> None:
        for logger in self.loggers:
            logger.message(text)

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


def row_as_text(row: Row) -> str:
    """`step 400 · epoch 2.0 · train · loss 98.3 · …`, for people."""
    words = [f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()]
    return " · ".join(words)


class LogFile(Silent):
    """logs/train.log: everything that happened, with times."""

    def __init__(self, run: Path) -> None:
        folder = run / "logs"
        with storage_errors(run):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "train.log").open(
                "a", encoding="utf-8", errors="backslashreplace", newline="\n", buffering=1
            )  # whole lines at once
        self._run = run

    def _write(self, text: str) -> None:
        with storage_errors(self._run):
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(text)}\n")

    def started(self, first_step: int, total_steps: int) -> None:
        self._write(f"training from step {first_step} to step {total_steps}")

    def progressed(self, row: Row, images_per_second: float) -> None:
        self._write(f"{row_as_text(row)} · {images_per_second:.0f} img/s")

    def validated(self, row: Row, pictures: Pictures) -> None:
        self._write(row_as_text(row))

    def message(self, text: str) -> None:
        self._write(text)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was told by the write
            self._file.close()


def history_csv(history: Sequence[Row]) -> str:
    """The history as CSV, one row per log point and validation. No clock times: a resumed run has the same bytes."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def write_history(run: Path, history: Sequence[Row]) -> None:
    """logs/history.csv, whole."""
    write_text_atomically(run / "logs" / "history.csv", history_csv(history))


class TensorBoard(Silent):
    """Scalars and pictures as TensorBoard events in logs/."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise ConfigError(missing_extra("logging.tensorboard", "tensorboard")) from None
        self._writer = SummaryWriter(str(run / "logs"))  # type: ignore[no-untyped-call]

    def progressed(self, row: Row, images_per_second: float) -> None:
        self._scalars(row)
        self._writer.add_scalar("train/images_per_second", images_per_second, row["step"])  # type: ignore[no-untyped-call]

    def validated(self, row: Row, pictures: Pictures) -> None:
        self._scalars(row)
        for name, images in pictures().items():
            self._writer.add_images(name, images, row["step"])  # type: ignore[no-untyped-call]
        self._writer.flush()  # type: ignore[no-untyped-call]

    def _scalars(self, row: Row) -> None:
        for key, value in row.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{row['split']}/{key}", value, row["step"])  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._writer.close()  # type: ignore[no-untyped-call]


class Wandb(Silent):
    """Losses, reconstructions and samples to Weights & Biases (its own WANDB_MODE=offline works)."""

    def __init__(self, run: Path, config: Config) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError(missing_extra("logging.wandb", "wandb")) from None
        self._wandb = wandb
        self._run = wandb.init(project=config.logging.project, name=run.name, dir=str(run), config=asdict(config))

    def progressed(self, row: Row, images_per_second: float) -> None:
        self._run.log({**self._named(row), "train/images_per_second": images_per_second}, step=row["step"])

    def validated(self, row: Row, pictures: Pictures) -> None:
        shown = {
            name: [self._wandb.Image(image.permute(1, 2, 0).numpy()) for image in images]
            for name, images in pictures().items()
        }
        self._run.log({**self._named(row), **shown}, step=row["step"])

    @staticmethod
    def _named(row: Row) -> dict[str, float]:
        return {f"{row['split']}/{key}": value for key, value in row.items() if isinstance(value, float)}

    def close(self) -> None:
        self._run.finish()


def build_loggers(run: Path, config: Config, extra: Sequence[Logger] = ()) -> Several:
    """The log file, what the config asks for, and the caller's own (a progress bar)."""
    wanted: LoggingConfig = config.logging
    chosen: list[Logger] = []  # first, because they may be absent
    if wanted.tensorboard:
        chosen.append(TensorBoard(run))
    if wanted.wandb:
        chosen.append(Wandb(run, config))
    return Several([LogFile(run), *extra, *chosen])
