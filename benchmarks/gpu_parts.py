"""What `benchmarks.gpu_check` measures: one function a part, each returns {"tables": […]}."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evaluation import evaluation
from benchmarks.networks import LARGE_CONV, LATENT, MLP, SMALL_CONV, Network, images, trainer_of
from benchmarks.report import Table
from benchmarks.training import Case, throughputs
from vaekit.evaluation.report import read_metrics
from vaekit.training.acceleration import compile_forward
from vaekit.training.checkpoint import locate
from vaekit.training.loop import Trainer

WEIGHTS = ("model", "ema", "optimizer", "trainer")  # the files of a checkpoint that training writes


@dataclass(frozen=True)
class Size:
    """Where it runs, whether with small numbers, and where MNIST lies."""

    device: torch.device
    rehearsal: bool
    data_dir: Path | None

    def of(self, real: int, rehearsed: int) -> int:
        """One of the two."""
        return rehearsed if self.rehearsal else real

    def tables(self, *tables: Table) -> dict[str, Any]:
        """As a part returns them."""
        return {"tables": [asdict(table) for table in tables]}


def training(size: Size) -> dict[str, Any]:
    """Images per second, bare and full, beside pythae and the tutorials' loop."""
    conv = SMALL_CONV if size.rehearsal else LARGE_CONV
    updates = ((MLP, 128, 300, 3), (MLP, 512, 100, 2), (conv, 128, 80, 1), (conv, 512, 30, 1))
    cases = [Case(network, batch, size.of(real, few)) for network, batch, real, few in updates]
    cases = cases[:1] if size.rehearsal else cases
    return size.tables(throughputs(cases, size.device, size.of(5, 1), _here("pythae")))


def bounds(size: Size) -> dict[str, Any]:
    """Seconds of the importance-weighted bound."""
    if size.rehearsal and size.device.type == "cpu":
        return {"tables": []}  # K = 5,000 is no small number for a CPU
    return size.tables(*evaluation(size.device, size.rehearsal, _here("pythae")))


def equality(size: Size) -> dict[str, Any]:
    """Eager, compiled and captured steps beside one another, from the same states, with the same noise."""
    table = Table("One step in three ways", ["network", "way", "steps", "loss", "gradients", "weights in the end"])
    steps = size.of(50, 3)
    torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa would hide what is looked for
    for network in (MLP, SMALL_CONV):
        table.add(
            network.name, "compiled, beside eager from the same state", str(steps), *_compiled(network, size, steps)
        )
        if size.device.type == "cuda":
            table.add(network.name, "one CUDA graph, beside eager runs", str(steps), *_captured(network, size, steps))
    table.notes.append(
        "Largest difference in any step, over the largest entry: of the loss, of any gradient, and of any weight after "
        "the steps. float32 without TF32, `training.deterministic=true`; both steps of a pair are given the same noise."
    )
    return size.tables(table)


def _ready(network: Network, size: Size, *overrides: str) -> Trainer:
    shared = (f"training.device={size.device.type}", "training.deterministic=true", "training.compile=off")
    return trainer_of(network, images(2048), 128, *shared, "training.learning_rate=1e-3", *overrides)


def _compiled(network: Network, size: Size, steps: int) -> tuple[str, str, str]:
    trainer, loss_error, gradient_error = _ready(network, size), 0.0, 0.0
    # given: compilers draw numbers of their own
    noise = torch.randn(1, 128, LATENT, generator=torch.Generator().manual_seed(1)).to(size.device)
    trainer.model.forward = partial(trainer.model.forward, noise=lambda level, shape, like: noise)  # type: ignore[method-assign]
    step = trainer.step
    eager = step.forward
    compile_forward(step, trainer.model)
    compiled = step.forward
    for at in range(steps):
        trainer.feed.load(at)
        found: list[tuple[Tensor, list[Tensor]]] = []
        for forward in (compiled, eager):
            step.forward = forward
            loss, _ = step.gradients(*trainer.feed.batch())
            found.append((loss, [w.grad.clone() for w in step.weights if w.grad is not None]))
        (loss, gradients), (wanted_loss, wanted) = found
        loss_error = max(loss_error, float((loss - wanted_loss).abs() / wanted_loss.abs()))
        gradient_error = max(gradient_error, _difference(gradients, wanted))
        trainer._body()
    return f"{loss_error:.1e}", f"{gradient_error:.1e}", ""


def _captured(network: Network, size: Size, steps: int) -> tuple[str, str, str]:
    ends = []
    for capture in ("off", "on"):
        binary = ("data.binarize=dynamic", "model.likelihood=bernoulli")
        trainer = _ready(network, size, f"training.capture={capture}", *binary)
        trainer.prepare(0)
        for step in range(steps):
            trainer.update(step)
        ends.append([weight.detach().clone() for weight in trainer.model.parameters()])
    same = all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    return "", "", "equal bytes" if same else f"{_difference(ends[1], ends[0]):.1e}"


def _difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(found, wanted, strict=True))


KILLED = """
import os, signal, sys
from vaekit.training.loggers import Silent
from vaekit.verbs.train import train
class Killer(Silent):
    seen = 0
    def validated(self, row, pictures):
        self.seen += 1
        if self.seen == 3:
            os.kill(os.getpid(), signal.SIGKILL)
train("digits", *sys.argv[2:], out=sys.argv[1], loggers=[Killer()])
"""


