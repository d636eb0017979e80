"""Every picture: grids of images, and curves."""

from vaekit.plots.curves import loss_curves, save_figure
from vaekit.plots.grids import image_grid, reconstruction_rows, rows_of, save_picture, to_bytes

__all__ = ["image_grid", "loss_curves", "reconstruction_rows", "rows_of", "save_figure", "save_picture", "to_bytes"]
