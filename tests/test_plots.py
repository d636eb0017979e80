"""Pictures: what is written on them stays inside, and no class is drawn over the others."""

from __future__ import annotations

import numpy as np
import pytest

from vaekit import plots
from vaekit.plots.anomalies import elbo_histogram
from vaekit.plots.letters import broken, counted, fitting, letters, signed

LONG = "01fd527c-da05-4141-861c-3aaec8070601-" * 4 + "end.jpg"


@pytest.mark.parametrize("width", [40, 90, 300])
def test_texts_are_no_wider_than_asked_and_lose_no_short_word(width):
    font = letters(12)
    assert font.getlength(shown := fitting(LONG, width, font)) <= width and shown.endswith("g")
    lines = broken(f"one two three {LONG} four five six", width, font)
    assert max(map(font.getlength, lines)) <= width
    assert {"one", "two", "three", "four", "five", "six"} <= set(" ".join(lines).split())


def test_numbers_have_a_true_minus_and_zero_has_no_sign():
    assert [signed(v) for v in (-2, -0.004, 0.0, 0.125, 3)] == ["−2.00", "0.00", "0.00", "0.12", "3.00"]
    assert [signed(v, plus=True) for v in (-0.75, 0.0, 0.75)] == ["−0.75", "0.00", "+0.75"]


def test_one_is_singular_and_thousands_are_parted():
    assert [counted(n, "image") for n in (0, 1, 2, 3068)] == ["0 images", "1 image", "2 images", "3,068 images"]


def test_images_are_counted_in_whole_numbers():
    axes = elbo_histogram(np.random.default_rng(0).normal(size=196), [0.1], "ELBO").axes[0]
    assert all(float(tick).is_integer() for tick in axes.get_yticks())
    assert "1 image given" in [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("dims", [1, 3, 16, 40])
def test_a_legend_hides_no_bar(dims):
    figure = plots.kl_bars(np.full(dims, 3.0), np.arange(dims) % 2 == 0, title="t")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legend = axes.get_legend().get_window_extent()
    assert not any(legend.overlaps(bar.get_window_extent()) for bar in axes.patches if bar.get_height() > 0)


def test_a_schedule_is_drawn_once_and_the_terms_of_both_splits():
    history = [
        {"epoch": i, "split": split, "elbo": -9.0 + i, "distortion": 7.0, "rate": 2.0, "beta": 0.5 * i}
        for i in range(3) for split in ("train", "validation")
    ]  # fmt: skip
    panels = {axes.get_title(): axes for axes in plots.loss_curves(history).axes}
    assert {title: len(axes.lines) for title, axes in panels.items()} == {
        "−ELBO": 2, "distortion": 2, "rate (KL)": 2, "β": 1,
    }  # fmt: skip
    assert list(panels["β"].lines[0].get_ydata()) == [0.0, 0.5, 1.0]


def inked(sheet):
    """Columns and rows that are not paper."""
    dark = np.asarray(sheet.convert("L")) < 250
    return np.flatnonzero(dark.any(0)), np.flatnonzero(dark.any(1))


def test_a_long_title_or_name_widens_no_sheet_and_nothing_touches_its_edge():
    paper = np.ones((3, 1, 8, 8))
    short = plots.labelled_grid([paper] * 2, title="two rows", row_labels=["a", "b"])
    long = plots.labelled_grid([paper] * 2, title=f"two rows of {LONG} and more words than fit", row_labels=["a", "b"])
    assert long.width == short.width and long.height > short.height
    named = plots.labelled_grid([paper] * 2, row_labels=[f"{LONG} →\n{LONG}", "b"])
    assert named.width < short.width + 200
    for sheet in (short, long, named):
        columns, rows = inked(sheet)
        assert columns[0] > 0 and columns[-1] < sheet.width - 1 and rows[0] > 0 and rows[-1] < sheet.height - 1


def test_pixels_are_enlarged_by_whole_factors_and_never_mixed():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4)) / 255
    grid = np.asarray(plots.image_grid([pixels]))
    cell = grid[2:72, 2:58]  # 14 times, for a shortest side of 56
    assert np.array_equal(cell[::14, ::14], plots.to_bytes(pixels)[0])
    assert np.array_equal(cell, cell[::14, ::14].repeat(14, 0).repeat(14, 1))


def test_a_scatter_gives_each_point_its_class_and_hides_none_under_the_last():
    labels = np.repeat([2, 5, 7], 200)
    points = np.stack([labels, np.arange(600.0)], 1)
    names = [f"class {number}" for number in range(8)]
    axes = plots.scatter(points, title="t", axis_names=("x", "y"), labels=labels, names=names).axes[0]
    drawn = axes.collections[0]
    legend = {text.get_text(): handle for text, handle in zip(
        axes.get_legend().get_texts(), axes.get_legend().legend_handles, strict=True
    )}  # fmt: skip
    assert list(legend) == ["class 2", "class 5", "class 7"]
    for place, colour in zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True):
        assert np.allclose(legend[f"class {int(place[0])}"].get_facecolor()[0], colour)
    order = drawn.get_offsets()[:, 0]
    assert sorted(drawn.get_offsets()[:, 1]) == list(range(600))
    assert all(30 < np.sum(order[-200:] == label) < 110 for label in (2, 5, 7))


def outlines(figure):
    """(places, heights) of the corners in the first panel: of the codes, and of the draws of the prior."""
    return [tuple(set(axis.round(9)) for axis in patch.get_xy().T) for patch in figure.axes[0].patches]


def test_codes_and_draws_of_the_prior_are_counted_in_the_same_bins():
    codes = np.random.default_rng(0).standard_normal((400, 2))
    ours, same = outlines(plots.histograms(codes, [0], title="t", prior_draws=codes))
    assert ours == same and len(ours[0]) > 10
    (places, _), (others, _) = outlines(
        plots.histograms(codes, [0], title="t", prior_draws=3 * np.repeat(codes, 10, 0))
    )
    assert places == others and max(places) > 6 > codes[:, 0].max()
