"""Estimators where their answers are known: annealing and the parts of the rate, mostly on a linear VAE."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from small_runs import SIZES

from vaekit.config.schema import Part
from vaekit.data.dataset import Dataset, spread
from vaekit.data.pixels import Pixels
from vaekit.densities.codes import DiagonalNormal
from vaekit.densities.noise import BlockNoise
from vaekit.errors import ConfigError, NumericalError
from vaekit.evaluation import ais
from vaekit.evaluation import information as information_module
from vaekit.evaluation.ais import Annealed, Annealing, annealed, refuse_without_slopes, simulated
from vaekit.evaluation.chunks import Chunks
from vaekit.evaluation.evaluate import Evaluation, evaluate_model, headline
from vaekit.evaluation.hmc import EXTRA_NOISE, State, transition
from vaekit.evaluation.information import Information, information, information_of
from vaekit.evaluation.likelihood import bounds, bounds_of_batch
from vaekit.evaluation.report import read_metrics, write_annealing, write_reports
from vaekit.models.build import vae
from vaekit.models.likelihoods import set_precision
from vaekit.models.priors import Prior
from vaekit.selftest.linear_gaussian import COLUMNS, SHAPE, SIGMA, linear_vae
from vaekit.trained.model import load
from vaekit.trained.run import open_run
from vaekit.verbs.ais import _importance, _measured, _seen, gap
from vaekit.verbs.train import train

IMAGES = 32


def within(values, truth, errors=4.0):
    """Whether a mean is that many standard errors from the truth at most."""
    return abs(float(values.mean()) - truth) < errors * float(values.std()) / math.sqrt(values.numel())


# Hamiltonian Monte Carlo


def gaussian_path(z):
    """f_0 = N(0, 1), f_1 = N(m, s) in each of two dimensions, with correlation there."""
    loc, precision = torch.tensor([1.0, -0.5]), torch.tensor([[2.0, 0.8], [0.8, 1.0]])
    base = -0.5 * z.square().sum(-1)
    shifted = (z - loc) @ precision
    return State(z, base, -0.5 * (shifted * (z - loc)).sum(-1) - base, -z, z - shifted)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_a_transition_leaves_its_density_invariant(beta):
    """Exact samples stay exact samples, also where a fair share of proposals is refused."""
    torch.manual_seed(0)
    target = (1 - beta) * torch.eye(2) + beta * torch.tensor([[2.0, 0.8], [0.8, 1.0]])
    loc = torch.linalg.solve(target, beta * torch.tensor([[2.0, 0.8], [0.8, 1.0]]) @ torch.tensor([1.0, -0.5]))
    exact = torch.distributions.MultivariateNormal(loc, precision_matrix=target)
    state = gaussian_path(exact.sample((4000, 2)))
    acceptances = []
    for _ in range(15):
        noise = torch.randn(4000, 2, 2 + EXTRA_NOISE)
        state, acceptance = transition(gaussian_path, state, beta, torch.tensor([1.25, 0.6]), noise, 3)
        acceptances.append(acceptance)
    assert 0.3 < float(torch.stack(acceptances)[..., 0].mean()) < 0.9 < float(torch.stack(acceptances)[..., 1].mean())
    for image in range(2):
        z = state.z[:, image] - loc
        for i, j in ((0, 0), (0, 1), (1, 1)):
            assert within(z[:, i], 0.0)
            assert within(z[:, i] * z[:, j], float(exact.covariance_matrix[i, j]))


def test_chains_find_their_density_from_elsewhere():
    torch.manual_seed(0)
    state = gaussian_path(torch.full((3000, 1, 2), 6.0))
    for _ in range(40):
        noise = torch.randn(3000, 1, 2 + EXTRA_NOISE)
        state = transition(gaussian_path, state, 1.0, torch.tensor([0.6]), noise, 3).state
    assert within(state.z[:, 0, 0], 1.0) and within(state.z[:, 0, 1], -0.5)


def test_a_trajectory_that_leaves_the_finite_numbers_is_refused():
    state = gaussian_path(torch.zeros(5, 1, 2))
    moved = transition(gaussian_path, state, 1.0, torch.tensor([1e30]), torch.randn(5, 1, 2 + EXTRA_NOISE), 3)
    assert torch.equal(moved.state.z, state.z) and float(moved.acceptance.max()) == 0


# Annealing


class Sandwich:
    """Both bounds on images of the model's own, beside the exact values."""

    def __init__(self, settings, images=IMAGES):
        model, exact = linear_vae(spoil=0.4)
        own = simulated(model, images, seed=1)
        self.log_p = exact.log_prob(own.x.flatten(1)).detach()
        self.up = annealed(model, own.x, settings, 1)
        self.down = annealed(model, own.x, settings, 1, codes=own.codes)

    @property
    def below(self):
        return self.up.log_mean - self.log_p

    @property
    def above(self):
        return -self.down.log_mean - self.log_p


