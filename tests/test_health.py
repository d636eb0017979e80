"""Each diagnosis speaks in the case that it is for, with its numbers, and a healthy model hears nothing."""

import math
import shutil

import pytest
import torch
from small_runs import SIZES, state_of

from vaekit.config.load import load_config
from vaekit.config.schema import Part
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.evaluation import health as health_module
from vaekit.evaluation.evaluate import evaluate_model
from vaekit.evaluation.health import Finding, Watch, diagnose
from vaekit.evaluation.latents import LatentUse, StreamedMoments, latent_use
from vaekit.models.build import vae
from vaekit.trained.model import load
from vaekit.trained.run import open_run
from vaekit.verbs.evaluate import health
from vaekit.verbs.train import train

HEALTHY = {
    "elbo_nats": -92.3, "rate_nats": 26.7, "distortion_nats": 65.6, "distortion_without_code_nats": 287.0,
    "active_units": 26, "latent_dim": 40, "aggregate_kl_nats": 0.05, "quality_features": "proxy",
    "proxy_frechet_real": 0.4, "proxy_frechet_reconstructions": 0.9, "proxy_frechet_prior_samples": 2.0,
}  # fmt: skip


def rows(trained, held, skipped=0):
    made = []
    for i, (a, b) in enumerate(zip(trained, held, strict=True)):
        made.append({"step": 100 * (i + 1), "split": "train", "elbo": a, "loss": -a, "skipped": skipped})
        made.append({"step": 100 * (i + 1), "split": "validation", "elbo": b, "selection": -b, "skipped": skipped})
    return made


FINE = rows([-200.0, -110.0, -95.0, -91.0], [-150.0, -108.0, -95.0, -92.5])


def test_a_healthy_model_hears_nothing():
    assert diagnose(HEALTHY, FINE) == []
    assert diagnose({}, []) == []


@pytest.mark.parametrize(
    ("topic", "metrics", "history", "numbers"),
    [
        ("unused dimensions", {"active_units": 9, "latent_dim": 32}, FINE, ["23 of 32", "objective.free_bits=0.1"]),
        ("no code", {"rate_nats": 0.03, "active_units": 0}, FINE, ["0.03", "objective.beta"]),
        ("costly code", {"distortion_without_code_nats": 80.0}, FINE, ["26.7", "14.4", "65.6"]),
        ("prior", {"aggregate_kl_nats": 7.9}, FINE, ["7.9", "26.7", "vaekit sample RUN --sampler mixture"]),
        ("prior", {"proxy_frechet_prior_samples": 9.0}, FINE, ["9.0", "0.9"]),
        ("reconstructions", {"proxy_frechet_reconstructions": 5.0}, FINE, ["5.0", "0.4", "latent_dim"]),
        ("not finite", {"elbo_nats": math.nan}, FINE, ["elbo_nats"]),
        ("loose bound", {"effective_samples": 1.2, "nll_samples": 500}, FINE, ["1.2 of 500", "vaekit ais RUN"]),
        ("skipped updates", {}, rows([-200, -90], [-150, -91], skipped=3), ["3 of 200", "learning_rate"]),
        ("overfitting", {}, rows([-200, -100, -80, -70], [-150, -101, -100, -112]), ["-100.00", "-112.00"]),
        ("overfitting", {}, rows([-200, -100, -80, -70], [-150, -105, -100, -100]), ["-70.00", "-100.00", "30.00"]),
    ],
)
def test_each_diagnosis_speaks_alone_and_gives_its_numbers(topic, metrics, history, numbers):
    (finding,) = diagnose(HEALTHY | metrics, history)
    assert finding.topic == topic
    assert all(number in finding.text for number in numbers), finding.text
    assert "\n" not in finding.text


GONE = rows([-8e16, -1.4e6], [-9e16, -1.3e6])


def test_a_divergence_is_told_alone_and_not_taken_for_a_collapse():
    collapsed = HEALTHY | {"active_units": 0, "rate_nats": 45487.0, "aggregate_kl_nats": 45486.0}
    (finding,) = diagnose(collapsed, GONE, 46.1)
    assert finding.topic == "diverged"
    assert all(word in finding.text for word in ("1.4e+06", "46.1", "training.learning_rate")), finding.text
    assert diagnose(collapsed | {"elbo_nats": math.nan}, GONE, 46.1)[0].topic == "not finite"
    assert not any(f.topic == "diverged" for f in diagnose(collapsed, GONE))  # of an older checkpoint


