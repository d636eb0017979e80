"""Where the models of a β sweep lie between rate and distortion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """One combination, nats per image; `series` names the other values that were varied."""

    series: str
    beta: str
    rate: float
    rate_sd: float | None
    distortion: float
    distortion_sd: float | None


def rate_distortion(points: Sequence[Point]) -> Figure:
    """Distortion over rate, each point a β with its standard deviation over seeds; on a dashed line the ELBO is equal.

    Alemi et al. 2018, arXiv:1711.00464
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(point.series for point in points):
        series = sorted((p for p in points if p.series == name), key=lambda p: p.rate)
        axes.errorbar(
            [p.rate for p in series],
            [p.distortion for p in series],
            xerr=[p.rate_sd or 0 for p in series],
            yerr=[p.distortion_sd or 0 for p in series],
            marker="o",
            capsize=3,
            label=name or None,
        )
        for p in series:
            axes.annotate(f"β = {p.beta}", (p.rate, p.distortion), xytext=(8, 6), textcoords="offset points")
    axes.margins(0.15)
    _elbo_lines(axes)
    axes.set_xlabel("rate: KL(q || p), nats per image")
    axes.set_ylabel("distortion: −log p(x | z), nats per image")
    spread = " ± standard deviation over seeds" if any(p.rate_sd is not None for p in points) else ""
    axes.set_title(f"rate and distortion on the test set{spread}; dashed: equal ELBO")
    if any(p.series for p in points):
        axes.legend()
    return figure


def _elbo_lines(axes: Any) -> None:
    """Dashed lines of equal rate + distortion, each with its ELBO where it leaves the frame."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(7).tick_values(left + bottom, right + top):
        # the part of distortion = total - rate inside the frame
        start, end = max(left, total - top), min(right, total - bottom)
        if start >= end:
            continue
        axes.plot([start, end], [total - start, total - end], "--", color="0.8", linewidth=1, zorder=0)
        highest = top - 0.05 * (top - bottom)  # a label there is whole
        where = max(start + 0.04 * (end - start), total - highest)
        said = f"{-total:g}".replace("-", "−")
        axes.text(where, total - where, said, color="0.5", fontsize=8, zorder=1, clip_on=True)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
