"""How the cost of vaekit grows with batch, image side, size of the data set and K."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measure import seconds_of, take_turns
from benchmarks.networks import LATENT, MLP, SMALL_CONV, images, trainer_of
from benchmarks.report import Table
from vaekit.densities.noise import BlockNoise
from vaekit.evaluation.chunks import Chunks, rows_at_once
from vaekit.evaluation.likelihood import bounds_of_batch
from vaekit.models.vae import VAE
from vaekit.training.loop import Trainer


def scaling(device: torch.device, quick: bool, with_pythae: bool) -> list[Table]:
    """Each line doubles or multiplies one thing; a cost per image that stays put is perfect scaling."""
    table = Table("How the cost grows", ["what grows", "to", "unit", "µs per unit", "of the first"])
    rounds = 3 if quick else 5
    where = (f"training.device={device.type}", "training.compile=off")
    batches = (32, 128, 512) if quick else (8, 32, 128, 512, 2048)
    _training(table, "batch, MLP", {b: trainer_of(MLP, images(4096), b, *where) for b in batches}, rounds)
    sides = (16, 32, 64) if quick else (16, 32, 64, 128)
    by_side = {s: trainer_of(SMALL_CONV, images(256, s, 3), 32, *where) for s in sides}
    _training(table, "side of colour images, conv", by_side, rounds, per_pixel=True)
    counts = (1_000, 10_000, 100_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
    by_count = {n: trainer_of(MLP, _many(n), 128, *where) for n in counts}
    _training(table, "images in the data set, MLP", by_count, rounds)
    _bounds(table, device, (100, 1000) if quick else (10, 100, 1000, 10_000), rounds)
    return [table]


def _many(count: int) -> torch.Tensor:
    few = images(1000)
    return few.repeat(-(-count // 1000), 1, 1, 1)[:count]


def _training(table: Table, what: str, trainers: dict[int, Trainer], rounds: int, per_pixel: bool = False) -> None:
    candidates: dict[str, Callable[[], float]] = {}
    for size, trainer in trainers.items():
        trainer.prepare(0)
        updates = max(2, 2048 // trainer.batches.batch_size) if not per_pixel else 2
        candidates[str(size)] = _updates(trainer, updates)
    first = None
    for name, timing in take_turns(candidates, rounds).items():
        trainer = trainers[int(name)]
        units = trainer.batches.batch_size * (trainer.splits.train.shape[1] ** 2 if per_pixel else 1)
        cost = 1e6 * timing.median / units
        first = first or cost
        table.add(what, f"{int(name):,}", "pixel" if per_pixel else "image", f"{cost:,.3g}", f"{cost / first:.2f}×")


def _updates(trainer: Trainer, updates: int) -> Callable[[], float]:
    def work() -> None:
        for step in range(updates):
            trainer.update(step)

    return lambda: seconds_of(work, trainer.device, updates)


def _bounds(table: Table, device: torch.device, samples: tuple[int, ...], rounds: int) -> None:
    trainer = trainer_of(MLP, images(64), 64, f"training.device={device.type}")
    model = trainer.model.eval()
    assert isinstance(model, VAE) and LATENT
    x = trainer.pixels.for_evaluation(images(64).to(device), 0, 0)
    chunks = Chunks(model, rows_at_once(model, device), False, print)

    def work(k: int) -> Callable[[], float]:
        return lambda: seconds_of(lambda: bounds_of_batch(chunks, x, k, partial(BlockNoise, 0, 0)), device)

    candidates = {str(k): work(k) for k in samples}
    first = None
    for name, timing in take_turns(candidates, rounds).items():
        cost = 1e6 * timing.median / (64 * int(name))
        first = first or cost
        table.add("K of the bound, MLP", f"{int(name):,}", "sample", f"{cost:,.3g}", f"{cost / first:.2f}×")
