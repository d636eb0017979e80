"""One image from a file, array or Pillow image to 8-bit pixels of a given shape."""

from __future__ import annotations

import io
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from vaekit.config.schema import DataConfig, Size
from vaekit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Uint8Array = npt.NDArray[np.uint8]
Fit = Literal["crop", "pad", "stretch"]
# The raster formats that we mean, by their endings. Pillow is asked for no other: a drawing in PostScript, whatever it
# is called, would start another program.
ENDINGS = {
    "AVIF": ".avif .avifs",
    "BMP": ".bmp",
    "DDS": ".dds",
    "DIB": ".dib",
    "GIF": ".gif",
    "ICNS": ".icns",
    "ICO": ".ico",
    "JPEG": ".jpg .jpeg .jpe .jfif .mpo",
    "JPEG2000": ".jp2 .j2k .jpc .jpf .jpx .j2c",
    "PCX": ".pcx",
    "PNG": ".png .apng",
    "PPM": ".ppm .pgm .pbm .pnm",
    "PSD": ".psd",
    "QOI": ".qoi",
    "SGI": ".sgi .rgb .rgba .bw",
    "SUN": ".ras",
    "TGA": ".tga .icb .vda .vst",
    "TIFF": ".tif .tiff",
    "WEBP": ".webp",
    "XBM": ".xbm",
    "XPM": ".xpm",
}
SUFFIXES = frozenset(ending for endings in ENDINGS.values() for ending in endings.split())
UNMARKED = "TGA"  # files that begin with nothing by which they are known: only asked for by their ending
MOST_PIXELS = 2**26  # of one image: 8192×8192. Three bytes each, in each of the workers
AT_ONCE_PIXELS = 2**27  # of all images that are decoded at one time
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
# What Pillow's decoders were seen to raise on damaged files, beside its own UnidentifiedImageError (an OSError).
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError, zlib.error)


