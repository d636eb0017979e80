"""The handle on a run: a path that opens itself once, and holds its data to what it was trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import SIZES

from vaekit import evaluate, fit, train
from vaekit.errors import DataError
from vaekit.trained.run import Run, open_run

READING = ("evaluate", "latents", "traverse", "interpolate", "pictures", "anomalies", "quality", "reconstruct")


def folder_of_images(folder: Path, count: int = 30) -> Path:
    for i in range(count):
        values = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        path = folder / ("even" if i % 2 == 0 else "odd") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    return folder


@pytest.fixture
def on_a_folder(tmp_path):
    images = folder_of_images(tmp_path / "images")
    words = [w for w in SIZES if not w.startswith("data.")]
    options = ["data.size=8", "data.channels=1", "data.flip=false", "training.batch_size=8", "training.epochs=1"]
    return images, train("folder", *words, f"data.path={images}", *options, out=tmp_path / "run")


def test_it_is_a_path_and_what_lies_in_it_are_plain_paths(digits_run):
    run = open_run(digits_run)
    assert isinstance(digits_run, Run) and run is digits_run and run == Path(run) and run.is_dir()
    assert not isinstance(run / "config.yaml", Run) and not any(isinstance(path, Run) for path in run.iterdir())
    of_checkpoint = open_run(run.checkpoint)
    assert of_checkpoint == run and of_checkpoint.checkpoint == run.checkpoint


def test_model_and_data_are_read_once_and_again_after_another_training(digits_run, tmp_path):
    run = open_run(shutil.copytree(digits_run, tmp_path / "run"))
    trained, splits = run.trained, run.splits
    assert run.trained is trained and run.splits is splits and open_run(run) is run
    assert open_run(run, which="latest") is not run
    train(str(run / "config.yaml"), "training.epochs=4", out=run, resume=True)
    latest = open_run(run, which="latest")
    assert latest.trained.step > trained.step and latest.digest != open_run(digits_run, which="latest").digest


def test_one_file_more_is_refused_by_every_verb_that_reads_the_data(on_a_folder, vaekit):
    images, run = on_a_folder
    assert vaekit("evaluate", run, "--samples", 2).code == 0
    before = (run / "reports" / "metrics.json").read_text()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(images / "even" / "new.png")
    for verb in READING:
        answer = vaekit(verb, run)
        assert answer.code == 3 and "is not what" in answer.err and answer.err.count("\n") == 1, (verb, answer)
    answer = vaekit("neighbours", run, images / "odd" / "01.png")
    assert answer.code == 3 and "is not what" in answer.err
    assert (run / "reports" / "metrics.json").read_text() == before
    (images / "even" / "new.png").unlink()
    assert vaekit("evaluate", run, "--samples", 2).code == 0


def test_other_classes_are_other_data(on_a_folder, vaekit):
    images, run = on_a_folder
    (images / "odd").rename(images / "uneven")
    answer = vaekit("latents", run)
    assert answer.code == 3 and "classes" in answer.err


def test_another_image_under_the_same_name_is_other_data(on_a_folder):
    images, run = on_a_folder
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(images / "odd" / "01.png")
    with pytest.raises(DataError, match="a test image may be one that it learnt"):
        evaluate(run, samples=2)


def test_arrays_that_were_overwritten_are_other_data(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    words = [word for word in SIZES if not word.startswith("data.")]
    run = fit(images, None, *words, "training.epochs=1", out=tmp_path / "run")
    (kept,) = run.glob("images-*.npz")
    np.savez(kept, train_images=255 - images)
    with pytest.raises(DataError):
        evaluate(run, samples=2)
