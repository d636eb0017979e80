"""The command line: what it answers, its exit codes, and one line for each mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import SIZES, state_of, what_is_left

from vaekit.config.load import load_config, recipe_names, recipe_path
from vaekit.data.sources import SOURCES
from vaekit.evaluation.report import read_metrics
from vaekit.training.checkpoint import locate
from vaekit.verbs.evaluate import evaluate, known_metrics


def assert_refused(answer, code, *words):
    """One line on standard error that says all of these words, this exit code, and no traceback."""
    assert answer.code == code, answer.err
    lines = answer.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("vaekit: "), answer.err
    for word in words:
        assert word in lines[0]


@pytest.fixture
def run(digits_run, tmp_path):
    """A copy of a trained run, to write into or to damage."""
    return shutil.copytree(digits_run, tmp_path / "run")


@pytest.fixture
def photos(tmp_path):
    """Twelve grey images of 8×8."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(noise.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number:02}.png")
    return folder


# Help


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["data", "--help"], ["recipes"], ["train"]])
def test_what_needs_no_model_does_not_import_torch(words):
    program = (
        "import sys; from vaekit.cli.main import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'matplotlib', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_verb_and_exits_with_0(vaekit):
    answer = vaekit("--help")
    assert answer.code == 0 and answer.err == ""
    for verb in ("train", "evaluate", "sample", "reconstruct", "pictures", "recipes", "doctor", "data"):
        assert f"  {verb} " in answer.out


def test_no_verb_shows_the_help_and_exits_with_2(vaekit):
    answer = vaekit()
    assert answer.code == 2
    assert "Usage:" in answer.err and "vaekit:" not in answer.err


def test_the_program_ends_with_the_code_of_the_command():
    """Through the entry point of the package, in a process of its own."""
    program = "import sys; sys.argv = ['vaekit', 'train', 'digitz']; from vaekit.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("vaekit: unknown recipe 'digitz'; did you mean 'digits'?") and done.stdout == ""


# Mistakes


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trian", "digits"], "trian"),
        (["train", "digits", "--outt", "x"], "--outt"),
        (["train"], "RECIPE"),
        (["evaluate"], "RUN"),
        (["evaluate", "run", "--samples", "0"], "--samples"),
        (["sample", "run", "--count", "many"], "--count"),
        (["sample", "run", "--temperature", "-1"], "--temperature"),
        (["data", "chekc"], "chekc"),
    ],
)
def test_a_wrong_verb_option_or_value_is_named(vaekit, words, named):
    assert_refused(vaekit(*words), 2, named, "--help")


def test_an_unknown_recipe_gets_a_suggestion(vaekit):
    assert_refused(vaekit("train", "digitz"), 2, "unknown recipe 'digitz'; did you mean 'digits'?")


def test_a_missing_yaml_file_is_named(vaekit):
    assert_refused(vaekit("train", "nowhere/my.yaml"), 2, "no file 'nowhere/my.yaml'")


