"""Pictures of a latent space: labelled sheets of images, animations, scatter, KL, histograms, correlation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.files import storage_errors
from vaekit.names import printable
from vaekit.plots.grids import GAP, PAPER, image_grid
from vaekit.plots.letters import INK, broken, fitting, letters, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

Array = np.ndarray[Any, Any]
LETTERS = 12  # pixels
LINE = 18  # pixels
WIDEST_NAME = 150  # pixels of a row's name; a longer one loses its middle
NARROWEST = 320  # pixels of a sheet with a title
FRAME_MILLISECONDS = 90
MOST_BARS_WITH_NAMES = 64
MOST_HISTOGRAMS = 16
MOST_MAPS = 12
MOST_CLASSES_WITH_NAMES = 20


def labelled_grid(
    rows: Sequence[Array], *, title: str = "", row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Image.Image:
    """A grid of images (N, C, H, W) in [0, 1] with a title, and names to the left and above.

    Column names that would touch are left out, row names that are too wide lose their middle, titles take more lines.
    """
    from PIL import Image, ImageDraw

    font = letters(LETTERS)
    grid = image_grid(rows)
    columns = max(len(row) for row in rows)
    cell_width, cell_height = (grid.width - GAP) // columns, (grid.height - GAP) // len(rows)
    names = [[fitting(line, WIDEST_NAME, font) for line in label.split("\n")] for label in row_labels]
    left = max((round(font.getlength(line)) + 10 for lines in names for line in lines), default=0)
    column_labels = [printable(label) for label in column_labels]
    above = [font.getlength(label) for label in column_labels]
    overhang = 0 if not above else max(0, round((above[-1] - cell_width) / 2) + 2)
    width = max(left + grid.width + overhang, NARROWEST if title else 0)
    said = broken(title, width - 8, font)
    top = (len(said) * LINE + 4 if title else 0) + (LINE if column_labels else 0)
    sheet = Image.new("RGB", (width, top + grid.height), (PAPER,) * 3)
    sheet.paste(grid, (left, top))
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(said):
        draw.text((4, 2 + i * LINE), line, fill=INK, font=font)
    for i, lines in enumerate(names):
        place = left - 5, top + GAP + (i + 0.5) * cell_height
        draw.text(place, "\n".join(lines), fill=INK, font=font, anchor="rm", align="right")
    every = max(1, -(-round(max(above, default=0) + 6) // cell_width))
    for i, label in list(enumerate(column_labels))[::every]:
        draw.text((left + GAP + (i + 0.5) * cell_width, top - 3), label, fill=INK, font=font, anchor="ms")
    return sheet


def save_animation(frames: Sequence[Image.Image], path: Path) -> Path:
    """Write a GIF that runs for ever, forth and back, and rests at both ends."""
    from PIL import Image

    forth = list(frames)
    played = [forth[0]] * 4 + forth[1:-1] + [forth[-1]] * 4 + forth[-2:0:-1]
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *rest = [frame.convert("P", palette=Image.Palette.ADAPTIVE, colors=256) for frame in played]
        first.save(path, save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0)
    return path


def scatter(
    points: Array, *, title: str, axis_names: tuple[str, str], labels: Array | None = None, names: Sequence[str] = ()
) -> Figure:
    """Points (N, 2), coloured by class where labels (N,) say which of `names` each is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(30_000 / max(1, len(points)), 3, 25))
    present = [] if labels is None else np.unique(labels).tolist()
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, alpha=0.6, linewidths=0)
    else:
        palette = _class_colours(len(present))
        order = np.random.default_rng(0).permutation(len(points))  # class after class, the last would hide the others
        colours = palette[np.searchsorted(present, labels[order])]
        axes.scatter(points[order, 0], points[order, 1], s=size, c=colours, alpha=0.7, linewidths=0)
        if len(present) <= MOST_CLASSES_WITH_NAMES:
            for colour, label in zip(palette, present, strict=True):
                axes.scatter([], [], s=60, color=colour, alpha=0.7, linewidths=0, label=names[label])
            axes.legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set(title=title, xlabel=axis_names[0], ylabel=axis_names[1])
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.25)
    return figure


def _class_colours(count: int) -> Array:
    """(count, 4): colours apart for up to 20 classes, of a scale for more."""
    from matplotlib import colormaps

    if count > MOST_CLASSES_WITH_NAMES:
        return np.asarray(colormaps["viridis"](np.linspace(0, 1, count)))
    return np.asarray(colormaps["tab10" if count <= 10 else "tab20"](np.arange(count)))


