"""What a check is, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch


class NotHere(Exception):
    """A check that this machine or device cannot make; says why."""


class Check(NamedTuple):
    """A law, and how far the code may be from it."""

    law: str
    measure: Callable[[torch.device], float]  # the distance from the law; NotHere where it cannot be measured
    limit: float


class Figure(NamedTuple):
    """One row of the table. `value` is None where nothing was measured; `note` says why then."""

    name: str
    law: str
    value: float | None
    limit: float
    verdict: Literal["ok", "fail", "not here"]
    note: str = ""


def refuse_without_float64(device: torch.device) -> None:
    """NotHere on Apple's GPUs, which know no float64."""
    if device.type == "mps":
        raise NotHere("no float64 on this device")
