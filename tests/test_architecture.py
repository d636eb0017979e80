"""Imports point only to a lower room, and what must stay out of a path stays out of it."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "vaekit"
# From the ground up: a room may import those in the lines above its own, and nothing else.
FLOORS = [
    ["errors", "names", "system"],
    ["files", "processes"],
    ["densities", "plots"],
    ["config"],
    ["networks", "data"],
    ["models"],
    ["objectives"],
    ["training"],
    ["evaluation"],
    ["trained"],
    ["verbs", "selftest"],
    ["cli"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ENTRY_POINTS = {"__init__", "__main__"}  # the public surface may name any room
LOOSE = {"errors", "files", "names", "processes", "system"}  # modules that are a room of their own
FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name; a package's `__init__` is the package."""
    return ".".join(("vaekit", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vaekit":
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("vaekit.")}
    return found - {"vaekit"}


def test_no_module_is_loose_and_every_room_has_a_floor():
    top = {path.relative_to(SOURCE).parts[0] for path in FILES}
    loose = {name.removesuffix(".py") for name in top if name.endswith(".py")} - ENTRY_POINTS
    assert loose == LOOSE
    assert {name for name in top if not name.endswith(".py")} | LOOSE == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    if path.parent == SOURCE and path.stem in ENTRY_POINTS:
        return
    room = room_of(module_of(path))
    for module in imports_of(path):
        other = room_of(module)
        assert other == room or FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {module}"


def test_no_modules_import_each_other_in_a_circle():
    """Rooms cannot, since imports point down; this walks the modules inside them too."""
    edges = {module_of(path): imports_of(path) for path in FILES if path.stem != "__init__"}
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for other in edges.get(module, ()):
            walk(other, (*trail, module))
        done.add(module)

    for module in edges:
        walk(module, ())


def test_a_verb_is_one_file_one_function_one_command():
    from vaekit.cli.main import app

    def commands(of) -> set[str]:
        named = {command.name or command.callback.__name__ for command in of.registered_commands}
        return named.union(*(commands(group.typer_instance) for group in of.registered_groups if not group.name))

    verbs = {path.stem: path for path in (SOURCE / "verbs").glob("*.py") if path.stem != "__init__"}
    for verb in verbs:
        found = importlib.import_module(f"vaekit.verbs.{verb}")
        assert inspect.isfunction(getattr(found, verb, None)), f"verbs/{verb}.py has no function {verb}"
    python_only = {"fit"}  # takes what only a program has: its own images
    without_file = {"recipes", "selftest"}  # a listing, and a room of its own
    assert {verb.replace("_", "-") for verb in verbs} - python_only == commands(app) - without_file


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_pickle_and_no_torchvision(path):
    text = path.read_text()
    if (
        path == SOURCE / "networks" / "pretrained" / "weights.py"
    ):  # published weights come as torch files: read as tensors alone
        safe = 'torch.load(io.BytesIO(data), "cpu", weights_only=True)'
        assert text.count("torch.load(") == text.count(safe) == 1
        text = text.replace(safe, "")
    if path == SOURCE / "data" / "plain_pickle.py":  # CIFAR-10's: every name in it is one of our own, or refused
        assert text.count("find_class") == 1 and "super().find_class" not in text and "pickle.load" not in text
        text = text.replace("import pickle\n", "")
    forbidden = ("import torchvision", "from torchvision", "import pickle", "torch.load(", "torch.save(", "yaml.load(")
    assert not [words for words in forbidden if words in text]


def test_models_and_training_need_only_torch_numpy_safetensors():
    """A GPU machine may lack pydantic and the rest."""
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "yaml", "typer", "rich", "PIL", "matplotlib", "sklearn", "pooch"}:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Refuse())
import vaekit.models.build, vaekit.objectives, vaekit.training.loop, vaekit.training.checkpoint
import vaekit.evaluation.report, vaekit.evaluation.health, vaekit.evaluation.features
import vaekit.evaluation.disentanglement
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_surface_is_small_and_real():
    import vaekit

    assert len(vaekit.__all__) <= 30
    for name in vaekit.__all__:
        importlib.import_module(vaekit._HOMES[name][0])  # which must not hide what it is the home of
        assert getattr(vaekit, name).__doc__, f"{name} has no docstring"
        assert not inspect.ismodule(getattr(vaekit, name)), f"{name} is the name of a module too"
