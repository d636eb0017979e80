"""A checkpoint is whole or absent, what it gives back is what was given, and damage is told and never loaded."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vaekit.errors import CheckpointError, ConfigError, NumericalError, StorageError, VaekitWarning
from vaekit.files import write_text_atomically
from vaekit.training import checkpoint as module
from vaekit.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    locate,
    point,
    pointed,
    prune,
    save_checkpoint,
    saved_steps,
    tidy,
)


def made(step=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "model": {
            "weight": torch.randn(3, 4, generator=generator),
            "strided": torch.randn(4, 3, generator=generator).t(),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 2),
        },
        "ema": {"weight": torch.randn(3, 4, generator=generator)},
        "optimizer": {"weight/step": torch.tensor(3.0), "weight/exp_avg": torch.zeros(3, 4)},
        "trainer": {
            "random/cpu": torch.get_rng_state(),
            "count": torch.tensor(2**40),
            "sum": torch.tensor(1 / 3, dtype=torch.float64),
        },
    }
    return Checkpoint(step, tensors, {"config": {"name": "é"}, "progress": {"history": [{"loss": 0.1 + 0.2}]}})


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_save_then_load_is_identity(run):
    given = made()
    taken = load_checkpoint(save_checkpoint(run, given))
    assert taken.step == given.step
    assert {**taken.state} == {"format": 1, "step": 7, **given.state}
    assert taken.tensors.keys() == given.tensors.keys()
    for group, tensors in given.tensors.items():
        assert taken.tensors[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert taken.tensors[group][name].dtype == tensor.dtype
            assert torch.equal(taken.tensors[group][name], tensor), (group, name)


def test_weights_that_share_memory_come_back_apart(run):
    shared = torch.arange(6.0)
    given = Checkpoint(1, {"model": {"a": shared, "b": shared[2:4], "c": shared}}, {})
    taken = load_checkpoint(save_checkpoint(run, given)).tensors["model"]
    assert torch.equal(taken["b"], shared[2:4])
    taken["a"].zero_()
    assert torch.equal(taken["c"], shared)


def test_equal_checkpoints_are_equal_bytes(tmp_path):
    state = torch.get_rng_state()
    first = files_of(save_checkpoint(tmp_path / "a", made()))
    torch.set_rng_state(state)
    assert files_of(save_checkpoint(tmp_path / "b", made())) == first


def test_some_groups_are_loaded_alone(run):
    folder = save_checkpoint(run, made())
    (folder / "optimizer.safetensors").unlink()
    assert load_checkpoint(folder, ("ema",)).tensors.keys() == {"ema"}
    with pytest.raises(CheckpointError, match=r"lacks optimizer\.safetensors"):
        load_checkpoint(folder)


def test_nothing_but_safetensors_and_json_is_written(digits_run):
    suffixes = {path.suffix for path in (digits_run / "checkpoints").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ""}  # "": latest and best, a line of text each
    for pointer in ("latest", "best"):
        assert (digits_run / "checkpoints" / pointer).read_text().split()[0] in names_in(digits_run / "checkpoints")
    for path in digits_run.rglob("*"):
        assert not path.is_file() or path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"PK"), path


# Damage


def refused(folder, match=None):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(folder)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_in_any_file_is_refused(run):
    whole = made()
    folder = save_checkpoint(run, Checkpoint(7, {"model": whole.tensors["model"]}, whole.state))
    chance = random.Random(0)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        # every bit of the manifest, which no sum protects; elsewhere the ends and a sample
        sample = {0, 8 * len(data) - 1, *(chance.randrange(8 * len(data)) for _ in range(60))}
        for bit in range(8 * len(data)) if path.name == "manifest.json" else sample:
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            refused(folder)
        path.write_bytes(data)
    assert load_checkpoint(folder).step == 7


def test_a_missing_file_is_named(run):
    folder = save_checkpoint(run, made())
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        path.unlink()
        refused(folder, rf"lacks {path.name}")
        path.write_bytes(data)


def test_a_truncated_file_is_refused(run):
    folder = save_checkpoint(run, made())
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for length in (0, 1, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            refused(folder, "damaged")
        path.write_bytes(data)


def test_a_folder_where_a_file_should_be_is_refused(run):
    folder = save_checkpoint(run, made())
    (folder / "ema.safetensors").unlink()
    (folder / "ema.safetensors").mkdir()
    refused(folder, "cannot be read")


def test_another_format_is_refused_by_its_number(run):
    folder = save_checkpoint(run, made())
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    refused(folder, "is of checkpoint format 2; this vaekit reads format 1")
    (folder / "manifest.json").write_text("[]")
    refused(folder, "not a JSON object")


@pytest.mark.parametrize("group", ["model", "ema", "optimizer"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_never_written(run, group, value):
    save_checkpoint(run, made(1))
    bad = made(2)
    next(iter(bad.tensors[group].values())).view(-1)[-1:].fill_(value)
    with pytest.raises(NumericalError, match=rf"{group} tensor '.*' is not finite") as caught:
        save_checkpoint(run, bad)
    assert caught.value.exit_code == 5
    assert saved_steps(run) == [1]
    assert names_in(run / "checkpoints") == ["step-00000001"]


# Pointers and pruning


def test_pointers_name_only_what_is_there(run):
    assert pointed(run, "latest") is None
    save_checkpoint(run, made(3))
    point(run, "latest", 3)
    assert pointed(run, "latest") == 3
    for text in (b"step-00000009\n", b"\xff\x00garbage", b""):
        (run / "checkpoints" / "latest").write_bytes(text)
        assert pointed(run, "latest") is None
        with pytest.warns(VaekitWarning, match="latest is damaged.*the newest checkpoint is taken, step 3"):
            assert locate(run, "latest").name == "step-00000003"


def with_best(step, best):
    checkpoint = made(step)
    return replace(checkpoint, state={**checkpoint.state, "progress": {"best_step": best}})


def test_a_changed_bit_in_a_pointer_chooses_no_other_checkpoint(run):
    """Steps are chosen so that one bit turns one's name into the other's."""
    for step in (10, 11, 12):
        save_checkpoint(run, with_best(step, 10))
    for which, step in (("best", 10), ("latest", 12)):
        point(run, which, step)
        path = run / "checkpoints" / which
        right = path.read_bytes()
        for bit in range(0, 8 * len(right), 5):
            changed = bytearray(right)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.warns(VaekitWarning, match=f"{which} is damaged.* step {step}"):
                assert locate(run, which).name == f"step-000000{step}", bit
        path.unlink()
        with pytest.warns(VaekitWarning, match=f"{which} is missing.* step {step}"):
            assert locate(run, which).name == f"step-000000{step}"


def test_where_the_best_checkpoint_is_gone_too_nothing_is_taken_for_it(run):
    for step in (10, 11):
        save_checkpoint(run, with_best(step, 9))
    with pytest.raises(CheckpointError, match=r"is missing, and so is the checkpoint of step 9.*--checkpoint latest"):
        locate(run, "best")
    save_checkpoint(run, with_best(12, None))  # nothing was validated yet
    assert locate(run, "best").name == "step-00000012"


def test_a_pointer_holds_its_checkpoint_to_its_bytes(run):
    save_checkpoint(run, with_best(10, 10))
    point(run, "best", 10)
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    save_checkpoint(run, with_best(10, 8))  # another training's
    assert pointed(run, "best") is None


def test_pointers_of_older_runs_have_no_digest(run):
    save_checkpoint(run, made(3))
    (run / "checkpoints" / "best").write_text("step-00000003\n")
    assert pointed(run, "best") == 3


def test_a_lost_pointer_loses_no_best_checkpoint(run):
    for step in (1, 2, 3, 4):
        save_checkpoint(run, with_best(step, 2))
    prune(run, 1)
    assert saved_steps(run) == [2, 4]


def test_best_and_latest_are_found_and_anything_else_is_refused(run):
    for step in (1, 2, 3):
        save_checkpoint(run, made(step))
    point(run, "best", 1)
    point(run, "latest", 2)
    assert [locate(run, which).name[-1] for which in ("best", "latest")] == ["1", "2"]
    assert locate(run / "checkpoints" / "step-00000003").name == "step-00000003"
    assert locate(run / "checkpoints" / "latest").name == "step-00000002"
    with pytest.raises(ConfigError, match="unknown checkpoint 'newest'"):
        locate(run, "newest")
    with pytest.raises(CheckpointError, match="no run at"):
        locate(run / "elsewhere")
    (run / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        locate(run / "empty")


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_prune_keeps_the_newest_the_best_and_the_latest(run, keep):
    steps = [1, 20, 300, 4000, 123_456_789]
    for step in steps:
        save_checkpoint(run, made(step))
    point(run, "best", 20)
    point(run, "latest", 300)
    prune(run, keep)
    assert saved_steps(run) == sorted({20, 300, *steps[-keep:]})


def test_what_an_interrupted_write_left_is_tidied_and_nothing_else(run):
    folder = save_checkpoint(run, made(1))
    point(run, "latest", 1)
    write_text_atomically(run / "logs" / "history.csv", "step\n")
    before = files_of(run)
    shutil.copytree(folder, run / "checkpoints" / ".step-00000002.77.partial")
    for name in ("checkpoints/.latest.77.partial", "logs/.history.csv.77.partial", ".config.yaml.77.partial"):
        (run / name).write_text("half")
    assert saved_steps(run) == [1]  # a leftover is no checkpoint
    tidy(run)
    assert files_of(run) == before


def test_writing_the_same_step_again_replaces_what_was_damaged(run):
    folder = save_checkpoint(run, made(5))
    good = files_of(folder)
    inode = folder.stat().st_ino
    assert save_checkpoint(run, Checkpoint(5, load_checkpoint(folder).tensors, made(5).state)).stat().st_ino == inode
    (folder / "ema.safetensors").write_bytes(b"damage")
    save_checkpoint(run, made(5, seed=1))
    assert load_checkpoint(folder).step == 5
    assert files_of(folder).keys() == good.keys()
    assert files_of(folder)["ema.safetensors"] != good["ema.safetensors"]


# Full disks


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename", "replace"])
def test_a_disk_that_fills_up_at_any_call_leaves_what_was_saved(run, monkeypatch, call):
    """The disk is full at the first, second, … such call of writing a checkpoint and its pointer."""
    save_checkpoint(run, made(1))
    point(run, "latest", 1)
    before = files_of(run)
    real = getattr(os, call)
    failures = 0
    for full_at in range(20):
        calls = 0

        def full(*arguments, full_at=full_at, **options):
            nonlocal calls
            calls += 1
            if calls > full_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **options)

        monkeypatch.setattr(module.os, call, full)
        try:
            save_checkpoint(run, made(2))
            point(run, "latest", 2)
        except StorageError as error:
            failures += 1
            assert error.exit_code == 6
            assert "the disk is full" in str(error) and "\n" not in str(error)
        monkeypatch.undo()
        assert pointed(run, "latest") in saved_steps(run)
        load_checkpoint(locate(run, "latest"))
        assert before.items() <= files_of(run).items() | {("checkpoints/latest", before["checkpoints/latest"])}
        assert not list(run.rglob("*.partial"))
        shutil.rmtree(run / "checkpoints" / "step-00000002", ignore_errors=True)
        point(run, "latest", 1)
    assert failures >= 1


LIMITED = """
import resource, sys, torch
from dataclasses import replace
from pathlib import Path
from vaekit.training.checkpoint import Checkpoint, save_checkpoint
from vaekit.errors import StorageError
run = Path(sys.argv[1])
save_checkpoint(run, Checkpoint(1, {"model": {"w": torch.ones(10)}}, {}))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(run, Checkpoint(2, {"model": {"w": torch.ones(1_000_000)}}, {}))
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_real_write_that_does_not_fit_is_a_storage_error(run):
    """The kernel refuses the bytes themselves, in the middle of a file."""
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", LIMITED, str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "the limit on file sizes is reached" in done.stdout
    assert names_in(run / "checkpoints") == ["step-00000001"]
    load_checkpoint(run / "checkpoints" / "step-00000001")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_text_on_a_full_device_is_a_storage_error_and_the_old_text_stays(tmp_path):
    path = tmp_path / "latest"
    write_text_atomically(path, "old")
    (tmp_path / f".latest.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
