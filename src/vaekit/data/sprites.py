"""Made images whose factors of variation are known: three shapes, at four sizes, ten turns and 12 × 12 places."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vaekit.data.dataset import Dataset, Factors

Array = np.ndarray[Any, Any]
SIDE = 32  # pixels
PLACES = 12  # in each direction, one pixel apart: sprites of neighbouring places are the same pixels, moved
REACH = (SIDE - PLACES) // 2  # pixels from a sprite's middle to the edge of its canvas: it always lies inside the image
SHAPES = ("square", "ellipse", "heart")
RADII = (5.6, 6.9, 8.2, 9.5)  # pixels from the middle to the farthest point
TURNS = 10  # of 9 degrees: see `sprites`
NAMES = ("shape", "scale", "rotation", "x", "y")


def sprites() -> Dataset:
    """All 17,280 images (3 × 4 × 10 × 12 × 12), 0 or 255, in the order of their factors; the class is the shape.

    Pixels are on or off, so that a Bernoulli describes them without a draw (data.binarize=threshold changes none).
    The turns cover [0, 90) degrees: a square looks the same after 90, an ellipse after 180, so a longer range would
    give the same image two values of a factor (dSprites turns all shapes by 360). No two images are equal here.
    32 pixels a side, because 64 would show finer turns at four times the cost of training. After dSprites (Matthey,
    Higgins, Hassabis & Lerchner 2017), which has 737,280 images of 64×64.

    Example:
        >>> data = sprites()
        >>> len(data), data.shape, data.factors.names, data.factors.sizes
        (17280, (1, 32, 32), ('shape', 'scale', 'rotation', 'x', 'y'), (3, 4, 10, 12, 12))
    """
    drawn = np.stack([_sprite(shape, radius, turn) for shape in SHAPES for radius in RADII for turn in range(TURNS)])
    canvas = drawn.shape[1]
    images = np.zeros((len(drawn), PLACES, PLACES, SIDE, SIDE), np.uint8)
    for x in range(PLACES):
        for y in range(PLACES):
            images[:, x, y, y : y + canvas, x : x + canvas] = drawn
    sizes = (len(SHAPES), len(RADII), TURNS, PLACES, PLACES)
    values = torch.from_numpy(np.indices(sizes).reshape(len(sizes), -1).T.copy())
    factors = Factors(values, NAMES, sizes, (False, True, True, True, True))
    return Dataset(torch.from_numpy(images.reshape(-1, 1, SIDE, SIDE)), values[:, 0], SHAPES, factors=factors)


def _sprite(shape: str, radius: float, turn: int) -> Array:
    """Pixels (2 · REACH + 1)² of one sprite around its middle: 255 where their middle lies inside it."""
    offsets = np.arange(-REACH, REACH + 1) / radius
    down, across = np.meshgrid(offsets, offsets, indexing="ij")
    angle = np.pi / 2 * turn / TURNS
    u = np.cos(angle) * across + np.sin(angle) * down
    v = np.cos(angle) * down - np.sin(angle) * across
    return np.where(_INSIDE[shape](u, v), 255, 0).astype(np.uint8)


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) <= np.sqrt(0.5)


def _ellipse(u: Array, v: Array) -> Array:
    return np.square(u) + np.square(v / 0.5) <= 1


def _heart(u: Array, v: Array) -> Array:
    """(x² + y² - 1)³ <= x² y³, shrunk to a radius of 1 around a point inside, a little above its middle."""
    x, y = 1.28 * u, 0.2 - 1.28 * v
    return (np.square(x) + np.square(y) - 1) ** 3 <= np.square(x) * y**3


_INSIDE = {"square": _square, "ellipse": _ellipse, "heart": _heart}
