"""Which device, how many threads, and what the promise of identical bytes rests on."""

from __future__ import annotations

import platform
from typing import Any

import torch

from vaekit.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. ConfigError with what there is instead."""
    present = available_devices()
    if name == "auto":
        return torch.device(present[-1])
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


def set_determinism(deterministic: bool) -> None:
    """On a GPU, choose kernels that give the same bytes every time."""
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def environment(device: torch.device) -> dict[str, Any]:
    """What must stay the same for a resumed run to end with the same bytes; saved in every checkpoint."""
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "device": device.type,
        "processor": torch.backends.cpu.get_cpu_capability() + " " + platform.machine(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What changed between two environments, in words."""
    return [f"{key} {saved[key]} → {now.get(key)}" for key in saved if saved[key] != now.get(key)]
