"""What the commands on the latent space do: open a run, find codes, write pictures, arrays and tables into it."""

from vaekit.latentspace.analysis import FEWEST_IMAGES, analyse, draw_latents, encode_folder, headline
from vaekit.latentspace.arithmetic import add_up, walk_attribute
from vaekit.latentspace.neighbours import find_neighbours
from vaekit.latentspace.opened import Made, OpenRun, open_run
from vaekit.latentspace.samples import draw_grid, draw_near, draw_samples, forget_sampler
from vaekit.latentspace.walks import Scale, interpolate_images, traverse_dims

__all__ = [
    "FEWEST_IMAGES",
    "Made",
    "OpenRun",
    "Scale",
    "add_up",
    "analyse",
    "draw_grid",
    "draw_latents",
    "draw_near",
    "draw_samples",
    "encode_folder",
    "find_neighbours",
    "forget_sampler",
    "headline",
    "interpolate_images",
    "open_run",
    "traverse_dims",
    "walk_attribute",
]
