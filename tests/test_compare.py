"""Runs side by side: what can be compared is, and what cannot is marked."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from small_runs import SIZES
from test_cli import assert_refused

from vaekit.errors import VaekitWarning
from vaekit.evaluation.comparison import MARK, comparison
from vaekit.evaluation.probe import principal_plane, probe
from vaekit.files import held_to_sum, with_sum
from vaekit.training.checkpoint import locate
from vaekit.verbs.compare import compare, labels_of, normal_of
from vaekit.verbs.compare_dae import compare_dae
from vaekit.verbs.evaluate import evaluate, known_metrics
from vaekit.verbs.train import train

SHORT = ("training.epochs=0.5",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits_run):
    """A Bernoulli VAE, a Gaussian one, an autoencoder, and one of smaller images."""
    place = tmp_path_factory.mktemp("runs")
    made = {"binary": shutil.copytree(digits_run, place / "binary")}
    grey = ("data.binarize=none", "model.likelihood=gaussian")
    made["grey"] = train("digits", *SIZES, *SHORT, *grey, out=place / "grey")
    made["auto"] = train("digits", *SIZES, *SHORT, "model.kind=autoencoder", out=place / "auto")
    made["small"] = train("digits", *SIZES, *SHORT, "data.size=6", out=place / "small")
    made["padded"] = train("digits", *SIZES, *SHORT, "data.pad=10", out=place / "padded")
    return made


def names_of(table):
    return [row[0] for row in table.cells()]


def test_the_table_holds_what_evaluate_says(runs, tmp_path):
    made = compare([runs["binary"], runs["auto"]], out=tmp_path, samples=5)
    for label in ("binary", "auto"):
        metrics = evaluate(runs[label], samples=5)
        assert made.table.metrics[label].items() >= metrics.items()
    rows = {row["metric"]: row for row in csv.DictReader((tmp_path / "compare.csv").open())}
    assert float(rows["elbo_nats"]["binary"]) == made.table.metrics["binary"]["elbo_nats"]
    assert rows["elbo_nats"]["auto"] == ""
    whole = json.loads((tmp_path / "compare.json").read_text())
    assert whole["runs"] == {label: dict(m) for label, m in made.table.metrics.items()}
    assert np.asarray(Image.open(tmp_path / "compare.png")).std() > 20


def test_a_report_of_this_checkpoint_is_read_and_any_other_is_not(runs, tmp_path):
    run = shutil.copytree(runs["binary"], tmp_path / "run")
    report = run / "reports" / "metrics.json"
    evaluate(run, samples=3)
    metrics = held_to_sum(json.loads(report.read_text()))
    for change, current in (
        ({}, True),
        ({"checkpoint_sha256": "0" * 64}, False),
        ({"split": "validation"}, False),
    ):
        report.write_text(json.dumps(with_sum({**metrics, **change, "psnr_db": -1.0})))
        assert (known_metrics(run)["psnr_db"] == -1.0) is current
    report.write_text(json.dumps(with_sum({**metrics, "psnr_db": -1.0})))
    assert known_metrics(run, samples=4)["nll_samples"] == 4
    for text in ("{", json.dumps(metrics)):  # the second is of an older version
        report.write_text(text)
        with pytest.warns(VaekitWarning, match="is damaged, or of an older version without a sum, and not used"):
            assert known_metrics(run, samples=2)["checkpoint"] == locate(run).name


def test_a_run_trained_anew_under_the_same_step_is_evaluated_anew(tmp_path):
    run = train("digits", *SIZES, *SHORT, out=tmp_path / "run")
    before = known_metrics(run, samples=2)
    assert known_metrics(run, samples=2) == before
    shutil.rmtree(run / "checkpoints")
    train("digits", *SIZES, *SHORT, "training.seed=1", out=run)
    after = known_metrics(run, samples=2)
    assert after["checkpoint"] == before["checkpoint"] and after["elbo_nats"] != before["elbo_nats"]


def test_nats_of_different_measures_are_marked(runs, tmp_path):
    table = compare([runs["binary"], runs["grey"]], out=tmp_path, samples=2).table
    marked = {name for name in names_of(table) if name.endswith(MARK)}
    assert any(name.startswith("NLL") for name in marked) and any(name.startswith("ELBO") for name in marked)
    assert not any(name.startswith(("PSNR", "SSIM", "active", "rate")) for name in marked)
    assert "binary (dynamic), density" in table.sentences()[0]
    rows = {row["metric"]: row for row in csv.DictReader((tmp_path / "compare.csv").open())}
    assert (rows["nll_nats"]["comparable"], rows["psnr_db"]["comparable"]) == ("False", "True")


def test_what_is_alike_is_not_marked():
    one = {"nll_nats": 1.0, "elbo_nats": -2.0, "rate_nats": 1, "base_measure": "binary", "binarization": "dynamic",
           "nll_samples": 5, "data": "digits"}  # fmt: skip
    assert not comparison({"a": one, "b": dict(one)}).notes
    for change in ({"binarization": "threshold"}, {"is_likelihood": False}, {"data": "mnist"}, {"nll_samples": 6}):
        assert "nll_nats" in frozenset().union(*comparison({"a": one, "b": one | change}).notes.values()), change


def test_padding_is_no_other_shape_but_a_size_is(runs, tmp_path, vaekit):
    assert compare([runs["binary"], runs["padded"]], out=tmp_path, samples=2).paths
    answer = vaekit("compare", runs["binary"], runs["small"], "--out", tmp_path / "x")
    assert_refused(answer, 3, "different shapes", "binary 8×8×1", "small 6×6×1")
    assert not (tmp_path / "x").exists()


def test_too_few_runs_and_runs_without_checkpoints_are_refused(runs, tmp_path, vaekit):
    assert_refused(vaekit("compare", runs["binary"]), 2, "1 run was given", "two or more")
    assert_refused(vaekit("compare", runs["binary"], runs["binary"]), 2, "two or more different runs")
    assert_refused(vaekit("compare", runs["binary"], tmp_path / "none"), 4, "no run at")
    (tmp_path / "bare").mkdir()
    assert_refused(vaekit("compare", runs["binary"], tmp_path / "bare"), 4, "holds no checkpoint")


def test_compare_prints_the_table_and_where_it_is(runs, tmp_path, vaekit):
    answer = vaekit("compare", runs["binary"], runs["auto"], "--samples", "2", "--out", tmp_path)
    assert answer.code == 0
    assert (
        "binary" in answer.out
        and "PSNR of reconstructions" in answer.out
        and str(tmp_path / "compare.png") in answer.out
    )


def test_labels_are_the_shortest_ends_that_differ(tmp_path):
    assert labels_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert labels_of([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]


def test_samples_of_a_fitted_normal_have_its_mean_and_covariance():
    rng = np.random.default_rng(0)
    codes = (rng.standard_normal((500, 3)) @ rng.standard_normal((3, 3)) + [1, 2, 3]).astype(np.float32)
    drawn = normal_of(codes, 200_000, seed=1)
    assert np.allclose(drawn.mean(0), codes.mean(0), atol=0.02)
    assert np.allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.05)
    few = normal_of(codes[:2], 10, seed=1)  # two codes span a line
    direction = (codes[1] - codes[0]).astype(np.float64)
    offset = few - codes[:2].mean(0)
    assert np.allclose(np.cross(offset, direction), 0, atol=1e-3)


def test_a_probe_finds_classes_where_they_are_and_chance_where_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 600)
    told = np.eye(4)[labels] * 100 + rng.standard_normal((600, 4))
    assert min(probe(told[:400], labels[:400], told[400:], labels[400:])) > 0.99
    blind = rng.standard_normal((600, 4))
    assert max(probe(blind[:400], labels[:400], blind[400:], labels[400:])) < 0.4
    assert probe(told[:400] * 1e3, labels[:400], told[400:] * 1e3, labels[400:]) == probe(
        told[:400], labels[:400], told[400:], labels[400:]
    )


def test_a_probe_names_each_code_whatever_its_company():
    """Held-out codes of one class alone are named as they are among the others."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 450)
    codes = 2.5 * np.eye(3)[labels] + rng.standard_normal((450, 3))
    train, test = slice(0, 300), slice(300, 450)
    whole = probe(codes[train], labels[train], codes[test], labels[test])
    each = [
        probe(codes[train], labels[train], codes[test][labels[test] == k], np.full((labels[test] == k).sum(), k))
        for k in range(3)
    ]
    counts = np.bincount(labels[test])
    assert np.average(each, axis=0, weights=counts) == pytest.approx(list(whole))


