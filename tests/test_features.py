"""Feature extractors: the published network's shape, a proxy that has learnt its classes, and one table of sources."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from vaekit.data.dataset import Dataset
from vaekit.errors import CheckpointError, ConfigError, DataError, NumericalError
from vaekit.evaluation import features
from vaekit.evaluation.features import Extractor, SmallConvolutions, accuracy, extractor_for
from vaekit.evaluation.sets import score_sources
from vaekit.files import SUM
from vaekit.networks.pretrained import inception
from vaekit.networks.pretrained.inception import INCEPTION, Inception
from vaekit.networks.pretrained.weights import fill
from vaekit.trained.model import load
from vaekit.trained.run import open_run
from vaekit.trained.samplers import load_sampler
from vaekit.training.checkpoint import checkpoints_folder, saved_steps
from vaekit.verbs.quality import held_out_halves, quality, sampled, sources_of


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(features, "MOST_PASSES", 8)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = Inception()
    for module in made.modules():  # otherwise the batch norms do nothing yet
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.01, 0.1)
    return made


def test_inception_is_the_published_network(network):
    """94 convolutions of 21,785,568 weights in all, as published; shapes of the paper."""
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 94
    assert sum(p.numel() for p in network.parameters()) == 21_785_568
    names = set(network.state_dict())
    assert {
        "Conv2d_1a_3x3.conv.weight", "Conv2d_4a_3x3.bn.running_var", "Mixed_5b.branch5x5_2.conv.weight",
        "Mixed_5d.branch3x3dbl_3.bn.bias", "Mixed_5c.branch_pool.conv.weight", "Mixed_6a.branch3x3.conv.weight",
        "Mixed_6e.branch7x7dbl_5.conv.weight", "Mixed_7a.branch7x7x3_4.bn.weight",
        "Mixed_7b.branch3x3_2b.conv.weight", "Mixed_7c.branch3x3dbl_3a.bn.running_mean",
    } <= names  # fmt: skip
    shapes = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda m, x, y, name=name: shapes.update({name: tuple(y.shape[1:])}))
    assert network(torch.rand(1, 3, 40, 30)).shape == (1, 2048)
    assert shapes["Conv2d_1a_3x3"] == (32, 149, 149)
    assert shapes["Conv2d_4a_3x3"] == (192, 71, 71)
    assert [shapes[f"Mixed_5{i}"] for i in "bcd"] == [(256, 35, 35), (288, 35, 35), (288, 35, 35)]
    assert all(shapes[f"Mixed_6{i}"] == (768, 17, 17) for i in "abcde")
    assert [shapes[f"Mixed_7{i}"] for i in "abc"] == [(1280, 8, 8), (2048, 8, 8), (2048, 8, 8)]


def test_inceptions_last_blocks_are_what_they_say_by_hand(network):
    x = torch.rand(1, 2048, 8, 8)
    block = network.Mixed_7c

    def layer(name, value, padding):
        own = getattr(block, name)
        value = torch.nn.functional.conv2d(value, own.conv.weight, padding=padding)
        bn = own.bn
        scale = bn.weight / (bn.running_var + 0.001).sqrt()
        return (value * scale.view(-1, 1, 1) + (bn.bias - bn.running_mean * scale).view(-1, 1, 1)).relu()

    three = layer("branch3x3_1", x, 0)
    twice = layer("branch3x3dbl_2", layer("branch3x3dbl_1", x, 0), 1)
    expected = torch.cat(
        [
            layer("branch1x1", x, 0),
            layer("branch3x3_2a", three, (0, 1)),
            layer("branch3x3_2b", three, (1, 0)),
            layer("branch3x3dbl_3a", twice, (0, 1)),
            layer("branch3x3dbl_3b", twice, (1, 0)),
            layer("branch_pool", torch.nn.functional.max_pool2d(x, 3, 1, 1), 0),
        ],
        1,
    )
    assert torch.allclose(block(x), expected, atol=1e-4)
    # the average of the other blocks does not count the padding: a constant stays constant up to the edge
    assert torch.equal(inception._average(torch.ones(1, 2, 5, 5)), torch.ones(1, 2, 5, 5))


def test_inception_sees_grey_as_colour_and_takes_weights_with_a_classifier(network, tmp_path):
    x = torch.rand(1, 1, 20, 28)
    assert torch.equal(network(x), network(x.expand(-1, 3, -1, -1)))
    tensors = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    other = Inception()
    fill(other, tensors | {"fc.weight": torch.zeros(1008, 2048)}, tmp_path)
    assert torch.equal(other(x), network(x))
    tensors.pop("Mixed_7c.branch1x1.conv.weight")
    with pytest.raises(CheckpointError, match=r"Mixed_7c.branch1x1.conv.weight.*absent"):
        fill(other, tensors, tmp_path)


def stripes(count, seed=0, side=9):
    """Two classes that a glance tells apart: dark-left and dark-right images, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = torch.randint(0, 100, (count, 1, side, 7), generator=generator, dtype=torch.uint8)
    images[labels == 0, :, :, :3] += 150
    images[labels == 1, :, :, 4:] += 150
    return Dataset(images, labels, ("left", "right"))


