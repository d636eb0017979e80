"""How a step is run: eager, compiled, or captured whole as one CUDA graph. What it computes is the same in each.

Whatever cannot be compiled or captured runs eagerly, and says so once. What was chosen is part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaekit.errors import is_out_of_memory, one_line
from vaekit.training.device import generator_states, set_generator_states
from vaekit.training.step import TrainStep

# Where compiling wins back its half minute: measured in docs/performance.md.
STEPS_TO_COMPILE = {"cpu": 10_000, "cuda": 1_000}
STEPS_TO_CAPTURE = 100
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


def worth_compiling(model: nn.Module, device: torch.device, steps: int) -> bool:
    """Whether a run of so many steps wins back the time to compile its forward pass and loss.

    On a CPU convolutions run in the same library either way, and compiled code around them was slower.
    """
    convolutions = any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())
    if device.type == "cpu" and convolutions:
        return False
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


def try_to_compile(step: TrainStep, x: Tensor, tensors: Callable[[], dict[str, Tensor]], say: Say) -> bool:
    """Let the step's forward pass and loss run compiled; False, and one line, where this machine cannot."""
    plain = step.forward
    step.forward = torch.compile(plain, fullgraph=True, dynamic=False)
    try:
        with put_back(tensors, x.device):
            step.gradients(x)
    except Exception as error:  # compilers raise whatever they like: a missing g++, an unknown chip, their own bugs
        if is_out_of_memory(error):
            raise
        step.forward = plain
        say(f"cannot compile here, so the step runs eagerly: {one_line(error)}")
        return False
    finally:
        for weight in step.optimizer.weights:
            weight.grad = None
    return True


class Captured:
    """A whole step as one CUDA graph: `replay` runs it again on whatever its input buffers hold by then."""

    def __init__(self, body: Callable[[], None], device: torch.device) -> None:
        """Warm up and capture `body`, which changes state: the caller puts that back."""
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                body()
        torch.cuda.current_stream(device).wait_stream(side)
        torch.cuda.empty_cache()  # the graph has a pool of its own
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
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
