"""One update: a batch of images to new weights, averaged weights and running sums.

Nothing here waits for the device: a non-finite update is skipped by a flag that stays on the device, counters and
sums accumulate there, schedules are functions of the step tensor. The loop reads them when it logs. So the whole of it
can be captured as one CUDA graph (`capture`), and its parts can be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaekit.config.schedule_shapes import Schedule
from vaekit.errors import NumericalError, is_out_of_memory, one_line
from vaekit.models.trace import Objective, terms
from vaekit.objectives.learned import with_own
from vaekit.objectives.needs import needs_of
from vaekit.processes import ALONE, World
from vaekit.training.device import capturing, generator_states, set_generator_states
from vaekit.training.ema import Ema
from vaekit.training.objective_weights import ObjectiveWeights
from vaekit.training.optimizer import Optimizer, Update

Forward = Callable[..., tuple[Tensor, dict[str, Tensor]]]  # (*inputs, step) -> (loss, terms)
# (arguments of `forward`, factor) -> (loss, terms); adds the gradients of factor * loss to the weights
Differentiate = Callable[[Sequence[Tensor], "Tensor | float | None"], tuple[Tensor, dict[str, Tensor]]]

NORM = "gradient_norm"  # of the gradients before clipping, in nats
FIRST_SCALE, GROWTH_EVERY = 2.0**16, 2000  # of fp16 losses: torch's own defaults


def forward_of(
    model: nn.Module,
    objective: Objective,
    samples: int,
    prepare: Callable[..., Tensor] = lambda x: x,
    labels: Tensor | None = None,
) -> Forward:
    """(*inputs, step) -> (loss, terms): the part of a step that can be compiled whole.

    `prepare` makes the model's input of the step's: binarisation and augmentation are compiled with the rest.
    `labels` (N,), for a conditional model, are of all training images; the second input says which of them these are.
    """

    stopped = needs_of(objective).stopped

    def forward(*arguments: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        *inputs, step = arguments
        context = None if labels is None else labels[inputs[1]]
        trace = model(prepare(*inputs), samples, context=context, stopped=stopped)
        loss, own = with_own(objective, trace, step)
        with torch.no_grad():  # for the log alone
            return loss, {**terms(trace), **own}

    return forward


class Verdict(NamedTuple):
    """On the gradients of a whole batch: 0-d tensors."""

    norm: Tensor  # before clipping, in nats
    divisor: Tensor | None  # of the gradients: fp16 scale and clipping
    accepted: Tensor | None  # whether loss and norm are finite; None where nothing is ever skipped


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
        self.names: tuple[str, ...] = ()  # of the sums, known after the first update
        wide = torch.float32 if self.step.is_mps else torch.float64  # Apple's GPUs know no float64
        self.sums = torch.zeros(0, dtype=wide, device=device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, Tensor) and name != "sums"}
        return {**own, **{f"sum/{name}": value for name, value in zip(self.names, self.sums, strict=True)}}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        sums = {name.removeprefix("sum/"): value for name, value in tensors.items() if name.startswith("sum/")}
        self._name(sorted(sums, key=_loss_first))  # a file keeps no order
        for i, name in enumerate(self.names):
            self.sums[i] = sums[name]
        for name, value in tensors.items():
            if not name.startswith("sum/"):
                getattr(self, name).copy_(value)

    def _name(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.sums = self.sums.new_zeros(len(names))

    def add(self, values: Mapping[str, Tensor], accepted: Tensor | None) -> None:
        """Add this step's values to the sums, unless it was skipped (a NaN would swallow the sum)."""
        if values.keys() != set(self.names):
            self._name(sorted(values, key=_loss_first))
        stacked = torch.stack([values[name] for name in self.names])
        self.sums += stacked if accepted is None else torch.where(accepted, stacked, 0.0)
        self.summed += 1 if accepted is None else accepted

    def take(self) -> dict[str, float]:
        """The means since the last call, on the host, the loss first; the sums start again."""
        count = int(self.summed)
        means = (
            {name: total / count for name, total in zip(self.names, self.sums.tolist(), strict=True)} if count else {}
        )
        self.sums.zero_()
        self.summed.zero_()
        return means


