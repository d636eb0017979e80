"""Images moved along what one class has and the others lack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vaekit import plots
from vaekit.data.dataset import Dataset
from vaekit.files import save_array
from vaekit.trained import walks
from vaekit.trained.run import Made, Run
from vaekit.verbs.arithmetic import _encoded, _labels

WALKED_IMAGES = 6


def attribute(
    opened: Run,
    name: str,
    files: Sequence[Path] = (),
    *,
    steps: int = 9,
    reach: float = 1.5,
    arrays: bool = False,
) -> Made:
    """grids/attribute_<class>.png: images moved by -reach to +reach times the vector of a class.

    The vector is the mean code with the label minus the mean code without, over training images.
    """
    label = opened.class_number(name)
    data, codes = _encoded(opened, [])
    vector = walks.attribute_vector(codes, _labels(data), label)
    made = Made()
    if files:
        read = opened.read_images(files)
        images, names, made.failures = read.images, read.names, read.failures
    else:
        images, names = _some_of_each(opened.images("test"), label)
    shares = walks.traversal_values(0.0, 1.0, steps, reach)
    moved = opened.codes(images)[:, None] + shares[None, :, None].astype(np.float32) * vector
    decoded = opened.decoded(moved.reshape(-1, moved.shape[-1]))
    rows = decoded.reshape(len(images), steps, *decoded.shape[1:])
    rows = np.concatenate([opened.originals(images)[:, None], rows], axis=1)
    shown, row = opened.trained.class_names[label], "each row: an image" if files else "each row: an image of a class"
    sheet = plots.labelled_grid(
        list(rows),
        title=f"{row}; its code + t · (mean of class {shown} − mean of the others), t above each column",
        row_labels=names,
        column_labels=["image", *(plots.signed(share, plus=True) for share in shares)],
    )
    slug = "".join(letter if letter.isalnum() else "-" for letter in shown)
    made.paths.append(plots.save_picture(sheet, opened.folder / "grids" / f"attribute_{slug}.png"))
    if arrays:
        made.paths.append(save_array(vector, opened.folder / "grids" / f"attribute_{slug}.npy"))
    return made


def _some_of_each(data: Dataset, label: int) -> tuple[torch.Tensor, list[str]]:
    """A few test images, each of another class."""
    assert data.labels is not None  # a class number was found
    labels = data.labels.numpy()
    first = [int(np.flatnonzero(labels == other)[0]) for other in np.unique(labels) if other != label]
    chosen = (first or list(range(len(data))))[:WALKED_IMAGES]
    return data.images[chosen], [data.class_names[labels[i]] for i in chosen]
