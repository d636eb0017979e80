"""A folder is decoded once; every file found is either used or listed with its reason."""

from __future__ import annotations

import csv
import hashlib
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.config.schema import DataConfig
from vaekit.data import Dataset, sources, store
from vaekit.data.found import find_images, look_through
from vaekit.data.splits import Splits, load_splits
from vaekit.errors import ConfigError, DataError, StorageError, VaekitWarning

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path: Path, shape: tuple[int, ...] = (8, 8, 3), value: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RANDOM.integers(0, 256, shape) if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def tree(root: Path, count: int = 20, shape: tuple[int, ...] = (8, 8, 3)) -> Path:
    for number in range(count):
        picture(root / "ab"[number % 2] / f"{number:02}.png", shape, number)
    return root


def load(root: Path, log: list[str] | None = None, **options: Any) -> Splits:
    def report(what: str, done: int, total: int) -> None:
        if log is not None:
            log.append(what)

    return load_splits(DataConfig(source="folder", path=str(root), **options), report)


def values(splits: Splits, name: str) -> list[int]:
    data: Dataset = getattr(splits, name)
    return [int(value) for value in data.images[:, 0, 0, 0]]


def test_used_and_skipped_make_found(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", 10)
    broken = picture(root / "a" / "broken.jpg", (64, 64, 3))
    broken.write_bytes(broken.read_bytes()[:900])
    (root / "b" / "empty.png").touch()
    (root / "a" / "gone.png").symlink_to(root / "nothing.png")
    (root / "notes.txt").write_text("no image")
    picture(root / ".hidden" / "a.png")
    picture(root / "a" / ".b.png")
    splits = load(root, size=8)
    used = [name for part in (splits.train, splits.validation, splits.test) for name in part.names or []]
    assert len(used) == 10 and splits.facts["skipped"] == 3
    with Path(splits.facts["skipped_csv"]).open() as stream:
        rows = list(csv.reader(stream))
    assert [row[0] for row in rows] == ["path", "a/broken.jpg", "a/gone.png", "b/empty.png", "notes.txt"]
    assert rows[-1][1] == "its ending is not that of an image" and splits.facts["others"] == ".txt 1"
    assert "truncated" in rows[1][1]
    listing = look_through(root)
    found = sorted([file.name for file in listing.images] + listing.others)
    assert sorted(used + [row[0] for row in rows[1:]]) == found
    with pytest.raises(
        DataError, match=r"3 of 13 images cannot be used, listed in .*skipped\.csv; the first is 'a/brok"
    ):
        load(root, size=8, strict=True)


def test_images_keep_their_pixels_labels_and_names(tmp_path: Path) -> None:
    splits = load(tree(tmp_path / "tree"))
    assert splits.train.class_names == ("a", "b")
    for part in (splits.train, splits.validation, splits.test):
        assert part.names is not None and part.labels is not None
        numbers = [int(Path(name).stem) for name in part.names]
        assert part.images[:, 0, 0, 0].tolist() == numbers
        assert part.labels.tolist() == [number % 2 for number in numbers]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [16, 2, 2]


def test_the_second_load_decodes_nothing(tmp_path: Path, cache: Path) -> None:
    root = tree(tmp_path / "tree")
    log: list[str] = []
    first = load(root, log)
    assert "decoding images" in log
    log.clear()
    again = load(root, log)
    assert log == []
    assert again.train.images.equal(first.train.images) and again.facts == first.facts
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []


def test_a_changed_file_or_target_decodes_again(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    first = load(root)
    for change in ({}, {"size": 4}, {"fit": "pad"}, {"channels": 1}, {"pad": 10}):
        if not change:
            picture(root / "a" / "00.png", value=99)
        log: list[str] = []
        assert load(root, log, **change).facts["fingerprint"] != first.facts["fingerprint"]
        assert "decoding images" in log
    everything = [v for name in ("train", "validation", "test") for v in values(load(root), name)]
    assert 99 in everything and 0 not in everything


def test_a_damaged_store_is_decoded_again(tmp_path: Path, cache: Path) -> None:
    root = tree(tmp_path / "tree")
    first = load(root)
    content = first.train.images.clone()
    (pixels,) = cache.glob("*/images.npy")
    os.truncate(pixels, 200)
    with pytest.warns(VaekitWarning, match="are damaged, so they are decoded again"):
        assert load(root).train.images.equal(content)


@pytest.mark.parametrize("name", ["images.npy", "index.json"])
def test_a_changed_bit_of_a_store_changes_no_pixel_name_or_label(tmp_path: Path, cache: Path, name: str) -> None:
    first = load(tree(tmp_path / "tree", 4, (4, 4, 3)))
    whole = Dataset(*(getattr(first.train, part) for part in ("images", "labels", "class_names", "names")))
    pixels = whole.images.clone()
    (path,) = cache.glob(f"*/{name}")
    right = path.read_bytes()
    for bit in range(0, 8 * len(right), 67):  # a number that meets every bit of a byte
        changed = bytearray(right)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.warns(VaekitWarning, match="are damaged, so they are decoded again"):
            found = load(tmp_path / "tree")
        assert found.facts == first.facts and torch.equal(found.train.images, pixels), bit
        assert list(found.train.names) == list(whole.names) and found.train.class_names == whole.class_names
        path.write_bytes(right)


def test_a_large_store_is_looked_at_once_after_each_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "HASHED_ALWAYS", 0)
    load(tree(tmp_path / "tree"))
    (path,) = cache.glob("*/images.npy")
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(0, 0))
    with pytest.warns(VaekitWarning, match="damaged"):
        load(tmp_path / "tree")
    opened: list[object] = []
    monkeypatch.setattr(store.hashlib, "sha256", lambda *data: opened.append(data) or hashlib.new("sha256", *data))
    load(tmp_path / "tree")
    assert not any(len(data[0]) > 1000 for data in opened if data)


