"""A linear VAE is probabilistic PCA, where log p(x) is known exactly: the one place where every bound can be checked.

Tipping & Bishop 1999; Lucas et al. 2019, arXiv:1911.02469. Built from the real classes, nothing imitated.
"""

import math

import pytest
import torch

from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.evaluation.likelihood import bounds
from vaekit.models.trace import log_weight, terms
from vaekit.objectives import elbo
from vaekit.selftest.linear_gaussian import (
    LATENT_DIM,
    SHAPE,
    best_log_likelihood,
    gap_after_training,
    linear_vae,
    sigma_points,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_elbo_of_the_exact_posterior_is_the_exact_log_likelihood():
    model, exact = linear_vae()
    x = torch.rand(50, *SHAPE, dtype=torch.float64)
    log_px = exact.log_prob(x.flatten(1)).mean()
    trace = model(x, 2 * LATENT_DIM, sigma_points)
    assert abs(float((terms(trace)["elbo"] - log_px).detach())) < 1e-9
    assert abs(float((-elbo()(trace, torch.tensor(0)) - log_px).detach())) < 1e-9


def test_every_importance_weight_is_the_exact_likelihood():
    model, exact = linear_vae()
    x = torch.rand(20, *SHAPE, dtype=torch.float64)
    weights = log_weight(model(x, 7))
    assert float((weights - exact.log_prob(x.flatten(1))).abs().max().detach()) < 1e-9


@pytest.mark.parametrize("spoil", [0.3, -0.2])
def test_a_spoilt_posterior_costs_exactly_its_divergence(spoil):
    """log p(x) - ELBO = KL(q || true posterior)."""
    model, exact = linear_vae(spoil)
    true, _ = linear_vae()
    x = torch.rand(20, *SHAPE, dtype=torch.float64)
    gap = exact.log_prob(x.flatten(1)).mean() - terms(model(x, 2 * LATENT_DIM, sigma_points))["elbo"]
    divergence = torch.distributions.kl_divergence(model.q(x), true.q(x)).mean()
    assert math.isclose(float(gap.detach()), float(divergence.detach()), rel_tol=1e-9)


def test_bounds_are_ordered_and_close_in_on_the_exact_value():
    """ELBO ≤ IWAE_4 ≤ IWAE_32 ≤ IWAE_1000 ≤ log p(x), each within its own sampling error."""
    model, exact = linear_vae(spoil=0.4)
    images = (torch.rand(400, *SHAPE) * 255).to(torch.uint8)
    log_px = float(exact.log_prob(images.double().flatten(1) / 255).mean())
    found = {k: bounds(model.float(), Dataset(images), Pixels(), k, seed=0) for k in (1, 4, 32, 1000)}
    values = [float(found[1].elbo.mean()), *(float(b.importance.mean()) for k, b in found.items() if k > 1)]
    slack = 4 * found[1000].nll_sampling_se_nats
    assert values == sorted(values)
    assert values[-1] < log_px + slack
    assert log_px - values[-1] < 0.05 + slack
    assert log_px - values[0] > 0.1


def test_training_reaches_the_maximum_likelihood_of_pca():
    """From random weights the ELBO climbs to the closed-form optimum: mean, noise and subspace of pPCA."""
    assert -1e-9 < gap_after_training(torch.device("cpu")) < 1e-6


def test_the_optimum_of_pca_is_the_likelihood_of_its_own_normal():
    """The formula over eigenvalues is the mean log-density of the normal that they make."""
    x = torch.randn(200, 7, dtype=torch.float64) @ torch.randn(7, 7, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    values[:-3] = values[:-3].mean()
    normal = torch.distributions.MultivariateNormal(x.mean(0), vectors @ torch.diag(values) @ vectors.T)
    assert math.isclose(float(best_log_likelihood(x, 3)), float(normal.log_prob(x).mean()), rel_tol=1e-12)
