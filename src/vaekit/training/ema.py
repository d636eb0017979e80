"""Exponential moving average of the weights: the copy that is validated, saved and used."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from vaekit.models.model import Model


class Ema:
    """A copy of the model whose weights follow it: ema += (1 - decay) * (weights - ema), in float32.

    The decay rises as (1 + step) / (10 + step) until it reaches its own value, so that a short run is not
    an average over its random start. Without a decay the copy shares the model's own memory.
    """

    def __init__(self, model: Model, decay: float | None) -> None:
        self.model = copy.deepcopy(model, _same_memory(model) if decay is None else {}).eval().requires_grad_(False)
        self.decay = decay
        self.in_one_pass = next(model.parameters()).device.type == "cpu"
        self._followers: list[Tensor] = [p for p in self.model.parameters() if p.is_floating_point()]
        self._leaders: list[Tensor] = [p for p in model.parameters() if p.is_floating_point()]
        # BatchNorm statistics and estimated scales are averages already: copied
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    def share(self, step: Tensor) -> Tensor:
        """How far the copy follows after update number `step`: 0-d."""
        assert self.decay is not None
        return (9 / (10 + step)).clamp_min(1 - self.decay)

    @torch.no_grad()
    def update(self, step: Tensor, accepted: Tensor | None = None) -> None:
        """Follow the weights after update number `step` (0-d), unless that update was skipped."""
        if self.decay is None:
            return
        share = self.share(step) if accepted is None else self.share(step) * accepted
        if self.in_one_pass:
            torch._foreach_lerp_(self._followers, self._leaders, [share] * len(self._leaders))
        else:  # three passes, but three kernels for all weights together
            gap = torch._foreach_sub(self._leaders, self._followers)
            torch._foreach_mul_(gap, share)
            torch._foreach_add_(self._followers, gap)
        for follower, leader in self._buffers:
            follower.copy_(leader)


def _same_memory(model: Model) -> dict[int, Tensor]:
    """What a deep copy takes instead of copying: views of the model's own tensors."""
    weights: dict[int, Tensor] = {id(p): torch.nn.Parameter(p.detach()) for p in model.parameters()}
    return weights | {id(b): b.detach() for b in model.buffers()}
