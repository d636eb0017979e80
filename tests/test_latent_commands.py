"""The commands on the latent space: what they write, what they say, and one line for each mistake."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import SIZES

from vaekit import load, plots
from vaekit.data.splits import load_splits
from vaekit.files import held_to_sum, with_sum
from vaekit.verbs.train import train


def assert_refused(answer, code, *words):
    """One line on standard error that says all of these words, and this exit code."""
    assert answer.code == code, answer.err
    lines = answer.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("vaekit: "), answer.err
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def run(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


@pytest.fixture
def files(digits_run, tmp_path):
    """Four training images, and one that cannot be read."""
    data = load_splits(load(digits_run).config.data).train
    paths = [tmp_path / "images" / f"{number}.png" for number in range(4)]
    paths[0].parent.mkdir()
    for path, image in zip(paths, data.images[:4, 0].numpy(), strict=True):
        Image.fromarray(image).save(path)
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:40])
    return [*paths, tmp_path / "broken.png"]


@pytest.fixture(scope="module")
def special(tmp_path_factory):
    """Runs with one, two and a hundred dimensions, and an autoencoder."""
    options = {
        "1": ["model.latent_dim=1"],
        "2": ["model.latent_dim=2"],
        "100": ["model.latent_dim=100"],
        "autoencoder": ["model.kind=autoencoder"],
    }
    folder = tmp_path_factory.mktemp("special")
    return {
        name: train("digits", *SIZES, "training.epochs=0.2", *changes, out=folder / name)
        for name, changes in options.items()
    }


@pytest.fixture
def unlabelled(tmp_path, monkeypatch):
    """A run on a folder of images without classes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(noise.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number:02}.png")
    sizes = [word for word in SIZES if not word.startswith("data.")]
    options = (f"data.path={folder}", "data.size=8", "data.channels=1", *sizes, "training.epochs=1")
    return train("folder", *options, out=tmp_path / "unlabelled")


def made(answer, run):
    assert answer.code == 0, answer.err
    return [line.removeprefix(f"{run}/") for line in answer.out.splitlines() if line.startswith(f"{run}/")]


def drawn(path):
    """A picture with something on it."""
    return np.asarray(Image.open(path).convert("L")).std() > 5


# Samples


@pytest.mark.parametrize("run_of", ["1", "100"])
def test_a_grid_wants_two_dimensions(vaekit, special, run_of):
    assert_refused(vaekit("sample", special[run_of], "--grid"), 2, "2 dimensions", f"this model has {run_of};")


@pytest.mark.parametrize("option", [["--range", "2"], ["--quantiles"]])
def test_a_grid_is_a_picture_of_the_plane(vaekit, special, option):
    run = special["2"]
    answer = vaekit("sample", run, "--grid", "--side", "5", *option, "--save-arrays")
    assert made(answer, run) == ["grids/manifold.png", "grids/manifold_codes.npy"]
    assert drawn(run / "grids" / "manifold.png")
    assert np.load(run / "grids" / "manifold_codes.npy").shape == (25, 2)


def test_near_an_image_samples_differ_with_the_spread(vaekit, run, files):
    for words in (["--temperature", "0"], ["--spread", "0"]):
        made(vaekit("sample", run, "--near", files[0], *words, "--save-arrays"), run)
        assert np.load(run / "samples" / "near_0.npy").std(0).max() < 1e-6
    answer = vaekit("sample", run, "--near", files[0], "--spread", "2", "--count", "7", "--save-arrays")
    assert made(answer, run) == ["samples/near_0.png", "samples/near_0.npy"]
    assert np.load(run / "samples" / "near_0.npy").std(0).min() > 0.5


def test_a_sampler_is_fitted_on_first_use_and_reused(vaekit, run):
    first = vaekit("sample", run, "--sampler", "mixture", "--count", "9", "--save-arrays")
    assert "fitted the mixture sampler to" in first.out and "under the prior" in first.out
    images = np.load(run / "samples" / "mixture_samples.npy")
    again = vaekit("sample", run, "--sampler", "mixture", "--count", "9", "--save-arrays")
    assert "fitted the mixture" not in again.out
    assert np.array_equal(np.load(run / "samples" / "mixture_samples.npy"), images)
    refit = vaekit("sample", run, "--sampler", "mixture", "--count", "9", "--save-arrays", "--refit")
    assert "fitted the mixture" in refit.out
    assert np.array_equal(np.load(run / "samples" / "mixture_samples.npy"), images)


