"""Splits are disjoint, seeded, and leave a source's own test set alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.config.schema import DataConfig
from vaekit.data import Dataset
from vaekit.data.sources import SOURCES, Loaded, Source
from vaekit.data.splits import load_splits, split_rows
from vaekit.errors import ConfigError, DataError
from vaekit.training.combinations import read_config


def numbered(first: int, count: int) -> Dataset:
    """Images that carry their own number in their first two pixels."""
    images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    numbers = torch.arange(first, first + count)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
    return Dataset(images, numbers % 7, tuple("abcdefg"), [f"{n}.png" for n in numbers.tolist()])


def numbers_of(data: Dataset) -> list[int]:
    return (data.images[:, 0, 0, 0].long() * 256 + data.images[:, 0, 0, 1]).tolist()


def source(train: int, test: int | None = None, validation: int | None = None) -> dict[str, Source]:
    """A source whose images 0 … are for training, 10000 … its test set, 20000 … its validation set."""
    loaded = Loaded(
        numbered(0, train),
        None if validation is None else numbered(20000, validation),
        None if test is None else numbered(10000, test),
        "content",
    )
    return {"made": Source("made", "", lambda *_: loaded)}


@pytest.mark.parametrize(("count", "validation", "test"), [(100, 0.1, 0.2), (7, 1, 1), (1000, 5, 0.5), (3, 0, 0)])
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_splits_are_disjoint_and_cover_everything(count: int, validation: float, test: float, seed: int) -> None:
    rows = split_rows(count, validation, test, seed)
    assert torch.cat(rows).sort().values.tolist() == list(range(count))


def test_splits_depend_on_seed_and_count_only() -> None:
    rows = [split_rows(500, 50, 50, seed) for seed in (3, 3, 4)]
    assert all(a.equal(b) for a, b in zip(rows[0], rows[1], strict=True))
    assert not rows[0].test.equal(rows[2].test)
    assert split_rows(500, 400, 50, 3).test.equal(rows[0].test), "the size of validation must not move the test set"


def test_every_image_is_as_likely_to_be_held_out() -> None:
    seeds, share = 1000, 0.25
    chosen = torch.zeros(20)
    for seed in range(seeds):
        chosen[split_rows(20, 0, share, seed).test] += 1
    error = (share * (1 - share) / seeds) ** 0.5
    assert ((chosen / seeds - share).abs() < 4 * error).all()


def test_an_own_test_set_is_never_trained_or_validated_on() -> None:
    splits = load_splits(DataConfig(source="made", validation=30), sources=source(100, test=40))
    assert numbers_of(splits.test) == list(range(10000, 10040))
    assert sorted(numbers_of(splits.train) + numbers_of(splits.validation)) == list(range(100))
    assert len(splits.validation) == 30


def test_own_validation_and_test_leave_training_whole() -> None:
    splits = load_splits(DataConfig(source="made"), sources=source(100, test=40, validation=20))
    assert numbers_of(splits.train) == list(range(100))
    assert numbers_of(splits.validation) == list(range(20000, 20020))


def test_labels_and_names_stay_with_their_images() -> None:
    splits = load_splits(DataConfig(source="made"), sources=source(100))
    for part in (splits.train, splits.validation, splits.test):
        assert part.labels is not None and part.names is not None
        assert part.labels.tolist() == [n % 7 for n in numbers_of(part)]
        assert list(part.names) == [f"{n}.png" for n in numbers_of(part)]


def test_what_a_limit_keeps_has_nothing_to_do_with_what_the_split_held_out() -> None:
    """Both are drawn by one seed. Of 1000 images 300 are held out; of the 700 left 300 are kept."""
    found = load_splits(DataConfig(source="made", limit=300, test=300, validation=0), sources=source(1000))
    out, kept = set(numbers_of(found.test)), set(numbers_of(found.train))
    left = sorted(set(range(1000)) - out)
    places = {place for place, number in enumerate(left) if number in kept}  # among what was left
    held = len({number for number in out if number < 700})
    expected, variance = held * 300 / 700, held * (300 / 700) * (400 / 700) * (700 - held) / 699
    assert abs(len(places & out) - expected) < 4 * variance**0.5


def test_limit_thins_training_only_and_grows_by_adding() -> None:
    whole, ten, twenty = (
        load_splits(DataConfig(source="made", limit=limit), sources=source(100)) for limit in (None, 10, 20)
    )
    assert len(ten.train) == 10
    assert set(numbers_of(ten.train)) < set(numbers_of(twenty.train)) < set(numbers_of(whole.train))
    assert numbers_of(ten.validation) == numbers_of(whole.validation)
    assert numbers_of(ten.test) == numbers_of(whole.test)


def test_held_out_sets_are_empty_only_when_asked() -> None:
    default = load_splits(DataConfig(source="made"), sources=source(5))
    assert min(len(default.validation), len(default.test)) == 1
    empty = load_splits(DataConfig(source="made", validation=0, test=0), sources=source(5, test=3))
    assert (len(empty.train), len(empty.validation), len(empty.test)) == (5, 0, 0)


def test_fingerprint_names_data_shape_and_split() -> None:
    configs: list[dict[str, Any]] = [
        {},
        {},
        {"seed": 1},
        {"pad": 6},
        {"size": 5},
        {"limit": 9},
        {"validation": 7},
        {"channels": 3},
    ]
    prints = [load_splits(DataConfig(source="made", **c), sources=source(100)).facts["fingerprint"] for c in configs]
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(configs) - 1


def test_values_do_not_change_the_fingerprint() -> None:
    plain, noisy = (
        load_splits(DataConfig(source="made", binarize=how, flip=how != "none"), sources=source(50))
        for how in ("none", "dynamic")
    )
    assert plain.facts["fingerprint"] == noisy.facts["fingerprint"]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"validation": 90, "test": 10}, DataError, "100 images but the split asks for 90 for validation"),
        ({"validation": 10.5}, ConfigError, "data.validation=10.5"),
        ({"pad": 3}, ConfigError, "data.pad=3×3 is smaller than the images of 4×4"),
        ({"size": 0}, ConfigError, "data.size=0×0"),
        ({"source": "maid"}, ConfigError, "did you mean 'made'"),
    ],
)
def test_impossible_requests_say_so(options: dict[str, object], error: type[Exception], says: str) -> None:
    config = DataConfig(**{"source": "made", **options})  # type: ignore[arg-type]
    with pytest.raises(error, match=says):
        load_splits(config, sources=source(100))


def test_a_test_size_is_refused_where_the_source_has_its_own() -> None:
    with pytest.raises(ConfigError, match=r"comes with a test set of 40 images; leave data\.test out"):
        load_splits(DataConfig(source="made", test=10), sources=source(100, test=40))


def test_the_embedded_digits() -> None:
    splits = load_splits(DataConfig(source="digits", pad=(9, 10)))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1258, 180, 359]
    assert splits.train.shape == (1, 9, 10)
    assert splits.facts["content_size"] == [8, 8]
    levels = {round(v * 255 / 16) for v in range(17)}
    assert set(splits.train.images.flatten().tolist()) == levels
    assert np.bincount(splits.test.labels).min() > 20  # type: ignore[arg-type]


def test_padding_is_black_and_resizing_is_only_done_where_asked() -> None:
    splits = load_splits(DataConfig(source="made", pad=6), sources=source(20))
    plain = load_splits(DataConfig(source="made"), sources=source(20))
    assert splits.train.images[:, :, 1:5, 1:5].equal(plain.train.images)
    assert splits.train.images.long().sum() == plain.train.images.long().sum()


def test_consecutive_subsets_are_views() -> None:
    data = numbered(0, 10)
    view = data.subset(torch.arange(3, 7))
    assert view.images.data_ptr() == data.images[3:].data_ptr()
    assert numbers_of(view) == [3, 4, 5, 6]
    assert numbers_of(data.subset(torch.tensor([2, 4, 3, 5]))) == [2, 4, 3, 5]
    assert len(data.subset(torch.arange(0))) == 0


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_each_source_describes_itself(name: str) -> None:
    entry = SOURCES[name]
    assert entry.name == name and entry.about.endswith(".")
    for file in entry.files:
        assert file.url.startswith("http") and (file.md5 or file.md5_compressed)


def tree(folder, *names):
    """A folder of images, one in each of these folders below it."""
    for number, name in enumerate(names):
        for copy in range(6):
            path = folder / name / f"{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), 40 * number + copy, np.uint8)).save(path)
    return folder


@pytest.mark.parametrize(
    ("names", "held"),
    [
        (("Training/a", "Testing/a"), "test"),
        (("TRAIN/a", "Eval/a"), "test"),
        (("train/a", "dev/a"), "validation"),
        (("training/a", "Valid/a"), "validation"),
    ],
)
def test_splits_are_known_by_what_they_are_often_called(tmp_path, names, held):
    """Kaggle's Training and Testing: in one pool the test images would be trained on."""
    config = DataConfig(
        source="folder", path=str(tree(tmp_path / "images", *names)), size=4, validation=None, test=None
    )
    splits = load_splits(config)
    kept = getattr(splits, held)
    assert {name.split("/")[0] for name in kept.names} == {names[1].split("/")[0]}
    assert {name.split("/")[0] for name in splits.train.names} == {names[0].split("/")[0]}


