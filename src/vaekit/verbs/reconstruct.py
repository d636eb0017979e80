"""`vaekit reconstruct` for one's own images: sheets, single images, arrays and a table, written batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch

from vaekit import plots
from vaekit.data.dataset import Dataset
from vaekit.errors import DataError
from vaekit.evaluation.report import csv_text
from vaekit.files import storage_errors, write_text_atomically
from vaekit.trained.model import Trained
from vaekit.trained.own_images import SAMPLES, Coding, ImageScore, ScoredImages, Scorer, read_images, refuse_failures
from vaekit.trained.run import open_run

Array = np.ndarray[Any, Any]
PER_PAGE = 40
PAGES = 10  # of sheets; more are seldom looked at


@dataclass(frozen=True)
class Reconstructed:
    """What `reconstruct` wrote, the numbers of each image, and the files that failed (file → why)."""

    paths: list[Path]
    scores: list[ImageScore]
    coding: Coding
    failures: Mapping[str, str]
    undrawn: int  # images beyond the last page


def reconstruct(
    run: str | Path,
    places: Sequence[str | Path],
    *,
    single: bool = False,
    arrays: bool = False,
    pages: int = PAGES,
    samples: int = SAMPLES,
    seed: int = 0,
    which: str = "best",
    device: str = "auto",
    given: str | None = None,
    size: tuple[int, int] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Reconstructed:
    """grids/reconstructions.png and reports/reconstructions.csv of image files and of all images in folders.

    `single` also writes each reconstruction as a PNG, `arrays` reconstructions.npy and codes.npy. A file that cannot
    be read does not stop the others: it is in `failures`, and in the table. DataError where none can be read, and
    then nothing is written.
    """
    opened = open_run(run, which=which, device=device, given=given, size=size)
    trained, folder = opened.trained, opened.folder
    scorer = Scorer(trained, samples, seed)
    grids = folder / "grids"
    writers: list[Writer] = [Pages(grids, pages)]
    writers += [Singles(grids / "reconstructions", trained)] if single else []
    writers += [Arrays(grids, trained)] if arrays else []
    reading = read_images(scorer, places, progress=progress)
    scores: list[ImageScore] = []
    try:
        for batch in reading:
            for writer in writers:
                writer.add(batch)
            scores += batch.scores
        if not scores:
            refuse_failures(reading.failures)
    finally:
        for writer in writers:
            writer.close()
    table = folder / "reports" / "reconstructions.csv"
    write_scores(table, scores, scorer.coding, reading.failures)
    made = [path for writer in writers for path in writer.paths]
    undrawn = max(0, len(scores) - pages * PER_PAGE)
    return Reconstructed([*made, table], scores, scorer.coding, reading.failures, undrawn)


def write_scores(path: Path, scores: Sequence[ImageScore], coding: Coding, failures: Mapping[str, str]) -> None:
    """One line for each file: its numbers, or why it has none."""
    header = (*ImageScore._fields, "values_ratio", "error")
    good = [(*score, coding.values_ratio, None) for score in scores]
    bad = [(name, *[None] * len(ImageScore._fields), why) for name, why in failures.items()]
    write_text_atomically(path, csv_text([header, *good, *bad]))


class Writer(Protocol):
    """Takes batches, and touches the disk only once it has one; `paths` are what it wrote."""

    @property
    def paths(self) -> Sequence[Path]: ...

    def add(self, batch: ScoredImages) -> None: ...

    def close(self) -> None: ...


class Pages:
    """Sheets of 40 columns each: original, reconstruction, difference, and a caption."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.paths: list[Path] = []
        self._stacks: list[Array] = []
        self._scores: list[ImageScore] = []

    def add(self, batch: ScoredImages) -> None:
        for original, decoded, score in zip(batch.images.numpy(), batch.decoded.numpy(), batch.scores, strict=True):
            if len(self.paths) == self.most:
                return
            self._stacks.append(np.stack([original, decoded, np.abs(original - decoded)]))
            self._scores.append(score)
            if len(self._scores) == PER_PAGE:
                self._write()

    def close(self) -> None:
        if self._scores:
            self._write()
        for number in range(len(self.paths), 1000) if self.paths else ():  # of an earlier call with more images
            if not self._path(number).exists():
                break
            with suppress(OSError):
                self._path(number).unlink()

    def _path(self, number: int) -> Path:
        return self.folder / ("reconstructions.png" if number == 0 else f"reconstructions-{number + 1}.png")

    def _write(self) -> None:
        captions = [caption(score) for score in self._scores]
        titles = ("in each column: original · reconstruction (decoded mean) · absolute difference",)
        sheet = plots.captioned_sheet(np.stack(self._stacks), captions, titles=titles)
        self.paths.append(plots.save_picture(sheet, self._path(len(self.paths))))
        self._stacks, self._scores = [], []


