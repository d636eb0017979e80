"""A run folder from a stranger: its files may have right sums and wrong contents, and links that lead elsewhere."""

import hashlib
import json
import math
import os
import shutil

import pytest
import torch
from safetensors.torch import load as parse
from safetensors.torch import save as to_bytes
from small_runs import SIZES

from vaekit.errors import CheckpointError, ConfigError
from vaekit.training.checkpoint import load_checkpoint, locate, point
from vaekit.training.combinations import read_config
from vaekit.verbs.train import train


@pytest.fixture
def run(digits_run, tmp_path):
    return shutil.copytree(digits_run.folder, tmp_path / "run")


def signed_again(folder):
    """Right sums of whatever lies there."""
    names = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    sums = {}
    for name in names:
        data = (folder / name).read_bytes()
        sums[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": sums}))


def with_state(**changes):
    """The state with these values; one that is `...` is left out; `a__b` is b within a."""

    def edit(folder):
        path = folder / "state.json"
        state = json.loads(path.read_text())
        for name, value in changes.items():
            *outer, inner = name.split("__")
            place = state
            for key in outer:
                place = place[key]
            if value is ...:
                del place[inner]
            else:
                place[inner] = value
        path.write_text(json.dumps(state))

    return edit


def with_tensors(change, *groups):
    """Every tensor of these groups, changed."""

    def edit(folder):
        for group in groups or ("model", "ema"):
            path = folder / f"{group}.safetensors"
            path.write_bytes(to_bytes(change(parse(path.read_bytes()))))

    return edit


def poisoned(value):
    def change(tensors):
        name = next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() > 1)
        tensors[name].view(-1)[0] = value
        return tensors

    return change


WRONG = {
    "no config": with_state(config=...),
    "a config of text": with_state(config="digits"),
    "another network": with_state(config__model__network="conv"),
    "an unknown network": with_state(config__model__network="nonsense"),
    "a wide code": with_state(config__model__latent_dim=5),
    "a code of text": with_state(config__model__latent_dim="many"),
    "a code of less than nothing": with_state(config__model__latent_dim=-1),
    "no shape": with_state(shape=...),
    "a flat shape": with_state(shape=[8, 8]),
    "a shape of text": with_state(shape=["1", "8", "8"]),
    "a shape of nothing": with_state(shape=[1, 0, 8]),
    "a vast shape": with_state(shape=[1, 10**9, 10**9]),
    "another shape": with_state(shape=[3, 8, 8]),
    "no classes": with_state(class_names=...),
    "classes of numbers": with_state(class_names=[1, 2]),
    "no data": with_state(data=...),
    "data of numbers": with_state(data=7),
    "no progress": with_state(progress=...),
    "no history": with_state(progress__history=...),
    "a history of text": with_state(progress__history="long"),
    "a history of numbers": with_state(progress__history=[1, 2]),
    "no step": with_state(step=...),
    "a step of text": with_state(step="last"),
    "a negative step": with_state(step=-3),
    "no steps at all": with_state(total_steps=0),
    "no choices": with_state(choices=...),
    "progress of text": with_state(progress="far"),
    "a state as deep as Python goes": lambda folder: (folder / "state.json").write_text("[" * 100_000),
    "a list": lambda folder: (folder / "state.json").write_text("[]"),
    "no JSON": lambda folder: (folder / "state.json").write_text("{"),
    "NaN": with_tensors(poisoned(math.nan)),
    "infinity": with_tensors(poisoned(math.inf)),
    "no tensors": with_tensors(lambda tensors: {}),
    "tensors called otherwise": with_tensors(lambda tensors: {f"x{name}": t for name, t in tensors.items()}),
    "transposed tensors": with_tensors(
        lambda tensors: {n: t.t().contiguous() if t.ndim == 2 else t for n, t in tensors.items()}
    ),
    "whole numbers": with_tensors(lambda tensors: {n: t.long() for n, t in tensors.items()}),
    "bytes that are no tensors": lambda folder: (folder / "ema.safetensors").write_bytes(b"\xff" * 100),
    "an empty file": lambda folder: (folder / "ema.safetensors").write_bytes(b""),
    "no averaged weights": lambda folder: (folder / "ema.safetensors").unlink(),
}


@pytest.mark.parametrize("name", WRONG)
def test_right_sums_of_wrong_contents_end_in_one_line(run, vaekit, name):
    folder = locate(run, "best")
    WRONG[name](folder)
    signed_again(folder)
    step = int(folder.name.removeprefix("step-"))
    for which in ("best", "latest"):
        point(run, which, step)
    resumed = ("train", run / "config.yaml", "--resume", "--out", run)
    for words in (("evaluate", run, "-k", "2"), ("sample", run, "-n", "1"), resumed):
        answer = vaekit(*words)
        assert answer.code in (2, 3, 4), (words, answer)
        assert "Traceback" not in answer.err and answer.err.splitlines()[-1].startswith("vaekit: "), (words, answer.err)


@pytest.mark.parametrize("target", ["/dev/zero", "../../../etc/passwd", "../latest", "sub/file.safetensors", ".", ""])
def test_a_manifest_names_its_own_files_alone(run, target):
    folder = locate(run, "best")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][target] = {"sha256": "0", "bytes": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"no file of a checkpoint|no file of its own"):
        load_checkpoint(folder)


@pytest.mark.parametrize("target", ["/dev/zero", "a pipe", "elsewhere"])
def test_a_file_of_a_checkpoint_that_leads_elsewhere_is_not_read(run, tmp_path, target):
    path = locate(run, "best") / "ema.safetensors"
    whole = path.read_bytes()
    path.unlink()
    if target == "a pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "elsewhere").write_bytes(whole)
        path.symlink_to(target if target.startswith("/") else tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link, a pipe or a device, and is not read"):
        load_checkpoint(path.parent)


def test_a_lock_that_is_a_link_empties_no_file(tmp_path):
    kept = tmp_path / "thesis.txt"
    kept.write_text("years of work")
    run = tmp_path / "run"
    run.mkdir()
    for make in (lambda lock: lock.symlink_to(kept), os.mkfifo):
        make(run / ".lock")
        with pytest.raises(CheckpointError, match=r"\.lock is a link, or no file at all, and is not touched"):
            train("digits", *SIZES, "training.epochs=1", out=run)
        (run / ".lock").unlink()
    assert kept.read_text() == "years of work"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "a/b", "", "a\\b", "C:x"])
def test_a_run_is_called_by_a_plain_name(name, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: {json.dumps(name)}\ndata: {{source: digits, binarize: dynamic}}\n")
    with pytest.raises(ConfigError, match=r"is no plain name|is called by one plain name"):
        read_config(str(file))


def test_weights_of_whole_numbers_are_of_another_model():
    from vaekit.training.checkpoint import load_weights

    layer = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"'weight' is torch\.int64, not torch\.float32"):
        load_weights(layer, {**layer.state_dict(), "weight": torch.ones(2, 2, dtype=torch.int64)})
