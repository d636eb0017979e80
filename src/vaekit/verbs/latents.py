"""The latent space of a run in numbers and pictures, and a folder of images as a table of codes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit import plots
from vaekit.data.dataset import Dataset
from vaekit.data.store import find_images
from vaekit.errors import ConfigError, DataError, suggest
from vaekit.evaluation.latents import LatentUse
from vaekit.files import save_array, storage_errors, write_text_atomically
from vaekit.trained import walks
from vaekit.trained.codes import aggregate_samples, prior_draws
from vaekit.trained.run import Array, Made, Run

TSNE_LIMIT = 800  # points, and steps: more take longer than one wants to wait
TSNE_STEPS = 400
TSNE_PERPLEXITY = 30.0
FILES_AT_ONCE = 256
MOST_NAMED = 10
FEWEST_IMAGES = 3  # for statistics


def latents(
    opened: Run, *, split: str = "test", projection: str = "pca", arrays: bool = False
) -> tuple[LatentUse, Made]:
    """Statistics in reports/latent_statistics.json and .csv; scatter, KL bars, histograms and correlation in grids/."""
    if projection not in PROJECTIONS:
        raise ConfigError(f"unknown projection '{projection}'; {suggest(projection, PROJECTIONS)}")
    data = opened.images(split)
    if len(data) < FEWEST_IMAGES:
        raise DataError(
            f"statistics need {FEWEST_IMAGES} images or more but the {split} set has {len(data)}; choose another split"
        )
    use = opened.use(data)
    made = Made(_write_statistics(opened, use, split))
    made.paths += draw_latents(opened, use, data, split, projection)
    if arrays:
        made.paths.append(save_array(use.means.float().numpy(), opened.folder / "reports" / "latent_means.npy"))
    return use, made


def headline(use: LatentUse) -> list[tuple[str, str]]:
    """(name, value with unit) rows for a table: the whole, then the most used dimensions."""
    rows = [("active dimensions", f"{int(use.active.sum())} of {len(use.mean)}")]
    if use.has_prior:
        rows.append(("rate (KL of the posteriors)", f"{use.rate_nats:.2f} nats per image"))
        if math.isfinite(use.aggregate_kl_nats):
            rows.append(("aggregate posterior to prior", f"{use.aggregate_kl_nats:.2f} nats, as normals"))
    if use.has_prior and not use.has_kl_per_dim:
        rows.append(("KL per dimension", "none: q and p do not fall apart into dimensions together; below by spread"))
    for dim in walks.most_used(use.importance.numpy(), MOST_NAMED):
        kl = f"KL {float(use.kl_nats[dim]):.2f} nats · " if use.has_kl_per_dim else ""
        mean, spread = plots.signed(float(use.mean[dim]), plus=True), float(use.aggregate_std[dim])
        rows.append((f"z{dim}", f"{kl}mean {mean} · spread {spread:.2f}"))
    return rows


def statistics(use: LatentUse) -> list[dict[str, Any]]:
    """One row for each dimension: mean, spread, KL and activity. What a model lacks is None."""
    columns = {
        "mean": use.mean,
        "mean_variance": use.mean_variance,
        "posterior_std": use.posterior_variance.sqrt(),
        "aggregate_std": use.aggregate_std,
        "kl_nats": use.kl_nats,
        "marginal_kl_nats": use.marginal_kl_nats,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {
            "dimension": dim,
            **{k: _number(v) for k, v in zip(columns, row, strict=True)},
            "active": bool(use.active[dim]),
        }
        for dim, row in enumerate(rows)
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_statistics(opened: Run, use: LatentUse, split: str) -> list[Path]:
    rows = statistics(use)
    off_diagonal = use.correlation - torch.diag(use.correlation.diagonal())
    facts = {
        "split": split,
        "images": len(use.means),
        "checkpoint": f"step-{opened.trained.step:08d}",
        "latent_dim": len(rows),
        "active_units": int(use.active.sum()),
        "rate_nats": _number(use.rate_nats),
        "aggregate_kl_nats": _number(use.aggregate_kl_nats),
        "largest_correlation": float(off_diagonal.abs().max()),
        "dimensions": rows,
        "correlation": [[round(value, 6) for value in row] for row in use.correlation.tolist()],
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    folder = opened.folder / "reports"
    write_text_atomically(folder / "latent_statistics.json", json.dumps(facts, indent=1) + "\n")
    write_text_atomically(folder / "latent_statistics.csv", text.getvalue())
    return [folder / "latent_statistics.json", folder / "latent_statistics.csv"]


def draw_latents(opened: Run, use: LatentUse, data: Dataset, split: str, projection: str = "pca") -> list[Path]:
    """Scatter, KL bars, histograms and correlation of these images of a split, in grids/.

    No bars where there is no KL per dimension: for an autoencoder, a mixture, a flow.
    """
    folder, count = opened.folder / "grids", f"{len(use.means):,} {split} images"
    made = [_scatter(use, data, count, projection, folder)]
    if use.has_kl_per_dim:
        title = f"KL per dimension, {count}: {int(use.active.sum())} of {len(use.mean)} active"
        bars = plots.kl_bars(use.kl_nats.numpy(), use.active.numpy(), title=title)
        made.append(plots.save_figure(bars, folder / "kl_bars.png"))
    dims = walks.most_used(use.importance.numpy(), plots.MOST_HISTOGRAMS)
    what = "aggregate posterior against prior" if use.has_prior else "codes"
    most = "" if len(dims) == len(use.mean) else f", the {len(dims)} most used dimensions"
    drawn = plots.histograms(
        aggregate_samples(opened.trained, data), dims, title=f"{what}, {count}{most}", **_prior(opened, use)
    )
    made.append(plots.save_figure(drawn, folder / "latent_histograms.png"))
    matrix = plots.correlation_matrix(use.correlation.numpy(), title=f"correlation of latent dimensions, {count}")
    made.append(plots.save_figure(matrix, folder / "latent_correlation.png"))
    return made


def _prior(opened: Run, use: LatentUse) -> dict[str, Array]:
    """The prior as `plots.histograms` takes it: a normal's moments, draws of another, nothing for an autoencoder."""
    model = opened.trained.model
    if use.has_kl_per_dim and not (model.classes or use.discrete):
        return {"prior_mean": use.prior_mean.numpy(), "prior_std": use.prior_std.numpy()}
    return {"prior_draws": prior_draws(opened.trained)} if use.has_prior else {}


