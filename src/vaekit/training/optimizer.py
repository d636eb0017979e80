"""Adam, AdamW and Adamax whose every update can be skipped by a flag on the device, with state fit for safetensors.

Our own, because torch's optimisers import the compiler (about two seconds at each start), spend more time in Python
than in the kernel of a small network, and let Adamax be skipped only by waiting for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaekit.config.schema import TrainingConfig
from vaekit.errors import CheckpointError
from vaekit.models.priors import Prior


class Group(NamedTuple):
    """Weights that decay alike, with the two running moments of their gradients."""

    weights: list[Tensor]
    decay: float
    first: list[Tensor]
    second: list[Tensor]


class Update(NamedTuple):
    """What one update needs besides gradients: 0-d tensors on the device of the weights."""

    rate: Tensor  # learning rate
    divisor: Tensor | None = None  # of the gradients: fp16 scale and clipping
    accepted: Tensor | None = None  # bool: where false, nothing changes


class Optimizer:
    """Moments of the gradients, and the rule by which they move the weights."""

    moments = ("exp_avg", "exp_avg_sq")  # their names in a checkpoint

    def __init__(self, groups: Sequence[tuple[list[Tensor], float]], betas: tuple[float, float], eps: float) -> None:
        """`groups`: (weights, weight decay); all on one device."""
        self.betas, self.eps = betas, eps
        self.groups = [
            Group(weights, decay, [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights])
            for weights, decay in groups
            if weights
        ]
        self.weights = [weight for group in self.groups for weight in group.weights]
        device = self.weights[0].device
        self.count = torch.zeros((), device=device)  # accepted updates; float32, as torch's kernel wants it

    @torch.no_grad()
    def step(self, update: Update) -> None:
        """Move every weight by its gradient, unless the update is not accepted."""
        raise NotImplementedError

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """{"weight name/moment": tensor} and the count, by name."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        found = {"count": self.count}
        for group in self.groups:
            for weight, *moments in zip(group.weights, group.first, group.second, strict=True):
                found |= {f"{names[weight]}/{key}": value for key, value in zip(self.moments, moments, strict=True)}
        return found

    def load(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave. CheckpointError where the two do not match."""
        own = self.tensors(model)
        if strange := sorted(own.keys() ^ tensors.keys()):
            raise CheckpointError(f"the optimiser's state does not fit this model and optimiser: '{strange[0]}'")
        for name, value in tensors.items():
            own[name].copy_(value)


def gradient_of(weight: Tensor) -> Tensor:
    """Its gradient, which every trained weight has after a backward pass."""
    assert weight.grad is not None
    return weight.grad


class Adam(Optimizer):
    """Kingma & Ba 2015, arXiv:1412.6980. Weight decay is added to the gradient."""

    kernel = staticmethod(torch._fused_adam_)  # one pass over all weights, which divides, skips and moves

    @torch.no_grad()
    def step(self, update: Update) -> None:
        accepted = update.accepted
        self.count += 1 if accepted is None else accepted
        skipped = None if accepted is None else (~accepted).float()
        for weights, decay, first, second in self.groups:
            self.kernel(
                weights,
                [gradient_of(weight) for weight in weights],
                first,
                second,
                [],
                [self.count] * len(weights),
                lr=update.rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
                grad_scale=update.divisor,
                found_inf=skipped,
            )


class AdamW(Adam):
    """Weight decay apart from the gradient. Loshchilov & Hutter 2019, arXiv:1711.05101"""

    kernel = staticmethod(torch._fused_adamw_)


class Adamax(Optimizer):
    """Adam in the infinity norm. Kingma & Ba 2015, section 7.1"""

    moments = ("exp_avg", "exp_inf")

    @torch.no_grad()
    def step(self, update: Update) -> None:
        may = torch.ones_like(self.count, dtype=torch.bool) if update.accepted is None else update.accepted
        divisor = 1.0 if update.divisor is None else update.divisor
        accepted = may.float()
        self.count += accepted
        beta1, beta2 = self.betas
        kept = torch.where(may, beta2, 1.0)
        size = update.rate * accepted / (1 - beta1 ** self.count.clamp_min(1))
        for weights, decay, first, second in self.groups:
            for weight, mean, largest in zip(weights, first, second, strict=True):
                gradient = torch.where(may, gradient_of(weight) / divisor + decay * weight, 0.0)
                mean.lerp_(gradient, (1 - beta1) * accepted)
                torch.maximum(largest * kept, gradient.abs() + self.eps * accepted, out=largest)
                weight -= size * mean / largest.clamp_min(torch.finfo(largest.dtype).tiny)


OPTIMIZERS: Mapping[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "adamax": Adamax}


def build_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """The optimiser over the model's trainable weights."""
    weights = [p for p in model.parameters() if p.requires_grad]
    # biases, norms and scales are not weights of connections, and a prior's means are places: shrinking moves them
    places = {id(p) for m in model.modules() if isinstance(m, Prior) for p in m.parameters(recurse=False)}
    shrinks = {id(p) for p in weights if p.ndim >= 2 and id(p) not in places} if config.weight_decay else set()
    decaying: list[Tensor] = [p for p in weights if id(p) in shrinks]
    others: list[Tensor] = [p for p in weights if id(p) not in shrinks]
    groups = [(decaying, config.weight_decay), (others, 0.0)]
    return OPTIMIZERS[config.optimizer](groups, config.betas, config.eps)
