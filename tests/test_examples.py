"""Every example runs on the digits, and prints what it promises."""

import argparse
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_runs import SIZES

from vaekit.training.combinations import read_config

EXAMPLES = Path(__file__).parent.parent / "examples"
SHORT = (*[word for word in SIZES if "latent_dim" not in word and "network" not in word], "training.epochs=1")
CASES = {
    "basic_training.py": (["--recipe", "digits", *SHORT], ["test: -ELBO", "loss_curves.png"]),
    "compare_beta.py": (["--recipe", "digits", *SHORT], ["0.1", "compare.png"]),
    "interpolate_images.py": (["--recipe", "digits", *SHORT], ["spherical", "line_and_arc.png"]),
    "latent_sizes.py": (["--recipe", "digits", "--sizes", "2", "5", "--", *SHORT], ["compare.png"]),
    "architectures_and_training.py": (
        ["--recipe", "digits", "--epochs", "1", "--only", "shallow", "step-schedule", "early-stopping", "--", *SHORT],
        ["shallow", "step-schedule", "early-stopping"],
    ),
    "fashion_story.py": (
        ["--recipe", "digits", *SHORT, "model.latent_dim=2"],
        ["reconstructions.png", "samples.png", "interpolation.png"],
    ),
    "random_batch.py": (None, ["(16, 784)", "(16, 20)", "gradients reach all"]),
    "cures.py": (
        ["--only", "collapse", "--seeds", "1", "--", *SHORT],
        ["active units", "`objective.free_bits=0.5` | "],
    ),
    "disentangle.py": (
        ["--recipe", "digits", "--seeds", "1", "--a", "objective.beta=0", "--", *SHORT],
        ["MIG", "B: objective={kind: elbo, beta: 4}", "of 1", "elbo_nats"],
    ),
    "toy_densities.py": (["--steps", "2"], ["banana", "eight_clouds", "toy_densities.png"]),
    "own_dataloader.py": (
        ["--count", "120", "model.network={kind: mlp, widths: [16]}", "training.epochs=1", "training.warmup=0"],
        ["PSNR", "recon_grid.png"],
    ),
}


def run(name, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_an_example_runs_on_the_digits(name, tmp_path, capsys, monkeypatch):
    words, promised = CASES[name]
    out = run(name, [] if words is None else ["--out", str(tmp_path / "run"), *words], capsys, monkeypatch)
    for text in promised:
        assert text in out
    for word in out.split():
        if word.endswith(".png"):
            assert Path(word).stat().st_size > 500


def test_the_loss_by_hand_is_the_loss(capsys, monkeypatch):
    line = next(line for line in run("random_batch.py", [], capsys, monkeypatch).splitlines() if "by hand" in line)
    by_hand, by_vaekit = line.split()[2], line.split()[6]
    assert abs(float(by_hand) - float(by_vaekit)) < 0.01


def test_objectives_are_compared_seed_by_seed():
    table = runpy.run_path(str(EXAMPLES / "disentangle.py"), run_name="disentangle")["table"]
    found = table({"A": [{"mig": 0.1}, {"mig": 0.3}], "B": [{"mig": 0.2}, {"mig": 0.2}]})
    assert "0.200 ± 0.141" in found and "0.200 ± 0.000" in found and found.endswith("1 of 2")


def test_every_variant_of_the_architectures_is_a_valid_config():
    text = (EXAMPLES / "architectures_and_training.py").read_text()
    names: dict = {}
    exec(text[text.index("VARIANTS") : text.index("parser")], names)
    for words in names["VARIANTS"].values():
        read_config("digits", words)


# The cures, and the page that holds their tables


@pytest.fixture(scope="module")
def cures():
    return runpy.run_path(str(EXAMPLES / "cures.py"), run_name="cures")


def table_of(page, problem):
    """Cells of a marked table: rows of strings."""
    marked = re.search(rf"<!-- cures: {problem} -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert marked, problem
    header, _, *rows = marked[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *rows)]


def test_the_page_of_cures_holds_what_the_program_tries(cures):
    page = (EXAMPLES.parent / "docs" / "troubleshooting.md").read_text()
    for name, problem in cures["PROBLEMS"].items():
        header, *rows = table_of(page, name)
        assert header == ["changed", *(cures["HEADERS"][column][0] for column in problem.columns)]
        assert [row[0] for row in rows] == [cure.name for cure in problem.cures]
        assert all("±" in cell for row in rows for cell in row[1:])


def test_every_cure_is_a_valid_config(cures):
    for problem in cures["PROBLEMS"].values():
        for cure in problem.cures:
            read_config("digits", [*problem.broken, *cure.words])


def test_the_table_of_cures_is_written_between_its_marks(cures, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- cures: deep -->\nold\n<!-- end -->\nb\n<!-- cures: blurry -->\nkept\n<!-- end -->\n")
    cures["written"](page, {"deep": r"| new \1 |"})
    assert page.read_text() == (
        "a\n<!-- cures: deep -->\n| new \\1 |\n<!-- end -->\nb\n<!-- cures: blurry -->\nkept\n<!-- end -->\n"
    )
    with pytest.raises(SystemExit, match="cures: samples"):
        cures["written"](page, {"samples": ""})


def test_cures_are_measured_by_what_is_sampled(cures, digits_run):
    narrow, wide = (cures["Cure"](temperature=t) for t in (0.0, 1.0))
    assert float(cures["samples"](digits_run, narrow, 20).std(0).max()) < 1e-6
    assert float(cures["samples"](digits_run, wide, 20).std(0).max()) > 0.01
    mixture = cures["samples"](digits_run, cures["Cure"](sampler="mixture"), 20)
    assert mixture.shape == (20, 1, 8, 8) and float(mixture.min()) >= 0 and float(mixture.max()) <= 1
    assert cures["shown"]([1.0, 3.0], 1) == "2.0 ± 1.4" and cures["shown"]([-1.0], 0) == "−1"


def test_the_picture_of_cures_has_a_row_for_each(cures, tmp_path):
    options = argparse.Namespace(out=tmp_path, overrides=list(SHORT), picture=tmp_path / "cures.png")
    with Image.open(cures["picture"](options)) as picture:
        assert picture.height > 56 * (1 + len(cures["PICTURED"]))