@pytest.fixture(scope="module")
def sandwiches():
    torch.set_num_threads(1)
    return {t: Sandwich(Annealing(t, chains=8, leapfrogs=5)) for t in (4, 50)}


def test_the_exact_value_lies_between_the_bounds_and_temperatures_close_the_gap(sandwiches):
    for sandwich in sandwiches.values():
        assert float(sandwich.below.mean()) < 2 * sandwich.up.sampling_se_nats
        assert float(sandwich.above.mean()) > -2 * float(sandwich.above.std()) / math.sqrt(IMAGES)
    coarse, fine = (float((s.above - s.below).mean()) for s in sandwiches.values())
    assert 0 < fine < 0.4 * coarse
    assert abs(float(sandwiches[50].below.mean())) < 0.05 + 4 * sandwiches[50].up.sampling_se_nats
    assert abs(float(sandwiches[50].up.acceptance.mean()) - 0.65) < 0.1


def test_weights_are_unbiased_for_the_likelihood_and_backwards_for_its_inverse(sandwiches):
    """E[w] = p(x) with any number of temperatures, so a mean of logarithms would be found out.

    Backwards with few of them the tail is too heavy for a mean of 32 images, as a harmonic mean's is.
    """
    for sandwich in sandwiches.values():
        assert within((sandwich.up.log_weights - sandwich.log_p).exp(), 1.0)
    fine = sandwiches[50]
    assert within((fine.down.log_weights + fine.log_p).exp().mean(0), 1.0)
    assert float(sandwiches[4].up.log_weights.sub(sandwiches[4].log_p).mean()) < -0.3


def test_the_mean_of_weights_is_taken_before_the_logarithm():
    log_weights = torch.tensor([[0.0, -800.0], [math.log(3), -800.0]], dtype=torch.float64)
    found = Annealed(log_weights, torch.ones(2))
    assert found.log_mean.tolist() == pytest.approx([math.log(2), -800.0])
    assert found.sampling_se_nats == pytest.approx(0.5 * math.sqrt(2 / 2) / 2)  # std(1, 3) / sqrt(2) over the mean 2
    assert Annealed(log_weights[:1], torch.ones(2)).sampling_se_nats is None


def test_annealings_error_bars_are_of_means_over_images():
    """Of the gap, of the differences: an image that is hard from below is hard from above too."""
    log_weights = torch.randn(3, 9, dtype=torch.float64)
    found = Annealed(log_weights, torch.ones(9))
    each = np.logaddexp.reduce(log_weights.numpy()) - math.log(3)
    assert _measured(found, Annealing(5))["ais_se_nats"] == pytest.approx(np.std(each, ddof=1) / 3)
    model, settings = linear_vae(spoil=0.4)[0], Annealing(2, 2, 1)
    own = simulated(model, 8, 1)
    below = annealed(model, own.x, settings, 1).log_mean
    apart = -annealed(model, own.x, settings, 1, codes=own.codes).log_mean - below
    assert gap(model, 8, settings, 1)["ais_gap_se_nats"] == pytest.approx(np.std(apart.numpy(), ddof=1) / math.sqrt(8))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_many_temperatures_find_the_exact_likelihood(start):
    found = [Sandwich(Annealing(t, 16, 10, start), images=100) for t in (10, 50, 400)]
    gaps = [float((s.above - s.below).mean()) for s in found]
    assert gaps[0] > gaps[1] > gaps[2] > -0.01
    assert abs(float(found[-1].below.mean())) < min(0.05, 4 * found[-1].up.sampling_se_nats)
    assert abs(float(found[-1].above.mean())) < 0.05


