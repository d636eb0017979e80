"""Sums and differences of codes as pictures: images, folders and classes; and walks along an attribute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vaekit import plots, sampling
from vaekit.checkpoint import save_array
from vaekit.data.dataset import Dataset
from vaekit.data.store import find_images
from vaekit.errors import ConfigError, DataError
from vaekit.latentspace.opened import Array, Made, OpenRun

CLASS = "class:"  # before the name of a class, in place of a file
WALKED_IMAGES = 6


class Term(NamedTuple):
    """One term: its name, its code (D,), and the image (1, C, H, W) where it is one."""

    name: str
    code: Array
    picture: Array | None


def add_up(
    opened: OpenRun, plus: Sequence[str], minus: Sequence[str] = (), *, base: str | None = None, arrays: bool = False
) -> Made:
    """grids/arithmetic.png: base + Σ plus - Σ minus. A term is a file, a folder (the mean of its images) or class:NAME.

    DataError naming every term that cannot be had: a sum without one of its terms is another sum.
    """
    if not plus and not minus and base is None:
        raise ConfigError("there is nothing to add up; give --plus and --minus, each a file, a folder or class:NAME")
    training: list[tuple[Dataset, Array]] = []  # encoded once, where a class is asked for
    signed: list[tuple[str, Term]] = []
    failures: list[str] = []
    for sign, words in (("", [base] if base else []), ("+", plus), ("−", minus)):
        for word in words:
            try:
                signed.append((sign, _term(opened, word, training)))
            except DataError as error:
                failures.append(str(error))
    if failures:
        raise DataError("; ".join(failures))
    zero = np.zeros(opened.trained.latent_dim, np.float32)
    terms = {sign: [term.code for own, term in signed if own == sign] for sign in ("", "+", "−")}
    result = sampling.arithmetic(terms[""][0] if terms[""] else zero, terms["+"], terms["−"])
    decoded = opened.decoded(np.stack([*(term.code for _, term in signed), result]))
    blank = np.ones_like(decoded[:1])
    pictures = np.concatenate([*(blank if t.picture is None else t.picture for _, t in signed), blank])
    stacks, title = np.stack([pictures, decoded], axis=1), "in each column: image · decoded code"
    if all(term.picture is None for _, term in signed):
        stacks, title = decoded[:, None], "decoded codes"
    captions = [[f"{sign} {term.name}".strip()] for sign, term in signed] + [["= result"]]
    sheet = plots.captioned_sheet(stacks, captions, titles=[title])
    folder = opened.folder / "grids"
    made = Made([plots.save_picture(sheet, folder / "arithmetic.png")])
    if arrays:
        made.paths.append(save_array(result, folder / "arithmetic.npy"))
    return made


def _term(opened: OpenRun, word: str, training: list[tuple[Dataset, Array]]) -> Term:
    if word.startswith(CLASS):
        label = opened.class_number(word.removeprefix(CLASS))
        data, codes = _encoded(opened, training)
        return Term(
            f"class {opened.trained.class_names[label]}", sampling.class_mean(codes, _labels(data), label), None
        )
    path = Path(word)
    if path.is_dir():
        files = [path / found.name for found in find_images(path)]
        if not files:
            raise DataError(f"there are no images in '{path}'; give a folder that has some")
        return Term(f"{path.name} (mean)", opened.codes(opened.read(files).images).mean(0), None)
    images = opened.read([path]).images
    return Term(path.name, opened.codes(images)[0], opened.originals(images))


def _encoded(opened: OpenRun, training: list[tuple[Dataset, Array]]) -> tuple[Dataset, Array]:
    if not training:
        data = opened.images("train")
        training.append((data, sampling.encode_dataset(opened.trained, data)))
    return training[0]


def _labels(data: Dataset) -> Array | None:
    return None if data.labels is None else data.labels.numpy()


def walk_attribute(
    opened: OpenRun,
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
    vector = sampling.attribute_vector(codes, _labels(data), label)
    made = Made()
    if files:
        read = opened.read(files)
        images, names, made.failures = read.images, read.names, read.failures
    else:
        images, names = _some_of_each(opened.images("test"), label)
    shares = sampling.traversal_values(0.0, 1.0, steps, reach)
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
