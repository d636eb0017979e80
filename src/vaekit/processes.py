"""Several processes that train one model together: who is who, and what they tell each other.

`torchrun --nproc-per-node 2 -m vaekit train RECIPE` starts them, on one machine or on many.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vaekit.errors import LostProcessError, is_out_of_memory

PATIENCE = timedelta(hours=6)  # while one process downloads, decodes or validates, the others wait


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them. Alone, each method does nothing.

    Example:
        >>> World(rank=1, size=3).share(8)
        slice(2, 5, None)
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes, validates and logs."""
        return self.rank == 0

    def share(self, images: int) -> slice:
        """Which images of a batch are this process's: as many as each other's, or one more or less."""
        return slice(self.rank * images // self.size, (self.rank + 1) * images // self.size)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes: the same bytes in each of them."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _peers():
            dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view(tensor.shape))

    @torch.no_grad()
    def copy_from_leader(self, tensors: Iterable[Tensor]) -> None:
        """Give each tensor the leader's values."""
        for tensor in tensors if self.size > 1 else ():
            values = tensor.contiguous()  # channels last is not, to a collective
            with _peers():
                dist.broadcast(values, src=0)
            tensor.copy_(values)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """This tensor of every process, by rank; all have one shape."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with _peers():
            dist.all_gather(found, tensor)
        return found

    def any(self, flag: bool) -> bool:
        """Whether it is true in some process."""
        return any(bool(found) for found in self.gather(torch.tensor(flag, dtype=torch.uint8)))

    def from_leader(self, value: Any) -> Any:
        """The leader's value, for everybody: anything that JSON can say."""
        if self.size == 1:
            return value
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor(len(text))
        self.copy_from_leader([length])
        text = text if self.leads else torch.empty(int(length), dtype=torch.uint8)
        self.copy_from_leader([text])
        return json.loads(bytes(text.tolist()))

    def wait(self) -> None:
        """Until every process is here."""
        self.any(False)

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Let one process of each machine do it before the others: they find its files."""
        if self.local_rank != 0:
            self.wait()
        yield
        if self.local_rank == 0:
            self.wait()


ALONE = World()


def world_of_environment() -> World:
    """What torchrun's environment variables say; `ALONE` without them.

    Example:
        >>> world_of_environment() == ALONE
        True
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        return ALONE
    return World(*(int(os.environ.get(name, default)) for name, default in zip(names, "0101", strict=True)))


def join() -> World:
    """Meet the other processes that torchrun started, where it did. LostProcessError where they stay away."""
    world = world_of_environment()
    if world.size > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
        with _peers():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_leave)
    return world


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch raises where a connection ends
        if is_out_of_memory(error) or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            raise
        raise LostProcessError(
            "another process of this run ended, so this one does too; look above for why it did"
        ) from error
