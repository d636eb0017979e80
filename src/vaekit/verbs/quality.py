"""How good the samples and reconstructions of a run are, beside real images: `reports/quality.csv`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.dataset import Dataset
from vaekit.data.pixels import content_of
from vaekit.densities.noise import BlockNoise, derived_seed
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.features import accuracy, extractor_for
from vaekit.evaluation.report import write_quality
from vaekit.evaluation.sets import ImageSource, SetScore, score_metrics, score_sources
from vaekit.trained.codes import MOST_IMAGES, aggregate_samples, some_rows
from vaekit.trained.model import BATCH, Trained
from vaekit.trained.run import open_run
from vaekit.trained.samplers import SAMPLERS, lacking, sampler_folder, sampler_for, sampler_named

Array = np.ndarray[Any, Any]
FITTED = "mixture"  # of the samplers, the one that is quick enough to be fitted without being asked for


@dataclass(frozen=True)
class Quality:
    """The table, what compared the images, the flat metrics that were written, and where the table is.

    `unavailable`: sources that could not be had, and what they need.
    """

    rows: list[SetScore]
    extractor: str
    metrics: dict[str, Any]
    path: Path
    unavailable: dict[str, str]


def quality(
    run: str | Path,
    *,
    count: int = 2000,
    seed: int = 0,
    sources: Mapping[str, ImageSource] | None = None,
    samplers: Sequence[str] | None = (),
    drawn: bool = False,
    weights: Path | None = None,
    which: str = "best",
    device: str = "auto",
    data_dir: str | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Quality:
    """SetScore real images, reconstructions, prior samples, `samplers` and `sources` against as many real test images.

    The test set is cut in two: one part is what all are compared with, the other is the row of real images and what
    is reconstructed, for a set that is compared with its own reconstructions looks better than real. Images are
    decoded means, as everywhere; `drawn` adds rows of draws from p(x | z). `samplers` are samplers of the aggregate
    posterior, each a row: the one saved with the run, or fitted now; None for the mixture and what else is
    saved, as far as the packages that they need are installed. `sources` are further rows by name: a function of a
    count that gives images (N, C, H, W) in [0, 1]. Every row has `count` images, fewer where the data has not as
    many, since distances depend on it. Written to reports/quality.csv and among the metrics. ConfigError for an
    unknown sampler.
    """
    if weights is not None and not weights.is_dir():
        raise ConfigError(f"--weights {weights} is no folder; give the folder that holds the weight files")
    unavailable: dict[str, str] = {}
    if samplers is None:
        samplers, unavailable = usual_samplers(run)
    for kind in samplers:
        sampler_named(kind)
    opened = open_run(run, which=which, device=device, data_dir=data_dir)
    trained, splits = opened.trained, opened.splits
    real, other = held_out_halves(splits.test, splits.validation, count, seed)
    count = len(real)
    size = trained.content_size
    extractor = extractor_for(
        splits.train, splits.facts["fingerprint"], size, weights=weights, device=trained.device, announce=announce
    )
    fitted = {
        _row(kind): sampled(trained, opened.folder, kind, splits.train, seed, announce)
        for kind in dict.fromkeys(samplers)
    }
    every = {**sources_of(trained, other, seed, drawn), **fitted, **(sources or {})}
    announce(f"{len(every)} sources of {count:,} images against {count:,} test images, by {extractor.about}")
    rows = list(score_sources(extractor, content_of(real.images, size), every))
    metrics = {
        **score_metrics(extractor, rows),
        "quality_features": extractor.name,
        "quality_images": count,
        "quality_seed": seed,
        **{f"quality_{name}": value for name, value in opened.identity.items()},
    }
    if (share := accuracy(extractor, splits.test, size)) is not None:
        metrics["quality_proxy_accuracy"] = share
    if extractor.sha256:
        metrics["quality_weights_sha256"] = extractor.sha256
    path = write_quality(opened.folder, rows, metrics)
    return Quality(rows, extractor.about, metrics, path, unavailable)


def usual_samplers(run: str | Path) -> tuple[list[str], dict[str, str]]:
    """The mixture and what else the run keeps a fit of; and rows of these that a package is missing for, with why."""
    kinds = [kind for kind in SAMPLERS if kind == FITTED or sampler_folder(open_run(run).folder, kind).is_dir()]
    missing = {kind: package for kind in kinds if (package := lacking(kind))}
    unavailable = {_row(kind): f"unavailable, needs {package}" for kind, package in missing.items()}
    return [kind for kind in kinds if kind not in missing], unavailable


def _row(kind: str) -> str:
    return f"{kind}_samples"


def sources_of(trained: Trained, data: Dataset, seed: int, drawn: bool = False) -> dict[str, ImageSource]:
    """These images, their reconstructions, and prior samples where there is a prior: decoded means, and draws."""
    found: dict[str, ImageSource] = {
        "real": lambda n: trained.cropped(data.images[:n]).float() / 255,
        "reconstructions": lambda n: _reconstructed(trained, data.subset(torch.arange(n)), None),
    }
    if drawn:
        found["reconstructions_drawn"] = lambda n: _reconstructed(trained, data.subset(torch.arange(n)), seed)
    if trained.model.has_prior:
        found["prior_samples"] = lambda n: trained.cropped(trained.sample_means(n, seed=seed)).cpu()
        if drawn:
            found["prior_samples_drawn"] = lambda n: _prior_draws(trained, n, seed)
    return found


def sampled(
    trained: Trained, run: Path, kind: str, train: Dataset, seed: int, announce: Callable[[str], None]
) -> ImageSource:
    """Decoded means of codes from the run's sampler of a kind, which is fitted now where it is not saved."""

    def codes() -> Array:
        return aggregate_samples(trained, train.subset(some_rows(len(train), MOST_IMAGES)))

    sampler = sampler_for(run, trained, kind, codes, announce=announce).sampler
    return lambda n: _decoded(trained, sampler.sample(n, seed=seed))


