"""Imports point only to a lower room, and what must stay out of a path stays out of it."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "vaekit"
LEVELS = {
    0: ["errors", "distributions", "schedules", "noise", "convolutions"],
    1: ["config", "trace", "parallel"],
    2: ["networks", "data", "checkpoint", "optimizer"],
    3: ["conditionals"],
    4: ["priors"],
    5: ["models", "objectives"],
    6: ["build", "evaluation"],
    7: ["check", "training", "plots"],
    8: ["trained"],
    9: ["runs", "doctor", "inference", "sampling", "posthoc"],
    10: [
        "latentspace",
        "reconstructions",
        "anomalies",
        "compare",
        "sweep",
        "quality",
        "loaders",
        "selftest",
        "disentanglement",
    ],
    11: ["pictures"],
    12: ["cli"],
}
LEVEL_OF = {room: level for level, rooms in LEVELS.items() for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vaekit."):
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module == "vaekit":
            found |= {f"vaekit.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("vaekit.")}
    return found


def test_every_module_has_a_level():
    rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {
        "__init__",
        "__main__",
        "recipes",
    }
    assert rooms == set(LEVEL_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return  # the public surface and the entry point may name any room
    for module in imports_of(path):
        other = room_of(module)
        assert other == room or LEVEL_OF[other] < LEVEL_OF[room], f"{room} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_pickle_and_no_torchvision(path):
    text = path.read_text()
    if path == SOURCE / "evaluation" / "weights.py":  # published weights come as torch files: read as tensors alone
        safe = 'torch.load(io.BytesIO(data), "cpu", weights_only=True)'
        assert text.count("torch.load(") == text.count(safe) == 1
        text = text.replace(safe, "")
    for forbidden in ("torchvision", "import pickle", "torch.load(", "torch.save(", "yaml.load("):
        assert forbidden not in text or f'"{forbidden}' in text or "layout" in text.split(forbidden)[1][:40]


def test_models_and_training_need_only_torch_numpy_safetensors():
    """A GPU machine may lack pydantic and the rest."""
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "yaml", "typer", "rich", "PIL", "matplotlib", "sklearn", "pooch"}:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Refuse())
import vaekit.build, vaekit.objectives, vaekit.training.loop, vaekit.checkpoint
import vaekit.evaluation.report, vaekit.evaluation.health, vaekit.evaluation.features
import vaekit.evaluation.disentanglement
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_surface_is_small_and_real():
    import vaekit

    assert len(vaekit.__all__) <= 30
    for name in vaekit.__all__:
        importlib.import_module(vaekit._HOMES[name])  # which must not hide what it is the home of
        assert getattr(vaekit, name).__doc__, f"{name} has no docstring"
        assert not inspect.ismodule(getattr(vaekit, name)), f"{name} is the name of a module too"
