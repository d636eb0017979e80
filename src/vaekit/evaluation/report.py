"""The numbers of a run as files: reports/metrics.json, metrics.csv and latents.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vaekit.checkpoint import write_text_atomically
from vaekit.evaluation.evaluate import Evaluation, Metrics


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_reports(run: Path, evaluation: Evaluation, facts: Metrics) -> Path:
    """Write all of them; `facts` (split, checkpoint …) are added to the metrics. Returns metrics.json's path."""
    folder = run / "reports"
    metrics = {**evaluation.metrics, **facts}
    path = folder / "metrics.json"
    write_text_atomically(path, json.dumps(metrics, indent=1) + "\n")
    write_text_atomically(folder / "metrics.csv", csv_text([("metric", "value"), *metrics.items()]))
    use = evaluation.latents
    if use is not None:
        header = ("dimension", "kl_nats", "mean_variance", "active")
        columns = zip(use.kl_nats.tolist(), use.mean_variance.tolist(), use.active.tolist(), strict=True)
        write_text_atomically(folder / "latents.csv", csv_text([header, *((i, *row) for i, row in enumerate(columns))]))
    return path