def test_what_is_better_than_untrained_has_not_diverged():
    """Nor has a model that learns its training images by heart, nor one that has hardly moved."""
    assert diagnose(HEALTHY, FINE, 560.0) == []
    by_heart = diagnose(HEALTHY, rows([-200, -20], [-150, -800]), 560.0)
    assert [f.topic for f in by_heart] == ["overfitting"]
    for first in (40.0, -40.0, 0.0):
        assert not diagnose({}, rows([-first - 0.4], [-first - 0.6]), first)


def test_a_rate_of_3_is_told_to_diverge_while_training_and_afterwards(tmp_path):
    run = train("digits", *SIZES, "training.epochs=6", "training.learning_rate=3", out=tmp_path / "run")
    log = (run / "logs" / "train.log").read_text()
    assert "health: training diverged" in log and "collapse" not in log
    assert [f.topic for f in health(run)] == ["diverged"]


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "{kind: gaussian, scale: optimal}", "{kind: gaussian, scale: fixed}"]
)
def test_the_first_loss_is_that_of_the_model_as_it_was_drawn(tmp_path, likelihood):
    """What a run at a rate of nearly nothing has after an update on most of its images."""
    binary = [] if likelihood == "bernoulli" else ["data.binarize=none"]
    sizes = (*SIZES, *binary, "training.epochs=1", "training.batch_size=400", "training.learning_rate=1e-12")
    run = train("digits", *sizes, f"model.likelihood={likelihood}", out=tmp_path / "run")
    progress = state_of(run)["progress"]
    assert progress["first_loss"] == pytest.approx(progress["history"][0]["loss"], rel=0.03)


def test_a_small_gap_and_a_small_gain_are_not_overfitting():
    assert diagnose(HEALTHY, rows([-36.0, -24.4, -24.2], [-25.0, -24.6, -24.5])) == []


def test_advice_names_options_that_exist():
    """Every section.key=value in a text is accepted by the config."""
    import re

    texts = [f.text for f in diagnose({"rate_nats": 0.1, "latent_dim": 8})]
    texts += [f.text for f in diagnose(HEALTHY | {"active_units": 1})]
    texts += [f.text for f in diagnose({}, GONE, 46.1)]
    texts += [f.text for f in diagnose(HEALTHY, rows([-200, -70], [-150, -112], skipped=1))]
    said = [word for t in texts for word in re.findall(r"(?:objective|model|training|data)\.\w+=(?:\{.*?\}|[\w.]+)", t)]
    assert len(said) >= 5
    for override in said:
        load_config("digits", [override])


def test_the_command_it_names_samples(digits_run, vaekit, tmp_path):
    (finding,) = diagnose(HEALTHY | {"aggregate_kl_nats": 7.9})
    run = shutil.copytree(digits_run, tmp_path / "run")
    words = finding.text.split("(vaekit ")[1].split(")")[0].replace("RUN", str(run)).split()
    assert vaekit(*words).code == 0 and (run / "samples" / "mixture_samples.png").is_file()


def use_of(means, variance):
    """Of these posterior means (N, D) and this variance of every q, before a standard normal prior."""
    moments, dims = StreamedMoments(), means.shape[1]
    moments.add(means)
    zeros, ones = torch.zeros(dims, dtype=torch.float64), torch.ones(dims, dtype=torch.float64)
    return LatentUse(zeros, moments.mean, moments.covariance, variance * ones, zeros, torch.diag(ones), means)


def test_aggregate_gap_is_the_kl_of_the_moments():
    torch.manual_seed(0)
    means = torch.randn(200_000, 3, dtype=torch.float64) * 0.6
    assert use_of(means, 0.64).aggregate_gap_nats == pytest.approx(0, abs=1e-3)  # variances add up to the prior's
    assert use_of(means + 2, 0.64).aggregate_gap_nats == pytest.approx(3 * 2.0, rel=0.01)  # 2² / 2 each
    each = 0.5 * (0.36 - 1 - math.log(0.36))
    assert use_of(means, 0.0).aggregate_gap_nats == pytest.approx(3 * each, rel=0.01)
    tied = means[:, :1].expand(-1, 3)  # each dimension fits the prior, but they are one
    joint = 0.64 * torch.eye(3, dtype=torch.float64) + 0.36 * torch.ones(3, 3, dtype=torch.float64)
    assert use_of(tied, 0.64).aggregate_gap_nats == pytest.approx(-0.5 * float(torch.logdet(joint)), rel=0.02)