def kl_bars(kl_nats: Array, active: Array, *, title: str, of: str = "dimension") -> Figure:
    """KL of each dimension (or channel: what they are `of`), largest first; those that carry nothing in grey."""
    from matplotlib.figure import Figure

    order = np.argsort(-kl_nats, kind="stable")
    figure = Figure(figsize=(float(np.clip(0.24 * len(order) + 2, 6, 18)), 5), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if active[dim] else "0.7" for dim in order]
    axes.bar(range(len(order)), kl_nats[order], color=colours, width=0.8)
    if len(order) <= MOST_BARS_WITH_NAMES:
        axes.set_xticks(range(len(order)), [str(dim) for dim in order], fontsize=8)
    else:
        axes.set_xticks([])
    axes.set(title=title, xlabel=f"{of}, largest first", ylabel="KL(q(z | x) ‖ p(z)) in nats per image")
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.margins(y=0.15)  # room for the legend
    axes.grid(alpha=0.3, axis="y")
    for colour, name in (("tab:blue", "active"), ("0.7", "unused")):
        if colour in colours:
            axes.bar([0], [0], color=colour, label=name)
    axes.legend()
    return figure


def histograms(
    codes: Array,
    dims: Sequence[int],
    *,
    title: str,
    prior_mean: Array | None = None,
    prior_std: Array | None = None,
    prior_draws: Array | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """Samples of the aggregate posterior (N, D) in some dimensions, and the prior: a normal's moments, or draws.

    `names` are of all dimensions, z0, z1 … by default.
    """
    from matplotlib.figure import Figure

    shown = list(dims)[:MOST_HISTOGRAMS]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    width, height = max(7.0, 3.1 * columns + 0.6), 2.4 * rows + 1.4
    figure = Figure(figsize=(width, height))  # laid out by hand: the automatic way takes seconds for 16 panels
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(0.75 / width, 0.8 / height, 1 - 0.15 / width, 1 - 0.75 / height, wspace=0.25, hspace=0.4)
    for axes, dim in zip(panels, shown, strict=False):
        values = codes[:, dim]
        count, all_of_them = int(np.clip(len(values) ** 0.5, 10, 50)), values
        if prior_draws is not None:  # the same bins for both, but for the last thousandths of a heavy tail
            all_of_them = np.concatenate([values, np.quantile(prior_draws[:, dim], [0.001, 0.999])])
        bins = np.histogram_bin_edges(all_of_them, count)
        axes.hist(
            values,
            bins=bins,
            density=True,
            histtype="stepfilled",
            color="tab:blue",
            alpha=0.6,
            label="aggregate posterior",
        )
        if prior_mean is not None and prior_std is not None:
            low, high = axes.get_xlim()
            z = np.linspace(
                min(low, prior_mean[dim] - 3 * prior_std[dim]), max(high, prior_mean[dim] + 3 * prior_std[dim]), 200
            )
            standard = (z - prior_mean[dim]) / prior_std[dim]
            density = np.exp(-0.5 * standard**2) / (prior_std[dim] * np.sqrt(2 * np.pi))
            axes.plot(z, density, color="black", linewidth=1.3, label="prior")
        if prior_draws is not None:
            drawn = np.clip(prior_draws[:, dim], bins[0], bins[-1])
            axes.hist(drawn, bins=bins, density=True, histtype="step", color="black", linewidth=1.3, label="prior")
        name = f"{names[dim] if names else f'z{dim}'}   mean {signed(values.mean())} · std {values.std():.2f}"
        axes.set_title(name, fontsize=9, y=1.0)  # a place of its own: to look for one takes a quarter of the time
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=5)
        axes.locator_params(axis="y", nbins=3)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("value of the dimension", fontsize=9, x=0.75 / width, ha="left")
    figure.supylabel("density", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower right", ncols=2, fontsize=9)
    return figure


def kl_maps(kl_nats: Array, *, title: str) -> Figure:
    """KL at each place of a grid of codes (C, h, w): of all channels together, then of the channels that cost most.

    Each panel has a scale of its own, from 0, since a channel is a small part of the whole.
    """
    from matplotlib.figure import Figure

    order = np.argsort(-kl_nats.sum((1, 2)), kind="stable")[: MOST_MAPS - 1]
    panels = [("all channels", kl_nats.sum(0)), *((f"channel {i}", kl_nats[i]) for i in order)]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    height, width = kl_nats.shape[1:]
    side = 2.6 * max(0.5, min(2.0, height / width))
    figure = Figure(figsize=(3.0 * columns, (side + 0.5) * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, values) in zip(axes, panels, strict=False):
        image = axis.imshow(values, cmap="viridis", vmin=0, interpolation="nearest")
        figure.colorbar(image, ax=axis, shrink=0.8)
        axis.set_title(f"{name}: {values.sum():.2f} nats", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


def correlation_matrix(correlation: Array, *, title: str, of: str = "dimension") -> Figure:
    """Correlations (D, D) between dimensions (or channels: what they are `of`), from -1 to 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="correlation")
    axes.set(title=title, xlabel=of, ylabel=of)
    if len(correlation) <= 20:
        axes.set_xticks(range(len(correlation)))
        axes.set_yticks(range(len(correlation)))
    return figure
