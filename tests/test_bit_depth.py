"""Pixel values of 1 to 8 bits: the levels, alike in training and evaluation; what fits no likelihood is refused."""

import json
import math
import re

import pytest
import torch
from small_runs import SIZES

from vaekit import evaluate, train
from vaekit.cli.main import main
from vaekit.data.pixels import Pixels
from vaekit.densities.images import refusal
from vaekit.densities.logistics import DiscretisedLogisticImage
from vaekit.errors import ConfigError
from vaekit.evaluation.comparison import _measure
from vaekit.evaluation.evaluate import bits_offset
from vaekit.training.combinations import read_config

EVERY = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
GREY = ("data.binarize=none", "model.likelihood=discretised-logistic-mixture")


@pytest.mark.parametrize("bits", range(1, 9))
def test_values_are_cut_down_to_levels_of_equal_share(bits):
    """Black stays 0 and white 1, each level takes the same number of 8-bit values, in order."""
    x = Pixels(bits=bits).for_evaluation(EVERY, 0, 0).flatten()
    found, counts = x.unique(return_counts=True)
    assert torch.allclose(found * (2**bits - 1), torch.arange(2.0**bits), atol=1e-5)
    assert bool((counts == 2 ** (8 - bits)).all()) and bool((x.diff() >= 0).all())
    assert float(x[0]) == 0 and float(x[-1]) == 1


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_training_evaluation_and_loose_images_see_the_same_values(bits):
    pixels = Pixels(bits=bits)
    first = pixels.for_evaluation(EVERY, 0, 0)
    indices = torch.zeros(1, dtype=torch.int64)
    for other in (
        pixels.for_training(EVERY, indices, torch.tensor(0), 0),
        pixels.for_each(EVERY, 0),
        pixels.of_loose_images(EVERY),
    ):
        assert torch.equal(first, other)


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_dequantised_values_fill_the_cell_of_their_level(bits):
    pixels = Pixels(bits=bits, dequantization=True)
    x = pixels.for_evaluation(EVERY, 0, 0)
    assert torch.equal((x * 2**bits).floor().long(), EVERY.long() >> (8 - bits))
    black = pixels.for_evaluation(torch.zeros(1, 1, 16, 16, dtype=torch.uint8), 0, 0) * 2**bits
    assert 0 <= float(black.min()) < 0.05 and 0.95 < float(black.max()) < 1
    assert bits_offset("density", pixels) == bits


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*GREY, "model.likelihood.bits=5"], "describes values of 5 bits but data.bits=8; set data.bits=5"),
        ([*GREY, "data.bits=5"], "describes values of 8 bits but data.bits=5; set data.bits=8, or"),
        (["data.binarize=none", "data.bits=3", "model.likelihood=discretised-logistic"], "model.likelihood.bits=3"),
        ([*GREY, "data.bits=9"], "data.bits"),
        ([*GREY, "data.bits=0"], "data.bits"),
        ([*GREY, "data.bits=8", "model.likelihood.bits=9"], "bits"),
        (["data.bits=4"], "makes every value one bit"),
        ([*GREY, "model.likelihood.coupling=true"], "these images have one channel"),
        ([*GREY, "model.likelihood.components=0"], "components"),
        ([*GREY, "data.dequantize=true"], "dequantised values are for densities"),
        (["model.likelihood=discretised-logistic-mixture"], "gives 0/1 pixels"),
        (["data.binarize=none"], "'bernoulli' describes 0/1 pixels"),
    ],
)
def test_a_likelihood_that_cannot_describe_the_data_is_refused(words, told, capsys):
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_config("digits", words)
    assert main(["train", "digits", *words]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_fits_is_not_refused():
    for bits in range(1, 9):
        read_config("digits", [*GREY, f"data.bits={bits}", f"model.likelihood.bits={bits}"])
    read_config("digits", ["data.binarize=none", "data.bits=5", "model.likelihood=gaussian"])
    colour = "{kind: discretised-logistic-mixture, coupling: true}"
    read_config("digits", ["data.binarize=none", "data.channels=3", f"model.likelihood={colour}"])


@pytest.mark.parametrize("x", [0.5, -1 / 31, 32 / 31, math.nan, 1 / 255])
def test_values_off_the_grid_are_outside_the_support_and_named(x):
    px = DiscretisedLogisticImage(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), bits=5)
    batch = torch.tensor([0.0, 1 / 31, 30 / 31, 1.0]).view(1, 1, 2, 2).repeat(3, 1, 1, 1)
    assert refusal(px, batch) is None
    batch[1, 0, 0, 1] = x
    assert refusal(px, batch).startswith("1 of 3 images have values that it does not describe")


def test_a_run_of_four_bits_names_its_measure_and_counts_its_bits(tmp_path):
    words = [*SIZES, *GREY, "data.bits=4", "model.likelihood.bits=4", "training.epochs=1"]
    run = train("digits", *words, out=tmp_path / "run")
    metrics = evaluate(run, samples=4)
    assert (metrics["base_measure"], metrics["data_bits"]) == ("discrete-16", 4)
    assert metrics["bits_per_dim"] == pytest.approx(metrics["nll_nats"] / math.log(2) / 64)
    assert 0.5 < metrics["bits_per_dim"] < 6
    written = json.loads((run / "reports" / "metrics.json").read_text())
    assert written["base_measure"] == "discrete-16"


def test_densities_of_other_depths_are_another_measure():
    eight, five = ({"base_measure": "density", "dequantization": True, "data_bits": bits} for bits in (8, 5))
    assert _measure(eight) == "density, dequantised" != _measure(five)
