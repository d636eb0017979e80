"""A run that is looked into, and what looking made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.config.schema import Config
from vaekit.data.dataset import Dataset
from vaekit.data.splits import load_splits
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.latents import LatentUse, latent_use
from vaekit.trained.codes import MOST_IMAGES, encode_dataset, some_rows
from vaekit.trained.model import Trained, class_number, load

Array = np.ndarray[Any, Any]


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


@dataclass(frozen=True)
class OpenRun:
    """A run's folder, its trained model, and where its data lies. `limit` images stand for a data set; None for all."""

    folder: Path
    trained: Trained
    data_dir: str | None = None
    limit: int | None = MOST_IMAGES

    def images(self, split: str = "train") -> Dataset:
        """At most `limit` images of a split, drawn by seed 0. DataError where it is empty."""
        return self.images_with_rows(split)[0]

    def images_with_rows(self, split: str) -> tuple[Dataset, Tensor]:
        """The same, and their positions in the split."""
        dataset = dataset_of(self.trained, split, self.data_dir)
        if len(dataset) == 0:
            raise DataError(f"the {split} set is empty; choose another split, or give image files")
        rows = some_rows(len(dataset), self.limit)
        return dataset.subset(rows), rows

    def use(self, dataset: Dataset) -> LatentUse:
        """Latent statistics over these images."""
        return latent_use(self.trained.model, dataset, self.trained.pixels, 0)

    def readable(self, names: Sequence[str | Path], folder: Path = Path()) -> Readable:
        """The images of these files, and one line for each that cannot be read."""
        read, prepared, failures = [], [], []
        for name in names:
            try:
                prepared.append(self.trained.prepare(folder / name))
                read.append(str(name))
            except DataError as error:
                failures.append(str(error))
        empty = torch.zeros((0, *self.trained.shape), dtype=torch.uint8)
        return Readable(read, torch.cat(prepared) if prepared else empty, failures)

    def read(self, files: Sequence[Path]) -> Readable:
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
) -> OpenRun:
    """Load a run, and the class that a conditional model is given. CheckpointError if it holds no checkpoint."""
    return OpenRun(run_folder(Path(run)), load(run, which=which, device=device, given=given), data_dir, limit)


def as_floats(images: Array) -> Array:
    """(N, C, H, W) in [0, 1] from uint8 (N, H, W) or (N, H, W, C)."""
    channels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return channels.astype(np.float32) / 255


def split_of(config: Config, name: str, progress: Callable[..., Any] | None = None) -> Dataset:
    """The train, validation or test images of a config."""
    splits = {"train": "train", "validation": "validation", "test": "test"}
    if name not in splits:
        raise ConfigError(f"unknown split '{name}'; choose one of: {', '.join(splits)}")
    dataset: Dataset = getattr(load_splits(config.data, progress), name)
    return dataset


def run_folder(path: Path) -> Path:
    """The run of a run folder or of one of its checkpoints."""
    return path.parent.parent if path.parent.name == "checkpoints" else path


def dataset_of(trained: Trained, split: str, data_dir: str | None) -> Dataset:
    """A split of the data that a model was trained on."""
    config = trained.config
    return split_of(replace(config, data=replace(config.data, root=data_dir)) if data_dir else config, split)
