"""The check of a GPU: what it refuses, and that its figures reach the pages unchanged."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.networks import LARGE_CONV, MLP
from benchmarks.training import precision_of

TABLE = {"title": "Speed", "columns": ["network", "img/s"], "rows": [["MLP", "1,234"]], "notes": ["A note."]}
PAGE = "# Page\n\n<!-- cuda: written by make bench -->\n<!-- end of cuda -->\n\nThe rest.\n"


@pytest.fixture
def pages(tmp_path, monkeypatch):
    for name in ("speed.md", "results.md"):
        (tmp_path / name).write_text(PAGE)
    monkeypatch.setattr(gpu_check, "SPEED", tmp_path / "speed.md")
    monkeypatch.setattr(gpu_check, "PAGES", {"results": tmp_path / "results.md"})
    return tmp_path


def figures(**parts):
    return {"machine": "a day · a card", "rehearsal": False, "parts": parts}


def test_figures_go_into_their_pages_with_the_card(pages):
    gpu_check.write(figures(training={"tables": [TABLE]}, results={"tables": [{**TABLE, "title": "Likelihood"}]}))
    speed, results = (pages / "speed.md").read_text(), (pages / "results.md").read_text()
    assert "### Speed" in speed and "| MLP     | 1,234 |" in speed and "A note." in speed and "a card" in speed
    assert "### Likelihood" in results and "Speed" not in results
    assert speed.endswith("The rest.\n")


def test_a_part_that_failed_is_named_and_leaves_what_stood_there(pages):
    gpu_check.write(figures(training={"tables": [TABLE]}))
    with pytest.raises(SystemExit, match="failed: training"):
        gpu_check.write(figures(training={"error": "exit code 1"}, bounds={"tables": [{**TABLE, "title": "Bounds"}]}))
    assert "### Speed" in (pages / "speed.md").read_text() and "### Bounds" in (pages / "speed.md").read_text()


def test_a_rehearsal_is_not_written(pages):
    with pytest.raises(SystemExit, match="rehearsal"):
        gpu_check.write({**figures(training={"tables": [TABLE]}), "rehearsal": True})
    assert (pages / "speed.md").read_text() == PAGE


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a CUDA device")
def test_without_a_gpu_it_says_so_and_measures_nothing(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert gpu_check.main() == 2
    assert "no CUDA device here; --rehearse" in capsys.readouterr().err


def test_a_part_that_takes_too_long_or_fails_says_so(monkeypatch):
    options = type("Options", (), {"rehearse": True, "data_dir": None})()

    def late(*arguments, timeout, **options):
        raise subprocess.TimeoutExpired("part", timeout)

    monkeypatch.setattr(subprocess, "run", late)
    assert gpu_check.run_part("training", options, 30) == {"error": "not done within the 30 s that were left"}
    assert gpu_check.run_part("training", options, 1) == {"error": "no time was left"}
    broken = subprocess.CompletedProcess([], 1, "", "RuntimeError: no")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: broken)
    assert gpu_check.run_part("training", options, 30)["output"].endswith("RuntimeError: no")


def test_a_share_is_of_the_rate_that_the_products_can_have():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert precision_of("vaekit, bare", MLP, cpu) == precision_of("pythae, AMP", MLP, cpu) == "float32"
    assert precision_of("vaekit, full", MLP, cuda) == precision_of("pythae, AMP", LARGE_CONV, cuda) == "bf16"
    assert precision_of("pythae", MLP, cuda) == "float32" and precision_of("pythae", LARGE_CONV, cuda) == "TF32"


@pytest.mark.slow
def test_the_rehearsal_runs_to_its_end_on_a_cpu(tmp_path):
    names = ("equality", "memory", "bounds", "results")  # training is timed, and resuming has a test of its own
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--rehearse", "--out", str(tmp_path / "figures.json")]
    ran = subprocess.run([*command, "--only", *names], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["rehearsal"] and list(found["parts"]) == list(names)
    rows = found["parts"]["equality"]["tables"][0]["rows"]
    assert all(float(row[4]) < 1e-4 for row in rows)