def test_a_sampler_of_another_checkpoint_is_fitted_again_with_a_line(vaekit, run):
    assert vaekit("sample", run, "--sampler", "mixture", "-n", "3").code == 0
    state = run / "samplers" / "mixture" / "sampler.json"
    facts = held_to_sum(json.loads(state.read_text()))
    state.write_text(json.dumps(with_sum({**facts, "weights_sha256": "of another", "checkpoint": "step-00000001"})))
    answer = vaekit("sample", run, "--sampler", "mixture", "-n", "3")
    assert answer.code == 0 and "was fitted to step-00000001" in answer.out and "fitted the mixture" in answer.out


def test_an_autoencoder_samples_by_a_mixture_only(vaekit, special, files):
    run = special["autoencoder"]
    assert_refused(vaekit("sample", run), 2, "an autoencoder has no prior", "--sampler mixture")
    assert_refused(vaekit("sample", run, "--near", files[0]), 2, "an autoencoder has no posterior")
    assert vaekit("sample", run, "--near", files[0], "--spread", "1").code == 0
    assert vaekit("sample", run, "--sampler", "mixture", "-n", "4").code == 0
    assert vaekit("traverse", run, "--aggregate").code == 0
    assert_refused(vaekit("traverse", run), 2, "an autoencoder has no prior")
    assert "KL" not in vaekit("latents", run).out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--sampler", "mixtur"], "did you mean 'mixture'"),
        (["--grid", "--sampler", "mixture"], "--grid and --sampler cannot be had at once"),
        (["--spread", "-1"], "--spread"),
        (["--spread", "1"], "--near"),
        (["--refit"], "--sampler"),
        (["--grid", "--range", "-2"], "range"),
        (["--temperature", "nan"], "temperature"),
    ],
)
def test_options_of_sample_that_cannot_be(vaekit, special, words, named):
    assert_refused(vaekit("sample", special["2"], *words), 2, named)


# Walks


@pytest.mark.parametrize("mode", ["linear", "spherical"])
def test_interpolation_between_files_starts_and_ends_at_their_codes(vaekit, run, files, mode):
    answer = vaekit("interpolate", run, *files[:2], "--steps", "5", "--mode", mode, "--save-arrays")
    assert made(answer, run) == [f"grids/interpolations.{ending}" for ending in ("png", "gif", "npy")]
    path, codes = np.load(run / "grids" / "interpolations.npy"), load(run).encode(files[:2])
    assert path.shape == (1, 5, 4)
    assert np.allclose(path[0, [0, -1]], codes, atol=1e-6)
    with Image.open(run / "grids" / "interpolations.gif") as animation:
        assert animation.n_frames >= 5 and animation.info["loop"] == 0


def test_interpolation_of_test_images_goes_between_classes(run):
    from vaekit.verbs.interpolate import pairs_of

    data = load_splits(load(run).config.data).test
    pairs = pairs_of(data, 40, seed=3)
    assert pairs.shape == (40, 2) and (data.labels[pairs[:, 0]] != data.labels[pairs[:, 1]]).all()


def test_interpolation_without_files_or_labels_works(vaekit, unlabelled):
    assert vaekit("interpolate", unlabelled, "--pairs", "1", "--steps", "2").code == 0


def test_one_image_or_three_where_two_are_needed(vaekit, run, files):
    for count in (1, 3):
        assert_refused(vaekit("interpolate", run, *files[:count]), 2, "needs two images", f"{count} came")
    assert_refused(vaekit("interpolate", run, files[0], files[4]), 3, "broken.png")
    assert_refused(vaekit("interpolate", run, "--mode", "sphericle"), 2, "did you mean 'spherical'")
    assert_refused(vaekit("interpolate", run, "--steps", "1"), 2, "--steps")


def test_traversals_are_ordered_by_kl_and_written_each(vaekit, run):
    paths = made(vaekit("traverse", run, "--steps", "3", "--save-arrays"), run)
    assert paths[0] == "grids/traversals.png" and drawn(run / paths[0])
    dims = [int(path.split("_")[-1].removesuffix(".png")) for path in paths[1:-1]]
    assert sorted(dims) == [0, 1, 2, 3]
    assert made(vaekit("latents", run, "--split", "train"), run)
    kl = [row["kl_nats"] for row in json.loads((run / "reports" / "latent_statistics.json").read_text())["dimensions"]]
    assert [kl[dim] for dim in dims] == sorted(kl, reverse=True)
    codes = np.load(run / "grids" / "traversals.npy")
    for dim, row in zip(dims, codes, strict=True):
        assert np.allclose(row[:, dim], [-3, 0, 3]) and np.ptp(np.delete(row, dim, 1), axis=0).max() == 0


