"""A conditional model from training to samples: the label says which digit is drawn, and what is missing is named."""

import shutil

import pytest
import torch

from vaekit import load, train
from vaekit.errors import ConfigError
from vaekit.evaluation.ais import Annealing
from vaekit.evaluation.likelihood import bounds
from vaekit.trained.run import open_run
from vaekit.verbs import ais as ais_verb
from vaekit.verbs.evaluate import evaluate
from vaekit.verbs.interpolate import interpolate
from vaekit.verbs.sample import sample

WORDS = ["training.epochs=25", "model.latent_dim=4", "training.validate_every=200"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("digits-conditional", *WORDS, out=tmp_path_factory.mktemp("conditional") / "run")


def test_the_label_says_which_digit_is_drawn(run):
    """The nearest class mean of a sample is the class that was asked for, far more often than one time in ten."""
    trained = load(run)
    train_set = open_run(run).dataset("train")
    means = torch.stack([train_set.images[train_set.labels == k].float().mean(0).flatten() for k in range(10)])
    drawn = trained.sample_means(200, seed=1).flatten(1) * 255
    asked = torch.arange(200) % 10
    assert float((torch.cdist(drawn, means).argmin(1) == asked).float().mean()) > 0.8
    threes = load(run, given="3").sample_means(50, seed=1).flatten(1) * 255
    assert float((torch.cdist(threes, means).argmin(1) == 3).float().mean()) > 0.8


def test_the_right_labels_explain_the_images_better(run):
    trained = load(run)
    test = open_run(run).dataset("test")
    wrong = type(test)(test.images, (test.labels + 1) % 10, test.class_names)
    nll = [bounds(trained.model, data, trained.pixels, 5, 0).nll_nats for data in (test, wrong)]
    assert nll[0] < nll[1] - 2
    assert evaluate(run, samples=5)["nll_nats"] == pytest.approx(nll[0], rel=1e-6)


def test_the_models_own_images_of_annealing_are_of_every_class(run, monkeypatch, tmp_path):
    """The labels of images that are looked at in the order of a sorted folder, not of its first classes alone."""
    opened, heard = open_run(shutil.copytree(run, tmp_path / "run")), []
    test = opened.dataset("test")
    ordered = test.subset(test.labels.argsort(stable=True))
    monkeypatch.setattr(type(opened), "dataset", lambda self, split: ordered)
    monkeypatch.setattr(ais_verb, "open_run", lambda *_, **__: opened)
    monkeypatch.setattr(ais_verb, "gap", lambda *_, context, **__: heard.append(context) or {})
    ais_verb.ais("run", Annealing(1, 1, 1), images=40, own_images=20)
    assert set(heard[0].tolist()) == set(range(10))


def test_loose_images_need_a_class_and_take_the_one_that_is_given(run):
    trained = load(run)
    images = list(open_run(run).dataset("test").images[:2, 0].numpy())
    with pytest.raises(ConfigError, match=r"conditional on 10 classes: give the label .*--given"):
        trained.encode(images)
    given = load(run, given="5")
    context = torch.tensor([5, 5])
    x = given.pixels.of_loose_images(given.prepare(images))
    assert torch.equal(torch.from_numpy(given.encode(images)), given.model.encode(x, context)[0].detach())


def test_the_commands_on_the_latent_space_take_a_class(run):
    with pytest.raises(ConfigError, match="--given"):
        interpolate(open_run(run), (), pairs=2)
    assert interpolate(open_run(run, given="1"), (), pairs=2).paths
    assert sample(open_run(run), 20, sampler="mixture").paths


@pytest.mark.parametrize(("name", "message"), [("ten", "unknown class 'ten'"), ("12", "unknown class '12'")])
def test_an_unknown_class_is_named(run, name, message):
    with pytest.raises(ConfigError, match=message):
        load(run, given=name)