def _loss_first(name: str) -> tuple[bool, str]:
    return name != "loss", name


class TrainStep:
    """Forward, backward, clip, skip if not finite, optimiser, averaged weights, sums: in that order."""

    def __init__(
        self,
        forward: Forward,
        optimizer: Optimizer,
        ema: Ema,
        learning_rate: Schedule,
        counters: Counters,
        *,
        clip: float | None = None,
        guard: bool = True,
        parts: int = 1,
        scaled: bool = False,
        statistics: Sequence[Tensor] = (),
        say: Callable[[str], None] = lambda text: None,
        world: World = ALONE,
        batch: int | None = None,
        own: ObjectiveWeights | None = None,
        coupled: bool = False,
    ) -> None:
        """`guard`: skip updates whose loss or gradient norm is not finite; fp16 losses need it.

        `statistics` are buffers that a forward pass changes: put back where the update is skipped.
        `parts` are what a batch is computed in; where memory runs out they are doubled, and `say` is told.
        Where several processes train together, `batch` is how many images their inputs are in all.
        `own` is of an objective that learns beside the model; `coupled`: its loss couples the images of a batch, so
        that parts of it would be another loss.
        """
        self.forward, self.optimizer, self.ema = forward, optimizer, ema
        self.differentiate: Differentiate = self._backward
        self.learning_rate, self.counters = learning_rate, counters
        self.clip, self.guard, self.parts, self.scaled = clip, guard or scaled, parts, scaled
        self.measures = self.guard or clip is not None  # the gradients' norm
        self.verdict: Verdict | None = None  # left by a `differentiate` that measures the norm itself
        self.statistics = list(statistics)
        self.say, self.world, self.batch = say, world, batch
        self.own, self.coupled = own, coupled
        self.weights = [*optimizer.weights, *(own.weights if own else ())]  # all that a backward pass reaches

    def __call__(self, *inputs: Tensor) -> None:
        """One update from what `forward` takes, batch axis first; a 0-d tensor is for the whole batch."""
        self.verdict = None
        before = [buffer.clone() for buffer in self.statistics]
        loss, values = self.gradients(*inputs)
        if self.world.size > 1:
            loss, values = self._together(loss, values, len(inputs[0]))
        self._finish(loss, values, before)

    @torch.no_grad()
    def _together(self, loss: Tensor, values: dict[str, Tensor], images: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients, statistics, loss and terms of the batch of all processes; each came with its own share."""
        assert self.batch is not None
        statistics = [buffer for buffer in self.statistics if buffer.is_floating_point()]
        for buffer in statistics:
            buffer.mul_(images / self.batch)
        scalars = torch.stack([loss, *values.values()])
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        self.world.add([scalars, *gradients, *statistics])
        return scalars[0], dict(zip(values, scalars[1:].unbind(), strict=True))

    @torch.no_grad()
    def _finish(self, loss: Tensor, values: dict[str, Tensor], before: list[Tensor]) -> None:
        """What follows the backward pass."""
        counters, verdict, measured = self.counters, self.verdict, {"loss": loss, **values}
        if verdict is None and self.measures:
            verdict = self.judge(loss, self._norm())
        divisor, accepted = (None, None) if verdict is None else (verdict.divisor, verdict.accepted)
        accepted = accepted if self.own is None else self.own.judge(accepted)
        if verdict is not None:
            measured[NORM] = verdict.norm
        if accepted is not None:
            for buffer, old in zip(self.statistics, before, strict=True):
                buffer.copy_(torch.where(accepted, buffer, old))
        self.optimizer.step(Update(self.learning_rate(counters.step), divisor, accepted))
        if self.own is not None:
            self.own.step(counters.step, counters.scale if self.scaled else None, measured, accepted)
        self.ema.update(counters.step, accepted)
        counters.add(measured, accepted)
        self._count(accepted, loss)

    def judge(self, loss: Tensor, norm: Tensor) -> Verdict:
        """From the loss and the norm of the gradients, which hold the fp16 scale."""
        divisor = self.counters.scale if self.scaled else None
        norm = norm if divisor is None else norm / divisor
        if self.clip is not None:
            clipping = (norm / self.clip).clamp_min(1)
            divisor = clipping if divisor is None else divisor * clipping
        total = loss + norm
        # what isfinite does, in two kernels instead of four
        return Verdict(norm, divisor, total - total == 0 if self.guard else None)

    def gradients(self, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and terms of these images; gradients are left in the weights, times the fp16 scale.

        Where several processes train together they are weighted by the images' share of the batch, to be added up.

        Where memory runs out, in smaller parts. NumericalError where one image is too much.
        """
        x = inputs[0]
        while True:
            before = None if capturing(x) else (generator_states(x.device), [b.clone() for b in self.statistics])
            try:
                return self._gradients_of_parts(inputs)
            except Exception as error:
                if before is None or not is_out_of_memory(error):
                    raise
                reason = one_line(error)
            # outside the except clause, where the traceback would keep every activation alive
            self._halve(len(x), reason)
            set_generator_states(x.device, before[0])
            for buffer, old in zip(self.statistics, before[1], strict=True):
                buffer.copy_(old)

    def _halve(self, images: int, reason: str) -> None:
        for weight in self.weights:
            weight.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        at_once = -(-images // self.parts)
        if self.coupled:
            raise NumericalError(
                f"out of memory ({reason}), and this objective couples the images of a batch, so that it cannot be "
                "computed in parts; lower training.batch_size, or choose smaller model.network.widths or data.size"
            )
        if at_once == 1:
            raise NumericalError(
                f"out of memory with one image at a time ({reason}); choose smaller model.network.widths, data.size or "
                "training.samples, training.precision=bf16, or a device with more memory"
            )
        self.parts = min(2 * self.parts, images)
        self.say(
            f"out of memory with {at_once} images at a time: from now on {-(-images // self.parts)}, "
            f"in {self.parts} parts whose gradients are added; batch and loss stay what they were"
        )

    def _gradients_of_parts(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        for weight in self.weights:
            weight.grad = None
        images = len(inputs[0]) if self.batch is None else self.batch
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for part in _parts(inputs, self.parts):
            share = len(part[0]) / images
            factor = self.counters.scale * share if self.scaled else (share if share != 1 else None)
            loss, terms_of_part = self.differentiate((*part, self.counters.step), factor)
            if share == 1:
                return loss, terms_of_part
            with torch.no_grad():
                total = loss * share if total is None else total + loss * share
                for name, value in terms_of_part.items():
                    values[name] = values[name] + share * value if name in values else share * value
        assert total is not None
        return total, values

    def _backward(self, arguments: Sequence[Tensor], factor: Tensor | float | None) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = self.forward(*arguments)
        (loss if factor is None else loss * factor).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), values

    def _norm(self) -> Tensor:
        """Of the gradients as they lie in the weights."""
        norms = torch._foreach_norm([w.grad for w in self.optimizer.weights if w.grad is not None])
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm

    def _count(self, accepted: Tensor | None, loss: Tensor) -> None:
        counters = self.counters
        counters.step += 1
        if accepted is None:
            return
        skipped = ~accepted
        if self.scaled:
            overflow = skipped & torch.isfinite(loss) & (counters.scale > 1)
            skipped = skipped & ~overflow
            counters.overflows += overflow
            counters.since_growth.copy_((counters.since_growth + 1) * accepted)
            grow = counters.since_growth >= GROWTH_EVERY
            factor = torch.where(overflow, 0.5, torch.where(grow, 2.0, 1.0))
            counters.scale.mul_(factor).clamp_(1.0, 2.0**24)
            counters.since_growth.mul_(~grow)
        counters.skipped += skipped
        counters.row.add_(1).mul_(skipped)
        torch.maximum(counters.longest_row, counters.row, out=counters.longest_row)


def _parts(inputs: tuple[Tensor, ...], count: int) -> list[tuple[Tensor, ...]]:
    """The inputs cut along the batch into at most `count` parts; 0-d tensors go to each."""
    if count == 1:
        return [inputs]
    whole = len(inputs[0].chunk(count))
    cut = [t.chunk(count) if t.ndim else (t,) * whole for t in inputs]
    return list(zip(*cut, strict=True))
