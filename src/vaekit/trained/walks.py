"""Codes as arrays, from other codes: near, on grids, between, along, by arithmetic, and the nearest.

Codes are float32 arrays (N, D), as `Trained.encode` gives them and `Trained.decode` takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vaekit.densities.noise import derived_seed
from vaekit.errors import ConfigError, DataError, suggest

Array = np.ndarray[Any, Any]
DISTANCES_AT_ONCE = 4_000_000  # numbers of a chunk of differences: 32 MB in float64


PARALLEL = 1e-6  # radians: below it the sine of the angle has lost its digits, and a line is exact to float32


def codes_near(code: Array, count: int, *, scale: float, seed: int = 0) -> Array:
    """centre + scale · noise: (count, D) around one code (D,). More codes begin with the same ones."""
    _check_spread(count, scale)
    noise = np.random.default_rng(derived_seed(seed, "near")).standard_normal((count, len(code)))
    return (code + scale * noise).astype(np.float32)


def _check_spread(count: int, spread: float) -> None:
    if count < 1 or not 0 <= spread < np.inf:
        raise ConfigError(f"{count} samples with a spread of {spread}: ask for 1 or more, at 0 or more")


def latent_grid(side: int, reach: float = 3.0) -> Array:
    """side × side codes (side², 2) from -reach to reach, row by row from the top: z0 grows to the right, z1 upwards."""
    if side < 1 or not 0 < reach < np.inf:
        raise ConfigError(f"a grid of {side}×{side} to ±{reach}: ask for 1 or more, and a range above 0")
    return _plane(np.linspace(-reach, reach, side), np.linspace(-reach, reach, side))


def _plane(across: Array, upwards: Array) -> Array:
    z0, z1 = np.meshgrid(across, upwards[::-1])
    return np.stack([z0.ravel(), z1.ravel()], 1).astype(np.float32)


def linear(start: Array, end: Array, steps: int) -> Array:
    """Codes (steps, D) on the straight line from `start` to `end`, both included."""
    share = _shares(steps)
    return _with_ends((1 - share) * start + share * end, start, end)


def spherical(start: Array, end: Array, steps: int) -> Array:
    """Codes (steps, D) on the arc: the direction turns evenly and the norm changes evenly. Both ends included.

    Codes of a normal prior lie near a sphere, which a straight line leaves. Parallel codes and the origin give the
    line; opposite ones turn through a fixed direction at right angles. Shoemake 1985; White 2016, arXiv:1609.04468
    """
    share = _shares(steps)
    first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
    norms = np.linalg.norm(first), np.linalg.norm(last)
    if min(norms) == 0:
        return linear(start, end, steps)
    u, v = first / norms[0], last / norms[1]
    angle = 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))  # exact also near 0 and pi
    if angle < PARALLEL:
        return linear(start, end, steps)
    across = v - (u @ v) * u if np.pi - angle > PARALLEL else _across(u)
    across /= np.linalg.norm(across)
    norm = (1 - share) * norms[0] + share * norms[1]
    return _with_ends(norm * (np.cos(share * angle) * u + np.sin(share * angle) * across), start, end)


def _shares(steps: int) -> Array:
    if steps < 2:
        raise ConfigError(f"{steps} steps: an interpolation has 2 or more, its ends included")
    return np.linspace(0, 1, steps)[:, None]


def _with_ends(path: Array, start: Array, end: Array) -> Array:
    codes = path.astype(np.float32)
    codes[0], codes[-1] = start, end  # exactly, whatever the rounding between
    return codes


def _across(direction: Array) -> Array:
    axis = np.zeros_like(direction)
    axis[np.argmin(np.abs(direction))] = 1.0
    return axis - (axis @ direction) * direction


INTERPOLATIONS: Mapping[str, Callable[[Array, Array, int], Array]] = {"linear": linear, "spherical": spherical}


def interpolate(start: Array, end: Array, steps: int, mode: str = "linear") -> Array:
    """Codes (steps, D) between two codes (D,), by a line of INTERPOLATIONS.

    Example:
        >>> interpolate(np.array([0.0, 2.0]), np.array([2.0, 0.0]), 3)[1].tolist()
        [1.0, 1.0]
    """
    if mode not in INTERPOLATIONS:
        raise ConfigError(f"unknown interpolation '{mode}'; {suggest(mode, INTERPOLATIONS)}")
    return INTERPOLATIONS[mode](start, end, steps)


def check_dims(dims: Sequence[int], latent_dim: int, word: str = "dimension") -> None:
    """ConfigError naming every dimension (or what `word` calls it) that a code with so many does not have."""
    absent = [str(dim) for dim in dims if not 0 <= dim < latent_dim]
    if absent:
        named = f"{word} {absent[0]} does" if len(absent) == 1 else f"{word}s {listed(absent)} do"
        allowed = f"0 to {latent_dim - 1}" if latent_dim > 1 else f"{word} 0 alone"
        raise ConfigError(f"{named} not exist; this model has {allowed}")


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    Example:
        >>> listed(["5"]), listed(["5", "99"]), listed(["5", "7", "99"])
        ('5', '5 and 99', '5, 7 and 99')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def traverse(code: Array, dim: int, values: Array) -> Array:
    """Copies (len(values), D) of a code (D,) whose dimension `dim` takes the values; the others stay."""
    check_dims([dim], len(code))
    codes = np.repeat(np.asarray(code, np.float32)[None], len(values), 0)
    codes[:, dim] = values
    return codes


def traversal_values(mean: float, std: float, steps: int, reach: float = 3.0) -> Array:
    """`steps` values from mean - reach · std to mean + reach · std: of the prior, or of the aggregate posterior."""
    if steps < 2 or not 0 < reach < np.inf:
        raise ConfigError(f"{steps} steps to ±{reach} standard deviations: ask for 2 or more, and a range above 0")
    return mean + std * np.linspace(-reach, reach, steps)


def most_used(kl_nats: Array, count: int) -> list[int]:
    """The dimensions with the largest KL, falling; of equal ones the lower number first.

    Example:
        >>> most_used(np.array([0.1, 2.0, 0.7]), 2)
        [1, 2]
    """
    return np.argsort(-np.asarray(kl_nats), kind="stable")[:count].tolist()


def arithmetic(base: Array, plus: Sequence[Array], minus: Sequence[Array]) -> Array:
    """base + Σ plus - Σ minus: one code (D,).

    Example:
        >>> arithmetic(np.array([1.0, 1.0]), [np.array([2.0, 0.0])], [np.array([2.0, 0.5])]).tolist()
        [1.0, 0.5]
    """
    total = np.asarray(base, np.float64) + sum(np.asarray(code, np.float64) for code in plus)
    return (total - sum(np.asarray(code, np.float64) for code in minus)).astype(np.float32)


def class_mean(codes: Array, labels: Array | None, label: int) -> Array:
    """The mean code (D,) of one class. DataError without labels, or where the class has no image."""
    return codes[_members(labels, label)].mean(0, dtype=np.float64).astype(np.float32)


def attribute_vector(codes: Array, labels: Array | None, label: int) -> Array:
    """The mean code with a label minus the mean code without it: (D,).

    Larsen et al. 2016, arXiv:1512.09300
    """
    members = _members(labels, label)
    if members.all():
        raise DataError(f"every image has class {label}, so nothing is without it; give images of other classes")
    with_it, without = (codes[which].mean(0, dtype=np.float64) for which in (members, ~members))
    return (with_it - without).astype(np.float32)


def _members(labels: Array | None, label: int) -> Array:
    if labels is None:
        raise DataError("these images have no labels; use files, or data with a folder for each class")
    members: Array = np.asarray(labels) == label
    if not members.any():
        raise DataError(f"no image has class {label}; take more images, or another class")
    return members


class Neighbours(NamedTuple):
    """Of each query, nearest first: positions (Q, k) and distances (Q, k)."""

    indices: Array
    distances: Array


def nearest(queries: Array, codes: Array, count: int, *, scale: Array | None = None) -> Neighbours:
    """The `count` codes of (N, D) nearest to each query (Q, D), Euclidean, exact; of equal ones the first.

    `scale` (D,) divides every dimension first, so that each counts by its own spread.
    """
    if count < 1 or len(codes) < 1:
        raise ConfigError(f"{count} neighbours among {len(codes)} images: ask for 1 or more, among 1 or more")
    unit = np.ones(codes.shape[1]) if scale is None else np.asarray(scale, np.float64)
    found, rows = [], max(1, DISTANCES_AT_ONCE // codes.shape[1])
    for query in np.asarray(queries, np.float64):
        squares = np.concatenate(
            [np.square((codes[i : i + rows] - query) / unit).sum(1) for i in range(0, len(codes), rows)]
        )
        order = np.argsort(squares, kind="stable")[:count]
        found.append((order, np.sqrt(squares[order])))
    return Neighbours(*(np.stack(column) for column in zip(*found, strict=True)))