def test_a_proxy_learns_its_classes_is_kept_and_leaves_the_generator_alone():
    train, test = stripes(300), stripes(100, 1)
    state, said = torch.get_rng_state(), []
    proxy = extractor_for(train, "a" * 64, (9, 7), announce=said.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert proxy.name == "proxy" and len(said) == 1
    assert accuracy(proxy, test, (9, 7)) > 0.98
    found = proxy.features(train.images)
    assert torch.allclose(found.mean(0), torch.zeros(64), atol=0.05)
    again = extractor_for(train, "a" * 64, (9, 7), announce=said.append)
    assert len(said) == 1  # from the cache
    assert torch.equal(again.features(test.images), proxy.features(test.images))
    other = extractor_for(train, "b" * 64, (9, 7), announce=said.append)
    assert len(said) == 2
    assert torch.equal(other.features(test.images), proxy.features(test.images))  # a function of the data alone


def test_a_damaged_proxy_is_trained_again():
    from vaekit.data.store import cache_root

    train, said = stripes(100), []
    extractor_for(train, "c" * 64, (9, 7))
    path = next((cache_root() / "features").iterdir())
    path.write_bytes(b"nonsense")
    extractor_for(train, "c" * 64, (9, 7), announce=said.append)
    assert "again" in said[0]
    assert path.stat().st_size > 1000


def test_without_labels_the_features_are_random_and_say_so():
    data = stripes(100)
    made = extractor_for(Dataset(data.images), "d" * 64, (9, 7))
    assert made.name == "random" and "not FID" in made.about
    again = extractor_for(Dataset(data.images), "e" * 64, (9, 7))
    assert torch.equal(made.features(data.images), again.features(data.images))
    assert torch.allclose(made.features(data.images).std(0), torch.ones(64), atol=0.01)


def test_features_see_the_same_in_bytes_and_in_floats():
    data = stripes(30)
    made = extractor_for(Dataset(data.images), "d" * 64, (9, 7))
    assert torch.allclose(made.features(data.images), made.features(data.images.float() / 255), atol=1e-5)


def test_the_accuracy_of_a_proxy_is_of_every_image():
    """Of 600, in batches of 256: the first 200 are named rightly, and no other."""
    torch.manual_seed(0)
    network = SmallConvolutions((1, 9, 7), 2).eval()
    data = stripes(600)
    with torch.no_grad():
        named = network.logits(data.images.float() / 255).argmax(1)
    labels = torch.where(torch.arange(600) < 200, named, 1 - named)
    extractor = Extractor("proxy", "", network)
    assert accuracy(extractor, Dataset(data.images, labels, data.class_names), (9, 7)) == pytest.approx(1 / 3)


def test_a_source_is_rounded_to_the_nearest_of_256_values():
    """As a file of it would be: less than half a grey value, up or down, is no distance."""
    train = stripes(100)
    plain = extractor_for(Dataset(train.images), "a" * 64, (9, 7))
    real = stripes(60, 1).images
    for off in (-0.4, 0.0, 0.4):
        (row,) = score_sources(plain, real, {"moved": lambda n, off=off: (real[:n].float() + off) / 255})
        assert row.frechet == pytest.approx(0, abs=1e-6), off


def test_real_is_best_noise_is_worst_and_a_lost_class_costs_recall():
    train, test = stripes(400), stripes(200, 1)
    proxy = extractor_for(train, "a" * 64, (9, 7))
    other = stripes(600, 2)
    sources = {
        "real": lambda n: other.images[:n].float() / 255,
        "one_class": lambda n: other.images[other.labels == 0][:n].float() / 255,
        "noise": lambda n: torch.rand(n, 1, 9, 7, generator=torch.Generator().manual_seed(0)),
    }
    real, one, noise = score_sources(proxy, test.images, sources)
    assert real.frechet < one.frechet and real.frechet < noise.frechet
    assert abs(real.kernel) < 4 * real.kernel_se and noise.kernel > 4 * noise.kernel_se
    assert one.recall < 0.7 * real.recall and one.coverage < 0.7 * real.coverage
    assert one.precision > 0.9 * real.precision
    assert noise.precision < 0.5 * real.precision


def test_a_source_of_nan_and_too_few_images_are_refused():
    made = Extractor("random", "", torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="too few"):
        list(score_sources(made, stripes(10).images, {}))
    extractor = extractor_for(Dataset(stripes(50).images), "d" * 64, (9, 7))
    with pytest.raises(NumericalError, match="'broken'"):
        list(score_sources(extractor, stripes(20).images, {"broken": lambda n: torch.full((n, 1, 9, 7), torch.nan)}))


def test_halves_have_no_image_in_common_and_take_the_validation_set_only_where_needed():
    test = Dataset(torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1))
    validation = Dataset(torch.arange(100, 130, dtype=torch.uint8).view(-1, 1, 1, 1))
    first, second = held_out_halves(test, validation, 20, 0)
    assert sorted(torch.cat([first.images, second.images]).flatten().tolist()) == list(range(40))
    first, second = held_out_halves(test, validation, 1000, 0)
    both = torch.cat([first.images, second.images]).flatten().tolist()
    assert len(first) == len(second) == 35 and len(set(both)) == 70
    assert not torch.equal(first.images, held_out_halves(test, validation, 1000, 1)[0].images)
    with pytest.raises(DataError, match="empty"):
        held_out_halves(test.subset(torch.arange(0)), validation, 10, 0)


