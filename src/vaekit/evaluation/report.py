"""The numbers of a run as files: reports/metrics.json, metrics.csv and latents.csv."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vaekit.errors import VaekitWarning
from vaekit.evaluation.evaluate import Evaluation, Metrics
from vaekit.evaluation.sets import SetScore
from vaekit.files import held_to_sum, with_sum, write_text_atomically

MAIN = "metrics.json"
QUALITY = ("quality_", "inception_", "proxy_", "random_")  # how the metrics of `write_quality` begin
ANNEALING = ("ais_",)  # and those of `write_annealing`


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_reports(run: Path, evaluation: Evaluation, facts: Metrics) -> Path:
    """Write all of them; `facts` (split, checkpoint …) are added to the metrics. Returns the path of the metrics.

    That is metrics.json, unless there stand metrics of the same checkpoint that these would be a loss for: of more
    samples. Then it is a file beside it that says what it is of. Those of another split than test make way to one.
    """
    before, digest = read_metrics(run), facts.get("checkpoint_sha256")
    kept = {
        key: value
        for of in (QUALITY, ANNEALING)
        if before.get(f"{of[0]}checkpoint_sha256") == digest  # those of other weights are stale
        for key, value in before.items()
        if key.startswith(of)
    }
    metrics = {**evaluation.metrics, **facts, **kept}
    name = MAIN
    if before and before.get("checkpoint_sha256") == digest:
        name = _name_beside(before, metrics)
    path = _write_metrics(run, metrics, name)
    use = evaluation.latents
    if use is not None:
        named = use.layout.is_grid or len(use.layout.groups) > 1
        header = ("dimension", *(("name",) if named else ()), "kl_nats", "mean_variance", "active")
        kl = use.kl_nats.tolist() if use.has_kl_per_dim else [None] * len(use.kl_nats)
        columns = zip(kl, use.mean_variance.tolist(), use.active.tolist(), strict=True)
        write_text_atomically(
            path.with_name(path.stem.replace("metrics", "latents") + ".csv"),
            csv_text(
                [header, *((i, *((use.layout.column(i),) if named else ()), *row) for i, row in enumerate(columns))]
            ),
        )
    return path


def _name_beside(before: Metrics, now: Metrics) -> str:
    """Where metrics of the same checkpoint go: MAIN, or beside it where what stands there is worth more."""
    splits = [metrics.get("split") for metrics in (before, now)]
    fewer = (now.get("nll_samples") or 0) < (before.get("nll_samples") or 0)
    kept = fewer if splits[0] == splits[1] else splits[0] == "test"
    return name_of(now.get("split"), now.get("nll_samples")) if kept else MAIN


def name_of(split: object, samples: object) -> str:
    """Of a file of metrics beside MAIN."""
    return f"metrics-{split}-k{samples}.json"


def read_metrics(run: Path, name: str = MAIN) -> Metrics:
    """What reports/metrics.json holds; nothing where it is absent, or where a value is not what was written.

    That is said, and so it is of reports of older versions, which have no sum.
    """
    path = run / "reports" / name
    try:
        found = held_to_sum(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        found = None
    if found is None:
        warnings.warn(f"{path} is damaged, or of an older version without a sum, and not used", VaekitWarning, 2)
    return found or {}


def _write_metrics(run: Path, metrics: Metrics, name: str = MAIN) -> Path:
    path = run / "reports" / name
    write_text_atomically(path, json.dumps(with_sum(metrics), indent=1) + "\n")
    write_text_atomically(path.with_suffix(".csv"), csv_text([("metric", "value"), *metrics.items()]))
    return path


def write_quality(run: Path, rows: Sequence[SetScore], metrics: Metrics) -> Path:
    """Write reports/quality.csv, and put `metrics` beside the others in metrics.json; returns the table's path."""
    path = run / "reports" / "quality.csv"
    write_text_atomically(path, csv_text([SetScore._fields, *rows]))
    others = {key: value for key, value in read_metrics(run).items() if not key.startswith(QUALITY)}
    _write_metrics(run, {**others, **metrics})
    return path


def write_annealing(run: Path, metrics: Metrics) -> Path:
    """Put the metrics of annealing beside the others in metrics.json; returns its path."""
    others = {key: value for key, value in read_metrics(run).items() if not key.startswith(ANNEALING)}
    return _write_metrics(run, {**others, **metrics})
