"""Scores from how much each dimension, by itself, tells about each factor: MIG, SAP and modularity."""

from __future__ import annotations

from typing import Any

import numpy as np

from vaekit.evaluation.disentanglement.labelled import Labelled, bins_for

Array = np.ndarray[Any, Any]
SIGNIFICANT = 5.0  # standard deviations above what independent columns show
ROUNDING = 1e-12  # nats: what sums of logarithms leave of a constant dimension


def binned(column: Array, bins: int) -> Array:
    """The bin (N,) of each number: its rank among the distinct ones where they are few, else equally filled bins.

    Equal numbers share a bin, and only their order counts: any increasing function of the column gives the same bins.

    Example:
        >>> binned(np.array([0.1, 7.0, 0.1, 3.0]), 4).tolist(), binned(np.arange(6), 2).tolist()
        ([0, 2, 0, 1], [0, 0, 0, 1, 1, 1])
    """
    distinct, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    if len(distinct) <= bins:
        return inverse.reshape(-1)
    smaller = np.cumsum(counts) - counts
    return (smaller * bins // len(column))[inverse.reshape(-1)]


def _tables(data: Labelled, factor: int) -> Array:
    """Counts (D, bins, values of the factor) of images."""
    size, of_factor = data.sizes[factor], data.values[:, factor]
    bins = bins_for(size)
    cells = [np.bincount(binned(column, bins) * size + of_factor, minlength=bins * size) for column in data.codes.T]
    return np.stack(cells).reshape(-1, bins, size)


def _information(tables: Array) -> Array:
    """Mutual information (D,) in nats of bins and values."""
    joint = tables / tables.sum((1, 2), keepdims=True)
    independent = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)
    ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
    return np.maximum((joint * np.log(ratio)).sum((1, 2)), 0.0)


def mutual_information(data: Labelled) -> Array:
    """Between each dimension and each factor, (D, F), nats: of the counts as they are, so that noise has a little.

    Dimensions are cut as `binned` says, into `bins_for` bins.
    """
    return np.stack([_information(_tables(data, k)) for k in range(len(data.sizes))], 1)


def entropies(data: Labelled) -> Array:
    """Of each factor, (F,), nats: what a code can tell about it at most."""
    shares = [np.bincount(column) / len(column) for column in data.values.T]
    return np.array([-(share * np.log(share)).sum() for share in shares])


def mig(data: Labelled) -> float:
    """Mutual information gap, 0 to 1: mean over the factors of (largest - second largest information) / entropy.

    The two dimensions that tell most about a factor are compared; with one dimension the second is 0. Independent of
    the order of the dimensions and of any increasing function of one. Posterior means are scored, as is usual since
    Locatello et al. 2019, not samples of q(z | x). Chen, Li, Grosse & Duvenaud 2018, arXiv:1802.04942
    """
    return float((_gaps(mutual_information(data), np.zeros(len(data.sizes))) / entropies(data)).mean())


def _gaps(scores: Array, floors: Array) -> Array:
    """Best minus second best over the dimensions of (D, F): (F,). A dimension that says nothing has the floor."""
    ranked = np.sort(np.vstack([scores, floors]), axis=0)
    return ranked[-1] - ranked[-2]


def sap(data: Labelled) -> float:
    """Separated attribute predictability: mean over the factors of best - second best prediction by one dimension.

    An ordered factor is predicted by a straight line (R²), any other by a choice in each bin of the dimension
    (balanced accuracy, which is 1 / values by chance). `sap_limit` is its largest value. On the images that it is
    fitted to. Kumar, Sattigeri & Balakrishnan 2018, arXiv:1711.00848
    """
    columns = [
        _squared_correlations(data.codes, data.values[:, k]) if ordered else _balanced_accuracies(_tables(data, k))
        for k, ordered in enumerate(data.ordered)
    ]
    return float(_gaps(np.stack(columns, 1), _sap_floors(data)).mean())


def sap_limit(data: Labelled) -> float:
    """The SAP of a code with one exact dimension for each factor: 1 for an ordered factor, else 1 - 1 / values."""
    return float(1 - _sap_floors(data).mean())


def _sap_floors(data: Labelled) -> Array:
    return np.array([0.0 if ordered else 1 / size for size, ordered in zip(data.sizes, data.ordered, strict=True)])


def _squared_correlations(codes: Array, values: Array) -> Array:
    """R² (D,) of the line from each dimension to the values; 0 for a constant dimension."""
    centred, target = codes - codes.mean(0), values - values.mean()
    squares = np.square(centred).sum(0) * np.square(target).sum()
    return np.divide(np.square(target @ centred), squares, out=np.zeros(codes.shape[1]), where=squares > 0)


def _balanced_accuracies(tables: Array) -> Array:
    """(D,): the mean over the values of the share that is named rightly, when each bin names the likeliest value."""
    shares = tables / tables.sum(1, keepdims=True)
    return shares.max(2).sum(1) / tables.shape[2]


def modularity(data: Labelled) -> float | None:
    """Whether each dimension tells about one factor alone, 0 to 1: mean over the dimensions of 1 - Σ m² / ((F - 1) θ²).

    θ is the largest information of a dimension, the sum is over the other factors. Information that independent
    columns could show is taken as 0, and a dimension that has no other is left out, for noise would look modular;
    0 if all are. None for a single factor. Ridgeway & Mozer 2018, arXiv:1802.05312
    """
    if len(data.sizes) == 1:
        return None
    told = _significant_information(data)
    largest = told.max(1)
    told, largest = told[largest > 0], largest[largest > 0]
    if not len(told):
        return 0.0
    others = np.square(told).sum(1) - np.square(largest)
    return float((1 - others / (np.square(largest) * (len(data.sizes) - 1))).mean())


def _significant_information(data: Labelled) -> Array:
    """(D, F) in nats; 0 where 2 N I, which follows χ² where the two are independent, is not far above its mean."""
    columns = []
    for k, size in enumerate(data.sizes):
        tables = _tables(data, k)
        nats = _information(tables)
        freedom = ((tables.sum(2) > 0).sum(1) - 1) * (size - 1)
        by_chance = (freedom + SIGNIFICANT * np.sqrt(2 * freedom)) / (2 * len(data.codes))
        columns.append(np.where(nats > by_chance + ROUNDING, nats, 0.0))
    return np.stack(columns, 1)
