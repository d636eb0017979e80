"""What must survive: a killed run, and a saved model. In a temporary folder that is deleted afterwards."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from vaekit.config.schema import Part
from vaekit.densities.noise import BlockNoise
from vaekit.models.build import vae
from vaekit.models.trace import terms
from vaekit.system import KILLED
from vaekit.training.checkpoint import Checkpoint, load_checkpoint, load_weights, pointed, save_checkpoint

# Everything that has a state or a schedule is on, and saving, validating and logging fall on different steps
COMMAND = (
    "train",
    "digits",
    "data.limit=400",
    "data.validation=60",
    "data.shift=1",
    "model.network={kind: mlp, widths: [16]}",
    "model.latent_dim=4",
    "objective.beta={kind: linear, over: 2}",
    "training.epochs=50",
    "training.batch_size=40",
    "training.learning_rate=1e-3",
    "training.warmup=9",
    "training.accumulate=2",
    "training.validate_every=11",
    "training.checkpoint_every=7",
    "training.log_every=5",
    "training.threads=1",
    "training.deterministic=true",
)
KILLED_BETWEEN = (50, 300)  # of its 500 steps: the first checkpoint after a step of these is its last
SECONDS = 120  # that a run of half a second may take on a machine that is busy
OWN = ("train.log", ".lock")  # files with clock times, or without content


class RunFailed(Exception):
    """A training in another process that did not do what it was to."""


def files_that_differ(device: torch.device) -> float:
    """How many files of a run that was killed with SIGKILL and resumed differ from those of one that was not."""
    with _place() as place:
        expected = what_is_left(_finished(place, "whole", device))
        _killed(place, "killed", device)
        found = what_is_left(_finished(place, "killed", device, "--resume"))
    return float(sum(expected.get(name) != found.get(name) for name in expected.keys() | found.keys()))


def what_is_left(run: Path) -> dict[str, bytes]:
    """Every file of a run that must not depend on interruptions: all but the log with its clock times."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in OWN
    }


@contextmanager
def _place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vaekit-selftest-") as folder:
        yield Path(folder)


@contextmanager
def _started(place: Path, name: str, device: torch.device, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A training in another process, which does not outlive the block, whatever happens in it."""
    command = [sys.executable, "-m", "vaekit", *COMMAND, f"training.device={device}", "--out", name, *words]
    with (place / f"{name}.txt").open("wb") as said:
        process = subprocess.Popen(command, cwd=place, env=_environment(place), stdout=said, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()  # nothing happens where it has ended
        process.wait()


def _environment(place: Path) -> Mapping[str, str]:
    """This process's own, with this very package, nothing of torchrun, and every folder inside the temporary one."""
    package = Path(__file__).parents[2]
    paths = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    folders = dict.fromkeys(("VAEKIT_DATA", "VAEKIT_CACHE", "VAEKIT_WEIGHTS", "MPLCONFIGDIR"), str(place / "cache"))
    return kept | folders | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def _finished(place: Path, name: str, device: torch.device, *words: str) -> Path:
    """A run trained to its end. RunFailed with what it said last."""
    with _started(place, name, device, *words) as process:
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"training had not ended after {SECONDS} s") from None
    if code:
        said = (place / f"{name}.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"]
        raise RunFailed(f"training ended with {code} and said: {said[-1]}")
    return place / name


def _killed(place: Path, name: str, device: torch.device) -> None:
    """A run that SIGKILL ended at its first checkpoint after a random step. RunFailed where it ended before."""
    step, ends = random.Random(0).randrange(*KILLED_BETWEEN), time.monotonic() + SECONDS
    with _started(place, name, device) as process:
        while (pointed(place / name, "latest") or 0) < step and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.001)
    if process.returncode != KILLED or not pointed(place / name, "latest"):
        raise RunFailed(f"training ended with {process.returncode}: not killed after a checkpoint, at step {step}")


@torch.no_grad()
def change_by_saving(device: torch.device) -> float:
    """Largest difference between a model's weights and terms and those of the same model saved and loaded."""

    def fresh() -> torch.nn.Module:
        return vae((1, 8, 8), 4, Part("conv", {"widths": (4, 8), "norm": "batch"}), "discretised-logistic")

    saved, loaded = fresh(), fresh()
    x = torch.rand(20, 1, 8, 8).mul(255).round().div(255)
    saved(x)  # moves the running statistics away from where they start
    with _place() as place:
        folder = save_checkpoint(place, Checkpoint(1, {"model": dict(saved.state_dict())}, {}))
        load_weights(loaded, load_checkpoint(folder).tensors["model"])
    before, after = (terms(model.to(device).eval()(x.to(device), 3, BlockNoise(seed=0))) for model in (saved, loaded))
    weights = zip(saved.state_dict().values(), loaded.state_dict().values(), strict=True)
    changes = [*((a - b).abs().max() for a, b in weights), *((before[name] - after[name]).abs() for name in before)]
    return max(float(change) for change in changes)
