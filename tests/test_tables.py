"""Every part in a table obeys the laws; adding a line to a table adds its tests."""

import pytest
from laws import (
    assert_normalises,
    assert_samples_are_drawn_pixel_by_pixel,
    assert_samples_follow,
    assert_trains,
    assert_unchanged_by_duplication,
    couples,
)

from vaekit.config.schema import Part
from vaekit.models.build import LIKELIHOODS
from vaekit.objectives import Facts, Learned, needs_of
from vaekit.objectives.build import OBJECTIVES, build_objective

PROPER = [kind for kind, likelihood in LIKELIHOODS.items() if likelihood.family.is_likelihood]
PAIRS = [(objective, likelihood) for objective in OBJECTIVES for likelihood in LIKELIHOODS]
# every likelihood with the ELBO, every objective with 0/1 pixels and with a density
QUICK = [pair for pair in PAIRS if pair[0] == "elbo" or pair[1] in ("bernoulli", "gaussian")]
SLOW = [pair for pair in PAIRS if pair not in QUICK]


def is_coupled(kind: str) -> bool:
    return needs_of(build_objective(Part(kind), 1, 1, Facts(1, 1)).objective).coupled


@pytest.mark.parametrize("kind", PROPER)
def test_likelihood_normalises(kind):
    assert_normalises(LIKELIHOODS[kind])


@pytest.mark.parametrize("kind", PROPER)
def test_samples_follow_the_likelihood(kind):
    assert_samples_follow(LIKELIHOODS[kind])


@pytest.mark.parametrize("kind", PROPER)
def test_samples_are_drawn_pixel_by_pixel(kind):
    assert_samples_are_drawn_pixel_by_pixel(kind)


@pytest.mark.parametrize(("objective", "likelihood"), [pair for pair in QUICK if not is_coupled(pair[0])])
def test_terms_are_unchanged_by_duplication(objective, likelihood):
    assert_unchanged_by_duplication(objective, likelihood, {})


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "likelihood"), [pair for pair in SLOW if not is_coupled(pair[0])])
def test_terms_of_every_pair_are_unchanged_by_duplication(objective, likelihood):
    assert_unchanged_by_duplication(objective, likelihood, {})


@pytest.mark.parametrize(("objective", "likelihood"), QUICK)
def test_objective_trains_every_weight(objective, likelihood):
    assert_trains(objective, likelihood, {})


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "likelihood"), SLOW)
def test_every_pair_trains_every_weight(objective, likelihood):
    assert_trains(objective, likelihood, {})


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_objective_says_whether_it_couples_the_images_of_a_batch(kind):
    """Halves of a batch cost on average what all of it costs, unless the objective says that it couples them."""
    own_loss_too = isinstance(build_objective(Part(kind), 1, 1, Facts(1, 1)).objective, Learned)
    if own_loss_too and is_coupled(kind):
        return  # factor's model loss adds up over images; what permutes their codes is its discriminator's
    assert couples(kind, "gaussian") == is_coupled(kind)
