"""The numbers of a run as files: reports/metrics.json, metrics.csv and latents.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vaekit.evaluation.evaluate import Evaluation, Metrics
from vaekit.evaluation.sets import SetScore
from vaekit.files import write_text_atomically

QUALITY = ("quality_", "inception_", "proxy_", "random_")  # how the metrics of `write_quality` begin
ANNEALING = ("ais_",)  # and those of `write_annealing`


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_reports(run: Path, evaluation: Evaluation, facts: Metrics) -> Path:
    """Write all of them; `facts` (split, checkpoint …) are added to the metrics. Returns metrics.json's path."""
    folder = run / "reports"
    before, digest = read_metrics(run), facts.get("checkpoint_sha256")
    kept = {
        key: value
        for of in (QUALITY, ANNEALING)
        if before.get(f"{of[0]}checkpoint_sha256") == digest  # those of other weights are stale
        for key, value in before.items()
        if key.startswith(of)
    }
    path = _write_metrics(run, {**evaluation.metrics, **facts, **kept})
    use = evaluation.latents
    if use is not None:
        named = use.layout.is_grid or len(use.layout.groups) > 1
        header = ("dimension", *(("name",) if named else ()), "kl_nats", "mean_variance", "active")
        kl = use.kl_nats.tolist() if use.has_kl_per_dim else [None] * len(use.kl_nats)
        columns = zip(kl, use.mean_variance.tolist(), use.active.tolist(), strict=True)
        write_text_atomically(
            folder / "latents.csv",
            csv_text(
                [header, *((i, *((use.layout.column(i),) if named else ()), *row) for i, row in enumerate(columns))]
            ),
        )
    return path


def read_metrics(run: Path) -> Metrics:
    """What reports/metrics.json holds; nothing where it is absent or damaged."""
    try:
        found = json.loads((run / "reports" / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_metrics(run: Path, metrics: Metrics) -> Path:
    path = run / "reports" / "metrics.json"
    write_text_atomically(path, json.dumps(metrics, indent=1) + "\n")
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
