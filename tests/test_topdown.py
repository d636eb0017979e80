"""The laws of a hierarchy: one way down is posterior, prior and everything between."""

import math

import numpy as np
import pytest
import torch
from small_runs import SIZES
from test_acceleration import WAYS, assert_same_at_each_step, trainer_of

from vaekit import evaluate, train
from vaekit.config.schema import ModelConfig, Part
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.noise import BlockNoise, no_noise
from vaekit.errors import ConfigError, VaekitWarning
from vaekit.evaluation.likelihood import bounds
from vaekit.models.build import build_model
from vaekit.models.likelihoods import set_precision
from vaekit.models.trace import log_weight, terms
from vaekit.networks.hierarchy import larger, sizes_of, smaller
from vaekit.objectives import Facts, needs_of
from vaekit.objectives.build import OBJECTIVES, build_objective
from vaekit.training.combinations import read_config

SHAPE = (1, 7, 6)
LEVELS = ((1, 1), (2, 1), (3, 2))


def model_of(shape=SHAPE, levels=LEVELS, classes=0, loud=3, **options):
    torch.manual_seed(0)
    options = {"likelihood": Part("bernoulli"), **options}
    network = Part("top-down", {"levels": levels, "width": 8})
    context = "class" if classes else "none"
    config = ModelConfig(latent_dim=2, network=network, context=context, **options)
    made = build_model(config, shape, classes).double().eval()
    with torch.no_grad():
        for weight in made.parameters():  # far from where nothing depends on anything
            weight.add_(0.1 * torch.randn_like(weight)).mul_(loud**0.5)
    return made


