"""Images per second of training, for each network and batch size."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Timing, matrix_products, ratio, seconds_of, take_turns
from benchmarks.networks import (
    BARE,
    LARGE_CONV,
    MLP,
    SMALL_CONV,
    Network,
    images,
    pythae_trainer,
    quiet,
    trainer_of,
    tutorial_epoch,
)
from benchmarks.report import Table
from vaekit.training.loop import Trainer


class Case(NamedTuple):
    """A network at a batch size, and how many updates are timed at once."""

    network: Network
    batch: int
    updates: int


# of matrix products: TF32 is what a GPU runs float32 convolutions in, unless it is told not to
LIMITS = {"float32": (torch.float32, False), "TF32": (torch.float32, True), "bf16": (torch.bfloat16, False)}

CPU = [Case(MLP, 128, 60), Case(MLP, 512, 20), Case(SMALL_CONV, 128, 8), Case(SMALL_CONV, 512, 3)]
GPU = [Case(MLP, 128, 2000), Case(MLP, 512, 1000), Case(LARGE_CONV, 128, 300), Case(LARGE_CONV, 512, 100)]


def training(device: torch.device, quick: bool, with_pythae: bool) -> list[Table]:
    """The table of throughputs, and what it took to prepare the compiled and captured ones."""
    cases = GPU if device.type == "cuda" else CPU
    return [throughputs(cases[::2] if quick else cases, device, 3 if quick else 7, with_pythae)]


def throughputs(cases: Sequence[Case], device: torch.device, rounds: int, with_pythae: bool) -> Table:
    """Every contender in each case, taking turns with the matrix product that is its limit."""
    table = Table(
        "Training, images per second",
        ["network, batch", "contender", "img/s", "spread", "vaekit (bare) is", "prepared in", "of the matrix rate"],
    )
    rates: dict[str, list[float]] = {}
    for case in cases:
        _rows(table, case, device, rounds, with_pythae, rates)
    measured = ", ".join(f"{name} {statistics.median(each) / 1e9:,.0f}" for name, each in rates.items())
    table.notes.append(
        f"Matrix rate, GFLOP/s: {measured}; the best of three sides, measured in every round beside the contenders, in "
        "their precision. Bare: no clipping, no averaged weights, no guard against non-finite updates; full: the "
        "default recipe with all three. Ratio: median of the rounds' ratios (range)."
    )
    return table


def _rows(
    table: Table, case: Case, device: torch.device, rounds: int, with_pythae: bool, rates: dict[str, list[float]]
) -> None:
    pixels = images(case.batch * case.updates)
    candidates: dict[str, Callable[[], float]] = {}
    prepared: dict[str, float] = {}
    modes = _modes(device)
    trainers = {name: trainer_of(case.network, pixels, case.batch, *modes[name]) for name in modes}
    flops = _flops(trainers["vaekit, bare"])
    for name, trainer in trainers.items():
        prepared[name] = seconds_of(lambda trainer=trainer: trainer.prepare(0), device)  # type: ignore[misc]
        candidates[name] = _ours(trainer, case.updates)
    if with_pythae:
        for amp in (False, True) if device.type == "cuda" else (False,):
            peer = pythae_trainer(case.network, pixels, case.batch, device, amp)
            candidates["pythae, AMP" if amp else "pythae"] = _theirs(peer, case.updates, device)
    epoch = tutorial_epoch(case.network, pixels, case.batch, device)
    candidates["DataLoader loop"] = lambda: seconds_of(epoch, device, case.updates)
    used = sorted({precision_of(name, case.network, device) for name in candidates})
    limits = {name: matrix_products(device, *LIMITS[name]) for name in used}
    measured = take_turns({**candidates, **limits}, rounds)
    timings = {name: measured[name] for name in candidates}
    for name in limits:
        rates.setdefault(name, []).extend(1 / seconds for seconds in measured[name].seconds)
    for name, timing in timings.items():
        limit = measured[precision_of(name, case.network, device)]
        shares = [flops * per_flop / seconds for per_flop, seconds in zip(limit.seconds, timing.seconds, strict=True)]
        table.add(
            f"{case.network.name}, {case.batch}",
            name,
            f"{timing.rate(case.batch):,.0f}",
            f"{100 * timing.spread():.0f} %",
            "" if name == "vaekit, bare" else ratio(timings["vaekit, bare"], timing),
            f"{prepared[name]:.0f} s" if prepared.get(name, 0) > 1 else "",
            f"{100 * statistics.median(shares):.0f} %",
        )
    _best(table, case, timings)


def precision_of(contender: str, network: Network, device: torch.device) -> str:
    """That of its products: on a GPU our long runs and pythae's AMP take a narrower one."""
    if device.type != "cuda":
        return "float32"
    if contender in ("vaekit, bare", "vaekit, full") or contender.endswith("AMP"):
        return "bf16"
    return "TF32" if network.kind == "conv" else "float32"


def _modes(device: torch.device) -> dict[str, tuple[str, ...]]:
    """Overrides of each way to run vaekit: as a long run is, and eagerly as a short one."""
    where = f"training.device={device.type}"
    on_gpu = ("training.capture=on", "training.precision=bf16") if device.type == "cuda" else ()
    shared = (where, "training.compile=on", *on_gpu)
    modes = {"vaekit, bare": (*BARE, *shared), "vaekit, full": shared}
    modes["vaekit, full, eager"] = (where, "training.compile=off")
    return modes


def _best(table: Table, case: Case, timings: dict[str, Timing]) -> None:
    peers = [name for name in timings if name.startswith("pythae")]
    if peers:
        best = min(peers, key=lambda name: timings[name].median)
        table.notes.append(
            f"{case.network.name}, batch {case.batch}: bare is {ratio(timings['vaekit, bare'], timings[best])} "
            f"the speed of {best}; full is {ratio(timings['vaekit, full'], timings['vaekit, bare'])} that of bare."
        )


def _ours(trainer: Trainer, updates: int) -> Callable[[], float]:
    done = 0

    def work() -> None:
        nonlocal done
        for _ in range(updates):
            trainer.update(done)
            done += 1

    return lambda: seconds_of(work, trainer.device, updates)


def _theirs(peer: object, updates: int, device: torch.device) -> Callable[[], float]:
    def work() -> None:
        with quiet():
            peer.train_step(1)  # type: ignore[attr-defined]

    return lambda: seconds_of(work, device, updates)


def _flops(trainer: Trainer) -> float:
    """Floating-point operations of one update's forward and backward pass."""
    trainer.feed.load(0)
    with FlopCounterMode(display=False) as counter:
        trainer.step.gradients(*trainer.feed.batch())
    return float(counter.get_total_flops())
