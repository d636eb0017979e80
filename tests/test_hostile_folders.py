"""A folder from anywhere: every file is used or named with its reason, nothing waits, nothing is started."""

from __future__ import annotations

import csv
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from vaekit.config.schema import DataConfig
from vaekit.data import images as reading
from vaekit.data.found import by_ending, find_images, look_through
from vaekit.data.images import ENDINGS, SUFFIXES, header, open_image
from vaekit.data.splits import load_splits
from vaekit.errors import DataError
from vaekit.names import printable

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))


def picture(path, shape=(12, 10, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, shape, np.uint8)).save(path)
    return path


def huge_png(side):
    """A file of a few bytes whose header says that it has side × side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghost(tmp_path, monkeypatch):
    """A stand-in for Ghostscript at the head of the PATH, and the file that it would leave."""
    left = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{left}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return left


@pytest.fixture
def hostile(tmp_path):
    """150 files, of which 100 are sound."""
    root = tmp_path / "photos"
    sound = {
        ".jpg": "JPEG",
        ".JPE": "JPEG",
        ".jfif": "JPEG",
        ".png": "PNG",
        ".bmp": "BMP",
        ".tga": "TGA",
        ".ico": "ICO",
    }
    sound |= {".pnm": "PPM", ".tif": "TIFF", ".gif": "GIF", ".pcx": "PCX", ".sgi": "SGI", ".webp": "WEBP"}
    for number in range(100):
        ending, kind = list(sound.items())[number % len(sound)]
        path = root / ("cats", "dogs")[number % 2] / f"{number:03}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(RANDOM.integers(0, 256, (16, 16, 3), np.uint8))
        image.save(path, kind)
    whole = (root / "cats" / "000.jpg").read_bytes()
    bad = root / "cats"
    for number in range(20):  # cut off, emptied, overwritten at random
        path = bad / f"bad-{number:02}{('.jpg', '.png', '.webp', '.tif')[number % 4]}"
        path.write_bytes((whole[: number * 20], RANDOM.bytes(300), b"")[number % 3])
    os.mkfifo(bad / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(bad)  # the names of sockets may not be long
        server.bind("socket.jpg")
        os.chdir(here)
    (bad / "zero.png").symlink_to("/dev/zero")
    (bad / "stdin.png").symlink_to("/dev/stdin")
    (bad / "nothing.png").symlink_to(root / "not-there")
    (bad / "circle.png").symlink_to(bad / "circle.png")
    (bad / "loop").symlink_to(root)
    (bad / "drawing.png").write_bytes(POSTSCRIPT)
    (bad / "page.jpg").write_bytes(b"%PDF-1.4\n" + b"0" * 100)
    (bad / "web.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    (bad / "huge.png").write_bytes(huge_png(9000))
    (bad / "vast.png").write_bytes(huge_png(200_000))
    Image.fromarray(np.zeros((4, 4), np.int32) + 70_000).save(bad / "int32.tif")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(bad / "float.tif")
    os.link(bad / "pipe.png", bad / "pipe-2.jpeg")
    for name in (b"not\xfftext.png", b"tab\there.jpg", b"esc\x1b]0;owned\x07.png", b"line\nbreak.png"):
        Path(os.fsdecode(os.fsencode(bad) + b"/" + name)).write_bytes(b"no image")
    others = ("a.txt", "b.TXT", "c.mp4", "d.eps", "e.svg", "README", "f.zip", "g.heic", "h.pdf", "i.csv", "j.h5")
    for name in others:
        (bad / name).write_bytes(POSTSCRIPT)
    return root


def test_every_file_is_used_or_named_and_nothing_is_started(hostile, ghost, vaekit, tmp_path):
    total = sum(len(files) for _, _, files in os.walk(hostile))
    assert total == 150 - 1  # the link to a folder is not counted as a file
    splits = load_splits(DataConfig(source="folder", path=str(hostile), size=8))
    used = [name for part in (splits.train, splits.validation, splits.test) for name in part.names]
    with Path(splits.facts["skipped_csv"]).open(encoding="utf-8", newline="") as file:
        skipped = dict(list(csv.reader(file))[1:])
    assert len(used) == 100 and len(used) + len(skipped) == total
    assert all(reason for reason in skipped.values())
    said = {name.partition("/")[2]: reason for name, reason in skipped.items()}
    for name in ("pipe.png", "socket.jpg", "zero.png"):
        assert "no file but a pipe, a socket or a device" in said[name], name
    assert "more than the 67,108,864 that are decoded" in said["huge.png"] and "vast.png" in said
    assert "from 70000 to 70000, have no known range" in said["int32.tif"]
    assert "cannot identify" in said["drawing.png"] and "ending" in said["d.eps"]
    assert "not\\udcfftext.png" in said and "esc\\x1b]0;owned\\x07.png" in said
    assert splits.facts["others"].startswith(".txt 2, .csv 1")
    assert splits.facts["classes"] == ["cats", "dogs"]
    checked = vaekit("data", "check", "folder", f"data.path={hostile}", "data.size=8")
    assert checked.code == 0 and "readable but for" in checked.out and "readable and whole" not in checked.out
    assert "\x1b]" not in checked.out + checked.err
    assert not ghost.exists()


def test_training_and_reconstructing_from_it(hostile, ghost, vaekit, tmp_path):
    run = tmp_path / "run"
    trained = vaekit(
        "train", "folder", f"data.path={hostile}", "data.size=8", "training.epochs=1", "training.compile=off",
        "model.network={kind: mlp, widths: [8]}", "model.latent_dim=2", "--out", run,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    log = (run / "logs" / "train.log").read_text(encoding="utf-8")
    assert "2 classes: cats, dogs" in log and "no images by their endings were left out: .txt 2" in log
    again = vaekit("reconstruct", run, hostile)
    assert again.code == 3 and "Traceback" not in again.err  # as always where some could not be read
    with (run / "reports" / "reconstructions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(look_through(hostile).images)
    assert "\x1b]" not in trained.out + trained.err + again.out + again.err
    assert not ghost.exists()


def test_a_drawing_is_not_opened_whatever_it_is_called(tmp_path, ghost):
    for ending in SUFFIXES:
        path = tmp_path / f"drawing{ending}"
        path.write_bytes(POSTSCRIPT)
        for look in (open_image, header):
            with pytest.raises(DataError, match="cannot read"):
                look(path)
    assert not ghost.exists()


@pytest.mark.parametrize("kind", ENDINGS)
def test_every_raster_ending_is_one_of_pillows_for_that_format(kind):
    Image.init()
    known = {ending for ending, name in Image.registered_extensions().items() if name in (kind, "MPO")}
    assert set(ENDINGS[kind].split()) <= known


@pytest.mark.parametrize("ending", [".jpe", ".jfif", ".jp2", ".avif", ".tga", ".ico", ".pnm", ".J2K", ".dib", ".qoi"])
def test_images_of_every_raster_ending_are_used(tmp_path, ending):
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    path = tmp_path / f"a{ending}"
    pixels = np.kron(RANDOM.integers(0, 256, (4, 4, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    Image.fromarray(pixels).save(path)
    assert [found.name for found in find_images(tmp_path)] == [path.name]
    assert np.abs(open_image(path)[..., 0].astype(int) - pixels[..., 0]).mean() < 40  # some lose a little


def test_random_bytes_are_no_image_whatever_they_are_called(tmp_path):
    for number in range(200):
        path = tmp_path / f"{number}.png"
        path.write_bytes(RANDOM.bytes(500))
        with pytest.raises(DataError):
            open_image(path)


def test_a_large_jpeg_is_decoded_at_a_smaller_scale_and_a_large_png_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_PIXELS", 100 * 100)
    whole = np.full((400, 300, 3), 77, np.uint8)
    Image.fromarray(whole).save(tmp_path / "a.jpg")
    Image.fromarray(whole).save(tmp_path / "a.png")
    small = open_image(tmp_path / "a.jpg")
    assert small.shape[0] * small.shape[1] <= 100 * 100 and abs(small.mean() - 77) < 2
    with pytest.raises(DataError, match=r"its 400×300 pixels are more than the 10,000 that are decoded"):
        open_image(tmp_path / "a.png")
    monkeypatch.setattr(reading, "MOST_PIXELS", 400 * 300)
    assert open_image(tmp_path / "a.png").shape == (400, 300, 3)


def test_no_more_pixels_are_decoded_at_once_than_there_is_room_for(tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(reading, "AT_ONCE_PIXELS", 2 * 64 * 64)
    seen, pixels_of = [], reading._pixels

    def watched(image, channels):
        seen.append(reading._pixels_at_work)
        return pixels_of(image, channels)

    monkeypatch.setattr(reading, "_pixels", watched)
    files = [picture(tmp_path / f"{number}.png", (64, 64, 3)) for number in range(12)]
    large = picture(tmp_path / "large.png", (200, 200, 3))  # larger than the room: alone
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_image, [*files, large, *files]))
    assert max(count for count in seen if count != 200 * 200) <= 2 * 64 * 64 and 200 * 200 in seen
    assert reading._pixels_at_work == 0


def test_folders_may_be_nested_deeper_than_python_calls_itself(tmp_path):
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1100):
            Path("d").mkdir()
            os.chdir("d")
        picture(Path("deep.png").absolute() if len(str(Path.cwd())) < 3000 else Path("deep.png"))
    finally:
        os.chdir(here)
    (found,) = find_images(tmp_path)
    assert found.name == "d/" * 1100 + "deep.png"
    bottom = tmp_path
    for _ in range(1100):
        bottom = bottom / "d"
    for folder in (bottom, *list(bottom.parents)[:1099]):  # pytest's own cleaning calls itself
        for file in folder.glob("*.png"):
            file.unlink()
        folder.rmdir()


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cats/2020/a", "cats/2021/b", "dogs/2020/c", "dogs/2021/d"], ["cats", "dogs"]),
        (["train/cats/2020/a", "train/dogs/2020/b", "test/cats/2020/c", "test/dogs/2020/d"], ["cats", "dogs"]),
        (["x/cats/a", "x/dogs/b"], ["cats", "dogs"]),
        (["a", "cats/b", "dogs/c"], ["(none)", "cats", "dogs"]),
        (["a/x/1", "b/x/2", "3"], ["(none)", "a", "b"]),
    ],
)
def test_a_class_is_the_folder_that_tells_images_apart(tmp_path, names, classes):
    for name in names * 1:
        for copy in range(3):
            picture(tmp_path / "tree" / f"{name}-{copy}.png")
    splits = load_splits(DataConfig(source="folder", path=str(tmp_path / "tree"), validation=1))
    assert list(splits.train.class_names) == classes
    for name, label in zip(splits.train.names, splits.train.labels.tolist(), strict=True):
        assert classes[label] in name or classes[label] == "(none)"


def test_names_steer_no_terminal_and_make_no_formula(tmp_path):
    from matplotlib.figure import Figure

    from vaekit.plots.curves import save_figure

    assert printable("plain é 猫.png") == "plain é 猫.png" and printable("a\u202egnp.exe") == "a\\u202egnp.exe"
    assert printable("a\x9b31mb\x7f") == "a\\x9b31mb\\x7f" and printable("two\nlines") == "two\nlines"
    for name in ("cost $x^$ b", "a$b$c", "\x1b[31m", "\udcff", "$"):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], label=name)
        axes.set(title=name)
        axes.legend()
        axes.text(0, 0, name)
        save_figure(figure, tmp_path / "a.png")
        assert axes.title.get_text() == printable(name)
        assert not axes.title.get_parse_math()


def test_sums_of_endings_are_said_the_most_frequent_first():
    assert by_ending(["a.b", "c.b", "d.a", "e"]) == ".b 2, .a 1, without an ending 1"
    assert by_ending([f"x.{number:02}" for number in range(12)]).endswith(".07 1 and 4 more endings")


def test_values_of_unknown_range_are_refused_with_what_was_found(tmp_path):
    with pytest.raises(DataError, match="uint16 values that reach only 200 look like 8 bits"):
        open_image(np.full((3, 3), 200, np.uint16))
    assert open_image(np.zeros((3, 3), np.uint16)).max() == 0
    Image.fromarray(np.arange(9, dtype=np.int32).reshape(3, 3)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="32-bit whole numbers, from 0 to 8, have no known range"):
        open_image(tmp_path / "a.tif")
