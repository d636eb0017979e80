"""What several test files share: one trained run, and the command line inside this process."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from small_runs import SIZES

from vaekit.cli.main import main
from vaekit.verbs.train import train


@pytest.fixture(autouse=True)
def one_thread():
    """Exact bytes are promised for one thread count, and two workers share two cores."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VAEKIT_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A trained run on the digits. For reading: copy it before changing it."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("digits") / "run"
    return train("digits", *SIZES, "training.epochs=3", "training.validate_every=5", out=run)


class Answer(NamedTuple):
    """What a command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def vaekit(capsys):
    """A function that runs `vaekit …` in this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return run
