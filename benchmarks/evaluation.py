"""Seconds of an importance-weighted likelihood estimate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measure import ratio, seconds_of, take_turns
from benchmarks.networks import MLP, SMALL_CONV, Network, images, pythae_trainer, trainer_of
from benchmarks.report import Table
from vaekit.densities.noise import IMAGES_PER_BLOCK, BlockNoise
from vaekit.evaluation.chunks import Chunks, rows_at_once
from vaekit.evaluation.likelihood import bounds_of_batch
from vaekit.models.vae import VAE


def evaluation(device: torch.device, quick: bool, with_pythae: bool) -> list[Table]:
    """NLL of an image with K = 5,000, as a whole evaluation runs it: 64 images at once."""
    table = Table(
        "Importance-weighted NLL, K = 5,000",
        ["network", "contender", "ms per image", "spread", "vaekit (compiled) is", "prepared in", "10,000 images"],
    )
    networks = [(MLP, 5000)] if quick else [(MLP, 5000), (SMALL_CONV, 500)]
    for network, samples in networks:
        _rows(table, network, samples, device, 3 if quick else 5, with_pythae)
    table.notes.append(
        "vaekit encodes once, decodes images × samples together and sums in float64; `vaekit evaluate` compiles where "
        "the whole evaluation is long enough. The convolutional network is measured at K = 500 and scaled."
    )
    return [table]


def _rows(table: Table, network: Network, samples: int, device: torch.device, rounds: int, with_pythae: bool) -> None:
    pixels = images(IMAGES_PER_BLOCK)
    trainer = trainer_of(network, pixels, 64, f"training.device={device.type}")
    model = trainer.model.eval()
    assert isinstance(model, VAE)
    x = trainer.pixels.for_evaluation(pixels.to(device), 0, 0)
    rows = rows_at_once(model, device)
    chunks = {name: Chunks(model, rows, name == "vaekit, compiled", print) for name in ("vaekit, compiled", "vaekit")}
    candidates: dict[str, Callable[[], float]] = {}
    prepared: dict[str, float] = {}
    for name, chunk in chunks.items():
        few = chunk.count(len(x), samples)
        warm = lambda chunk=chunk, few=few: bounds_of_batch(chunk, x, few, partial(BlockNoise, 0, 0))  # noqa: E731
        first, then = seconds_of(warm, device), seconds_of(warm, device)
        prepared[name] = first - then
        candidates[name] = lambda chunk=chunk: seconds_of(  # type: ignore[misc]
            lambda: bounds_of_batch(chunk, x, samples, partial(BlockNoise, 0, 0)), device, len(x)
        )
    if with_pythae:
        peer = pythae_trainer(network, pixels, 64, device).model.eval()
        some = pixels[:2].float().to(device) / 255

        @torch.no_grad()
        def theirs() -> float:
            return seconds_of(lambda: peer.get_nll(some, samples, batch_size=100), device, len(some))

        candidates["pythae"] = theirs
    timings = take_turns(candidates, rounds)
    for name, timing in timings.items():
        scaled = timing.median * 5000 / samples
        table.add(
            network.name,
            name,
            f"{1000 * scaled:,.1f}",
            f"{100 * timing.spread():.0f} %",
            "" if name == "vaekit, compiled" else ratio(timings["vaekit, compiled"], timing),
            f"{prepared[name]:.0f} s" if prepared.get(name, 0) > 1 else "",
            f"{scaled * 10_000 / 60:,.1f} min",
        )
