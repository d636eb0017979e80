"""Schedules of a config as functions of the global step."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from vaekit.config import schedule_shapes as schedules
from vaekit.config.schedule_shapes import Schedule
from vaekit.config.schema import Schedule as ScheduleSpec
from vaekit.config.schema import ScheduleConfig, TrainingConfig
from vaekit.errors import ConfigError

PER_PIXEL = re.compile(r"\s*([-+.\deE]+)\s*/\s*pixels\s*")


def build_schedule(spec: ScheduleSpec | Schedule | dict[str, Any], steps_per_epoch: int, pixels: int = 1) -> Schedule:
    """A function of the step from a number, "number/pixels", (epoch, value) pairs or a mapping."""
    if isinstance(spec, str):
        match = PER_PIXEL.fullmatch(spec)
        if match is None:
            raise ConfigError(f"'{spec}' is not a schedule; write a number, or a number over pixels such as 500/pixels")
        return schedules.constant(float(match[1]) / pixels)
    if callable(spec):
        return spec
    if isinstance(spec, int | float):
        return schedules.constant(float(spec))
    if isinstance(spec, dict):  # the options of a part stay as they were written
        spec = ScheduleConfig(**spec)
    if not isinstance(spec, ScheduleConfig):
        return schedules.pairs([(time * steps_per_epoch, value) for time, value in spec])
    unit = steps_per_epoch if spec.unit == "epoch" else 1
    over, delay = spec.over * unit, spec.delay * unit
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: schedules.constant(spec.end),
        "linear": lambda: schedules.linear(spec.start, spec.end, over, delay),
        "cosine": lambda: schedules.cosine(spec.start, spec.end, over, delay),
        "cyclical": lambda: schedules.cyclical(spec.start, spec.end, over, spec.ratio, delay),
        "pairs": lambda: schedules.pairs([(time * unit, value) for time, value in spec.pairs]),
    }
    return makers[spec.kind]()


def build_learning_rate(config: TrainingConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, with its warm-up."""
    unit = steps_per_epoch if config.schedule_unit == "epoch" else 1
    rate, warmup = config.learning_rate, config.warmup * unit
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: schedules.constant(rate),
        "cosine": lambda: schedules.cosine(rate, rate * config.final_factor, max(1, total_steps - warmup), warmup),
        "step": lambda: schedules.step_decay(rate, config.decay_every * unit, config.decay_factor),
    }
    schedule = makers[config.schedule]()
    if config.schedule_unit == "epoch":
        schedule = schedules.held_per_epoch(schedule, steps_per_epoch)
    return schedules.with_warmup(schedule, warmup)
