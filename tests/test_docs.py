"""What the documents show is run: the README's Python, and the parts that docs/architecture.md adds."""

import re
from pathlib import Path

import pytest
from laws import assert_normalises, assert_samples_follow, assert_trains, assert_unchanged_by_duplication

from vaekit import build

ROOT = Path(__file__).parent.parent


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setattr(build, "LIKELIHOODS", dict(build.LIKELIHOODS))
    monkeypatch.setattr(build, "OBJECTIVES", dict(build.OBJECTIVES))


def test_the_documents_likelihood_obeys_the_laws(tables):
    exec(next(block for block in python_blocks("docs/architecture.md") if "LIKELIHOODS[" in block), {})
    student = build.LIKELIHOODS["student"]
    assert_normalises(student, limit=1e-4)  # its tails fall as x^-4, beyond the test's grid
    assert_samples_follow(student)
    assert_trains("elbo", "student", {})


def test_the_documents_objective_obeys_the_laws(tables):
    exec(next(block for block in python_blocks("docs/architecture.md") if "OBJECTIVES[" in block), {})
    options = {"gamma": 2.0, "nats": {"kind": "linear", "end": 5.0, "over": 3.0}}
    assert_unchanged_by_duplication("capacity", "bernoulli", options)
    assert_trains("capacity", "gaussian", options)
    assert set(build.build_objective(build.Part("capacity", options), 1, 1).schedules) == {"gamma", "nats"}


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks("README.md")
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 8
    from PIL import Image

    Image.new("L", (20, 30), 128).save("seven.png")
    names: dict = {}
    exec(blocks[0], names)
    assert names["codes"].shape == (1, 16)
    assert names["images"].shape == (1, 8, 8)
    assert names["metrics"]["nll_nats"] > 0


def test_the_readmes_tree_names_real_things():
    tree = re.search(r"```text\n(vaekit/.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    for line in tree[1].splitlines()[1:]:
        name = line.split()[0]
        where = ROOT / "src" / "vaekit" / name
        assert where.exists() or (ROOT / name).exists(), name
