"""Laws of the estimators of the ELBO and of the importance-weighted bounds, in value and in gradient."""

import math

import pytest
import torch
from laws import small_model
from test_linear_gaussian import SHAPE, linear_vae

from vaekit.models.trace import log_weight
from vaekit.objectives import elbo, iwae

STEP = torch.tensor(0)


def traced(samples, seed=0, model=None, x=None):
    if model is None:
        model, x = small_model("bernoulli")
    torch.manual_seed(seed)
    return model(x, samples, stopped=True)


@pytest.mark.parametrize("gradient", ["plain", "doubly"])
def test_one_sample_is_the_elbo_and_so_is_a_group_of_one(gradient):
    one, many = traced(1), traced(6)
    assert torch.allclose(iwae(gradient=gradient)(one, STEP), elbo(estimator="sampled")(one, STEP))
    assert torch.allclose(iwae(gradient=gradient, groups=6)(many, STEP), elbo(estimator="sampled")(many, STEP))


@pytest.mark.parametrize("gradient", ["plain", "doubly"])
def test_the_value_is_the_bound_and_its_mixtures_lie_between(gradient):
    """However its gradient is made: the log-mean of the weights, written here by itself."""
    trace = traced(6)
    weights = log_weight(trace).exp()
    assert torch.allclose(iwae(gradient=gradient)(trace, STEP), -weights.mean(0).log().mean())
    grouped = -weights.view(2, 3, -1).mean(1).log().mean()
    assert torch.allclose(iwae(gradient=gradient, groups=2)(trace, STEP), grouped)
    bound, plain = iwae()(trace, STEP), elbo(estimator="sampled")(trace, STEP)
    assert torch.allclose(iwae(gradient=gradient, elbo_share=1.0)(trace, STEP), plain)
    assert torch.allclose(iwae(gradient=gradient, elbo_share=0.25)(trace, STEP), 0.25 * plain + 0.75 * bound)
    assert bound < grouped < plain


def test_closed_sampled_and_sticking_are_one_number_in_expectation():
    trace = traced(4000)
    assert torch.allclose(elbo(estimator="sampled")(trace, STEP), elbo(estimator="stl")(trace, STEP))
    (latent,) = trace.latents
    sampled = (latent.q.log_prob(latent.z) - latent.p.log_prob(latent.z)).mean(1)
    closed = elbo()(trace, STEP) + trace.log_px.mean()
    assert abs(float((sampled.mean() - closed).detach())) < 4 * float(sampled.std().detach()) / math.sqrt(4000)


def gradients(objective, model, x, samples, runs):
    """(runs, weights) of the encoder and of the decoder, flattened; each run draws anew."""
    found = {"encoder": [], "decoder": []}
    parts = {"encoder": list(model.posterior.parameters()), "decoder": list(model.likelihood.parameters())}
    torch.manual_seed(0)
    for _ in range(runs):
        loss = objective(model(x, samples, stopped=True), STEP)
        flat = torch.autograd.grad(loss, [w for part in parts.values() for w in part], allow_unused=True)
        cut = len(parts["encoder"])
        for name, some in (("encoder", flat[:cut]), ("decoder", flat[cut:])):
            found[name].append(torch.cat([g.flatten() for g in some if g is not None]))
    return {name: torch.stack(rows) for name, rows in found.items()}


def assert_same_mean(a, b, directions=4):
    """Along a few directions, within four standard errors."""
    for seed in range(directions):
        along = torch.randn(a.shape[1], dtype=a.dtype, generator=torch.Generator().manual_seed(seed))
        first, second = a @ along, b @ along
        error = math.sqrt(float(first.var() + second.var()) / len(first))
        assert abs(float(first.mean() - second.mean())) < 4 * error


RUNS = 300


@pytest.mark.parametrize("options", [{}, pytest.param({"groups": 2, "elbo_share": 0.3}, marks=pytest.mark.slow)])
def test_the_doubly_reparameterised_gradient_is_the_plain_one_with_less_noise(options):
    """In expectation for the encoder; for the decoder it is the same for the same codes."""
    model, _ = linear_vae(spoil=0.3)
    x = torch.rand(3, *SHAPE, dtype=torch.float64)
    plain = gradients(iwae(**options), model, x, 8, RUNS)
    doubly = gradients(iwae(gradient="doubly", **options), model, x, 8, RUNS)
    assert_same_mean(plain["encoder"], doubly["encoder"])
    assert torch.allclose(plain["decoder"], doubly["decoder"])
    assert doubly["encoder"].var(0).sum() < 0.5 * plain["encoder"].var(0).sum()


def test_sticking_the_landing_has_no_noise_at_the_exact_posterior():
    model, _ = linear_vae()
    x = torch.rand(3, *SHAPE, dtype=torch.float64)
    noise = {kind: gradients(elbo(estimator=kind), model, x, 1, 20)["encoder"] for kind in ("closed", "sampled", "stl")}
    assert noise["stl"].abs().max() < 1e-9
    assert noise["sampled"].std(0).max() > 0.1
    assert noise["closed"].std(0).max() > 0.1
    spoilt, _ = linear_vae(spoil=0.3)
    assert_same_mean(*(gradients(elbo(estimator=k), spoilt, x, 1, RUNS)["encoder"] for k in ("sampled", "stl")))
