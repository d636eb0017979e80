"""The handle on a run: its folder, opened once, and what looking into it made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vaekit.config.paths import of_run
from vaekit.data.dataset import Dataset
from vaekit.data.places import find_same
from vaekit.data.splits import Splits
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.latents import LatentUse, latent_use
from vaekit.names import printable
from vaekit.trained.codes import MOST_IMAGES, encode_dataset, some_rows
from vaekit.trained.model import Trained, class_number, load
from vaekit.training.checkpoint import checkpoint_digest, load_checkpoint, locate

Array = np.ndarray[Any, Any]
T = TypeVar("T")
SPLITS = ("train", "validation", "test")


@dataclass
class Made:
    """The files that were written, lines worth saying, and the images that could not be read."""

    paths: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Readable(NamedTuple):
    """Images that could be read: names, uint8 (N, C, H, W) as the model sees them; and one line for each other."""

    names: list[str]
    images: Tensor
    failures: list[str]


# before Python 3.12 only the class of the platform's own paths can be derived from
if TYPE_CHECKING:
    _Folder = Path
else:
    _Folder = type(Path())


class Run(_Folder):
    """A run: the path of its folder, and once asked, its model, its data and its checkpoint, each opened once.

    `limit` images stand for a data set; None for all. `open_run` makes one.
    """

    which: str = "best"
    device: str = "auto"
    data_dir: str | None = None
    given: str | None = None
    groups: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    limit: int | None = MOST_IMAGES
    asked: Path | None = None  # a checkpoint of the run, where that is what was named

    def with_segments(self, *segments: str | Path) -> Path:
        """A path that is made from this one: what lies in a run is a plain path."""
        return Path(*segments)

    if sys.version_info < (3, 12):  # which does not ask `with_segments` yet

        @classmethod
        def _from_parsed_parts(cls, *parts: Any) -> Any:
            return _Folder._from_parsed_parts(*parts)  # type: ignore[attr-defined]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self)

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint that is looked at. CheckpointError where there is none."""
        return locate(self.asked or self.folder, self.which)

    @property
    def digest(self) -> str:
        """SHA-256 of that checkpoint: another training may end with a step of the same name."""
        return checkpoint_digest(self.checkpoint)

    @property
    def identity(self) -> dict[str, str]:
        """What a report says of the weights that its numbers are of."""
        return {"checkpoint": self.checkpoint.name, "checkpoint_sha256": self.digest}

    @property
    def trained(self) -> Trained:
        """The model with its weights. CheckpointError where there is none, or if a byte of it changed."""
        return self._of_checkpoint("trained", self._load)

    def _load(self) -> Trained:
        found = load(self.checkpoint, device=self.device, given=self.given, groups=self.groups)
        return found if self.size is None else found.at(self.size)

    @property
    def splits(self) -> Splits:
        """The data that the run was trained on. DataError where it is not that any more."""
        return self._of_checkpoint("splits", self._load_splits)

    def _load_splits(self) -> Splits:
        config, facts = of_run(self.trained.config, self.folder).data, self.trained.data_facts
        held = find_same(config, facts, self.folder, self.data_dir)
        if not held.same:
            before = ", ".join(f"{facts[name]:,} {name}" for name in SPLITS if name in facts)
            where = f"the data in {held.config.path}" if held.config.path else "the data"
            raise DataError(
                f"{where} is not what {self.folder} was trained on ({before} images; other files, contents or classes "
                "now), so a test image may be one that it learnt; restore the data, give --data-dir where it lies now "
                "(data_dir=… in Python), or train on what there is"
            )
        return held.splits

    def _of_checkpoint(self, name: str, make: Callable[[], T]) -> T:
        """Made once for a checkpoint: a run that was trained on, or anew, is opened again."""
        digest = self.digest
        kept: dict[str, Any] = self.__dict__.setdefault("_kept", {})
        if kept.get("digest") != digest:
            kept.clear()
            kept["digest"] = digest
        if name not in kept:
            kept[name] = make()
        found: T = kept[name]
        return found

    def dataset(self, split: str) -> Dataset:
        """A split of that data. ConfigError for an unknown one."""
        if split not in SPLITS:
            raise ConfigError(f"unknown split '{split}'; choose one of: {', '.join(SPLITS)}")
        found: Dataset = getattr(self.splits, split)
        return found

    @property
    def history(self) -> list[dict[str, Any]]:
        """Of the whole training, also where the best checkpoint is not the last."""
        latest = self.checkpoint if self.asked else locate(self.folder, "latest")
        return list(load_checkpoint(latest, ()).state["progress"]["history"])

    def images(self, split: str = "train") -> Dataset:
        """At most `limit` images of a split, drawn by seed 0. DataError where it is empty."""
        return self.images_with_rows(split)[0]

    def images_with_rows(self, split: str) -> tuple[Dataset, Tensor]:
        """The same, and their positions in the split."""
        dataset = self.dataset(split)
        if len(dataset) == 0:
            raise DataError(f"the {split} set is empty; choose another split, or give image files")
        rows = some_rows(len(dataset), self.limit)
        return dataset.subset(rows), rows

    def use(self, dataset: Dataset) -> LatentUse:
        """Latent statistics over these images."""
        found = latent_use(self.trained.model, dataset, self.trained.pixels, 0)
        return found if self.trained.layout == found.layout else found.only(self.trained.layout)

    def readable(self, names: Sequence[str | Path], folder: Path = Path()) -> Readable:
        """The images of these files, and one line for each that cannot be read."""
        read, prepared, failures = [], [], []
        for name in names:
            try:
                prepared.append(self.trained.prepare(folder / name))
                read.append(printable(str(name)))
            except DataError as error:
                failures.append(str(error))
        empty = torch.zeros((0, *self.trained.shape), dtype=torch.uint8)
        return Readable(read, torch.cat(prepared) if prepared else empty, failures)

    def read_images(self, files: Sequence[Path]) -> Readable:
        """The same with the files' short names; DataError where none can be read."""
        found = self.readable(files)
        if not found.names:
            raise DataError("; ".join(found.failures) or "no images were given; give at least one file")
        return found._replace(names=[Path(name).name for name in found.names])

    def codes(self, images: Tensor) -> Array:
        """Posterior means (N, D) of images as the model sees them."""
        return encode_dataset(self.trained, Dataset(images))

    def decoded(self, codes: Array) -> Array:
        """Decoded means without padding, floats (N, C, H, W) in [0, 1], for pictures."""
        images = self.trained.decode(codes)
        return as_floats(images)

    def originals(self, images: Tensor) -> Array:
        """Images as the model sees them, without padding, floats (N, C, H, W) in [0, 1]."""
        return as_floats(self.trained.to_images(images.float() / 255))

    def class_number(self, name: str) -> int:
        """The number of a class from its name or number. DataError without labels, ConfigError for an unknown one."""
        return class_number(name, self.trained.class_names)


