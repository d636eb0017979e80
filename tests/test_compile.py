"""The loss of every pair of parts compiles whole (cheap backend), and compiled equals eager."""

import itertools

import pytest
import torch

from vaekit.build import LIKELIHOODS, NETWORKS, OBJECTIVES, build_model, build_objective
from vaekit.config.schema import ModelConfig, Part
from vaekit.training.step import forward_of

SHAPE = (1, 9, 7)
COMBINATIONS = list(itertools.product(NETWORKS, LIKELIHOODS, ("vae", "autoencoder")))
QUICK = [("mlp", "bernoulli", "vae"), ("conv", "charbonnier", "vae"), ("resnet", "discretised-logistic", "vae")]
KL_RAMP = {"beta": {"kind": "linear", "over": 10.0}, "free_bits": 0.1}


def forward_for(network, likelihood, kind, objective="elbo", options=KL_RAMP):
    torch.manual_seed(0)
    model = build_model(ModelConfig(kind=kind, latent_dim=3, network=Part(network), likelihood=Part(likelihood)), SHAPE)
    return model, forward_of(model, build_objective(Part(objective, options), 1, 63).objective, 2)


def assert_compiles_to_the_same(network, likelihood, kind, backend):
    x, step = torch.rand(4, *SHAPE).round(), torch.tensor(3)
    results = []
    for compiled in (False, True):
        model, forward = forward_for(network, likelihood, kind)
        run = torch.compile(forward, fullgraph=True, backend=backend) if compiled else forward
        torch.manual_seed(5)
        loss, values = run(x, step)
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append((loss.detach(), values, gradients))
    (loss, values, gradients), (loss2, values2, gradients2) = results
    assert torch.allclose(loss, loss2, rtol=1e-5)
    assert all(torch.allclose(values[name], values2[name], rtol=1e-5) for name in values)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(gradients, gradients2, strict=True))


@pytest.mark.parametrize(("network", "likelihood", "kind"), QUICK)
def test_compiles_in_one_graph(network, likelihood, kind):
    torch._dynamo.reset()
    assert_compiles_to_the_same(network, likelihood, kind, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize(("network", "likelihood", "kind"), [c for c in COMBINATIONS if c not in QUICK])
def test_every_combination_compiles_in_one_graph(network, likelihood, kind):
    torch._dynamo.reset()
    assert_compiles_to_the_same(network, likelihood, kind, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize(("network", "likelihood", "kind"), QUICK)
def test_inductor_gives_the_same_loss_and_gradients(network, likelihood, kind):
    torch._dynamo.reset()
    model, forward = forward_for(network, likelihood, kind)
    x, step = torch.rand(4, *SHAPE).round(), torch.tensor(3)
    torch.compiler.reset()
    trace_noise_free = torch.compile(forward, fullgraph=True)
    torch.manual_seed(0)
    loss, _ = trace_noise_free(x, step)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_every_objective_is_covered():
    assert set(OBJECTIVES) == {"elbo"}, "add the new objective to the combinations above"
