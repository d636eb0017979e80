"""Runs side by side: the same test images through each, and samples of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vaekit.plots.sheets import captioned_sheet, stacked, words

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, Any]


class Shown(NamedTuple):
    """What the sheet shows of one run; images are (N, C, H, W) in [0, 1]."""

    title: str
    reconstructions: Array
    source: str  # of the samples
    samples: Array


def comparison_sheet(originals: Array, runs: Sequence[Shown], notes: Sequence[str] = ()) -> Image.Image:
    """Test images on top; then for each run a title, its reconstructions of them and its samples."""
    columns = len(originals)
    blocks = [_block(originals, ["test images"], columns)]
    for run in runs:
        blocks.append(_block(run.reconstructions, [run.title, "reconstructions of the same images"], columns))
        blocks.append(_block(run.samples, [run.source], columns))
    return stacked([*blocks, *([words(notes)] if notes else [])], gap=2)


def _block(images: Array, titles: Sequence[str], columns: int) -> Image.Image:
    return captioned_sheet(images[:, None], [()] * len(images), titles=titles, columns=columns)
