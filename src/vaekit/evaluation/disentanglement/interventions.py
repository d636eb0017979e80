"""Scores from groups of images that share the value of one factor: those of β-VAE and FactorVAE.

Groups are drawn from labelled images, so no generator is asked for; where a value has few images they come again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vaekit.densities.noise import derived_seed
from vaekit.evaluation.disentanglement.labelled import Labelled, varying_dims

Array = np.ndarray[Any, Any]
VOTES = 800  # groups to learn from, and as many to be tested on
GROUP = 64  # images, or pairs, in a group


class Sharing(NamedTuple):
    """Which images share the value of a factor: rows sorted by it, and where each value starts and how many it has."""

    rows: Array  # (N,)
    place: Array  # (N,), of each image in `rows`
    starts: Array
    counts: Array

    @classmethod
    def of(cls, column: Array) -> Sharing:
        """Of the values (N,) of a factor."""
        rows = np.argsort(column, kind="stable")
        place = np.empty_like(rows)
        place[rows] = np.arange(len(rows))
        counts = np.bincount(column)
        return cls(rows, place, np.cumsum(counts) - counts, counts)

    def group(self, value: int, size: int, random: np.random.Generator) -> Array:
        """Rows (size,) of images with this value, with replacement."""
        return self.rows[self.starts[value] + random.integers(self.counts[value], size=size)]

    def partners(self, first: Array, values: Array, random: np.random.Generator) -> Array:
        """For each image another one of the same value: itself only where no other has it."""
        start, count = self.starts[values], self.counts[values]
        further = 1 + np.floor(random.random(len(first)) * (count - 1)).astype(np.int64)
        return self.rows[start + (self.place[first] - start + further) % count]


def factor_vae_score(data: Labelled, seed: int = 0) -> float | None:
    """The share of groups whose shared factor is told by the dimension that varies least in them; 1 / F by chance.

    800 groups of 64 images each share one value of one factor, drawn evenly. A dimension's variance in the group is
    divided by its variance over all images; which factor the least one stands for is the majority in those 800, and
    is tested on 800 other groups. None for a single factor. Kim & Mnih 2018, arXiv:1802.05983
    """
    if len(data.sizes) == 1:
        return None
    random = np.random.default_rng(derived_seed(seed, "factor-vae"))
    factors, least = _votes(data, 2 * VOTES, random)
    table = np.zeros((data.codes.shape[1], len(data.sizes)), np.int64)
    np.add.at(table, (least[:VOTES], factors[:VOTES]), 1)
    return float((table.argmax(1)[least[VOTES:]] == factors[VOTES:]).mean())


def _votes(data: Labelled, count: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Shared factors (count,), and the dimension of least relative variance in each group (count,)."""
    sharing = [Sharing.of(column) for column in data.values.T]
    factors = random.integers(len(data.sizes), size=count)
    examples = random.integers(len(data.codes), size=count)
    varying = varying_dims(data.codes)
    whole = np.where(varying, data.codes.var(0), np.inf)
    spread = np.empty((count, data.codes.shape[1]))
    for vote, (factor, example) in enumerate(zip(factors, examples, strict=True)):
        rows = sharing[factor].group(data.values[example, factor], GROUP, random)
        spread[vote] = data.codes[rows].var(0) / whole
    spread[:, ~varying] = np.inf  # a constant would win every vote
    return factors, spread.argmin(1)


def beta_vae_score(data: Labelled, seed: int = 0) -> float | None:
    """The share of groups of pairs whose shared factor a linear classifier names; 1 / F by chance.

    Both images of a pair have the same value of the group's factor. A group is the mean over 64 pairs of |z - z'|,
    each dimension in units of its standard deviation; a logistic regression learns from 800 groups and is tested on
    800 others. None for a single factor. Higgins et al. 2017, ICLR (β-VAE)
    """
    if len(data.sizes) == 1:
        return None
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(derived_seed(seed, "beta-vae"))
    codes = data.codes / np.where(varying_dims(data.codes), data.codes.std(0), np.inf)
    sharing = [Sharing.of(column) for column in data.values.T]
    factors = random.permutation(np.arange(2 * VOTES) % len(data.sizes))
    differences = np.empty((2 * VOTES, codes.shape[1]))
    for vote, factor in enumerate(factors):
        first = random.integers(len(codes), size=GROUP)
        second = sharing[factor].partners(first, data.values[first, factor], random)
        differences[vote] = np.abs(codes[first] - codes[second]).mean(0)
    model = LogisticRegression(C=100.0, max_iter=1000).fit(differences[:VOTES], factors[:VOTES])
    return float(model.score(differences[VOTES:], factors[VOTES:]))
