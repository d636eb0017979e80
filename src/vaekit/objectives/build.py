"""Config to objective; the table of objectives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vaekit import objectives
from vaekit.config.schedule_shapes import Schedule, ScheduleValue, Weight
from vaekit.config.schedules import build_schedule
from vaekit.config.schema import Part
from vaekit.models.build import _choose
from vaekit.models.trace import Objective
from vaekit.objectives import Facts

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "elbo": objectives.elbo,
    "iwae": objectives.iwae,
    "capacity": objectives.capacity,
    "geco": objectives.geco,
    "total-correlation": objectives.total_correlation,
    "mmd": objectives.mmd,
    "factor": objectives.factor,
    "adversarial": objectives.adversarial,
}


class BuiltObjective(NamedTuple):
    """An objective and its scheduled options by name, so that a log can show their current values."""

    objective: Objective
    schedules: Mapping[str, Schedule]


def build_objective(part: Part, steps_per_epoch: int, pixels: int, facts: Facts | None = None) -> BuiltObjective:
    """The objective, its schedules in steps. `pixels` is C * H * W, for weights such as "500/pixels".

    `facts` of the run are for the objectives whose first parameter asks for them.
    """
    factory = _choose(OBJECTIVES, part, "objective")
    options = {**scheduled_defaults(factory), **part.options}
    named = {name: build_schedule(options[name], steps_per_epoch, pixels) for name in scheduled_defaults(factory)}
    told = [facts] if _asks_for_facts(factory) else []
    assert None not in told, f"the objective '{part.kind}' depends on the facts of the run"
    return BuiltObjective(factory(*told, **{**options, **named}), named)


def _asks_for_facts(factory: Callable[..., Any]) -> bool:
    return any(p.annotation is Facts for p in inspect.signature(factory, eval_str=True).parameters.values())


def scheduled_defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """Name to default of the options that are schedules."""
    parameters = inspect.signature(factory, eval_str=True).parameters.values()
    return {p.name: p.default for p in parameters if p.annotation in (ScheduleValue, Weight)}
