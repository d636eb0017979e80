"""Values that change with the global step: functions of a step tensor, so a compiled or captured step can hold them.

Times are in steps here; `build` converts epochs. Every schedule maps a 0-d tensor to a 0-d float tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor

from vaekit.config.schema import Range

Schedule = Callable[[Tensor], Tensor]
ScheduleValue = float | Schedule  # what an objective takes: a number, or any function of the step
Weight = Annotated[ScheduleValue, Range(ge=0)]  # of a term: below 0 the term would be driven without bound


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: torch.full_like(step, value, dtype=torch.float32)


def as_schedule(value: ScheduleValue) -> Schedule:
    """A number becomes a constant schedule; a schedule passes."""
    return value if callable(value) else constant(value)


def _progress(step: Tensor, over: float, delay: float) -> Tensor:
    return ((step.to(torch.float32) - delay) / over).clamp(0, 1)


def linear(start: float, end: float, over: float, delay: float = 0) -> Schedule:
    """From start to end in `over` steps, after `delay` steps at start; then end."""
    return lambda step: start + (end - start) * _progress(step, over, delay)


def cosine(start: float, end: float, over: float, delay: float = 0) -> Schedule:
    """Half a cosine from start to end in `over` steps. Loshchilov & Hutter 2017, arXiv:1608.03983"""
    return lambda step: end + (start - end) * 0.5 * (1 + torch.cos(math.pi * _progress(step, over, delay)))


def cyclical(start: float, end: float, over: float, ratio: float = 0.5, delay: float = 0) -> Schedule:
    """A saw: rises from start to end during the first `ratio` of each cycle of `over` steps, then stays at end.

    Fu et al. 2019, arXiv:1903.10145
    """

    def value(step: Tensor) -> Tensor:
        time = (step.to(torch.float32) - delay).clamp_min(0)
        share = torch.remainder(time, over) / over
        return start + (end - start) * (share / ratio).clamp_max(1)

    return value


def pairs(points: Sequence[tuple[float, float]]) -> Schedule:
    """Each (time, value) holds from its time until the next; before the first, the first value.

    Example:
        >>> import torch
        >>> [float(pairs([(0, 0.0), (10, 1.0)])(torch.tensor(t))) for t in (0, 9, 10)]
        [0.0, 0.0, 1.0]
    """
    ordered = sorted(points)

    def value(step: Tensor) -> Tensor:
        time = step.to(torch.float32)
        result = torch.full_like(time, ordered[0][1])
        for start, level in ordered[1:]:
            result = torch.where(time >= start, level, result)
        return result

    return value


def step_decay(value: float, every: float, factor: float) -> Schedule:
    """value * factor^(number of whole periods of `every` steps passed)."""
    return lambda step: value * factor ** torch.floor(step.to(torch.float32) / every)


def with_warmup(schedule: Schedule, warmup: float) -> Schedule:
    """The schedule, times a linear rise over the first `warmup` steps; the first step already moves."""
    if warmup <= 0:
        return schedule
    return lambda step: schedule(step) * ((step.to(torch.float32) + 1) / warmup).clamp_max(1)


def held_per_epoch(schedule: Schedule, steps_per_epoch: int) -> Schedule:
    """The schedule, changing only at the first step of each epoch."""
    return lambda step: schedule(torch.div(step, steps_per_epoch, rounding_mode="floor") * steps_per_epoch)
