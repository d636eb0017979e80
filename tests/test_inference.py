"""One's own images through a model: numbers of an image depend on it and the seed alone, and nothing stops the rest."""

from __future__ import annotations

import csv
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import SIZES
from test_cli import assert_refused

from vaekit.config.schema import Part
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.evaluate import evaluate_model
from vaekit.evaluation.likelihood import bounds, bounds_of_each
from vaekit.models.build import vae
from vaekit.trained.model import load
from vaekit.trained.own_images import Scorer, coding_of, image_files, read_images
from vaekit.trained.run import open_run
from vaekit.verbs.anomalies import anomalies, percentiles
from vaekit.verbs.reconstruct import reconstruct
from vaekit.verbs.train import train


@pytest.fixture
def run(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(digits_run):
    return load(digits_run)


@pytest.fixture(scope="module")
def test_set(digits_run):
    return open_run(digits_run).dataset("test")


@pytest.fixture
def folder(tmp_path, test_set):
    """Twelve test digits, two of them one folder deeper, beside a file that is no image."""
    place = tmp_path / "mine"
    (place / "deeper").mkdir(parents=True)
    for number, image in enumerate(test_set.images[:12, 0].numpy()):
        Image.fromarray(image).save(place / ("deeper" if number > 9 else "") / f"{number:02}.png")
    (place / "notes.txt").write_text("no image")
    return place


def scores_of(scorer, places, batch=128):
    reading = read_images(scorer, places)
    reading.batch = batch
    return {score.name: score for part in reading for score in part.scores}


def table_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# Numbers


def test_the_elbo_of_a_file_is_what_evaluate_says_of_that_image_alone(trained, test_set, folder):
    """Also of the first image of the test set within the whole set, which has the same noise."""
    for score, image in zip(scores_of(Scorer(trained, 7, seed=3), [folder]).values(), test_set.images, strict=False):
        alone = bounds(trained.model, Dataset(image[None]), trained.pixels, 7, 3)
        assert score.elbo_nats == pytest.approx(float(alone.elbo), rel=1e-5)
        assert score.rate_nats == pytest.approx(float(alone.rate), rel=1e-5)
    twice = Dataset(test_set.images[[0, 0]])  # evaluate wants two for its error bar
    metrics = evaluate_model(trained.model, twice, Pixels("threshold"), samples=1, seed=3).metrics
    bits = coding_of(trained).bits(metrics["elbo_nats"])
    assert bits == pytest.approx(metrics["elbo_bits_per_dim"] * 64)
    whole = bounds(trained.model, test_set, trained.pixels, 7, 3)
    first = scores_of(Scorer(trained, 7, seed=3), [folder / "00.png"])[str(folder / "00.png")]
    assert first.elbo_nats == pytest.approx(float(whole.elbo[0]), rel=1e-5)


def test_another_seed_binarises_and_draws_anew(trained, folder):
    first, second = (scores_of(Scorer(trained, 2, seed), [folder / "00.png"]).popitem()[1] for seed in (0, 1))
    assert first.elbo_nats != second.elbo_nats
    assert first.psnr_db == second.psnr_db  # of the image itself, which has no noise


def test_numbers_depend_on_no_batch_and_no_order(trained, folder):
    scorer = Scorer(trained, 20)
    files, _ = image_files([folder])
    reference = scores_of(scorer, files)
    for places, batch in ((files, 1), (files, 5), (files[::-1], 7), ([files[3]], 1)):
        for name, score in scores_of(scorer, places, batch).items():
            assert list(score[1:]) == pytest.approx(list(reference[name][1:]), rel=1e-5), (name, batch)


@pytest.mark.parametrize("rows", [1, 16, 40, 1000])
@pytest.mark.parametrize("pixels", [Pixels("dynamic"), Pixels("fixed"), Pixels("threshold")])
def test_bounds_of_each_are_those_of_data_sets_of_one_image(pixels, rows):
    torch.manual_seed(0)
    model = vae((1, 6, 5), 3, Part("mlp", {"widths": (8,)})).eval()
    images = torch.randint(0, 256, (6, 1, 6, 5), dtype=torch.uint8)
    found = bounds_of_each(model, images, pixels, 35, 2, rows=rows)
    for number, image in enumerate(images):
        alone = bounds(model, Dataset(image[None]), pixels, 35, 2)
        for name in ("elbo", "rate", "importance"):
            assert float(getattr(found, name)[number]) == pytest.approx(float(getattr(alone, name)[0]), rel=1e-5)


def test_reconstructions_and_codes_are_those_of_the_loaded_model(run, trained, folder):
    made = reconstruct(run, [folder], single=True, arrays=True)
    files, _ = image_files([folder])
    assert np.array_equal(np.load(run / "grids" / "reconstructions.npy"), trained.reconstruct(files))
    assert np.allclose(np.load(run / "grids" / "codes.npy"), trained.encode(files), atol=1e-5)
    singles = [np.asarray(Image.open(run / "grids" / "reconstructions" / f"{file.stem}.png")) for file in files]
    assert np.array_equal(np.stack(singles), trained.reconstruct(files))
    assert [score.name for score in made.scores] == [str(file) for file in files]


# Compression


class Fake:
    """What `coding_of` looks at, of a model of 5×4 images padded to 6×5."""

    def __init__(self, likelihood, pixels):
        self.model = vae((3, 6, 5), 4, Part("mlp", {"widths": (8,)}), likelihood).eval()
        self.shape, self.content_size, self.latent_dim, self.pixels = (3, 6, 5), (5, 4), 4, pixels


def test_compression_is_input_over_code_in_values_and_in_bits():
    discrete = coding_of(Fake("discretised-logistic", Pixels()))
    assert (discrete.input_values, discrete.latent_values, discrete.values_ratio) == (60, 4, 15)
    assert discrete.input_bits == 8 * 60
    assert discrete.bits(-60 * math.log(2)) == pytest.approx(60)
    binary = coding_of(Fake("bernoulli", Pixels("dynamic")))
    assert binary.input_bits == 60  # a 0/1 pixel is one bit: eight would flatter the model
    four = coding_of(Fake(Part("discretised-logistic", {"bits": 4}), Pixels(bits=4)))
    assert four.input_bits == 4 * 60


def test_a_density_implies_bits_only_where_values_were_dequantised():
    """A uniform density on [0, 1] says nothing of a value: 8 bits each, padding included."""
    assert coding_of(Fake("gaussian", Pixels(dequantization=True))).bits(0.0) == 8 * 3 * 6 * 5
    plain = coding_of(Fake("gaussian", Pixels()))
    assert plain.input_bits is None and "dequantize" in plain.reason
    assert "no likelihood" in coding_of(Fake("bce", Pixels())).reason


def test_the_table_holds_the_ratios_of_each_file(run, trained, folder):
    reconstruct(run, [folder], samples=3)
    rows = table_of(run / "reports" / "reconstructions.csv")
    assert len(rows) == 12
    for row in rows:
        bits = -float(row["elbo_nats"]) / math.log(2)
        assert float(row["bits"]) == pytest.approx(bits)
        assert float(row["bits_ratio"]) == pytest.approx(64 / bits)
        assert float(row["bits_per_dim"]) == pytest.approx(bits / 64)
        assert float(row["values_ratio"]) == 16 and row["error"] == ""


def test_an_autoencoder_has_psnr_but_no_elbo_and_no_bits(tmp_path, folder, vaekit):
    run = train("digits", *SIZES, "model.kind=autoencoder", "training.epochs=1", out=tmp_path / "run")
    made = reconstruct(run, [folder])
    assert all(score.elbo_nats is None and score.bits is None and score.psnr_db > 0 for score in made.scores)
    answer = vaekit("reconstruct", run, folder)
    assert answer.code == 0 and "an autoencoder has no ELBO" in answer.out
    assert_refused(vaekit("anomalies", run, folder), 2, "an autoencoder has no ELBO", "model.kind=vae")


# Files


def test_any_size_and_mode_goes_in(run, tmp_path):
    place = tmp_path / "odd"
    place.mkdir()
    noise = np.random.default_rng(0)
    for mode, size in (
        ("RGB", (30, 12)),
        ("RGBA", (8, 8)),
        ("L", (1, 50)),
        ("1", (9, 9)),
        ("P", (20, 20)),
        ("LA", (5, 7)),
    ):
        channels = len(Image.new(mode, (1, 1)).getbands())
        pixels = noise.integers(0, 256, (*size[::-1], channels), np.uint8)
        made = Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
        made.convert(mode).save(place / f"{mode}.png")
    Image.fromarray(noise.integers(0, 65536, (8, 8), np.uint16)).save(place / "16.png")
    made = reconstruct(run, [place])
    assert len(made.scores) == 7 and not made.failures
    assert all(math.isfinite(score.elbo_nats) for score in made.scores)


def test_many_images_take_pages_and_old_pages_go_away(run, folder, monkeypatch):
    monkeypatch.setattr("vaekit.verbs.reconstruct.PER_PAGE", 5)
    made = reconstruct(run, [folder])
    names = [path.name for path in made.paths]
    assert names == ["reconstructions.png", "reconstructions-2.png", "reconstructions-3.png", "reconstructions.csv"]
    assert made.undrawn == 0
    assert reconstruct(run, [folder], pages=2).undrawn == 2
    assert sorted(p.name for p in (run / "grids").iterdir()) == ["reconstructions-2.png", "reconstructions.png"]


def test_a_long_folder_is_not_held_in_memory(trained, folder, monkeypatch):
    """At any time, no more images are prepared than one batch holds."""
    live, most = [0], [0]
    prepare = trained.prepare

    def counting(image):
        live[0] += 1
        most[0] = max(most[0], live[0])
        return prepare(image)

    monkeypatch.setattr(trained, "prepare", counting)
    reading = read_images(Scorer(trained, 1), [folder])
    reading.batch = 4
    for part in reading:
        live[0] -= len(part.scores)
    assert most[0] == 4


def test_names_that_two_folders_share_keep_their_own_picture(run, folder):
    (folder / "deeper" / "00.png").write_bytes((folder / "05.png").read_bytes())
    reconstruct(run, [folder], single=True)
    assert len(list((run / "grids" / "reconstructions").iterdir())) == 13


def test_unreadable_files_are_named_and_the_others_processed(vaekit, run, folder):
    (folder / "broken.png").write_bytes((folder / "01.png").read_bytes()[:40])
    for verb, table in (("reconstruct", "reconstructions"), ("anomalies", "anomalies")):
        answer = vaekit(verb, run, folder, folder / "absent.png")
        assert_refused(answer, 3, "broken.png", "absent.png")
        assert "12 images" in answer.out
        rows = table_of(run / "reports" / f"{table}.csv")
        assert len(rows) == 14 and sum(row["error"] != "" for row in rows) == 2


@pytest.mark.parametrize("verb", ["reconstruct", "anomalies"])
def test_nothing_to_read_is_one_line_and_writes_nothing(vaekit, run, tmp_path, verb):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    assert_refused(vaekit(verb, run, tmp_path / "empty"), 3, "there are no images in the folder", "empty")
    assert_refused(vaekit(verb, run, tmp_path / "text.png"), 3, "cannot read", "text.png")
    assert_refused(vaekit(verb, tmp_path / "none", tmp_path / "text.png"), 4, "no run at")
    (tmp_path / "bare").mkdir()
    assert_refused(vaekit(verb, tmp_path / "bare", tmp_path / "text.png"), 4, "holds no checkpoint")
    assert not (run / "grids").exists() and not (run / "reports").exists()


def test_hundreds_of_unreadable_files_are_one_line_that_names_ten(vaekit, run, folder):
    for number in range(30):
        (folder / f"bad-{number:02}.png").write_text("no image")
    answer = vaekit("reconstruct", run, folder)
    assert_refused(answer, 3, "bad-00.png", "and 20 more", "reconstructions.csv")
    assert "bad-10.png" not in answer.err


# Anomalies


def test_the_test_images_own_percentiles_are_uniform(run):
    """Also that none is missing: rank i of N stands at 100 (i - 1/2) / N, and equal images share a place."""
    found = anomalies(run, samples=2)
    count = len(found.ranking)
    assert count == len(found.reference) == 359
    elbos = [entry.elbo_nats for entry in found.ranking]
    single = [entry for entry in found.ranking if elbos.count(entry.elbo_nats) == 1]
    assert len(single) > 340
    assert [e.percentile for e in single] == pytest.approx([100 * (e.rank - 0.5) / count for e in single])
    assert np.mean([entry.percentile for entry in found.ranking]) == pytest.approx(50)


def test_percentiles_of_ties_and_of_values_outside():
    reference = np.array([1.0, 1.0, 2.0, 2.0])
    assert percentiles(np.array([0.0, 1.0, 1.5, 2.0, 3.0]), reference).tolist() == [0, 25, 50, 75, 100]


def test_a_foreign_image_ranks_first(run, folder):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(noise).save(folder / "zz-noise.png")
    found = anomalies(run, [folder])
    assert found.ranking[0].name.endswith("zz-noise.png") and found.ranking[0].percentile < 1
    assert [entry.elbo_nats for entry in found.ranking] == sorted(entry.elbo_nats for entry in found.ranking)
    assert [row["name"] for row in table_of(run / "reports" / "anomalies.csv")] == [e.name for e in found.ranking]


def test_a_test_image_given_as_a_file_has_the_elbo_and_percentile_of_the_reference(run, folder):
    """The files and the reference are measured alike."""
    own = {entry.name: entry for entry in anomalies(run, samples=3).ranking}
    for entry in anomalies(run, [folder], samples=3).ranking:
        number = int(entry.name[-6:-4])
        assert entry.elbo_nats == pytest.approx(own[f"test image {number}"].elbo_nats, rel=1e-6)
        assert entry.percentile == pytest.approx(own[f"test image {number}"].percentile, abs=0.3)


def test_the_reference_is_drawn_by_the_seed_and_all_is_all(run, monkeypatch):
    monkeypatch.setattr("vaekit.verbs.anomalies.REFERENCE", 50)
    assert len(anomalies(run, every=True, samples=1).reference) == 359
    names = [{entry.name for entry in anomalies(run, seed=seed, samples=1).ranking} for seed in (0, 0, 1)]
    assert len(names[0]) == 50 and names[0] == names[1] != names[2]


def test_an_empty_test_set_is_refused(tmp_path, folder):
    run = train("digits", *SIZES, "data.test=0", "training.epochs=0.2", out=tmp_path / "run")
    with pytest.raises(DataError, match="the test set is empty"):
        anomalies(run, [folder])


def test_no_elbo_no_ranking(tmp_path):
    run = train("digits", *SIZES, "model.kind=autoencoder", "training.epochs=0.2", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="no ELBO"):
        anomalies(run)
