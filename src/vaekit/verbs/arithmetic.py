"""Sums and differences of codes as pictures: images, folders and classes; and walks along an attribute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaekit import plots
from vaekit.data.dataset import Dataset
from vaekit.data.found import find_images
from vaekit.errors import ConfigError, DataError
from vaekit.files import save_array
from vaekit.trained import walks
from vaekit.trained.codes import encode_dataset
from vaekit.trained.run import Array, Made, Run

CLASS = "class:"  # before the name of a class, in place of a file


class Term(NamedTuple):
    """One term: its name, its code (D,), and the image (1, C, H, W) where it is one."""

    name: str
    code: Array
    picture: Array | None


def arithmetic(
    opened: Run, plus: Sequence[str], minus: Sequence[str] = (), *, base: str | None = None, arrays: bool = False
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
    result = walks.arithmetic(terms[""][0] if terms[""] else zero, terms["+"], terms["−"])
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


def _term(opened: Run, word: str, training: list[tuple[Dataset, Array]]) -> Term:
    if word.startswith(CLASS):
        label = opened.class_number(word.removeprefix(CLASS))
        data, codes = _encoded(opened, training)
        return Term(f"class {opened.trained.class_names[label]}", walks.class_mean(codes, _labels(data), label), None)
    path = Path(word)
    if path.is_dir():
        files = [path / found.name for found in find_images(path)]
        if not files:
            raise DataError(f"there are no images in '{path}'; give a folder that has some")
        return Term(f"{path.name} (mean)", opened.codes(opened.read_images(files).images).mean(0), None)
    images = opened.read_images([path]).images
    return Term(path.name, opened.codes(images)[0], opened.originals(images))


def _encoded(opened: Run, training: list[tuple[Dataset, Array]]) -> tuple[Dataset, Array]:
    if not training:
        data = opened.images("train")
        training.append((data, encode_dataset(opened.trained, data)))
    return training[0]


def _labels(data: Dataset) -> Array | None:
    return None if data.labels is None else data.labels.numpy()
