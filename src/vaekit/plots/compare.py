"""Runs side by side: the same test images through each, and samples of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vaekit.plots.sheets import captioned_sheet, drawn, stacked, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

Array = np.ndarray[Any, Any]


class Shown(NamedTuple):
    """What the sheet shows of one run; images are (N, C, H, W) in [0, 1]."""

    title: str
    reconstructions: Array
    source: str  # of the samples
    samples: Array


class Scattered(NamedTuple):
    """Codes of one run in their principal plane (N, 2), the variance shares of its axes (2,), classes (N,) if any."""

    title: str
    plane: Array
    shares: Array
    labels: Array | None


def comparison_sheet(
    originals: Array, runs: Sequence[Shown], notes: Sequence[str] = (), below: Figure | None = None
) -> Image.Image:
    """Test images on top; for each run a title, its reconstructions and its samples; then a figure and notes."""
    columns = len(originals)
    blocks = [_block(originals, ["test images"], columns)]
    for run in runs:
        blocks.append(_block(run.reconstructions, [run.title, "reconstructions of the same images"], columns))
        blocks.append(_block(run.samples, [run.source], columns))
    blocks += [] if below is None else [drawn(below)]
    return stacked([*blocks, *([words(notes)] if notes else [])], gap=2)


def _block(images: Array, titles: Sequence[str], columns: int) -> Image.Image:
    return captioned_sheet(images[:, None], [()] * len(images), titles=titles, columns=columns)


def code_scatter(runs: Sequence[Scattered], class_names: Sequence[str]) -> Figure:
    """Codes of each run on their first two principal axes, one colour for each of up to 20 classes."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(runs), 4.8), layout="constrained")
    for axes, run in zip(np.atleast_1d(figure.subplots(1, len(runs))), runs, strict=True):
        colours = colormaps["tab10" if len(class_names) <= 10 else "tab20"]
        if run.labels is None:
            axes.scatter(*run.plane.T, s=6, alpha=0.6)
        else:
            order = np.random.default_rng(0).permutation(
                len(run.plane)
            )  # class after class, the last would hide others
            axes.scatter(
                *run.plane[order].T, s=6, alpha=0.6, c=[colours(int(k) % colours.N) for k in run.labels[order]]
            )
            for number in np.unique(run.labels):
                name = class_names[number] if number < len(class_names) else str(number)
                axes.scatter([], [], s=6, color=colours(int(number) % colours.N), label=name)
        axes.set_title(run.title, fontsize=10)
        for name, share in zip(("x", "y"), run.shares, strict=True):
            getattr(axes, f"set_{name}label")(f"principal axis {'xy'.index(name) + 1} ({share:.0%} of the variance)")
        if run.labels is not None and len(class_names) <= 20:
            axes.legend(markerscale=2, fontsize=8, loc="best", title="class")
    return figure
