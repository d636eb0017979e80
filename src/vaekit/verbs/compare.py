"""`vaekit compare`: runs side by side, one table and one sheet of the same test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vaekit import plots
from vaekit.config.paths import of_run
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.comparison import Comparison, comparison
from vaekit.plots.compare import Shown, comparison_sheet
from vaekit.trained.codes import encode_dataset
from vaekit.trained.model import Trained
from vaekit.trained.run import Run, open_run
from vaekit.verbs.evaluate import known_metrics

Array = np.ndarray[Any, Any]
IMAGES = 12  # columns of the sheet
SAMPLE_ROWS = 2
CODES = 2000  # images whose codes an autoencoder's samples are fitted to


@dataclass(frozen=True)
class Compared:
    """The table, and what was written."""

    table: Comparison
    paths: list[Path]


def compare(
    runs: Sequence[str | Path],
    *,
    out: str | Path = "runs/compare",
    samples: int | None = None,
    which: str = "best",
    device: str = "auto",
    data_dir: str | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Compared:
    """compare.csv, compare.json and compare.png of two or more runs, in `out`.

    Metrics are those in each run's reports where they are of its checkpoint, else evaluated now with K = `samples`
    (100). Rows whose numbers are of different measures, test images or K are marked. ConfigError for fewer than two
    runs, DataError where the shapes of their images differ.
    """
    if len({Path(run).resolve() for run in runs}) < 2:
        raise ConfigError(f"{len(runs)} run was given (or one of them twice); compare takes two or more different runs")
    labels = labels_of(runs)
    opened = {
        label: open_run(run, which=which, device=device, data_dir=data_dir)
        for label, run in zip(labels, runs, strict=True)
    }
    models = {label: run.trained for label, run in opened.items()}
    refuse_different_shapes(models)
    first = models[labels[0]]
    test = opened[labels[0]].dataset("test")  # before any evaluation: it may be empty or absent
    if len(test) == 0:
        raise DataError(f"the test set of {labels[0]} is empty, so there are no images to compare on")
    metrics = {}
    words: dict[str, str] = {}  # of each fingerprint: the same data may lie in two places
    for label, model in models.items():
        found = known_metrics(
            opened[label],
            samples=samples,
            which=which,
            device=device,
            data_dir=data_dir,
            announce=_named(announce, label),
        )
        weights = sum(p.numel() for p in model.model.parameters())
        data = words.setdefault(model.data_facts["fingerprint"], data_of(opened[label]))
        metrics[label] = {**found, "latent_dim": model.latent_dim, "weights": weights, "data": data}
    table = comparison(metrics)
    chosen = spread(test, IMAGES)
    originals = Originals(content_arrays(first, chosen), chosen.labels)
    shown = [_shown(label, run, originals, metrics[label]) for label, run in opened.items()]
    sheet = comparison_sheet(floats(originals.images), shown, table.sentences())
    return Compared(table, [*table.write(Path(out)), plots.save_picture(sheet, Path(out) / "compare.png")])


def _named(announce: Callable[[str], None], label: str) -> Callable[[str], None]:
    return lambda text: announce(f"{label}: {text}")


def labels_of(runs: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart: `beta-4`, or `a/run` and `b/run`."""
    parts = [Path(run).resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(p[-depth:]) for p in parts]
        if len(set(ends)) == len(set(parts)):
            break
    return ends


def refuse_different_shapes(models: Mapping[str, Trained]) -> None:
    """DataError where the images, without padding, are not of one shape."""
    shapes = {label: (*model.content_size, model.shape[0]) for label, model in models.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{label} {'×'.join(map(str, shape))}" for label, shape in shapes.items())
        raise DataError(f"the runs see images of different shapes ({said}); compare runs on images of one shape")


def data_of(run: Run) -> str:
    """Which test images a run has, in words that differ where they do."""
    data = of_run(run.trained.config, run.folder).data
    drawn = [f"{name} {getattr(data, name)}" for name in ("test", "seed") if getattr(data, name)]
    return " ".join([data.path or data.source, *drawn])


class Originals(NamedTuple):
    """Images that all models are shown: uint8 (N, H, W, C) without padding, and their labels."""

    images: Array
    labels: torch.Tensor | None


def spread(dataset: Dataset, count: int) -> Dataset:
    """`count` images spread over the set."""
    return dataset.subset(torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long())


def content_arrays(model: Trained, images: Dataset) -> Array:
    """uint8 (N, H, W, C), without padding."""
    return model.cropped(images.images).permute(0, 2, 3, 1).contiguous().numpy()


def floats(images: Array) -> Array:
    """(N, C, H, W) in [0, 1] from uint8 (N, H, W, C)."""
    return images.transpose(0, 3, 1, 2) / 255.0


def reconstructions(model: Trained, images: Array, labels: torch.Tensor | None = None) -> Array:
    """Decoded means (N, C, H, W) of uint8 images (N, H, W, C), without padding."""
    prepared = Dataset(model.prepare(list(images)).cpu(), labels)
    return model.cropped(model.reconstruct_prepared(prepared)).cpu().numpy()


@torch.no_grad()
def codes_of(model: Trained, dataset: Dataset, most: int) -> tuple[Array, torch.Tensor]:
    """Codes (N, D) of up to `most` images spread over a data set, and which images those were."""
    chosen = torch.linspace(0, len(dataset) - 1, min(most, len(dataset))).long()
    return encode_dataset(model, dataset.subset(chosen)), chosen


def samples_of(model: Trained, codes: Array | None, count: int, seed: int = 0) -> tuple[str, Array]:
    """(where they are from, decoded means (N, C, H, W)): the prior of a VAE, or a normal fitted to `codes`."""
    if model.model.has_prior:
        return "samples from the prior", model.cropped(model.sample_means(count, seed=seed)).cpu().numpy()
    assert codes is not None
    z = normal_of(codes, count, seed)
    means = model.decoded_means(z)
    return "samples from a normal fitted to training codes (no prior)", model.cropped(means).cpu().numpy()


def normal_of(codes: Array, count: int, seed: int) -> Array:
    """float32 (count, D) from the normal distribution with the mean and covariance of codes (N, D)."""
    values = codes.astype(np.float64)
    centre = values.mean(0)
    # the singular vectors: a covariance matrix need not have full rank, and N may be below D
    _, spread, axes = np.linalg.svd(values - centre, full_matrices=False)
    noise = np.random.default_rng(seed).standard_normal((count, len(spread)))
    return (centre + noise * spread / np.sqrt(max(1, len(codes) - 1)) @ axes).astype(np.float32)


def _shown(label: str, run: Run, originals: Originals, metrics: Mapping[str, Any]) -> Shown:
    model = run.trained
    codes = None if model.model.has_prior else codes_of(model, run.dataset("train"), CODES)[0]
    source, samples = samples_of(model, codes, IMAGES * SAMPLE_ROWS)
    numbers = [
        f"{name} {metrics[key]:.2f} nats"
        for key, name in (("nll_nats", "NLL"), ("elbo_nats", "ELBO"))
        if key in metrics
    ]
    title = " · ".join([label, *numbers, f"PSNR {metrics['psnr_db']:.2f} dB"]).replace(" -", " −")
    return Shown(title, reconstructions(model, *originals), source, samples)