def test_few_images_do_not_look_like_a_gap():
    gaps = []
    for seed in range(20):
        means = torch.randn(100, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        gaps.append(use_of(means, 0.0).aggregate_gap_nats)
    assert max(gaps) < 1


def test_what_is_taken_off_a_gap_is_what_chance_shows():
    """Where there is no difference the moments of N images show D (D + 3) / 4N nats on average, for large N."""
    gaps = []
    for seed in range(300):
        means = torch.randn(400, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        use = use_of(means, 0.0)
        gaps.append(use.aggregate_kl_nats)
        assert use.aggregate_gap_nats == pytest.approx(max(0.0, gaps[-1] - 4 * 7 / 1600))
    gaps = torch.tensor(gaps)
    assert abs(float(gaps.mean()) - 4 * 7 / 1600) < 4 * float(gaps.std()) / math.sqrt(300) + 4e-4


def test_what_a_code_saves_is_measured(digits_run):
    trained = load(digits_run)
    data = open_run(digits_run).dataset("test")
    metrics = evaluate_model(trained.model, data, trained.pixels, samples=2).metrics
    with torch.no_grad():
        middle = trained.model.decode((torch.zeros(len(data), trained.latent_dim),))
    x = trained.pixels.for_evaluation(data.images, 0, 0)
    assert metrics["distortion_without_code_nats"] == pytest.approx(float(-middle.log_prob(x).mean()), rel=1e-5)


def test_a_watch_speaks_once_when_something_changes():
    a, b, other = Finding("a", "23 of 32"), Finding("a", "24 of 32"), Finding("b", "gap")
    watch = Watch()
    assert watch.heard([]) == []
    assert watch.heard([a]) == ["health: 23 of 32"]
    assert watch.heard([b]) == []  # the same trouble with another number
    assert watch.heard([b, other]) == ["health: gap"]
    assert watch.heard([other]) == ["health: no longer: a"]


def test_a_watch_looks_at_images_spread_over_a_sorted_set(monkeypatch):
    """Its share of a validation set begins with one image again and again, of which no dimension tells anything."""
    torch.manual_seed(0)
    model = vae((1, 4, 4), 3, Part("mlp", {"widths": (8,)})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    images = torch.randint(0, 2, (120, 1, 4, 4), dtype=torch.uint8) * 255
    images[:20] = images[0]
    monkeypatch.setattr(health_module, "SEEN_IMAGES", 20)

    def unused(images):
        said = Watch().news(model, Dataset(images), Pixels(), 0, (), None)
        return any("3 of 3 dimensions are unused" in text for text in said)

    assert unused(images[:20]) and not unused(images)


def test_a_watch_looks_at_all_of_a_thousand_images(monkeypatch):
    """What it says of 1,000 images is what an evaluation says of them."""
    torch.manual_seed(0)
    model = vae((1, 4, 4), 3, Part("mlp", {"widths": (8,)})).eval()
    data = Dataset(torch.randint(0, 256, (1000, 1, 4, 4), dtype=torch.uint8))
    heard = []
    monkeypatch.setattr(health_module, "diagnose", lambda metrics, *_: heard.append(metrics) or [])
    Watch().news(model, data, Pixels(), 0, (), None)
    assert heard[0]["rate_nats"] == pytest.approx(latent_use(model, data, Pixels(), 0).rate_nats)


def test_a_collapse_is_told_while_training_and_in_the_evaluation(tmp_path, vaekit):
    run = train("digits", *SIZES, "training.epochs=3", "objective.beta=50", out=tmp_path / "run")
    log = (run / "logs" / "train.log").read_text()
    assert log.count("health: the code carries") == 1  # three validations, one message
    answer = vaekit("evaluate", run, "-k", 2)
    assert answer.code == 0
    assert "health: the code carries" in answer.out
    assert any(f.topic == "no code" for f in health(run))


def test_watching_changes_nothing(tmp_path, monkeypatch):
    """A run's files are the same with and without the watch."""
    from small_runs import what_is_left

    watched = train("digits", *SIZES, "training.epochs=2", out=tmp_path / "a")
    monkeypatch.setattr(Watch, "news", lambda *arguments: [])
    alone = train("digits", *SIZES, "training.epochs=2", out=tmp_path / "b")
    assert what_is_left(watched) == what_is_left(alone)


def test_an_autoencoder_is_not_told_about_codes(tmp_path, vaekit):
    run = train("digits", *SIZES, "training.epochs=1", "model.kind=autoencoder", out=tmp_path / "run")
    answer = vaekit("evaluate", run)
    assert answer.code == 0 and "the code" not in answer.out
    shutil.rmtree(run / "reports")
    assert health(run) == []
