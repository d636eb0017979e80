"""A sweep is its runs: each trained once, whatever interrupts it, and the table is their plain statistics."""

from __future__ import annotations

import csv
import json
import shutil
import statistics

import pytest
from small_runs import SIZES
from test_cli import assert_refused

from vaekit.config.load import to_dict
from vaekit.errors import ConfigError
from vaekit.training.checkpoint import saved_steps
from vaekit.training.loggers import Silent
from vaekit.verbs.evaluate import evaluate
from vaekit.verbs.sweep import mean_of, override, parse_key, plan, points_of, slug, sweep
from vaekit.verbs.train import train

WORDS = (*SIZES, "training.epochs=1", "training.checkpoint_every=3", "objective.beta=0.5,2")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    place = tmp_path_factory.mktemp("sweep") / "s"
    return place, sweep("digits", *WORDS, seeds=2, samples=4, out=place)


def test_every_combination_and_seed_is_the_run_that_train_makes(swept, tmp_path):
    place, _ = swept
    words = (*SIZES, "training.epochs=1", "training.checkpoint_every=3", "objective.beta=2", "training.seed=1")
    alone = train("digits", *words, out=tmp_path / "alone")
    steps = saved_steps(alone)
    name = f"checkpoints/step-{steps[-1]:08d}/ema.safetensors"
    assert (place / "objective.beta=2" / "seed-1" / name).read_bytes() == (alone / name).read_bytes()


def test_means_and_deviations_are_those_of_the_runs(swept):
    place, found = swept
    rows = list(csv.DictReader((place / "sweep.csv").open()))
    assert [row["objective.beta"] for row in rows] == ["0.5", "2"]
    for row, combination in zip(rows, found.combinations, strict=True):
        runs = [place / f"objective.beta={row['objective.beta']}" / f"seed-{seed}" for seed in (0, 1)]
        metrics = [evaluate(run, samples=4) for run in runs]
        for key in ("elbo_nats", "rate_nats", "psnr_db", "nll_nats"):
            values = [m[key] for m in metrics]
            assert values[0] != values[1]
            assert float(row[f"{key}_mean"]) == pytest.approx(statistics.mean(values))
            assert float(row[f"{key}_sd"]) == pytest.approx(statistics.stdev(values))
            assert combination.metrics[key].mean == float(row[f"{key}_mean"])
    whole = json.loads((place / "sweep.json").read_text())
    assert [run["seed"] for run in whole["runs"]] == [0, 1, 0, 1]


class Stop(Silent):
    """Ends a run at its first log point, as a crash would: after a checkpoint, before the end."""

    def progressed(self, row, images_per_second):
        raise KeyboardInterrupt


def test_an_interrupted_sweep_ends_with_the_same_table(swept, tmp_path):
    place, done = swept
    out, started = tmp_path / "s", []

    def stops_in_the_third(*words, **options):
        started.append(options["out"])
        return train(*words, loggers=[Stop()] if len(started) == 3 else [], **options)

    with pytest.raises(KeyboardInterrupt):
        sweep("digits", *WORDS, seeds=2, samples=4, out=out, train_run=stops_in_the_third)
    assert saved_steps(started[2])  # a part of it is there
    assert not (out / "sweep.csv").exists()
    resumed = []

    def counting(*words, **options):
        resumed.append(options["out"])
        return train(*words, **options)

    again = sweep("digits", *WORDS, seeds=2, samples=4, out=out, train_run=counting)
    assert len(resumed) == 2 and resumed[0] == started[2]
    assert again.combinations == done.combinations
    for name in ("sweep.csv", "sweep.json"):
        assert (out / name).read_bytes() == (place / name).read_bytes()


