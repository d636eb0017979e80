"""Every picture: grids of images, captioned sheets, curves, and the latent space."""

from vaekit.plots.curves import loss_curves, save_figure
from vaekit.plots.factors import information_map
from vaekit.plots.grids import image_grid, reconstruction_rows, rows_of, save_picture, to_bytes
from vaekit.plots.latent import (
    MOST_HISTOGRAMS,
    correlation_matrix,
    histograms,
    kl_bars,
    kl_maps,
    labelled_grid,
    save_animation,
    scatter,
)
from vaekit.plots.letters import counted, signed
from vaekit.plots.sheets import captioned_sheet, drawn, stacked

__all__ = [
    "MOST_HISTOGRAMS",
    "captioned_sheet",
    "correlation_matrix",
    "counted",
    "drawn",
    "histograms",
    "image_grid",
    "information_map",
    "kl_bars",
    "kl_maps",
    "labelled_grid",
    "loss_curves",
    "reconstruction_rows",
    "rows_of",
    "save_animation",
    "save_figure",
    "save_picture",
    "scatter",
    "signed",
    "stacked",
    "to_bytes",
]
