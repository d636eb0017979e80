"""Images from a program: any iterable of batches becomes one data set, and the run on it is a run like any other."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import SIZES, state_of, what_is_left
from torch.utils.data import DataLoader, TensorDataset

from vaekit import evaluate, fit, load, train
from vaekit.data.arrays import columns_of, gather
from vaekit.data.splits import load_splits
from vaekit.errors import BusyError, CheckpointError, ConfigError, DataError
from vaekit.training.combinations import read_config

COUNT = 60
SMALL = [word for word in SIZES if not word.startswith("data.")] + ["training.epochs=2", "data.validation=10"]


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (COUNT, 1, 9, 7), np.uint8))


@pytest.fixture
def labels():
    return torch.arange(COUNT) % 3


def same(a, b):
    return np.array_equal(a.images, b.images) and (
        (a.labels is None and b.labels is None) or np.array_equal(a.labels, b.labels)
    )


# What a loader may give


def test_the_order_and_the_batches_do_not_count(images, labels):
    data = TensorDataset(images, labels)
    one = gather(DataLoader(data, batch_size=COUNT))
    torch.manual_seed(1)
    assert same(one, gather(DataLoader(data, batch_size=7, shuffle=True)))
    assert not np.array_equal(one.images, images.numpy())


def test_every_image_keeps_its_label(images, labels):
    found = gather(DataLoader(TensorDataset(images, labels), batch_size=7))
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    assert [label_of[image.tobytes()] for image in found.images] == found.labels.tolist()


def as_generator(images):
    yield from images.split(11)


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: TensorDataset(x),
        lambda x: [x[:13].numpy(), x[13:].numpy()],
        lambda x: [[part] for part in x.split(20)],
        lambda x: as_generator(x),
        lambda x: DataLoader(TensorDataset(x / 255), batch_size=8),
        lambda x: DataLoader((x / 255).double(), batch_size=8),
        lambda x: [part[:, 0] for part in x.split(8)],
        lambda x: [part.movedim(1, 3) for part in x.split(8)],
        lambda x: [(x / 255).requires_grad_()],
    ],
    ids=[
        "tensor", "array", "dataset", "list of arrays", "lists of one", "generator", "floats", "doubles", "no channel",
        "channels last", "with gradients",
    ],
)  # fmt: skip
def test_whatever_holds_the_images_gives_the_same_bytes(images, given):
    assert same(gather(given(images)), gather([images]))


def test_colour_with_channels_first_or_last_is_the_same():
    colour = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 6, 8), np.uint8))
    assert same(gather([colour]), gather([colour.movedim(1, 3)]))
    assert gather([colour]).images.shape == (5, 3, 6, 8)


@pytest.mark.parametrize("between", [-0.4, 0.0, 0.4])
def test_floats_go_to_the_nearest_of_256_values(between):
    values = torch.arange(1, 255).view(-1, 1, 1)
    found = gather([(values + between) / 255]).images
    assert sorted(found.ravel().tolist()) == list(range(1, 255))


def test_0_and_1_of_booleans_are_black_and_white(images):
    assert set(np.unique(gather([images > 100]).images)) == {0, 255}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([torch.zeros(4, 784)], ["(4, 784)", "view"]),
        ([torch.zeros(4, 2, 8, 8)], ["(4, 2, 8, 8)"]),
        ([torch.zeros(4, 1, 8, 8) - 1], ["from -1 to -1", "[0, 1]"]),
        ([torch.full((4, 1, 8, 8), float("nan"))], ["[0, 1]"]),
        ([torch.zeros(4, 1, 8, 8, dtype=torch.int64)], ["int64", "uint8"]),
        ([torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 9, 8)], ["(1, 8, 8)", "(1, 9, 8)"]),
        ([], ["no batch"]),
        ([{"image": torch.zeros(4, 1, 8, 8)}], ["dict", "(images, labels)"]),
        ([(torch.zeros(4, 1, 8, 8), torch.zeros(4))], ["labels", "float32"]),
        ([(torch.zeros(4, 1, 8, 8), torch.zeros(4, 40, dtype=torch.int64))], ["labels", "(4, 40)"]),
        ([(torch.zeros(4, 1, 8, 8), torch.arange(4) - 1)], ["labels"]),
        ([(torch.zeros(4, 1, 8, 8), torch.arange(4)), torch.zeros(4, 1, 8, 8)], ["1 of 2 batches"]),
        (7, ["int", "DataLoader"]),
        ("photos", ["str"]),
    ],
)
def test_what_cannot_be_images_is_refused_in_one_line(given, words):
    with pytest.raises(DataError) as refused:
        gather(given)
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


class Pictures(torch.utils.data.Dataset):
    """Pillow images with labels, as torchvision's data sets give them without a transform."""

    def __init__(self, images, labels):
        self.pairs = list(zip(images.numpy(), labels.tolist(), strict=True))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, position):
        image, label = self.pairs[position]
        return Image.fromarray(image[0]), label


