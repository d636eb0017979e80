"""Samplers fitted after training: true densities, functions of their seed, and bound to the weights they are of."""

from __future__ import annotations

import json
import math
import shutil
import sys

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture
from small_runs import SIZES

from vaekit import load
from vaekit.errors import CheckpointError, ConfigError
from vaekit.trained.samplers import SAMPLERS, fit_sampler, load_sampler, sampler_folder, sampler_for, save_sampler
from vaekit.trained.samplers.flow import FlowSampler
from vaekit.trained.samplers.mixture import MixtureSampler
from vaekit.verbs.train import train

MEANS = np.array([[-4.0, 0.0], [4.0, 1.0]])
FACTORS = np.array([[[1.0, 0.0], [0.5, 0.6]], [[0.4, 0.0], [0.0, 1.5]]])
KNOWN = MixtureSampler(np.array([0.3, 0.7]), MEANS, FACTORS)


@pytest.fixture(params=SAMPLERS)
def kind(request):
    if request.param == "flow":
        pytest.importorskip("zuko")
    return request.param


@pytest.fixture(scope="module")
def model(digits_run):
    return load(digits_run)


@pytest.fixture
def run(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


@pytest.fixture(scope="module")
def codes():
    """Of two clusters with correlated dimensions, (400, 4)."""
    noise, side = np.random.default_rng(0).standard_normal((400, 4)), np.sign(np.arange(400) % 3 - 0.5)
    noise[:, 1] = 0.9 * noise[:, 0] + 0.3 * noise[:, 1]
    return (0.5 * noise + 1.5 * side[:, None]).astype(np.float32)


def test_a_mixture_is_found_again_from_its_samples():
    fitted = MixtureSampler.fit(KNOWN.sample(20_000, seed=1), components=2)
    order = np.argsort(fitted.means[:, 0])
    assert np.allclose(fitted.weights[order], KNOWN.weights, atol=0.02)
    assert np.allclose(fitted.means[order], MEANS, atol=0.06)
    found, known = (f @ f.transpose(0, 2, 1) for f in (fitted.factors[order], FACTORS))
    assert np.allclose(found, known, atol=0.1)


def test_samples_of_a_mixture_have_its_mean_and_covariance():
    drawn = KNOWN.sample(50_000, seed=2)
    mean = KNOWN.weights @ MEANS
    between = np.einsum("k,ki,kj->ij", KNOWN.weights, MEANS - mean, MEANS - mean)
    covariance = np.einsum("k,kij->ij", KNOWN.weights, FACTORS @ FACTORS.transpose(0, 2, 1)) + between
    assert np.allclose(drawn.mean(0), mean, atol=0.1) and np.allclose(np.cov(drawn.T), covariance, rtol=0.05, atol=0.05)


def test_what_chose_a_mixture_is_not_lost_to_it(codes):
    """One normal has the moments of all codes, those that were held out to choose by among them."""
    fitted = MixtureSampler.fit(codes, components=1)
    assert np.allclose(fitted.means[0], codes.mean(0), atol=1e-5)
    spread = np.sqrt(np.einsum("ij,ij->i", fitted.factors[0], fitted.factors[0]))
    assert np.allclose(spread, codes.std(0), rtol=1e-4)


def test_the_component_of_a_draw_tells_nothing_of_its_place_inside():
    """The first draws of many seeds: two streams that begin alike part later."""
    places = 99.0 * np.arange(32)
    apart = MixtureSampler(np.full(32, 1 / 32), places[:, None], np.ones((32, 1, 1)))
    drawn = np.concatenate([apart.sample(20, seed=seed)[:, 0] for seed in range(200)]).astype(np.float64)
    component = np.rint(drawn / 99).astype(int)
    inside, counts = drawn - places[component], np.bincount(component, minlength=32)
    for values in (inside, np.abs(inside)):
        means = np.bincount(component, values, 32) / counts
        chi_square = (counts * (means - values.mean()) ** 2).sum() / values.var()
        assert chi_square < 31 + 4 * math.sqrt(2 * 31)


def test_the_density_of_a_mixture_is_that_of_the_library_that_fitted_it(codes):
    fitted = MixtureSampler.fit(codes, components=3, seed=4)
    library = GaussianMixture(3)
    library.weights_, library.means_ = fitted.weights, fitted.means
    library.covariances_ = fitted.factors @ fitted.factors.transpose(0, 2, 1)
    library.precisions_cholesky_ = np.linalg.inv(fitted.factors).transpose(0, 2, 1)
    assert np.allclose(fitted.log_prob(codes), library.score_samples(codes))


def test_a_sampler_describes_unseen_codes_better_than_the_prior(model, codes, kind):
    facts = fit_sampler(model, kind, codes).facts
    assert facts["held_out_nats"] > facts["held_out_prior_nats"] + 1


def test_a_density_integrates_to_one_and_its_samples_follow_it(kind):
    """E_p[f] by samples and by the density's integral over a grid agree."""
    sampler = SAMPLERS[kind].fit(KNOWN.sample(2000, seed=3), seed=0)
    axis = np.linspace(-12, 12, 301)
    grid = np.stack([m.ravel() for m in np.meshgrid(axis, axis)], 1)
    mass = np.exp(sampler.log_prob(grid)) * (axis[1] - axis[0]) ** 2
    assert mass.sum() == pytest.approx(1, abs=0.01)
    drawn = sampler.sample(4000, seed=1)
    assert np.allclose(drawn.mean(0), mass @ grid, atol=5 * drawn.std(0) / np.sqrt(4000))


def test_samples_are_a_function_of_the_seed_and_more_begin_with_the_same(codes, kind):
    sampler = SAMPLERS[kind].fit(codes, seed=0)
    many = sampler.sample(50, seed=7)
    assert np.allclose(sampler.sample(9, seed=7), many[:9], atol=1e-5)
    assert not np.allclose(sampler.sample(9, seed=8), many[:9])
    again = SAMPLERS[kind].fit(codes, seed=0)
    assert np.array_equal(again.sample(50, seed=7), many)


def test_temperature_narrows_what_is_drawn(codes, kind):
    sampler = SAMPLERS[kind].fit(codes, seed=0)
    spreads = [float(sampler.sample(500, temperature=t).std()) for t in (0.0, 0.5, 1.0)]
    assert spreads[0] < spreads[1] < spreads[2]
    assert len(np.unique(sampler.sample(500, temperature=0.0).round(4), axis=0)) <= 10  # the centres


def test_a_flow_does_not_learn_its_codes_by_heart():
    """More steps on few codes never describe others of their kind worse than few steps do."""
    pytest.importorskip("zuko")
    few, others = np.split(np.random.default_rng(0).standard_normal((160, 12)), [60])
    short, long = (FlowSampler.fit(few, steps=steps).log_prob(others).mean() for steps in (5, 300))
    assert long > short - 0.5


def test_codes_that_come_class_by_class_are_all_described(kind):
    """A folder's codes are sorted: what is held out to choose by must not be the whole of its first class."""
    codes = 0.3 * np.random.default_rng(0).standard_normal((500, 2))
    codes[:50] += 4
    truth = np.log([0.1, *9 * [0.9]]) - np.log(2 * np.pi * 0.3**2) - 1  # the mean log-density of those two normals
    each = SAMPLERS[kind].fit(codes, seed=0).log_prob(codes).reshape(10, 50).mean(1)
    assert (each > truth - 3).all() and each[1:].mean() > truth[1] - 0.5


def test_a_saved_sampler_gives_the_same_samples(model, run, codes, kind):
    fitted = fit_sampler(model, kind, codes, seed=1)
    folder = save_sampler(run, fitted)
    assert sorted(path.name for path in folder.iterdir()) == ["sampler.json", "sampler.safetensors"]
    loaded = load_sampler(run, model, kind)
    assert np.array_equal(loaded.sampler.sample(30, seed=2), fitted.sampler.sample(30, seed=2))
    assert loaded.facts["checkpoint"] == f"step-{model.step:08d}" and loaded.facts["seed"] == 1


def test_it_is_fitted_once_and_again_for_other_weights(model, run, codes, kind):
    said, asked = [], []

    def training_codes():
        asked.append(1)
        return codes

    first = sampler_for(run, model, kind, training_codes, announce=said.append)
    again = sampler_for(run, model, kind, training_codes, announce=said.append)
    assert len(asked) == 1 and len(said) == 1 and "fitted the" in said[0]
    assert np.array_equal(first.sampler.sample(3), again.sampler.sample(3))
    other = load(run)
    next(other.model.parameters()).data[0] += 1e-3
    with pytest.raises(CheckpointError, match="not to the weights"):
        load_sampler(run, other, kind)
    sampler_for(run, other, kind, training_codes, announce=said.append)
    assert len(asked) == 2 and "not to the weights" in said[1]
    load_sampler(run, other, kind)


def test_a_damaged_or_absent_sampler_is_refused(model, run, codes):
    with pytest.raises(CheckpointError, match="holds no sampler"):
        load_sampler(run, model, "mixture")
    folder = save_sampler(run, fit_sampler(model, "mixture", codes))
    tensors = folder / "sampler.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-3] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_sampler(run, model, "mixture")
    (folder / "sampler.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_sampler(run, model, "mixture")


def test_an_unknown_sampler_gets_a_suggestion(model, run, codes):
    with pytest.raises(ConfigError, match="did you mean 'mixture'"):
        sampler_for(run, model, "mixtur", lambda: codes)
    assert not sampler_folder(run, "mixtur").exists()


def test_a_flow_without_its_package_is_one_sentence(model, codes, monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ConfigError, match=r"needs the package zuko; make install EXTRAS=flows"):
        fit_sampler(model, "flow", codes)


def test_few_codes_give_few_components_and_one_code_none(model):
    few = np.random.default_rng(1).standard_normal((30, 4)).astype(np.float32)
    assert len(fit_sampler(model, "mixture", few).sampler.weights) == 1
    with pytest.raises(ConfigError, match="cannot be fitted to 1 codes"):
        fit_sampler(model, "mixture", few[:1])


def test_an_autoencoder_has_a_sampler_too(tmp_path, codes):
    run = train("digits", *SIZES, "model.kind=autoencoder", "training.epochs=0.1", out=tmp_path / "run")
    fitted = sampler_for(run, load(run), "mixture", lambda: codes)
    assert fitted.facts["held_out_prior_nats"] is None
    assert json.loads((sampler_folder(run, "mixture") / "sampler.json").read_text())["kind"] == "mixture"


def test_few_codes_of_many_numbers_give_no_mixture_that_knows_only_them():
    """346 codes in 64 dimensions: as many covariances as would fit them leave unseen codes hundreds of nats away."""
    rng = np.random.default_rng(0)
    mixing = np.eye(64) + 0.3 * rng.standard_normal((64, 64)) / 8
    codes, unseen = (rng.standard_normal((count, 64)) @ mixing for count in (346, 2000))
    fitted = MixtureSampler.fit(codes).log_prob(unseen).mean()
    truth = MixtureSampler(np.ones(1), np.zeros((1, 64)), np.linalg.cholesky(mixing.T @ mixing)[None])
    standard = MixtureSampler(np.ones(1), np.zeros((1, 64)), np.eye(64)[None])
    assert fitted > standard.log_prob(unseen).mean() and truth.log_prob(unseen).mean() - fitted < 10


def test_many_codes_keep_their_correlations_and_their_clouds():
    rng = np.random.default_rng(0)
    lean = np.array([[1.0, 0.0], [0.9, 0.3]])
    codes = np.concatenate([rng.standard_normal((2000, 2)) @ lean.T + 6, rng.standard_normal((2000, 2)) @ lean - 6])
    fitted = MixtureSampler.fit(codes, components=2)
    assert len(fitted.weights) == 2
    for mean, factor in zip(fitted.means, fitted.factors, strict=True):
        expected = lean @ lean.T if mean[0] > 0 else lean.T @ lean
        assert np.allclose(factor @ factor.T, expected, atol=0.1)


def test_a_changed_bit_of_a_saved_sampler_is_told_and_never_used(tmp_path, model, codes):
    folder = save_sampler(tmp_path, fit_sampler(model, "mixture", codes))
    for name in ("sampler.json", "sampler.safetensors"):
        right = (folder / name).read_bytes()
        for bit in range(0, 8 * len(right), max(1, 8 * len(right) // 60) | 1):
            changed = bytearray(right)
            changed[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(changed)
            with pytest.raises(CheckpointError, match="damaged"):
                load_sampler(tmp_path, model, "mixture")
        (folder / name).write_bytes(right)
    load_sampler(tmp_path, model, "mixture")
