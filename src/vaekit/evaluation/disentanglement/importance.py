"""Disentanglement, completeness and informativeness, from what a predictor of the factors relies on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vaekit.densities.noise import derived_seed
from vaekit.evaluation.disentanglement.labelled import Labelled

Array = np.ndarray[Any, Any]
TREES = 10
SMALLEST_LEAF = 5  # images
MOST_IMAGES = 10_000
TRAINING_SHARE = 2 / 3


class Dci(NamedTuple):
    """Each 0 to 1; None where one factor, or one dimension, leaves nothing to say."""

    disentanglement: float | None  # does a dimension serve one factor?
    completeness: float | None  # is a factor in one dimension?
    informativeness: float  # mean accuracy on held-out images
    chance: float  # the accuracy of naming the most frequent value always


def dci(data: Labelled, seed: int = 0) -> Dci:
    """Scores of the importances R (D, F) of random forests that predict each factor from all dimensions.

    A dimension's share P of each factor gives 1 - H(P) / log F, weighted by the dimension's part of all importance;
    a factor's share of each dimension gives 1 - H(P) / log D, averaged over the factors. Informativeness is the
    accuracy on the third of the images that no tree saw. Forests of 10 trees that look at every dimension in every
    split, on 10,000 images at most. Eastwood & Williams 2018, ICLR.
    """
    random = np.random.default_rng(derived_seed(seed, "dci"))
    chosen = random.permutation(len(data.codes))[:MOST_IMAGES]
    learnt = round(TRAINING_SHARE * len(chosen))
    train, test = chosen[:learnt], chosen[learnt:]
    fitted = [_fitted(data, k, train, test, seed) for k in range(len(data.sizes))]
    importance = np.stack([of_dims for of_dims, _ in fitted], 1)
    chance = np.mean([np.bincount(column).max() / len(column) for column in data.values.T])
    return Dci(
        _disentanglement(importance),
        _completeness(importance),
        float(np.mean([accuracy for _, accuracy in fitted])),
        float(chance),
    )


def _fitted(data: Labelled, factor: int, train: Array, test: Array, seed: int) -> tuple[Array, float]:
    """Importance of each dimension (D,) for a factor, and the accuracy on the test images."""
    from sklearn.ensemble import RandomForestClassifier

    state = derived_seed(seed, "forest", data.names[factor]) % 2**32
    # every dimension in every split: a tree that has to choose without the right one calls the wrong ones important
    forest = RandomForestClassifier(TREES, max_features=None, min_samples_leaf=SMALLEST_LEAF, random_state=state)
    forest.fit(data.codes[train], data.values[train, factor])
    return forest.feature_importances_, float(forest.score(data.codes[test], data.values[test, factor]))


def _disentanglement(importance: Array) -> float | None:
    if importance.shape[1] == 1:
        return None
    weights = importance.sum(1)
    total = weights.sum()
    return float(weights @ _concentration(importance) / total) if total > 0 else 0.0


def _completeness(importance: Array) -> float | None:
    return None if importance.shape[0] == 1 else float(_concentration(importance.T).mean())


def _concentration(weights: Array) -> Array:
    """1 - H / log n of the shares in each row of (m, n): 1 where one entry has all, 0 where they are equal or all 0."""
    totals = weights.sum(1, keepdims=True)
    shares = np.divide(weights, totals, out=np.full_like(weights, 1 / weights.shape[1]), where=totals > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return 1 + (shares * logs).sum(1) / np.log(weights.shape[1])