def test_sheets_say_what_their_rows_and_columns_are(vaekit, run, files, monkeypatch):
    said, draw = [], plots.labelled_grid
    monkeypatch.setattr(plots, "labelled_grid", lambda rows, **words: said.append(words) or draw(rows, **words))
    assert vaekit("traverse", run, "--dims", "2", "--steps", "3", "--aggregate").code == 0
    together, alone = said
    assert "deviations of the aggregate posterior" in together["title"] and "values of z2" in alone["title"]
    assert together["column_labels"] == ["−3.00", "0.00", "+3.00"] != alone["column_labels"]
    assert vaekit("attribute", run, files[0], "--class", "7").code == 0
    assert vaekit("attribute", run, "--class", "7").code == 0
    of_file, of_class = said[2:]
    assert of_file["row_labels"] == [files[0].name] and of_file["title"].startswith("each row: an image;")
    assert "an image of a class;" in of_class["title"] and "7" not in of_class["row_labels"]


def test_traversals_of_named_dimensions_around_an_image(vaekit, run, files):
    answer = vaekit("traverse", run, "--dims", "2,0", "--image", files[1], "--range", "1", "--save-arrays")
    assert made(answer, run)[1:3] == ["grids/traverse_dim_2.png", "grids/traverse_dim_0.png"]
    codes, own = np.load(run / "grids" / "traversals.npy"), load(run).encode(files[1])[0]
    assert np.allclose(codes[0][:, [0, 1, 3]], own[[0, 1, 3]], atol=1e-6)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--dims", "1,9,-2"], "dimensions 9 and -2 do not exist; this model has 0 to 3"),
        (["--dims", "4,0"], "dimension 4 does not exist; this model has 0 to 3"),
        (["--dims", "4,5,6"], "dimensions 4, 5 and 6 do not exist"),
        (["--dims", "one"], "is not a list of dimensions"),
        (["--range", "0"], "a range above 0"),
        (["--steps", "1"], "--steps"),
    ],
)
def test_traversals_that_cannot_be(vaekit, run, words, named):
    assert_refused(vaekit("traverse", run, *words), 2, named)


# Arithmetic


def test_plus_and_minus_the_same_give_the_base_and_folders_their_mean(vaekit, run, files):
    trained = load(run)
    words = [files[0], "--plus", files[1], "--plus", "class:7", "--minus", "class:7", "--minus", files[1]]
    assert made(vaekit("arithmetic", run, *words, "--save-arrays"), run)[0] == "grids/arithmetic.png"
    assert np.allclose(np.load(run / "grids" / "arithmetic.npy"), trained.encode(files[0])[0], atol=1e-5)
    vaekit("arithmetic", run, "--plus", files[0].parent, "--save-arrays")
    assert np.allclose(np.load(run / "grids" / "arithmetic.npy"), trained.encode(files[:4]).mean(0), atol=1e-5)


def test_terms_that_cannot_be(vaekit, run, files, unlabelled):
    assert_refused(vaekit("arithmetic", run), 2, "nothing to add up")
    assert_refused(vaekit("arithmetic", run, "--plus", files[0], "--minus", files[4], "--minus", "no.png"), 3, "no.png")
    assert_refused(vaekit("arithmetic", run, "--plus", "class:12"), 2, "unknown class '12'", "choose one of")
    assert_refused(vaekit("arithmetic", unlabelled, "--plus", "class:1"), 3, "no labels")
    assert_refused(vaekit("attribute", unlabelled, "--class", "1"), 3, "no labels")
    assert_refused(vaekit("attribute", run), 2, "--class")


def test_an_attribute_walk_goes_on_past_an_unreadable_file(vaekit, run, files):
    answer = vaekit("attribute", run, *files, "--class", "3", "--save-arrays")
    assert_refused(answer, 3, "broken.png")
    assert (run / "grids" / "attribute_3.png").is_file()
    assert np.load(run / "grids" / "attribute_3.npy").shape == (4,)


# Neighbours


def test_a_training_image_is_its_own_nearest_neighbour(vaekit, run, files):
    answer = vaekit("neighbours", run, *files, "--count", "3", "--save-arrays")
    assert_refused(answer, 3, "broken.png")
    rows = [line for line in answer.out.splitlines() if ".png" in line and "#" in line]
    assert [line.split()[:2] for line in rows] == [[f"{number}.png", f"#{number}"] for number in range(4)]
    assert np.load(run / "grids" / "neighbour_distances.npy")[:, 0].max() < 1e-5
    assert drawn(run / "grids" / "neighbours.png")


