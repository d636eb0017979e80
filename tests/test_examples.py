"""Every example runs on the digits, and prints what it promises."""

import runpy
import sys
from pathlib import Path

import pytest
from small_runs import SIZES

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


def test_every_variant_of_the_architectures_is_a_valid_config():
    from vaekit.runs import read_config

    text = (EXAMPLES / "architectures_and_training.py").read_text()
    names: dict = {}
    exec(text[text.index("VARIANTS") : text.index("parser")], names)
    for words in names["VARIANTS"].values():
        read_config("digits", words)
