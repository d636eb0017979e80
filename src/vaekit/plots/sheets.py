"""Sheets of images with words under each, and pictures stacked into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.names import printable
from vaekit.plots.grids import PAPER, to_bytes
from vaekit.plots.letters import INK, fitting, letters

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

Array = np.ndarray[Any, Any]

NARROWEST = 88  # pixels of a column with a caption: "ELBO -1234.5" must fit
NARROWEST_BARE = 56
GAP = 4
TITLE, CAPTION = 14, 11  # sizes of type, pixels
SPACING = 1.35  # of lines


def captioned_sheet(
    stacks: Array, captions: Sequence[Sequence[str]], *, titles: Sequence[str] = (), columns: int = 10
) -> Image.Image:
    """One picture from stacks (N, k, C, H, W) of k images in [0, 1], each above its caption lines; titles on top.

    Pixels are enlarged by a whole factor and never blurred; a word too long for its column loses its middle.
    """
    from PIL import Image, ImageDraw

    count, depth, _, height, width = stacks.shape
    titles = [printable(title) for title in titles]
    lines = max(len(caption) for caption in captions)
    factor = max(1, -(-(NARROWEST if lines else NARROWEST_BARE) // width))
    height, width = height * factor, width * factor
    columns = min(columns, count)
    small, large = letters(CAPTION), letters(TITLE)
    line, title_line = round(CAPTION * SPACING), round(TITLE * SPACING)
    cell = depth * (height + GAP) + lines * line + (2 * GAP if lines else 0)
    top = len(titles) * title_line + 2 * GAP
    needed = max([columns * (width + GAP) + GAP, *(round(large.getlength(t)) + 4 * GAP for t in titles)])
    sheet = Image.new("RGB", (needed, top + -(-count // columns) * cell), (PAPER,) * 3)
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(titles):
        draw.text((2 * GAP, GAP + i * title_line), title, fill=INK, font=large)
    for i, (stack, caption) in enumerate(zip(stacks, captions, strict=True)):
        left, above = GAP + (i % columns) * (width + GAP), top + (i // columns) * cell
        for j, pixels in enumerate(to_bytes(stack)):
            picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, above + j * (height + GAP)))
        for j, text in enumerate(caption):
            place = left + 1, above + depth * (height + GAP) + j * line - 1
            draw.text(place, fitting(text, width, small), fill=INK, font=small)
    return sheet


def words(lines: Sequence[str]) -> Image.Image:
    """Lines of text as a picture."""
    from PIL import Image, ImageDraw

    font, line, lines = letters(CAPTION), round(CAPTION * SPACING), [printable(text) for text in lines]
    width = max(round(font.getlength(text)) for text in lines) + 4 * GAP
    picture = Image.new("RGB", (width, len(lines) * line + 2 * GAP), (PAPER,) * 3)
    for number, text in enumerate(lines):
        ImageDraw.Draw(picture).text((2 * GAP, GAP + number * line), text, fill=INK, font=font)
    return picture


def stacked(pictures: Sequence[Image.Image], gap: int = 10) -> Image.Image:
    """Pictures one above the other, left-aligned, on white."""
    from PIL import Image

    size = max(p.width for p in pictures), sum(p.height for p in pictures) + gap * (len(pictures) - 1)
    whole = Image.new("RGB", size, (PAPER,) * 3)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height + gap
    return whole


def drawn(figure: Figure, dpi: int = 100) -> Image.Image:
    """A matplotlib figure as a picture, to be stacked with others."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
