"""One latent dimension changes, the others stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaekit import plots
from vaekit.evaluation.latents import LatentUse
from vaekit.files import save_array
from vaekit.models.layout import Unit
from vaekit.trained import walks
from vaekit.trained.codes import prior_moments
from vaekit.trained.run import Array, Made, Run
from vaekit.verbs.latents import most_used_units

MOST_USED = 10  # dimensions to traverse where none are named


@dataclass(frozen=True)
class Scale:
    """Where traversals run: `reach` standard deviations of the prior, or of the aggregate posterior."""

    reach: float = 3.0
    aggregate: bool = False


def traverse(
    opened: Run,
    dims: Sequence[int] = (),
    *,
    image: Path | None = None,
    steps: int = 9,
    scale: Scale = Scale(),  # frozen
    arrays: bool = False,
) -> Made:
    """grids/traversals.png and traverse_dim_k.png: one dimension changes, the others stay.

    Of a grid one channel changes, by as much at every place: traverse_channel_k.png. Around the image's code, or the
    mean of the training set. Without `dims`: the most used, by KL.
    """
    layout = opened.trained.layout
    word = "channel" if layout.is_grid else "dimension"
    walks.check_dims(dims, len(layout.units), word)
    use = opened.use(opened.images("train"))
    chosen = list(dims) or most_used_units(use, MOST_USED)
    if image is None:
        code, around = use.mean.numpy().astype(np.float32), "the mean code of training images"
    else:
        code, around = opened.codes(opened.read_images([image]).images)[0], image.name
    mean, std = _centre(opened, use, scale)
    shares = np.linspace(-scale.reach, scale.reach, steps)
    walked = [_walk(code, layout.units[dim], mean, std, steps, scale.reach, shift=layout.is_grid) for dim in chosen]
    codes = np.stack(walked)
    decoded = opened.decoded(codes.reshape(-1, codes.shape[-1]))
    rows = list(decoded.reshape(len(chosen), steps, *decoded.shape[1:]))
    unit = "aggregate posterior" if scale.aggregate else "prior"
    columns = [plots.signed(share, plus=True) for share in shares]
    moved = f"a channel moved at every place by standard deviations of the {unit}"
    title = f"traversals around {around}; columns in standard deviations of the {unit}"
    title = f"traversals around {around}: {moved}" if layout.is_grid else title
    folder, names = opened.folder / "grids", [_name(use, dim) for dim in chosen]
    sheet = plots.labelled_grid(rows, title=title, row_labels=names, column_labels=columns)
    made = Made([plots.save_picture(sheet, folder / "traversals.png")])
    for dim, name, row, path in zip(chosen, names, rows, codes, strict=True):
        name = name.replace("\n", " · ")
        title, shown = f"{name}, around {around}: {moved}", columns
        if not layout.is_grid:
            title = f"{name}, around {around}; columns are values of {layout.units[dim].name}"
            shown = list(map(plots.signed, path[:, layout.units[dim].columns.start]))
        single = plots.labelled_grid([row], title=title, column_labels=shown)
        made.paths.append(
            plots.save_picture(single, folder / f"traverse_{'channel' if layout.is_grid else 'dim'}_{dim}.png")
        )
    if arrays:
        made.paths.append(save_array(codes, folder / "traversals.npy"))
    return made


def _walk(code: Array, unit: Unit, mean: Array, std: Array, steps: int, reach: float, *, shift: bool) -> Array:
    """Codes (steps, D): the unit's one column takes values about the mean, or all its places are shifted alike."""
    codes = np.repeat(np.asarray(code, np.float32)[None], steps, 0)
    for column in unit.columns:
        values = walks.traversal_values(0.0 if shift else mean[column], std[column], steps, reach)
        codes[:, column] = codes[:, column] + values if shift else values
    return codes


def _centre(opened: Run, use: LatentUse, scale: Scale) -> tuple[Array, Array]:
    if scale.aggregate:
        return use.mean.numpy(), use.aggregate_std.numpy()
    return prior_moments(opened.trained)


def _name(use: LatentUse, number: int) -> str:
    unit = use.layout.units[number]
    kl = float(use.kl_nats[unit.columns.start : unit.columns.stop].sum())
    between = "\n" if use.layout.is_grid else " · "  # a row's name has little room
    return f"{unit.name}{between}KL {kl:.2f} nats" if np.isfinite(kl) else unit.name
