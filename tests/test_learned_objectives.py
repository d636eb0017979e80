"""Objectives with a state of their own: two networks, one backward pass, and neither touches the other."""

import shutil

import pytest
import torch
from laws import objective_for, small_model
from small_runs import SIZES, what_is_left

from vaekit.config.schedule_shapes import constant
from vaekit.config.schema import TrainingConfig
from vaekit.errors import CheckpointError, ConfigError, NumericalError
from vaekit.models.trace import terms
from vaekit.objectives import Learned, capacity, geco
from vaekit.objectives.learned import with_own
from vaekit.training.checkpoint import load_checkpoint, locate
from vaekit.training.combinations import read_config
from vaekit.training.ema import Ema
from vaekit.training.objective_weights import ObjectiveWeights
from vaekit.training.optimizer import build_optimizer
from vaekit.training.step import Counters, TrainStep, forward_of
from vaekit.verbs.train import train

STEP = torch.tensor(0)
TWO_NETWORKS = ["factor", "adversarial"]


def made(kind, **options):
    model, x = small_model("bernoulli")
    objective = objective_for(kind, options, x)
    assert isinstance(objective, Learned)
    return model, x, objective


def step_for(model, objective, rate=1e-2, parts=1, forward=None):
    own = ObjectiveWeights(objective, torch.device("cpu"))
    optimizer = build_optimizer(model, TrainingConfig())
    forward = forward or forward_of(model, objective, 1)
    return TrainStep(
        forward, optimizer, Ema(model, None), constant(rate), Counters(torch.device("cpu")), own=own, parts=parts
    )


def copies(module):
    return [value.detach().clone() for value in module.parameters()]


def same(before, module):
    return [torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]


@pytest.mark.parametrize("kind", TWO_NETWORKS)
def test_each_loss_has_a_gradient_for_its_own_network_alone(kind):
    model, x, objective = made(kind)
    trace = model(x, 2)
    both = [*model.parameters(), *objective.parameters()]
    cut = len(list(model.parameters()))

    def gradient(loss):
        return torch.autograd.grad(loss, both, retain_graph=True, allow_unused=True)

    torch.manual_seed(0)
    of_model, of_own = gradient(objective(trace, STEP)), gradient(objective.own_loss(trace))
    assert all(g is not None for g in of_model[:cut]) and all(g is None for g in of_model[cut:])
    assert all(g is None for g in of_own[:cut]) and all(g is not None for g in of_own[cut:])
    torch.manual_seed(0)
    loss, logged = with_own(objective, trace, STEP)
    assert torch.equal(loss.detach(), objective(trace, STEP).detach())
    for together, apart in zip(gradient(loss), [*of_model[:cut], *of_own[cut:]], strict=True):
        assert torch.allclose(together, apart)
    assert set(logged) == {"own_loss"}


@pytest.mark.parametrize("kind", TWO_NETWORKS)
def test_each_optimiser_leaves_the_other_network_bit_for_bit(kind):
    model, x, objective = made(kind)
    objective.learning_rate = 0.0
    step, before, own = step_for(model, objective), copies(model), copies(objective)
    step(x)
    assert all(same(own, objective)) and not any(same(before, model))
    model, x, objective = made(kind)
    step, before, own = step_for(model, objective, rate=0.0), copies(model), copies(objective)
    step(x)
    assert all(same(before, model)) and not any(same(own, objective))


@pytest.mark.parametrize("kind", TWO_NETWORKS)
def test_clipping_and_its_norm_are_of_the_model_alone(kind):
    model, x, objective = made(kind)
    step = step_for(model, objective)
    step.gradients(x)
    expected = torch.cat([w.grad.flatten() for w in model.parameters()]).norm()
    assert torch.allclose(step._norm().double(), expected)


@pytest.mark.parametrize("kind", [*TWO_NETWORKS, "geco"])
@pytest.mark.parametrize("whose", ["model", "own"])
def test_an_update_that_is_not_finite_is_skipped_in_both_networks(kind, whose):
    model, x, objective = made(kind)
    plain = forward_of(model, objective, 1)

    def spoilt(*arguments):
        loss, values = plain(*arguments)
        if whose == "own" and kind != "geco":  # a finite loss with a gradient that is not, of the discriminator alone
            return loss + 0 * torch.sqrt(0 * objective.network.layers[0].weight.sum()), values
        return loss * float("nan"), {**values, "constraint": values.get("constraint", loss) * float("nan")}

    step = step_for(model, objective, forward=spoilt)
    before, own = copies(model), {name: value.clone() for name, value in step.own.tensors().items()}
    step(x)
    assert all(same(before, model)) and int(step.counters.skipped) == 1
    assert all(torch.equal(own[name], value) for name, value in step.own.tensors().items())


def test_a_multiplier_rises_while_the_constraint_is_violated_and_falls_when_it_is_met():
    for tolerance, sign in ((0.0, 1), (1.0, -1)):
        model, x, objective = made("geco", tolerance=tolerance)
        step, values = step_for(model, objective, rate=0.0), []
        for _ in range(3):
            step(x)
            values.append(sign * float(objective.log_multiplier))
        assert 0 < values[0] < values[1] < values[2]


