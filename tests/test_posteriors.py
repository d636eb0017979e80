"""Every posterior with every prior that fits: they train, compile, and go through the commands."""

import itertools
import math

import pytest
import torch
from laws import STEP
from small_posteriors import FLOWS, QUANTISED, given, images, model_of, shaken
from small_runs import SIZES

from vaekit import evaluate, load, train
from vaekit.config.schema import Part
from vaekit.densities.noise import BlockNoise
from vaekit.errors import ConfigError
from vaekit.models.build import POSTERIORS, PRIORS
from vaekit.models.trace import terms
from vaekit.objectives.build import build_objective
from vaekit.training.combinations import read_config
from vaekit.training.step import forward_of

PAIRS = [(q, p) for q, p in itertools.product(POSTERIORS, PRIORS) if POSTERIORS[q].discrete == PRIORS[p].discrete]


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_every_pair_trains_every_weight(posterior, prior):
    model, x = model_of(posterior, prior), images(8)
    objective = build_objective(Part("elbo"), 1, 30).objective
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = objective(model(x, 2, BlockNoise(0), given(model, 8)), STEP)
        loss.backward()
        assert all(w.grad is not None and bool(w.grad.isfinite().all()) for w in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_terms_are_unchanged_by_duplication(posterior, prior):
    model, x = model_of(posterior, prior), images(4)
    objective = build_objective(Part("elbo"), 1, 30).objective

    def alike(level, shape, like):  # the same noise for both halves
        return torch.randn(
            (*shape[:1], 4, *shape[2:]), generator=torch.Generator().manual_seed(0), dtype=like.dtype
        ).repeat(1, shape[1] // 4, 1)

    labels = given(model, 4)
    once = model(x, 2, alike, labels)
    twice = model(torch.cat([x, x]), 2, alike, None if labels is None else labels.repeat(2))
    assert torch.allclose(objective(once, STEP), objective(twice, STEP))
    assert all(torch.allclose(value, terms(twice)[name]) for name, value in terms(once).items())


def assert_goes_through_the_commands(vaekit, folder, kind):
    """Train, evaluate, sample and describe: a run of this posterior is a run like any other."""
    words = {"vq": ["model.posterior.groups=2"], "fsq": ["model.posterior.levels=[5, 5]"]}.get(kind, [])
    prior = "codes" if kind in QUANTISED else "standard"
    run = train(
        "digits", *SIZES, "training.epochs=2", f"model.posterior={kind}", f"model.prior={prior}", *words, out=folder
    )
    metrics = evaluate(run, samples=4)
    assert ("codes_used" in metrics) == (kind in QUANTISED)
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    for command in (("sample",), ("latents",), ("traverse",), ("sample", "--sampler", "mixture")):
        answer = vaekit(command[0], run, *command[1:])
        assert answer.code == 0, answer.err
    assert load(run).encode(load(run).sample(2)).shape == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", (*FLOWS, *QUANTISED))
def test_a_run_goes_through_the_commands(vaekit, tmp_path, kind):
    assert_goes_through_the_commands(vaekit, tmp_path / "run", kind)


def test_a_run_counts_its_codes(tmp_path):
    """What evaluate reports is counted over every image and group of the split."""
    words = ["model.posterior={kind: vq, codes: 8, groups: 2}", "model.prior=codes", "training.epochs=1"]
    run = train("digits", *SIZES, *words, out=tmp_path / "run")
    metrics = evaluate(run, samples=1)
    assert metrics["codes_total"] == 8
    assert 1 <= metrics["code_perplexity"] <= metrics["codes_used"] <= 8
    assert metrics["rate_nats"] == pytest.approx(2 * math.log(8))
    assert "aggregate_kl_nats" not in metrics


def assert_compiles(posterior, prior, samples):
    torch._dynamo.reset()
    x, results = images(4, torch.float32), []
    for compiled in (False, True):
        model = shaken(model_of(posterior, prior, dtype=torch.float32), 0.1)
        objective = build_objective(Part("elbo"), 1, 30).objective
        forward = forward_of(model, objective, samples, lambda x, rows: x, given(model, 4))
        torch.manual_seed(5)
        run = torch.compile(forward, fullgraph=True, backend="aot_eager") if compiled else forward
        loss, values = run(x, torch.arange(4), STEP)
        loss.backward()
        results.append((loss.detach(), values["rate"], [w.grad.clone() for w in model.parameters()]))
    (loss, rate, gradients), (loss2, rate2, gradients2) = results
    assert torch.allclose(loss, loss2, rtol=1e-5)
    assert torch.allclose(rate, rate2, rtol=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(gradients, gradients2, strict=True))


def test_a_flow_compiles_in_one_graph():
    assert_compiles("iaf", "standard", 1)


@pytest.mark.slow
@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_every_pair_compiles_in_one_graph(posterior, prior):
    assert_compiles(posterior, prior, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.posterior=vq",), "set model.prior=codes"),
        (("model.prior=codes",), "choose vq or fsq"),
        (("model.posterior=iaf", "objective.free_bits=0.1"), "objective.free_bits_per=level"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_with_a_remedy(words, message):
    with pytest.raises(ConfigError, match=message):
        read_config("digits", words)


def test_free_bits_per_level_go_with_a_flow():
    free = "objective={kind: elbo, free_bits: 0.1, free_bits_per: level}"
    assert read_config("digits", ["model.posterior=maf", free]).model.posterior.kind == "maf"


@pytest.mark.parametrize(
    ("posterior", "options", "message"),
    [
        ("vq", {"groups": 3}, "3 equal groups"),
        ("fsq", {"levels": (3, 3, 3)}, "multiple of the 3 levels"),
        ("fsq", {"levels": (1, 4)}, "2 values or more"),
        ("fsq", {"levels": (300, 300)}, "65536 or fewer"),
    ],
)
def test_groups_that_do_not_fit_are_refused(posterior, options, message):
    with pytest.raises(ConfigError, match=message):
        model_of(posterior, **options)


def test_a_quantised_posterior_and_another_prior_are_refused_from_python_too():
    with pytest.raises(ConfigError, match="only together"):
        model_of("vq", "standard")
