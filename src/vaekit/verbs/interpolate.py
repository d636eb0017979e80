"""Paths through the latent space as pictures: between images, and along dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vaekit import plots
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.files import save_array
from vaekit.trained import walks
from vaekit.trained.run import Array, Made, Run


def interpolate(
    opened: Run,
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
        read = opened.read_images(files)
        if read.failures:
            raise DataError("; ".join(read.failures))
        images, names = read.images, [f"{read.names[0]} →\n{read.names[1]}"]
    else:
        data = opened.images("test")
        chosen = pairs_of(data, pairs, seed)
        images = data.images[chosen.ravel().tolist()]
        names = [_pair_name(data, pair) for pair in chosen]
    originals, ends = opened.originals(images), opened.codes(images)
    paths = np.stack([walks.interpolate(a, b, steps, mode) for a, b in zip(ends[::2], ends[1::2], strict=True)])
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
