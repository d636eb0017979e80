"""The make targets: each has a recipe that make accepts, and works on the newest run or the one that is named."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TARGETS = [
    "help", "install", "install-dev", "demo", "train-mnist", "train-fashion", "train-cifar10", "train-afhq", "eval",
    "sample", "viz-recon", "viz-traverse", "viz-scatter", "interpolate", "compare-dae", "selftest", "test", "test-slow",
    "test-plain", "lint", "format", "bench", "gpu-check", "clean", "clean-all",
]  # fmt: skip
PROGRAM = f"""#!{sys.executable}
import sys
from vaekit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def place(tmp_path):
    """A copy of the Makefile beside an environment that is installed already, with vaekit in it."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    (binaries / "vaekit").write_text(PROGRAM)
    (binaries / "vaekit").chmod(0o755)
    for stamp in (".installed", ".installed-dev", ".installed-bench"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def make(place, *words):
    environment = {k: v for k, v in os.environ.items() if k not in ("RUN", "DATA", "ARGS", "MAKEFLAGS", "VAEKIT")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        ["make", "--no-print-directory", *words], cwd=place, capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip


@pytest.fixture
def runs(place, digits_run):
    """Three runs below runs/, one of them deeper; runs/b is the one whose config was written last."""
    for age, name in ((300, "a"), (100, "b"), (200, "sweep/beta-1")):
        run = shutil.copytree(digits_run, place / "runs" / name)
        written = (digits_run / "config.yaml").stat().st_mtime - age
        os.utime(run / "config.yaml", (written, written))
    return place / "runs"


def test_help_is_the_default_and_names_every_target(place):
    shown = make(place)
    assert shown.returncode == 0 and shown.stderr == ""
    assert shown.stdout == make(place, "help").stdout
    named = re.findall(r"^  ([a-z0-9-]+) +\S", shown.stdout, re.MULTILINE)
    assert named == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_make_accepts_every_target(place, target):
    done = make(place, "-n", target, "RUN=some/run")
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("train-mnist", "train mnist --data-dir my data training.epochs=1"),
        ("train-fashion", "train fashion-mnist --data-dir my data training.epochs=1"),
        ("train-cifar10", "train cifar10 --data-dir my data training.epochs=1"),
        ("train-afhq", "train afhq --data-dir my data training.epochs=1"),
        ("eval", "evaluate my run --data-dir my data training.epochs=1"),
        ("viz-recon", "reconstruct my run --data-dir my data training.epochs=1"),
        ("selftest", "selftest training.epochs=1"),
        ("compare-dae", "compare-dae digits --data-dir my data training.epochs=1"),
    ],
)
def test_run_data_and_args_reach_the_command(place, target, command):
    (place / ".venv" / "bin" / "vaekit").write_text('#!/bin/sh\necho "vaekit $*"\n')
    done = make(place, target, "RUN=my run", "DATA=my data", "ARGS=training.epochs=1", "RECIPE=digits")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"vaekit {command}"


def test_quick_and_write_reach_the_benchmarks(place):
    assert make(place, "-n", "bench", "QUICK=1", "WRITE=1").stdout.split()[-3:] == [
        "--quick",
        "--write",
        "docs/performance.md",
    ]
    assert make(place, "-n", "bench", "QUICK=0").stdout.split()[-1] == "benchmarks"


def test_without_a_run_one_line_says_what_to_do(place):
    done = make(place, "sample")
    assert done.returncode != 0
    assert "there is no run below runs/" in done.stdout + done.stderr and "RUN=" in done.stdout + done.stderr


def test_the_newest_run_is_the_one_whose_config_was_written_last(runs, place):
    (place / ".venv" / "bin" / "vaekit").write_text('#!/bin/sh\necho "vaekit $*"\n')
    assert make(place, "sample").stdout.splitlines()[-1] == "vaekit sample runs/b"
    os.utime(runs / "sweep" / "beta-1" / "config.yaml")
    assert make(place, "sample").stdout.splitlines()[-1] == "vaekit sample runs/sweep/beta-1"
    assert make(place, "sample", "RUN=runs/a").stdout.splitlines()[-1] == "vaekit sample runs/a"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "args", "made"),
    [
        ("eval", "--samples 5", "reports/metrics.json"),
        ("sample", "--count 4", "samples/prior_samples.png"),
        ("viz-recon", "", "grids/recon_grid.png"),
        ("viz-traverse", "--dims 0,2", "grids/traverse_dim_2.png"),
        ("viz-scatter", "", "grids/latent_scatter.png"),
        ("interpolate", "--steps 5", "grids/interpolations.png"),
    ],
)
def test_a_target_makes_what_it_says_of_the_newest_run(runs, place, target, args, made):
    done = make(place, target, f"ARGS={args}")
    assert done.returncode == 0, done.stderr
    assert (runs / "b" / made).is_file() and not (runs / "a" / made).exists()


@pytest.mark.slow
def test_compare_dae_trains_both(place):
    words = "training.epochs=1 training.validate_every=null --samples 5 --out runs/compared"
    done = make(place, "compare-dae", "RECIPE=digits", f"ARGS={words}")
    assert done.returncode == 0, done.stderr
    assert (place / "runs" / "compared" / "compare.png").is_file()


def test_clean_all_leaves_runs_and_data(runs, place):
    (place / "data").mkdir()
    assert make(place, "clean-all").returncode == 0
    assert runs.is_dir() and (place / "data").is_dir() and not (place / ".venv").exists()
