"""Save and load: one folder of safetensors and JSON with a manifest of SHA-256 sums. No pickle is read or written.

A checkpoint is written to a temporary folder, synced and renamed, so it is whole or absent whatever happens.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from vaekit.errors import CheckpointError, ConfigError, NumericalError, VaekitWarning
from vaekit.files import PARTIAL, storage_errors, write_text_atomically
from vaekit.system import sync_folder

FORMAT = 1
STEP_FOLDER = re.compile(r"step-(\d{8,})")
POINTERS = ("best", "latest")
MOST_SIDE = 2**20  # of an image
FILE = re.compile(r"state\.json|[a-z]+\.safetensors")  # that a manifest may name
POINTER = re.compile(r"step-(?P<step>\d{8,})(?: (?P<digest>[0-9a-f]{64}))?\n?")  # without a digest in older runs
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on: groups of tensors (model, ema, optimizer, trainer; objective), plain state."""

    step: int
    tensors: Mapping[str, Tensors]
    state: Mapping[str, Any]


def checkpoints_folder(run: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run / "checkpoints"


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write checkpoints/step-…; returns the folder.

    NumericalError where a weight is not finite, StorageError where the disk is full: the others are intact then.
    """
    for group in ("model", "ema", "optimizer", "objective"):
        _refuse_non_finite(group, checkpoint.tensors.get(group, {}))
    parent = checkpoints_folder(run)
    final = parent / f"step-{checkpoint.step:08d}"
    with storage_errors(run):
        parent.mkdir(parents=True, exist_ok=True)
        temporary = parent / f".{final.name}.{os.getpid()}{PARTIAL}"
        try:
            _write_folder(temporary, checkpoint)
            if not _same(temporary, final):
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            sync_folder(parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def _same(new: Path, old: Path) -> bool:
    """Whether a checkpoint is there already: the same step again after a resume is the same bytes, by promise.

    Left in place then, so that no pointer to it hangs in the air even for a moment.
    """
    try:
        load_checkpoint(old)
        return (old / "manifest.json").read_bytes() == (new / "manifest.json").read_bytes()
    except (CheckpointError, OSError):
        return False


def _refuse_non_finite(group: str, tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NumericalError(
                f"{group} tensor '{name}' is not finite, so no checkpoint was written; "
                "lower training.learning_rate or training.clip, and resume from the last checkpoint"
            )


def _write_folder(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    files = {f"{name}.safetensors": to_safetensors(_plain(group)) for name, group in checkpoint.tensors.items()}
    files["state.json"] = json.dumps({"format": FORMAT, "step": checkpoint.step, **checkpoint.state}, indent=1).encode()
    sums = {name: _sums(data) for name, data in files.items()}
    files["manifest.json"] = json.dumps({"format": FORMAT, "files": sums}, indent=1).encode()
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def _sums(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _plain(tensors: Tensors) -> Tensors:
    """On the CPU, row-major, and no two sharing memory: what safetensors accepts."""
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def point(run: Path, name: str, step: int) -> None:
    """Let checkpoints/latest or checkpoints/best name a step, and the bytes that it has."""
    folder = checkpoints_folder(run) / f"step-{step:08d}"
    write_text_atomically(checkpoints_folder(run) / name, f"{folder.name} {checkpoint_digest(folder)}\n")


def saved_steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints of a run, rising."""
    folder = checkpoints_folder(run)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := STEP_FOLDER.fullmatch(name)))


def pointed(run: Path, name: str) -> int | None:
    """The step that checkpoints/latest or checkpoints/best names, if a checkpoint of that step and digest is there."""
    path = checkpoints_folder(run) / name
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    match = POINTER.fullmatch(text)
    if match is None or int(match["step"]) not in saved_steps(run):
        return None
    step, digest = int(match["step"]), match["digest"]
    whole = digest is None or digest == checkpoint_digest(checkpoints_folder(run) / f"step-{step:08d}")
    return step if whole else None


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and those that `best` and `latest` name."""
    spare = {*saved_steps(run)[-keep:], pointed(run, "best") or selected_step(run), pointed(run, "latest")}
    for step in saved_steps(run):
        if step not in spare:
            shutil.rmtree(checkpoints_folder(run) / f"step-{step:08d}", ignore_errors=True)


def tidy(run: Path) -> None:
    """Delete what an interrupted write left. Only for the process that holds the run."""
    for folder in (run, run / "logs", checkpoints_folder(run)):
        for leftover in folder.glob(f".*{PARTIAL}"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def locate(run: Path, which: str = "best") -> Path:
    """The folder of a run's best or latest checkpoint; of a checkpoint's own folder or pointer, that one."""
    if which not in POINTERS:
        raise ConfigError(
            f"unknown checkpoint '{which}'; choose one of: {', '.join(POINTERS)}; or give its folder as RUN"
        )
    if STEP_FOLDER.fullmatch(run.name) and run.is_dir():
        return run
    if run.name in POINTERS and run.parent.name == "checkpoints":
        return locate(run.parent.parent, run.name)
    if not run.is_dir():
        raise CheckpointError(f"no run at {run}; give a run's folder such as runs/digits, or one of its checkpoints")
    if not saved_steps(run):
        raise CheckpointError(f"{run} holds no checkpoint; train it first, or give another run's folder")
    step = pointed(run, which) or _instead_of(run, which)
    return checkpoints_folder(run) / f"step-{step:08d}"


def selected_step(run: Path) -> int | None:
    """The step that was best when the newest checkpoint was written; None where nothing was validated yet."""
    steps = saved_steps(run)
    if not steps:
        return None
    state = load_checkpoint(checkpoints_folder(run) / f"step-{steps[-1]:08d}", ()).state
    progress = state.get("progress")
    found = progress.get("best_step") if isinstance(progress, dict) else None
    return found if isinstance(found, int) and found > 0 else None


def _instead_of(run: Path, which: str) -> int:
    """The step to take where `best` or `latest` is lost or damaged, which is said. CheckpointError where none is it."""
    path, steps = checkpoints_folder(run) / which, saved_steps(run)
    wrong = "is damaged, or names a checkpoint that is not there" if path.exists() else "is missing"
    if which == "latest":
        warnings.warn(f"{path} {wrong}; the newest checkpoint is taken, step {steps[-1]}", VaekitWarning, stacklevel=3)
        return steps[-1]
    best = selected_step(run)
    if best is None:  # killed before its first validation: nothing was selected
        return steps[-1]
    if best not in steps:
        raise CheckpointError(
            f"{path} {wrong}, and so is the checkpoint of step {best} that was best; restore it from a copy, or take "
            "the newest with --checkpoint latest"
        )
    warnings.warn(
        f"{path} {wrong}; step {best} is taken, the best one by the newest checkpoint", VaekitWarning, stacklevel=3
    )
    return best


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's manifest, which holds the sums of all its files: other bytes have another digest."""
    return hashlib.sha256(_read(folder / "manifest.json")).hexdigest()