def test_the_constraint_is_the_squared_error_less_the_tolerance_summed_over_pixels():
    model, x = small_model("bernoulli")
    trace = model(x, 2)
    objective = geco(tolerance=0.1, speed=0.5, smoothing=0.75).double()
    errors = sum(((trace.px.mean[s, b] - x[b]) ** 2 - 0.1).sum() for s in range(2) for b in range(4)) / 8
    assert torch.allclose(objective.constraint(trace), errors)
    assert torch.allclose(objective(trace, STEP), terms(trace)["rate"] + errors)
    for new, average, logarithm in ((1.0, 1.0, 0.5), (-3.0, 0.0, 0.5), (8.0, 2.0, 1.5)):
        objective.follow({"constraint": torch.tensor(new, dtype=torch.float64)}, None)
        assert float(objective.average) == average and float(objective.log_multiplier) == logarithm
    distorted = geco(measure="distortion", tolerance=0.1).double()
    assert torch.allclose(distorted.constraint(trace), terms(trace)["distortion"] - 0.1 * 30)


def test_capacity_at_the_rate_is_the_distortion():
    model, x = small_model("gaussian")
    trace = model(x)
    parts = terms(trace)
    rate = float(parts["rate"].detach())
    assert torch.allclose(capacity(nats=rate)(trace, STEP), parts["distortion"], rtol=1e-6)
    for gap in (-2.0, 2.0):
        expected = parts["distortion"] + 3 * 2.0
        assert torch.allclose(capacity(gamma=3.0, nats=rate + gap)(trace, STEP), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["elbo", "capacity", "total-correlation", "mmd", "factor", "adversarial"])
def test_a_weight_means_the_same_at_every_image_size(kind):
    """Twice the pixels, twice the distortion; what the codes cost stays, with its weight."""
    model, x = small_model("bernoulli")
    objective = objective_for(kind, {}, x)
    trace = model(x, 2)
    doubled = trace._replace(log_px=2 * trace.log_px, x=torch.cat([x, x], -1))
    losses = []
    for one in (trace, doubled):
        torch.manual_seed(0)
        losses.append(objective(one, STEP) - terms(one)["distortion"])
    assert torch.allclose(*losses)


# Whole runs

SHORT = (*SIZES, "training.epochs=2", "training.checkpoint_every=5", "training.log_every=3")


class Stop(Exception):
    """A run that ends without a farewell."""


@pytest.mark.parametrize("kind", ["factor", "geco"])
def test_a_resumed_run_ends_with_the_same_bytes(kind, tmp_path, monkeypatch):
    whole = train("digits", *SHORT, f"objective={kind}", out=tmp_path / "whole")
    saved = load_checkpoint(locate(whole, "latest")).tensors["objective"]
    assert ("log_multiplier" if kind == "geco" else "network.layers.0.weight") in saved
    broken, update = tmp_path / "broken", TrainStep.__call__

    def dying(self, *inputs):
        if int(self.counters.step) == 8:
            raise Stop
        update(self, *inputs)

    monkeypatch.setattr(TrainStep, "__call__", dying)
    with pytest.raises(Stop):
        train("digits", *SHORT, f"objective={kind}", out=broken)
    monkeypatch.undo()
    train("digits", *SHORT, f"objective={kind}", out=broken, resume=True)
    expected, found = what_is_left(whole), what_is_left(broken)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_state_that_does_not_fit_is_refused():
    _, _, objective = made("factor")
    own = ObjectiveWeights(objective, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="does not fit"):
        own.load({})
    _, _, narrow = made("factor", widths=(4, 256, 256))
    with pytest.raises(CheckpointError, match="another shape"):
        own.load(ObjectiveWeights(narrow, torch.device("cpu")).tensors())


def test_validation_leaves_the_generators_of_the_run(tmp_path):
    """With a validation after every step or after none, the same weights."""
    ends = []
    for every in (1, 1000):
        words = [f"training.validate_every={every}", "objective=mmd", "training.epochs=1"]
        run = train("digits", *SIZES, *words, out=tmp_path / str(every))
        ends.append(load_checkpoint(locate(run, "latest")).tensors["model"])
        shutil.rmtree(run)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective=iwae", "model.kind=autoencoder"], "needs a posterior and a prior"),
        (["objective=factor", "training.accumulate=2"], "training.accumulate=1"),
        (["objective=iwae", "objective.groups=3", "training.samples=4"], "cannot be divided into 3 groups"),
        (["objective.estimator=stl", "objective.free_bits=0.1"], "free_bits_per=level"),
        (["objective=adversarial", "model.prior=mixture"], "trains no prior; choose model.prior=standard"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(words, said):
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=said):
        read_config("digits", words)
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_that_is_too_large_for_a_coupled_objective_is_not_cut():
    model, x, objective = made("factor")

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    step = step_for(model, objective, forward=full)
    step.coupled = True
    with pytest.raises(NumericalError, match="couples the images"):
        step.gradients(x)
