"""Every picture: grids of images, captioned sheets, and curves."""

from vaekit.plots.curves import loss_curves, save_figure
from vaekit.plots.grids import image_grid, reconstruction_rows, rows_of, save_picture, to_bytes
from vaekit.plots.sheets import captioned_sheet, drawn, stacked

__all__ = [
    "captioned_sheet",
    "drawn",
    "image_grid",
    "loss_curves",
    "reconstruction_rows",
    "rows_of",
    "save_figure",
    "save_picture",
    "stacked",
    "to_bytes",
]
