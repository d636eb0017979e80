"""The ELBOs of a reference set, and where single images stand among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.plots.letters import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]


def elbo_histogram(reference: Array, marked: Sequence[float], label: str) -> Figure:
    """A histogram of the reference, and a tick below it for each marked image; far ones are counted at the edge."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    axes = figure.subplots()
    low, high = float(reference.min()), float(reference.max())
    reach = 0.6 * (high - low) or 1.0  # farther than that, a mark would squeeze the histogram to a line
    values = np.asarray(marked, dtype=float)
    near = values[(values >= low - reach) & (values <= high + reach)]
    bins: Any = np.linspace(low, high, 61) if high > low else 10
    axes.hist(reference, bins=bins, color="0.72", label=counted(len(reference), "test image"))
    if len(near):
        inside = axes.get_xaxis_transform()  # marks stand on the axis, at any height of the bars
        axes.plot(
            near, np.full(len(near), 0.03), "|", c="tab:red", markersize=14, markeredgewidth=1.6, transform=inside
        )
        axes.plot(
            [],
            [],
            "|",
            color="tab:red",
            markersize=12,
            markeredgewidth=1.6,
            label=f"{counted(len(near), 'image')} given",
        )
    _count_beyond(axes, values, low - reach, high + reach)
    axes.axvline(float(np.percentile(reference, 1)), color="0.3", linewidth=1, linestyle="--", label="1st percentile")
    axes.set_xlabel(label)
    axes.set_ylabel("test images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))  # there are no half images
    axes.set_title("the ELBO of each image: the farther left, the less expected")
    axes.margins(x=0.03)
    axes.legend(loc="upper left")
    return figure


def _count_beyond(axes: Any, values: Array, low: float, high: float) -> None:
    left, right = int((values < low).sum()), int((values > high).sum())
    style = {"transform": axes.transAxes, "color": "tab:red", "va": "center"}
    if left:
        axes.text(0.01, 0.3, f"← {left:,} more, down to {values.min():,.0f}".replace("-", "−"), ha="left", **style)
    if right:
        axes.text(0.99, 0.3, f"{right:,} more, up to {values.max():,.0f} →".replace("-", "−"), ha="right", **style)
