"""A run that was stopped, however it was stopped, ends with the same bytes as one that never was."""

from __future__ import annotations

import errno
import math
import os
import random
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import EVERYTHING, SIZES, Processes, state_of, what_is_left

from vaekit.cli import console
from vaekit.errors import CheckpointError, ConfigError
from vaekit.training.checkpoint import load_checkpoint, locate, pointed, saved_steps
from vaekit.training.interrupts import stop_signals
from vaekit.training.loggers import Silent
from vaekit.training.loop import Interrupted
from vaekit.verbs.train import train

EXACT = ("train", "digits", *EVERYTHING)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    server = Processes(tmp_path_factory.mktemp("processes"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def uninterrupted(processes, tmp_path_factory):
    """(its files, seconds, durable changes) of the run that nobody stopped."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    began = time.perf_counter()
    assert processes.run(*EXACT, "--out", str(run)) == 0, processes.log.read_text()
    return what_is_left(run), time.perf_counter() - began, processes.durable_changes()


def kill_and_resume(processes, uninterrupted, run, seed):
    """Kill at random moments, half of them inside the writing of files, resume until it ends; the files left."""
    _, seconds, changes = uninterrupted
    chance = random.Random(seed)
    command = (*EXACT, "--out", str(run), "--resume")
    for kill in range(chance.choice((1, 1, 2, 3))):
        inside = (seed + kill) % 2
        pid = processes.start(*command, kill_at=chance.randrange(1, changes) if inside else 0)
        if not inside:
            time.sleep(chance.uniform(0.1, 1) * seconds)
            os.kill(pid, signal.SIGKILL)  # it is a zombie at worst: the server has not waited for it
        assert processes.wait(pid) in (-signal.SIGKILL, 0), processes.log.read_text()
        if (step := pointed(run, "latest")) is not None:
            load_checkpoint(locate(run, "latest"))
            assert step in saved_steps(run)
    assert processes.run(*command) == 0, processes.log.read_text()
    return what_is_left(run)


def assert_same_files(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], f"{name} differs"


def test_killed_and_resumed_is_the_same_to_the_byte(processes, uninterrupted, tmp_path):
    for seed in range(3):
        assert_same_files(kill_and_resume(processes, uninterrupted, tmp_path / str(seed), seed), uninterrupted[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_killed_twenty_times_and_resumed_is_the_same_to_the_byte(processes, uninterrupted, tmp_path, seed):
    assert_same_files(kill_and_resume(processes, uninterrupted, tmp_path / "run", seed), uninterrupted[0])


@pytest.mark.slow
def test_killed_at_every_change_of_the_disk_around_one_checkpoint(processes, uninterrupted, tmp_path):
    """From the third quarter on: a checkpoint with its pointers, its history and the pruning of an older one."""
    first = 3 * uninterrupted[2] // 4
    for number in range(first, first + 16):
        run = tmp_path / str(number)
        assert processes.run(*EXACT, "--out", str(run), kill_at=number) == -signal.SIGKILL
        assert processes.run(*EXACT, "--out", str(run), "--resume") == 0
        assert_same_files(what_is_left(run), uninterrupted[0])
        shutil.rmtree(run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_says_how_to_go_on_and_exits_with_its_code(vaekit, tmp_path, number, code):
    run = tmp_path / "run"

    def signal_after_a_checkpoint():
        while pointed(run, "latest") is None:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=signal_after_a_checkpoint).start()
    answer = vaekit("train", "digits", *SIZES, "training.epochs=100000", "training.checkpoint_every=5", "--out", run)
    assert answer.code == code
    step = pointed(run, "latest")
    said = f"vaekit: {number.name}: saved step {step}; go on with --resume --out {run}"
    assert answer.err.splitlines()[-1] == said
    load_checkpoint(locate(run, "latest"))


def test_a_run_under_nohup_goes_on_when_its_terminal_closes():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as arrived:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert arrived == [signal.SIGTERM] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_ends_no_run(monkeypatch):
    def closed(*objects, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(console.Console, "print", closed)
    stream = console._Console()
    stream.print("anything")
    assert stream.quiet


class At(Silent):
    """Calls something when a step is logged."""

    def __init__(self, step, action):
        self.step, self.action, self.messages = step, action, []

    def progressed(self, row, images_per_second):
        if row["step"] == self.step:
            self.action()

    def message(self, text):
        self.messages.append(text)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_run(run, *overrides, step=15):
    """A run that got SIGTERM at this step."""
    with pytest.raises(Interrupted) as caught:
        train("digits", *overrides, out=run, loggers=[At(step, terminate)])
    assert caught.value.exit_code == 143
    assert pointed(run, "latest") == step
    return run


class Died(BaseException):
    """As a kill would, it leaves what is on the disk and saves nothing more."""


def die():
    raise Died


@pytest.mark.parametrize(
    "options",
    [
        ("training.guard=false", "training.clip=null", "training.accumulate=1"),
        pytest.param(("training.compile=on",), marks=pytest.mark.slow),
        ("training.optimizer=adam", "training.clip=null"),
        ("training.optimizer=adamw", "training.weight_decay=0.01", "training.ema=null"),
        ("training.optimizer=adamax", "training.schedule=step", "training.decay_every=8"),
        ("training.precision=bf16",),
        ("training.precision=fp16",),
        ("model.network={kind: conv, widths: [4], norm: batch}", "training.schedule_unit=epoch", "training.warmup=2"),
        ("model.kind=autoencoder", "model.corruption=mask"),
        ("data.binarize=none", "data.dequantize=true", "model.likelihood={kind: gaussian, scale: optimal}"),
    ],
    ids=[
        "unguarded",
        "compiled",
        "adam",
        "adamw",
        "adamax",
        "bf16",
        "fp16",
        "batchnorm",
        "denoising",
        "optimal-scale",
    ],
)
def test_resumed_is_the_same_to_the_byte_with(options, tmp_path):
    chosen = (*EVERYTHING, "training.epochs=3", *options)
    expected = what_is_left(train("digits", *chosen, out=tmp_path / "a"))
    with pytest.raises(Died):
        train("digits", *chosen, out=tmp_path / "b", loggers=[At(20, die)])
    assert pointed(tmp_path / "b", "latest") == 14
    assert_same_files(what_is_left(train("digits", *chosen, out=tmp_path / "b", resume=True)), expected)


def test_a_run_killed_at_its_very_end_is_put_in_order_when_it_is_resumed(tmp_path):
    """Death after the last `latest`, before history.csv and before older checkpoints were deleted."""
    run = train("digits", *SIZES, "training.epochs=2", out=tmp_path / "run")
    history = run / "logs" / "history.csv"
    expected = history.read_bytes()
    history.write_bytes(expected[:100])
    shutil.copytree(run / "checkpoints" / "step-00000010", run / "checkpoints" / "step-00000005")
    (run / "checkpoints" / ".step-00000099.1.partial").mkdir()
    (run / "logs" / ".history.csv.1.partial").write_text("half a ta")
    train("digits", *SIZES, out=run, resume=True)
    assert history.read_bytes() == expected
    assert saved_steps(run) == [10, 20]
    assert not list(run.rglob("*.partial"))


def test_a_warning_names_what_changed_in_the_environment(tmp_path):
    run = stopped_run(tmp_path / "run", *EVERYTHING)
    ear = At(0, die)
    train("digits", "training.threads=2", out=run, resume=True, loggers=[ear])
    assert any("not the same bytes" in text and "threads 1 → 2" in text for text in ear.messages)
    torch.set_num_threads(1)
    unchanged = At(0, die)
    again = stopped_run(tmp_path / "again", *EVERYTHING)
    torch.set_num_threads(2)  # the thread count of the checkpoint is taken, not that of the shell
    train("digits", out=again, resume=True, loggers=[unchanged])
    assert not any("not the same bytes" in text for text in unchanged.messages)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "override",
    [
        "model.latent_dim=5",
        "training.learning_rate=0.1",
        "training.seed=3",
        "data.shift=2",
        "objective.beta=4",
        "objective=elbo",
        "name=other",
    ],
)
def test_overrides_that_would_change_the_past_are_refused(override, tmp_path, digits_run):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    before = what_is_left(run)
    if override == "objective=elbo":  # is what it was
        train("digits", override, out=run, resume=True)
        return
    with pytest.raises(ConfigError, match=r"change the run's past|holds a run of") as caught:
        train("digits", override, out=run, resume=True)
    assert caught.value.exit_code == 2
    assert what_is_left(run) == before


def test_the_same_command_with_resume_added_goes_on(tmp_path):
    run = stopped_run(tmp_path / "run", *EVERYTHING)
    train("digits", *EVERYTHING, out=run, resume=True)
    assert state_of(run)["step"] == 40


def test_another_recipe_does_not_resume_a_run(tmp_path, digits_run):
    shutil.copytree(digits_run, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run of 'digits', not of 'mnist'"):
        train("mnist", out=tmp_path / "run", resume=True)


def test_changed_data_is_refused(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(noise.integers(0, 256, (8, 8), np.uint8)).save(photos / f"{number}.png")
    options = (f"data.path={photos}", "data.size=8", "data.channels=1", "model.network={kind: mlp, widths: [8]}")
    short = ("training.epochs=4", "training.batch_size=8", "training.log_every=1")
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train("folder", *options, *short, out=run, loggers=[At(3, terminate)])
    Image.fromarray(noise.integers(0, 256, (8, 8), np.uint8)).save(photos / "7.png")
    before = what_is_left(run)
    with pytest.raises(CheckpointError, match="the data is not what this run was trained on") as caught:
        train("folder", *options, out=run, resume=True)
    assert caught.value.exit_code == 4
    assert what_is_left(run) == before


def test_a_finished_run_is_extended_and_says_what_happens_to_the_schedule(tmp_path):
    run = train("digits", *SIZES, "training.epochs=2", "training.log_every=1", out=tmp_path / "run")
    first = state_of(run)["progress"]["history"]
    ear = At(0, die)
    train("digits", "training.epochs=3", out=run, resume=True, loggers=[ear])
    state = state_of(run)
    assert state["step"] == state["total_steps"] == 30
    assert state["progress"]["history"][: len(first)] == first
    rates = {row["step"]: row["learning_rate"] for row in state["progress"]["history"]}
    assert any("20 steps long and is now 30: the cosine schedule runs over the new length" in t for t in ear.messages)
    expected = [1e-3 * (1 + math.cos(math.pi * step / 30)) / 2 for step in range(20, 30)]
    assert [rates[step] for step in range(21, 31)] == pytest.approx(expected, rel=1e-4)


def test_a_finished_run_says_so_and_changes_nothing(tmp_path, digits_run):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    before, ear = what_is_left(run), At(0, die)
    train("digits", out=run, resume=True, loggers=[ear])
    assert what_is_left(run) == before
    assert ear.messages[-1] == "already trained to step 30 of 30; raise training.epochs to go on"


def test_more_patience_lets_a_run_that_stopped_early_go_on(tmp_path):
    stiff = ("training.learning_rate=1e-30", "training.patience=2", "training.weight_decay=0")
    run = train("digits", *SIZES, *stiff, "training.epochs=8", out=tmp_path / "run")
    stopped_at = state_of(run)["step"]
    assert stopped_at < 80
    train("digits", "training.patience=null", out=run, resume=True)
    assert state_of(run)["step"] == 80


def test_resume_without_anything_saved_starts(tmp_path):
    run = train("digits", *SIZES, "training.epochs=1", out=tmp_path / "new", resume=True)
    assert state_of(run)["step"] == 10


def test_resume_without_out_takes_the_newest_run_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = (*SIZES, "training.epochs=1")
    first, second = train("digits", *tiny), train("digits", *tiny)
    other = train("digits", *tiny, "name=digits-other")
    assert [run.name for run in (first, second, other)] == ["digits", "digits-2", "digits-other"]
    os.utime(first / "config.yaml", (1, 1))
    assert train("digits", "training.epochs=2", resume=True) == second
    assert (state_of(first)["step"], state_of(second)["step"], state_of(other)["step"]) == (10, 20, 10)


# Another run's weights


def test_start_from_takes_the_averaged_weights_of_another_run_and_nothing_else(tmp_path, digits_run):
    still = ("training.learning_rate=1e-30", "training.weight_decay=0", "training.epochs=0.1")
    run = train("digits", *SIZES, *still, f"training.start_from={digits_run}", out=tmp_path / "run")
    donor, taken = load_checkpoint(locate(digits_run, "best")), load_checkpoint(locate(run, "latest"))
    for group in ("model", "ema"):
        for name, value in donor.tensors["ema"].items():
            assert torch.equal(taken.tensors[group][name], value), (group, name)
    assert taken.step == 1
    assert int(taken.tensors["optimizer"]["count"]) == 1


def test_start_from_another_model_names_the_weight(tmp_path, digits_run):
    with pytest.raises(CheckpointError, match=r"of another model: '.*' is \(.*\) there and \(.*\) here"):
        train("digits", *SIZES, "model.latent_dim=7", f"training.start_from={digits_run}", out=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_fewer_epochs_than_are_done_are_refused_and_the_config_stays(digits_run, tmp_path, vaekit):
    """config.yaml was rewritten to a run that never was."""
    run = shutil.copytree(digits_run, tmp_path / "run")
    before = (run / "config.yaml").read_bytes()
    answer = vaekit("train", run / "config.yaml", "training.epochs=1", "--out", run, "--resume")
    assert answer.code == 2 and "has 3 epochs behind it, more than training.epochs=1" in answer.err
    assert (run / "config.yaml").read_bytes() == before
    assert vaekit("train", run / "config.yaml", "--out", run, "--resume").code == 0
