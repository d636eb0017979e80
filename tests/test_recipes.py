"""Every recipe says what it is, and takes one step on images of the shape of its data."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from vaekit import load, train
from vaekit.config.load import load_config, recipe_names
from vaekit.data import sources
from vaekit.data.dataset import Dataset
from vaekit.training.combinations import read_config

COUNT = 24


class Expected(NamedTuple):
    """What the network of a recipe must see and give."""

    shape: tuple[int, int, int]
    latent_dim: int
    widths: list[int] | None = None


EXPECTED = {
    "afhq": Expected((3, 64, 64), 128, [32, 64, 128, 256]),
    "arrays": Expected((1, 28, 28), 32),
    "cifar10": Expected((3, 32, 32), 128),
    "digits": Expected((1, 8, 8), 16),
    "digits-adversarial": Expected((1, 8, 8), 16),
    "digits-capacity": Expected((1, 8, 8), 16),
    "digits-ciwae": Expected((1, 8, 8), 16),
    "digits-conditional": Expected((1, 8, 8), 16),
    "digits-factor": Expected((1, 8, 8), 16),
    "digits-flow-prior": Expected((1, 8, 8), 16),
    "digits-fsq": Expected((1, 8, 8), 8),
    "digits-geco": Expected((1, 8, 8), 16),
    "digits-grid": Expected((1, 8, 8), 16, [48, 96]),
    "digits-iaf": Expected((1, 8, 8), 16),
    "digits-infovae": Expected((1, 8, 8), 16),
    "digits-iwae": Expected((1, 8, 8), 16),
    "digits-learned-prior": Expected((1, 8, 8), 16),
    "digits-maf": Expected((1, 8, 8), 16),
    "digits-miwae": Expected((1, 8, 8), 16),
    "digits-mixture": Expected((1, 8, 8), 16),
    "digits-stl": Expected((1, 8, 8), 16),
    "digits-tc": Expected((1, 8, 8), 16),
    "digits-top-down": Expected((1, 8, 8), 84),
    "digits-vamp": Expected((1, 8, 8), 16),
    "digits-vq": Expected((1, 8, 8), 16),
    "digits-vq-grid": Expected((1, 8, 8), 32, [48, 96]),
    "fashion-mnist": Expected((1, 32, 32), 32, [32, 64, 128]),
    "fashion-mnist-2d": Expected((1, 32, 32), 2, [32, 64, 128]),
    "folder": Expected((3, 64, 64), 64),
    "folder-grid": Expected((3, 64, 64), 512, [32, 64, 128]),
    "folder-logistics": Expected((3, 32, 32), 128, [32, 64, 128]),
    "frey-logistics": Expected((1, 28, 20), 32, [32, 64, 128]),
    "mnist": Expected((1, 28, 28), 40),
    "mnist-2d": Expected((1, 28, 28), 2),
    "mnist-beta": Expected((1, 28, 28), 20, [200]),
    "mnist-mlp": Expected((1, 28, 28), 20, [200]),
    "mnist-vamp": Expected((1, 28, 28), 40, [300, 300]),
    "sprites": Expected((1, 32, 32), 10, [256, 256]),
    "sprites-tc": Expected((1, 32, 32), 10, [256, 256]),
}


@pytest.fixture
def made_images(monkeypatch):
    """Every source gives the same few images, of its own shape (those of folders: 64×64 colour)."""

    def load_made(source, config, progress):
        shape = source.shape or EXPECTED[Path(config.path or "arrays").name].shape
        images = np.random.default_rng(0).integers(0, 256, (COUNT, *shape), np.uint8)
        labelled = Dataset(torch.from_numpy(images), torch.arange(COUNT) % 3, ("a", "b", "c"))
        return sources.Loaded(labelled, None, None, "made")

    for name, source in sources.SOURCES.items():
        monkeypatch.setitem(sources.SOURCES, name, replace(source, load=load_made))


def test_the_recipes_are_these():
    assert recipe_names() == sorted(EXPECTED)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_whence_it_comes_what_to_expect_and_what_it_costs(name):
    said = load_config(name).recipe
    for text in (said.about, said.source, said.expect, said.cost):
        assert len(text) > 10, f"{name}: {said}"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_trains_a_step(name, made_images, tmp_path):
    words = ["data.validation=4", "data.test=4", "training.batch_size=4", "training.epochs=0.25", "training.warmup=0"]
    words += ["model.prior.components=5"] if "vamp" in name else []  # it begins with as many images
    own = sources.SOURCES[load_config(name).data.source].shape is None  # its shape is that of one's files
    run = train(name, *words, *([f"data.path={name}"] if own else []), out=tmp_path / "run")
    trained = load(run)
    assert (trained.shape, trained.latent_dim) == EXPECTED[name][:2]
    assert EXPECTED[name].widths in (None, list(trained.config.model.network.options.get("widths", [])))
    assert np.isfinite(trained.history[-1]["distortion"]) and trained.history[-1]["skipped"] == 0
    assert trained.sample(2).shape[0] == 2


def test_the_weight_of_fashion_is_500_on_the_mean_over_pixels(made_images, tmp_path):
    words = ["data.validation=4", "data.test=4", "training.batch_size=4", "training.epochs=0.25"]
    row = load(train("fashion-mnist-2d", *words, out=tmp_path / "run")).history[-1]
    assert row["weight"] == 500 / (32 * 32) and row["beta"] == 1


def test_beta_is_the_only_difference_between_mnist_mlp_and_mnist_beta():
    plain, beta = read_config("mnist-mlp"), read_config("mnist-beta")
    assert beta.objective.options == {"beta": 4}
    alike = replace(beta, name=plain.name, recipe=plain.recipe, objective=plain.objective)
    assert alike == plain


@pytest.mark.parametrize("name", ["afhq", "digits", "fashion-mnist", "folder-logistics"])
def test_the_page_of_a_recipe_names_its_likelihood_and_the_option_for_another(vaekit, name):
    words = " ".join(vaekit("recipes", name).out.split())
    assert f"likelihood {load_config(name).model.likelihood.kind}" in words
    other = "bce" if load_config(name).model.likelihood.kind != "bce" else "gaussian"
    assert f"model.likelihood={other}" in words
