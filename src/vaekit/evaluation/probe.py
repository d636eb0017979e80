"""What codes say about classes: k nearest neighbours and a linear probe, and a plane to look at them in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
NEIGHBOURS = 5


class Probe(NamedTuple):
    """Accuracies on held-out codes, shares of 1."""

    knn: float
    linear: float


def probe(train: Array, train_labels: Array, test: Array, test_labels: Array) -> Probe:
    """Accuracy of the 5 nearest training codes, and of a logistic regression, on test codes (N, D).

    Codes are standardised by the training codes first, so that the scale of a latent space does not count; a dimension
    that is the same for every image is left at 0.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    centre, spread = train.mean(0), train.std(0)
    scale = np.where(spread > 1e-6, spread, np.inf)
    a, b = (train - centre) / scale, (test - centre) / scale
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(a))).fit(a, train_labels)
    linear = LogisticRegression(max_iter=300).fit(a, train_labels)
    return Probe(float(neighbours.score(b, test_labels)), float(linear.score(b, test_labels)))


def principal_plane(codes: Array) -> tuple[Array, Array]:
    """(codes (N, D) on their first two principal axes (N, 2), the shares of variance of those axes (2,))."""
    centred = codes.astype(np.float64) - codes.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(codes), 2))
    found = min(2, len(spread))
    plane[:, :found] = centred @ axes[:found].T
    shares = np.zeros(2)
    shares[:found] = (spread**2 / max(float((spread**2).sum()), 1e-300))[:found]
    return plane, shares
