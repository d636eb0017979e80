"""Which training images have the codes nearest to an image's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaekit import plots
from vaekit.data.dataset import Dataset
from vaekit.files import save_array
from vaekit.trained import walks
from vaekit.trained.codes import encode_dataset
from vaekit.trained.run import Made, Run


class Neighbourhood(NamedTuple):
    """The picture, and for each image that could be read (name, its neighbours in words)."""

    made: Made
    rows: list[tuple[str, str]]


def neighbours(
    opened: Run, files: Sequence[Path], count: int = 10, *, standardised: bool = False, arrays: bool = False
) -> Neighbourhood:
    """grids/neighbours.png: each image and the nearest training images by Euclidean distance of codes.

    `standardised` divides each dimension by its spread over the training images.
    """
    read = opened.read_images(files)
    data, positions = opened.images_with_rows("train")
    codes = encode_dataset(opened.trained, data)
    scale = opened.use(data).aggregate_std.clamp_min(1e-6).numpy() if standardised else None
    found = walks.nearest(opened.codes(read.images), codes, count, scale=scale)
    originals = opened.originals(read.images)
    rows = [
        np.concatenate([originals[[i]], opened.originals(data.images[chosen.tolist()])])
        for i, chosen in enumerate(found.indices)
    ]
    labels = ["image", *(str(i) for i in range(1, found.indices.shape[1] + 1))]
    unit = "standardised distance" if standardised else "distance"
    title = f"nearest of {len(data):,} training images, by {unit} of codes"
    sheet = plots.labelled_grid(rows, title=title, row_labels=read.names, column_labels=labels)
    folder = opened.folder / "grids"
    made = Made([plots.save_picture(sheet, folder / "neighbours.png")], failures=read.failures)
    if arrays:
        made.paths.append(save_array(found.distances, folder / "neighbour_distances.npy"))
    words = [
        (
            name,
            " · ".join(
                f"{_name(data, int(i), int(positions[i]))} at {d:.3f}" for i, d in zip(indices, distances, strict=True)
            ),
        )
        for name, indices, distances in zip(read.names, *found, strict=True)
    ]
    return Neighbourhood(made, words)


def _name(data: Dataset, row: int, position: int) -> str:
    if data.names is not None:
        return data.names[row]
    shown = f" ({data.class_names[int(data.labels[row])]})" if data.labels is not None and data.class_names else ""
    return f"#{position}{shown}"