def images(count=5, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round()


def redrawn_from(number):
    """Another noise from this level on."""
    return lambda level, shape, like: BlockNoise(3 if level < number else 4)(level, shape, like)


def test_sizes_halve_and_double_back():
    for shape in ((1, 28, 28), (3, 30, 20), (1, 5, 1), (1, 78, 64)):
        sizes = sizes_of(shape)
        assert sizes[-1] == (1, 1)
        x = torch.rand(2, 3, *sizes[0])
        for number, size in enumerate(sizes):
            small = smaller(x, number)
            assert small.shape[-2:] == size
            assert larger(small, sizes[number - 1 :: -1] if number else []).shape == x.shape
    constant = torch.full((1, 1, 7, 5), 0.25)
    assert torch.equal(smaller(constant, 3), torch.full((1, 1, 1, 1), 0.25))
    assert larger(torch.tensor([[[[1.0, 2.0]]]]), [(2, 3)]).tolist() == [[[[1, 1, 2], [1, 1, 2]]]]


def test_the_bound_is_of_all_levels():
    """From the densities alone, written out: log p(x | z) + Σ log p(z_l | above) - log q(z_l | above, x)."""
    model = model_of()
    trace = model(images(), 20, BlockNoise(3))
    total = trace.log_px
    for latent in trace.latents:
        dims = len(latent.z.shape) - 2
        for density, sign in ((latent.p, 1), (latent.q, -1)):
            normal = torch.distributions.Normal(density.loc, density.stddev)
            total = total + sign * normal.log_prob(latent.z).sum(tuple(range(-dims, 0)))
    assert torch.allclose(log_weight(trace), total)
    found = terms(trace)
    assert torch.allclose(found["rate"], sum(found[f"rate_{number}"] for number in range(4)))
    noise = [((latent.z - latent.q.loc) / latent.q.stddev).flatten(2) for latent in trace.latents]
    correlation = np.corrcoef(torch.cat(noise, -1).detach().flatten(0, 1).T.numpy())
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.5  # no two levels share their noise


def test_a_level_depends_on_those_above_and_on_no_other():
    model, x = model_of(), images()
    reference = model(x, 3, BlockNoise(3))
    for number in range(len(model.layout.groups)):
        other = model(x, 3, redrawn_from(number))
        for level, (one, two) in enumerate(zip(reference.latents, other.latents, strict=True)):
            same = torch.allclose(one.z, two.z)
            assert same == (level < number), (number, level)
            if level > 0:  # p is of the codes above alone, and of all of them
                assert torch.allclose(one.p.mean, two.p.mean) == (level <= number), (number, level)
    moved = model(1 - x, 3, BlockNoise(3)).latents
    assert all(not torch.allclose(a.z, b.z) for a, b in zip(reference.latents, moved, strict=True))


def test_posterior_prior_and_what_is_partly_given_are_one_way_down():
    model, x = model_of(), images()
    trace = model(x, 3, BlockNoise(3))
    codes = tuple(latent.z for latent in trace.latents)
    assert torch.allclose(model.decode(codes).log_prob(x), trace.log_px)
    means = model.encode(x)
    assert torch.allclose(model.decode(means).mean[None], model(x, 1, no_noise).px.mean)
    for kept in range(len(codes) + 1):
        given = (*means[:kept], *(None,) * (len(codes) - kept))
        if kept == 0:
            assert torch.equal(
                model.decode(given, count=5, noise=BlockNoise(1)).mean, model.generate(5, BlockNoise(1)).mean
            )
            continue
        drawn = model.decode(given, noise=BlockNoise(1)).mean
        assert torch.equal(drawn, model.decode(given, noise=BlockNoise(1)).mean)
        assert torch.allclose(drawn, model.decode(means).mean) == (kept == len(codes))
    assert torch.allclose(model.generate(7, BlockNoise(2)).mean, model.decode(model.draw(7, BlockNoise(2))).mean)
    assert torch.allclose(
        model.generate(3, temperature=0).mean, model.decode(tuple(z[None] for z in model.centre())).mean
    )


def test_ancestral_draws_come_from_the_priors():
    """Of every level the drawn codes, standardised by the prior given the codes above, are standard normal."""
    model, found = model_of(), []
    drawn = model.draw(2000, BlockNoise(0))

    def look(number, p, h):
        found.append(((drawn[number] - p.loc) / p.stddev).flatten(1))
        return drawn[number]

    model._down(torch.Size((2000,)), None, look)
    together = torch.cat(found, 1)
    assert float(together.mean(0).abs().max()) < 5 / math.sqrt(2000)
    assert float((together.var(0) - 1).abs().max()) < 5 * math.sqrt(2 / 2000)


def test_company_and_chunks_change_no_number():
    model = model_of()
    data = Dataset((images(70) * 255).to(torch.uint8))
    reference = bounds(model.float(), data, Pixels(), 40, 1)
    for rows in (4000, 7):
        found = bounds(model, data, Pixels(), 40, 1, rows=rows)
        assert torch.allclose(found.importance, reference.importance, rtol=1e-5), rows
        assert torch.allclose(found.rate, reference.rate, rtol=1e-5), rows
    assert bool((reference.importance >= reference.elbo - 1e-5).all())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_objective_trains_all_levels_or_refuses_them(kind):
    model = model_of()
    objective = build_objective(Part(kind), 10, 42, Facts(100, model.layout.width)).objective
    objective = objective.double() if isinstance(objective, torch.nn.Module) else objective
    trace = model(images(6), 2, stopped=True)
    if needs_of(objective).one_group:
        with pytest.raises(ConfigError, match="is of one group of latents and this model has 4"):
            objective(trace, torch.tensor(0))
        with pytest.raises(ConfigError, match="one group of latents, and a hierarchy has many"):
            read_config("digits", [f"objective={kind}", "model.network={kind: top-down, levels: [[1, 1], [4, 2]]}"])
        return
    objective(trace, torch.tensor(0)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and bool(weight.grad.isfinite().all()) and bool((weight.grad != 0).any()), name


@pytest.mark.parametrize("prior", ["standard", "learned", "mixture"])
def test_the_first_level_has_the_prior_that_was_chosen(prior):
    """Its bound stays one: mean importance weights are probabilities, and those of every image sum to 1."""
    model = model_of((1, 2, 1), ((1, 2),), prior=Part(prior))
    every = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64).view(4, 1, 2, 1)
    with torch.no_grad():
        weights = log_weight(model(every, 20_000, BlockNoise(0))).logsumexp(0) - math.log(20_000)
    assert float(weights.exp().sum()) == pytest.approx(1, abs=0.03)


def test_a_conditional_hierarchy_gives_each_image_its_own_class():
    model, x = model_of(classes=3), images(2)
    labels = torch.tensor([0, 2])
    both = model(x, 2, BlockNoise(3), labels)
    alone = model(x[:1], 2, BlockNoise(3), labels[:1])
    assert torch.allclose(both.log_px[:, :1], alone.log_px)
    assert not torch.allclose(both.log_px, model(x, 2, BlockNoise(3), labels.flip(0)).log_px)
    with pytest.raises(ConfigError, match="conditional on 3 classes"):
        model(x)


def test_reduced_precision_is_of_the_networks_alone():
    model = model_of(loud=1).float()
    x = images().float()
    exact = terms(model(x, 1, BlockNoise(0)))
    set_precision(model, torch.bfloat16)
    trace = model(x, 1, BlockNoise(0))
    assert trace.log_px.dtype == trace.latents[1].q.mean.dtype == torch.float32
    assert float((terms(trace)["elbo"] - exact["elbo"]).abs() / exact["elbo"].abs()) < 0.01


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ([[1, 1], [5, 2]], r"8×8 have no level with 5 places along the shorter side, but with 1, 2, 4, 8"),
        ([[4, 1], [2, 1]], r"levels=\[\[4, 1\], \[2, 1\]\] is out of order"),
        ([[4, 1], [4, 1]], "out of order"),
        ([], "levels is empty"),
    ],
)
def test_levels_that_an_image_has_not_are_refused_before_a_folder_is_made(levels, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        train("digits", f"model.network={{kind: top-down, levels: {levels}}}", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.posterior=iaf", "have diagonal posteriors"),
        ("model.latent={channels: 2, side: 4}", "say their sizes by model.network.levels"),
        ("model.prior=vamp", "choose mixture"),
        ("model.kind=autoencoder", "an autoencoder has no levels"),
    ],
)
def test_choices_that_levels_exclude_are_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        read_config("digits", ["model.network={kind: top-down, levels: [[1, 1], [4, 1]]}", override])
    with pytest.raises(ConfigError, match=r"begin model.network.levels with \[1, 1\]"):
        read_config("digits", ["model.network={kind: top-down, levels: [[2, 1]]}", "model.prior=mixture"])


