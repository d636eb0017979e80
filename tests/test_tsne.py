"""t-SNE: neighbours stay neighbours, and what it minimises is as small as the library's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE

from vaekit.latentspace.tsne import divergence, similarities, tsne


@pytest.fixture(scope="module")
def digits():
    """Images of 300 digits as codes (300, 64), and their classes."""
    data = load_digits()
    return torch.tensor(data.data[:300], dtype=torch.float32), data.target[:300]


def test_similarities_have_the_perplexity_that_was_asked_for():
    """On a ring every code sees the same, so the symmetric similarities are those from each code."""
    angles = torch.arange(60) * 2 * math.pi / 60
    p = similarities(torch.stack([angles.cos(), angles.sin()], 1), 12.0)
    assert torch.equal(p, p.T) and float(p.sum()) == pytest.approx(1, abs=1e-5) and float(p.diagonal().max()) == 0
    rows = p / p.sum(1, keepdim=True)
    assert torch.allclose((-torch.xlogy(rows, rows).sum(1)).exp(), torch.tensor(12.0), rtol=1e-3)


def test_the_divergence_is_as_small_as_the_librarys(digits):
    codes, _ = digits
    p = similarities(codes, 30.0)
    theirs = TSNE(2, perplexity=30, init="pca", random_state=0, max_iter=400, method="exact").fit(codes.numpy())
    mine = tsne(codes, 30.0)
    assert divergence(p, torch.tensor(theirs.embedding_)) == pytest.approx(theirs.kl_divergence_, abs=0.03)
    assert divergence(p, mine) < 1.1 * theirs.kl_divergence_


def test_classes_that_are_apart_stay_apart(digits):
    codes, classes = digits
    points = tsne(codes, 30.0)
    distances = torch.cdist(points, points).fill_diagonal_(math.inf)
    nearest = classes[distances.argmin(1).numpy()]
    assert np.mean(nearest == classes) > 0.9


def test_it_is_a_function_of_the_codes_alone_and_draws_nothing(digits):
    state = torch.get_rng_state()
    assert torch.equal(tsne(digits[0], 30.0), tsne(digits[0], 30.0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "codes", [torch.zeros(30, 4), torch.eye(3), torch.ones(50, 3) * (torch.arange(50) % 2)[:, None]]
)
def test_equal_and_few_codes_give_finite_points(codes):
    assert bool(tsne(codes, min(30.0, (len(codes) - 1) / 3)).isfinite().all())