def open_run(
    run: str | Path,
    *,
    which: str = "best",
    device: str = "auto",
    data_dir: str | None = None,
    limit: int | None = MOST_IMAGES,
    given: str | None = None,
    groups: Sequence[str] = (),
    size: tuple[int, int] | None = None,
) -> Run:
    """A run of a folder, or of one of its checkpoints; nothing is read yet. One that is open stays so.

    `given` is the class that a conditional model takes all images for, `groups` those of the latents that codes are
    made of, `size` (height, width) that of the images which a fully convolutional model is used on.
    """
    wanted: dict[str, Any] = {"which": which, "device": device, "data_dir": data_dir, "limit": limit}
    wanted |= {"given": given, "groups": tuple(groups), "size": size}
    if isinstance(run, Run) and all(getattr(run, name) == value for name, value in wanted.items()):
        return run
    asked = run.asked if isinstance(run, Run) else None
    path = Path(run)
    if path.parent.name == "checkpoints":
        path, asked = path.parent.parent, path
    opened = Run(path)
    for name, value in (wanted | {"asked": asked}).items():
        setattr(opened, name, value)
    return opened


def as_floats(images: Array) -> Array:
    """(N, C, H, W) in [0, 1] from uint8 (N, H, W) or (N, H, W, C)."""
    channels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return channels.astype(np.float32) / 255