@pytest.mark.parametrize(
    "names", [("train_images/a", "test_images/a"), ("train/a", "test-2020/a"), ("my_train/a", "my_test/a")]
)
def test_folders_called_nearly_like_splits_are_refused(tmp_path, names):
    config = DataConfig(source="folder", path=str(tree(tmp_path / "images", *names)), size=4)
    with pytest.raises(DataError, match="may be splits, but are not called so; rename them"):
        load_splits(config)


def test_classes_may_sound_a_little_like_splits(tmp_path):
    config = DataConfig(source="folder", path=str(tree(tmp_path / "images", "trainers", "valves", "tests")), size=4)
    assert load_splits(config).train.class_names == ("tests", "trainers", "valves")


def test_a_source_that_reads_no_path_refuses_one():
    with pytest.raises(ConfigError, match="'digits' reads no path; for images of your own: vaekit train folder"):
        read_config("digits", ["data.path=photos"])


def test_arrays_of_different_shapes_are_refused_before_training(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.zeros((9, 8, 8), np.uint8), test=np.zeros((3, 8, 9), np.uint8))
    with pytest.raises(DataError, match=r"differ in shape: train \(1, 8, 8\), test \(1, 8, 9\)"):
        load_splits(DataConfig(source="arrays", path=str(tmp_path / "a.npz")))
