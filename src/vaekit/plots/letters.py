"""Letters on pictures: the font, texts cut or broken to a width, and numbers with a true minus."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vaekit.names import printable

INK = (40, 40, 40)


def letters(size: int) -> Any:
    """matplotlib's own font, `size` pixels high: Pillow's lacks β, minus, arrows and most alphabets of file names."""
    from PIL import ImageFont

    found = find_spec("matplotlib")
    try:
        folder = Path(str(found.origin)).parent if found else Path()
        return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def fitting(text: str, width: float, font: Any) -> str:
    """The text, or its two ends around an ellipsis where it is wider: the end of a file's name tells most."""
    text = printable(text)
    kept, shown = len(text), text
    while kept > 2 and font.getlength(shown) > width:
        kept -= 1
        shown = text[: kept // 3] + "…" + text[len(text) - (kept - kept // 3) :]
    return shown


def broken(text: str, width: float, font: Any) -> list[str]:
    """The text in lines no wider than `width` pixels, broken between words; a word that is wider loses its middle."""
    lines: list[str] = []
    for word in printable(text).split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(fitting(word, width, font))
    return lines


def counted(count: int, noun: str) -> str:
    """A count with its noun: 1 image, 2,000 images."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def signed(value: float, *, plus: bool = False) -> str:
    """A number with two decimals and a true minus; what rounds to zero has no sign.

    Example:
        >>> signed(-1.5), signed(-0.001, plus=True), signed(2, plus=True)
        ('−1.50', '0.00', '+2.00')
    """
    said = f"{abs(value):.2f}"
    sign = "" if float(said) == 0 else "−" if value < 0 else "+" if plus else ""
    return sign + said
