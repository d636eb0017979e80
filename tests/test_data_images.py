"""Pixels come out upright, 8-bit, on white, and in the asked shape, whatever the file was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.data.images import Fit, Target, header, open_image, pad_to, prepare, to_channels, to_shape
from vaekit.data.pixels import content_of
from vaekit.errors import DataError

RANDOM = np.random.default_rng(0)


def saved(folder: Path, image: Image.Image, name: str, **options: Any) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def test_sixteen_bits_are_scaled_not_saturated(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    for path in (saved(tmp_path, Image.fromarray(values), "a.png"), saved(tmp_path, Image.fromarray(values), "a.tif")):
        assert open_image(path)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert open_image(values)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert open_image(np.stack([values] * 3, -1)).tolist() == [[[v] * 3 for v in (0, 1, 128, 255)]]


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tif.*no known range"):
        open_image(saved(tmp_path, Image.fromarray(np.ones((2, 2), np.float32)), "a.tif"))
    with pytest.raises(DataError, match="float64"):
        open_image(np.zeros((2, 2)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = RANDOM.integers(0, 256, (6, 4, 3)).astype(np.uint8)
    stored = {  # how a camera held that way stores the scene
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "a.png", exif=exif)
    assert np.array_equal(open_image(path), upright)
    assert header(path) == (False, 6, 4)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_becomes_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), (0,) * len(mode))
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (255,))
    assert open_image(saved(tmp_path, image, "a.png"), 3)[0].tolist() == [[255] * 3, [0] * 3]


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert open_image(saved(tmp_path, image, "a.png"))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert open_image(saved(tmp_path, image, "a.gif"))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    clear = saved(tmp_path, image, "b.png", transparency=0)
    assert open_image(clear)[0].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    red = open_image(saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg"))
    assert red.shape == (8, 8, 3) and red[..., 0].min() > 240 and red[..., 1:].max() < 20
    one_bit = Image.fromarray(np.array([[True, False]]))
    assert open_image(saved(tmp_path, one_bit, "b.png"))[..., 0].tolist() == [[255, 0]]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.gif", "a.webp", "a.tif", "a.ppm"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.8])
def test_truncated_files_are_refused_by_name(tmp_path: Path, name: str, keep: float) -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (40, 30, 3)).astype(np.uint8))
    path = saved(tmp_path, image, name)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=f"cannot read '.*{name}'"):
        open_image(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read '.*none\.png': No such file or directory$"):
        open_image(tmp_path / "none.png")


def test_grey_and_colour_convert_as_pillow_does() -> None:
    colour = RANDOM.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(to_channels(colour, 1)[..., 0], np.asarray(Image.fromarray(colour).convert("L")))
    grey = colour[..., :1]
    assert np.array_equal(to_channels(to_channels(grey, 3), 1), grey)
    assert open_image(grey).shape == (9, 7, 1)
    assert open_image(grey, 3).shape == (9, 7, 3)
    with pytest.raises(DataError, match="cannot have 4 channels"):
        open_image(grey, 4)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(10, 30), (30, 10), (11, 11), (3, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_flat_image_stays_flat(fit: str, shape: tuple[int, int], channels: int) -> None:
    shaped = to_shape(np.full((*shape, channels), 200, np.uint8), 8, 12, fit)  # type: ignore[arg-type]
    assert shaped.shape == (8, 12, channels)
    assert set(np.unique(shaped)) <= ({0, 200} if fit == "pad" else {200})


def test_crop_keeps_the_centre_and_pad_keeps_everything() -> None:
    wide = np.zeros((8, 24, 1), np.uint8)
    wide[:, 8:16] = 255
    assert (to_shape(wide, 8, 8, "crop") == 255).all()
    assert to_shape(wide, 8, 24, "crop") is wide
    padded = to_shape(wide, 24, 24, "pad")
    assert np.array_equal(padded[8:16], wide) and not padded[:8].any() and not padded[16:].any()


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    assert abs(to_shape(stripes, 16, 16).astype(int) - 127).max() < 12


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(31, 50), (50, 31), (17, 24)])
def test_rows_and_columns_are_treated_alike(fit: Fit, shape: tuple[int, int]) -> None:
    """A mirrored image gives the mirrored result, on either axis, and a transposed one the transposed result.

    Pillow rounds after the rows, before the columns; the values are of a range that no overshoot leaves.
    """
    image = RANDOM.integers(64, 192, (*shape, 3)).astype(np.uint8)
    plain = to_shape(image, 20, 20, fit).astype(int)
    for axis in (0, 1):
        mirrored = to_shape(np.ascontiguousarray(np.flip(image, axis)), 20, 20, fit)
        assert abs(np.flip(mirrored, axis).astype(int) - plain).max() <= 2, axis
    turned = np.ascontiguousarray(image.transpose(1, 0, 2))
    for height, width in ((20, 20), (21, 12)):
        there = to_shape(turned, width, height, fit).transpose(1, 0, 2).astype(int)
        assert abs(there - to_shape(image, height, width, fit)).max() <= 2


def test_each_channel_is_shaped_by_itself() -> None:
    image = RANDOM.integers(0, 256, (9, 14, 3)).astype(np.uint8)
    for fit in ("crop", "pad", "stretch"):
        each = [to_shape(image[..., c : c + 1], 6, 7, fit) for c in range(3)]
        assert np.array_equal(to_shape(image, 6, 7, fit), np.concatenate(each, -1))
    assert np.array_equal(prepare(image, Target()), image.transpose(2, 0, 1))


@pytest.mark.parametrize("down", range(4))
@pytest.mark.parametrize("right", range(4))
def test_what_is_padded_is_cut_out_again(down: int, right: int) -> None:
    """The odd row goes below and the odd column right, and `content_of` knows it."""
    image = RANDOM.integers(1, 256, (4, 6, 1)).astype(np.uint8)
    padded = pad_to(image, 4 + down, 6 + right)
    assert np.array_equal(np.argwhere(padded)[0], (down // 2, right // 2, 0))
    assert np.array_equal(content_of(torch.from_numpy(padded[..., 0]), (4, 6)), image[..., 0])


def test_padding_is_centred_and_preparing_does_all_steps() -> None:
    image = RANDOM.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    assert np.array_equal(pad_to(image, 8, 9)[2:6, 1:7], image)
    ready = prepare(image, Target(size=(4, 6), pad=(8, 8), channels=1))
    assert ready.shape == (1, 8, 8)
    assert np.array_equal(ready[0, 2:6, 1:7], to_channels(image, 1)[..., 0])
