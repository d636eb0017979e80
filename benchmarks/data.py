"""Images per second of the data path, and start-up and memory of whole processes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import peak_memory, process_seconds, ratio, seconds_of, take_turns
from benchmarks.networks import images
from benchmarks.report import Table
from vaekit.config.schema import DataConfig
from vaekit.data.batches import Batches
from vaekit.data.dataset import Dataset
from vaekit.data.feed import Feed
from vaekit.data.pixels import Pixels
from vaekit.data.splits import load_splits


def data_path(device: torch.device, quick: bool, with_pythae: bool) -> list[Table]:
    """Batches of 128 without any training: from memory, from a memory-mapped file, from a folder of image files."""
    table = Table("Data path, images per second", ["source", "contender", "img/s", "spread", "vaekit is"])
    count, rounds = (12_800, 3) if quick else (51_200, 7)
    pixels = images(count)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", pixels.numpy())
        mapped = torch.from_numpy(np.load(Path(folder) / "images.npy", mmap_mode="c"))
        memory = {
            "vaekit": _feed(pixels, device, resident=True),
            "vaekit, memory-mapped, fetched ahead": _feed(mapped, device, resident=False),
            "DataLoader": _loader(pixels, device),
        }
        _add(table, f"{count:,} images of 28×28", memory, rounds)
        _files(table, Path(folder), device, 256 if quick else 1024, rounds)
    return [table]


def _add(table: Table, source: str, candidates: dict[str, Callable[[], float]], rounds: int) -> None:
    timings = take_turns(candidates, rounds)
    first = next(iter(timings))
    for name, timing in timings.items():
        relation = "" if name == first else ratio(timings[first], timing)
        table.add(source, name, f"{timing.rate():,.0f}", f"{100 * timing.spread():.0f} %", relation)


def _feed(pixels: torch.Tensor, device: torch.device, resident: bool) -> Callable[[], float]:
    feed = Feed(Batches(Dataset(pixels), 128, 0, device, resident=resident), Pixels(), 0)
    steps, epoch = feed.batches.steps_per_epoch, 0

    def work() -> None:
        nonlocal epoch
        for step in range(epoch * steps, (epoch + 1) * steps):
            feed.at(step)
        epoch += 1

    return lambda: seconds_of(work, device, steps * 128)


def _loader(pixels: torch.Tensor, device: torch.device) -> Callable[[], float]:
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(pixels.float() / 255), batch_size=128, shuffle=True, drop_last=True
    )

    def work() -> None:
        for (x,) in loader:
            x.to(device)

    return lambda: seconds_of(work, device, len(loader) * 128)


class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Opens and resizes a file whenever it is asked for: what an image folder usually does."""

    def __init__(self, paths: list[Path], side: int) -> None:
        self.paths, self.side = paths, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            pixels = np.asarray(image.convert("RGB").resize((self.side, self.side)))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def _files(table: Table, folder: Path, device: torch.device, count: int, rounds: int) -> None:
    from PIL import Image

    tree = folder / "photographs"
    tree.mkdir()
    noise = np.random.default_rng(0)
    for i in range(count):
        small = noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((256, 192)).save(tree / f"{i:05d}.jpg", quality=90)
    os.environ["VAEKIT_CACHE"] = str(folder / "store")
    config = DataConfig(source="folder", path=str(tree), size=64, validation=0, test=0)
    first = seconds_of(lambda: load_splits(config), device)
    again = seconds_of(lambda: load_splits(config), device)
    feed = _feed(load_splits(config).train.images, device, resident=device.type == "cpu")
    loader = torch.utils.data.DataLoader(Files(sorted(tree.glob("*.jpg")), 64), batch_size=128, shuffle=True)

    def decode_every_epoch() -> None:
        for x in loader:
            x.to(device)

    candidates = {"vaekit": feed, "DataLoader that decodes": lambda: seconds_of(decode_every_epoch, device, count)}
    _add(table, f"folder of {count} JPEG, 256×192 to 64×64", candidates, min(3, rounds))
    table.notes.append(
        f"The folder was decoded once in {first:.1f} s ({count / first:,.0f} img/s, all cores); "
        f"a later run finds it decoded in {again:.2f} s."
    )


def start_up(device: torch.device, quick: bool, with_pythae: bool) -> list[Table]:
    """Seconds until a process answers."""
    table = Table("Start-up, seconds", ["process", "seconds", "spread"])

    def python(program: str) -> Callable[[], float]:
        return lambda: process_seconds([sys.executable, "-c", program])

    command = "import sys; from vaekit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    candidates: dict[str, Callable[[], float]] = {
        "vaekit --help": lambda: process_seconds([sys.executable, "-c", command, "--help"]),
        "import torch": python("import torch"),
        "import vaekit": python("import vaekit"),
        "import vaekit, and use every public name": python(
            "import vaekit; [getattr(vaekit, n) for n in vaekit.__all__]"
        ),
    }
    if with_pythae:
        candidates["import pythae.models, pythae.trainers"] = python("import pythae.models, pythae.trainers")
    timings = take_turns(candidates, 3 if quick else 9)
    for name, timing in timings.items():
        table.add(name, f"{timing.median:.2f}", f"{100 * timing.spread():.0f} %")
    return [table]


OURS = """
import torch
from benchmarks.networks import *
trainer = trainer_of({network}, images({count}), 128, "training.device={device}", "training.compile=off")
trainer.prepare(0)
for step in range(20):
    trainer.update(step)
"""
THEIRS = """
import torch
from benchmarks.networks import *
trainer = pythae_trainer({network}, images({count}), 128, torch.device("{device}"))
with quiet():
    trainer.train_step(1)
"""


def memory(device: torch.device, quick: bool, with_pythae: bool) -> list[Table]:
    """Resident memory of a process that trains on 60,000 images."""
    table = Table("Peak memory of a process, MB", ["work", "vaekit", "pythae", "ratio"])
    count = 6_400 if quick else 60_000
    bare = peak_memory("import torch; from benchmarks.networks import *")
    for name, network in (("MLP 784-512-16", "MLP"), ("conv 32-64-128", "SMALL_CONV")):
        if name != "MLP 784-512-16" and quick:
            continue
        words = {"network": network, "count": count, "device": device.type}
        ours = peak_memory(OURS.format(**words))
        row = [f"{name}, batch 128, {count:,} images", f"{ours / 1e6:,.0f}", "", ""]
        if with_pythae:
            theirs = peak_memory(THEIRS.format(**words))
            row[2:] = [f"{theirs / 1e6:,.0f}", f"{theirs / ours:.2f}×"]
        table.add(*row)
    table.notes.append(f"Python, torch and the imports alone: {bare / 1e6:,.0f} MB.")
    return [table]