@dataclass(frozen=True)
class Target:
    """The one shape that all images are brought to; None keeps what they have."""

    size: tuple[int, int] | None = None  # (height, width)
    fit: Fit = "crop"
    pad: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None

    @classmethod
    def of(cls, config: DataConfig) -> Target:
        """The target that a config asks for.

        Example:
            >>> Target.of(DataConfig(size=28, pad=32)).pad
            (32, 32)
        """
        return cls(_pair(config.size, "size"), config.fit, _pair(config.pad, "pad"), config.channels)

    def shape(self, native: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) before padding, of images that come as `native`.

        Example:
            >>> Target(size=(32, 32)).shape((1, 28, 28))
            (1, 32, 32)
        """
        height, width = self.size or native[1:]
        if self.pad is not None and (self.pad[0] < height or self.pad[1] < width):
            asked = f"data.pad={self.pad[0]}×{self.pad[1]} is smaller than the images of {height}×{width}"
            raise ConfigError(f"{asked}; pad to at least that, or set data.size to shrink them")
        return self.channels or native[0], height, width


def _pair(size: Size | None, name: str) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ConfigError(f"data.{name}={height}×{width} holds no pixel; height and width are 1 or more")
    return height, width


def open_image(
    source: str | Path | bytes | bytearray | io.IOBase | npt.NDArray[Any] | Image, channels: int | None = None
) -> Uint8Array:
    """Upright 8-bit pixels, (H, W, C). EXIF rotation is applied, 16 bits are scaled, transparency is white.

    `channels=None` keeps grey images grey. A file that cannot be read whole is a DataError that names it.

    Example:
        >>> open_image(np.full((2, 3), 65535, np.uint16)).max()
        np.uint8(255)
    """
    from PIL import Image as pillow  # noqa: N813  # lazily: batches and datasets need no Pillow

    if channels not in (None, 1, 3):
        raise DataError(f"images cannot have {channels} channels; choose 1 (grey) or 3 (colour)")
    name = f"'{source}'" if isinstance(source, str | Path) else "this image"
    try:
        if isinstance(source, bytes | bytearray):
            source = io.BytesIO(source)
        if isinstance(source, str | Path | io.IOBase):
            with _opened(source) as image, _room_for(_few_enough(image)):
                return _pixels(image, channels)
        return _pixels(pillow.fromarray(_typed(source)) if isinstance(source, np.ndarray) else source, channels)
    except (*BROKEN, pillow.DecompressionBombError) as error:
        raise DataError(f"cannot read {name}: {_why(error)}") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    from PIL import Image as pillow  # noqa: N813

    pillow.init()
    return tuple(name for name in ENDINGS if name in pillow.OPEN)


def _opened(source: str | Path | io.IOBase) -> Image:
    """The header of a file or stream, read. ValueError for what is no file: a pipe would be waited for for ever."""
    from PIL import Image as pillow  # noqa: N813

    unmarked = False
    if isinstance(source, str | Path):
        mode = Path(source).stat().st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(
                "it is a folder" if stat.S_ISDIR(mode) else "it is no file but a pipe, a socket or a device"
            )
        unmarked = Path(source).suffix.lower() in ENDINGS[UNMARKED].split()
    formats = [name for name in _formats() if unmarked or name != UNMARKED]
    return pillow.open(source, formats=formats)  # type: ignore[arg-type]  # any stream of bytes


def _few_enough(image: Image) -> Image:
    """The image, of a JPEG at the scale that is few enough pixels. ValueError where there are too many."""
    if image.width * image.height > MOST_PIXELS:
        size = f"{image.height}×{image.width}"
        image.draft(None, (image.width // 8, image.height // 8))  # does nothing to what is no JPEG
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"its {size} pixels are more than the {MOST_PIXELS:,} that are decoded; make it smaller")
    return image


_pixels_at_work = 0
_room = threading.Condition()


@contextmanager
def _room_for(image: Image) -> Iterator[Image]:
    """Wait until few enough pixels are being decoded, by all threads together."""
    global _pixels_at_work
    pixels = image.width * image.height
    with _room:
        _room.wait_for(lambda: _pixels_at_work == 0 or _pixels_at_work + pixels <= AT_ONCE_PIXELS)
        _pixels_at_work += pixels
    try:
        yield image
    finally:
        with _room:
            _pixels_at_work -= pixels
            _room.notify_all()


def _why(error: Exception) -> str:
    """What is wrong, without the name of the file, which stands before it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def header(path: Path) -> tuple[bool, int, int]:
    """(is grey, height, width) of an upright image, from the file's first bytes only.

    Example:
        >>> import tempfile, PIL.Image
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> PIL.Image.new("L", (4, 6)).save(file)
        >>> header(file)
        (True, 6, 4)
    """
    from PIL import Image as pillow  # noqa: N813

    try:
        with _opened(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 swap the sides
            grey = image.mode in GREY_MODES
            height, width = (image.width, image.height) if turned else (image.height, image.width)
            return grey, height, width
    except (*BROKEN, pillow.DecompressionBombError) as error:
        raise DataError(f"cannot read '{path}': {_why(error)}") from error


def _typed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype == np.uint16 and array.size and 0 < array.max() <= 255:
        raise ValueError(f"uint16 values that reach only {array.max()} look like 8 bits; give them as uint8")
    if array.dtype == np.uint16 and array.ndim == 3:
        array = _from_16_bits(array)
    if array.dtype not in (np.uint8, np.uint16, np.bool_) or array.ndim not in (2, 3):
        raise ValueError(f"an array of {array.dtype} {array.shape}; give uint8 or uint16, (H, W) or (H, W, C)")
    return array


def bytes_of_floats(values: npt.NDArray[Any]) -> Uint8Array:
    """uint8 of floats in [0, 1], rounded to the nearest k/255. DataError for any other value.

    Example:
        >>> bytes_of_floats(np.array([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
        low, high = (f"{bound:.3g}" for bound in (values.min(), values.max()))
        raise DataError(
            f"floats must lie in [0, 1] but these go from {low} to {high}; divide by 255, leave out what normalises "
            "them, or give uint8"
        )
    return np.rint(values * 255).astype(np.uint8)


def _from_16_bits(array: npt.NDArray[Any]) -> Uint8Array:
    return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _pixels(image: Image, channels: int | None) -> Uint8Array:
    from PIL import Image as pillow  # noqa: N813
    from PIL import ImageOps

    grey = image.mode in GREY_MODES
    if image.mode == "I" and image.format == "TIFF":
        low, high = image.getextrema()
        raise ValueError(
            f"32-bit whole numbers, from {low} to {high}, have no known range; save it with 8 or 16 bits, white being "
            "255 or 65,535"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode in GREY_MODES and image.mode[0] in "IF":  # Pillow's own conversion saturates at 255
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{image.mode} pixels have no known range; save it with 8 or 16 bits")
        image = pillow.fromarray(_from_16_bits(values))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image)
    wanted = channels or (1 if grey else 3)
    pixels = np.asarray(image.convert("L" if wanted == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], wanted)


def to_channels(pixels: Uint8Array, channels: int | None) -> Uint8Array:
    """(H, W, channels): grey repeated, or colour as its luma (ITU-R 601, as Pillow rounds it).

    Example:
        >>> to_channels(np.zeros((2, 2, 1), np.uint8), 3).shape
        (2, 2, 3)
    """
    if channels is None or pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=2)
    luma = pixels.astype(np.uint32) @ np.array([[19595], [38470], [7471]], np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)


def to_shape(pixels: Uint8Array, height: int, width: int, fit: Fit = "crop") -> Uint8Array:
    """(height, width, C), antialiased with Lanczos; the same pixels where the shape fits already.

    `crop` cuts the centre out, `pad` puts black around, `stretch` changes the aspect ratio.

    Example:
        >>> to_shape(np.full((4, 8, 3), 7, np.uint8), 4, 4, "pad")[:, 0, 0].tolist()
        [0, 7, 7, 0]
    """
    have_height, have_width = pixels.shape[:2]
    if (have_height, have_width) == (height, width):
        return pixels
    scales = height / have_height, width / have_width
    if fit == "stretch":
        return _resize(pixels, height, width, (0, 0, have_width, have_height))
    if fit == "pad":
        scale = min(scales)
        inner = max(1, round(have_height * scale)), max(1, round(have_width * scale))
        return pad_to(_resize(pixels, *inner, (0, 0, have_width, have_height)), height, width)
    cut_height, cut_width = height / max(scales), width / max(scales)
    left, top = (have_width - cut_width) / 2, (have_height - cut_height) / 2
    right, bottom = min(left + cut_width, have_width), min(top + cut_height, have_height)
    return _resize(pixels, height, width, (max(left, 0), max(top, 0), right, bottom))


def _resize(pixels: Uint8Array, height: int, width: int, box: tuple[float, float, float, float]) -> Uint8Array:
    from PIL import Image as pillow  # noqa: N813

    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    image = pillow.fromarray(np.ascontiguousarray(flat)).resize((width, height), pillow.Resampling.LANCZOS, box)
    return np.asarray(image).reshape(height, width, pixels.shape[2])


def pad_to(pixels: Uint8Array, height: int, width: int) -> Uint8Array:
    """(height, width, C) with the image in the centre, black around; the odd row or column goes below and right.

    Example:
        >>> pad_to(np.ones((1, 1, 1), np.uint8), 3, 2)[..., 0].tolist()
        [[0, 0], [1, 0], [0, 0]]
    """
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    padded = np.zeros((height, width, pixels.shape[2]), np.uint8)
    padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return padded


def prepare(pixels: Uint8Array, target: Target) -> Uint8Array:
    """(C, H, W) of a target, from (H, W, C): channels, then size, then padding.

    Example:
        >>> prepare(np.zeros((28, 28, 1), np.uint8), Target(pad=(32, 32), channels=3)).shape
        (3, 32, 32)
    """
    if target.channels == 1:
        pixels = to_channels(pixels, 1)  # before resizing: a third of the work
    if target.size is not None:
        pixels = to_shape(pixels, *target.size, target.fit)
    pixels = to_channels(pixels, target.channels)
    if target.pad is not None:
        pixels = pad_to(pixels, *target.pad)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
