"""The shell scripts: a shell can read them, they say how they are used, and they work from anywhere."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import SIZES

SCRIPTS = Path(__file__).parent.parent / "scripts"
ALL = sorted(SCRIPTS.glob("*.sh"))
SHORT = (*SIZES, "training.epochs=2")


@pytest.fixture
def shell(tmp_path):
    """A function that runs a script elsewhere, with this vaekit."""
    program = tmp_path / "vaekit-here"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom vaekit.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    (tmp_path / "elsewhere").mkdir()

    def run(name, *words, vaekit=program):
        environment = {**os.environ, "VAEKIT": str(vaekit), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [SCRIPTS / name, *words], cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("script", ALL, ids=lambda path: path.name)
def test_a_shell_can_read_it_and_it_stops_at_the_first_mistake(script):
    subprocess.run(["sh", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    first, *lines = script.read_text().splitlines()
    assert first == "#!/bin/sh" and lines[0].startswith("# ") and "set -eu" in lines


@pytest.mark.parametrize("name", ["train_and_report.sh", "all_pictures.sh"])
def test_without_its_arguments_it_says_how_it_is_used(shell, name):
    done = shell(name)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["quick_mnist.sh"], "train mnist-mlp --out runs/quick-mnist"),
        (["quick_mnist.sh", "my run", "--data-dir", "d"], "train mnist-mlp --data-dir d --out my run"),
        (["quick_cifar10.sh"], "training.epochs=5 training.warmup=100 --out runs/quick-cifar10"),
        (["compare_dae.sh"], "compare-dae mnist-mlp --out runs/compare-dae-mnist-mlp"),
        (["compare_dae.sh", "digits", "o", "a.b=1"], "compare-dae digits a.b=1 --out o"),
    ],
)
def test_arguments_reach_the_command(shell, tmp_path, words, told):
    echo = tmp_path / "echo"
    echo.write_text('#!/bin/sh\necho "$*"\n')
    echo.chmod(0o755)
    done = shell(*words, vaekit=echo)
    assert done.returncode == 0 and told in done.stdout.splitlines()[0], done


def test_quick_cifar10_names_settings_that_exist():
    from vaekit.training.combinations import read_config

    words = (SCRIPTS / "quick_cifar10.sh").read_text()
    assert "'model.network={kind: conv, widths: [32, 64, 128]}' training.epochs=5 training.warmup=100" in words
    read_config("cifar10", ["model.network={kind: conv, widths: [32, 64, 128]}", "training.warmup=100"])


@pytest.mark.slow
def test_training_reports_and_every_picture_on_the_digits(shell, tmp_path):
    done = shell("train_and_report.sh", "digits", "my run", *SHORT, "model.latent_dim=2")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "elsewhere" / "my run"
    assert (run / "reports" / "metrics.json").is_file()
    done = shell("all_pictures.sh", "my run")
    assert done.returncode == 0, done.stderr
    made = {path.name for folder in ("grids", "samples") for path in (run / folder).glob("*.png")}
    assert made >= {
        "recon_grid.png", "loss_curves.png", "prior_samples.png", "mixture_samples.png", "interpolations.png",
        "traversals.png", "latent_scatter.png", "kl_bars.png", "manifold.png",
    }  # fmt: skip


@pytest.mark.slow
def test_compare_dae_on_the_digits(shell, tmp_path):
    done = shell("compare_dae.sh", "digits", "compared", *SHORT, "--samples", "5")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "compared" / "compare.png").is_file()


def test_every_bug_to_be_planted_has_its_line_and_its_row():
    """A line that has moved on would plant nothing, and its row would still say that a test noticed."""
    script = runpy.run_path(str(SCRIPTS / "plant_bugs.py"))
    page = (SCRIPTS.parent / "docs" / "planted-bugs.md").read_text()
    names = [bug.name for bug in script["BUGS"]]
    assert len(names) == len(set(names)) >= 30
    for bug in script["BUGS"]:
        assert (SCRIPTS.parent / "src" / "vaekit" / bug.file).read_text().count(bug.right) == 1, bug.name
        assert all((SCRIPTS.parent / "tests" / f"test_{name}.py").is_file() for name in bug.guards.split()), bug.name
        assert f"| {bug.about.replace('|', '&#124;')} | `{bug.file}` | `test_" in page, bug.name
