"""Objectives with a state of their own: another network beside the model, or a multiplier."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vaekit.models.trace import Objective, Trace, distortion
from vaekit.objectives.evidence import rate
from vaekit.objectives.needs import Needs

OWN_LOSS = "own_loss"  # the name under which it is logged


class Learned(nn.Module):
    """An objective with weights that learn beside the model's, or buffers that follow what is measured.

    Two losses of one trace: `forward`, whose gradient reaches the model alone, and `own_loss`, whose gradient reaches
    the weights here alone. One backward pass of `with_own` serves both. The weights have an Adam of their own, stepped
    after the model's and skipped together with it; clipping and averaging are not for them. Weights and buffers are
    saved beside the model.
    """

    def __init__(self, needs: Needs, learning_rate: float = 1e-4, betas: tuple[float, float] = (0.5, 0.9)) -> None:
        """Learning rate and betas are of the weights here."""
        super().__init__()
        self.needs, self.learning_rate, self.betas = needs, learning_rate, betas

    def forward(self, trace: Trace, step: Tensor) -> Tensor:
        """What the model minimises: scalar, nats per example; the weights here are stopped."""
        raise NotImplementedError

    def own_loss(self, trace: Trace) -> Tensor:
        """What the weights here minimise: scalar; the trace is stopped. 0 where there are no weights."""
        return trace.x.new_zeros(())

    def terms(self, trace: Trace) -> dict[str, Tensor]:
        """What is logged besides the terms of every objective: 0-d, without gradient."""
        return {}

    def follow(self, measured: Mapping[str, Tensor], accepted: Tensor | None) -> None:
        """Change the buffers after an update by what it measured, of the whole batch; not where not `accepted`."""

    def selection(self, trace: Trace) -> Tensor:
        """What chooses the best checkpoint: comparable between epochs, as a loss that learns is not. Negative ELBO."""
        return distortion(trace) + rate(trace) + trace.penalty.mean()


def with_own(objective: Objective, trace: Trace, step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, what is logged besides): the loss has the model's value, and the gradients of both losses."""
    loss = objective(trace, step)
    if not isinstance(objective, Learned):
        return loss, {}
    own = objective.own_loss(trace)
    with torch.no_grad():
        logged = objective.terms(trace)
    if any(True for _ in objective.parameters()):
        logged[OWN_LOSS] = own.detach()
    return loss + (own - own.detach()), logged


def selection_of(objective: Objective, trace: Trace, last_step: Tensor) -> Tensor:
    """The loss as the last step weighs it; what a learned objective says instead."""
    return objective.selection(trace) if isinstance(objective, Learned) else objective(trace, last_step)
