"""One latent dimension changes, the others stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaekit import plots
from vaekit.evaluation.latents import LatentUse
from vaekit.files import save_array
from vaekit.trained import walks
from vaekit.trained.codes import prior_moments
from vaekit.trained.run import Array, Made, Run

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

    Around the image's code, or the mean of the training set. Without `dims`: the most used, by KL.
    """
    walks.check_dims(dims, opened.trained.latent_dim)
    use = opened.use(opened.images("train"))
    chosen = list(dims) or _ordered(use)
    if image is None:
        code, around = use.mean.numpy().astype(np.float32), "the mean code of training images"
    else:
        code, around = opened.codes(opened.read_images([image]).images)[0], image.name
    mean, std = _centre(opened, use, scale)
    values = np.stack([walks.traversal_values(mean[dim], std[dim], steps, scale.reach) for dim in chosen])
    codes = np.stack([walks.traverse(code, dim, row) for dim, row in zip(chosen, values, strict=True)])
    decoded = opened.decoded(codes.reshape(-1, codes.shape[-1]))
    rows = list(decoded.reshape(len(chosen), steps, *decoded.shape[1:]))
    unit = "aggregate posterior" if scale.aggregate else "prior"
    columns = [plots.signed(share, plus=True) for share in np.linspace(-scale.reach, scale.reach, steps)]
    title = f"traversals around {around}; columns in standard deviations of the {unit}"
    folder, names = opened.folder / "grids", [_name(use, dim) for dim in chosen]
    sheet = plots.labelled_grid(rows, title=title, row_labels=names, column_labels=columns)
    made = Made([plots.save_picture(sheet, folder / "traversals.png")])
    for dim, name, row, taken in zip(chosen, names, rows, values, strict=True):
        title = f"{name}, around {around}; columns are values of z{dim}"
        single = plots.labelled_grid([row], title=title, column_labels=list(map(plots.signed, taken)))
        made.paths.append(plots.save_picture(single, folder / f"traverse_dim_{dim}.png"))
    if arrays:
        made.paths.append(save_array(codes, folder / "traversals.npy"))
    return made


def _ordered(use: LatentUse) -> list[int]:
    """By KL, or by the spread of the codes where there is no KL."""
    return walks.most_used(use.importance.numpy(), MOST_USED)


def _centre(opened: Run, use: LatentUse, scale: Scale) -> tuple[Array, Array]:
    if scale.aggregate:
        return use.mean.numpy(), use.aggregate_std.numpy()
    return prior_moments(opened.trained)


def _name(use: LatentUse, dim: int) -> str:
    kl = float(use.kl_nats[dim])
    return f"z{dim} · KL {kl:.2f} nats" if np.isfinite(kl) else f"z{dim}"