def test_a_start_at_the_exact_posterior_needs_no_path():
    """f_0 and f_1 are then the same density, and every weight is p(x)."""
    model, exact = linear_vae()
    x = exact.sample((3,)).view(3, *SHAPE)
    found = annealed(model, x, Annealing(2, 3, 2, "posterior"), 0)
    assert torch.allclose(found.log_weights, exact.log_prob(x.flatten(1)).expand(3, 3), atol=1e-9)


@pytest.mark.parametrize("backwards", [False, True])
def test_batch_and_chunk_change_no_chain(backwards, monkeypatch):
    """Noise and step sizes belong to the image and its chain."""
    monkeypatch.setattr(ais, "ADAPTATIONS", 9)
    model, _ = linear_vae(spoil=0.4)
    own, settings = simulated(model, 5, 0), Annealing(3, chains=5, leapfrogs=2)
    codes = own.codes if backwards else None
    whole = annealed(model, own.x, settings, 0, codes=codes)
    for rows in (2, 10):
        part = annealed(model, own.x, settings, 0, codes=codes, rows=rows)
        assert torch.allclose(part.log_weights, whole.log_weights, rtol=1e-6)
        assert torch.allclose(part.acceptance, whole.acceptance, rtol=1e-6)
    assert not torch.equal(annealed(model, own.x, settings, 1, codes=codes).log_weights, whole.log_weights)


def test_the_noise_of_annealing_is_used_once_and_acceptance_is_of_the_climb(monkeypatch):
    """Else step sizes would know the noise that they are for, and the weights would not be unbiased."""
    model, exact = linear_vae(spoil=0.4)
    settings, calls = Annealing(8, chains=4, leapfrogs=1), []

    def listening(at, state, beta, step, noise, leapfrogs):
        moved = transition(at, state, beta, step, noise, leapfrogs)
        calls.append((noise[0].flatten().tolist(), moved.acceptance))
        return moved

    monkeypatch.setattr(ais, "transition", listening)
    found = annealed(model, exact.sample((3,)).view(3, *SHAPE), settings, 0)
    assert len({tuple(noise) for noise, _ in calls}) == len(calls)
    climb = torch.stack([acceptance for _, acceptance in calls[-(settings.temperatures - 1) :]])
    assert torch.allclose(found.acceptance, climb.mean((0, 1)))


def test_memory_that_runs_out_halves_the_chunk_and_changes_no_chain(monkeypatch):
    model, exact = linear_vae(spoil=0.4)
    x, settings = exact.sample((4,)).view(4, *SHAPE), Annealing(3, chains=4, leapfrogs=2)
    monkeypatch.setattr(ais, "ADAPTATIONS", 9)
    whole, decode = annealed(model, x, settings, 0), model.decode

    def short(most):
        def decode_little(codes, context=None):
            if codes[0].shape[:-1].numel() > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(codes, context)

        return decode_little

    monkeypatch.setattr(model, "decode", short(4))
    assert torch.allclose(annealed(model, x, settings, 0, rows=16).log_weights, whole.log_weights, rtol=1e-6)
    monkeypatch.setattr(model, "decode", short(0))
    with pytest.raises(NumericalError, match="out of memory with 4 chains"):
        annealed(model, x, settings, 0, rows=16)


def test_own_images_are_of_the_model_and_belong_to_their_number():
    model, exact = linear_vae()
    many, few = simulated(model, 300, 3), simulated(model, 7, 3)
    assert torch.allclose(many.x[:7], few.x) and torch.allclose(many.codes[:7], few.codes)
    flat = many.x.flatten(1).detach()
    assert within(exact.log_prob(flat), -float(exact.entropy()))
    residual = flat - model.decode((many.codes,)).mean.flatten(1).detach()  # the codes are those behind the images
    assert within(residual.square(), SIGMA**2)


def test_a_model_without_slopes_or_without_likelihood_is_refused():
    class Discrete(Prior):
        def forward(self, posterior, context=None):
            class Codes(DiagonalNormal):
                has_rsample = False

            return Codes(torch.zeros(3), torch.zeros(3))

    small = Part("mlp", {"widths": ()})
    model = vae(SHAPE, 3, small, "gaussian")
    model.prior = Discrete(3, SHAPE)
    with pytest.raises(ConfigError, match="slope of log p"):
        refuse_without_slopes(model)
    with pytest.raises(ConfigError, match="loss and not a likelihood"):
        refuse_without_slopes(vae(SHAPE, 3, small, "bce"))