def test_images_one_by_one_are_the_same_as_in_batches(images, labels):
    expected = gather([(images, labels)])
    one_by_one = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    given = (Pictures(images, labels), one_by_one, (images, labels), [images.numpy(), labels.numpy()], iter(one_by_one))
    for value in given:
        assert same(gather(value), expected)
    assert same(gather([Image.fromarray(image[0]) for image in images.numpy()]), gather(images))


def test_colour_one_by_one_has_its_channels_first_or_last():
    colour = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 6, 8), np.uint8))
    expected = gather([(colour, torch.arange(5))])
    assert same(gather([(image, n) for n, image in enumerate(colour)]), expected)
    assert same(gather([(image.movedim(0, 2).numpy(), n) for n, image in enumerate(colour)]), expected)


def test_labels_may_be_names(tmp_path, images, labels):
    names = np.array(["sandal", "boot", "coat"])[labels]
    columns = columns_of({"train": gather([(images, names)]), "test": gather([(images[:6], list(names[:6]))])})
    assert columns["classes"].tolist() == ["boot", "coat", "sandal"]
    for part in ("train", "test"):
        seen = columns["classes"][columns[f"{part}_labels"]]
        kept = {image.numpy().tobytes(): name for image, name in zip(images, names, strict=True)}
        assert [kept[image.tobytes()] for image in columns[part]] == seen.tolist()
    with pytest.raises(DataError, match="'boot' is none of the class names"):
        columns_of({"train": gather([(images, names)])}, ("coat", "sandal"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([np.zeros((3, 8, 8))] * 4, "3 grey images of 8×8 or as one image of 8×8 with 3 channels first"),
        ([np.zeros((8, 8, 3))] * 4, "8 grey images of 8×3 or as one image of 8×8 with 3 channels last"),
        ([np.zeros((5, 3, 8, 3))], "with 3 channels first or as 5 images of 3×8 with 3 channels last"),
        ([(torch.zeros(4, 1, 8, 8), torch.arange(4), torch.arange(4))], "3 things (Tensor, Tensor, Tensor)"),
        (torch.arange(4), "fit((images, labels))"),
        ("photos", "train('folder'"),
        ({"images": 1}, "a dict gives no batches"),
    ],
)
def test_what_reads_two_ways_or_none_is_refused_with_the_right_call(given, words):
    with pytest.raises(DataError) as refused:
        gather(given)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_last_batch_of_three_grey_images_is_no_image_of_colour():
    assert gather([np.zeros((5, 8, 8)), np.zeros((3, 8, 8))]).images.shape == (8, 1, 8, 8)


# The file