def test_the_principal_plane_holds_the_most_variance():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((300, 5)) * [1, 7, 0.1, 3, 0.5]
    plane, shares = principal_plane(codes)
    expected = np.sort(np.linalg.eigvalsh(np.cov(codes.T)))[::-1]
    assert plane.var(0, ddof=1) == pytest.approx(expected[:2])
    assert shares == pytest.approx(expected[:2] / expected.sum())
    assert principal_plane(codes[:, :1])[0].shape == (300, 2)


def test_compare_dae_trains_both_alike_and_shows_all_three(tmp_path):
    made = compare_dae("digits", *SIZES, "training.epochs=2", out=tmp_path, samples=2)
    states = {
        label: json.loads((locate(tmp_path / label) / "state.json").read_text())["config"] for label in ("vae", "dae")
    }
    assert states["dae"]["model"]["kind"] == "autoencoder" and states["dae"]["model"]["corruption"] == "mask"
    for state in states.values():
        state["model"] = {k: v for k, v in state["model"].items() if k not in ("kind", "corruption")}
    assert states["vae"] == states["dae"]
    for metrics in made.table.metrics.values():
        assert metrics.keys() >= {"psnr_db", "knn_accuracy", "linear_accuracy", "denoised_psnr_db"}
        assert metrics["knn_accuracy"] > 0.2  # chance is 0.1
    again = compare_dae("digits", *SIZES, "training.epochs=2", out=tmp_path, samples=2, train_run=refuse_to_train)
    assert again.table.metrics == made.table.metrics


def refuse_to_train(*words, **options):
    raise AssertionError("a finished run is not trained again")


def test_compare_dae_without_classes_has_no_accuracy(tmp_path, vaekit):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    options = (f"data.path={photos}", "data.size=8", "model.network={kind: mlp, widths: [8]}", "model.latent_dim=3")
    answer = vaekit("compare-dae", "folder", *options, "training.epochs=1", "--out", tmp_path / "out", "-k", "2")
    assert answer.code == 0 and "accuracy" not in answer.out
    assert (tmp_path / "out" / "compare.png").is_file()


def test_compare_dae_refuses_what_train_refuses_and_a_folder_of_another_run(tmp_path, vaekit):
    assert_refused(vaekit("compare-dae", "digits", "model.latentdim=3"), 2, "latent_dim")
    train("digits", *SIZES, *SHORT, out=tmp_path / "vae")
    answer = vaekit("compare-dae", "digits", *SIZES, "training.epochs=1", "--out", tmp_path)
    assert_refused(answer, 2, "holds a run with another training.epochs", "--out")