def test_every_config_error_has_a_line_of_its_own(vaekit, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model:\n  latentdim: 3\n  likelihood: bernouli\ntraining:\n  epochs: -1\n")
    answer = vaekit("train", path, "training.optimizer=sgd", "objective.betta=2", "--out", tmp_path / "run")
    assert answer.code == 2 and "Traceback" not in answer.err
    first, *lines = answer.err.splitlines()
    assert first == f"vaekit: 5 problems in {path}:"
    for line, words in zip(
        lines,
        (
            (f"{path}:2", "latentdim", "latent_dim"),
            (f"{path}:3", "bernouli", "did you mean 'bernoulli'?"),
            (f"{path}:5", "epochs", "-1"),
            ("training.optimizer=sgd", "adamax"),
            ("objective.betta=2", "beta"),
        ),
        strict=True,
    ):
        assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_parts_that_do_not_fit_are_refused_before_anything_is_written(vaekit, tmp_path):
    answer = vaekit("train", "digits", "data.binarize=none", "--out", tmp_path / "run")
    assert_refused(answer, 2, "model.likelihood", "data.binarize=dynamic", "continuous-bernoulli")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", [["train"], ["data", "check"], ["doctor"]])
@pytest.mark.parametrize(
    ("path", "code", "words"),
    [(None, 2, "set data.path"), ("nowhere", 3, "there is no folder"), ("empty", 3, "there are no images in")],
)
def test_a_folder_without_images_is_refused(vaekit, tmp_path, monkeypatch, verb, path, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    chosen = [] if path is None else [f"data.path={tmp_path / path}"]
    assert_refused(vaekit(*verb, "folder", *chosen), code, words)
    assert not (tmp_path / "runs" / "folder").exists()  # a training that never began leaves no folder


def test_a_set_that_is_not_here_and_cannot_be_fetched_is_a_data_error(vaekit, tmp_path):
    assert_refused(vaekit("data", "check", "afhq", "--data-dir", tmp_path), 3, "afhq", str(tmp_path))


@pytest.mark.parametrize("verb", [["train", "digits", *SIZES], ["sample"]])
def test_an_unknown_device_is_refused_with_those_that_are_here(vaekit, run, tmp_path, verb):
    words = [*verb, "--out", tmp_path / "new"] if verb[0] == "train" else [*verb, run]
    assert_refused(vaekit(*words, "--device", "gpu"), 2, "unknown device 'gpu'; choose one of: auto, cpu")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("verb", ["evaluate", "sample", "reconstruct", "pictures"])
def test_a_run_without_a_checkpoint_is_refused(vaekit, tmp_path, verb):
    assert_refused(vaekit(verb, tmp_path / "none"), 4, "no run at", str(tmp_path / "none"))
    (tmp_path / "bare").mkdir()
    assert_refused(vaekit(verb, tmp_path / "bare"), 4, "holds no checkpoint")


@pytest.mark.parametrize("verb", ["evaluate", "sample", "reconstruct", "pictures"])
def test_one_flipped_bit_of_a_checkpoint_is_refused(vaekit, run, verb):
    weights = locate(run, "best") / "ema.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 4
    weights.write_bytes(data)
    assert_refused(vaekit(verb, run), 4, f"{weights} is damaged")


def test_resuming_from_a_damaged_checkpoint_is_refused_and_changes_nothing(vaekit, run):
    path = locate(run, "latest") / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    before = what_is_left(run)
    answer = vaekit("train", "digits", "training.epochs=4", "--resume", "--out", run)
    assert_refused(answer, 4, f"{path} is damaged")
    assert what_is_left(run) == before


def test_an_unknown_checkpoint_or_split_is_refused(vaekit, run):
    assert_refused(vaekit("sample", run, "--checkpoint", "last"), 2, "unknown checkpoint 'last'", "latest")
    assert_refused(vaekit("evaluate", run, "--split", "tset"), 2, "unknown split 'tset'", "train, validation, test")


def test_a_folder_that_holds_a_run_is_not_overwritten(vaekit, run):
    before = what_is_left(run)
    assert_refused(vaekit("train", "digits", *SIZES, "--out", run), 7, "already holds a run; add --resume")
    assert what_is_left(run) == before


HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_a_folder_that_a_living_process_holds_is_busy_until_it_dies(vaekit, run):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    answer = vaekit("train", "digits", "--resume", "--out", run)
    holder.kill()
    holder.communicate()
    assert_refused(answer, 7, "in use by another process")
    assert vaekit("train", "digits", "--resume", "--out", run).code == 0


def test_a_place_that_cannot_be_written_is_a_storage_error(vaekit, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        answer = vaekit("train", "digits", *SIZES, "--out", out)
        assert_refused(answer, 6, f"cannot write to {out}", "a file stands where a folder should be")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_a_training_with_a_storage_error(vaekit, tmp_path):
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "run" / "logs" / "train.log").symlink_to("/dev/full")
    answer = vaekit("train", "digits", *SIZES, "--out", tmp_path / "run")
    assert_refused(answer, 6, "the disk is full", "What was saved before is intact")


@pytest.mark.parametrize("verb", ["evaluate", "sample", "reconstruct"])
def test_pictures_and_reports_that_cannot_be_written_are_a_storage_error(vaekit, run, verb):
    for folder in ("reports", "samples", "grids"):
        (run / folder).write_text("in the way")
    answer = vaekit(verb, run)
    assert answer.code == 6
    assert answer.err.startswith("vaekit: cannot write to ") and len(answer.err.splitlines()) == 1


# What works


def test_train_says_where_the_run_is_and_its_config_repeats_it(vaekit, tmp_path):
    first = vaekit("train", "digits", *SIZES, "training.epochs=1", "--out", tmp_path / "a")
    assert first.code == 0
    assert first.out == f"run: {tmp_path / 'a'}\n"
    assert vaekit("train", tmp_path / "a" / "config.yaml", "--out", tmp_path / "b").code == 0
    left = what_is_left(tmp_path / "a")
    assert {"config.yaml", "checkpoints/best", "checkpoints/latest", "logs/history.csv"} < left.keys()
    assert what_is_left(tmp_path / "b") == left


def test_train_without_out_takes_a_new_folder_each_time(vaekit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "digits-2"):
        assert vaekit("train", "digits", *SIZES, "training.epochs=0.1").out == f"run: runs/{name}\n"


def test_train_device_and_data_dir_are_options_too(vaekit, tmp_path):
    options = ("--device", "cpu", "--data-dir", tmp_path / "sets", "--strict")
    assert vaekit("train", "digits", *SIZES, "training.epochs=0.1", *options, "--out", tmp_path / "run").code == 0
    config = state_of(tmp_path / "run")["config"]
    assert config["training"]["device"] == "cpu" and config["data"]["root"] == str(tmp_path / "sets")
    assert config["data"]["strict"] is True


def test_evaluate_prints_and_writes_the_same_numbers(vaekit, run):
    answer = vaekit("evaluate", run, "--samples", "7", "--seed", "3")
    assert answer.code == 0 and answer.err == ""
    metrics = json.loads((run / "reports" / "metrics.json").read_text())
    assert (metrics["nll_samples"], metrics["seed"], metrics["split"]) == (7, 3, "test")
    assert metrics["checkpoint"] == locate(run, "best").name
    assert f"{metrics['nll_nats']:.2f} ± {metrics['nll_se_nats']:.2f} nats" in answer.out
    assert f"{metrics['bits_per_dim']:.3f}" in answer.out
    assert -metrics["elbo_nats"] >= metrics["nll_nats"] - 3 * metrics["nll_se_nats"]


def test_nothing_better_is_lost_to_an_evaluation_of_less(vaekit, run):
    reports = run / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    assert vaekit("evaluate", run, "--split", "validation", "-k", "3").code == 0
    assert read_metrics(run)["split"] == "validation"
    assert vaekit("evaluate", run, "-k", "9").code == 0  # the test set comes first
    best, of_latents = (reports / "metrics.json").read_bytes(), (reports / "latents.csv").read_bytes()
    assert read_metrics(run)["nll_samples"] == 9
    answer = vaekit("evaluate", run, "-k", "2")
    assert "metrics.json has K = 9 of this checkpoint and stays as it is" in answer.out
    assert vaekit("evaluate", run, "--split", "validation", "-k", "20").code == 0
    assert (reports / "metrics.json").read_bytes() == best and (reports / "latents.csv").read_bytes() == of_latents
    assert read_metrics(run, "metrics-test-k2.json")["nll_samples"] == 2
    assert read_metrics(run, "metrics-validation-k20.json")["split"] == "validation"
    assert known_metrics(run, samples=2) == read_metrics(run, "metrics-test-k2.json")  # and is read, not made again
    assert vaekit("evaluate", run, "-k", "12").code == 0
    assert read_metrics(run)["nll_samples"] == 12


def test_a_changed_bit_of_a_report_changes_no_number(run):
    evaluate(run, samples=2)
    path = run / "reports" / "metrics.json"
    right, metrics = path.read_bytes(), read_metrics(run)
    for bit in range(0, 8 * len(right), 37):  # a number that meets every bit of a byte
        changed = bytearray(right)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = read_metrics(run)
        assert found == metrics or (found == {} and "is damaged, or of an older version" in str(said[0].message)), bit
    path.write_bytes(right)


def test_sample_writes_a_sheet_and_the_arrays_where_asked(vaekit, run):
    answer = vaekit("sample", run, "--count", "12", "--seed", "5", "--save-arrays")
    assert answer.code == 0
    sheet, arrays = answer.out.split()
    assert Path(sheet) == run / "samples" / "prior_samples.png"
    first = np.load(arrays)
    assert first.shape == (12, 8, 8) and first.dtype == np.uint8
    vaekit("sample", run, "--count", "12", "--seed", "6", "--save-arrays")
    assert not np.array_equal(np.load(arrays), first)
    vaekit("sample", run, "--count", "12", "--seed", "5", "--save-arrays")
    assert np.array_equal(np.load(arrays), first)


def test_reconstruct_goes_on_past_an_unreadable_file_and_names_it(vaekit, run, photos):
    (photos / "broken.png").write_bytes((photos / "01.png").read_bytes()[:40])
    files = [photos / "00.png", photos / "broken.png", photos / "02.png", photos / "absent.png"]
    answer = vaekit("reconstruct", run, *files, "--save-arrays")
    assert_refused(answer, 3, "broken.png", "absent.png")
    assert "00.png" in answer.out and "02.png" in answer.out and "PSNR" in answer.out
    assert np.load(run / "grids" / "reconstructions.npy").shape == (2, 8, 8)
    assert np.load(run / "grids" / "codes.npy").shape == (2, 4)
    assert (run / "grids" / "reconstructions.png").is_file()


def test_reconstruct_of_nothing_readable_is_a_data_error_and_writes_nothing(vaekit, run, tmp_path):
    assert_refused(vaekit("reconstruct", run, tmp_path / "absent.png", tmp_path), 3, "absent.png")
    assert not (run / "grids").exists()


def test_reconstruct_without_files_shows_test_images(vaekit, run):
    answer = vaekit("reconstruct", run, "--count", "5")
    assert answer.code == 0 and Path(answer.out.strip()) == run / "grids" / "recon_grid.png"
    assert Image.open(run / "grids" / "recon_grid.png").size[0] > 5 * 56


def test_pictures_writes_all_of_them(vaekit, run):
    answer = vaekit("pictures", run)
    assert answer.code == 0
    made = [Path(line).relative_to(run) for line in answer.out.split()]
    assert [str(path) for path in made] == [
        "grids/recon_grid.png",
        "samples/prior_samples.png",
        "grids/loss_curves.png",
        *(f"grids/{name}.png" for name in ("latent_scatter", "kl_bars", "latent_histograms", "latent_correlation")),
    ]
    for path in made:
        assert np.asarray(Image.open(run / path).convert("L")).std() > 5, f"{path} is blank"


def test_an_autoencoder_has_pictures_but_no_samples(vaekit, tmp_path):
    run = tmp_path / "run"
    options = ("model.kind=autoencoder", "model.corruption=mask", "training.epochs=1")
    assert vaekit("train", "digits", *SIZES, *options, "--out", run).code == 0
    assert_refused(vaekit("sample", run), 2, "an autoencoder has no prior to sample from")
    assert "prior_samples" not in vaekit("pictures", run).out
    assert vaekit("evaluate", run).code == 0


def test_doctor_finds_nothing_wrong_with_digits(vaekit):
    answer = vaekit("doctor", "digits", *SIZES)
    assert answer.code == 0
    for topic in ("data", "likelihood", "model", "memory", "effective β", "first batch", "learning rate"):
        assert f"{topic} " in answer.out


def test_doctor_says_what_is_worth_a_thought_and_refuses_what_must_fail(vaekit):
    grey = ("data.binarize=none", "model.likelihood=bce", "objective.beta=100", "model.latent_dim=64")
    answer = vaekit("doctor", "digits", *SIZES, *grey)
    assert answer.code == 0
    for words in (
        "bce is a loss, not a likelihood",
        "effective β 100",
        "a code of 64 numbers is not below the 64 values",
    ):
        assert words in answer.out
    answer = vaekit("doctor", "digits", *SIZES, "training.samples=1000000000")
    assert answer.code == 2
    assert "problem memory" in answer.out and "lower training.samples" in answer.out


def test_doctor_names_skipped_files(vaekit, photos):
    (photos / "broken.png").write_bytes(b"no image")
    options = (f"data.path={photos}", "data.size=8", "model.network={kind: mlp, widths: [8]}")
    answer = vaekit("doctor", "folder", *options)
    assert answer.code == 0 and "1 unreadable images, listed in" in answer.out


def test_data_list_names_every_source(vaekit):
    answer = vaekit("data", "list")
    assert answer.code == 0
    for source in SOURCES:
        assert f"  {source} " in answer.out


@pytest.mark.parametrize("verb", ["check", "prepare"])
def test_data_check_and_prepare_count_what_is_there(vaekit, photos, verb):
    (photos / "broken.png").write_bytes(b"no image")
    answer = vaekit("data", verb, "folder", f"data.path={photos}", "data.size=8")
    assert answer.code == 0
    text = " ".join(answer.out.split())
    assert "found 13 skipped 1, listed in" in text
    listed = Path(text.split("listed in ")[1].split()[0])
    assert "broken.png" in listed.read_text()
    assert_refused(vaekit("data", verb, "folder", f"data.path={photos}", "data.size=8", "--strict"), 3, "broken.png")


def test_training_on_a_folder_says_what_was_skipped(vaekit, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no image")
    options = ("data.size=8", "data.channels=1", "model.network={kind: mlp, widths: [8]}", "training.epochs=1")
    answer = vaekit("train", "folder", f"data.path={photos}", *options, "--out", tmp_path / "run")
    assert answer.code == 0
    assert "1 images could not be read and were skipped; see " in answer.err


def test_recipes_lists_all_with_what_they_say(vaekit):
    answer = vaekit("recipes")
    assert answer.code == 0
    text = " ".join(answer.out.split())
    for name in recipe_names():
        about = load_config(name).recipe.about
        assert about, f"recipe {name} does not say what it is"
        assert f"{name} {about[:30]}" in text


def test_a_recipe_says_all_that_its_file_says(vaekit):
    for name in recipe_names():
        answer, said = vaekit("recipes", name), load_config(name).recipe
        text = " ".join(answer.out.split())
        assert answer.code == 0 and all(part in text for part in (said.about, said.source, said.expect, said.cost))
        lines = answer.out[answer.out.index("\ndata:") :].strip().splitlines()
        assert all(line in recipe_path(name).read_text().splitlines() for line in lines)
    assert_refused(vaekit("recipes", "mnits"), 2, "mnist")


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    program = "import sys; from vaekit.cli.main import run; sys.argv = ['vaekit', 'recipes']; run()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 0 and done.stderr == ""
