"""Images ranked by how little the model expects them, against the test images of its run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaekit import plots
from vaekit.data import passes
from vaekit.data.counter import Stream, permutation
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.report import csv_text
from vaekit.files import write_text_atomically
from vaekit.plots.anomalies import elbo_histogram
from vaekit.trained.model import Trained
from vaekit.trained.own_images import SAMPLES, ImageScore, ScoredImages, Scorer, read_images, refuse_failures
from vaekit.trained.run import open_run

Array = np.ndarray[Any, Any]
REFERENCE = 2000  # test images; `every` takes all
SHOWN = 20  # images on the sheet
BATCH = 128


class Ranked(NamedTuple):
    """One image with its place: rank 1 is the least expected."""

    rank: int
    name: str
    elbo_nats: float
    percentile: float  # in the test set's ELBOs: near 0 is stranger than nearly all, near 100 plainer than nearly all
    score: ImageScore


@dataclass(frozen=True)
class Anomalies:
    """The ranking, the ELBOs it was compared with (nats, sorted), what was written and which files failed."""

    ranking: list[Ranked]
    reference: Array
    paths: list[Path]
    failures: dict[str, str]


def anomalies(
    run: str | Path,
    places: Sequence[str | Path] = (),
    *,
    every: bool = False,
    samples: int = SAMPLES,
    seed: int = 0,
    which: str = "best",
    device: str = "auto",
    data_dir: str | None = None,
    given: str | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Anomalies:
    """grids/anomalies.png and reports/anomalies.csv: images by rising ELBO, with percentiles among test images.

    Without `places` the test images themselves are ranked. The reference is 2,000 of them drawn by the seed, or all
    with `every`. A low ELBO is not the only way to be foreign: an empty image is easy to code (Nalisnick et al. 2019,
    arXiv:1810.09136), and stands at the other end, near percentile 100.
    DataError where no image can be read, or the test set is empty; ConfigError for an autoencoder.
    """
    opened = open_run(run, which=which, device=device, data_dir=data_dir, given=given)
    trained, folder = opened.trained, opened.folder
    if not trained.model.has_posterior:
        raise ConfigError("an autoencoder has no ELBO to rank by; train a model with model.kind=vae")
    scorer = Scorer(trained, samples, seed)
    reading = read_images(scorer, places) if places else None
    test = reference_images(opened.dataset("test"), seed, every)
    strangest = _Strangest(SHOWN)
    scores: list[ImageScore] = []
    for batch in reading or ():
        strangest.add(batch)
        scores += batch.scores
    if reading is not None and not scores:
        refuse_failures(reading.failures)
    reference: list[float] = []
    for start in range(0, len(test), BATCH):
        part = test.images[start : start + BATCH].to(trained.device)
        labels = passes.context_of(trained.model, test, start, len(part))
        if reading is None:
            batch = scorer(_names(test, start, len(part)), part, labels)
            strangest.add(batch)
            scores += batch.scores
            reference += [elbo_of(score) for score in batch.scores]
        else:
            reference += scorer.bounds(part, labels).elbo.tolist()
        progress((start + len(part)) / len(test))
    ordered = np.sort(np.asarray(reference))
    ranking = rank(scores, ordered)
    picture = _picture(trained, ranking, ordered, strangest, marked=reading is not None)
    made = [plots.save_picture(picture, folder / "grids" / "anomalies.png")]
    failures = {} if reading is None else reading.failures
    made.append(_write_table(folder / "reports" / "anomalies.csv", ranking, failures))
    return Anomalies(ranking, ordered, made, failures)


def elbo_of(score: ImageScore) -> float:
    """The ELBO of an image of a VAE, nats."""
    assert score.elbo_nats is not None
    return score.elbo_nats


def reference_images(test: Dataset, seed: int, every: bool) -> Dataset:
    """The test images to compare with: all, or 2,000 that the seed draws, in their own order, with names."""
    if len(test) == 0:
        raise DataError("the test set is empty, so there is nothing to compare with; set data.test when training")
    names = test.names or [f"test image {number}" for number in range(len(test))]
    named = Dataset(test.images, test.labels, test.class_names, names)
    if every or len(test) <= REFERENCE:
        return named
    return named.subset(permutation(Stream.LIMIT, seed, 0, len(test))[:REFERENCE].sort().values)


def _names(test: Dataset, start: int, count: int) -> Sequence[str]:
    assert test.names is not None
    return test.names[start : start + count]


def percentiles(values: Array, reference: Array) -> Array:
    """Where values stand in the sorted reference: 100 times the share below, ties counted half.

    Example:
        >>> percentiles(np.array([0.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0])).tolist()
        [0.0, 37.5, 100.0]
    """
    below, upto = (np.searchsorted(reference, values, side) for side in ("left", "right"))
    return 50.0 * (below + upto) / len(reference)


def rank(scores: Sequence[ImageScore], reference: Array) -> list[Ranked]:
    """Lowest ELBO first; equal ones by name, so that the order in which they came does not count."""
    ordered = sorted(scores, key=lambda score: (elbo_of(score), score.name))
    shares = percentiles(np.array([elbo_of(score) for score in ordered]), reference)
    return [
        Ranked(place, score.name, elbo_of(score), float(share), score)
        for place, (score, share) in enumerate(zip(ordered, shares, strict=True), start=1)
    ]


class _Strangest:
    """The images of lowest ELBO among those that came by: name → (image, reconstruction)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: dict[str, tuple[float, Array]] = {}

    def add(self, batch: ScoredImages) -> None:
        for image, decoded, score in zip(batch.images.numpy(), batch.decoded.numpy(), batch.scores, strict=True):
            self.kept[score.name] = elbo_of(score), np.stack([image, decoded])
        first = sorted(self.kept, key=lambda name: (self.kept[name][0], name))[: self.most]
        self.kept = {name: self.kept[name] for name in first}


def _picture(trained: Trained, ranking: list[Ranked], reference: Array, strangest: _Strangest, *, marked: bool) -> Any:
    values = [entry.elbo_nats for entry in ranking] if marked else []
    unit = "nats" if trained.model.likelihood.family.is_likelihood else "of a loss that is no likelihood"
    histogram = plots.drawn(elbo_histogram(reference, values, f"ELBO ({unit})"))
    shown = [entry for entry in ranking if entry.name in strangest.kept][:SHOWN]
    captions = [
        [
            f"{entry.rank}. {Path(entry.name).name}",
            f"ELBO {entry.elbo_nats:,.1f}".replace("-", "−"),
            f"percentile {entry.percentile:.1f}",
        ]
        for entry in shown
    ]
    stacks = np.stack([strangest.kept[entry.name][1] for entry in shown])
    which = f"the {len(shown)} least expected of {len(ranking):,} images"
    if len(shown) == len(ranking):
        which = f"{plots.counted(len(shown), 'image')}, the least expected first"
    titles = (f"{which}; below each its reconstruction",)
    return plots.stacked([histogram, plots.captioned_sheet(stacks, captions, titles=titles)])


def _write_table(path: Path, ranking: Sequence[Ranked], failures: dict[str, str]) -> Path:
    header = ("rank", "name", "elbo_nats", "percentile", "distortion_nats", "rate_nats", "psnr_db", "error")
    good = [
        (*entry[:4], entry.score.distortion_nats, entry.score.rate_nats, entry.score.psnr_db, None) for entry in ranking
    ]
    bad = [(None, name, *[None] * 5, why) for name, why in failures.items()]
    write_text_atomically(path, csv_text([header, *good, *bad]))
    return path
