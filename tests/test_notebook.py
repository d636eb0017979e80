"""The notebook: without outputs in the file, and run whole, with and without a run, uploads included."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "latent_playground.ipynb"
# What a user does: moves a slider, starts from an image, uploads images, and then something that is no image.
USED = """
from datetime import datetime

before = decoded.value
next(iter(sliders.values())).value += 2 * float(spread[used[0]])
assert decoded.value != before, "the slider changes nothing"
start.value = 3
assert np.allclose(code_now(), codes[3], atol=float(6 * spread.max() / 100)), "not the code of the image"


def upload(widget, *contents):
    widget.value = tuple(
        {"name": f"{i}.png", "type": "image/png", "size": len(c), "content": c, "last_modified": datetime.now()}
        for i, c in enumerate(contents)
    )


white = enlarged(np.full((30, 20, 3), 255, np.uint8))
before = between.value
upload(two_images, enlarged(vae.to_images(test.images[5:6] / 255)[0]), white)
assert between.value != before and between_says.value == ""
mode.value = "spherical"
before = result.value
upload(terms["plus"], white)
assert result.value != before and result_says.value == ""
upload(terms["minus"], b"no image")
assert "0.png" in result_says.value, "the upload that is no image is not named"
draw.click()
"""
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(notebook)
notebook.cells.append(nbformat.v4.new_code_cell(sys.stdin.read()))
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
print(len(notebook.cells), "cells")
"""


def test_the_file_holds_no_outputs_and_its_code_is_python():
    notebook = json.loads(NOTEBOOK.read_text())
    for cell in notebook["cells"]:
        assert cell["source"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            ast.parse("".join(cell["source"]))


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True], ids=["trains its own", "a given run"])
def test_it_runs_whole(given, digits_run, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipywidgets")
    run = {"VAEKIT_RUN": str(digits_run)} if given else {}
    environment = {k: v for k, v in os.environ.items() if k != "VAEKIT_RUN"} | run
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, NOTEBOOK], input=USED, capture_output=True, text=True, check=False,
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
