"""Metrics of several runs side by side, with a mark where numbers of a row cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vaekit.evaluation.report import csv_text
from vaekit.files import write_text_atomically

MARK = "†"


class Row(NamedTuple):
    """A line of the table: the metric's key, its name with unit, how a value is written."""

    key: str
    name: str
    form: str


ROWS = (
    Row("nll_nats", "NLL, importance-weighted (nats)", "{:.2f}"),
    Row("nll_se_nats", "its standard error (nats)", "{:.2f}"),
    Row("nll_samples", "its K", "{}"),
    Row("ais_nats", "log p(x), annealed, on fewer images (nats)", "{:.2f}"),
    Row("elbo_nats", "ELBO (nats)", "{:.2f}"),
    Row("distortion_nats", "distortion (nats)", "{:.2f}"),
    Row("rate_nats", "rate, KL (nats)", "{:.2f}"),
    Row("mutual_information_nats", "of it, mutual information (nats)", "{:.2f}"),
    Row("bits_per_dim", "bits per dimension", "{:.3f}"),
    Row("psnr_db", "PSNR of reconstructions (dB)", "{:.2f}"),
    Row("ssim", "SSIM of reconstructions", "{:.3f}"),
    Row("active_units", "active units", "{}"),
    Row("latent_dim", "latent dimensions", "{}"),
    Row("knn_accuracy", "class by 5 nearest codes (accuracy)", "{:.3f}"),
    Row("linear_accuracy", "class by a linear probe on codes (accuracy)", "{:.3f}"),
    Row("denoised_psnr_db", "PSNR from corrupted images (dB)", "{:.2f}"),
    Row("weights", "weights", "{:,}"),
    Row("base_measure", "measure", "{}"),
    Row("binarization", "binarisation", "{}"),
    Row("data", "data", "{}"),
    Row("images", "test images", "{:,}"),
    Row("checkpoint", "checkpoint", "{}"),
)
IN_A_MEASURE = frozenset({"nll_nats", "nll_se_nats", "ais_nats", "elbo_nats", "distortion_nats", "bits_per_dim"})


@dataclass(frozen=True)
class Comparison:
    """Metrics of each run by its label; `notes` say why a row is marked, by the keys of those rows."""

    metrics: Mapping[str, Mapping[str, Any]]
    notes: Mapping[str, frozenset[str]]

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return ["", *self.metrics]

    def cells(self) -> list[list[str]]:
        """The rows that any run has, as text; a row whose numbers cannot be compared ends its name with the mark."""
        marked = frozenset().union(*self.notes.values())
        lines = []
        for key, name, form in ROWS:
            values = [metrics.get(key) for metrics in self.metrics.values()]
            if any(value is not None for value in values):
                said = ["-" if value is None else form.format(value) for value in values]
                lines.append([f"{name} {MARK}" if key in marked else name, *said])
        return lines

    def sentences(self) -> list[str]:
        """Why rows are marked."""
        return [f"{MARK} {note}" for note in self.notes]

    def write(self, folder: Path) -> list[Path]:
        """compare.csv, one row for each metric, and compare.json, with the runs, metrics and notes."""
        marked = frozenset().union(*self.notes.values())
        keys = [row.key for row in ROWS if any(m.get(row.key) is not None for m in self.metrics.values())]
        table = [[key, key not in marked, *(m.get(key) for m in self.metrics.values())] for key in keys]
        write_text_atomically(folder / "compare.csv", csv_text([["metric", "comparable", *self.metrics], *table]))
        whole = {
            "runs": {label: dict(metrics) for label, metrics in self.metrics.items()},
            "not_comparable": sorted(marked),
            "notes": list(self.notes),
        }
        write_text_atomically(folder / "compare.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
        return [folder / "compare.csv", folder / "compare.json"]


def comparison(metrics: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """The table of runs, with a note for everything that keeps numbers of one row from being compared."""
    found = list(metrics.values())
    notes: dict[str, frozenset[str]] = {}

    def differing(key: str) -> list[str]:
        return list(dict.fromkeys(str(m[key]) for m in found if m.get(key) is not None))

    measures = list(dict.fromkeys(_measure(m) for m in found))
    if len(measures) > 1:
        notes[f"nats of different data spaces are not comparable: {', '.join(measures)}"] = IN_A_MEASURE
    data = differing("data")
    if len(data) > 1:
        every = IN_A_MEASURE | {"psnr_db", "ssim", "rate_nats", "knn_accuracy", "linear_accuracy"}
        notes[f"measured on different test images: {', '.join(data)}"] = every
    samples = differing("nll_samples")
    if len(samples) > 1:
        notes[f"bounds with K = {' and '.join(samples)}: a larger K is tighter; see --samples"] = frozenset(
            {"nll_nats", "bits_per_dim"}
        )
    has_rate = {"rate_nats" in m for m in found}
    if len(has_rate) > 1:
        note = "a VAE's distortion is averaged over its posterior, an autoencoder's is of its one code"
        notes[note] = frozenset({"distortion_nats"})
    return Comparison(metrics, notes)


def _measure(metrics: Mapping[str, Any]) -> str:
    """The data space of the densities in words: `binary (dynamic)`, `density, dequantised`, `none: no likelihood`."""
    measure = metrics.get("base_measure", "unknown")
    if not metrics.get("is_likelihood", True):
        return f"{measure}, no likelihood"
    if measure == "binary":
        return f"binary ({metrics.get('binarization')})"
    depth = f" of {metrics['data_bits']} bits" if measure == "density" and metrics.get("data_bits", 8) != 8 else ""
    return f"{measure}{depth}, dequantised" if metrics.get("dequantization") else f"{measure}{depth}"
