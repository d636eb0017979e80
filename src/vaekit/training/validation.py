"""What a run measures on its validation set, with noise that depends on the seed and the image alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.data import passes
from vaekit.data.dataset import Dataset, spread
from vaekit.data.pixels import Pixels
from vaekit.densities.noise import BlockNoise, derived_seed, no_noise
from vaekit.errors import DataError
from vaekit.models.model import Model
from vaekit.models.trace import Objective, terms
from vaekit.objectives.learned import selection_of, with_own
from vaekit.objectives.needs import needs_of
from vaekit.training.device import seeded

VALIDATION_BATCH = 500
CALIBRATION_IMAGES = 4096  # enough for one scalar


@torch.no_grad()
def validate(
    model: Model,
    objective: Objective,
    dataset: Dataset,
    pixels: Pixels,
    device: torch.device,
    step: Tensor,
    last_step: Tensor,
    seed: int,
    samples: int = 1,
) -> dict[str, float]:
    """Means over the data set, nats per example: loss, its terms, and `selection`, the loss as the last step weighs it.

    Selection uses the schedules' final values: under a KL warm-up the losses of two epochs cannot be compared.
    """
    totals: dict[str, Tensor] = {}
    needs = needs_of(objective)
    batch = VALIDATION_BATCH if needs.coupled else max(1, VALIDATION_BATCH // samples)
    for start, _, x, context in passes.over(model, dataset, pixels, seed, batch=batch):
        trace = model(x, samples, BlockNoise(seed, start), context, stopped=needs.stopped)
        drawing = derived_seed(seed, "objective", start)  # what an objective draws: prior samples, a shuffle
        with seeded(device, drawing):
            loss, own = with_own(objective, trace, step)
        with seeded(device, drawing):
            selection = selection_of(objective, trace, last_step)
        values = {"loss": loss, **terms(trace), **own, "selection": selection}
        for name, value in values.items():
            totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + value.cpu().double() * len(x)
    return {name: float(total) / len(dataset) for name, total in totals.items()}


@torch.no_grad()
def calibrate(model: Model, train: Dataset, pixels: Pixels, seed: int) -> None:
    """Let the likelihood fix what it estimates from the training set (the optimal scale).

    Of a large set, from 4,096 images evenly spread: the first ones of a folder are of its first classes.
    """
    parts = spread(len(train), CALIBRATION_IMAGES).split(passes.BATCH)  # a batch in memory at once: images may be large
    each = (passes.over(model, train.subset(rows), pixels, derived_seed(seed, n)) for n, rows in enumerate(parts))
    model.calibrate((x, context) for seen in each for _, _, x, context in seen)


def adopt(model: Model, train: Dataset, pixels: Pixels, seed: int) -> None:
    """Let a new model's prior take training images, drawn by the seed, as the model sees them.

    DataError for a prior with more components than there are images.
    """
    if model.components > len(train):
        raise DataError(
            f"a prior of {model.components:,} components has more than the {len(train):,} training images; "
            f"set model.prior.components={len(train)} or less"
        )
    model.adopt(lambda count: drawn_images(train, pixels, seed, "pseudo-inputs", count))


def drawn_images(train: Dataset, pixels: Pixels, seed: int, purpose: str, count: int) -> Tensor:
    """At most `count` training images (N, C, H, W) in an order that (seed, purpose) draws, as the model sees them."""
    generator = torch.Generator().manual_seed(derived_seed(seed, purpose))
    rows = torch.randperm(len(train), generator=generator)[:count]
    return pixels.for_evaluation(train.subset(rows).images, 0, seed)


@torch.no_grad()
def pictures_of(
    model: Model, dataset: Dataset, pixels: Pixels, device: torch.device, count: int, seed: int
) -> dict[str, Tensor]:
    """Reconstructions (originals, then their decodings) and prior samples, (N, C, H, W) in [0, 1] on the CPU."""
    if count == 0:
        return {}
    images = dataset.images[:count].to(device)
    x = pixels.for_evaluation(images, 0, seed)
    context = passes.context_of(model, dataset, 0, len(x))
    decoded = model(x, 1, no_noise, context).px.mean[0]
    shown = {"reconstructions": torch.cat([x, decoded]).clamp(0, 1).cpu()}
    if model.has_prior:
        shown["samples"] = model.generate(len(x), BlockNoise(seed), context=context).mean.clamp(0, 1).cpu()
    return shown