def test_the_command_writes_one_table_beside_the_other_metrics(digits_run, vaekit, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    assert vaekit("evaluate", run, "-k", 2).code == 0
    before = json.loads((run / "reports" / "metrics.json").read_text())
    answer = vaekit("quality", run, "--count", 60, "--drawn")
    assert answer.code == 0, answer.err
    assert "mixture samples" in answer.out and (run / "samplers" / "mixture").is_dir() and "not FID" in answer.out
    rows = list(csv.DictReader((run / "reports" / "quality.csv").open()))
    assert [row["source"] for row in rows] == [
        "real", "reconstructions", "reconstructions_drawn", "prior_samples", "prior_samples_drawn",
        "mixture_samples",
    ]  # fmt: skip
    after = json.loads((run / "reports" / "metrics.json").read_text())
    assert {key: value for key, value in before.items() if key != SUM}.items() <= after.items()
    assert after["proxy_frechet_prior_samples"] == pytest.approx(float(rows[3]["frechet"]))
    assert float(rows[0]["frechet"]) < float(rows[1]["frechet"])  # three epochs are not enough to look real
    assert vaekit("evaluate", run, "-k", 2).code == 0  # the same weights: the table stays
    assert json.loads((run / "reports" / "metrics.json").read_text()) == after
    table = (run / "reports" / "metrics.csv").read_text()
    assert "proxy_recall_reconstructions" in table and "ms_ssim" in table


def test_more_sources_are_rows_and_the_same_seed_gives_the_same_numbers(digits_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    grey = {"grey": lambda n: torch.full((n, 1, 8, 8), 0.5)}
    first, second = (quality(run, count=50, sources=grey) for _ in range(2))
    assert first.rows == second.rows
    assert [row.source for row in first.rows] == ["real", "reconstructions", "prior_samples", "grey"]
    assert first.rows[3].recall < 0.1
    assert quality(run, count=50, seed=1).rows != first.rows[:3]


def test_a_sampler_is_a_row_fitted_once_and_others_only_where_asked_for(digits_run, vaekit, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")

    def rows():
        return {row["source"]: row for row in csv.DictReader((run / "reports" / "quality.csv").open())}

    first = vaekit("quality", run, "--count", 40)
    assert first.code == 0 and "fitted the mixture" in first.out and "mixture samples" in first.out
    assert list(rows()) == ["real", "reconstructions", "prior_samples", "mixture_samples"]
    found = rows()["mixture_samples"]
    again = vaekit("quality", run, "--count", 40)
    assert "fitted the mixture" not in again.out and rows()["mixture_samples"] == found
    assert vaekit("quality", run, "--count", 40, "--sampler", "prior").code == 0
    assert "mixture_samples" not in rows()
    answer = vaekit("quality", run, "--sampler", "mixtur")
    assert answer.code == 2 and "did you mean 'mixture'" in answer.err and answer.err.count("\n") == 1


def test_a_saved_sampler_whose_package_is_gone_costs_its_row_alone(digits_run, vaekit, tmp_path, monkeypatch):
    pytest.importorskip("zuko")
    run = shutil.copytree(digits_run, tmp_path / "run")
    assert vaekit("sample", run, "--sampler", "flow", "--count", 4).code == 0
    whole = vaekit("quality", run, "--count", 40)
    assert "flow samples" in whole.out and "unavailable" not in whole.out
    monkeypatch.setitem(sys.modules, "zuko", None)
    answer = vaekit("quality", run, "--count", 40)
    assert answer.code == 0, answer.err
    (line,) = (line for line in answer.out.splitlines() if "flow samples" in line)
    assert "unavailable, needs zuko" in line
    same = [line for line in whole.out.splitlines() if line.split()[:1] in (["real"], ["prior"], ["mixture"])]
    assert len(same) == 3 and [line.split() for line in same] == [
        line.split() for line in answer.out.splitlines() if line.split()[:1] in (["real"], ["prior"], ["mixture"])
    ]
    asked = vaekit("quality", run, "--count", 40, "--sampler", "flow")
    assert asked.code == 2 and "vaekit[flows]" in asked.err and asked.err.count("\n") == 1


def test_a_row_of_a_sampler_shows_what_the_sampler_draws(digits_run, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")
    trained = load(run)
    train_set = open_run(run).dataset("train")
    images = sampled(trained, run, "mixture", train_set, 3, lambda text: None)(300)
    codes = load_sampler(run, trained, "mixture").sampler.sample(300, seed=3)
    assert np.array_equal(trained.to_images(images), trained.decode(codes))


def test_draws_are_of_the_likelihood_around_the_means(digits_run):
    trained = load(digits_run)
    images = open_run(digits_run).dataset("test")
    state = torch.get_rng_state()
    made = {name: source(200) for name, source in sources_of(trained, images, 0, drawn=True).items()}
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("reconstructions", "prior_samples"):
        means, draws = made[name], made[f"{name}_drawn"]
        assert set(draws.unique().tolist()) == {0.0, 1.0}  # a Bernoulli pixel
        assert not set(means.unique().tolist()) <= {0.0, 1.0}
        assert float((draws - means).mean()) == pytest.approx(0, abs=4 * 0.5 / draws.numel() ** 0.5)


def test_a_table_of_other_weights_is_dropped(digits_run, vaekit, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    assert vaekit("quality", run, "--count", 40).code == 0
    steps = saved_steps(run)
    assert len(steps) > 1
    assert vaekit("evaluate", checkpoints_folder(run) / f"step-{steps[0]:08d}", "-k", 2).code == 0
    assert "proxy_frechet_real" not in json.loads((run / "reports" / "metrics.json").read_text())


def test_bad_input_is_one_line(digits_run, vaekit, tmp_path):
    answer = vaekit("quality", digits_run, "--weights", tmp_path / "nowhere")
    assert answer.code == 2 and "no folder" in answer.err and answer.err.count("\n") == 1
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / INCEPTION.name).write_bytes(b"not weights")
    answer = vaekit("quality", digits_run, "--weights", tmp_path / "w")
    assert answer.code == 4 and "SHA-256" in answer.err and answer.err.count("\n") == 1
    assert vaekit("quality", tmp_path / "none").code == 4
    assert vaekit("quality", digits_run, "--count", 3).code == 2
    answer = vaekit("quality", digits_run, "--sampler", "mixtur")
    assert answer.code == 2 and "mixture" in answer.err