def test_chains_that_are_not_finite_are_an_error():
    model, exact = linear_vae()
    with torch.no_grad():
        model.likelihood.network[0].bias.fill_(math.nan)
    with pytest.raises(NumericalError, match="2 of 2 images"):
        annealed(model, exact.sample((2,)).view(2, *SHAPE), Annealing(2, 2, 1), 0)


# The parts of the rate


def linear_codes(count, spoil=0.0):
    model, exact = linear_vae(spoil)
    torch.manual_seed(5)
    with torch.no_grad():
        q = model.q(exact.sample((count,)).view(count, *SHAPE))
        return q, q.rsample(), model.p()


def test_mutual_information_is_that_of_the_gaussian_channel():
    q, z, p = linear_codes(3000)
    found = information_of(q, z, p)
    truth = 0.5 * math.fsum(math.log1p((w / SIGMA) ** 2) for w in COLUMNS)
    assert within(found.mutual_information, truth)
    assert abs(float(found.aggregate_kl.mean())) < 0.03  # the model's own data: the aggregate posterior is the prior
    assert float(found.mutual_information.max()) <= found.ceiling == math.log(3000)


def test_the_parts_add_up_to_the_rate():
    """Of a posterior that is moved and widened, so that no part is zero."""
    q, z, p = linear_codes(1000, spoil=0.4)
    found = information_of(q, z, p)
    rate = found.mutual_information + found.aggregate_kl
    assert within(rate, float(torch.distributions.kl_divergence(q, p).mean()))
    assert torch.allclose(rate, q.log_prob(z) - p.log_prob(z))
    assert torch.allclose(found.total_correlation + found.dimension_kl, found.aggregate_kl, atol=1e-9)
    assert min(float(part.mean()) for part in (found.mutual_information, found.dimension_kl)) > 0.1


def test_densities_of_the_aggregate_are_those_of_its_definition():
    torch.manual_seed(0)
    q = DiagonalNormal(2 * torch.randn(40, 3), torch.randn(40, 3))
    z, p = q.rsample(), DiagonalNormal(torch.zeros(3), torch.zeros(3))
    found = information_of(q, z, p)
    wide = DiagonalNormal(q.loc.double(), q.log_scale.double())
    assert torch.allclose(found.log_aggregate, wide.log_prob(z.double()[:, None]).exp().mean(1).log())
    normal = torch.distributions.Normal(wide.loc, wide.stddev)
    factors = normal.log_prob(z.double()[:, None]).exp().mean(1).log().sum(-1)
    assert torch.allclose(found.log_factors, factors, rtol=1e-5)
    some = information_of(q, z, p, torch.tensor([3, 8]), pairs=1)
    assert torch.allclose(some.log_aggregate, found.log_aggregate[[3, 8]])
    assert torch.allclose(some.total_correlation, found.total_correlation[[3, 8]], rtol=1e-5)


