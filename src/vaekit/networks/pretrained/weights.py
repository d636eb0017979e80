"""Weights of published networks: found on disk, checked by SHA-256, read without running anything inside them."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from vaekit.errors import CheckpointError


class WeightFile(NamedTuple):
    """One published file, and how it is recognised."""

    name: str
    url: str
    sha256: str  # all 64 digits, or the first ones where only these are published


class Weights(NamedTuple):
    """The tensors of a file by name, and the whole SHA-256 of its bytes."""

    tensors: dict[str, Tensor]
    sha256: str


def weights_root() -> Path:
    """Where weights lie: $VAEKIT_WEIGHTS, else the user's cache folder."""
    return Path(os.environ.get("VAEKIT_WEIGHTS") or Path.home() / ".cache" / "vaekit" / "weights").expanduser()


def find_weights(file: WeightFile, folder: Path | None = None) -> Path | None:
    """The file in a folder (by default `weights_root`), under its own name or as .safetensors; None if absent."""
    place = folder or weights_root()
    spellings = (place / file.name, (place / file.name).with_suffix(".safetensors"))
    return next((path for path in spellings if path.is_file()), None)


def how_to_get(files: tuple[WeightFile, ...], folder: Path | None = None) -> str:
    """What to fetch, its checksum and where to put it, as one line."""
    wanted = [file for file in files if find_weights(file, folder) is None]
    listed = " and ".join(f"{file.url} (SHA-256 {file.sha256}{'…' * (len(file.sha256) < 64)})" for file in wanted)
    place = str(folder) if folder else "$VAEKIT_WEIGHTS or ~/.cache/vaekit/weights"
    return f"put {listed} into {place}"


def read_weights(path: Path, file: WeightFile | None = None) -> Weights:
    """The tensors of a .safetensors file or of a torch state dict, whose SHA-256 must be that of `file`.

    A .safetensors file has its own bytes, so it passes with any sum: it can hold nothing but tensors. CheckpointError
    where the file is damaged, is another one, or holds more than tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; check its path and permissions") from None
    found, safe = hashlib.sha256(data).hexdigest(), path.suffix == ".safetensors"
    if file is not None and not safe and not found.startswith(file.sha256):
        raise CheckpointError(
            f"{path} is damaged or another file: SHA-256 {found}, expected {file.sha256}; fetch {file.url} again"
        )
    try:
        # these networks are published as torch files alone; weights_only builds tensors and calls nothing
        tensors = parse_safetensors(data) if safe else torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except Exception as error:  # each format has its own, and torch passes on those of zip and pickle
        raise CheckpointError(f"{path} holds no plain tensors ({type(error).__name__}); fetch it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} is not a state dict of tensors; save the network's state_dict(), or safetensors")
    return Weights(tensors, found)


def fill(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors into a network in evaluation mode that is not trained. CheckpointError where they do not fit.

    Names that the network lacks are left out (classifiers' last layers); batch counters need not be there.
    """
    own = network.state_dict()
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    for name in needed:
        if name not in tensors or tensors[name].shape != own[name].shape:
            came = tuple(tensors[name].shape) if name in tensors else "absent"
            raise CheckpointError(f"{path} is of another network: '{name}' is {came}, not {tuple(own[name].shape)}")
    network.load_state_dict({name: tensors[name] for name in needed}, strict=False)
    network.eval().requires_grad_(False)
