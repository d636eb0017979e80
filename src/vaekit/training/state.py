"""What a checkpoint of a run holds, and how a run goes on from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vaekit.config.schema import Config
from vaekit.data.splits import Splits, same_data
from vaekit.densities.noise import derived_seed
from vaekit.errors import CheckpointError, one_line
from vaekit.models.model import Model
from vaekit.processes import World
from vaekit.training.acceleration import Choices
from vaekit.training.checkpoint import Checkpoint, load_weights, point, prune, saved_steps
from vaekit.training.device import environment, generator_states, set_generator_states
from vaekit.training.ema import Ema
from vaekit.training.loggers import write_history
from vaekit.training.objective_weights import ObjectiveWeights
from vaekit.training.optimizer import Optimizer
from vaekit.training.step import Counters


@dataclass
class Progress:
    """What a run remembers besides tensors; JSON in its checkpoints."""

    history: list[dict[str, Any]] = field(default_factory=list)
    first_loss: float | None = None  # of the first batch before any update, with the schedules at their end
    best_step: int | None = None
    best_value: float | None = None  # of the validation objective with its schedules at their end
    validations_since_best: int = 0
    finished: bool = False


class Resumable(Protocol):
    """What is asked of a trainer whose run is saved and gone on with."""

    config: Config
    written: Mapping[str, Any]
    splits: Splits
    run: Path
    world: World
    device: torch.device
    model: Model
    ema: Ema
    optimizer: Optimizer
    own: ObjectiveWeights
    counters: Counters
    progress: Progress
    choices: Choices | None
    steps_per_epoch: int
    total_steps: int

    def choices_now(self) -> Choices: ...

    def out_of_patience(self) -> bool: ...


def snapshot(trainer: Resumable) -> Checkpoint:
    """Everything a run needs to go on as if it had never stopped. Every process of the run must call it."""
    return Checkpoint(
        int(trainer.counters.step),
        {
            "model": dict(trainer.model.state_dict()),
            "ema": dict(trainer.ema.model.state_dict()),
            "optimizer": trainer.optimizer.tensors(trainer.model),
            "trainer": {**trainer.counters.tensors(), **_random(trainer)},
            **({"objective": own} if (own := trainer.own.tensors()) else {}),
        },
        {
            "config": trainer.written,
            "shape": list(trainer.splits.train.shape),
            "class_names": list(trainer.splits.train.class_names),
            "data": dict(trainer.splits.facts),
            "environment": environment(trainer.device, trainer.world.size),
            "choices": vars(trainer.choices_now()),
            "steps_per_epoch": trainer.steps_per_epoch,
            "total_steps": trainer.total_steps,
            "progress": vars(trainer.progress).copy(),
        },
    )


def refuse_other_data(checkpoint: Checkpoint, facts: Mapping[str, Any]) -> None:
    """CheckpointError where these are not the facts of the data that a checkpoint's run was trained on."""
    if not same_data(checkpoint.state["data"], facts):
        raise CheckpointError(
            "the data is not what this run was trained on (another folder, split, preprocessing or classes); restore "
            "it, say with --data-dir where it lies now, or start a new run with training.start_from set to this one"
        )


def restore(trainer: Resumable, checkpoint: Checkpoint) -> None:
    """Let a trainer go on from a checkpoint of its own run."""
    refuse_other_data(checkpoint, trainer.splits.facts)
    if absent := {"model", "ema", "optimizer", "trainer"} - checkpoint.tensors.keys():
        raise CheckpointError(f"the checkpoint lacks {sorted(absent)[0]}.safetensors; use another one of the run")
    if list(checkpoint.state["shape"]) != list(trainer.splits.train.shape):
        raise CheckpointError(
            f"images of {checkpoint.state['shape']} are not those of its data; use another checkpoint"
        )
    load_weights(trainer.model, checkpoint.tensors["model"])
    load_weights(trainer.ema.model, checkpoint.tensors["ema"])
    try:
        _restore_training(trainer, checkpoint)
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"step {checkpoint.step} is not the state of such a training ({one_line(error)}); use another checkpoint"
        ) from error


def _restore_training(trainer: Resumable, checkpoint: Checkpoint) -> None:
    """What the run itself had, beside its weights."""
    trainer.optimizer.load(trainer.model, checkpoint.tensors["optimizer"])
    trainer.own.load(checkpoint.tensors.get("objective", {}))
    tensors = checkpoint.tensors["trainer"]
    _set_random(trainer, tensors, checkpoint.step)
    trainer.counters.load({name: value for name, value in tensors.items() if not name.startswith("random/")})
    trainer.choices = Choices(**checkpoint.state["choices"])
    trainer.progress = Progress(**checkpoint.state["progress"])
    trainer.progress.history = list(trainer.progress.history)
    trainer.progress.finished = int(trainer.counters.step) >= trainer.total_steps or trainer.out_of_patience()
    if trainer.world.leads:
        _forget_the_future(trainer)


def _forget_the_future(trainer: Resumable) -> None:
    """What was written after the checkpoint belongs to a past that is about to be repeated."""
    best = trainer.progress.best_step
    if best is not None and best in saved_steps(trainer.run):
        point(trainer.run, "best", best)
    write_history(trainer.run, trainer.progress.history)
    prune(trainer.run, trainer.config.training.keep)


def _random(trainer: Resumable) -> dict[str, Tensor]:
    """The states of the generators of every process: `random/cpu`, and for process 1 `random/1/cpu`, and so on."""
    states: dict[str, Tensor] = {}
    for kind, own in zip(("cpu", "cuda"), generator_states(trainer.device), strict=False):
        for rank, state in enumerate(trainer.world.gather(own)):
            states[_name(kind, rank)] = state
    return states


def _name(kind: str, rank: int) -> str:
    return f"random/{rank}/{kind}" if rank else f"random/{kind}"


def _set_random(trainer: Resumable, tensors: dict[str, Tensor], step: int) -> None:
    """This process's generators as they were saved; a process that was not there begins a stream of its own."""
    rank = trainer.world.rank
    if _name("cpu", rank) not in tensors:
        torch.manual_seed(derived_seed(trainer.config.training.seed, "process", rank, step))
        return
    states = [tensors[name] for name in (_name("cpu", rank), _name("cuda", rank)) if name in tensors]
    if len(states) == 1 and trainer.device.type == "cuda":  # a run of the CPU goes on: its own generator is new here
        states.append(torch.cuda.get_rng_state(trainer.device))
    set_generator_states(trainer.device, states)
