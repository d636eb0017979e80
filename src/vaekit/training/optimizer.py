"""Adam, AdamW and Adamax with their state as named tensors, fit for safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.config.schema import TrainingConfig
from vaekit.errors import CheckpointError

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
}
FUSED = ("adam", "adamw")  # one kernel for all weights, which can skip an update by a flag on the device


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser over the model's trainable weights; its learning rate is set before every step."""
    options: dict[str, Any] = {"betas": config.betas, "eps": config.eps}
    if config.optimizer in FUSED:
        options["fused"] = True
    weights = [p for p in model.parameters() if p.requires_grad]
    # biases, norms and scales are not weights of connections: shrinking them shrinks what they measure
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[config.optimizer](
        [group for group in groups if group["params"]], lr=config.learning_rate, **options
    )  # type: ignore[call-arg]


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """{"weight name/state name": tensor}: moments and step counts of every weight that has them."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave. CheckpointError where a weight is unknown."""
    weights = dict(model.named_parameters())
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("/", 1)
        if name not in weights:
            raise CheckpointError(f"the optimiser's state is for a weight '{name}' that this model lacks")
        weight = weights[name]
        # the step count of a fused optimiser lives where its weight lives; of the others, on the CPU
        fused = bool(optimizer.param_groups[0].get("fused"))
        device = weight.device if key != "step" or fused else torch.device("cpu")
        optimizer.state[weight][key] = value.to(device=device, copy=True)
