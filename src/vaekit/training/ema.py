"""Exponential moving average of the weights: the copy that is validated, saved and used."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from vaekit.models import Model


class Ema:
    """A copy of the model whose weights follow it: ema += (1 - decay) * (weights - ema), in float32.

    The decay rises as (1 + step) / (10 + step) until it reaches its own value, so that a short run is not
    an average over its random start.
    """

    def __init__(self, model: Model, decay: float | None) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._followers: list[Tensor] = [p for p in self.model.parameters() if p.is_floating_point()]
        self._leaders: list[Tensor] = [p for p in model.parameters() if p.is_floating_point()]
        # BatchNorm statistics and estimated scales are averages already: copied
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: Tensor, accepted: Tensor) -> None:
        """Follow the weights after update number `step` (0-d), unless that update was skipped."""
        if self.decay is None:
            weight = torch.ones((), device=step.device)
        else:
            weight = 1 - torch.clamp((1 + step) / (10 + step), max=self.decay)
        weight = weight * accepted
        if weight.device.type == "cpu":
            torch._foreach_lerp_(self._followers, self._leaders, float(weight))  # one pass over the weights
        else:  # a lerp by a tensor would wait for the device
            gap = torch._foreach_sub(self._leaders, self._followers)
            torch._foreach_mul_(gap, weight)
            torch._foreach_add_(self._followers, gap)
        for follower, leader in self._buffers:
            follower.copy_(leader)
