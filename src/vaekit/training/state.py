"""What a checkpoint of a run holds, and how a run goes on from one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit.checkpoint import Checkpoint, load_weights, point, prune, saved_steps
from vaekit.errors import CheckpointError
from vaekit.noise import derived_seed
from vaekit.training.acceleration import Choices
from vaekit.training.device import environment, generator_states, set_generator_states
from vaekit.training.loggers import write_history

if TYPE_CHECKING:
    from vaekit.training.loop import Trainer


@dataclass
class Progress:
    """What a run remembers besides tensors; JSON in its checkpoints."""

    history: list[dict[str, Any]] = field(default_factory=list)
    first_loss: float | None = None  # of the first batch before any update, with the schedules at their end
    best_step: int | None = None
    best_value: float | None = None  # of the validation objective with its schedules at their end
    validations_since_best: int = 0
    finished: bool = False


def snapshot(trainer: Trainer) -> Checkpoint:
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


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Let a trainer go on from a checkpoint of its own run."""
    saved = checkpoint.state["data"].get("fingerprint")
    if saved != trainer.splits.facts.get("fingerprint"):
        raise CheckpointError(
            "the data is not what this run was trained on (another folder, split or preprocessing); "
            "restore it, or start a new run with training.start_from set to this one"
        )
    load_weights(trainer.model, checkpoint.tensors["model"])
    load_weights(trainer.ema.model, checkpoint.tensors["ema"])
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


def _forget_the_future(trainer: Trainer) -> None:
    """What was written after the checkpoint belongs to a past that is about to be repeated."""
    best = trainer.progress.best_step
    if best is not None and best in saved_steps(trainer.run):
        point(trainer.run, "best", best)
    write_history(trainer.run, trainer.progress.history)
    prune(trainer.run, trainer.config.training.keep)


def _random(trainer: Trainer) -> dict[str, Tensor]:
    """The states of the generators of every process: `random/cpu`, and for process 1 `random/1/cpu`, and so on."""
    states: dict[str, Tensor] = {}
    for kind, own in zip(("cpu", "cuda"), generator_states(trainer.device), strict=False):
        for rank, state in enumerate(trainer.world.gather(own)):
            states[_name(kind, rank)] = state
    return states


def _name(kind: str, rank: int) -> str:
    return f"random/{rank}/{kind}" if rank else f"random/{kind}"


def _set_random(trainer: Trainer, tensors: dict[str, Tensor], step: int) -> None:
    """This process's generators as they were saved; a process that was not there begins a stream of its own."""
    rank = trainer.world.rank
    if _name("cpu", rank) not in tensors:
        torch.manual_seed(derived_seed(trainer.config.training.seed, "process", rank, step))
        return
    states = [tensors[name] for name in (_name("cpu", rank), _name("cuda", rank)) if name in tensors]
    if len(states) == 1 and trainer.device.type == "cuda":  # a run of the CPU goes on: its own generator is new here
        states.append(torch.cuda.get_rng_state(trainer.device))
    set_generator_states(trainer.device, states)
