"""Runs that vaekit 0.1.0 trained before its rooms were built load, evaluate and resume to what it found itself.

`data/runs/flat` and `labelled` are two small runs on the digits as that version left them, with the metrics that it
wrote: recipe `digits`, mlp 24; and `digits-conditional`, conv 4-6, per-class prior, objective factor; 12 epochs each.
`resumed.json` is what it came to when it resumed each to 16 epochs; other processors round otherwise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vaekit import evaluate, load, train

RUNS = Path(__file__).parent / "data" / "runs"
RESUMED = json.loads((RUNS / "resumed.json").read_text())


@pytest.fixture(params=sorted(RESUMED))
def old(request, tmp_path):
    shutil.copytree(RUNS / request.param, tmp_path / request.param)
    return tmp_path / request.param


def assert_same_numbers(found: dict, before: dict) -> None:
    for key, value in before.items():
        if isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-4), key
        elif key not in ("torch", "numpy", "lpips_unavailable"):
            assert found[key] == value, key


@pytest.mark.filterwarnings("ignore:.* of an older version without a sum, and not used")
def test_it_evaluates_to_the_numbers_that_were_found_then(old):
    before = json.loads((old / "reports" / "metrics.json").read_text())
    assert before["nll_samples"] == 20
    assert_same_numbers(evaluate(old, samples=20, device="cpu"), before)


def test_it_encodes_and_decodes(old):
    model = load(old, given="3" if old.name == "labelled" else None)
    codes = model.encode([np.zeros((8, 8), np.uint8)])
    assert codes.shape == (1, 3) and model.decode(codes).shape == (1, 8, 8)


@pytest.mark.filterwarnings("ignore:.* of an older version without a sum, and not used")
def test_it_resumes_to_where_it_came_then(old):
    then = RESUMED[old.name]
    train(str(old / "config.yaml"), f"training.epochs={then['epochs']}", out=old, resume=True)
    state = json.loads((old / "checkpoints" / f"step-{then['step']:08d}" / "state.json").read_text())
    for row, before in zip(state["progress"]["history"][-2:], then["history"], strict=True):
        assert_same_numbers(row, before)
    assert_same_numbers(evaluate(old, samples=20, device="cpu"), then["metrics"])