def _scatter(use: LatentUse, data: Dataset, count: str, projection: str, folder: Path) -> Path:
    labels = None if data.labels is None else data.labels.numpy()
    means = use.means.numpy()
    if means.shape[1] == 2:
        points, names, title = means, ("z0", "z1"), f"codes of {count}"
    elif means.shape[1] == 1:
        spread = np.random.default_rng(0).uniform(-0.5, 0.5, len(means))
        points, names, title = np.stack([means[:, 0], spread], 1), ("z0", "random, for legibility"), f"codes of {count}"
    else:
        points, names, title, chosen = PROJECTIONS[projection](means)
        labels = None if labels is None else labels[chosen]
        title = f"{title} of the codes of {count if len(chosen) == len(means) else f'{len(chosen):,} of {count}'}"
    figure = plots.scatter(points, title=title, axis_names=names, labels=labels, names=data.class_names)
    return plots.save_figure(figure, folder / "latent_scatter.png")


Projected = tuple[Array, tuple[str, str], str, Array]  # points (N, 2), axis names, title, which rows of the codes


def principal_plane(codes: Array) -> Projected:
    """The two directions of largest variance, with their shares; the largest weight of each is positive."""
    centred = codes - codes.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    largest = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[[0, 1], largest])[:, None]
    shares = np.square(singular) / max(np.square(singular).sum(), 1e-300)
    names = tuple(f"component {i + 1} ({shares[i]:.0%} of the variance)" for i in (0, 1))
    return centred @ directions.T, (names[0], names[1]), "PCA", np.arange(len(codes))


def neighbour_embedding(codes: Array) -> Projected:
    """t-SNE of at most 800 codes: near stays near, far means little. van der Maaten & Hinton 2008, JMLR 9"""
    from sklearn.manifold import TSNE

    chosen = np.linspace(0, len(codes) - 1, min(len(codes), TSNE_LIMIT)).astype(int)
    perplexity = min(TSNE_PERPLEXITY, (len(chosen) - 1) / 3)
    embedding = TSNE(2, perplexity=perplexity, init="pca", random_state=0, max_iter=TSNE_STEPS)
    points = embedding.fit_transform(codes[chosen].astype(np.float32))
    return points, ("t-SNE 1", "t-SNE 2"), "t-SNE", chosen


PROJECTIONS: Mapping[str, Callable[[Array], Projected]] = {"pca": principal_plane, "tsne": neighbour_embedding}


# Tables


def encode_folder(opened: Run, images: Path, table: Path) -> Made:
    """A table of the codes of every image below a folder: file and z0, z1, …; CSV, NPZ or Parquet by the name's end.

    Files that cannot be read are left out and named in `failures`.
    """
    write = TABLES.get(table.suffix.lower())
    if write is None:
        raise ConfigError(f"a table '{table}' has no known ending; choose one of: {', '.join(TABLES)}")
    if not images.is_dir():
        raise DataError(f"there is no folder '{images}'; give a folder of images")
    found = [file.name for file in find_images(images)]
    if not found:
        raise DataError(f"there are no images in '{images}'; give a folder that has some")
    names: list[str] = []
    parts: list[Array] = []
    failures: list[str] = []
    for first in range(0, len(found), FILES_AT_ONCE):
        read = opened.readable(found[first : first + FILES_AT_ONCE], images)
        names += read.names
        failures += read.failures
        if read.names:
            parts.append(opened.codes(read.images))
    if not parts:
        raise DataError("; ".join(failures))
    with storage_errors(table.parent):
        table.parent.mkdir(parents=True, exist_ok=True)
        write(table, names, np.concatenate(parts))
    return Made(
        [table], [f"{len(names):,} image{'s' * (len(names) != 1)}, {opened.trained.latent_dim} numbers each"], failures
    )


def _write_csv(path: Path, names: Sequence[str], codes: Array) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", *_columns(codes)])
        writer.writerows([name, *row] for name, row in zip(names, codes.tolist(), strict=True))


def _write_npz(path: Path, names: Sequence[str], codes: Array) -> None:
    with path.open("wb") as file:
        np.savez(file, names=np.array(names), codes=codes)


def _write_parquet(path: Path, names: Sequence[str], codes: Array) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "a Parquet table needs the package pyarrow; pip install 'vaekit[parquet]', or name a .csv"
        ) from None
    columns = dict(zip(_columns(codes), codes.T, strict=True))
    pyarrow.parquet.write_table(pyarrow.table({"file": list(names), **columns}), path)


def _columns(codes: Array) -> list[str]:
    return [f"z{dim}" for dim in range(codes.shape[1])]


TABLES: Mapping[str, Callable[[Path, Sequence[str], Array], None]] = {
    ".csv": _write_csv,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
