"""Schedules of a config as functions of the global step."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from vaekit.config import schedule_shapes as schedules
from vaekit.config.schedule_shapes import Schedule
from vaekit.config.schema import Schedule as ScheduleSpec
from vaekit.config.schema import ScheduleConfig, TrainingConfig
from vaekit.errors import ConfigError

PER_PIXEL = re.compile(r"\s*([-+.\deE]+)\s*/\s*pixels\s*")


def number_of(value: float | str, pixels: int) -> float:
    """A number, or one over the pixels of an image. ConfigError for other text, and for what is no finite number.

    Example:
        >>> number_of("500/pixels", 1000), number_of(2, 1000)
        (0.5, 2.0)
    """
    match = PER_PIXEL.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise ConfigError(f"'{value}' is not a schedule; write a number, or a number over pixels such as 500/pixels")
    try:
        number = float(match[1]) / pixels if match else float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"'{value}' is no finite number; write one, or one over pixels such as 500/pixels")
    return number


def build_schedule(spec: ScheduleSpec | Schedule | dict[str, Any], steps_per_epoch: int, pixels: int = 1) -> Schedule:
    """A function of the step from a number, "number/pixels", (epoch, value) pairs or a mapping."""
    if callable(spec):
        return spec
    if isinstance(spec, str | int | float):
        return schedules.constant(number_of(spec, pixels))
    if isinstance(spec, dict):  # the options of a part stay as they were written
        spec = ScheduleConfig(**spec)
    if not isinstance(spec, ScheduleConfig):
        return schedules.pairs([(time * steps_per_epoch, number_of(value, pixels)) for time, value in spec])
    unit = steps_per_epoch if spec.unit == "epoch" else 1
    over, delay = spec.over * unit, spec.delay * unit
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: schedules.constant(spec.end),
        "linear": lambda: schedules.linear(spec.start, spec.end, over, delay),
        "cosine": lambda: schedules.cosine(spec.start, spec.end, over, delay),
        "cyclical": lambda: schedules.cyclical(spec.start, spec.end, over, spec.ratio, delay),
        "pairs": lambda: schedules.pairs([(time * unit, number_of(value, pixels)) for time, value in spec.pairs]),
    }
    return makers[spec.kind]()


DURATION = re.compile(r"(\d+(?:\.\d+)?) *(step|epoch)s?")


def in_steps(duration: float | str, steps_per_epoch: int) -> float:
    """Steps of a number of them, or of text with a unit. ConfigError for other text.

    Example:
        >>> in_steps(50, 9), in_steps("50 steps", 9), in_steps("2 epochs", 9)
        (50, 50.0, 18.0)
    """
    if not isinstance(duration, str):
        return duration
    match = DURATION.fullmatch(duration.strip())
    if match is None:
        raise ConfigError(f"'{duration}' is no length of time; give a number of steps, or text such as '2 epochs'")
    return float(match[1]) * (steps_per_epoch if match[2] == "epoch" else 1)


def build_learning_rate(config: TrainingConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, with its warm-up."""
    unit = steps_per_epoch if config.schedule_unit == "epoch" else 1
    rate, warmup = config.learning_rate, in_steps(config.warmup, steps_per_epoch)
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: schedules.constant(rate),
        "cosine": lambda: schedules.cosine(rate, rate * config.final_factor, max(1, total_steps - warmup), warmup),
        "step": lambda: schedules.step_decay(rate, config.decay_every * unit, config.decay_factor),
    }
    schedule = makers[config.schedule]()
    if config.schedule_unit == "epoch":
        schedule = schedules.held_per_epoch(schedule, steps_per_epoch)
    return schedules.with_warmup(schedule, warmup)