TINY = (*SIZES, "model.network={kind: top-down, levels: [[1, 1], [2, 1], [4, 1]], width: 8}", "model.latent_dim=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    return train("digits", *TINY, "training.epochs=2", out=tmp_path_factory.mktemp("top-down") / "run")


def test_every_verb_takes_a_hierarchy_or_says_what_to_choose(run, vaekit, tmp_path):
    from PIL import Image

    file = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(file)
    metrics = evaluate(run, samples=30)
    assert metrics["elbo_nats"] == pytest.approx(-metrics["distortion_nats"] - metrics["rate_nats"], rel=1e-5)
    assert -metrics["nll_nats"] > metrics["elbo_nats"] and metrics["latent_dim"] == 2 + 8 + 32
    for words in (
        ("pictures", run),
        ("reconstruct", run, file),
        ("sample", run),
        ("sample", run, "--near", file),
        ("interpolate", run),
        ("traverse", run, "--group", "level 1"),
        ("latents", run, "--group", "level 2"),
        ("neighbours", run, file, "--group", "level 0"),
        ("anomalies", run, file),
    ):
        answer = vaekit(*words)
        assert answer.code == 0, (words, answer.err)
    answer = vaekit("ais", run)
    assert answer.code == 2 and "annealing moves one group of codes, and this model has 3" in answer.err


def test_it_resumes_to_the_same_bytes(run, tmp_path):
    whole = train("digits", *TINY, "training.epochs=3", out=tmp_path / "whole")
    part = train(
        "digits", *TINY, "training.epochs=3", "training.checkpoint_every=5", "training.keep=9", out=tmp_path / "part"
    )
    last = sorted(part.joinpath("checkpoints").glob("step-*"))[-1]
    for file in last.glob("*"):
        file.unlink()
    last.rmdir()
    with pytest.warns(VaekitWarning, match="latest is damaged"):
        train(str(part / "config.yaml"), out=part, resume=True)
    for name in ("model", "ema", "optimizer"):
        one, other = ((at / "checkpoints" / last.name / f"{name}.safetensors").read_bytes() for at in (whole, part))
        assert one == other, name


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_one_compiled_graph_and_computes_the_same(tmp_path, way):
    trainer = trainer_of(tmp_path, *TINY[len(SIZES) :], "objective.beta={kind: linear, over: 10}")
    assert_same_at_each_step(trainer, way, 3, backend="aot_eager")
