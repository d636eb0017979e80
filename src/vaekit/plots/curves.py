"""Curves over a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.files import storage_errors
from vaekit.names import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Negative ELBO, distortion, rate and β over the epochs, training and validation, in nats per example."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = {"−ELBO": "elbo", "distortion": "distortion", "rate (KL)": "rate", "β": "beta"}
    for axes, (title, key) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for split in ("train", "validation") if key != "beta" else ("train",):  # one schedule is behind both
            points = [(row["epoch"], row[key]) for row in history if row["split"] == split and key in row]
            if not points:
                continue
            epochs, values = zip(*points, strict=True)
            sign = -1 if key == "elbo" else 1
            style = {"train": {"alpha": 0.6, "linewidth": 1.0}, "validation": {"linewidth": 2.0}}[split]
            axes.plot(epochs, [sign * value for value in values], label=split, **style)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel("nats per image" if key != "beta" else "weight of the rate")
        axes.grid(alpha=0.3)
        if axes.lines and key != "beta":
            axes.legend()
            _focus(axes)
    return figure


def _focus(axes: Any) -> None:
    """Leave the first steep steps out of view, so that the rest can be read."""
    values = np.concatenate(
        [np.asarray(line.get_ydata(), dtype=float)[len(line.get_ydata()) // 20 :] for line in axes.lines]
    )
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, making its folder."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with rc_context({"text.parse_math": False}):  # of the ticks that are made while it is drawn
            for text in figure.findobj(Text):
                assert isinstance(text, Text)
                text.set_parse_math(False)  # a name with two dollar signs is no formula
                text.set_text(printable(text.get_text()))
            figure.savefig(path, dpi=110)
    return path