def held_out_halves(test: Dataset, validation: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Two sets of `count` images without a common one, by the seed; fewer where the data has not as many.

    Of the test set alone if it is large enough, else of test and validation set together. DataError without a test set.
    """
    if len(test) == 0:
        raise DataError("the test set is empty, so there is nothing to compare with; set data.test")
    parts = [test] if len(test) >= 2 * count else [test, validation]
    total = sum(len(part) for part in parts)
    count = min(count, total // 2)
    generator = torch.Generator().manual_seed(derived_seed(seed, "quality"))
    order = torch.randperm(total, generator=generator)
    halves = (half.sort().values for half in (order[:count], order[count : 2 * count]))
    first, second = (
        joined(test.subset(rows[rows < len(test)]), validation.subset(rows[rows >= len(test)] - len(test)))
        for rows in halves
    )
    return first, second


def joined(first: Dataset, second: Dataset) -> Dataset:
    """The images of both, and their labels where both have some."""
    labelled = first.labels is not None and second.labels is not None
    labels = torch.cat([first.labels, second.labels]) if labelled else None  # type: ignore[list-item]
    return Dataset(torch.cat([first.images, second.images]), labels, first.class_names)


def _decoded(trained: Trained, codes: Array) -> Tensor:
    return trained.cropped(trained.decoded_means(codes, trained.labels_in_turn(len(codes)))).cpu()


@torch.no_grad()
def _reconstructed(trained: Trained, images: Dataset, seed: int | None) -> Tensor:
    """Decoded means of the mean codes, or one draw from each p(x | z)."""
    with _seeded(seed):
        parts = [(px.mean if seed is None else px.sample())[0].cpu() for px in trained.described(images)]
    return trained.cropped(torch.cat(parts))


@torch.no_grad()
def _prior_draws(trained: Trained, count: int, seed: int) -> Tensor:
    labels = trained.labels_in_turn(count)
    parts = []
    with _seeded(seed):
        for first in range(0, count, BATCH):
            size = min(BATCH, count - first)
            context = None if labels is None else labels[first : first + size]
            px = trained.model.generate(size, BlockNoise(seed, first), context=context)
            parts.append(px.sample().cpu())
    return trained.cropped(torch.cat(parts))


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """torch's generator starts from the seed, and is as it was afterwards."""
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(derived_seed(seed, "draws"))
        yield