# Analysis


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_the_analysis_writes_pictures_and_statistics(vaekit, run, projection):
    paths = made(vaekit("latents", run, "--projection", projection), run)
    names = ("latent_scatter", "kl_bars", "latent_histograms", "latent_correlation")
    assert paths == [
        "reports/latent_statistics.json",
        "reports/latent_statistics.csv",
        *(f"grids/{n}.png" for n in names),
    ]
    assert all(drawn(run / path) for path in paths[2:])
    facts = json.loads((run / "reports" / "latent_statistics.json").read_text())
    with (run / "reports" / "latent_statistics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["kl_nats"]) for row in rows] == [row["kl_nats"] for row in facts["dimensions"]]
    assert facts["rate_nats"] == pytest.approx(sum(row["kl_nats"] for row in facts["dimensions"]))
    vaekit("evaluate", run, "-k", "1")
    assert json.loads((run / "reports" / "metrics.json").read_text())["active_units"] == facts["active_units"]


@pytest.mark.parametrize("kind", ["1", "2", "100", "autoencoder"])
def test_every_latent_space_can_be_analysed(vaekit, special, kind):
    assert "grids/latent_scatter.png" in made(vaekit("latents", special[kind]), special[kind])


@pytest.mark.parametrize("kind", ["2", "autoencoder"])
def test_the_pictures_of_a_run_show_its_latent_space_as_the_analysis_does(vaekit, special, kind):
    run = special[kind]
    analysed = [path for path in made(vaekit("latents", run), run) if path.endswith(".png")]
    drawn_there = {path: (run / path).read_bytes() for path in analysed}
    for path in analysed:
        (run / path).unlink()
    paths = made(vaekit("pictures", run), run)
    assert paths[-len(analysed) :] == analysed and ("grids/kl_bars.png" in paths) is (kind == "2")
    assert {path: (run / path).read_bytes() for path in analysed} == drawn_there
    assert all(drawn(run / path) for path in paths)


def test_a_folder_becomes_a_table_in_every_format(vaekit, run, files, tmp_path):
    shutil.copy(files[4], files[0].parent)
    expected = load(run).encode(files[:4])
    for ending in (".csv", ".npz"):
        answer = vaekit("latents", run, "--encode", files[0].parent, "--table", tmp_path / f"codes{ending}")
        assert_refused(answer, 3, "broken.png")
        assert "4 images, 4 numbers each" in answer.out
    with np.load(tmp_path / "codes.npz") as table:
        assert table["names"].tolist() == ["0.png", "1.png", "2.png", "3.png"]
        assert np.allclose(table["codes"], expected, atol=1e-6)
    with (tmp_path / "codes.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "z0", "z1", "z2", "z3"]
    assert np.allclose([[float(value) for value in row[1:]] for row in rows[1:]], expected, atol=1e-6)


def test_a_parquet_table_holds_the_same_codes(vaekit, run, files, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    answer = vaekit("latents", run, "--encode", files[0].parent, "--table", tmp_path / "codes.parquet")
    assert answer.code == 0, answer.err
    table = parquet.read_table(tmp_path / "codes.parquet").to_pydict()
    assert table.pop("file") == ["0.png", "1.png", "2.png", "3.png"] and list(table) == ["z0", "z1", "z2", "z3"]
    assert np.allclose(np.stack(list(table.values()), 1), load(run).encode(files[:4]), atol=1e-6)


def test_a_parquet_table_without_its_package_is_one_line(vaekit, run, files, tmp_path, monkeypatch):
    """Which names an extra that there is; nothing is written."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = vaekit("latents", run, "--encode", files[0].parent, "--table", tmp_path / "codes.parquet")
    assert_refused(answer, 2, "pip install 'vaekit[parquet]'")
    assert not (tmp_path / "codes.parquet").exists()
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert any(name.startswith("pyarrow") for name in project["optional-dependencies"]["parquet"])


def test_tables_and_splits_that_cannot_be(vaekit, run, files, tmp_path):
    assert_refused(vaekit("latents", run, "--encode", files[0].parent, "--table", "a.txt"), 2, ".csv, .npz, .parquet")
    assert_refused(vaekit("latents", run, "--encode", tmp_path / "none"), 3, "there is no folder")
    assert_refused(vaekit("latents", run, "--table", "a.csv"), 2, "--encode")
    assert_refused(vaekit("latents", run, "--projection", "umap"), 2, "unknown projection 'umap'")
    assert_refused(vaekit("latents", run, "--split", "tset"), 2, "unknown split")


@pytest.mark.parametrize("verb", ["interpolate", "traverse", "arithmetic", "attribute", "neighbours", "latents"])
def test_a_run_without_a_checkpoint_is_refused(vaekit, tmp_path, verb):
    more = {"neighbours": ["a.png"], "arithmetic": ["--plus", "a.png"], "attribute": ["--class", "1"]}.get(verb, [])
    (tmp_path / "bare").mkdir()
    assert_refused(vaekit(verb, tmp_path / "bare", *more), 4, "holds no checkpoint")