def resume(size: Size) -> dict[str, Any]:
    """A run that was killed and resumed beside one that was not, with `training.deterministic=true`."""
    from vaekit.verbs.train import train

    table = Table("Killed and resumed", ["precision", "steps", "killed run against the other, file by file"])
    for precision in ("float32", "bf16"):
        overrides = [f"training.device={size.device.type}", "training.deterministic=true", "training.epochs=12"]
        overrides += [f"training.precision={precision}", "training.validate_every=21", "training.checkpoint_every=7"]
        if size.device.type == "cuda":
            overrides += ["training.compile=on", "training.capture=on"]
        with tempfile.TemporaryDirectory() as folder:
            whole = train("digits", *overrides, out=Path(folder) / "whole")
            killed = Path(folder) / "killed"
            ended = subprocess.run([sys.executable, "-c", KILLED, str(killed), *overrides], capture_output=True)
            assert ended.returncode == -9, ended.stderr[-2000:]
            resumed = train("digits", *overrides, out=killed, resume=True)
            equal = [name for name in WEIGHTS if _sum(whole, name) == _sum(resumed, name)]
            steps = whole.history[-1]["step"]
        words = "equal bytes" if len(equal) == len(WEIGHTS) else f"equal bytes of {', '.join(equal) or 'none'} alone"
        table.add(precision, f"{steps:.0f}", f"{words} ({len(WEIGHTS)} files)")
    return size.tables(table)


def _sum(run: Path, name: str) -> str:
    return hashlib.sha256((locate(run, "latest") / f"{name}.safetensors").read_bytes()).hexdigest()


OURS = """
import torch
from benchmarks.networks import *
trainer = trainer_of({network}, images({count}), {batch}, "training.device={device}", *{more})
trainer.prepare(0)
for step in range(20):
    trainer.update(step)
"""
THEIRS = """
import torch
from benchmarks.networks import *
trainer = pythae_trainer({network}, images({count}), {batch}, torch.device("{device}"))
with quiet():
    trainer.train_step(1)
"""


def memory(size: Size) -> dict[str, Any]:
    """Most memory of the device that tensors held while training, data included."""
    table = Table("Peak memory of the device, MB", ["work", "vaekit", "vaekit, eager, float32", "pythae"])
    captured = ["training.compile=on", "training.capture=on", "training.precision=bf16"]
    eager = ["training.compile=off", "training.capture=off"]
    count = size.of(60_000, 1_000)
    for name, batch in (("MLP", 128), ("LARGE_CONV", 128))[: size.of(2, 1)]:
        words = {"network": name, "count": count, "batch": batch, "device": size.device.type}
        programs = [OURS.format(**words, more=captured), OURS.format(**words, more=eager)]
        programs += [THEIRS.format(**words)] if _here("pythae") else []
        peaks = [f"{_peak(program, size) / 1e6:,.0f}" for program in programs]
        title = {"MLP": MLP, "LARGE_CONV": LARGE_CONV}[name].name
        table.add(f"{title}, batch {batch}, {count:,} images", *peaks, *[""] * (3 - len(peaks)))
    table.notes.append("vaekit keeps the images on the device, as bytes; its first column is bf16, one CUDA graph.")
    return size.tables(table)


def _peak(program: str, size: Size) -> int:
    cuda = size.device.type == "cuda"
    ending = "print('peak', torch.cuda.max_memory_allocated())" if cuda else "print('peak', 0)"
    run = subprocess.run([sys.executable, "-c", program + ending], check=True, capture_output=True, text=True)
    return int(run.stdout.split()[-1])


def results(size: Size) -> dict[str, Any]:
    """The recipe of MNIST as `vaekit train` and `vaekit evaluate` run it, start-up and compilation included."""
    table = Table("On one GPU", ["command", "test images", "result", "training"])
    recipe, where = ("digits", []) if size.data_dir is None else ("mnist", ["--data-dir", str(size.data_dir)])
    samples = size.of(1000, 10)
    overrides = [f"training.device={size.device.type}", *(["training.epochs=1"] if size.rehearsal else [])]
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        took, said = _command("train", recipe, *overrides, "--out", run, *where)
        evaluated, _ = _command("evaluate", run, "--samples", str(samples), *where)
        metrics = read_metrics(Path(run))
    prepared = next((line.split("step: ")[1] for line in said.splitlines() if "step: " in line), "")
    table.add(
        f"`vaekit train {recipe}`, `vaekit evaluate … --samples {samples}`",
        f"{metrics['images']:,.0f}",
        f"NLL {metrics['nll_nats']:.2f} ± {metrics['nll_se_nats']:.2f} nats (K = {samples:,}), "
        f"ELBO {metrics['elbo_nats']:.2f}",
        f"{took:.0f} s from start to end ({prepared}); evaluation {evaluated:.0f} s",
    )
    return size.tables(table)


def _command(*arguments: str) -> tuple[float, str]:
    """Seconds of a command of the command line, and what it said."""
    began = time.perf_counter()
    ran = subprocess.run([sys.executable, "-m", "vaekit", *arguments], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"vaekit {' '.join(arguments)}: {ran.stderr[-2000:]}")
    return time.perf_counter() - began, ran.stdout + ran.stderr


def _here(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


UNTIMED = ("equality", "resume", "memory")  # they may run at once
PARTS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "equality": equality,
    "resume": resume,
    "memory": memory,
    "training": training,
    "bounds": bounds,
    "results": results,
}
