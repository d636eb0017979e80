"""log p(x) of a run by annealed importance sampling, with the error of the method: `vaekit ais`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.data.dataset import Dataset, spread
from vaekit.densities.noise import BlockNoise
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.ais import Annealed, Annealing, annealed, refuse_without_slopes, simulated
from vaekit.evaluation.chunks import Chunks, rows_at_once
from vaekit.evaluation.likelihood import bounds_of_batch
from vaekit.evaluation.report import write_annealing
from vaekit.models.model import Model
from vaekit.trained.model import Trained
from vaekit.trained.run import open_run

Metrics = dict[str, Any]
SAMPLES = 500  # of the importance-weighted bound on the same images
TRIAL = 10  # temperatures of the run that the time is told from


def ais(
    run: str | Path,
    settings: Annealing = Annealing(),  # noqa: B008 (frozen)
    *,
    images: int = 100,
    own_images: int = 32,
    split: str = "test",
    seed: int = 0,
    which: str = "best",
    device: str = "auto",
    data_dir: str | None = None,
    announce: Callable[[str], None] = lambda text: None,
    progress: Callable[[float], None] = lambda share: None,
) -> Metrics:
    """The metrics `ais_…` of a run, also written among its reports: the bound on `images` of a split, evenly spread.

    Beside it the importance-weighted bound of the same images, and on `own_images` of the model's own the gap between
    the bound from below and the one from above: what both miss together (0 leaves it out). ConfigError for
    a model that cannot be annealed, DataError for an empty split.
    """
    if min(settings.temperatures, settings.chains, settings.leapfrogs, images) < 1 or own_images < 0:
        raise ConfigError("temperatures, chains, leapfrogs and images are 1 or more; change the option below that")
    opened = open_run(run, which=which, device=device, data_dir=data_dir)
    trained, model = opened.trained, refuse_without_slopes(opened.trained.model)
    dataset = opened.dataset(split)
    if len(dataset) == 0:
        raise DataError(f"the {split} set is empty; choose another with --split")
    rows = spread(len(dataset), images)
    x, context = _seen(trained, dataset, rows, seed)
    own_images = min(own_images, len(x))
    passes = settings.trajectories(len(x)) + 2 * settings.trajectories(own_images)
    seconds = _seconds_of_one(model, x, context, settings, seed) * passes
    announce(
        f"{len(x):,} {split} images, {settings.chains} chains, {settings.temperatures:,} temperatures, "
        f"{own_images} images of its own: about {seconds:.0f} s"
    )
    done = 0

    def tick(trajectories: int) -> None:
        nonlocal done
        done += trajectories
        progress(min(1.0, done / passes))

    found = annealed(model, x, settings, seed, context=context, tick=tick)
    metrics = _measured(found, settings) | _importance(model, x, context, seed)
    if own_images:
        labels = None if context is None else context[spread(len(context), own_images)]
        metrics |= gap(model, own_images, settings, seed, context=labels, tick=tick)
    metrics |= {"ais_split": split, "ais_seed": seed}
    metrics |= {f"ais_{name}": value for name, value in opened.identity.items()}
    write_annealing(opened.folder, metrics)
    return metrics


def _seen(trained: Trained, dataset: Dataset, rows: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
    """These images as `vaekit evaluate` shows them to the model, binarised alike; labels for a conditional one."""
    device, pixels = trained.device, trained.pixels
    parts = [pixels.for_evaluation(dataset.images[i : i + 1].to(device), i, seed) for i in rows.tolist()]
    labels = dataset.context(device)[rows.to(device)] if trained.model.classes else None
    return torch.cat(parts), labels


def _seconds_of_one(model: Model, x: Tensor, context: Tensor | None, settings: Annealing, seed: int) -> float:
    """Of one trajectory, by a short run on these images."""
    short = replace(settings, temperatures=min(TRIAL, settings.temperatures))
    few = x[:64], None if context is None else context[:64]
    began = time.perf_counter()
    annealed(model, few[0], short, seed, context=few[1])
    return (time.perf_counter() - began) / short.trajectories(len(few[0]))


def _measured(found: Annealed, settings: Annealing) -> Metrics:
    bound = found.log_mean
    numbers = {
        "ais_se_nats": float(bound.std()) / math.sqrt(len(bound)) if len(bound) > 1 else None,
        "ais_sampling_se_nats": found.sampling_se_nats,
    }
    if settings.temperatures > 1:
        numbers["ais_acceptance"] = float(found.acceptance.mean())
    return {
        "ais_nats": float(bound.mean()),
        **{name: value for name, value in numbers.items() if value is not None},
        "ais_images": len(bound),
        "ais_temperatures": settings.temperatures,
        "ais_chains": settings.chains,
        "ais_leapfrogs": settings.leapfrogs,
        "ais_start": settings.start,
    }


def _importance(model: Model, x: Tensor, context: Tensor | None, seed: int) -> Metrics:
    """The importance-weighted bound of the same images."""
    chunks, found = Chunks(model, rows_at_once(model, x.device)), []
    for first in range(0, len(x), 64):
        labels = None if context is None else context[first : first + 64]
        noise = partial(BlockNoise, seed, first)
        found.append(bounds_of_batch(chunks, x[first : first + 64], SAMPLES, noise, labels)[3])
    return {"ais_importance_nats": float(torch.cat(found).mean()), "ais_importance_samples": SAMPLES}


def gap(
    model: Model,
    images: int,
    settings: Annealing,
    seed: int,
    *,
    context: Tensor | None = None,
    tick: Callable[[int], None] = lambda trajectories: None,
) -> Metrics:
    """On images that the model drew: the bound on log p(x) from below, from above, and what lies between, in nats.

    Grosse, Ancha & Roy 2016, arXiv:1511.02543
    """
    own = simulated(model, images, seed, context)
    below = annealed(model, own.x, settings, seed, context=context, tick=tick).log_mean
    above = -annealed(model, own.x, settings, seed, context=context, codes=own.codes, tick=tick).log_mean
    found: Metrics = {
        "ais_own_images": images,
        "ais_own_below_nats": float(below.mean()),
        "ais_own_above_nats": float(above.mean()),
        "ais_gap_nats": float((above - below).mean()),
    }
    error = float((above - below).std()) / math.sqrt(images) if images > 1 else None
    return found if error is None else found | {"ais_gap_se_nats": error}


def rows_of(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value with unit) for a table."""
    error = f" ± {metrics['ais_se_nats']:.2f}" if "ais_se_nats" in metrics else ""
    chains = metrics.get("ais_sampling_se_nats")
    sampling = "" if chains is None else f" (± {chains:.3f} from the chains)"
    rows = [
        ("log p(x), annealed, from below", f"{metrics['ais_nats']:.2f}{error} nats{sampling}"),
        (
            f"importance-weighted, K = {metrics['ais_importance_samples']}, same images",
            f"{metrics['ais_importance_nats']:.2f} nats",
        ),
    ]
    if "ais_gap_nats" in metrics:
        below, above = metrics["ais_own_below_nats"], metrics["ais_own_above_nats"]
        error = f" ± {metrics['ais_gap_se_nats']:.3f}" if "ais_gap_se_nats" in metrics else ""
        rows.append(("on images of its own, log p(x) lies between", f"{below:.2f} and {above:.2f} nats"))
        rows.append(("gap: what both bounds miss together", f"{metrics['ais_gap_nats']:.3f}{error} nats"))
    if "ais_acceptance" in metrics:
        rows.append(("acceptance", f"{metrics['ais_acceptance']:.2f}"))
    return rows
