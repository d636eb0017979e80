"""A run goes on being usable when it moves, its data moves, or one stands elsewhere: the fingerprint decides."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_runs import SIZES, state_of, what_is_left
from test_run import folder_of_images

from vaekit import evaluate, fit, load, train
from vaekit.cli.main import app, name_of
from vaekit.data.places import whereabouts
from vaekit.errors import CheckpointError, DataError
from vaekit.trained.run import open_run
from vaekit.training.combinations import read_config
from vaekit.verbs.compare import compare, data_of
from vaekit.verbs.sweep import sweep

TINY = [word for word in SIZES if not word.startswith("data.")] + ["training.batch_size=8", "training.epochs=1"]
OF_FOLDER = [*TINY, "data.size=8", "data.channels=1", "data.flip=false", "data.test=40"]
# What each command that reads a run needs beside it, as small as it may be; None: it wants other images than these
WORDS = {
    "evaluate": ["--samples", "2"],
    "quality": [],
    "ais": ["--images", "2", "--temperatures", "3", "--chains", "2"],
    "disentanglement": None,
    "compare": ["--samples", "2"],
    "pictures": [],
    "reconstruct": [],
    "sample": ["--sampler", "mixture", "--count", "2"],
    "interpolate": [],
    "traverse": [],
    "arithmetic": ["class:even", "--plus", "class:odd"],
    "attribute": ["--class", "odd"],
    "neighbours": ["{data}/odd/01.png"],
    "latents": [],
    "anomalies": [],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project: `photos`, `mine.npz`, and a run on each, trained from relative paths. For copying."""
    project = tmp_path_factory.mktemp("made") / "project"
    folder_of_images(project / "photos", 100)
    np.savez(project / "mine.npz", train=np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        train("folder", *OF_FOLDER, "data.path=photos", out="runs/folder")
        train("arrays", *TINY, "data.path=mine.npz", out="runs/arrays")
    return project


@pytest.fixture
def project(made, tmp_path):
    """The project, moved as a whole: nothing lies where it was trained."""
    return Path(shutil.copytree(made, tmp_path / "project"))


@pytest.fixture
def gone(made, project):
    """The place of training is away meanwhile."""
    made.rename(made.with_name("away"))
    yield
    made.with_name("away").rename(made)


def same_data_is_found(run: Path, data_dir: Path | None = None) -> bool:
    found = open_run(run, data_dir=data_dir and str(data_dir)).splits
    return found.facts["fingerprint"] == state_of(run)["data"]["fingerprint"]


def test_another_working_directory_changes_nothing(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("folder", "arrays"):
        assert same_data_is_found(made / "runs" / kind)


def test_a_run_that_moved_finds_the_data_where_it_was(made, tmp_path, monkeypatch):
    for kind in ("folder", "arrays"):
        assert same_data_is_found(Path(shutil.copytree(made / "runs" / kind, tmp_path / f"other {kind}")))


def test_a_program_that_changes_its_directory_still_has_its_run(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    run = train("arrays", *TINY, "data.path=mine.npz", out="runs/new")
    monkeypatch.chdir(tmp_path)
    assert same_data_is_found(run) and load(run).shape == (1, 8, 8)
    assert "elbo_nats" in evaluate(run, samples=2)


@pytest.mark.usefixtures("gone")
def test_a_project_that_moved_as_a_whole_finds_its_own_data(project):
    for kind in ("folder", "arrays"):
        assert same_data_is_found(project / "runs" / kind)


@pytest.mark.usefixtures("gone")
def test_data_that_moved_is_found_by_data_dir_the_folder_itself_or_the_one_above(project, tmp_path, vaekit):
    pictures, store = tmp_path / "store" / "pictures", tmp_path / "store"
    store.mkdir()
    (project / "photos").rename(pictures)
    (project / "mine.npz").rename(store / "mine.npz")
    for kind, where in (("folder", pictures), ("arrays", store), ("arrays", store / "mine.npz")):
        run = project / "runs" / kind
        with pytest.raises(DataError, match="give --data-dir"):
            evaluate(run, samples=2)
        assert same_data_is_found(run, where)
    pictures.rename(store / "photos")
    assert same_data_is_found(project / "runs" / "folder", store)
    answer = vaekit("evaluate", project / "runs" / "folder", "--samples", 2, "--data-dir", store)
    assert answer.code == 0, answer.err


def test_other_data_is_refused_wherever_it_lies(project, tmp_path, vaekit):
    other = folder_of_images(tmp_path / "store" / "photos", 60)
    for where in (other, other.parent):
        answer = vaekit("latents", project / "runs" / "folder", "--data-dir", where)
        assert answer.code == 3 and "is not what" in answer.err and "--data-dir" in answer.err, answer
        assert str(other) in answer.err and answer.err.count("\n") == 1


def test_data_dir_wins_over_data_that_is_still_there_but_changed(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    run = train("folder", *OF_FOLDER, "data.path=photos", out="runs/again")
    backup = shutil.copytree("photos", tmp_path / "backup")
    (project / "photos" / "odd" / "01.png").unlink()
    with pytest.raises(DataError, match="is not what"):
        evaluate(run, samples=2)
    assert same_data_is_found(run, Path(backup))


@pytest.mark.usefixtures("gone")
def test_a_moved_run_resumes_and_then_knows_the_new_place(project, tmp_path, monkeypatch):
    run = project / "runs" / "folder"
    (project / "photos").rename(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="give --data-dir"):
        train(str(run / "config.yaml"), "training.epochs=2", out=run, resume=True)
    with pytest.raises(CheckpointError, match="not what this run was trained on"):
        folder_of_images(tmp_path / "other", 60)
        train(str(run / "config.yaml"), "training.epochs=2", out=run, resume=True, data_dir="other")
    train(str(run / "config.yaml"), "training.epochs=2", out=run, resume=True, data_dir="pictures")
    assert state_of(run)["config"]["data"]["path"] == str(tmp_path / "pictures")
    monkeypatch.chdir(project)
    assert same_data_is_found(run)
    (tmp_path / "pictures").rename(tmp_path / "photos")
    train(str(run / "config.yaml"), f"data.path={tmp_path / 'photos'}", "training.epochs=3", out=run, resume=True)
    assert state_of(run)["step"] == 3 * state_of(run)["steps_per_epoch"]


def test_the_images_of_fit_move_with_the_run_and_its_config_repeats_it(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    monkeypatch.chdir(tmp_path)
    run = fit(images, None, *TINY, out="run")
    stored = yaml.safe_load((run / "config.yaml").read_text())["data"]["path"]
    assert "/" not in stored and (run / stored).is_file()
    moved = run.rename(tmp_path / "moved")
    assert same_data_is_found(moved)
    fit(images, None, *TINY, "training.epochs=2", out=moved, resume=True)
    monkeypatch.chdir(tmp_path.parent)
    assert same_data_is_found(moved)
    again = train(str(moved / "config.yaml"), out=tmp_path / "again")
    new = fit(images, None, *TINY, "training.epochs=2", out=tmp_path / "new")
    assert what_is_left(again)["logs/history.csv"] == what_is_left(new)["logs/history.csv"]


def test_runs_of_before_are_read_absolute_or_relative_paths_and_all(project, tmp_path, monkeypatch):
    """They kept what was typed, and `fit` the absolute path of a file in the run."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    run = fit(images, None, *TINY, out=tmp_path / "run")
    (kept,) = run.glob("images-*.npz")
    old = "/nowhere/runs/mine/" + kept.name
    config = read_config("arrays", [f"data.path={old}"]).data
    assert [place.path for place in whereabouts(config, run)] == [str(kept)]
    for typed in ("photos", "./photos", "../project/photos", r"C:\Users\me\project\photos"):
        config = read_config("folder", [f"data.path={typed}"]).data
        monkeypatch.chdir(tmp_path)  # not where it was typed
        assert Path(next(whereabouts(config, project / "runs" / "folder")).path).samefile(project / "photos"), typed


def test_a_sweep_that_is_there_is_read_where_its_data_lies_now(tmp_path):
    folder_of_images(tmp_path / "photos", 60)
    options = [word for word in OF_FOLDER if "widths" not in word]
    words = dict(word.split("=", 1) for word in options)  # a sweep takes a key once

    def swept(where: Path, samples: int) -> None:
        chosen = words | {"model.network": "mlp", "data.path": where}
        keys = [f"{key}={value}" for key, value in chosen.items()]
        sweep("folder", *keys, out=tmp_path / "sweep", samples=samples)

    swept(tmp_path / "photos", 2)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    swept(tmp_path / "elsewhere", 3)


@pytest.mark.parametrize(
    ("typed", "data_dir", "found"),
    [
        (None, "photos", "photos"),
        ("photos", ".", "photos"),
        ("old/photos", ".", "photos"),
        ("photos", "empty", "photos"),  # nothing of that name there: what was typed
        ("photos", "other", "other/photos"),  # below --data-dir first
    ],
)
def test_a_new_training_takes_data_dir_for_the_folder_or_the_one_above(tmp_path, monkeypatch, typed, data_dir, found):
    for name in ("photos", "empty", "other/photos"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = read_config("folder", [f"data.path={typed}"] if typed else [], data_dir)
    assert (config.data.path, config.data.root) == (str(tmp_path / found), None)


def test_a_named_data_set_is_looked_for_where_it_moved_to_and_in_the_common_place_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config("mnist", [], "data").data
    assert config.root == str(tmp_path / "data")
    run = tmp_path / "moved" / "runs" / "mnist"
    (tmp_path / "moved" / "data").mkdir(parents=True)
    assert [place.root for place in whereabouts(config, run)] == [str(tmp_path / "moved" / "data"), None]
    (tmp_path / "data").mkdir()
    assert next(whereabouts(config, run)).root == str(tmp_path / "data")
    assert [place.root for place in whereabouts(config, run, "there")] == ["there"]


def test_weights_to_start_from_are_named_for_good(made, project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    words = [*TINY, "data.path=mine.npz", "training.start_from=runs/arrays"]
    run = train("arrays", *words, out=tmp_path / "run")
    assert state_of(run)["config"]["training"]["start_from"] == str(project / "runs" / "arrays")
    train("arrays", *words, "training.epochs=2", out=run, resume=True)


def test_runs_that_hold_images_of_one_name_are_not_said_to_have_the_same(made, tmp_path):
    said = []
    for run in (tmp_path / "one", tmp_path / "two"):
        shutil.copytree(made / "photos", run / "photos")
        train("folder", *OF_FOLDER, f"data.path={run / 'photos'}", out=run)
        assert state_of(run)["config"]["data"]["path"] == "photos" and same_data_is_found(run)
        said.append(data_of(open_run(run)))
    assert said[0] != said[1]


@pytest.mark.slow
def test_the_same_images_in_two_places_are_compared_as_the_same(made, project, tmp_path):
    run = train("folder", *OF_FOLDER, f"data.path={project / 'photos'}", out=tmp_path / "run")
    compared = compare([made / "runs" / "folder", run], out=tmp_path / "compare", samples=2)
    assert not any("different test images" in note for note in compared.table.notes)


def test_every_command_that_opens_a_run_takes_data_dir_and_is_walked_here():
    opening = {}
    for command in app.registered_commands:
        parameters = command.callback.__annotations__
        if "run" in parameters or "runs" in parameters:
            opening[name_of(command)] = parameters
    assert opening.keys() == WORDS.keys()
    assert all("data_dir" in parameters for parameters in opening.values())


@pytest.mark.slow
@pytest.mark.usefixtures("gone")
@pytest.mark.parametrize("verb", [verb for verb, words in WORDS.items() if words is not None])
def test_every_verb_works_on_a_moved_run_and_on_moved_data(project, tmp_path, monkeypatch, vaekit, verb):
    monkeypatch.chdir(tmp_path)
    run, data = project / "runs" / "folder", project / "photos"
    again = [shutil.copytree(run, project / "runs" / "other")] if verb == "compare" else []
    words = [word.replace("{data}", str(data)) for word in WORDS[verb]]
    answer = vaekit(verb, run, *again, *words)
    assert answer.code == 0, answer.err
    pictures = data.rename(tmp_path / "pictures")
    shutil.rmtree(run / "samplers", ignore_errors=True)  # one that is saved needs no data
    words = [word.replace(str(data), str(pictures)) for word in words]
    answer = vaekit(verb, run, *again, *words)
    assert answer.code == 3 and "--data-dir" in answer.err and answer.err.count("\n") == 1, answer
    answer = vaekit(verb, run, *again, *words, "--data-dir", "pictures")
    assert answer.code == 0, answer.err