def test_the_file_gives_the_split_that_it_holds(tmp_path, images, labels):
    path = tmp_path / "mine.npz"
    np.savez(path, train=images, train_labels=labels, test=images[:9] // 2, test_labels=labels[:9], classes=list("abc"))
    config = read_config("arrays", [f"data.path={path}", "data.validation=10"]).data
    splits = load_splits(config)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [COUNT - 10, 10, 9]
    assert torch.equal(splits.test.images, images[:9] // 2) and splits.test.class_names == ("a", "b", "c")
    np.savez(path, train=images, train_labels=labels, test=images[:9] // 3, test_labels=labels[:9], classes=list("abc"))
    assert load_splits(config).facts["fingerprint"] != splits.facts["fingerprint"]


def test_a_npy_file_is_all_training_images(tmp_path, images):
    np.save(tmp_path / "mine.npy", images.numpy())
    splits = load_splits(read_config("arrays", [f"data.path={tmp_path / 'mine.npy'}"]).data)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == COUNT


def broken(path, images):
    path.write_bytes(b"PK\x03\x04 and nothing more")


def without_train(path, images):
    np.savez(path, images=images)


def with_pickle(path, images):
    np.savez(path, train=np.array([{"a": 1}], dtype=object))


def with_few_classes(path, images):
    np.savez(path, train=images, train_labels=np.arange(COUNT), classes=["a"])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (broken, "no readable .npz"),
        (without_train, "no 'train'"),
        (with_pickle, "no readable .npz"),
        (with_few_classes, "has only 1 classes"),
        (lambda path, images: None, "there is no file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, images, vaekit, write, words):
    path = tmp_path / "mine.npz"
    write(path, images)
    answer = vaekit("data", "check", "arrays", f"data.path={path}")
    assert answer.code == 3 and len(answer.err.splitlines()) == 1
    assert "mine.npz" in answer.err and words in answer.err


# The run


def test_the_run_is_evaluated_and_drawn_like_any_other_also_under_another_name(tmp_path, images, labels, vaekit):
    run = fit(
        DataLoader(TensorDataset(images / 255, labels), batch_size=16, shuffle=True),
        DataLoader(TensorDataset(images[:20], labels[:20])),
        *SMALL,
        class_names=("left", "middle", "right"),
        out=tmp_path / "run",
    )
    assert load(run).class_names == ("left", "middle", "right")
    metrics = evaluate(run, samples=5)
    assert metrics["images"] == 20
    moved = run.rename(tmp_path / "moved")
    assert vaekit("pictures", moved).code == 0
    assert Image.open(moved / "grids" / "recon_grid.png").width > 100


def test_it_trains_as_the_same_images_in_a_file_do(tmp_path, images):
    run = fit(DataLoader(TensorDataset(images), batch_size=8, shuffle=True), None, *SMALL, out=tmp_path / "loader")
    (kept,) = run.glob("images-*.npz")
    twin = train("arrays", *SMALL, f"data.path={kept}", out=tmp_path / "file")
    assert what_is_left(run)["logs/history.csv"] == what_is_left(twin)["logs/history.csv"]


def test_it_resumes_to_the_same_history_and_refuses_other_images(tmp_path, images):
    def loader():
        return DataLoader(TensorDataset(images), batch_size=8, shuffle=True)

    whole = fit(loader(), None, *SMALL, "training.epochs=4", "training.schedule=constant", out=tmp_path / "whole")
    part = tmp_path / "part"
    fit(loader(), None, *SMALL, "training.schedule=constant", out=part)
    with pytest.raises(BusyError, match="already holds a run"):
        fit(255 - images, None, *SMALL, out=part)
    assert len(list(part.glob("images-*.npz"))) == 1
    fit(loader(), None, "training.epochs=4", out=part, resume=True)
    assert len(list(part.glob("images-*.npz"))) == 1
    ends = [state_of(run)["progress"]["history"][-1] for run in (whole, part)]
    assert ends[0] == ends[1]
    with pytest.raises(CheckpointError, match="not what this run was trained on"):
        fit(255 - images, None, "training.epochs=6", out=part, resume=True)


def test_a_wrong_setting_is_told_before_the_images_are_gone_through(tmp_path):
    def loader():
        raise AssertionError("was gone through")
        yield

    with pytest.raises(ConfigError, match="latent_dims"):
        fit(loader(), None, "model.latent_dims=3", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parts_that_differ_in_shape_and_missing_class_names_are_refused(tmp_path, images, labels):
    with pytest.raises(DataError, match="differ in shape"):
        fit(images, torch.zeros(5, 1, 4, 4), *SMALL, out=tmp_path / "run")
    with pytest.raises(DataError, match="class names"):
        fit([(images, labels)], None, *SMALL, class_names=("a", "b"), out=tmp_path / "run")


def test_another_recipe_keeps_its_own_settings(tmp_path, images):
    run = fit(images, None, *SMALL, "model.latent_dim=3", "data.limit=20", recipe="digits", out=tmp_path / "run")
    config = load(run).config
    assert (config.data.source, config.data.binarize, config.model.latent_dim) == ("arrays", "dynamic", 3)


def test_settings_may_be_keywords_or_a_mapping(tmp_path, images):
    run = fit(images, None, *SMALL, {"model.latent_dim": 3}, epochs=1, out=tmp_path / "run")
    config = load(run).config
    assert (config.training.epochs, config.model.latent_dim) == (1, 3)
    with pytest.raises(ConfigError, match=r"unknown option 'epoch'; did you mean 'training\.epochs'"):
        train("digits", epoch=3, out=tmp_path / "none")
    with pytest.raises(ConfigError, match="an override is a Tensor"):
        fit(images, None, images, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
