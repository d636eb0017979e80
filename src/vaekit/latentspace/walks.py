"""Paths through the latent space as pictures: between images, and along dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaekit import plots, sampling
from vaekit.checkpoint import save_array
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.latents import LatentUse
from vaekit.latentspace.opened import Array, Made, OpenRun

MOST_USED = 10  # dimensions to traverse where none are named


def interpolate_images(
    opened: OpenRun,
    files: Sequence[Path] = (),
    *,
    steps: int = 10,
    mode: str = "linear",
    pairs: int = 6,
    seed: int = 0,
    arrays: bool = False,
) -> Made:
    """grids/interpolations.png and .gif between two files, or between pairs of test images of different classes."""
    if len(files) not in (0, 2):
        raise ConfigError(f"an interpolation needs two images but {len(files)} came; give A and B, or none")
    if files:
        read = opened.read(files)
        if read.failures:
            raise DataError("; ".join(read.failures))
        images, names = read.images, [f"{read.names[0]} →\n{read.names[1]}"]
    else:
        data = opened.images("test")
        chosen = pairs_of(data, pairs, seed)
        images = data.images[chosen.ravel().tolist()]
        names = [_pair_name(data, pair) for pair in chosen]
    originals, ends = opened.originals(images), opened.codes(images)
    paths = np.stack([sampling.interpolate(a, b, steps, mode) for a, b in zip(ends[::2], ends[1::2], strict=True)])
    decoded = opened.decoded(paths.reshape(-1, paths.shape[-1]))
    decoded = decoded.reshape(len(paths), steps, *decoded.shape[1:])
    rows = [np.concatenate([originals[[2 * i]], row, originals[[2 * i + 1]]]) for i, row in enumerate(decoded)]
    labels = ["image", *(f"{share:.2f}" for share in np.linspace(0, 1, steps)), "image"]
    sheet = plots.labelled_grid(
        rows, title=f"{mode} interpolation", row_labels=names if any(names) else (), column_labels=labels
    )
    folder = opened.folder / "grids"
    frames = [plots.image_grid([decoded[:, step]]) for step in range(steps)]
    made = Made([plots.save_picture(sheet, folder / "interpolations.png")])
    made.paths.append(plots.save_animation(frames, folder / "interpolations.gif"))
    if arrays:
        made.paths.append(save_array(paths, folder / "interpolations.npy"))
    return made


def pairs_of(data: Dataset, count: int, seed: int) -> Array:
    """Positions (count, 2) of images, of different classes where there are labels. DataError below two images."""
    if len(data) < 2:
        raise DataError(f"an interpolation needs two images but there are {len(data)} here; give two files")
    order = np.random.default_rng(seed).permutation(len(data))
    labels = None if data.labels is None else data.labels.numpy()
    pairs: list[tuple[int, int]] = []
    for first in order[: count if len(data) >= 2 * count else len(data)]:
        others = order[::-1] if labels is None else order[::-1][labels[order[::-1]] != labels[first]]
        others = others[others != first]
        if len(others):
            pairs.append((first, others[len(pairs) % len(others)]))
    if not pairs:
        raise DataError("all these images have one class; give two files")
    return np.array(pairs[:count])


def _pair_name(data: Dataset, pair: Array) -> str:
    if data.labels is None or not data.class_names:
        return ""
    return " → ".join(data.class_names[int(data.labels[i])] for i in pair)


@dataclass(frozen=True)
class Scale:
    """Where traversals run: `reach` standard deviations of the prior, or of the aggregate posterior."""

    reach: float = 3.0
    aggregate: bool = False


def traverse_dims(
    opened: OpenRun,
    dims: Sequence[int] = (),
    *,
    image: Path | None = None,
    steps: int = 9,
    scale: Scale = Scale(),  # frozen
    arrays: bool = False,
) -> Made:
    """grids/traversals.png and traverse_dim_k.png: one dimension changes, the others stay.

    Around the image's code, or the mean of the training set. Without `dims`: the most used, by KL.
    """
    sampling.check_dims(dims, opened.trained.latent_dim)
    use = opened.use(opened.images("train"))
    chosen = list(dims) or _ordered(use)
    if image is None:
        code, around = use.mean.numpy().astype(np.float32), "the mean code of training images"
    else:
        code, around = opened.codes(opened.read([image]).images)[0], image.name
    mean, std = _centre(opened, use, scale)
    values = np.stack([sampling.traversal_values(mean[dim], std[dim], steps, scale.reach) for dim in chosen])
    codes = np.stack([sampling.traverse(code, dim, row) for dim, row in zip(chosen, values, strict=True)])
    decoded = opened.decoded(codes.reshape(-1, codes.shape[-1]))
    rows = list(decoded.reshape(len(chosen), steps, *decoded.shape[1:]))
    unit = "aggregate posterior" if scale.aggregate else "prior"
    columns = [plots.signed(share, plus=True) for share in np.linspace(-scale.reach, scale.reach, steps)]
    title = f"traversals around {around}; columns in standard deviations of the {unit}"
    folder, names = opened.folder / "grids", [_name(use, dim) for dim in chosen]
    sheet = plots.labelled_grid(rows, title=title, row_labels=names, column_labels=columns)
    made = Made([plots.save_picture(sheet, folder / "traversals.png")])
    for dim, name, row, taken in zip(chosen, names, rows, values, strict=True):
        title = f"{name}, around {around}; columns are values of z{dim}"
        single = plots.labelled_grid([row], title=title, column_labels=list(map(plots.signed, taken)))
        made.paths.append(plots.save_picture(single, folder / f"traverse_dim_{dim}.png"))
    if arrays:
        made.paths.append(save_array(codes, folder / "traversals.npy"))
    return made


def _ordered(use: LatentUse) -> list[int]:
    """By KL, or by the spread of the codes where there is no KL."""
    measure = use.kl_nats if bool(use.kl_nats.isfinite().all()) else use.mean_variance
    return sampling.most_used(measure.numpy(), MOST_USED)


def _centre(opened: OpenRun, use: LatentUse, scale: Scale) -> tuple[Array, Array]:
    if scale.aggregate:
        return use.mean.numpy(), use.aggregate_std.numpy()
    return sampling.prior_moments(opened.trained)


def _name(use: LatentUse, dim: int) -> str:
    kl = float(use.kl_nats[dim])
    return f"z{dim} · KL {kl:.2f} nats" if np.isfinite(kl) else f"z{dim}"
