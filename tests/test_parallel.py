"""Several processes train as one: the same batch, loss and weights, noise of their own, exact resume."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
import torch
from small_runs import SIZES, state_of, what_is_left
from test_acceleration import trainer_of

from vaekit.processes import World
from vaekit.training.checkpoint import load_checkpoint, locate, point, saved_steps
from vaekit.verbs.train import train

PLAIN = (*SIZES, "model.kind=autoencoder", "data.binarize=none", "model.likelihood=bce", "training.batch_size=37")


@pytest.mark.parametrize(("images", "size"), [(8, 3), (7, 7), (128, 5), (2, 1)])
def test_shares_are_whole_disjoint_and_even(images, size):
    parts = [list(range(images))[World(rank, size).share(images)] for rank in range(size)]
    assert [image for part in parts for image in part] == list(range(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@dataclass(frozen=True)
class Listening(World):
    """Hears what a process would have added to the others'."""

    heard: list[list[torch.Tensor]] = field(default_factory=list)

    def add(self, tensors):
        self.heard.append([tensor.clone() for tensor in tensors])


def shares_of(tmp_path, size, *options):
    """What each of so many processes would add to the others' in its first update; alone, what it has."""
    told = []
    for rank in range(size):
        world = Listening(rank, size)
        trainer = trainer_of(tmp_path, *PLAIN, *options, world=world)
        trainer.feed.load(0)
        inputs = trainer.feed.batch()
        loss, values = trainer.step.gradients(*inputs)
        trainer.step.batch = trainer.batches.batch_size
        trainer.step._together(loss, values, len(inputs[0]))
        told.append(world.heard[-1])
    return told


@pytest.mark.parametrize("parts", [1, 2])
def test_what_the_processes_add_up_is_the_gradient_loss_and_terms_of_the_whole_batch(tmp_path, parts):
    """For shares that are uneven, and computed in parts."""

    (whole,) = shares_of(tmp_path, 1, f"training.accumulate={parts}")
    shares = shares_of(tmp_path, 3, f"training.accumulate={parts}")
    for sum_of_shares, expected in zip(map(sum, zip(*shares, strict=True)), whole, strict=True):
        assert torch.allclose(sum_of_shares, expected, rtol=1e-5, atol=1e-6)


def test_batch_statistics_become_those_of_the_whole_batch(tmp_path):
    """A running mean is linear in the images; the first layer's has seen the same ones."""
    options = ("model.network={kind: conv, widths: [4, 4], norm: batch}",)
    (whole,) = shares_of(tmp_path, 1, *options)
    shares = shares_of(tmp_path, 3, *options)
    weights = len(list(trainer_of(tmp_path, *PLAIN, *options).model.parameters()))
    first = 1 + weights  # after the loss and its terms, and the gradients
    assert torch.allclose(sum(share[first] for share in shares), whole[first], rtol=1e-5, atol=1e-7)
    assert float(whole[first].abs().max()) > 0


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(size, *arguments):
    """`vaekit …` in so many processes, as torchrun starts them."""
    port = str(free_port())
    processes = []
    for rank in range(size):
        names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        world = {name: str(value) for name, value in names.items()}
        env = {**os.environ, **world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "vaekit", *map(str, arguments)]
        processes.append(subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    return processes


def finish(processes):
    """(exit code, stdout, stderr) of each."""
    texts = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def run_in(size, *arguments):
    answers = finish(start(size, *arguments))
    assert [code for code, *_ in answers] == [0] * size, answers
    return answers


def test_two_processes_train_to_the_weights_of_one(tmp_path):
    options = (*PLAIN, "training.epochs=2", "training.validate_every=5")
    alone = train("digits", *options, out=tmp_path / "alone")
    answers = run_in(2, "train", "digits", *options, "--out", tmp_path / "two")
    assert "in each of 2 processes" in answers[0][2] and answers[1][1:] == ("", ""), "only one of them speaks"
    one, two = (load_checkpoint(locate(run, "latest")) for run in (alone, tmp_path / "two"))
    for group in ("model", "ema"):
        for name, weight in one.tensors[group].items():
            assert torch.allclose(two.tensors[group][name], weight, rtol=1e-4, atol=1e-5), name
    for row, other in zip(one.state["progress"]["history"], two.state["progress"]["history"], strict=True):
        assert row.keys() == other.keys()
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)


def resumed_in_two(uninterrupted, run):
    """The same run again from a checkpoint of its middle."""
    shutil.copytree(uninterrupted, run)
    middle, *later = saved_steps(run)
    assert later
    for step in later:
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    point(run, "latest", middle)
    point(run, "best", middle)


@pytest.mark.slow
def test_two_processes_have_noise_of_their_own_and_resume_to_the_same_bytes(tmp_path):
    options = (
        *SIZES,
        "training.epochs=2",
        "training.validate_every=7",
        "training.checkpoint_every=7",
        "training.keep=9",
    )
    run_in(2, "train", "digits", *options, "--out", tmp_path / "run")
    random = load_checkpoint(locate(tmp_path / "run", "latest"), ("trainer",)).tensors["trainer"]
    assert not torch.equal(random["random/cpu"], random["random/1/cpu"])
    resumed_in_two(tmp_path / "run", tmp_path / "again")
    answers = run_in(2, "train", "digits", "--out", tmp_path / "again", "--resume")
    assert "resumed at step 7" in answers[0][2] and "not the same bytes" not in answers[0][2]
    assert what_is_left(tmp_path / "again") == what_is_left(tmp_path / "run")
    # one process can go on, but says that it is another run now
    resumed_in_two(tmp_path / "run", tmp_path / "alone")
    heard = run_in(1, "train", "digits", "--out", tmp_path / "alone", "--resume")[0][2]
    assert "processes 2 → 1" in heard


@pytest.mark.slow
def test_torchrun_starts_them_and_a_signal_saves_one_step(tmp_path):
    """Of all processes: they agree on where they stop."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vaekit"]
    options = (*SIZES, "training.epochs=100000", "training.log_every=20", "training.checkpoint_every=100")
    process = subprocess.Popen(
        [*command, "train", "digits", *options, "--out", str(run)], stderr=subprocess.PIPE, text=True
    )
    while not saved_steps(run):
        time.sleep(0.2)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert "go on with --resume" in said
    assert state_of(run)["environment"]["processes"] == 2
    assert state_of(run)["progress"]["finished"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("recipes",), 2, "only `vaekit train` runs in several processes"),
        (("train", "digits", "training.batch_size=1"), 2, "a batch of 1 images has none for some of 2 processes"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(tmp_path, arguments, code, words):
    out = ("--out", tmp_path / "run") if arguments[0] == "train" else ()
    for found, _, said in finish(start(2, *arguments, *out)):
        assert found == code and words in said and len(said.strip().splitlines()) == 1


def test_a_process_that_is_left_alone_says_so(tmp_path, digits_run):
    """The leader finds the folder taken; the other ends too instead of waiting for ever."""
    (leader, _, said), (other, _, also) = finish(start(2, "train", "digits", "--out", digits_run))
    assert leader == 7 and "already holds a run" in said
    assert other == 6 and "process 1: another process of this run ended" in also
