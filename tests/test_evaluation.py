"""Metrics are of the whole set, every image once, and depend on no batch, chunk or order."""

import json
import math

import numpy as np
import pytest
import torch

from vaekit.config.schema import Part
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.errors import NumericalError
from vaekit.evaluation import chunks
from vaekit.evaluation.evaluate import bits_offset, evaluate_model, headline
from vaekit.evaluation.fidelity import psnr, ssim
from vaekit.evaluation.health import diagnose
from vaekit.evaluation.latents import StreamedMoments, latent_use
from vaekit.evaluation.likelihood import Bounds, StreamedLogMean, bounds
from vaekit.evaluation.report import write_reports
from vaekit.files import held_to_sum
from vaekit.models.autoencoder import Autoencoder, Encoder
from vaekit.models.build import vae

SHAPE = (1, 6, 5)
SMALL = Part("mlp", {"widths": (8,)})


def images(count, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = vae(SHAPE, 3, SMALL).eval()
    with torch.no_grad():  # a posterior that is neither the prior nor the same for every image
        for p in made.parameters():
            p.mul_(2)
    return made


DYNAMIC = Pixels(binarization="dynamic")


@pytest.mark.parametrize("rows", [1, 37, 64, 1000, 100_000])
def test_batch_and_chunk_change_nothing(model, rows):
    data = Dataset(images(150))
    reference = bounds(model, data, DYNAMIC, 40, seed=1)
    found = bounds(model, data, DYNAMIC, 40, seed=1, rows=rows)
    for name in ("elbo", "distortion", "rate", "importance"):
        assert float(getattr(found, name).mean()) == pytest.approx(float(getattr(reference, name).mean()), rel=1e-6), (
            name
        )
    assert torch.allclose(found.effective_samples, reference.effective_samples, rtol=1e-3)  # an exponential of sums


def assert_equal_bounds(found, reference):
    for name in ("elbo", "distortion", "rate", "importance"):
        assert torch.allclose(getattr(found, name), getattr(reference, name), rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_bounds_are_the_eager_ones(model, monkeypatch, backend):
    """The last chunk and the last batch are smaller than what was compiled for."""
    torch._dynamo.reset()
    compile_, calls = torch.compile, []

    def compile_cheaply(function, **options):
        calls.append(options)
        return compile_(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compile_cheaply)
    data = Dataset(images(150))
    found = bounds(model, data, DYNAMIC, 40, seed=1, rows=16 * 64, compiled=True)
    assert calls == [{"fullgraph": True, "dynamic": False}]
    assert_equal_bounds(found, bounds(model, data, DYNAMIC, 40, seed=1, compiled=False))


def test_bounds_that_cannot_be_compiled_are_computed_eagerly(model, monkeypatch):
    def broken(function, **options):
        def run(*arguments):
            raise RuntimeError("no C++ compiler\nand a long story")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    data, said = Dataset(images(150)), []
    found = bounds(model, data, DYNAMIC, 8, seed=1, compiled=True, say=said.append)
    assert said == ["cannot compile here, so the bounds are computed eagerly: no C++ compiler"]
    assert_equal_bounds(found, bounds(model, data, DYNAMIC, 8, seed=1))


def short_of_memory(monkeypatch, most):
    """Let chunks above `most` pairs fail."""
    plain = chunks.Chunks._terms

    def terms(self, encoded, noises):
        if noises[0].shape[0] * noises[0].shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, encoded, noises)

    monkeypatch.setattr(chunks.Chunks, "_terms", terms)


def test_out_of_memory_halves_the_chunk_and_changes_no_bound(model, monkeypatch):
    data, said = Dataset(images(100)), []
    reference = bounds(model, data, DYNAMIC, 40, seed=1)
    short_of_memory(monkeypatch, 600)
    assert_equal_bounds(bounds(model, data, DYNAMIC, 40, seed=1, say=said.append), reference)
    assert said[-1] == "out of memory: from now on 512 pairs of image and sample at a time"


def test_one_sample_that_does_not_fit_is_an_error_of_one_line(model, monkeypatch):
    short_of_memory(monkeypatch, 10)
    with pytest.raises(NumericalError, match="out of memory with 64 decoded images; free some") as caught:
        bounds(model, Dataset(images(100)), DYNAMIC, 40, seed=1)
    assert caught.value.exit_code == 5


def test_the_chunk_is_what_half_of_the_free_memory_holds(model, monkeypatch):
    """The widest layer of this decoder has 30 values."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(chunks, "free_memory", lambda device: 2**40)
    assert chunks.rows_at_once(model, cpu) == chunks.ROWS["cpu"]
    monkeypatch.setattr(chunks, "free_memory", lambda device: 2 * chunks.TENSORS_AT_ONCE * 4 * 30 * 77)
    assert chunks.rows_at_once(model, cpu) == 77
    monkeypatch.setattr(chunks, "free_memory", lambda device: 0)
    assert chunks.rows_at_once(model, cpu) == 1


def test_more_samples_reuse_the_first_ones(model):
    """The first K samples are the same whatever K: a larger K refines a bound and does not redraw it."""
    data = Dataset(images(10))
    few, many = bounds(model, data, DYNAMIC, 1, 0), bounds(model, data, DYNAMIC, 2, 0)
    assert torch.all(many.importance >= few.importance - math.log(2) - 1e-6)


def test_seed_changes_the_estimate_and_the_same_seed_does_not(model):
    data = Dataset(images(20))
    assert torch.equal(bounds(model, data, DYNAMIC, 8, 0).importance, bounds(model, data, DYNAMIC, 8, 0).importance)
    assert not torch.equal(bounds(model, data, DYNAMIC, 8, 0).importance, bounds(model, data, DYNAMIC, 8, 1).importance)


def test_last_small_batch_weighs_what_it_should(model):
    """A mean over 65 images is not the mean of a mean over 64 and one over 1."""
    data = Dataset(images(65))
    each = bounds(model, data, DYNAMIC, 4, 0)
    assert len(each.importance) == 65
    metrics = evaluate_model(model, data, DYNAMIC, samples=4).metrics
    assert metrics["nll_nats"] == pytest.approx(-float(each.importance.sum()) / 65)


def test_streamed_log_mean_is_the_log_mean_of_the_whole():
    torch.manual_seed(0)
    weights = 30 * torch.randn(50, 7, dtype=torch.float64)
    stream = StreamedLogMean()
    for chunk in weights.split([1, 20, 29]):
        stream.add(chunk)
    log_mean, effective = stream.result()
    assert torch.allclose(log_mean, torch.logsumexp(weights, 0) - math.log(50))
    w = torch.softmax(weights, 0)
    assert torch.allclose(effective, 1 / w.square().sum(0))
    assert bool((effective >= 1 - 1e-9).all()) and bool((effective <= 50).all())


def test_importance_bound_is_above_the_elbo_and_its_error_bar_holds():
    """Over many seeds, the spread of the estimate is what one run says it is (within a factor)."""
    torch.manual_seed(0)
    near = vae(SHAPE, 3, SMALL).eval()  # untrained: close to its prior, so that no single weight rules
    data, pixels = Dataset(images(60)), Pixels(binarization="threshold")
    runs = [bounds(near, data, pixels, 50, seed) for seed in range(40)]
    assert float(runs[0].importance.mean()) > float(runs[0].elbo.mean())
    spread = float(np.std([r.nll_nats for r in runs], ddof=1))
    claimed = float(np.mean([r.nll_sampling_se_nats for r in runs]))
    assert 0.6 < claimed / spread < 1.6


def test_constant_weights_have_no_sampling_error():
    stream = StreamedLogMean()
    stream.add(torch.full((9, 2), -3.0))
    log_mean, effective = stream.result()
    assert torch.allclose(log_mean, torch.full((2,), -3.0, dtype=torch.float64))
    assert torch.allclose(effective, torch.full((2,), 9.0, dtype=torch.float64))


def bounds_of_weights(log_weights):
    """The bounds of (K, N) log-weights."""
    stream = StreamedLogMean()
    stream.add(log_weights)
    zeros = torch.zeros(log_weights.shape[1], dtype=torch.float64)
    return Bounds(log_weights.double().mean(0), zeros, zeros, *stream.result(), len(log_weights))


def test_the_error_bars_of_a_bound_are_those_of_its_weights():
    """From images: their standard deviation (n - 1) over the root of their number. From samples, by the delta method:
    Var(w) / (K E(w)²) of each image, which is nothing where all weights are alike."""
    torch.manual_seed(0)
    log_weights = torch.randn(5, 7, dtype=torch.float64) - 90
    found, w = bounds_of_weights(log_weights), log_weights.add(90).exp()
    each = w.var(0, correction=0) / (5 * w.mean(0).square())
    assert found.nll_sampling_se_nats == pytest.approx(float(each.sum().sqrt()) / 7)
    assert found.nll_se_nats == pytest.approx(float(np.std(w.mean(0).log().numpy(), ddof=1)) / math.sqrt(7))
    alike = bounds_of_weights(torch.full((5, 7), -90.0))
    assert alike.nll_sampling_se_nats == pytest.approx(0, abs=1e-7) and alike.nll_se_nats == pytest.approx(0, abs=1e-7)


def test_psnr_and_ssim_agree_with_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.image")
    torch.manual_seed(0)
    x = torch.rand(3, 3, 24, 31)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    _, whole = metrics.structural_similarity_index_measure(y, x, data_range=1.0, return_full_image=True)
    inside = whole[..., 5:-5, 5:-5].mean((1, 2, 3))  # their mean also counts windows over a reflected border
    assert torch.allclose(ssim(y, x), inside, atol=1e-5)
    each = [float(metrics.peak_signal_noise_ratio(a, b, data_range=1.0)) for a, b in zip(y, x, strict=True)]
    assert psnr(y, x).tolist() == pytest.approx(each, rel=1e-4)


def test_ssim_of_equal_images_is_one_also_when_they_are_tiny():
    for shape in ((1, 8, 8), (1, 28, 20), (3, 2, 3), (1, 1, 1)):
        x = torch.rand(2, *shape)
        assert torch.allclose(ssim(x, x), torch.ones(2), atol=1e-4)
        assert float(ssim(1 - x, x).mean()) < 1
    assert float(psnr(x, x).max()) == pytest.approx(100)


def test_active_units_are_the_dimensions_whose_means_vary_by_more_than_a_hundredth(model):
    """A variance: of the last two, one varies too little, by a deviation of 0.09, and one not at all."""
    data = Dataset(images(300))
    torch.manual_seed(0)
    made = vae(SHAPE, 4, Part("mlp", {"widths": ()}))
    with torch.no_grad():
        layer = made.posterior.network[1]
        layer.weight[4:].zero_()
        variance = made.encode(data.images.float() / 255)[0].var(0, correction=0)
        layer.weight[:4] *= (torch.tensor([0.3, 0.012, 0.0081, 0]) / variance).sqrt()[:, None]
    use = latent_use(made, data, Pixels(), seed=0)
    assert use.active.tolist() == [True, True, False, False]
    means = made.encode(data.images.float() / 255)[0].double()
    assert torch.allclose(use.mean_variance, means.var(0, correction=0), rtol=1e-5)


def test_scores_of_reconstructions_are_means_over_images_whatever_the_last_batch_holds(model):
    """260 images are a batch of 250 and one of 10, which are black and far better, or worse, than the others."""
    shown = images(260)
    shown[250:] = 0
    metrics = evaluate_model(model, Dataset(shown), Pixels(), samples=2).metrics
    with torch.no_grad():
        x = shown.float() / 255
        decoded = model.decode(model.encode(x)).mean.clamp(0, 1)
    for name, score in (("psnr_db", psnr), ("ssim", ssim)):
        assert metrics[name] == pytest.approx(float(score(decoded, x).double().sum()) / 260, rel=1e-5), name


def test_bits_per_dim_is_nats_over_ln2_dims_and_only_where_it_exists():
    torch.manual_seed(0)
    data = Dataset(images(30))
    discrete = vae(SHAPE, 3, SMALL, "discretised-logistic")
    metrics = evaluate_model(discrete, data, Pixels(), samples=5).metrics
    assert metrics["bits_per_dim"] == pytest.approx(metrics["nll_nats"] / (30 * math.log(2)))
    density = vae(SHAPE, 3, SMALL, "gaussian")
    assert "bits_per_dim" not in evaluate_model(density, data, Pixels(), samples=5).metrics
    dequantised = evaluate_model(density, data, Pixels(dequantization=True), samples=5).metrics
    assert dequantised["bits_per_dim"] == pytest.approx(dequantised["nll_nats"] / (30 * math.log(2)) + 8)
    assert bits_offset("none", Pixels()) is None


def test_padding_does_not_count_as_dimensions():
    data = Dataset(images(10))
    metrics = evaluate_model(
        vae(SHAPE, 3, SMALL, "discretised-logistic"), data, Pixels(), samples=2, content_size=(4, 3)
    ).metrics
    assert metrics["bits_per_dim"] == pytest.approx(metrics["nll_nats"] / (12 * math.log(2)))
    # a black border that is decoded perfectly must not flatter the reconstruction
    padded = torch.zeros(10, 1, 6, 5, dtype=torch.uint8)
    padded[:, :, 1:5, 1:4] = data.images[:, :, 1:5, 1:4]
    whole = evaluate_model(black_border(), Dataset(padded), Pixels(), samples=2).metrics
    inside = evaluate_model(black_border(), Dataset(padded), Pixels(), samples=2, content_size=(4, 3)).metrics
    assert inside["psnr_db"] < whole["psnr_db"] - 1


def black_border():
    """A VAE that decodes grey inside a black border, whatever the code."""
    made = vae(SHAPE, 3, SMALL, "gaussian")
    with torch.no_grad():
        last = made.likelihood.network[-2]
        last.weight.zero_()
        last.bias.fill_(-0.5)
        last.bias.view(6, 5)[1:5, 1:4] = 0
    return made


def test_a_loss_that_is_no_likelihood_gets_no_likelihood_number():
    metrics = evaluate_model(vae(SHAPE, 3, SMALL, "bce"), Dataset(images(10)), Pixels(), samples=2).metrics
    assert metrics["is_likelihood"] is False
    assert metrics["base_measure"] == "none"
    assert not {"nll_nats", "bits_per_dim"} & metrics.keys()


def test_an_autoencoder_has_distortion_but_no_bounds():
    from vaekit.config.schema import ModelConfig
    from vaekit.models.build import build_model

    made = build_model(ModelConfig(kind="autoencoder", latent_dim=3, network=SMALL, likelihood=Part("gaussian")), SHAPE)
    assert isinstance(made, Autoencoder)
    metrics = evaluate_model(made, Dataset(images(10)), Pixels(), samples=2).metrics
    assert "distortion_nats" in metrics and "psnr_db" in metrics
    assert not {"elbo_nats", "nll_nats", "rate_nats"} & metrics.keys()


def test_what_one_image_or_one_sample_cannot_say_is_left_out(model):
    """And all that is said is a number: no NaN reaches a report or the screen."""
    of_images = {"nll_se_nats", "active_units", "aggregate_kl_nats", "information_images", "information_codes"}
    parts = ("mutual_information", "aggregate_kl_mc", "total_correlation", "dimension_kl")
    of_images |= {f"{part}_{ending}" for part in parts for ending in ("nats", "se_nats")}
    of_images |= {"mutual_information_ceiling_nats", "mutual_information_saturated"}
    of_samples = {"nll_sampling_se_nats"}
    whole = evaluate_model(model, Dataset(images(5)), DYNAMIC, samples=4).metrics
    assert (of_images | of_samples) <= whole.keys()
    for count, samples, absent in ((1, 4, of_images), (5, 1, of_samples), (1, 1, of_images | of_samples)):
        found = evaluate_model(model, Dataset(images(count)), DYNAMIC, samples=samples).metrics
        assert whole.keys() - found.keys() == absent
        assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))
        assert ("±" in headline(found)[0][1]) is (count > 1) and "nan" not in str(headline(found))
        assert not any(f.topic in ("unused dimensions", "not finite") for f in diagnose(found)) or count > 1


def test_reports_hold_what_was_measured(model, tmp_path):
    evaluation = evaluate_model(model, Dataset(images(10)), DYNAMIC, samples=2)
    path = write_reports(tmp_path, evaluation, {"split": "test"})
    written = json.loads(path.read_text())
    assert held_to_sum(written) == {**evaluation.metrics, "split": "test"}
    assert all(not isinstance(value, dict | list) for value in written.values())
    table = (tmp_path / "reports" / "latents.csv").read_text().splitlines()
    kls = [float(line.split(",")[1]) for line in table[1:]]
    assert sum(kls) == pytest.approx(evaluation.metrics["rate_nats"], rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_latent_statistics_are_the_direct_ones_at_any_batch_size(model, batch):
    data = Dataset(images(150))
    use = latent_use(model, data, DYNAMIC, 3, batch=batch)
    q = model.q(DYNAMIC.for_evaluation(data.images, 0, 3))
    means = q.mean.detach().double()
    assert torch.allclose(use.mean, means.mean(0), atol=1e-6)
    assert torch.allclose(use.covariance, torch.cov(means.T, correction=0), atol=1e-6)
    assert torch.allclose(use.posterior_variance, q.variance.detach().double().mean(0), rtol=1e-5)
    kl = torch.distributions.kl_divergence(q, model.p()).detach()
    assert float(use.kl_nats.sum()) == pytest.approx(float(kl.double().mean()), rel=1e-5)


def test_streamed_moments_keep_their_digits_far_from_zero():
    torch.manual_seed(0)
    rows = 1e8 + torch.randn(300, 3, dtype=torch.float64)
    moments = StreamedMoments()
    for part in rows.split(11):
        moments.add(part)
    assert torch.allclose(moments.covariance, torch.cov(rows.T, correction=0), rtol=1e-6, atol=1e-6)


def test_the_aggregate_posterior_is_what_its_samples_are(model):
    data = Dataset(images(4000))
    use = latent_use(model, data, Pixels(), 0)
    torch.manual_seed(0)
    q = model.q(Pixels().for_evaluation(data.images, 0, 0))
    samples = q.sample(torch.Size([60])).flatten(0, 1).double()
    assert torch.allclose(use.mean, samples.mean(0), atol=0.04)
    assert torch.allclose(use.aggregate_covariance, torch.cov(samples.T), rtol=0.02, atol=0.02)
    assert torch.allclose(use.correlation, torch.corrcoef(samples.T), atol=0.02)
    assert torch.allclose(use.correlation.diagonal(), torch.ones(3, dtype=torch.float64))


def test_aggregate_kl_is_the_kl_of_the_normals_and_below_the_rate(model):
    use = latent_use(model, Dataset(images(300)), Pixels(), 0)
    aggregate = torch.distributions.MultivariateNormal(use.mean, use.aggregate_covariance)
    prior = torch.distributions.MultivariateNormal(use.prior_mean, torch.diag(use.prior_std.square()))
    assert use.aggregate_kl_nats == pytest.approx(float(torch.distributions.kl_divergence(aggregate, prior)), rel=1e-6)
    assert float(use.marginal_kl_nats.sum()) <= use.aggregate_kl_nats <= float(use.kl_nats.sum())


def test_an_autoencoder_has_codes_but_no_kl():
    torch.manual_seed(0)
    made = vae(SHAPE, 3, SMALL).eval()
    encoder = Encoder(lambda numbers: made.posterior.network, (3,))
    encoder.forward = lambda x: made.encode(x)[0]
    plain = Autoencoder(encoder, made.likelihood).eval()
    use = latent_use(plain, Dataset(images(40)), Pixels(), 0)
    assert torch.equal(use.mean, latent_use(made, Dataset(images(40)), Pixels(), 0).mean)
    assert bool(use.kl_nats.isnan().all()) and math.isnan(use.aggregate_kl_nats)
    assert bool((use.posterior_variance == 0).all())
