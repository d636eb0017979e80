"""A linear VAE is probabilistic PCA, where log p(x) is known exactly: the one place where every bound can be checked.

Tipping & Bishop 1999; Lucas et al. 2019, arXiv:1911.02469. Built from the real classes, nothing imitated.
"""

import math

import pytest
import torch

from vaekit.build import vae
from vaekit.config.schema import Part
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.evaluation.likelihood import bounds
from vaekit.models import VAE
from vaekit.objectives import elbo
from vaekit.trace import log_weight, terms

SHAPE, LATENT_DIM, SIGMA = (1, 3, 4), 3, 0.2


def linear_vae(spoil: float = 0.0) -> tuple[VAE, torch.distributions.MultivariateNormal]:
    """A linear VAE with orthogonal columns and its exact posterior (then spoilt), and its exact p(x); float64."""
    torch.manual_seed(0)
    linear = Part("mlp", {"widths": ()})
    model = vae(SHAPE, LATENT_DIM, linear, Part("gaussian", {"scale": "scalar", "initial_scale": SIGMA})).double()
    pixels = math.prod(SHAPE)
    orthogonal = torch.linalg.qr(torch.randn(pixels, LATENT_DIM, dtype=torch.float64))[0]
    columns = orthogonal * torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    mean = torch.rand(pixels, dtype=torch.float64)
    precision = columns.square().sum(0) + SIGMA**2
    gain = columns.T / precision[:, None]
    encoder, decoder = model.posterior.network[1], model.likelihood.network[0]
    with torch.no_grad():
        model.likelihood.log_scale.fill_(math.log(SIGMA))
        decoder.weight.copy_(columns)
        decoder.bias.copy_(mean - 0.5)  # the likelihood adds mid-grey
        encoder.weight[:LATENT_DIM].copy_(gain / 2)  # the posterior shows its network 2x - 1
        encoder.bias[:LATENT_DIM].copy_(gain @ (0.5 - mean) + spoil)
        encoder.weight[LATENT_DIM:].zero_()
        encoder.bias[LATENT_DIM:].copy_(0.5 * torch.log(SIGMA**2 / precision) + spoil)
    covariance = columns @ columns.T + SIGMA**2 * torch.eye(pixels, dtype=torch.float64)
    return model, torch.distributions.MultivariateNormal(mean, covariance)


def sigma_points(level, shape, like):
    """±√D along each axis: their average over a quadratic function is its exact expectation."""
    points = math.sqrt(LATENT_DIM) * torch.eye(LATENT_DIM, dtype=like.dtype)
    return torch.cat([points, -points])[:, None, :].expand(shape)


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
    torch.manual_seed(0)
    _, source = linear_vae()
    x = source.sample(torch.Size([2000]))
    covariance = torch.cov(x.T, correction=0)
    values, _ = torch.linalg.eigh(covariance)
    noise = values[:-LATENT_DIM].mean()  # Tipping & Bishop: the mean of what is discarded
    pixels = x.shape[1]
    optimum = -0.5 * (
        pixels * math.log(2 * math.pi) + values[-LATENT_DIM:].log().sum() + (pixels - LATENT_DIM) * noise.log() + pixels
    )
    parts = Part("mlp", {"widths": ()}), Part("gaussian", {"scale": "scalar", "initial_scale": 0.3})
    model = vae(SHAPE, LATENT_DIM, *parts).double()
    images, step = x.view(-1, *SHAPE), torch.tensor(0)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=1500, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = elbo()(model(images, 2 * LATENT_DIM, sigma_points), step)
        loss.backward()
        return loss

    optimizer.step(closure)
    gap = float(optimum + closure().detach())
    assert -1e-9 < gap < 1e-5