def test_total_correlation_is_that_of_correlated_codes():
    """Tight posteriors around normals of correlation r: -log(1 - r^2) / 2, and normal marginals cost nothing."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 4000)
    loc = 0.95 * torch.stack([first, 0.8 * first + 0.6 * second], 1)
    q = DiagonalNormal(loc, torch.full((4000, 2), 0.5 * math.log(1 - 0.95**2)))
    found = information_of(q, q.rsample(), DiagonalNormal(torch.zeros(2), torch.zeros(2)))
    r = 0.95**2 * 0.8
    assert within(found.total_correlation, -0.5 * math.log(1 - r**2), errors=5)
    assert abs(float(found.dimension_kl.mean())) < 0.02


def test_order_and_duplication_change_nothing():
    q, z, p = linear_codes(200, spoil=0.4)
    whole = information_of(q, z, p).metrics()
    order = torch.randperm(200)
    for rows, images in ((order, 200), (torch.arange(400) % 200, 400)):
        again = information_of(DiagonalNormal(q.loc[rows], q.log_scale[rows]), z[rows], p).metrics()
        assert again["information_images"] == images
        for name in ("mutual_information", "aggregate_kl_mc", "total_correlation", "dimension_kl"):
            assert again[f"{name}_nats"] == pytest.approx(whole[f"{name}_nats"], rel=1e-6), name


def test_the_error_bars_of_the_parts_are_of_means_over_codes():
    """Of the codes that were looked at, which are fewer than the images of the mixture."""
    torch.manual_seed(0)
    own, aggregate, prior, factors = torch.randn(4, 9, dtype=torch.float64)
    found = Information(own, aggregate, prior, factors, images=400).metrics()
    parts = {
        "mutual_information": own - aggregate,
        "aggregate_kl_mc": aggregate - prior,
        "total_correlation": aggregate - factors,
        "dimension_kl": factors - prior,
    }
    for name, values in parts.items():
        assert found[f"{name}_se_nats"] == pytest.approx(np.std(values.numpy(), ddof=1) / 3), name


def test_a_code_that_ignores_its_image_says_nothing():
    q = DiagonalNormal(torch.zeros(100, 3), torch.zeros(100, 3))
    found = information_of(q, q.rsample(), DiagonalNormal(torch.zeros(3), torch.zeros(3))).metrics()
    for name in ("mutual_information", "aggregate_kl_mc", "total_correlation", "dimension_kl"):
        assert found[f"{name}_nats"] == pytest.approx(0, abs=1e-6)
    assert not found["mutual_information_saturated"]


def test_codes_that_name_their_image_reach_the_ceiling_and_say_so():
    q = DiagonalNormal(torch.arange(50.0)[:, None], torch.full((50, 1), -4.0))
    found = information_of(q, q.rsample(), DiagonalNormal(torch.zeros(1), torch.zeros(1))).metrics()
    assert found["mutual_information_nats"] == pytest.approx(math.log(50))
    assert found["mutual_information_saturated"]
    assert any("at most log 50 = 3.91" in value for _, value in headline(found))


def test_batch_and_block_change_no_part_of_the_rate(monkeypatch):
    model, _ = linear_vae(spoil=0.4)
    data = Dataset((torch.rand(150, *SHAPE) * 255).to(torch.uint8))
    pixels = Pixels(dequantization=True)
    reference = information(model.float(), data, pixels, 2).metrics()
    for options in ({"batch": 7}, {"pairs": 1000}, {"batch": 64, "pairs": 1}):
        assert information(model, data, pixels, 2, **options).metrics() == pytest.approx(reference, rel=1e-5)
    monkeypatch.setattr(information_module, "MOST_IMAGES", 100)
    monkeypatch.setattr(information_module, "MOST_TERMS", 100 * 7 * 10)
    assert information(model, data, pixels, 2) is None  # ten codes are too few for an error bar
    monkeypatch.setattr(information_module, "FEWEST_CODES", 10)
    capped = information(model, data, pixels, 2).metrics()
    assert (capped["information_images"], capped["information_codes"]) == (100, 10)
    assert spread(150, 100)[-1] > 140


def test_a_mixture_of_fewer_images_is_of_images_spread_over_the_set(monkeypatch):
    """The first hundred are one image: from them alone codes would tell nothing."""
    model, exact = linear_vae(spoil=0.4)
    images = (exact.sample((150,)).view(150, *SHAPE).clamp(0, 1) * 255).to(torch.uint8)
    images[:100] = images[0]
    monkeypatch.setattr(information_module, "MOST_IMAGES", 100)
    found = information(model.float(), Dataset(images), Pixels(), 2).mutual_information.mean()
    alone = information(model.float(), Dataset(images[:100]), Pixels(), 2).mutual_information.mean()
    assert float(alone) < 1e-3 < 0.1 < float(found)


def test_what_has_no_aggregate_normal_is_left_out():
    """A posterior of another kind and a single image: no part of the rate, and no crash."""

    class Other(torch.nn.Module):
        def forward(self, x, context=None):
            return torch.distributions.Categorical(logits=torch.zeros(len(x), 4))

    model, _ = linear_vae()
    model.posterior = Other()
    data = Dataset(torch.zeros(4, *SHAPE, dtype=torch.uint8))
    assert information(model, data, Pixels(), 0) is None
    assert information(linear_vae()[0], data.subset(torch.tensor([0])), Pixels(), 0) is None


# Runs


@pytest.fixture(scope="module")
def bf16_run(tmp_path_factory):
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("bf16") / "run"
    more = ("training.epochs=3", "training.validate_every=null", "training.precision=bf16", "objective.beta=4")
    return train("digits", *SIZES, *more, out=run)


def test_bf16_networks_change_the_elbo_by_less_than_a_thousandth(bf16_run):
    trained = load(bf16_run)
    data, found = open_run(bf16_run).dataset("test"), []
    for precision in (None, torch.bfloat16):
        set_precision(trained.model, precision)
        found.append(float(bounds(trained.model, data, trained.pixels, 20, 0).elbo.mean()))
    assert found[1] != found[0]
    assert abs(found[1] - found[0]) < 1e-3 * abs(found[0])


def test_beta_is_in_no_reported_elbo(bf16_run):
    trained = load(bf16_run)
    data = open_run(bf16_run).dataset("test")
    metrics = evaluate_model(trained.model, data, trained.pixels, samples=4).metrics
    assert metrics["elbo_nats"] == pytest.approx(-metrics["distortion_nats"] - metrics["rate_nats"])
    parts = ("mutual_information", "aggregate_kl_mc")
    error = sum(metrics[f"{part}_se_nats"] for part in parts)
    assert abs(sum(metrics[f"{part}_nats"] for part in parts) - metrics["rate_nats"]) < 4 * error
    for row in trained.history:
        assert row["elbo"] == pytest.approx(-row["distortion"] - row["rate"], rel=1e-5)
        if row["split"] == "train":
            assert row["loss"] == pytest.approx(row["distortion"] + 4 * row["rate"], rel=1e-5)


def test_annealing_sees_the_images_that_an_evaluation_sees(digits_run):
    """Binarised by their place in the data set, weighed by the noise of their place among those looked at."""
    run = open_run(digits_run)
    data, trained = run.dataset("test"), run.trained
    rows = spread(len(data), 70)
    x, _ = _seen(trained, data, rows, 3)
    assert torch.equal(x, trained.pixels.for_evaluation(data.images, 0, 3)[rows])
    found = _importance(trained.model, x, None, 3)["ais_importance_nats"]
    noise, chunks = partial(BlockNoise, 3, 0), Chunks(trained.model, 1000)
    first, last = (bounds_of_batch(chunks, x[part], 500, noise)[3] for part in (slice(64), slice(70)))
    assert found == pytest.approx(float(last.mean()), rel=1e-5)
    assert torch.allclose(first, last[:64])


def test_ais_writes_its_numbers_beside_the_others_and_evaluate_keeps_them(vaekit, digits_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    few = ("--images", 6, "--temperatures", 4, "--chains", 2, "--leapfrogs", 2, "--own-images", 3)
    answer = vaekit("ais", run, *few)
    assert answer.code == 0, answer.err
    assert "about" in answer.out and "log p(x), annealed, from below" in answer.out
    found = json.loads((run / "reports" / "metrics.json").read_text())
    for key in ("nats", "se_nats", "gap_nats", "acceptance", "importance_nats"):
        assert math.isfinite(found[f"ais_{key}"]), key
    assert (found["ais_images"], found["ais_own_images"], found["ais_temperatures"]) == (6, 3, 4)
    evaluation = Evaluation({"elbo_nats": -1.0}, None, None)
    write_reports(run, evaluation, {"checkpoint_sha256": found["ais_checkpoint_sha256"]})
    assert read_metrics(run)["ais_nats"] == found["ais_nats"] and read_metrics(run)["elbo_nats"] == -1
    write_annealing(run, {"ais_nats": -2.0, "ais_checkpoint_sha256": "other"})
    assert read_metrics(run)["elbo_nats"] == -1 and "ais_gap_nats" not in read_metrics(run)
    write_reports(run, evaluation, {"checkpoint_sha256": found["ais_checkpoint_sha256"]})
    assert "ais_nats" not in read_metrics(run)
    assert vaekit("ais", run, "--start", "nowhere").code == 2


@pytest.mark.slow
def test_annealing_is_tighter_than_importance_weighting_where_the_posterior_is_poor(tmp_path):
    from vaekit.verbs.ais import ais

    run = train("digits", *SIZES, "training.epochs=10", out=tmp_path / "run")
    metrics = ais(run, Annealing(400), images=40, own_images=20)
    assert metrics["ais_nats"] > metrics["ais_importance_nats"] - 0.05
    assert 0 < metrics["ais_gap_nats"] + 2 * metrics["ais_gap_se_nats"] < 0.5
