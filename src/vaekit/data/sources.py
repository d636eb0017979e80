"""The data sets that have a name: one function and one line of `SOURCES` each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.config.schema import DataConfig
from vaekit.data.arrays import arrays_file, read_arrays
from vaekit.data.cifar import BINARY, read_cifar10
from vaekit.data.dataset import Dataset
from vaekit.data.download import Progress, RemoteFile, data_root, fetch, read_verified
from vaekit.data.found import Found, by_ending, look_through
from vaekit.data.images import Target, Uint8Array, prepare
from vaekit.data.sprites import SHAPES, SIDE, sprites
from vaekit.data.store import Skipped, Store, open_store, take_on_disk
from vaekit.errors import DataError

IN_MEMORY = 2**30  # bytes: a larger part of a store is not copied into memory


class Loaded(NamedTuple):
    """What a source holds: its training images, and its own validation and test sets where it has them."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    content: str  # SHA-256 of the images
    store: Store | None = None  # of a folder: its images already have the shape of the config
    stored: Tensor | None = None  # positions of the training images in the store

    def unpadded(self, config: DataConfig) -> tuple[int, int, int]:
        """(C, H, W) as the images will be, before padding."""
        return self.store.unpadded if self.store else Target.of(config).shape(self.train.shape)

    def take(self, rows: Tensor) -> Dataset:
        """These training images; beside the store on disk where they are too many for memory."""
        part_bytes = len(rows) * self.train.images[:1].numel()
        if self.store is None or self.stored is None or part_bytes <= IN_MEMORY or len(rows) == len(self.train):
            return self.train.subset(rows)
        beside = replace(self.train, images=self.train.images[:, :0]).subset(rows)  # all but the pixels
        return replace(beside, images=take_on_disk(self.store, self.stored[rows]))


Load = Callable[["Source", DataConfig, Progress], Loaded]


@dataclass(frozen=True)
class Source:
    """A data set: what it is, what it needs, how it is split where it does not say, how it is loaded."""

    name: str
    about: str
    load: Load
    validation: float = 0.1  # images (>= 1) or share, drawn from the training images
    test: float = 0.1  # the same, unless it has a test set of its own
    shape: tuple[int, int, int] | None = None  # (C, H, W); None: as the files are
    files: tuple[RemoteFile, ...] = ()
    classes: tuple[str, ...] = ()
    needs_path: bool = False
    takes_path: bool = False  # where its files are not in the data root
    in_a_file: bool = False  # data.path names a file, not a folder

    @property
    def reads_path(self) -> bool:
        """Whether data.path means anything to it."""
        return self.needs_path or self.takes_path


def shaped(data: Dataset, loaded: Loaded, config: DataConfig, progress: Progress) -> Dataset:
    """The images at the shape that the config asks for; those of a store have it already."""
    target = Target.of(config)
    if loaded.store is not None or (target.size, target.pad, target.channels) == (None, None, None):
        return data
    channels, *size = loaded.unpadded(config)
    shape = channels, *(target.pad or size)
    images = np.empty((len(data), *shape), np.uint8)
    for row, image in enumerate(data.images.numpy()):
        images[row] = prepare(image.transpose(1, 2, 0), target)
        if row % 1000 == 999:
            progress("resizing images", row + 1, len(data))
    return replace(data, images=torch.from_numpy(images))


def _arrays(source: Source, train: tuple[Uint8Array, Uint8Array], test: tuple[Uint8Array, Uint8Array] | None) -> Loaded:
    """Images (N, C, H, W) with labels (N,), of one or two sets."""
    digest = hashlib.sha256()
    parts = []
    for images, labels in (train,) if test is None else (train, test):
        if len(images) != len(labels):
            raise DataError(f"'{source.name}' has {len(images)} images but {len(labels)} labels; download it again")
        if len(labels) and labels.max() >= len(source.classes):
            raise DataError(f"'{source.name}' has a label {labels.max()}; it has only {len(source.classes)} classes")
        digest.update(np.ascontiguousarray(images).data)
        classes = torch.from_numpy(labels.astype(np.int64))
        parts.append(Dataset(torch.from_numpy(np.array(images)), classes, source.classes))
    return Loaded(parts[0], None, parts[1] if test else None, digest.hexdigest())


def load_digits(source: Source, config: DataConfig, progress: Progress) -> Loaded:
    """scikit-learn's embedded digits; 0 … 16 becomes 0 … 255."""
    from sklearn.datasets import load_digits as embedded

    digits = embedded()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    return _arrays(source, (images[:, None], digits.target.astype(np.uint8)), None)


