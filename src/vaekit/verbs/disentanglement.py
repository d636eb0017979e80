"""How the codes of a run hold the known factors of its images: `reports/disentanglement.csv`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaekit import plots
from vaekit.data.dataset import Dataset, Factors
from vaekit.errors import DataError
from vaekit.evaluation.disentanglement import Disentanglement, FactorScore, score_codes
from vaekit.evaluation.report import csv_text
from vaekit.files import write_text_atomically
from vaekit.trained.codes import encode_dataset
from vaekit.trained.run import open_run


@dataclass(frozen=True)
class Disentangled:
    """What was found, and the files that it was written to: CSV, JSON and a picture."""

    found: Disentanglement
    paths: list[Path]


def disentanglement(
    run: str | Path,
    *,
    split: str = "test",
    seed: int = 0,
    which: str = "best",
    device: str = "auto",
    data_dir: str | None = None,
) -> Disentangled:
    """FactorScore the posterior means of a split's images beside the factors that made them.

    Of images with classes alone the class is the one factor, and what needs several is left out. Written to
    reports/disentanglement.csv and .json; grids/factor_information.png shows which dimension tells about which factor.
    DataError where the images have neither factors nor classes, or are too few.
    """
    opened = open_run(run, which=which, device=device, data_dir=data_dir)
    trained, folder, data = opened.trained, opened.folder, opened.dataset(split)
    found = score_codes(encode_dataset(trained, data), factors_of(data), seed)
    facts = {
        "split": split,
        "images": found.images,
        "seed": seed,
        **opened.identity,
    }
    title = f"what each dimension tells about each factor, {found.images:,} {split} images"
    figure = plots.information_map(found.information, found.entropies, found.factors, title=title)
    picture = plots.save_figure(figure, folder / "grids" / "factor_information.png")
    return Disentangled(found, [*_written(folder / "reports", found, facts), picture])


def factors_of(data: Dataset) -> Factors:
    """The factors of images, or else their class as the only one. DataError where they have neither."""
    if data.factors is not None:
        return data.factors
    if data.labels is None:
        raise DataError(
            "the run's images have neither factors nor classes; train on 'sprites', or on images in a folder per class"
        )
    return Factors(data.labels[:, None], ("class",), (len(data.class_names),), (False,))


def _written(folder: Path, found: Disentanglement, facts: dict[str, Any]) -> list[Path]:
    table, document = folder / "disentanglement.csv", folder / "disentanglement.json"
    write_text_atomically(table, csv_text([FactorScore._fields, *found.scores]))
    content = {
        **{score.name: score.value for score in found.scores},
        **facts,
        "factors": list(found.factors),
        "factor_entropies_nats": found.entropies.tolist(),
        "information_nats": found.information.tolist(),  # a row for each dimension
        "notes": list(found.notes),
    }
    write_text_atomically(document, json.dumps(content, indent=1) + "\n")
    return [table, document]
