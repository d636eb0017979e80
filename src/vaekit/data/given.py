"""What a program hands over as images: which axis of an array means what, and one image after the other."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vaekit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]  # channels, height, width
WITH_ALPHA = (1, 2, 3, 4)  # channels of one image behind its sides, transparency included
PLAIN = (1, 3)


class Reading(NamedTuple):
    """One way to read an array: what it then is, the shape of an image, and the axes that make it (N, H, W, C)."""

    words: str
    image: Shape
    axes: tuple[int | None, ...]  # None: an axis of length 1

    def applied(self, array: Array) -> Array:
        """(N, H, W, C)."""
        there = [axis for axis in self.axes if axis is not None]
        return np.expand_dims(array.transpose(there), [k for k, axis in enumerate(self.axes) if axis is None])


def readings(shape: tuple[int, ...], *, channels: tuple[int, ...] = WITH_ALPHA) -> list[Reading]:
    """All ways to read an array of this shape as images; `channels` are how many may stand behind the sides.

    Example:
        >>> [reading.words for reading in readings((3, 8, 9))]
        ['3 grey images of 8×9', 'one image of 8×9 with 3 channels first']
    """
    match shape:
        case (h, w):
            return [Reading(f"one grey image of {h}×{w}", (1, h, w), (None, 0, 1, None))]
        case (a, b, c):
            found = [] if a == 1 else [Reading(f"{a} grey images of {b}×{c}", (1, b, c), (0, 1, 2, None))]
            if a in PLAIN:
                found.append(Reading(f"one image of {b}×{c} with {a} channels first", (a, b, c), (None, 1, 2, 0)))
            if c in channels:
                found.append(Reading(f"one image of {a}×{b} with {c} channels last", (c, a, b), (None, 0, 1, 2)))
            return found
        case (n, a, b, c):
            found = []
            if a in PLAIN:
                found.append(Reading(f"{n} images of {b}×{c} with {a} channels first", (a, b, c), (0, 2, 3, 1)))
            if c in channels:
                found.append(Reading(f"{n} images of {a}×{b} with {c} channels last", (c, a, b), (0, 1, 2, 3)))
            return found
    return []


def images_of_array(array: Array, like: Shape | None = None, name: str = "the images") -> Array:
    """(N, H, W, C) of an array or a batch, channels before or behind the sides, or no channel.

    `like` is the shape of the images that a model was trained on: it decides between two readings where just one is of
    that shape. Else three channels in front are channels for a model of colour, and three axes of which the last is 1,
    3 or 4 long are one image. DataError for a shape that still reads two ways, or none.

    Example:
        >>> images_of_array(np.zeros((3, 8, 9)), (3, 28, 28)).shape
        (1, 8, 9, 3)
    """
    found = readings(array.shape)
    exact = [reading for reading in found if reading.image == like]
    if len(exact) == 1:
        return exact[0].applied(array)
    if array.ndim == 3 and len(found) > 1:
        colour_first = array.shape[0] == 3 and like is not None and like[0] == 3
        if array.shape[2] in (1, 3, 4) or colour_first:
            found = [reading for reading in found if "grey images" not in reading.words]
    if len(found) != 1:
        raise DataError(f"{name} come as {shape_words(array.shape)}, {_reads(found)}")
    return found[0].applied(array)


def _reads(found: list[Reading]) -> str:
    if found:
        ways = " or as ".join(reading.words for reading in found)
        return f"which reads as {ways}; give four axes, of which just one can be the channels"
    one = "or one image (C, H, W), (H, W, C) or (H, W)"
    return f"which are no images; give (N, C, H, W), (N, H, W, C) or (N, H, W), {one}"


def shape_words(shape: Iterable[int]) -> str:
    """A shape as NumPy writes it.

    Example:
        >>> shape_words((3,))
        '(3,)'
    """
    lengths = [str(length) for length in shape]
    return f"({', '.join(lengths)}{',' if len(lengths) == 1 else ''})"


def is_one_file(given: Any) -> bool:
    """Whether something is one image as a file: its path, its bytes, a stream of them, or a Pillow image."""
    from PIL.Image import Image

    return isinstance(given, str | Path | bytes | bytearray | io.IOBase | Image)


def as_array(tensor: torch.Tensor | Array) -> Array:
    """A tensor of any device and type as an array: what NumPy has no type for becomes float32."""
    if isinstance(tensor, np.ndarray):
        return tensor
    there = tensor.detach().cpu()
    return (there.float() if there.is_floating_point() else there).numpy()


def each_image(given: Any, like: Shape | None = None) -> Iterator[str | Path | bytes | io.IOBase | Image | Array]:
    """One image after the other, for `open_image`: arrays as (H, W, C).

    Images are files, bytes, streams, Pillow images, arrays or tensors (`images_of_array`), or any iterable of those; a
    torch Dataset or a DataLoader may give (images, labels), of which the images are taken. DataError for anything else.

    Example:
        >>> [image.shape for image in each_image([torch.zeros(3, 8, 9), np.zeros((5, 8, 9))])]
        [(8, 9, 3), (8, 9, 1), (8, 9, 1), (8, 9, 1), (8, 9, 1), (8, 9, 1)]
    """
    if is_one_file(given):
        yield given
    elif isinstance(given, np.ndarray | torch.Tensor):
        yield from images_of_array(as_array(given), like)
    elif isinstance(given, torch.utils.data.Dataset | torch.utils.data.DataLoader):
        for item in items_of(given):
            yield from each_image(item[0] if isinstance(item, list | tuple) else item, like)
    elif isinstance(given, Iterable) and not isinstance(given, Mapping):
        for item in given:
            yield from each_image(item, like)
    else:
        raise DataError(f"a {type(given).__name__} is no image; {WHAT_IS_AN_IMAGE}")


WHAT_IS_AN_IMAGE = "give files, their bytes, Pillow images, arrays or tensors, one or several"


def items_of(given: Iterable[Any] | torch.utils.data.Dataset[Any]) -> Iterator[Any]:
    """The items of a torch Dataset, which need not be iterable by itself, or of any iterable."""
    if isinstance(given, torch.utils.data.Dataset) and not isinstance(given, torch.utils.data.IterableDataset):
        for position in range(len(given)):  # type: ignore[arg-type]
            yield given[position]
    else:
        yield from given  # type: ignore[misc]
