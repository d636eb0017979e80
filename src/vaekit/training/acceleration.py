"""How a step is run: eager, compiled, or captured whole as one CUDA graph. What it computes is the same in each.

Whatever cannot be compiled or captured runs eagerly, and says so once. What was chosen is part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from vaekit.errors import is_out_of_memory, one_line
from vaekit.training.device import generator_states, set_generator_states
from vaekit.training.step import Forward, TrainStep, Verdict

# Where compiling wins back its quarter of a minute; see docs/performance.md.
STEPS_TO_COMPILE = {"cpu": 10_000, "cuda": 1_000}
STEPS_TO_CAPTURE = 100
# The compiler's caller of kernels in C++ instead of Python: on a CPU 2 to 8 % of a step, and it compiles sooner.
IN_CPP: dict[str, Any] = {"options": {"cpp_wrapper": True}}
WARM_UPS = 3  # eager steps before a capture: they allocate workspaces and choose kernels

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """What the program chose for a run; stored in its checkpoints and reused."""

    compiled: bool
    captured: bool
    parts: int  # that a batch is computed in

    def __str__(self) -> str:
        ways = [name for name, chosen in (("compiled", self.compiled), ("one CUDA graph", self.captured)) if chosen]
        parts = [f"batches in {self.parts} parts"] if self.parts > 1 else []
        return ", ".join([*(ways or ["eager"]), *parts])


def worth_compiling(device: torch.device, steps: int) -> bool:
    """Whether a run of so many steps wins back the time to compile its step."""
    return steps >= STEPS_TO_COMPILE.get(device.type, steps + 1)


def worth_capturing(device: torch.device, steps: int) -> bool:
    """Whether a run of so many steps wins back the capture of its step."""
    return device.type == "cuda" and steps >= STEPS_TO_CAPTURE


@contextmanager
def put_back(tensors: Callable[[], dict[str, Tensor]], device: torch.device) -> Iterator[None]:
    """Leave these tensors and the generators as they were; a tensor that appears meanwhile is zeroed."""
    before = {name: value.clone() for name, value in tensors().items()}
    random = generator_states(device)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in tensors().items():
                value.copy_(before[name]) if name in before else value.zero_()
        set_generator_states(device, random)


class Holder(nn.Module):
    """A forward pass as a module whose weights, and those of an objective that has some, can be given from outside."""

    def __init__(self, forward: Forward, model: nn.Module, objective: nn.Module | None) -> None:
        super().__init__()
        self.held, self.model, self.objective = forward, model, objective

    def forward(self, *arguments: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.held(*arguments)


class Joint:
    """Loss and gradients as one compiled function: a tenth faster than `backward` where Python is what takes time."""

    def __init__(self, step: TrainStep, model: nn.Module, **options: Any) -> None:
        holder = Holder(step.forward, model, step.own.objective if step.own else None)
        self.weights = {name: weight for name, weight in holder.named_parameters() if weight.requires_grad}

        def loss_of(
            weights: dict[str, Tensor], factor: Tensor | float | None, arguments: Sequence[Tensor]
        ) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
            loss, values = functional_call(holder, weights, tuple(arguments))
            return (loss if factor is None else loss * factor), (loss, values)

        differentiated, judge = grad_and_value(loss_of, has_aux=True), step.judge if step.measures else None

        def run(
            weights: dict[str, Tensor], factor: Tensor | float | None, arguments: Sequence[Tensor]
        ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor], Verdict | None]:
            gradients, (_, (loss, values)) = differentiated(weights, factor, arguments)
            if judge is None or factor is not None:
                return gradients, loss, values, None
            # here the gradients are still in the caches
            of_model = [g for name, g in gradients.items() if not name.startswith("objective.")]
            norm = torch.stack([g.square().sum() for g in of_model]).sum().sqrt()
            return gradients, loss, values, judge(loss, norm)

        self.step = step
        self._run = torch.compile(run, fullgraph=True, dynamic=False, **options)

    def __call__(self, arguments: Sequence[Tensor], factor: Tensor | float | None) -> tuple[Tensor, dict[str, Tensor]]:
        """As `TrainStep.differentiate`."""
        views = {name: weight.detach() for name, weight in self.weights.items()}
        gradients, loss, values, self.step.verdict = self._run(views, factor, arguments)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.grad = gradients[name] if weight.grad is None else weight.grad + gradients[name]
        return loss, values


def compile_forward(step: TrainStep, model: nn.Module, **options: Any) -> None:
    """Compile forward and loss; autograd differentiates them. The options are torch.compile's."""
    step.forward = torch.compile(step.forward, fullgraph=True, dynamic=False, **options)


def compile_jointly(step: TrainStep, model: nn.Module, **options: Any) -> None:
    """Compile forward, loss and backward as one."""
    step.differentiate = Joint(step, model, **options)


def ways_to_compile(step: TrainStep, device: torch.device) -> list[Callable[[TrainStep, nn.Module], None]]:
    """From the fastest to the one that asks least of the compiler."""
    if device.type == "cuda":  # in a captured step Python takes no time
        return [compile_forward]
    # statistics cannot change inside a function that is differentiated
    ways = [compile_forward] if step.statistics else [compile_jointly, compile_forward]
    return [partial(ways[0], **IN_CPP), *ways]


def try_to_compile(
    step: TrainStep,
    model: nn.Module,
    inputs: Sequence[Tensor],
    tensors: Callable[[], dict[str, Tensor]],
    say: Say,
) -> bool:
    """Let the step's forward pass and loss run compiled; False, and one line, where this machine cannot."""
    device = inputs[0].device
    plain = step.forward, step.differentiate
    for way in ways_to_compile(step, device):
        way(step, model)
        try:
            with put_back(tensors, device):
                step.gradients(*inputs)
            return True
        except Exception as error:  # compilers raise whatever they like: a missing g++, an unknown chip, their own bugs
            if is_out_of_memory(error):
                raise
            step.forward, step.differentiate = plain
            reason = one_line(error)
        finally:
            for weight in step.weights:
                weight.grad = None
    say(f"cannot compile here, so the step runs eagerly: {reason}")
    return False


class Captured:
    """A whole step as one CUDA graph: `replay` runs it again on whatever its input buffers hold by then."""

    def __init__(self, body: Callable[[], None], device: torch.device) -> None:
        """Warm up and capture `body`, which changes state: the caller puts that back."""
        with torch.cuda.device(device):
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    body()
            torch.cuda.current_stream(device).wait_stream(side)
            torch.cuda.empty_cache()  # the graph has a pool of its own
            self.graph = torch.cuda.CUDAGraph()
            # thread_local: the thread that fetches the next batch goes on meanwhile
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                body()

    def replay(self) -> None:
        """One step."""
        self.graph.replay()


def try_to_capture(
    body: Callable[[], None], tensors: Callable[[], dict[str, Tensor]], device: torch.device, say: Say
) -> Captured | None:
    """The captured step; None, and one line, where some part of it cannot be captured."""
    try:
        with put_back(tensors, device):
            return Captured(body, device)
    except RuntimeError as error:
        say(f"cannot capture the step as a CUDA graph, so it runs kernel by kernel: {one_line(error)}")
        return None
