"""A model of several groups goes through the whole toolkit as it is, or is refused in a sentence."""

import math

import numpy as np
import pytest
import torch
from small_runs import SIZES
from two_levels import TwoLevels

from vaekit import evaluate, load, train
from vaekit.config.schema import Part
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.noise import BlockNoise, no_noise
from vaekit.errors import ConfigError, VaekitWarning
from vaekit.evaluation import chunks
from vaekit.evaluation.latents import latent_use
from vaekit.evaluation.likelihood import bounds
from vaekit.models.trace import log_weight, terms
from vaekit.objectives import Facts, needs_of
from vaekit.objectives.build import OBJECTIVES, build_objective
from vaekit.trained.run import open_run

SHAPE = (1, 8, 8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = TwoLevels(SHAPE).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight *= 3  # far from where nothing depends on anything
    return made.eval()


def images(count=5):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round()


def test_the_bound_is_of_both_groups(model):
    """Estimated from the densities themselves: log p(x, z1, z2) - log q(z1, z2 | x), with noise of each level."""
    trace = model(images(), 50, BlockNoise(3))
    (z1, z2) = (latent.z for latent in trace.latents)
    p1 = torch.distributions.Normal(0.0, 1.0).log_prob(z1).sum(-1)
    q1, (q2, p2) = trace.latents[0].q, (trace.latents[1].q, trace.latents[1].p)
    joint = trace.log_px + p1 + p2.log_prob(z2) - q1.log_prob(z1) - q2.log_prob(z2)
    assert torch.allclose(log_weight(trace), joint)
    found = terms(trace)
    assert torch.allclose(found["rate"], found["rate_0"] + found["rate_1"])
    noise = torch.cat([(z1 - q1.loc) / q1.stddev, ((z2 - q2.loc) / q2.stddev).flatten(2)], -1)
    correlation = np.corrcoef(noise.detach().flatten(0, 1).T.numpy())
    assert np.abs(correlation - np.eye(6)).max() < 0.3  # no two levels share their noise


def test_batch_and_chunk_change_no_bound_of_a_hierarchy(model):
    data = Dataset((images(70) * 255).to(torch.uint8))
    reference = bounds(model.float(), data, Pixels(), 40, 1)
    for rows in (4000, 640, 7):
        found = bounds(model, data, Pixels(), 40, 1, rows=rows)
        assert torch.allclose(found.importance, reference.importance, rtol=1e-5), rows
        assert torch.allclose(found.rate, reference.rate, rtol=1e-5), rows
    assert bool((reference.importance >= reference.elbo - 1e-6).all())
    assert chunks.rows_at_once(model, torch.device("cpu")) >= 1


def test_a_bound_in_chunks_has_the_noise_of_each_level(model):
    """What `evaluate` computes is the bound of one trace whose levels draw their own noise."""
    data = Dataset((images(20) * 255).to(torch.uint8))
    found = bounds(model.float(), data, Pixels(), 40, 1, rows=333)
    with torch.no_grad():
        trace = model(data.images.float() / 255, 40, BlockNoise(1))
        expected = log_weight(trace).double().logsumexp(0) - math.log(40)
    assert torch.allclose(found.importance, expected, rtol=1e-5)


def test_what_is_left_out_is_drawn_from_its_prior_given_what_is_above(model):
    """Reconstruction, sampling, and keeping the coarse are one function."""
    x = images()
    coarse, fine = model.encode(x)
    whole = model.decode((coarse, fine)).mean
    assert torch.equal(whole[None], model(x, 1, no_noise).px.mean)
    redrawn = model.decode((coarse, None), noise=BlockNoise(1)).mean
    assert redrawn.shape == whole.shape and not torch.allclose(redrawn, whole)
    assert torch.equal(redrawn, model.decode((coarse, None), noise=BlockNoise(1)).mean)
    middle = model.decode((coarse, None), temperature=0).mean
    expected = model.decode((coarse, model.low_p(coarse)[:, :4].view(-1, 1, 2, 2))).mean
    assert torch.allclose(middle, expected)
    assert torch.equal(
        model.generate(7, BlockNoise(2)).mean, model.decode((None, None), count=7, noise=BlockNoise(2)).mean
    )
    assert torch.equal(model.generate(7, BlockNoise(2)).mean, model.decode(model.draw(7, BlockNoise(2))).mean)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_objective_trains_all_groups_or_refuses_several(model, kind):
    objective = build_objective(Part(kind), 10, 64, Facts(100, model.layout.width)).objective
    objective = objective.double() if isinstance(objective, torch.nn.Module) else objective
    trace = model(images(6), 2, stopped=True)
    if needs_of(objective).one_group:
        with pytest.raises(ConfigError, match="is of one group of latents and this model has 2"):
            objective(trace, torch.tensor(0))
        return
    objective(trace, torch.tensor(0)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and bool(weight.grad.isfinite().all()) and bool((weight.grad != 0).any()), name


def test_statistics_are_of_each_group(model):
    data = Dataset((images(200) * 255).to(torch.uint8))
    use = latent_use(model.float(), data, Pixels(), 0, batch=37)
    assert use.means.shape == (200, 6) and len(use.group_rates_nats) == 2
    assert sum(use.group_rates_nats) == pytest.approx(use.rate_nats)
    assert float(use.kl_nats[:2].sum()) == pytest.approx(use.group_rates_nats[0], rel=1e-5)
    assert float(use.kl_nats[2:].sum()) == pytest.approx(use.group_rates_nats[1], rel=1e-5)
    fine = use.only(model.layout.only(["level 1"]))
    assert torch.equal(fine.kl_nats, use.kl_nats[2:]) and fine.covariance.shape == (4, 4)
    assert torch.equal(fine.covariance, use.covariance[2:, 2:])


def test_what_needs_one_group_says_so(model):
    with pytest.raises(ConfigError, match="2 groups of latents, of which none has a prior by itself"):
        model.p()
    with pytest.raises(ConfigError, match="2 groups of latents, of which none has a posterior by itself"):
        model.q(images())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained, saved and loaded as any other, with the model in the place of a network's."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("vaekit.training.loop", "vaekit.trained.model"):
            patch.setattr(f"{module}.build_model", lambda config, shape, classes=0: TwoLevels(shape))
        torch.set_num_threads(1)
        yield train("digits", *SIZES, "training.epochs=3", out=tmp_path_factory.mktemp("levels") / "run")


def test_evaluate_reports_a_likelihood_and_not_an_autoencoder(run):
    metrics = evaluate(run, samples=30)
    assert metrics["elbo_nats"] == pytest.approx(-metrics["distortion_nats"] - metrics["rate_nats"])
    assert -metrics["nll_nats"] > metrics["elbo_nats"] and metrics["latent_dim"] == 6
    assert math.isfinite(metrics["distortion_without_code_nats"]) and "mutual_information_nats" not in metrics


def test_every_verb_takes_two_groups_or_says_what_to_choose(run, vaekit, tmp_path):
    from PIL import Image

    file = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(file)
    for words in (
        ("pictures", run),
        ("reconstruct", run, file),
        ("sample", run),
        ("sample", run, "--sampler", "mixture"),
        ("sample", run, "--near", file),
        ("interpolate", run, "--group", "level 0"),
        ("interpolate", run),
        ("traverse", run),
        ("traverse", run, "--group", "level 1"),
        ("arithmetic", run, "class:1", "--plus", file),
        ("attribute", run, "--class", 3, "--group", "level 1"),
        ("neighbours", run, file, "--group", "level 0"),
        ("latents", run),
        ("latents", run, "--group", "level 1"),
        ("latents", run, "--encode", tmp_path),
        ("anomalies", run, file),
        ("disentanglement", run),
        ("quality", run, "--count", 20, "--sampler", "prior"),
    ):
        answer = vaekit(*words)
        assert answer.code == 0, (words, answer.err)
    table = (run / "reports" / "codes.csv").read_text().splitlines()
    assert table[0] == (
        'file,level 0 z0,level 0 z1,"level 1 channel 0 at 0,0","level 1 channel 0 at 0,1",'
        '"level 1 channel 0 at 1,0","level 1 channel 0 at 1,1"'
    )
    for words, said in (
        (("ais", run), "annealing moves one group of codes, and this model has 2"),
        (("latents", run, "--group", "level 2"), "unknown group 'level 2'"),
        (("sample", run, "--size", "16"), "model.latent"),
    ):
        answer = vaekit(*words)
        assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1, answer


def test_matrices_of_chosen_groups_decode_with_the_others_at_the_priors_mean(run):
    whole, coarse = load(run), load(run, groups=["level 0"])
    image = open_run(run).dataset("test").images[:3, 0].numpy()
    codes = whole.encode(list(image))
    assert np.array_equal(coarse.encode(list(image)), codes[:, :2])
    z1 = torch.from_numpy(codes[:, :2])
    expected = whole.to_images(whole.model.decode((z1, None), temperature=0).mean.detach())
    assert np.array_equal(coarse.decode(codes[:, :2]), expected)


def test_it_resumes_to_the_same_bytes(run, tmp_path):
    whole = train("digits", *SIZES, "training.epochs=4", out=tmp_path / "whole")
    part = train(
        "digits", *SIZES, "training.epochs=4", "training.checkpoint_every=7", "training.keep=9", out=tmp_path / "part"
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