def test_a_finished_sweep_trains_nothing_and_another_recipe_is_refused(swept, tmp_path, vaekit):
    place = shutil.copytree(swept[0], tmp_path / "s")

    def refuse(*words, **options):
        raise AssertionError("a finished run is not trained again")

    assert sweep("digits", *WORDS, seeds=2, samples=4, out=place, train_run=refuse).combinations
    for change, key in (("model.latent_dim=5", "model.latent_dim"), ("training.epochs=2", "training.epochs")):
        words = [word for word in WORDS if not word.startswith(change.split("=")[0] + "=")]
        answer = vaekit("sweep", "digits", *words, change, "--seeds", "2", "--out", place)
        assert_refused(answer, 2, f"another {key}", "choose another --out")


def test_the_curve_has_a_point_for_each_beta_with_its_spread(swept):
    _, found = swept
    points = points_of(found.combinations)
    assert [point.beta for point in points] == ["0.5", "2"]
    for point, combination in zip(points, found.combinations, strict=True):
        assert (point.rate, point.rate_sd) == combination.metrics["rate_nats"]
        assert (point.distortion, point.distortion_sd) == combination.metrics["distortion_nats"]
    assert found.paths[-1].name == "rate_distortion.png"


def test_values_are_yaml_and_come_back_from_a_folder_name_apart():
    assert parse_key("objective.beta=0.1,1e-3,4").values == [0.1, 1e-3, 4]
    assert parse_key("model.network.widths=[64, 64]").values == [[64, 64]]
    assert parse_key("model.likelihood=bernoulli,{kind: gaussian, scale: optimal}").values[1]["scale"] == "optimal"
    assert len({slug(value) for value in ("a/b", "a b", [1, 2], [12], {"a": 1}, "a_b", 1.5, "..")}) == 8
    assert all("/" not in slug(value) and slug(value) not in (".", "..") for value in ("../x", "..", "/"))
    assert override("objective.beta", {"kind": "linear"}) == 'objective.beta={"kind": "linear"}'


def test_a_plan_is_the_product_of_the_values_and_the_seeds(tmp_path):
    keys = [parse_key(text) for text in ("objective.beta=1,2", "model.latent_dim=3,4", "training.seed=7")]
    planned = plan("digits", keys, 2, tmp_path)
    assert len(planned) == 8 and len({job.folder for job, _ in planned}) == 8
    for job, config in planned:
        assert config.training.seed == job.seed in (7, 8)
        assert config.model.latent_dim == job.values["model.latent_dim"]
        assert to_dict(config)["objective"]["beta"] == job.values["objective.beta"]


def test_one_seed_has_no_deviation():
    assert mean_of([3.0]) == (3.0, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective.betta=1,2"], "did you mean 'beta'"),
        (["objective.beta=1,-"], "beta"),
        (["objective.beta"], "write section.key=a,b,c"),
        (["objective.beta="], "write section.key=a,b,c"),
        (["objective.beta=[1"], "cannot be read as YAML"),
        (["training.seed=1,2"], "--seeds"),
        (["model.latent_dim=2,3", "model.latent_dim=4"], "given twice"),
        (["model.latent_dim=2,0"], "latent_dim"),
    ],
)
def test_a_wrong_key_or_value_is_refused_before_anything_is_trained(vaekit, tmp_path, words, said):
    assert_refused(vaekit("sweep", "digits", *words, "--out", tmp_path / "s"), 2, said)
    assert not (tmp_path / "s").exists()


def test_no_seed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="1 or more"):
        sweep("digits", seeds=0, out=tmp_path)


def test_the_command_prints_mean_and_deviation(swept, tmp_path, vaekit):
    place = shutil.copytree(swept[0], tmp_path / "s")
    answer = vaekit("sweep", "digits", *WORDS, "--seeds", "2", "-k", "4", "--out", place)
    assert answer.code == 0
    elbo = swept[1].combinations[0].metrics["elbo_nats"]
    assert f"{elbo.mean:.2f} ± {elbo.sd:.2f}" in answer.out and "objective.beta=0.5" in answer.out
