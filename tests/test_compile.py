"""The loss of every pair of parts compiles whole (cheap backend), and compiled equals eager."""

import itertools

import pytest
import torch
from laws import fitted

from vaekit.config.schedule_shapes import constant
from vaekit.config.schema import ModelConfig, Part, TrainingConfig
from vaekit.models.build import LIKELIHOODS, NETWORKS, build_model
from vaekit.objectives import Facts
from vaekit.objectives.build import OBJECTIVES, build_objective
from vaekit.training.acceleration import compile_jointly
from vaekit.training.ema import Ema
from vaekit.training.objective_weights import ObjectiveWeights
from vaekit.training.optimizer import build_optimizer
from vaekit.training.step import Counters, TrainStep, forward_of

SHAPE = (1, 9, 7)
COMBINATIONS = list(itertools.product(NETWORKS, LIKELIHOODS, ("vae", "autoencoder")))
QUICK = [("mlp", "bernoulli", "vae"), ("conv", "charbonnier", "vae"), ("resnet", "discretised-logistic", "vae")]
KL_RAMP = {"beta": {"kind": "linear", "over": 10.0}, "free_bits": 0.1}


def forward_for(network, likelihood, kind, objective="elbo", options=KL_RAMP):
    torch.manual_seed(0)
    config = ModelConfig(kind=kind, latent_dim=3, network=Part(network), likelihood=Part(likelihood))
    model = build_model(config, fitted(network, SHAPE))
    return model, forward_of(model, build_objective(Part(objective, options), 1, 63).objective, 2)


def assert_compiles_to_the_same(network, likelihood, kind, backend):
    x, step = torch.rand(4, *fitted(network, SHAPE)).round(), torch.tensor(3)
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


WAYS = [
    *((kind, {}) for kind in OBJECTIVES),
    ("elbo", {"estimator": "stl"}),
    ("iwae", {"gradient": "doubly", "groups": 2, "elbo_share": 0.3}),
]
QUICK_WAYS = [way for way in WAYS if way[1] or way[0] == "adversarial"]


def trained_step(compiled, objective, options, likelihood="bernoulli"):
    """A step whose forward and backward pass were made once, together where compiled."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(latent_dim=3, network=Part("mlp"), likelihood=Part(likelihood)), SHAPE)
    made = build_objective(Part(objective, options), 1, 63, Facts(images=50, latent_dim=3)).objective
    counters, own = Counters(torch.device("cpu")), ObjectiveWeights(made, torch.device("cpu"))
    optimizer = build_optimizer(model, TrainingConfig(precision="float32"))
    step = TrainStep(forward_of(model, made, 4), optimizer, Ema(model, None), constant(0.0), counters, own=own)
    if compiled:
        compile_jointly(step, model, backend="aot_eager")
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(3)).round()
    torch.manual_seed(5)
    return step, step.gradients(x), [weight.grad for weight in step.weights]


def assert_step_compiles_to_the_same(objective, options, likelihood="bernoulli"):
    torch._dynamo.reset()
    eager, (loss, values), gradients = trained_step(False, objective, options, likelihood)
    both, (loss2, values2), gradients2 = trained_step(True, objective, options, likelihood)
    assert torch.allclose(loss, loss2, rtol=1e-5)
    assert all(torch.allclose(values[name], values2[name], rtol=1e-4, atol=1e-5) for name in values)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(gradients, gradients2, strict=True))
    assert both.verdict is not None and torch.allclose(both.verdict.norm, eager._norm(), rtol=1e-4)


@pytest.mark.parametrize(("objective", "options"), QUICK_WAYS)
def test_the_step_of_an_objective_compiles_in_one_graph(objective, options):
    assert_step_compiles_to_the_same(objective, options)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("objective", "options"), WAYS)
def test_the_step_of_every_objective_and_likelihood_compiles_in_one_graph(objective, options, likelihood):
    assert_step_compiles_to_the_same(objective, options, likelihood)
