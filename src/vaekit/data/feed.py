"""The batch of a global step as the model sees it, and images that do not fit the device fetched while it computes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.data.batches import Batches
from vaekit.data.pixels import Pixels

LARGE = 2**28  # bytes; a larger set in the CPU's memory may be a file that was not read yet, so it is fetched ahead too


class Feed:
    """`load(step)` fills fixed buffers, `batch()` reads them and `prepare` makes the model's input of that.

    Apart, because a captured step replays the others on the buffers that it was captured with.

    Example:
        >>> from vaekit.data.dataset import Dataset
        >>> batches = Batches(Dataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8)), batch_size=4, seed=0)
        >>> Feed(batches, Pixels(), seed=0).at(7).shape
        torch.Size([4, 1, 2, 2])
    """

    def __init__(self, batches: Batches, pixels: Pixels, seed: int) -> None:
        self.batches, self.pixels, self.seed = batches, pixels, seed
        device, size = batches.device, batches.images_here
        self.indices = torch.zeros(size, dtype=torch.int64, device=device)
        self.epoch = torch.zeros((), dtype=torch.int64, device=device)
        self._held = -1  # the epoch in that buffer
        large = batches.images.numel() > LARGE
        self._ahead = Prefetch(batches) if not batches.resident or (large and device.type == "cpu") else None
        self._images = None if self._ahead is None else self._ahead.empty()

    def load(self, step: int) -> None:
        """Fill the buffers for a global step."""
        epoch = self.batches.epoch(step)
        if epoch != self._held:
            self.epoch.fill_(epoch)
            self._held = epoch
        if self._ahead is None:
            self.indices.copy_(self.batches.indices(step))
        else:
            assert self._images is not None
            self._ahead.load(step, self.indices, self._images)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, uint8 (B, C, H, W), their indices (B,) and the epoch (0-d), from the buffers."""
        images = self.batches.images.index_select(0, self.indices) if self._images is None else self._images
        return images, self.indices, self.epoch

    def prepare(self, images: Tensor, indices: Tensor, epoch: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1]: augmented, binarised or dequantised."""
        return self.pixels.for_training(images, indices, epoch, self.seed)

    def at(self, step: int) -> Tensor:
        """All three: the model's input of a global step."""
        self.load(step)
        return self.prepare(*self.batch())


class Fetched(NamedTuple):
    """One batch in a slot of the ring."""

    slot: int
    arrived: torch.cuda.Event | None  # after its copy to the device


class Prefetch:
    """Gathers the next batch in a thread while the device computes.

    On a GPU through page-locked memory and a stream of its own, so that the copy waits for nothing and nothing for it.
    """

    slots = 2

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.on_gpu = batches.device.type == "cuda"
        self._thread = ThreadPoolExecutor(1, "vaekit-prefetch")
        self._next: tuple[int, Future[Fetched]] | None = None
        shape = (batches.images_here, *batches.images.shape[1:])
        self._host = [torch.empty(shape, dtype=torch.uint8, pin_memory=self.on_gpu) for _ in range(self.slots)]
        self._rows = [
            torch.empty(batches.images_here, dtype=torch.int64, pin_memory=self.on_gpu) for _ in range(self.slots)
        ]
        if self.on_gpu:
            self._stream = torch.cuda.Stream(batches.device)
            self._device = [torch.empty(shape, dtype=torch.uint8, device=batches.device) for _ in range(self.slots)]
            self._device_rows = [torch.empty_like(rows, device=batches.device) for rows in self._rows]
            self._copied = [torch.cuda.Event() for _ in range(self.slots)]  # out of page-locked memory
            self._taken = [torch.cuda.Event() for _ in range(self.slots)]  # out of the device's slot

    def empty(self) -> Tensor:
        """A buffer for one batch on the device."""
        shape = (self.batches.images_here, *self.batches.images.shape[1:])
        return torch.empty(shape, dtype=torch.uint8, device=self.batches.device)

    def load(self, step: int, indices: Tensor, images: Tensor) -> None:
        """Write the batch of a global step into these two, and start on the next one."""
        fetched = None
        if self._next is not None:
            expected, future = self._next
            fetched = future.result()  # also where another step was expected: two fetches would share the slots
            fetched = fetched if expected == step else None
        if fetched is None:
            fetched = self._fetch(step)
        if fetched.arrived is None:
            indices.copy_(self._rows[fetched.slot])
            images.copy_(self._host[fetched.slot])
        else:
            stream = torch.cuda.current_stream(self.batches.device)
            stream.wait_event(fetched.arrived)
            indices.copy_(self._device_rows[fetched.slot])
            images.copy_(self._device[fetched.slot])
            self._taken[fetched.slot].record(stream)
        self._next = step + 1, self._thread.submit(self._fetch, step + 1)

    def _fetch(self, step: int) -> Fetched:
        slot = step % self.slots
        if self.on_gpu:
            self._copied[slot].synchronize()  # its last batch has left page-locked memory
        self._rows[slot].copy_(self.batches.indices(step))
        torch.index_select(self.batches.images, 0, self._rows[slot], out=self._host[slot])
        if not self.on_gpu:
            return Fetched(slot, None)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._taken[slot])
            self._device[slot].copy_(self._host[slot], non_blocking=True)
            self._device_rows[slot].copy_(self._rows[slot], non_blocking=True)
            self._copied[slot].record(self._stream)
        return Fetched(slot, self._copied[slot])
