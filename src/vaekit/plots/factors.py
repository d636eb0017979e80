"""Which dimension of a code tells about which factor of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.names import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
MOST_WITH_NUMBERS = 32  # dimensions
DARK = 0.55  # of the scale: above it letters are white


def information_map(information: Array, entropies: Array, factors: Sequence[str], *, title: str) -> Figure:
    """Mutual information (D, F) as a share of each factor's entropy (F,): a row for each factor, 0 to 100 %."""
    from matplotlib.figure import Figure

    shares = (information / entropies).T
    dims = shares.shape[1]
    size = float(np.clip(0.62 * dims + 2.6, 6.5, 18)), 0.55 * len(factors) + 1.9
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="% of the entropy")
    axes.set_yticks(range(len(factors)), [printable(factor) for factor in factors])
    axes.set(title=title, xlabel="dimension")
    if dims <= MOST_WITH_NUMBERS:
        axes.set_xticks(range(dims), [f"z{dim}" for dim in range(dims)])
        for (row, dim), share in np.ndenumerate(shares):
            colour = "white" if share > DARK else "black"
            axes.text(dim, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=9)
    return figure