def load_checkpoint(folder: Path, groups: tuple[str, ...] | None = None) -> Checkpoint:
    """Read and verify a checkpoint folder, or only some of its tensor groups. CheckpointError if anything is off."""
    manifest = _parse_json(folder / "manifest.json", _read(folder / "manifest.json"))
    if not isinstance(manifest.get("files"), dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} is of checkpoint format {manifest.get('format')!r}; this vaekit reads format {FORMAT}"
        )
    tensors: dict[str, Tensors] = {}
    state: dict[str, Any] = {}
    for name, entry in manifest["files"].items():
        if not FILE.fullmatch(name):
            raise CheckpointError(
                f"{folder} is not of vaekit: its manifest names {name!r}, which is no file of its own"
            )
        group = name.removesuffix(".safetensors")
        if name != "state.json" and groups is not None and group not in groups:
            continue
        data = _read(folder / name)
        if entry != _sums(data):
            raise CheckpointError(
                f"{folder / name} is damaged: its SHA-256 is not the manifest's; "
                "use another checkpoint of the run, or restore the file from a copy"
            )
        if name == "state.json":
            state = _parse_json(folder / name, data)
        else:
            tensors[group] = _parse_tensors(folder / name, data)
    if not isinstance(state.get("step"), int) or (groups and not tensors.keys() >= set(groups)):
        raise CheckpointError(f"{folder} is damaged: its manifest lacks a file; use another checkpoint of the run")
    return Checkpoint(int(state["step"]), tensors, state)


# What the state of a run holds beside its step, by name; the numbers of a report depend on some of it.
STATE: Mapping[str, type] = {
    "config": dict,
    "shape": list,
    "class_names": list,
    "data": dict,
    "environment": dict,
    "choices": dict,
    "steps_per_epoch": int,
    "total_steps": int,
    "progress": dict,
}


def require_state(folder: Path, checkpoint: Checkpoint) -> None:
    """CheckpointError where the state is not that of a run: sums say who wrote a file, not what is in it."""
    state, wrong = checkpoint.state, f"{folder / 'state.json'} is not the state of a run: "
    for name, kind in STATE.items():
        if not isinstance(state.get(name), kind):
            raise CheckpointError(f"{wrong}its '{name}' is {state.get(name)!r:.40}, no {kind.__name__}")
    shape, history = state["shape"], state["progress"].get("history")
    if len(shape) != 3 or not all(isinstance(side, int) and 0 < side <= MOST_SIDE for side in shape):
        raise CheckpointError(f"{wrong}images of shape {shape!r:.40} do not exist")
    if not all(isinstance(name, str) for name in state["class_names"]):
        raise CheckpointError(f"{wrong}its 'class_names' are not all text")
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise CheckpointError(f"{wrong}its history is no list of rows")
    if checkpoint.step < 0 or min(state["steps_per_epoch"], state["total_steps"]) < 1:
        raise CheckpointError(f"{wrong}it counts steps below what there can be")


def _read(path: Path) -> bytes:
    try:
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise CheckpointError(f"{path} is a link, a pipe or a device, and is not read; put the file itself there")
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} lacks {path.name}; it is not a whole checkpoint of vaekit") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; check its permissions and its disk") from None


def _parse_tensors(path: Path, data: bytes) -> Tensors:
    """CheckpointError for what is no safetensors file, and for weights that are not finite: they would give numbers."""
    try:
        found = parse_safetensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no safetensors file ({error}); use another checkpoint of the run") from None
    if path.stem in ("model", "ema"):
        for name, tensor in found.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{path}: weight '{name}' is not finite; use another checkpoint of the run")
    return found


def _parse_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged: it is not JSON; use another checkpoint of the run") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: it is not a JSON object; use another checkpoint of the run")
    return value


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a model. CheckpointError naming the first weight that does not fit."""
    own = model.state_dict()
    if missing := sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(f"the checkpoint is of another model: weight '{missing[0]}' is not in both")
    for name, value in tensors.items():
        if own[name].shape != value.shape:
            raise CheckpointError(
                f"the checkpoint is of another model: '{name}' is {tuple(value.shape)} there and "
                f"{tuple(own[name].shape)} here; use the same network, latent_dim and image shape"
            )
        if own[name].is_floating_point() != value.is_floating_point():
            raise CheckpointError(
                f"the checkpoint is of another model: '{name}' is {value.dtype}, not {own[name].dtype}"
            )
    model.load_state_dict(dict(tensors))