def test_a_part_of_a_store_on_disk_is_written_again_where_it_changed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "IN_MEMORY", 0)
    first = load(tree(tmp_path / "tree")).train.images.clone()
    for path in cache.glob("*/rows-*.npy"):
        changed = bytearray(path.read_bytes())
        changed[-1] ^= 64
        path.write_bytes(changed)
    assert torch.equal(load(tmp_path / "tree").train.images, first)


def test_what_the_disk_has_no_room_for_is_refused_before_a_pixel_is_decoded(tmp_path: Path, cache: Path) -> None:
    tree(tmp_path / "tree", 20)
    log: list[str] = []
    with pytest.raises(
        StorageError, match=r"20 images of 5000000×5000000×3 .* set data.size to (\d+) or less"
    ) as refused:
        load(tmp_path / "tree", log, size=5_000_000)
    assert "decoding images" not in log and not list(cache.glob("*"))
    side = int(str(refused.value).split("set data.size to ")[1].split()[0])
    free = shutil.disk_usage(tmp_path).free
    assert 0.9 * free < 20 * 3 * side**2 < free


def test_what_a_killed_process_left_is_swept_and_what_is_being_written_is_not(tmp_path: Path, cache: Path) -> None:
    for name, age in ((".0123-99-abcd", 7200), (".4567-99-abcd", 60)):
        left = cache / name / "images.npy"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half")
        for path in (left, left.parent):
            os.utime(path, (time.time() - age,) * 2)
    load(tree(tmp_path / "tree"))
    assert sorted(path.name for path in cache.glob(".*")) == [".4567-99-abcd"]


def test_images_that_are_large_when_decoded_are_held_few_at_a_time() -> None:
    files = [store.Found(str(number), 1, 1) for number in range(5000)]
    for each in (1, 3 * 64**2, 3 * 5000**2):
        lengths = [len(chunk) for _, chunk in store._chunks(files, each)]
        assert sum(lengths) == 5000
        assert max(lengths) * each <= max(store.CHUNK_BYTES, store.WORKERS * each)


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    first = load(tree(tmp_path / "here"))
    moved = load(tree(tmp_path / "there"))
    assert first.facts["fingerprint"] == moved.facts["fingerprint"]


