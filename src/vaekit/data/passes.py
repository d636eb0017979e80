"""The one pass over a data set: every image once, in order, as a model sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vaekit.data.batches import in_order
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels

BATCH = 500


class Viewer(Protocol):
    """What a pass asks of a model: where its weights are, and of how many classes it is conditional (0: of none)."""

    classes: int

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...


class Seen(NamedTuple):
    """A batch of a pass, on the model's device."""

    start: int  # position of the first image
    images: Tensor  # uint8 (B, C, H, W)
    x: Tensor  # (B, C, H, W), float32 in [0, 1], as the model sees them
    context: Tensor | None  # the labels of a conditional model, int64 (B,)


def over(
    model: Viewer, dataset: Dataset, pixels: Pixels, seed: int | None = None, *, batch: int = BATCH
) -> Iterator[Seen]:
    """The images in batches. `seed`: binarised and dequantised by (seed, image), whatever the batch, as in an
    evaluation; without one, as loose images without noise, which is what `Trained.encode` sees.
    """
    device = device_of(model)
    for start, images in in_order(dataset, batch, device):
        x = pixels.of_loose_images(images) if seed is None else pixels.for_evaluation(images, start, seed)
        yield Seen(start, images, x, context_of(model, dataset, start, len(x)))


def context_of(model: Viewer, dataset: Dataset, start: int, count: int) -> Tensor | None:
    """The labels of images start … of a data set for a conditional model, None for others.

    Images without labels are left to the class that the model is `given`.
    """
    if not model.classes or dataset.labels is None:
        return None
    return dataset.context(device_of(model), start, count)


def device_of(model: Viewer) -> torch.device:
    """Where the weights of a model are."""
    return next(iter(model.parameters())).device
