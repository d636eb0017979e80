"""Samples as pictures: from the prior, from a fitted sampler, near an image, on a grid."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vaekit import plots
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError
from vaekit.files import save_array
from vaekit.trained import walks
from vaekit.trained.codes import aggregate_samples, posterior_codes, quantile_grid, require_plane
from vaekit.trained.run import Array, Made, Run, as_floats
from vaekit.trained.samplers import sampler_folder, sampler_for, sampler_named

PRIOR = "prior"
COLUMNS = 10


def sample(
    opened: Run,
    count: int = 100,
    *,
    sampler: str = PRIOR,
    temperature: float = 1.0,
    seed: int = 0,
    arrays: bool = False,
    announce: Callable[[str], None] = lambda text: None,
) -> Made:
    """samples/<sampler>_samples.png; a sampler other than the prior is fitted on first use, and kept with the run."""
    trained = opened.trained
    at = "" if opened.size is None else f", at {'×'.join(map(str, opened.size))}"
    if sampler == PRIOR:
        if not trained.model.has_prior:
            raise ConfigError("an autoencoder has no prior to sample from; use --sampler mixture, or train a VAE")
        images = trained.sample(count, temperature=temperature, seed=seed)
        title = f"{plots.counted(count, 'sample')} from the prior, temperature {temperature:g}{at}"
        return _sheet(opened, images, title, sampler, arrays)
    if opened.size is not None:
        raise ConfigError(
            f"the {sampler} is fitted to codes of the run's own size; leave --size out, or sample the prior"
        )
    sampler_named(sampler)
    if count < 1 or not temperature >= 0:
        raise ConfigError(f"{count} samples at temperature {temperature}: ask for 1 or more, at 0 or more")

    def training_codes() -> Array:
        return aggregate_samples(trained, opened.images("train"))

    fitted = sampler_for(opened.folder, trained, sampler, training_codes, announce=announce)
    codes = fitted.sampler.sample(count, seed=seed, temperature=temperature)
    shown = plots.counted(count, "sample")
    title = f"{shown} from the {sampler} fitted to the aggregate posterior, temperature {temperature:g}"
    return _sheet(opened, trained.decode(codes, trained.labels_in_turn(count)), title, sampler, arrays)


def forget_sampler(opened: Run, sampler: str) -> None:
    """Take a saved sampler away, so that the next use fits it anew."""
    sampler_named(sampler)
    shutil.rmtree(sampler_folder(opened.folder, sampler), ignore_errors=True)


def sample_near(
    opened: Run,
    image: Path,
    count: int = 30,
    *,
    spread: float | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    arrays: bool = False,
) -> Made:
    """samples/near_<image>.png: the image, its reconstruction, and samples of its posterior.

    With `spread`, samples of its code + spread · noise instead.
    """
    read = opened.read_images([image])
    centre = opened.codes(read.images)
    if spread is None:
        codes = posterior_codes(opened.trained, Dataset(read.images.cpu()), count, temperature=temperature, seed=seed)[
            0
        ]
        what = f"samples of q(z | x), temperature {temperature:g}"
    else:
        codes = walks.codes_near(centre[0], count, scale=spread, seed=seed)
        what = f"samples of its code + {spread:g} · noise"
    first = np.concatenate([opened.originals(read.images), opened.decoded(centre)])
    rows = [first, *plots.rows_of(opened.decoded(codes), COLUMNS)]
    title = f"{image.name}, its reconstruction, and below: {what}"
    made = Made([plots.save_picture(plots.labelled_grid(rows, title=title), _near(opened, image, "png"))])
    if arrays:
        made.paths.append(save_array(codes, _near(opened, image, "npy")))
    return made


def _near(opened: Run, image: Path, suffix: str) -> Path:
    return opened.folder / "samples" / f"near_{image.stem}.{suffix}"


def sample_grid(
    opened: Run, side: int = 20, *, reach: float = 3.0, quantiles: bool = False, arrays: bool = False
) -> Made:
    """grids/manifold.png: the plane of a latent space of two dimensions, z0 to the right and z1 upwards."""
    require_plane(opened.trained)
    codes = quantile_grid(opened.trained, side) if quantiles else walks.latent_grid(side, reach)
    images = opened.decoded(codes)
    what = "equally probable under the prior" if quantiles else f"from {-reach:g} to {reach:g}"
    sheet = plots.labelled_grid(
        plots.rows_of(images, side),
        title=f"latent plane, {what}: z0 to the right, z1 upwards",
        row_labels=list(map(plots.signed, codes[::side, 1])),
        column_labels=list(map(plots.signed, codes[:side, 0])),
    )
    made = Made([plots.save_picture(sheet, opened.folder / "grids" / "manifold.png")])
    if arrays:
        made.paths.append(save_array(codes, opened.folder / "grids" / "manifold_codes.npy"))
    return made


def _sheet(opened: Run, images: Array, title: str, sampler: str, arrays: bool) -> Made:
    grid = plots.labelled_grid(plots.rows_of(as_floats(images), min(COLUMNS, len(images))), title=title)
    folder = opened.folder / "samples"
    name = f"{sampler}_samples" if opened.size is None else f"{sampler}_samples_{opened.size[0]}x{opened.size[1]}"
    made = Made([plots.save_picture(grid, folder / f"{name}.png")])
    if arrays:
        made.paths.append(save_array(images, folder / f"{name}.npy"))
    return made