def test_writing_to_the_images_leaves_the_store_alone(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    load(root, validation=0, test=0).train.images.zero_()
    assert load(root, validation=0, test=0).train.images.any()


@pytest.mark.parametrize("held", ["validation", "val", "valid", "Val"])
def test_split_folders_are_the_splits(tmp_path: Path, held: str) -> None:
    root = tmp_path / "tree"
    for folder, first in (("train", 0), (held, 100), ("test", 200)):
        for number in range(first, first + 5):
            picture(root / folder / "xy"[number % 2] / f"{number}.png", value=number)
    picture(root / "readme.png")
    splits = load(root)
    assert sorted(values(splits, "train")) == [0, 1, 2, 3, 4]
    assert sorted(values(splits, "validation")) == [100, 101, 102, 103, 104]
    assert sorted(values(splits, "test")) == [200, 201, 202, 203, 204]
    assert splits.train.class_names == ("x", "y")
    assert splits.facts["skipped"] == 1 and "lies outside" in Path(splits.facts["skipped_csv"]).read_text()


def test_a_missing_split_folder_is_drawn_from_training(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for number in range(20):
        picture(root / ("test" if number < 5 else "train") / f"{number}.png", value=number)
    splits = load(root, validation=3)
    assert sorted(values(splits, "test")) == [0, 1, 2, 3, 4]
    assert sorted(values(splits, "train") + values(splits, "validation")) == list(range(5, 20))
    assert splits.train.labels is None and splits.train.class_names == ()
    with pytest.raises(ConfigError, match=r"leave data\.test out"):
        load(root, test=3)


@pytest.mark.parametrize("held", ["val", "test"])
def test_afhq_holds_out_its_second_folder_for_testing(tmp_path: Path, held: str) -> None:
    for folder, count in (("train", 30), (held, 6)):
        for number in range(count):
            picture(tmp_path / "afhq" / folder / ("cat", "dog", "wild")[number % 3] / f"{number}.jpg", value=number)
    splits = load_splits(DataConfig(source="afhq", root=str(tmp_path), validation=4))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [26, 4, 6]
    assert splits.train.class_names == ("cat", "dog", "wild")


def test_sizes_are_taken_from_the_images_only_where_they_agree(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", 6, (7, 5, 3))
    assert load(root).train.shape == (3, 7, 5)
    picture(root / "a" / "big.png", (9, 5, 3))
    with pytest.raises(DataError, match=r"2 sizes .*most often 7×5 \(6 images\), 9×5 \(1 images\); set data.size"):
        load(root)
    assert load(root, size=(4, 6)).train.shape == (3, 4, 6)


def test_grey_only_where_every_image_is(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", 6, (8, 8))
    assert load(root).train.shape == (1, 8, 8)
    assert load(root, channels=3).train.shape == (3, 8, 8)
    picture(root / "a" / "colour.png", (8, 8, 3))
    assert load(root).train.shape == (3, 8, 8)
    assert load(root, channels=1).train.shape == (1, 8, 8)


def test_links_in_circles_end(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", 4)
    (root / "a" / "up").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    found = [file.name for file in find_images(root)]
    assert found == ["a/00.png", "a/02.png", "b/01.png", "b/03.png"]


@pytest.mark.parametrize("suffix", ["JPG", "Png", "jpeg", "bmp", "gif", "webp", "tif", "TIFF", "ppm"])
def test_suffixes_are_recognised_in_any_case(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / "tree" / f"a.{suffix}")
    assert len(find_images(tmp_path / "tree")) == 1


def test_folders_without_images_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder '.*none'"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match="there are no images in"):
        load(tmp_path)
    (tmp_path / "a.png").write_text("no picture")
    each: list[dict[str, Any]] = [{}, {"size": 8, "channels": 3}]
    for options in each:
        with pytest.raises(DataError, match="none of the 1 images in"):
            load(tmp_path, **options)
    with pytest.raises(ConfigError, match=r"set data\.path"):
        load_splits(DataConfig(source="folder"))


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    root = tree(tmp_path / "tree", 20, (64, 64, 3))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # writing more fails, as on a full disk
    try:
        with pytest.raises(StorageError, match=r"cannot store decoded images in .*cache"):
            load(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.iterdir()) == []
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="VAEKIT_CACHE"):
        load(root)


def test_splits_too_large_for_memory_are_the_same_images(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, first in (("test", 100), ("train", 0)):
        for number in range(first, first + 20):
            picture(tmp_path / "tree" / folder / f"{number}.png", value=number)
    in_memory = load(tmp_path / "tree")
    monkeypatch.setattr(sources, "IN_MEMORY", 0)
    mapped = load(tmp_path / "tree")
    for name in ("train", "validation", "test"):
        one, other = getattr(in_memory, name), getattr(mapped, name)
        assert torch.equal(one.images, other.images) and list(one.names) == list(other.names)
    assert len(list(cache.glob("*/rows-*.npy"))) == 2
