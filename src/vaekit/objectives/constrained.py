"""Objectives that hold a term at a value: the rate at a capacity, or the error below a tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vaekit.config.schedule_shapes import Schedule, Weight, as_schedule
from vaekit.config.schema import Positive, Share
from vaekit.models.trace import Objective, Trace, distortion
from vaekit.objectives.evidence import rate
from vaekit.objectives.learned import Learned
from vaekit.objectives.needs import Needs


class Capacity:
    """distortion + gamma * |rate - nats| + penalty."""

    needs = Needs(latents=True)

    def __init__(self, gamma: Schedule, nats: Schedule) -> None:
        self.gamma, self.nats = gamma, nats

    def __call__(self, trace: Trace, step: Tensor) -> Tensor:
        gap = (rate(trace) - self.nats(step)).abs()
        return distortion(trace) + self.gamma(step) * gap + trace.penalty.mean()


def capacity(*, gamma: Weight = 100.0, nats: Weight = 25.0) -> Objective:
    """distortion + gamma * |rate - nats| + penalty, where the allowed nats usually rise with the step.

    Burgess et al. 2018, arXiv:1804.03599

    Example:
        >>> import torch
        >>> from vaekit.models.build import vae
        >>> from vaekit.models.trace import terms
        >>> trace = vae((1, 8, 8))(torch.rand(4, 1, 8, 8).round())
        >>> found = terms(trace)
        >>> loss = capacity(nats=float(found["rate"]))(trace, torch.tensor(0))
        >>> bool(torch.isclose(loss, found["distortion"]))
        True
    """
    return Capacity(as_schedule(gamma), as_schedule(nats))


CONSTRAINT = "constraint"  # a term in the log
LOG_MULTIPLIER = (-14.0, 14.0)  # beyond a millionth and a million one of the two terms is not seen in float32
VIOLATION = 100.0  # nats per unit of a violated constraint, where checkpoints are compared


class Geco(Learned):
    """rate + multiplier * constraint + penalty; the multiplier rises while the constraint is above 0, else it falls.

    constraint = (measured - tolerance), summed over pixel values, mean over the batch.
    """

    log_multiplier: Tensor
    average: Tensor
    begun: Tensor

    def __init__(self, measure: str, tolerance: float, speed: float, smoothing: float) -> None:
        super().__init__(Needs(latents=True))
        self.measure, self.tolerance, self.speed, self.smoothing = measure, tolerance, speed, smoothing
        self.register_buffer("log_multiplier", torch.zeros(()))
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("begun", torch.zeros(()))  # 1 after the first update: the average is of something

    def constraint(self, trace: Trace) -> Tensor:
        """Above 0 where it is violated: scalar."""
        measured = distortion(trace) if self.measure == "distortion" else _squared_error(trace)
        return measured - self.tolerance * trace.x[0].numel()

    def forward(self, trace: Trace, step: Tensor) -> Tensor:
        loss = rate(trace) + self.log_multiplier.exp() * self.constraint(trace) + trace.penalty.mean()
        return loss + 0 * distortion(trace)  # a gradient for every weight: the error does not depend on a scale

    def terms(self, trace: Trace) -> dict[str, Tensor]:
        return {CONSTRAINT: self.constraint(trace), "multiplier": self.log_multiplier.exp()}

    @torch.no_grad()
    def follow(self, measured: Mapping[str, Tensor], accepted: Tensor | None) -> None:
        new = measured[CONSTRAINT]
        average = torch.where(self.begun > 0, self.average.lerp(new, 1 - self.smoothing), new)
        risen = (self.log_multiplier + (self.speed * average).clamp(-1, 1)).clamp(*LOG_MULTIPLIER)
        for buffer, value in ((self.average, average), (self.log_multiplier, risen), (self.begun, new * 0 + 1)):
            buffer.copy_(value if accepted is None else torch.where(accepted, value, buffer))

    def selection(self, trace: Trace) -> Tensor:
        """The rate, and what a violation costs: its own multiplier is of another size at every step."""
        return rate(trace) + VIOLATION * self.constraint(trace).clamp_min(0) + trace.penalty.mean()


def _squared_error(trace: Trace) -> Tensor:
    """|x - mean of p(x | z)|², summed over pixel values, mean over samples and batch."""
    return (trace.x - trace.px.mean).square().flatten(-3).sum(-1).mean()


def geco(
    *,
    measure: Literal["error", "distortion"] = "error",
    tolerance: float = 0.02,
    speed: Positive = 1e-3,
    smoothing: Share = 0.99,
) -> Objective:
    """rate + λ * constraint: the smallest rate whose error is within the tolerance.

    constraint = Σ over pixel values of (squared error, or distortion, less `tolerance`), so the tolerance is a mean
    squared error per pixel value, or nats per pixel value. After each update log λ changes by `speed` times the moving
    average of the constraint (`smoothing`), at most by 1. With `error` a likelihood's own scale is not learnt.
    Rezende & Viola 2018, arXiv:1810.00597

    Example:
        >>> import torch
        >>> from vaekit.models.build import vae
        >>> trace = vae((1, 8, 8))(torch.rand(4, 1, 8, 8).round())
        >>> bool(geco(tolerance=0.1)(trace, torch.tensor(0)) > geco(tolerance=0.2)(trace, torch.tensor(0)))
        True
    """
    return Geco(measure, tolerance, speed, smoothing)
