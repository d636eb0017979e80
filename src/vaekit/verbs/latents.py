"""The latent space of a run in numbers and pictures, and a folder of images as a table of codes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit import plots
from vaekit.data.dataset import Dataset
from vaekit.data.found import find_images
from vaekit.errors import ConfigError, DataError, missing_extra, suggest
from vaekit.evaluation.latents import LatentUse
from vaekit.files import save_array, storage_errors, write_text_atomically
from vaekit.trained import walks
from vaekit.trained.codes import aggregate_samples, prior_draws
from vaekit.trained.run import Array, Made, Run

MOST_WIDE = 1000  # columns, and then rows, of the codes that principal components are found on
TSNE_LIMIT = 800  # points, and steps: more take longer than one wants to wait
TSNE_STEPS = 400
TSNE_PERPLEXITY = 30.0
FILES_AT_ONCE = 256
MOST_NAMED = 10
FEWEST_IMAGES = 3  # for statistics
MOST_CORRELATED = 1024  # columns whose correlations are drawn and written: 13 MB of JSON


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
    drawn = draw_latents(opened, use, data, split, projection)
    made = Made([*_write_statistics(opened, use, drawn.correlation, split), *drawn.paths])
    if drawn.correlation is None:
        made.notes.append(
            f"the correlations of {len(use.mean):,} columns are left out, being megabytes above {MOST_CORRELATED:,}; "
            "of a model with several groups --group chooses one"
        )
    if arrays:
        made.paths.append(save_array(use.means.float().numpy(), opened.folder / "reports" / "latent_means.npy"))
    return use, made


def headline(use: LatentUse) -> list[tuple[str, str]]:
    """(name, value with unit) rows for a table: the whole, then the most used dimensions, or channels of a grid."""
    rows = [("active dimensions", f"{int(use.active.sum())} of {len(use.mean)}")]
    if use.has_prior:
        rows.append(("rate (KL of the posteriors)", f"{use.rate_nats:.2f} nats per image"))
        if len(use.group_rates_nats) > 1:
            groups = zip(use.layout.groups, use.group_rates_nats, strict=True)
            rows += [(f"  of which {group.name}", f"{rate:.2f} nats") for group, rate in groups]
        if math.isfinite(use.aggregate_kl_nats):
            rows.append(("aggregate posterior to prior", f"{use.aggregate_kl_nats:.2f} nats, as normals"))
    if use.has_prior and not use.has_kl_per_dim:
        rows.append(("KL per dimension", "none: q and p do not fall apart into dimensions together; below by spread"))
    for number in most_used_units(use, MOST_NAMED):
        unit = use.layout.units[number]
        columns = slice(unit.columns.start, unit.columns.stop)
        kl = f"KL {float(use.kl_nats[columns].sum()):.2f} nats · " if use.has_kl_per_dim else ""
        mean, spread = float(use.mean[columns].mean()), float(use.aggregate_std[columns].square().mean().sqrt())
        rows.append((unit.name, f"{kl}mean {plots.signed(mean, plus=True)} · spread {spread:.2f}"))
    return rows


def most_used_units(use: LatentUse, count: int) -> list[int]:
    """The numbers, or channels of a grid, with the largest KL (or spread of their codes), falling."""
    return walks.most_used(use.layout.by_unit(use.importance).numpy(), count)


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
    plain = len(use.layout.groups) == 1 and not use.layout.is_grid
    return [
        {
            "dimension": dim,
            **({} if plain else {"name": use.layout.column(dim)}),
            **{k: _number(v) for k, v in zip(columns, row, strict=True)},
            "active": bool(use.active[dim]),
        }
        for dim, row in enumerate(rows)
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_statistics(opened: Run, use: LatentUse, correlation: Array | None, split: str) -> list[Path]:
    rows = statistics(use)
    facts: dict[str, Any] = {
        "split": split,
        "images": len(use.means),
        "checkpoint": f"step-{opened.trained.step:08d}",
        "latent_dim": len(rows),
        "active_units": int(use.active.sum()),
        "rate_nats": _number(use.rate_nats),
        "aggregate_kl_nats": _number(use.aggregate_kl_nats),
    }
    if use.layout.is_grid:
        facts["channel_kl_nats"] = [_number(value) for value in use.unit_kl_nats.tolist()]
    if len(use.group_rates_nats) > 1:
        facts["group_rates_nats"] = {
            group.name: _number(rate) for group, rate in zip(use.layout.groups, use.group_rates_nats, strict=True)
        }
    if correlation is not None:
        facts["largest_correlation"] = float(np.abs(correlation - np.diag(np.diag(correlation))).max())
    facts["dimensions"] = rows
    if correlation is not None:
        facts["correlation"] = [[round(value, 6) for value in row] for row in correlation.tolist()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    folder = opened.folder / "reports"
    write_text_atomically(folder / "latent_statistics.json", json.dumps(facts, indent=1) + "\n")
    write_text_atomically(folder / "latent_statistics.csv", text.getvalue())
    return [folder / "latent_statistics.json", folder / "latent_statistics.csv"]


def _correlation(use: LatentUse, pooled: Array) -> Array | None:
    """Between dimensions, or between the channels of a grid at one place; None where they are too many."""
    if use.layout.is_grid:
        spread = pooled.std(0)
        centred = (pooled - pooled.mean(0)) / np.maximum(spread, 1e-12)
        return centred.T @ centred / len(centred) if pooled.shape[1] <= MOST_CORRELATED else None
    return use.correlation.numpy() if use.has_covariance and len(use.mean) <= MOST_CORRELATED else None


@dataclass(frozen=True)
class Drawn:
    """The pictures of a latent space, and the correlation that they are of; None where there are too many columns."""

    paths: list[Path]
    correlation: Array | None


def draw_latents(opened: Run, use: LatentUse, data: Dataset, split: str, projection: str = "pca") -> Drawn:
    """Scatter, KL bars, histograms and correlation of these images of a split, in grids/.

    Of a grid they are of its channels, at all places, and a map shows the KL of each place. No bars where there is no
    KL per dimension: for an autoencoder, a mixture, a flow. No correlation of more than 1,024 columns.
    """
    folder, count = opened.folder / "grids", f"{len(use.means):,} {split} images"
    layout, of = use.layout, "channel" if use.layout.is_grid else "dimension"
    names = [unit.name for unit in layout.units]
    made = [_scatter(use, data, count, projection, folder)]
    if use.has_kl_per_dim:
        active = layout.by_unit(use.active.long()) > 0
        title = f"KL per {of}, {count}: {int(use.active.sum())} of {len(use.mean)} dimensions active"
        if not layout.is_grid:
            title = f"KL per {of}, {count}: {int(use.active.sum())} of {len(use.mean)} active"
        kl = layout.by_unit(use.kl_nats) if layout.is_grid else use.kl_nats
        active = active if layout.is_grid else use.active
        made.append(
            plots.save_figure(plots.kl_bars(kl.numpy(), active.numpy(), title=title, of=of), folder / "kl_bars.png")
        )
    if use.has_kl_per_dim and layout.is_grid and not use.discrete:  # a code costs the same at every place
        maps = plots.kl_maps(use.kl_nats.view(layout.shown[0].event).numpy(), title=f"KL at each place, {count}")
        made.append(plots.save_figure(maps, folder / "kl_map.png"))
    sampled = layout.pooled(torch.from_numpy(aggregate_samples(opened.trained, data))).numpy()
    dims = (
        most_used_units(use, plots.MOST_HISTOGRAMS)
        if layout.is_grid
        else walks.most_used(use.importance.numpy(), plots.MOST_HISTOGRAMS)
    )
    what = "aggregate posterior against prior" if use.has_prior else "codes"
    most = "" if len(dims) == sampled.shape[1] else f", the {len(dims)} most used {of}s"
    titles = names if layout.is_grid else [layout.column(dim) for dim in range(layout.width)]
    drawn = plots.histograms(sampled, dims, title=f"{what}, {count}{most}", names=titles, **_prior(opened, use))
    made.append(plots.save_figure(drawn, folder / "latent_histograms.png"))
    correlation = _correlation(use, sampled)
    if correlation is not None:
        title = f"correlation of {'channels at a place' if layout.is_grid else 'latent dimensions'}, {count}"
        matrix = plots.correlation_matrix(correlation, title=title, of=of)
        made.append(plots.save_figure(matrix, folder / "latent_correlation.png"))
    return Drawn(made, correlation)


def _prior(opened: Run, use: LatentUse) -> dict[str, Array]:
    """The prior as `plots.histograms` takes it: a normal's moments, draws of another, nothing for an autoencoder."""
    model = opened.trained.model
    if use.has_kl_per_dim and not (model.classes or use.discrete or use.layout.is_grid):
        return {"prior_mean": use.prior_mean.numpy(), "prior_std": use.prior_std.numpy()}
    if not use.has_prior:
        return {}
    drawn = torch.from_numpy(prior_draws(opened.trained))
    return {"prior_draws": use.layout.pooled(drawn).numpy()}


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
    # of wide codes the directions are found on some rows: the time grows with their number squared
    seen = (
        centred[np.linspace(0, len(codes) - 1, min(len(codes), MOST_WIDE)).astype(int)]
        if codes.shape[1] > MOST_WIDE
        else centred
    )
    _, singular, directions = np.linalg.svd(seen, full_matrices=False)
    directions = directions[:2]
    largest = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[[0, 1], largest])[:, None]
    shares = np.square(singular) / max(np.square(singular).sum(), 1e-300)
    names = tuple(f"component {i + 1} ({shares[i]:.0%} of the variance)" for i in (0, 1))
    title = "PCA" if len(seen) == len(codes) else f"PCA (its directions from {len(seen):,})"
    return centred @ directions.T, (names[0], names[1]), title, np.arange(len(codes))


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
    layout = opened.trained.layout
    with storage_errors(table.parent):
        table.parent.mkdir(parents=True, exist_ok=True)
        write(table, names, np.concatenate(parts), [layout.column(i) for i in range(layout.width)])
    return Made(
        [table], [f"{len(names):,} image{'s' * (len(names) != 1)}, {opened.trained.latent_dim} numbers each"], failures
    )


def _write_csv(path: Path, names: Sequence[str], codes: Array, columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", *columns])
        writer.writerows([name, *row] for name, row in zip(names, codes.tolist(), strict=True))


def _write_npz(path: Path, names: Sequence[str], codes: Array, columns: Sequence[str]) -> None:
    with path.open("wb") as file:
        np.savez(file, names=np.array(names), codes=codes)


def _write_parquet(path: Path, names: Sequence[str], codes: Array, columns: Sequence[str]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(missing_extra("a Parquet table", "parquet", "pyarrow", "name a .csv")) from None
    named = dict(zip(columns, codes.T, strict=True))
    pyarrow.parquet.write_table(pyarrow.table({"file": list(names), **named}), path)


TABLES: Mapping[str, Callable[[Path, Sequence[str], Array, Sequence[str]], None]] = {
    ".csv": _write_csv,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
