"""Every part in a table obeys the laws; adding a line to a table adds its tests."""

import pytest
from laws import assert_normalises, assert_samples_follow, assert_trains, assert_unchanged_by_duplication

from vaekit.build import LIKELIHOODS, OBJECTIVES

PROPER = [kind for kind, likelihood in LIKELIHOODS.items() if likelihood.family.is_likelihood]
PAIRS = [(objective, likelihood) for objective in OBJECTIVES for likelihood in LIKELIHOODS]


@pytest.mark.parametrize("kind", PROPER)
def test_likelihood_normalises(kind):
    assert_normalises(LIKELIHOODS[kind])


@pytest.mark.parametrize("kind", PROPER)
def test_samples_follow_the_likelihood(kind):
    assert_samples_follow(LIKELIHOODS[kind])


@pytest.mark.parametrize(("objective", "likelihood"), PAIRS)
def test_terms_are_unchanged_by_duplication(objective, likelihood):
    assert_unchanged_by_duplication(objective, likelihood, {})


@pytest.mark.parametrize(("objective", "likelihood"), PAIRS)
def test_objective_trains_every_weight(objective, likelihood):
    assert_trains(objective, likelihood, {})
