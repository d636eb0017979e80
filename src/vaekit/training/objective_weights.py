"""The update of an objective's own weights and buffers, after the model's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vaekit.config.schedule_shapes import constant
from vaekit.errors import CheckpointError
from vaekit.models.trace import Objective
from vaekit.objectives.learned import Learned
from vaekit.training.optimizer import Adam, Optimizer, Update

OPTIMIZER = "optimizer/"  # how its tensors' names begin in a checkpoint


class ObjectiveWeights:
    """Of a learned objective: its optimiser, its state by name. Of any other: nothing, and no method does a thing."""

    def __init__(self, objective: Objective, device: torch.device) -> None:
        """Moves a learned objective to the device."""
        self.objective = objective.to(device) if isinstance(objective, Learned) else None
        self.weights: list[Tensor] = [] if self.objective is None else list(self.objective.parameters())
        self.optimizer: Optimizer | None = None
        if self.objective is not None and self.weights:
            self.optimizer = Adam([(self.weights, 0.0)], self.objective.betas, eps=1e-8)
            self.learning_rate = constant(self.objective.learning_rate)

    def judge(self, accepted: Tensor | None) -> Tensor | None:
        """Whether the gradients here are finite too: an update is made in both networks or in none."""
        if accepted is None or not self.weights:
            return accepted
        norms = torch.stack(torch._foreach_norm([w.grad for w in self.weights if w.grad is not None]))
        return accepted & torch.isfinite(norms).all()

    def step(
        self, step: Tensor, divisor: Tensor | None, measured: Mapping[str, Tensor], accepted: Tensor | None
    ) -> None:
        """Move the weights by their gradients, which hold the fp16 scale `divisor`; let the buffers follow."""
        if self.optimizer is not None:
            self.optimizer.step(Update(self.learning_rate(step), divisor, accepted))
        if self.objective is not None:
            self.objective.follow(measured, accepted)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and the optimiser's state, by name."""
        if self.objective is None:
            return {}
        moments = {} if self.optimizer is None else self.optimizer.tensors(self.objective)
        return {**self.objective.state_dict(), **{OPTIMIZER + name: value for name, value in moments.items()}}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave. CheckpointError where the two do not match."""
        own = self.tensors()
        if strange := sorted(own.keys() ^ tensors.keys()):
            raise CheckpointError(f"the objective's state does not fit this objective: '{strange[0]}'")
        for name, value in tensors.items():
            if own[name].shape != value.shape:
                raise CheckpointError(f"the objective's state does not fit this objective: '{name}' has another shape")
            own[name].copy_(value)