def load_sprites(source: Source, config: DataConfig, progress: Progress) -> Loaded:
    """Made at once: sprites whose factors are known."""
    made = sprites()
    return Loaded(made, None, None, hashlib.sha256(made.images.numpy().data).hexdigest())


def load_idx(source: Source, config: DataConfig, progress: Progress) -> Loaded:
    """The four files of MNIST, or of a set made in its image."""
    paths = fetch(source.name, source.files, data_root(config.root), progress)
    read = [read_idx(read_verified(f, path), str(path)) for f, path in zip(source.files, paths, strict=True)]
    return _arrays(source, (read[0][:, None], read[1]), (read[2][:, None], read[3]))


def read_idx(data: bytes, name: str) -> Uint8Array:
    """The uint8 array in an IDX file: two zero bytes, type 8, number of axes, their lengths, the values.

    Example:
        >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), "two bytes").tolist()
        [7, 9]
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{name} is no IDX file of bytes (it begins with {data[:4].hex()}, expected 000008..)")
    start = 4 + 4 * data[3]
    shape = [int(length) for length in np.frombuffer(data, ">u4", data[3], 4)]
    if len(data) - start != np.prod(shape, dtype=np.int64):
        raise DataError(f"{name} has {len(data) - start} values, its header says {'×'.join(map(str, shape))}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def load_cifar10(source: Source, config: DataConfig, progress: Progress) -> Loaded:
    """The binary version or the one for Python, which torchvision keeps, from an archive or unpacked."""
    train, test = read_cifar10(source.name, source.files[0], data_root(config.root), progress)
    return _arrays(source, train, test)


FOLDER_SPLITS = {  # in any case
    "train": "train",
    "training": "train",
    "validation": "validation",
    "validate": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
LIKE_A_SPLIT = re.compile(
    r"(train|val|valid|validation|dev|test|eval)(ing|ation)?[\W_\d].*|.*[\W_](train|val|valid|dev|test|eval)", re.I
)


def load_folder(source: Source, config: DataConfig, progress: Progress) -> Loaded:
    """Any tree of images; `train`, `validation` and `test` at its top, or other usual names, are its splits."""
    assert config.path is not None, "load_splits asks for it"
    return _tree(Path(config.path).expanduser(), FOLDER_SPLITS, config, progress)


def load_afhq(source: Source, config: DataConfig, progress: Progress) -> Loaded:
    """{train, test}/{cat, dog, wild}; version 1 names its test set `val`."""
    above = data_root(config.root)
    own = above if (above / "train").is_dir() else above / "afhq"
    root = Path(config.path).expanduser() if config.path else own
    if not root.is_dir():
        raise DataError(f"'afhq' is not in {root}; unpack its train and test folders there, or give --data-dir")
    return _tree(root, {"train": "train", "val": "test", "test": "test"}, config, progress)


def load_arrays(source: Source, config: DataConfig, progress: Progress) -> Loaded:
    """A .npz file of arrays: `train` and, where it has them, `validation`, `test`, their labels and `classes`."""
    parts, content = read_arrays(arrays_file(config))
    return Loaded(parts["train"], parts.get("validation"), parts.get("test"), content)


def _tree(root: Path, split_names: dict[str, str], config: DataConfig, progress: Progress) -> Loaded:
    files, others = look_through(root)
    if not files:
        there = f", only others ({by_ending(others)})" if others else ""
        raise DataError(f"there are no images in '{root}'{there}; set data.path to a folder with .jpg, .png, … files")
    _refuse_likely_splits(files, split_names)
    kinds = [_split_of(file.name, split_names) for file in files]
    divided = "train" in kinds and ("validation" in kinds or "test" in kinds)
    reason = "lies outside the train, validation and test folders"
    outside = [Skipped(f.name, reason) for f, kind in zip(files, kinds, strict=True) if divided and kind is None]
    used: list[Found] = [f for f, kind in zip(files, kinds, strict=True) if not divided or kind is not None]
    store = open_store(root, used, Target.of(config), progress, outside=outside, others=others, strict=config.strict)
    whole = _labelled(store, divided)
    kind_of_row = [(_split_of(name, split_names) or "") if divided else "train" for name in store.names]
    rows = {k: torch.tensor([row for row, kind in enumerate(kind_of_row) if kind == k]) for k in set(kind_of_row)}
    if "train" not in rows:
        raise DataError(f"none of the training images in '{root}' can be used; see {store.skipped_csv}")
    parts = {kind: whole.subset(of_kind) for kind, of_kind in rows.items()}
    validation, test = parts.get("validation"), parts.get("test")
    return Loaded(parts["train"], validation, test, store.content, store, rows["train"])


def _refuse_likely_splits(files: Sequence[Found], split_names: dict[str, str]) -> None:
    """DataError where folders at the top are called nearly like splits: in one pool test images would be trained on."""
    tops = {name.partition("/")[0] for name in (file.name for file in files) if "/" in name}
    likely = sorted(top for top in tops if top.lower() not in split_names and LIKE_A_SPLIT.fullmatch(top))
    named = {split_names[top.lower()] for top in tops if top.lower() in split_names}
    if likely and len(likely) + len(named) > 1:
        raise DataError(
            f"the folders {', '.join(map(repr, likely))} may be splits, but are not called so; rename them to train, "
            "validation and test, or to what a class is called, or set data.path to one of them"
        )


def _split_of(name: str, split_names: dict[str, str]) -> str | None:
    top, _, below = name.partition("/")
    return split_names.get(top.lower()) if below else None


def _labelled(store: Store, divided: bool) -> Dataset:
    """The class of an image is the name of the folder it lies in, below its split; none where no image has one.

    Where folders of one name lie in several others (`cats/2020`, `dogs/2020`), it is the first folder below the split.
    """
    folders = [PurePosixPath(name.partition("/")[2] if divided else name).parent for name in store.names]
    several = len({folder.name for folder in folders}) < len(set(folders))
    parents = [(folder.parts or ("",))[0] if several else folder.name for folder in folders]
    classes = sorted(set(parents))
    if classes == [""]:
        return Dataset(store.images, None, (), store.names)
    position = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([position[parent] for parent in parents])
    return Dataset(store.images, labels, tuple(name or "(none)" for name in classes), store.names)


def _four_files(folder: str, base: str, sums: dict[str, tuple[str | None, str | None]]) -> tuple[RemoteFile, ...]:
    """IDX files with (MD5 decompressed, MD5 compressed) each, in the order that `load_idx` reads them."""
    sizes = {"train-images": 47_040_016, "train-labels": 60_008, "t10k-images": 7_840_016, "t10k-labels": 10_008}
    return tuple(
        RemoteFile(folder, name, f"{base}/{name}", *sums[part], sizes[part])
        for part in sizes
        for name in [f"{part}-idx{3 if part.endswith('images') else 1}-ubyte.gz"]
    )


_MNIST = _four_files(
    "MNIST/raw",
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    {
        "train-images": ("6bbc9ace898e44ae57da46a324031adb", None),
        "train-labels": ("a25bea736e30d166cdddb491f175f624", None),
        "t10k-images": ("2646ac647ad5339dbf082846283269ea", None),
        "t10k-labels": ("27ae3e4e09519cfbb04c329615203637", None),
    },
)
_FASHION = _four_files(
    "FashionMNIST/raw",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    {
        "train-images": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", None),
        "train-labels": ("9018921c3c673c538a1fc5bad174d6f9", None),
        "t10k-images": ("8181f5470baa50b63fa0f6fddb340f0a", None),
        "t10k-labels": ("15d484375f8d13e6eb1aabb0c3f46965", None),
    },
)
_DIGITS = tuple("0123456789")
_CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ARRAYS = "Your own arrays: a .npz file; set data.path."
_SPRITES = "17,280 made shapes of 32×32 with known scale, rotation and place."
_GREY, _COLOUR = (1, 28, 28), (3, 32, 32)

SOURCES = {
    source.name: source
    for source in (
        Source("digits", "1,797 digits of 8×8, inside scikit-learn.", load_digits, 0.1, 0.2, (1, 8, 8), (), _DIGITS),
        Source("sprites", _SPRITES, load_sprites, 0.05, 0.2, (1, SIDE, SIDE), (), SHAPES),
        Source("mnist", "70,000 handwritten digits of 28×28.", load_idx, 5000, 0, _GREY, _MNIST, _DIGITS),
        Source("fashion-mnist", "70,000 pieces of clothing, 28×28.", load_idx, 5000, 0, _GREY, _FASHION, _CLOTHES),
        Source("cifar10", "60,000 colour photographs of 32×32.", load_cifar10, 5000, 0, _COLOUR, (BINARY,), _OBJECTS),
        Source("afhq", "16,000 faces of cats, dogs and wild animals, 512×512.", load_afhq, 500, takes_path=True),
        Source("arrays", _ARRAYS, load_arrays, needs_path=True, in_a_file=True),
        Source("folder", "Your own images: any tree of files; set data.path.", load_folder, needs_path=True),
    )
}
