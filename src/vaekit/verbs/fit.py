"""`fit(train_loader, test_loader)`: a run on images that a program holds, such as a DataLoader of one's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaekit.config.load import Override, named_options
from vaekit.data.arrays import ImageBatches, columns_of, content_of_columns, gather
from vaekit.files import PARTIAL, storage_errors
from vaekit.training.combinations import read_config
from vaekit.training.loggers import Logger
from vaekit.verbs.train import chosen_folder, refuse_held, train


def fit(
    train_images: ImageBatches,
    test_images: ImageBatches | None = None,
    *overrides: Override,
    recipe: str = "arrays",
    class_names: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    loggers: Sequence[Logger] = (),
    progress: Callable[..., Any] | None = None,
    **options: Any,
) -> Path:
    """Train on one's own images, with overrides as `train` takes them; returns the run's folder.

    Images come from any iterable of batches, of images or of (images, labels), uint8 or floats in [0, 1]; from a torch
    Dataset; or as one array. Each is taken once, as 8 bits: what a loader draws at random is not drawn again, so leave
    flips and shifts to data.flip and data.shift. The run keeps the images in a file of its own, so that it is
    evaluated and resumed like any other. Without test images a part of the others is held out (data.test).

    Example:
        >>> run = fit(train_loader, test_loader, "training.epochs=5", out="runs/mine")  # doctest: +SKIP
    """
    overrides = (*overrides, named_options(options))
    placed = ("data.source=arrays", "data.path=images.npz")
    config = read_config(recipe, [*overrides, *placed])  # tells what is wrong before the images are gone through
    run = chosen_folder(config.name, out, resume)
    refuse_held(run, resume)
    parts = {"train": gather(train_images, "the training images")}
    if test_images is not None:
        parts["test"] = gather(test_images, "the test images")
    path = _keep(run, columns_of(parts, class_names))
    here = ("data.source=arrays", f"data.path={json.dumps(str(path))}")
    return train(recipe, *overrides, *here, out=run, resume=resume, loggers=loggers, progress=progress)


def _keep(run: Path, columns: Mapping[str, Any]) -> Path:
    """`images-<content>.npz` in the run; the same images are not written twice."""
    path = run / f"images-{content_of_columns(columns)[:16]}.npz"
    if path.exists():
        return path
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with storage_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                np.savez(file, **columns)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path
