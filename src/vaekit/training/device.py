"""Which device, how many threads, and what the promise of identical bytes rests on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vaekit.errors import ConfigError
from vaekit.models.model import Model
from vaekit.processes import ALONE, World
from vaekit.system import usable_cores


def choose_device(name: str, world: World = ALONE) -> torch.device:
    """The device of `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. ConfigError with what there is instead.

    Several processes on a machine take one CUDA device each.
    """
    present = available_devices()
    name = present[-1] if name == "auto" else name
    if world.size > 1 and name == "cuda":
        name = f"cuda:{world.local_rank}"
    elif world.size > 1 and name.startswith("cuda:"):
        raise ConfigError(f"training.device={name} is one device, but {world.size} processes train; use cuda, or auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}'; choose one of: auto, {', '.join(present)}") from None
    if device.type not in present:
        raise ConfigError(f"device '{name}' is not on this machine; choose one of: auto, {', '.join(present)}")
    if device.index is not None and device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}' is not on this machine, which has {torch.cuda.device_count()} CUDA devices")
    return device


def available_devices() -> list[str]:
    """Device types on this machine, the fastest last."""
    devices = ["cpu"]
    if torch.backends.mps.is_available():
        devices.append("mps")
    if torch.cuda.is_available():
        devices.append("cuda")
    return devices


def place(model: Model, device: torch.device) -> Model:
    """The model on the device, its filters laid out as the device's convolutions want them: channels last."""
    model = model.to(device)
    return model if device.type == "mps" else model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_threads(asked: int | None, processes: int = 1) -> None:
    """Use as many CPU threads as asked for, or no more than each process of this machine has cores to use."""
    if asked is not None:
        torch.set_num_threads(asked)
    elif (cores := max(1, usable_cores() // processes)) < torch.get_num_threads():
        torch.set_num_threads(cores)


def set_determinism(deterministic: bool) -> None:
    """On a GPU, choose kernels that give the same bytes every time."""
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What must stay the same for a resumed run to end with the same bytes; saved in every checkpoint."""
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "device": device.type,
        "processor": torch.backends.cpu.get_cpu_capability() + " " + platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What changed between two environments, in words."""
    return [f"{key} {saved[key]} → {now.get(key)}" for key in saved if saved[key] != now.get(key)]


def generator_states(device: torch.device) -> list[Tensor]:
    """Of the CPU, and of the device where that is a GPU."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def set_generator_states(device: torch.device, states: list[Tensor]) -> None:
    """Put back what `generator_states` gave."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from generators of this seed, then put back those of the run."""
    before = generator_states(device)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        set_generator_states(device, before)


def capturing(like: Tensor) -> bool:
    """Whether what runs now on the tensor's device is recorded into a CUDA graph."""
    return like.is_cuda and torch.cuda.is_current_stream_capturing()
