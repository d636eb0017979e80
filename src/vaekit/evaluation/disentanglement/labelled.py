"""Codes beside the factors of their images, checked once, so that no score has to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vaekit.data.dataset import Factors
from vaekit.errors import DataError, NumericalError

Array = np.ndarray[Any, Any]
FEWEST_BINS = 20  # of a dimension
PER_BIN = 10  # images: with fewer, chance alone looks like information


class Labelled(NamedTuple):
    """Codes float64 (N, D), and factors that vary: values int64 (N, F) counted from 0 without gaps."""

    codes: Array
    values: Array
    names: tuple[str, ...]
    sizes: tuple[int, ...]  # how many values each factor takes
    ordered: tuple[bool, ...]
    notes: tuple[str, ...]  # a sentence on each factor that was left out


def labelled(codes: Any, factors: Factors) -> Labelled:
    """Codes (N, D) and the factors of the same images, without factors of one value.

    Values that no image has do not count. DataError where the two do not fit, no factor varies, or there are too few
    images; NumericalError for codes that are not finite.

    Example:
        >>> import torch
        >>> values = torch.arange(400).view(-1, 1) % 4
        >>> labelled(values.numpy(), Factors(values, ("x",), (4,), (True,))).sizes
        (4,)
    """
    columns, values = np.asarray(codes, np.float64), np.asarray(factors.values)
    _check_shapes(columns, values, factors)
    bad = ~np.isfinite(columns)
    if bad.any():
        raise NumericalError(
            f"{int(bad.any(1).sum())} of {len(columns)} codes are not finite, first in dimension "
            f"{int(bad.any(0).argmax())}; look at the training log, and score an earlier checkpoint"
        )
    levels = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in values.T]
    varying = [k for k, column in enumerate(levels) if column.max(initial=0) > 0]
    notes = tuple(
        f"the factor '{name}' has one value in these images, so it is left out"
        for k, name in enumerate(factors.names)
        if k not in varying
    )
    if not varying:
        raise DataError(
            f"no factor varies in these images ({', '.join(factors.names)}); choose others, or more of them"
        )
    sizes = tuple(int(levels[k].max()) + 1 for k in varying)
    fewest = PER_BIN * max(map(bins_for, sizes))
    if len(columns) < fewest:
        raise DataError(f"scores of codes need {fewest} images or more but there are {len(columns)}; take a larger set")
    names, ordered = tuple(factors.names[k] for k in varying), tuple(factors.ordered[k] for k in varying)
    return Labelled(columns, np.stack([levels[k] for k in varying], 1), names, sizes, ordered, notes)


def _check_shapes(codes: Array, values: Array, factors: Factors) -> None:
    if codes.ndim != 2 or codes.shape[1] == 0:
        raise DataError(f"codes are {codes.shape}; give one row of numbers for each image, (N, D)")
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DataError(f"factors are {values.dtype} {values.shape}; give whole numbers, (N, F)")
    if len(values) != len(codes):
        raise DataError(f"there are {len(codes)} codes but the factors of {len(values)} images; give the same images")
    if not values.shape[1] == len(factors.names) == len(factors.ordered):
        raise DataError(
            f"{values.shape[1]} factors have {len(factors.names)} names and {len(factors.ordered)} entries in "
            "`ordered`; give one of each"
        )


def bins_for(size: int) -> int:
    """How many bins a dimension is cut into beside a factor of `size` values: a multiple of it, 20 or more.

    Equally filled bins then end where the values of an even factor do, also where a code wavers a little around each.

    Example:
        >>> [bins_for(size) for size in (3, 4, 12, 40)]
        [21, 20, 24, 40]
    """
    return size * -(-FEWEST_BINS // size)


def varying_dims(codes: Array) -> Array:
    """Which dimensions vary by more than float32 rounding: (D,) bool."""
    return codes.std(0) > 1e-6 * np.abs(codes).max(0)