def caption(score: ImageScore) -> list[str]:
    """What stands under an image: its file's name, PSNR and ELBO."""
    elbo = [] if score.elbo_nats is None else [f"ELBO {score.elbo_nats:,.1f}".replace("-", "−")]
    return [Path(score.name).name, f"PSNR {score.psnr_db:.1f} dB", *elbo]


class Singles:
    """Each reconstruction as a PNG of the model's own size, named like its file (and numbered where that is taken)."""

    def __init__(self, folder: Path, trained: Trained) -> None:
        self.folder, self.trained = folder, trained
        self.paths: list[Path] = []
        self._taken: set[str] = set()

    def add(self, batch: ScoredImages) -> None:
        from PIL import Image

        self.paths = [self.folder]
        for pixels, score in zip(self.trained.to_images(batch.decoded), batch.scores, strict=True):
            plots.save_picture(Image.fromarray(pixels), self.folder / f"{self._free(Path(score.name).stem)}.png")

    def _free(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name)
        return name

    def close(self) -> None:
        pass


class Arrays:
    """reconstructions.npy, uint8 (N, H, W) or (N, H, W, 3), and codes.npy, float32 (N, D)."""

    def __init__(self, folder: Path, trained: Trained) -> None:
        self.folder, self.trained = folder, trained
        self._files: list[GrowingArray] = []

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self._files]

    def add(self, batch: ScoredImages) -> None:
        values = {"reconstructions": self.trained.to_images(batch.decoded), "codes": batch.codes.numpy()}
        if not self._files:
            self._files = [GrowingArray(self.folder / f"{name}.npy", array) for name, array in values.items()]
        for file, array in zip(self._files, values.values(), strict=True):
            file.append(array)

    def close(self) -> None:
        for file in self._files:
            file.close()


class GrowingArray:
    """A .npy file whose rows come in parts: its header is written again at the end, when their number is known."""

    def __init__(self, path: Path, like: Array) -> None:
        self.path, self.count = path, 0
        self._form = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False}
        self._event = like.shape[1:]
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("wb")
            self._header()

    def _header(self) -> None:
        # NumPy leaves room in the header for the first axis to grow, so this one is always as long
        np.lib.format.write_array_header_1_0(self._file, {**self._form, "shape": (self.count, *self._event)})

    def append(self, rows: Array) -> None:
        """Write more rows of the same shape and type."""
        with storage_errors(self.path.parent):
            self._file.write(np.ascontiguousarray(rows).tobytes())
        self.count += len(rows)

    def close(self) -> None:
        """Say in the header how many there are."""
        with storage_errors(self.path.parent):
            self._file.seek(0)
            self._header()
            self._file.close()


def reconstruct_test_images(
    run: str | Path, count: int = 20, *, which: str = "best", device: str = "auto", data_dir: str | None = None
) -> Path:
    """grids/recon_grid.png from images spread over the test set."""
    opened = open_run(run, which=which, device=device, data_dir=data_dir)
    return _save_reconstructions(opened.trained, opened.dataset("test"), opened.folder, count)


def _save_reconstructions(trained: Trained, dataset: Dataset, folder: Path, count: int) -> Path:
    if len(dataset) == 0:
        raise DataError("the test set is empty, so there is nothing to reconstruct; give image files")
    chosen = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long()
    images = dataset.subset(chosen)
    decoded = trained.cropped(trained.reconstruct_prepared(images)).cpu().numpy()
    rows = plots.reconstruction_rows(trained.cropped(images.images).numpy() / 255, decoded)
    names = ["test image", "reconstruction", "difference"] * (len(rows) // 3)
    title = f"{plots.counted(len(images), 'test image')}, decoded from mean codes; differences are absolute"
    sheet = plots.labelled_grid(rows, title=title, row_labels=names)
    return plots.save_picture(sheet, folder / "grids" / "recon_grid.png")
