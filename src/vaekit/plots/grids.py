"""Grids of images at whole-pixel scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.files import storage_errors

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, Any]

GAP = 2  # pixels between images, in the grid's own scale
PAPER = 255
SHORTEST_SIDE = 56  # images below this are enlarged by a whole factor, so that their pixels stay sharp


def to_bytes(images: Array) -> Array:
    """uint8 (N, H, W, C) from floats (N, C, H, W) in [0, 1]; what lies outside is clipped, never wrapped round."""
    scaled = np.clip(np.nan_to_num(np.asarray(images, dtype=np.float64)), 0, 1) * 255
    return np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1)


def image_grid(rows: Sequence[Array]) -> Image.Image:
    """One picture from rows of images, each (N, C, H, W) in [0, 1]."""
    from PIL import Image

    cells = [to_bytes(row) for row in rows]
    height, width = cells[0].shape[1:3]
    factor = max(1, -(-SHORTEST_SIDE // min(height, width)))
    height, width = height * factor, width * factor
    columns = max(len(row) for row in cells)
    size = (columns * (width + GAP) + GAP, len(cells) * (height + GAP) + GAP)
    sheet = Image.new("RGB", size, (PAPER,) * 3)
    for i, row in enumerate(cells):
        for j, pixels in enumerate(row):
            picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            picture = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (GAP + j * (width + GAP), GAP + i * (height + GAP)))
    return sheet


def rows_of(images: Array, columns: int) -> list[Array]:
    """Cut a batch into rows of a grid."""
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def reconstruction_rows(originals: Array, reconstructions: Array, columns: int = 10) -> list[Array]:
    """Rows of originals, each followed by its reconstructions and the absolute difference."""
    rows = []
    for first in range(0, len(originals), columns):
        part = slice(first, first + columns)
        clipped = np.clip(reconstructions[part], 0, 1)
        rows += [originals[part], clipped, np.abs(originals[part] - clipped)]
    return rows


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a PNG, making its folder."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return path
