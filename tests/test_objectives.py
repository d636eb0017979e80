"""Units and laws of the objectives, over every likelihood of the table."""

import pytest
import torch

from vaekit.config.schedule_shapes import linear
from vaekit.config.schema import Part
from vaekit.densities.codes import DiagonalNormal
from vaekit.models.build import LIKELIHOODS, vae
from vaekit.models.trace import Latent, kl_per_dim, terms
from vaekit.objectives import elbo
from vaekit.objectives.build import build_objective

STEP = torch.tensor(0)
SHAPE = (1, 6, 5)


def zeros(level, shape, like):
    return torch.zeros(shape, dtype=like.dtype)


def trace_of(likelihood="bernoulli", batch=4, samples=1, noise=zeros, dtype=torch.float64, shape=SHAPE):
    torch.manual_seed(0)
    model = vae(shape, 3, Part("mlp", {"widths": (8,)}), likelihood).to(dtype)
    x = torch.rand(batch, *shape, dtype=dtype)
    return model(x.round() if likelihood == "bernoulli" else x, samples, noise)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_terms_are_sums_over_pixels_and_means_over_the_batch(kind):
    """Two images side by side in one cost what they cost apart: nothing is averaged over pixels."""
    px = trace_of(kind).px
    x = trace_of(kind).x
    assert torch.allclose(px.log_prob(x), px.pixel_log_prob(x).sum((-3, -2, -1)))
    trace = trace_of(kind)
    assert torch.allclose(terms(trace)["distortion"], -trace.px.log_prob(trace.x).mean())


def test_weight_and_beta_multiply_their_own_term():
    trace = trace_of()
    parts = terms(trace)
    expected = 3 * parts["distortion"] + 0.5 * parts["rate"]
    assert torch.allclose(elbo(weight=3.0, beta=0.5)(trace, STEP), expected)
    assert torch.allclose(elbo()(trace, STEP), -parts["elbo"])


def test_penalty_is_added_once():
    trace = trace_of()._replace(penalty=torch.tensor(7.0, dtype=torch.float64))
    assert torch.allclose(elbo()(trace, STEP), 7 - terms(trace)["elbo"])


def test_the_tutorials_weight_on_a_pixel_mean_is_said_exactly():
    """500 · mean-pixel BCE + KL, as some courses write it, is weight "500/pixels" here."""
    trace = trace_of("bce", shape=(1, 32, 32))
    mean_bce = torch.nn.functional.binary_cross_entropy_with_logits(trace.px.loc[0], trace.x)
    course = 500 * mean_bce + terms(trace)["rate"]
    ours = build_objective(Part("elbo", {"weight": "500/pixels"}), 1, 32 * 32).objective
    assert torch.allclose(ours(trace, STEP), course, rtol=1e-6)


def test_beta_means_the_same_at_every_image_size():
    """The share of the loss that β changes is the rate itself, whatever the number of pixels."""
    for shape in ((1, 4, 4), (3, 16, 16)):
        trace = trace_of("gaussian", shape=shape)
        change = elbo(beta=3.0)(trace, STEP) - elbo(beta=1.0)(trace, STEP)
        assert torch.allclose(change, 2 * terms(trace)["rate"], rtol=1e-6)


def test_schedules_follow_the_step():
    trace, parts = trace_of(), terms(trace_of())
    objective = elbo(beta=linear(0, 1, over=10))
    for step, beta in ((0, 0.0), (5, 0.5), (20, 1.0)):
        assert torch.allclose(objective(trace, torch.tensor(step)), parts["distortion"] + beta * parts["rate"])


def latent_of(loc):
    q = DiagonalNormal(torch.tensor(loc, dtype=torch.float64), torch.zeros(len(loc), len(loc[0]), dtype=torch.float64))
    p = DiagonalNormal(torch.zeros(len(loc[0]), dtype=torch.float64), torch.zeros(len(loc[0]), dtype=torch.float64))
    return Latent(q.mean[None], q, p)


def test_free_bits_are_a_floor_on_the_batch_mean_of_each_dimension():
    # KL per dimension is loc²/2: means over the batch are (0.5·(0 + 4)/2, 0.5·(0.01 + 0.01)/2)
    trace = trace_of()._replace(latents=(latent_of([[0.0, 0.1], [2.0, 0.1]]),))
    distortion = terms(trace)["distortion"]
    rate = elbo(free_bits=0.5)(trace, STEP) - distortion
    assert torch.allclose(rate, torch.tensor(1.0 + 0.5, dtype=torch.float64))
    per_level = elbo(free_bits=0.5, free_bits_per="level")(trace, STEP) - distortion
    assert torch.allclose(per_level, torch.tensor(1.005, dtype=torch.float64))
    generous = elbo(free_bits=9.0, free_bits_per="level")(trace, STEP) - distortion
    assert torch.allclose(generous, torch.tensor(9.0, dtype=torch.float64))


def test_free_bits_stop_the_gradient_of_a_dimension_below_them():
    loc = torch.tensor([[0.1, 3.0]], requires_grad=True)
    q, p = DiagonalNormal(loc, torch.zeros(1, 2)), DiagonalNormal(torch.zeros(2), torch.zeros(2))
    trace = trace_of(dtype=torch.float32)._replace(latents=(Latent(loc[None], q, p),))
    elbo(free_bits=0.5)(trace, STEP).backward()
    assert loc.grad is not None
    assert loc.grad[0, 0] == 0
    assert loc.grad[0, 1] == 3
    assert torch.allclose(kl_per_dim(trace.latents[0]), torch.tensor([[0.005, 4.5]]))


def test_levels_are_logged_apart_and_add_up():
    trace = trace_of()
    two = trace._replace(latents=trace.latents * 2)
    values = terms(two)
    assert torch.allclose(values["rate"], values["rate_0"] + values["rate_1"])


def test_more_samples_average_and_do_not_add():
    torch.manual_seed(0)
    model = vae(SHAPE, 3, Part("mlp", {"widths": (8,)}))
    x = torch.rand(4, *SHAPE).round()
    one, many = terms(model(x, 1, zeros)), terms(model(x, 6, zeros))
    for name, value in one.items():
        assert torch.allclose(value, many[name], rtol=1e-5)
