"""What the documents show is run: the README's Python, the parts that docs/architecture.md adds, docs/theory.md."""

import inspect
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch
from laws import assert_normalises, assert_samples_follow, assert_trains, assert_unchanged_by_duplication

from vaekit.models import build
from vaekit.objectives import build as objectives
from vaekit.training.combinations import read_config

ROOT = Path(__file__).parent.parent


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setattr(build, "LIKELIHOODS", dict(build.LIKELIHOODS))
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))


def test_the_documents_likelihood_obeys_the_laws(tables):
    exec(next(block for block in python_blocks("docs/architecture.md") if "LIKELIHOODS[" in block), {})
    student = build.LIKELIHOODS["student"]
    assert_normalises(student, limit=1e-4)  # its tails fall as x^-4, beyond the test's grid
    assert_samples_follow(student)
    assert_trains("elbo", "student", {})


def test_the_documents_objective_obeys_the_laws(tables):
    exec(next(block for block in python_blocks("docs/architecture.md") if "OBJECTIVES[" in block), {})
    options = {"alpha": {"kind": "linear", "start": 0.9, "end": 0.0, "over": 5.0}}
    assert_unchanged_by_duplication("renyi", "bernoulli", options)
    assert_trains("renyi", "gaussian", options)
    assert set(objectives.build_objective(build.Part("renyi", options), 1, 1).schedules) == {"alpha"}


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


@pytest.fixture
def default_dtype():
    yield
    torch.set_default_dtype(torch.float32)


def test_every_statement_of_the_theory_holds(default_dtype):
    """Its blocks are one program, whose asserts are the statements; each section ends in one."""
    sections = re.split(r"^## ", (ROOT / "docs" / "theory.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) == 17
    names: dict = {}
    for section in sections:
        (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        assert "assert " in block and "print(" in block
        exec(compile(block, section.splitlines()[0], "exec"), names)


# The table of features, and the commands of troubleshooting


def features():
    return (ROOT / "docs" / "features.md").read_text()


def commands_in_features():
    """Every command in backticks of docs/features.md and two other pages, and of the blocks of those."""
    others = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("troubleshooting", "disentanglement"))
    blocks = re.findall(r"```sh\n(.*?)```", others, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", features() + re.sub(r"```.*?```", "", others, flags=re.DOTALL))
    spans += [line for block in blocks for line in block.splitlines()]
    return [span for span in spans if span.split()[0] in ("vaekit", "make", "python") or span.startswith("scripts/")]


def test_every_command_of_the_features_is_there(vaekit):
    helped = vaekit("--help").out
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert len(commands_in_features()) > 60
    for command in commands_in_features():
        program, *words = shlex.split(command)
        if program == "make":
            assert words[0] in targets, command
        elif program == "vaekit":
            assert words[0] == "VERB" or f"  {words[0]} " in helped, command
        else:
            module = f"{words[1].replace('.', '/')}.py" if words[:1] == ["-m"] else ""
            assert (ROOT / (module or (words[0] if program == "python" else program))).is_file(), command


def test_every_option_of_the_features_is_there(vaekit):
    for command in commands_in_features():
        program, *words = shlex.split(command)
        options = [word for word in words if word.startswith("--")]
        if program != "vaekit" or words[0] == "VERB" or not options:
            continue
        helped = vaekit(words[0], "--help").out
        for option in options:
            assert f"{option} " in helped, command


def test_every_training_of_the_features_is_a_valid_config():
    trainings = [shlex.split(c)[2:] for c in commands_in_features() if c.startswith("vaekit train ")]
    assert len(trainings) > 20
    for recipe, *words in trainings:
        if not recipe.endswith(".yaml"):
            read_config(recipe, [word for word in words if "=" in word])


def test_every_option_of_troubleshooting_is_a_valid_config():
    spans = re.findall(r"`([a-z]+\.[a-z_.]+=[^`\n]+)`", (ROOT / "docs" / "troubleshooting.md").read_text())
    assert len(spans) > 20
    for span in spans:
        if "start_from" not in span:
            read_config("digits", ["data.binarize=none", "model.likelihood=gaussian", span])


def test_every_function_of_the_features_is_there():
    names = {name for name in re.findall(r"`(vaekit\.[\w.]+)`", features()) if not name.endswith("ipynb")}
    assert len(names) > 30
    for name in names:
        pkgutil.resolve_name(name)


def test_the_snippet_of_the_features_prints_the_shapes_beside_it(capsys):
    (block,) = python_blocks("docs/features.md")
    exec(block, {})
    shapes = [tuple(map(int, found)) for found in re.findall(r"\[(\d+), (\d+)\]", capsys.readouterr().out)]
    assert shapes == [tuple(map(int, found)) for found in re.findall(r"\((\d+), (\d+)\)", block.split("#")[-1])]


def test_the_python_of_the_disentanglement_page_runs():
    (block,) = python_blocks("docs/disentanglement.md")
    assert block.count("assert ") == 1
    exec(block, {})


def test_the_gallery_shows_small_pictures_that_are_there_and_every_picture_is_shown():
    folder = ROOT / "docs" / "images" / "gallery"
    shown = re.findall(r"!\[[^\]]+\]\(images/gallery/([^)]+)\)", (ROOT / "docs" / "gallery.md").read_text())
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sorted(shown) == sorted(sizes)
    assert max(sizes.values()) < 200_000 and sum(sizes.values()) < 1_500_000


PART_TABLES = {
    "Posteriors": build.POSTERIORS,
    "Priors": build.PRIORS,
    "Likelihoods": build.LIKELIHOODS,
    "Objectives": objectives.OBJECTIVES,
}


def rows_of_parts():
    """(section, cells) of each row of the tables of docs/parts.md."""
    for section in (ROOT / "docs" / "parts.md").read_text().split("\n## ")[1:]:
        for row in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
            yield section.split(":")[0].split("\n")[0], re.split(r"(?<!\\) \| ", row)


def test_the_page_of_parts_names_every_part_and_its_options():
    for title, table in PART_TABLES.items():
        cells = [cells[0] for section, cells in rows_of_parts() if section == title]
        named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
        assert table.keys() <= named, title
        for cell in cells:
            kind, *words = re.findall(r"`([^`]+)`", cell)
            for word in words:
                if word not in table:
                    taken = inspect.signature(table[kind]).parameters
                    name, _, value = word.partition(": ")
                    assert name in taken or any(word in str(p.annotation) for p in taken.values()), cell
                    assert not value or value in str(taken[name].annotation), cell


def test_the_recipes_on_the_page_of_parts_have_the_part_of_their_row():
    checked = 0
    for section, cells in rows_of_parts():
        if section not in ("Posteriors", "Priors", "Objectives"):
            continue
        kinds = re.findall(r"`([^`:]+)", cells[0])
        for recipe, *words in (span.split() for span in re.findall(r"`([^`]+)`", cells[-1])):
            words += ["model.context=class"] if "model.prior=per-class" in words else []
            config = read_config(recipe, words)
            part = config.objective if section == "Objectives" else getattr(config.model, section[:-1].lower())
            assert part.kind in kinds, (cells[0], recipe)
            checked += 1
    assert checked > 20
