"""One update: a batch of uint8 images to new weights, averaged weights and running sums.

Nothing here waits for the device: a non-finite update is skipped by a flag that stays on the device, counters and
sums accumulate there, schedules are functions of the step tensor. The loop reads them when it logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from vaekit.schedules import Schedule
from vaekit.trace import Objective, terms
from vaekit.training.ema import Ema

Forward = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]

FIRST_SCALE, GROWTH_EVERY = 2.0**16, 2000  # of fp16 losses: torch's own defaults


def forward_of(model: nn.Module, objective: Objective, samples: int) -> Forward:
    """(x, step) -> (loss, terms): the part of a step that can be compiled whole."""

    def forward(x: Tensor, step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        trace = model(x, samples)
        return objective(trace, step), {name: value.detach() for name, value in terms(trace).items()}

    return forward


class Counters:
    """What a run counts on the device; part of its checkpoint."""

    def __init__(self, device: torch.device) -> None:
        def zero(dtype: torch.dtype) -> Tensor:
            return torch.zeros((), dtype=dtype, device=device)

        self.step = zero(torch.int64)
        self.skipped = zero(torch.int64)  # updates whose loss or gradient was not finite
        self.row = zero(torch.int64)  # of them, the latest in a row
        self.longest_row = zero(torch.int64)
        self.overflows = zero(torch.int64)  # of the fp16 scaler: expected now and then, so counted apart
        self.scale = torch.full((), FIRST_SCALE, device=device)
        self.since_growth = zero(torch.int64)
        self.summed = zero(torch.int64)
        self.sums: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return {**own, **{f"sum/{name}": value for name, value in self.sums.items()}}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, value in tensors.items():
            if name.startswith("sum/"):
                self.sums[name.removeprefix("sum/")] = value.to(self.step.device, copy=True)
            else:
                getattr(self, name).copy_(value)

    def add(self, values: Mapping[str, Tensor], accepted: Tensor) -> None:
        """Add this step's values to the sums, unless it was skipped (a NaN would swallow the sum)."""
        for name, value in values.items():
            if name not in self.sums:
                wide = torch.float32 if self.step.is_mps else torch.float64  # Apple's GPUs know no float64
                self.sums[name] = torch.zeros((), dtype=wide, device=self.step.device)
            self.sums[name] += torch.where(accepted, value.to(self.sums[name].dtype), 0.0)
        self.summed += accepted

    def take(self) -> dict[str, float]:
        """The means since the last call, on the host, the loss first; the sums start again."""
        count = int(self.summed)
        names = sorted(self.sums, key=lambda name: (name != "loss", name))  # a loaded file keeps no order
        means = {name: float(self.sums[name]) / count for name in names} if count else {}
        for total in self.sums.values():
            total.zero_()
        self.summed.zero_()
        return means


class TrainStep:
    """Forward, backward, clip, skip if not finite, optimiser, averaged weights, sums: in that order."""

    def __init__(
        self,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        ema: Ema,
        learning_rate: Schedule,
        counters: Counters,
        *,
        clip: float | None = None,
        parts: int = 1,
        scaled: bool = False,
        statistics: Sequence[Tensor] = (),
    ) -> None:
        """`statistics` are buffers that a forward pass changes: put back where the update is skipped."""
        self.forward, self.optimizer, self.ema = forward, optimizer, ema
        self.learning_rate, self.counters = learning_rate, counters
        self.clip, self.parts, self.scaled = clip, parts, scaled
        self.statistics = list(statistics)
        self.weights = [p for group in optimizer.param_groups for p in group["params"]]
        self.skips_on_device = bool(optimizer.param_groups[0].get("fused"))

    def __call__(self, x: Tensor) -> None:
        """One update from x (B, C, H, W) in [0, 1]."""
        counters = self.counters
        before = [buffer.clone() for buffer in self.statistics]
        loss, values = self._gradients(x)
        norm, divisor = self._measure()
        accepted = torch.isfinite(loss) & torch.isfinite(norm)
        for buffer, old in zip(self.statistics, before, strict=True):
            buffer.copy_(torch.where(accepted, buffer, old))
        self._update(accepted, divisor)
        self.ema.update(counters.step, accepted)
        counters.add({"loss": loss, "gradient_norm": norm, **values}, accepted)
        self._count(accepted, torch.isfinite(loss))

    def _gradients(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and terms of the whole batch; gradients are left in the weights, times the fp16 scale."""
        self.optimizer.zero_grad(set_to_none=True)
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for part in x.chunk(self.parts):
            share = len(part) / len(x)
            loss, terms_of_part = self.forward(part, self.counters.step)
            scaled = loss * self.counters.scale if self.scaled else loss
            (scaled * share if share != 1 else scaled).backward()  # type: ignore[no-untyped-call]
            loss = loss.detach() * share
            total = loss if total is None else total + loss
            for name, value in terms_of_part.items():
                values[name] = values[name] + share * value if name in values else share * value
        assert total is not None
        return total, values

    def _measure(self) -> tuple[Tensor, Tensor]:
        """The gradient norm before clipping, in nats, and what to divide the gradients by: fp16 scale and clipping."""
        norm = nn.utils.get_total_norm(p.grad for p in self.weights if p.grad is not None)
        divisor = torch.ones_like(norm)
        if self.scaled:
            divisor = self.counters.scale
            norm = norm / divisor
        if self.clip is not None:
            divisor = divisor * (norm / self.clip).clamp_min(1)
        return norm, divisor

    def _update(self, accepted: Tensor, divisor: Tensor) -> None:
        rate = self.learning_rate(self.counters.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate if rate.is_cuda and self.skips_on_device else float(rate)
        if self.skips_on_device:
            self.optimizer.found_inf = (~accepted).float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = divisor  # type: ignore[attr-defined]  # inside its one pass over the weights
            self.optimizer.step()
        elif bool(accepted):  # Adamax has no fused kernel: on a GPU this waits for the device
            torch._foreach_div_([p.grad for p in self.weights if p.grad is not None], divisor)
            self.optimizer.step()

    def _count(self, accepted: Tensor, loss_is_finite: Tensor) -> None:
        counters = self.counters
        counters.step += 1
        overflow = ~accepted & loss_is_finite & (counters.scale > 1) & self.scaled
        skipped = ~accepted & ~overflow
        counters.overflows += overflow
        counters.skipped += skipped
        counters.row.copy_((counters.row + 1) * skipped)
        torch.maximum(counters.longest_row, counters.row, out=counters.longest_row)
        if self.scaled:
            counters.since_growth.copy_((counters.since_growth + 1) * accepted)
            grow = counters.since_growth >= GROWTH_EVERY
            factor = torch.where(overflow, 0.5, torch.where(grow, 2.0, 1.0))
            counters.scale.mul_(factor).clamp_(1.0, 2.0**24)
            counters.since_growth.mul_(~grow)
