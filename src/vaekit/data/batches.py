"""The hot path: which images a global step sees, and how they reach the device. Nothing here has state to save."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vaekit.data.counter import Stream, permutation
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.processes import ALONE, World

RESIDENT_SHARE = 0.5  # of the free device memory: the rest is for the model


def _fits(images: Tensor, device: torch.device) -> bool:
    """Whether to keep the images on the device. A memory-mapped set on the CPU stays as it is."""
    if device.type == "cpu":
        return True
    if device.type == "cuda":
        return images.numel() <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return images.numel() <= 2**31


class Batches:
    """Training batches of a data set: `gather(indices(step))` for any global step, from (seed, step) alone.

    Each epoch is its own permutation and drops the remainder that fills no batch. A data set smaller than a batch is
    one batch. Images that fit live on the device; others stay memory-mapped and are copied batch by batch.
    Where several processes train together, a batch is the batch of all, and each takes its share of it.

    Example:
        >>> data = Dataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8))
        >>> batches = Batches(data, batch_size=4, seed=0)
        >>> batches.steps_per_epoch, batches.gather(batches.indices(step=7)).shape
        (2, torch.Size([4, 1, 2, 2]))
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        *,
        resident: bool | None = None,
        world: World = ALONE,
    ) -> None:
        if len(dataset) == 0:
            raise DataError("there are no training images; use a smaller data.validation or data.test")
        self.device = torch.device(device)
        self.resident = _fits(dataset.images, self.device) if resident is None else resident
        self.images = dataset.images.to(self.device) if self.resident else dataset.images
        self.count = len(dataset)
        self.batch_size = min(batch_size, self.count)
        if self.batch_size < world.size:
            raise ConfigError(f"a batch of {self.batch_size} images has none for some of {world.size} processes")
        self.share = world.share(self.batch_size)
        self.seed = seed
        self.steps_per_epoch = max(1, self.count // batch_size)
        self._last: tuple[int, Tensor] | None = None  # the order of one epoch, so that it is sorted once

    @property
    def images_here(self) -> int:
        """Images of a batch that this process takes."""
        return self.share.stop - self.share.start

    def epoch(self, step: int) -> int:
        """The epoch that a global step lies in, from 0. A batch never spans two.

        Example:
            >>> Batches(Dataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8)), 4, 0).epoch(step=7)
            3
        """
        return step // self.steps_per_epoch

    def order(self, epoch: int) -> Tensor:
        """The permutation of all images, int64 (N,), that (seed, epoch) stand for.

        Example:
            >>> Batches(Dataset(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)), 2, 0).order(0).sort().values
            tensor([0, 1, 2])
        """
        if self._last is None or self._last[0] != epoch:
            self._last = epoch, permutation(Stream.ORDER, self.seed, epoch, self.count, self.images.device)
        return self._last[1]

    def indices(self, step: int) -> Tensor:
        """The images of a global step that this process takes, int64 (B,), where the images live.

        Example:
            >>> Batches(Dataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8)), 4, 0).indices(step=7).shape
            torch.Size([4])
        """
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size][self.share]

    def gather(self, indices: Tensor) -> Tensor:
        """These images, uint8 (B, C, H, W) on the device.

        Example:
            >>> Batches(Dataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8)), 4, 0).gather(torch.tensor([9])).shape
            torch.Size([1, 1, 2, 2])
        """
        return _to_device(self.images.index_select(0, indices.to(self.images.device)), self.device)


def in_order(dataset: Dataset, batch_size: int, device: torch.device | str = "cpu") -> Iterator[tuple[int, Tensor]]:
    """(index of the first image, uint8 batch on the device): every image once, the last batch may be smaller.

    Example:
        >>> [(start, len(batch)) for start, batch in in_order(Dataset(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)), 2)]
        [(0, 2), (2, 2), (4, 1)]
    """
    for start in range(0, len(dataset), batch_size):
        yield start, _to_device(dataset.images[start : start + batch_size], torch.device(device))


def _to_device(batch: Tensor, device: torch.device) -> Tensor:
    if batch.device.type == "cpu" and device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)  # the copy overlaps with the step before
    return batch.to(device)
