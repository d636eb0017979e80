"""Timing in one run: candidates take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Timing(NamedTuple):
    """Seconds for one unit of work, round by round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def rate(self, units: float = 1) -> float:
        """Units per second, by the median."""
        return units / self.median

    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def take_turns(candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Timing]:
    """Every candidate once to warm up, then `rounds` times in turn; each returns its seconds for one unit."""
    for candidate in candidates.values():
        candidate()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            seconds[name].append(candidate())
    return {name: Timing(values) for name, values in seconds.items()}


def ratio(ours: Timing, theirs: Timing) -> str:
    """How many times faster: median of the rounds' ratios, and their range."""
    each = sorted(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))
    return f"{statistics.median(each):.2f}× ({each[0]:.2f}–{each[-1]:.2f})"


def seconds_of(work: Callable[[], object], device: torch.device, units: int = 1) -> float:
    """Wall seconds for one of `units`, the device's queue included."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return (time.perf_counter() - began) / units


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_products(device: torch.device, dtype: torch.dtype, tf32: bool) -> Callable[[], float]:
    """A candidate that returns seconds for one floating-point operation, in the best of several square products.

    Taking turns with what it is the limit of, it slows down where that does.
    """
    sides = (2048, 4096, 8192) if device.type == "cuda" else (512, 1024, 2048)
    pairs = [[torch.randn(side, side, device=device).to(dtype) for _ in range(2)] for side in sides]

    def work() -> float:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            return min(min(_of_product(a, b, device) for _ in range(3)) for a, b in pairs)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return work


def _of_product(a: Tensor, b: Tensor, device: torch.device) -> float:
    return seconds_of(lambda: a @ b, device) / (2 * len(a) ** 3)


def peak_memory(program: str, environment: Mapping[str, str] | None = None) -> int:
    """Largest resident bytes of a Python program in a process of its own."""
    # not getrusage: a child inherits its parent's peak
    ending = "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    run = subprocess.run(
        [sys.executable, "-c", program + ending],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    return int(run.stdout.split()[-1]) * 1024


def process_seconds(arguments: list[str]) -> float:
    """Wall seconds of a process."""
    began = time.perf_counter()
    subprocess.run(arguments, check=True, capture_output=True)
    return time.perf_counter() - began


def machine(device: torch.device) -> str:
    """One line: date, processor, threads, device, versions."""
    names = ("torch", "numpy", "pythae")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU used"
    return (
        f"{datetime.date.today().isoformat()} · {_processor()}, {torch.get_num_threads()} threads "
        f"({torch.backends.cpu.get_cpu_capability()}) · {chip} · Python {platform.python_version()}, "
        f"{', '.join(versions)}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
