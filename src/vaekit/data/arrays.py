"""Images from a program: batches of a DataLoader or arrays, and the one file that a run keeps of them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vaekit.config.schema import DataConfig
from vaekit.data.dataset import Dataset
from vaekit.data.given import PLAIN, as_array, is_one_file, items_of, readings, shape_words
from vaekit.data.images import Uint8Array, bytes_of_floats, open_image
from vaekit.errors import DataError

Array = np.ndarray[Any, Any]
ImageBatches = Any  # an iterable of images or of (images, labels); or one array; or a torch Dataset
PARTS = ("train", "validation", "test")


class Gathered(NamedTuple):
    """Images uint8 (N, C, H, W), and labels (N,) where they came with labels."""

    images: Uint8Array
    labels: Array | None  # int64, or names


def gather(batches: ImageBatches, name: str = "the images") -> Gathered:
    """All images of a loader, in an order of their own.

    Batches are images or (images, labels): (B, C, H, W) or (B, H, W), uint8 or floats in [0, 1]; one by one they are
    also files or Pillow images, as a torch Dataset gives them. Labels are whole numbers or names. They are sorted by
    their SHA-256, so that a loader that shuffles gives the same data set every time. DataError says what does not fit.

    Example:
        >>> gather([np.zeros((5, 8, 8)), np.ones((3, 8, 8))]).images.shape
        (8, 1, 8, 8)
    """
    images: list[Uint8Array] = []
    labels: list[Array] = []
    flat: set[tuple[int, ...]] = set()  # the shapes of batches of three axes, and None for any other
    for item in _batches(batches, name):
        pixels = _pixels_of(item, name)
        flat.add(item.shape if item.labels is None and not item.single else ())
        if images and pixels.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"{name} come as {shape_words(images[0].shape[1:])} and as {shape_words(pixels.shape[1:])}; "
                "resize them to one shape in your loader"
            )
        images.append(pixels)
        if item.labels is not None:
            labels.append(_labels([item.labels] if item.single else item.labels, len(pixels), name))
    if not images:
        raise DataError(f"{name}: the loader gave no batch; a generator can be used only once, so give a DataLoader")
    _refuse_single_images(flat, name)
    if labels and len(labels) != len(images):
        raise DataError(f"{name}: only {len(labels)} of {len(images)} batches have labels; give all of them or none")
    if len({part.dtype.kind for part in labels}) > 1:
        raise DataError(f"{name}: some labels are numbers and some are names; give one or the other")
    return _sorted(np.concatenate(images), np.concatenate(labels) if labels else None)


class _Item(NamedTuple):
    """What a loader gave: a batch, or one image, with its labels or label where it has any."""

    images: Any
    labels: Any
    single: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape) if isinstance(self.images, np.ndarray | torch.Tensor) else ()


def _batches(given: ImageBatches, name: str) -> Iterator[_Item]:
    """What to go through: a torch Dataset gives single images; an array, and a pair of images and labels, one batch."""
    if isinstance(given, str | Path):
        right = "train('folder', {'data.path': …}) trains on a folder, train('arrays', …) on a .npz file"
        raise DataError(f"{name} are the {type(given).__name__} '{given}', but fit takes images; {right}")
    if isinstance(given, np.ndarray | torch.Tensor):
        yield _item(given, name)
    elif isinstance(given, torch.utils.data.Dataset):
        for item in items_of(given):
            yield _item(item, name)._replace(single=True)
    elif isinstance(given, Mapping) or not isinstance(given, Iterable):
        what = type(given).__name__
        raise DataError(f"{name}: a {what} gives no batches of images; give a DataLoader, a list or an array")
    elif isinstance(given, list | tuple) and len(given) == 2 and _are_labels(given[1]):
        yield _item(given, name)
    else:
        for item in given:
            yield _item(item, name)


def _are_labels(given: Any) -> bool:
    """Whether something has the one axis that labels of a batch have, and images never."""
    if isinstance(given, np.ndarray | torch.Tensor):
        return given.ndim == 1
    return isinstance(given, list | tuple) and all(isinstance(label, str | int) for label in given)


def _item(given: Any, name: str) -> _Item:
    if isinstance(given, list | tuple) and len(given) > 2:
        kinds = ", ".join(type(part).__name__ for part in given)
        raise DataError(
            f"{name}: a batch holds {len(given)} things ({kinds}); give images, or (images, labels), such as "
            "((batch[0], batch[1]) for batch in loader)"
        )
    pair = isinstance(given, list | tuple) and len(given) == 2
    images, labels = given if pair else (_only(given), None)
    alone = labels is not None and np.ndim(labels) == 0
    return _Item(images, labels, alone or is_one_file(images))


def _only(batch: Any) -> Any:
    return batch[0] if isinstance(batch, list | tuple) and len(batch) == 1 else batch


def _pixels_of(item: _Item, name: str) -> Uint8Array:
    """uint8 (N, C, H, W) of a batch or of one image."""
    if is_one_file(item.images):
        return open_image(item.images).transpose(2, 0, 1)[None]
    if item.single and len(item.shape) == 3:
        found = [reading for reading in readings(item.shape, channels=PLAIN) if reading.axes[0] is None]
        if len(found) != 1:
            raise DataError(f"{name} come one by one as {shape_words(item.shape)}; give (C, H, W), (H, W, C) or (H, W)")
        return as_pixels(found[0].applied(as_array(item.images)), name)
    return as_pixels(item.images[None] if item.single and len(item.shape) == 2 else item.images, name)


def _refuse_single_images(shapes: set[tuple[int, ...]], name: str) -> None:
    """DataError where every batch has three axes and reads as one image of colour as well as as grey ones."""
    three = [shape for shape in shapes if len(shape) == 3]
    if shapes and len(three) == len(shapes):
        for axis in (0, 2):
            if all(shape[axis] == 3 for shape in three):
                ways = " or as ".join(reading.words for reading in readings(three[0], channels=PLAIN))
                raise DataError(
                    f"{name} come as {shape_words(three[0])}, which reads as {ways}; give batches with channels, "
                    "(B, C, H, W), such as numpy.stack(images)"
                )


def as_pixels(given: Any, name: str) -> Uint8Array:
    """uint8 (N, C, H, W) from a batch: a tensor or an array, channels before or behind the sides, or no channel."""
    try:
        tensor = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"{name}: a batch is a {type(given).__name__}; give images, or (images, labels), as tensors or arrays"
        ) from None
    array = as_array(tensor)
    if array.ndim == 3:
        array = array[:, None]
    elif len(found := readings(array.shape, channels=PLAIN)) > 1:
        ways = " or as ".join(reading.words for reading in found)
        raise DataError(f"{name} come as {shape_words(array.shape)}, which reads as {ways}; give wider images")
    elif array.ndim == 4 and found:
        array = found[0].applied(array).transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in PLAIN or array[:1].size == 0:
        labels = ", or fit((images, labels)) if these are labels" if array.ndim == 1 else ""
        raise DataError(
            f"{name} come as {shape_words(tensor.shape)}; give (B, 1, H, W), (B, 3, H, W) or (B, H, W), "
            f"such as images.view(-1, 1, 28, 28) for rows of 784 values{labels}"
        )
    if array.dtype.kind == "f":
        return bytes_of_floats(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        raise DataError(f"{name} are {array.dtype}; give uint8 from 0 to 255, or floats in [0, 1]")
    return np.ascontiguousarray(array)


def _labels(given: Any, count: int, name: str) -> Array:
    """int64 (N,), or names (N,) where the labels are text."""
    try:
        labels = as_array(given) if isinstance(given, np.ndarray | torch.Tensor) else np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        labels = np.empty(0)
    if labels.shape == (count,) and labels.dtype.kind == "U":
        return labels
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(
            f"{name}: the labels of {count} images are {shape_words(labels.shape)} {labels.dtype}; "
            "give one whole number from 0, or one name, for each image, or images alone"
        )
    return labels.astype(np.int64)


def _sorted(images: Uint8Array, labels: Array | None) -> Gathered:
    tails = [b""] * len(images) if labels is None else [label.tobytes() for label in labels]
    digests = [hashlib.sha256(image.tobytes() + tail).digest() for image, tail in zip(images, tails, strict=True)]
    order = sorted(range(len(images)), key=digests.__getitem__)
    return Gathered(images[order], None if labels is None else labels[order])


def columns_of(parts: Mapping[str, Gathered], class_names: Sequence[str] = ()) -> dict[str, Array]:
    """The arrays of a file: `train`, `train_labels`, `test` … and `classes`; names default to the numbers.

    DataError where the parts differ in shape, or where there are fewer names than labels.
    """
    shapes = {name: part.images.shape[1:] for name, part in parts.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{name} {shape_words(shape)}" for name, shape in shapes.items())
        raise DataError(f"the images differ in shape: {said}; bring them to one in your loaders")
    columns: dict[str, Array] = {name: part.images for name, part in parts.items()}
    labels = {f"{name}_labels": part.labels for name, part in parts.items() if part.labels is not None}
    if len(labels) < len(parts):
        return columns  # labels of some images alone are of no use
    labels, names = _numbered(labels, class_names)
    classes = 1 + max(int(part.max()) for part in labels.values())
    if names and len(names) < classes:
        raise DataError(f"the labels reach {classes - 1} but there are {len(names)} class names; name all")
    return columns | labels | {"classes": np.array(list(names) or [str(k) for k in range(classes)])}


def _numbered(labels: dict[str, Array], class_names: Sequence[str]) -> tuple[dict[str, Array], list[str]]:
    """Labels as numbers, and the names of the classes: those given, or those that the labels are, in their order."""
    as_text = [part.dtype.kind == "U" for part in labels.values()]
    if not any(as_text):
        return labels, list(class_names)
    if not all(as_text):
        raise DataError(f"the labels of {', '.join(labels)} are numbers in one and names in the other; give one kind")
    found = sorted({str(label) for part in labels.values() for label in part})
    names = list(class_names) or found
    if unknown := [label for label in found if label not in names]:
        raise DataError(f"the label '{unknown[0]}' is none of the class names ({', '.join(names)}); name all")
    number = {name: position for position, name in enumerate(names)}
    return {key: np.array([number[str(label)] for label in part]) for key, part in labels.items()}, names


def content_of_columns(columns: Mapping[str, Array]) -> str:
    """SHA-256 of these arrays, names and shapes included.

    Example:
        >>> len(content_of_columns({"train": np.zeros((2, 1, 4, 4), np.uint8)}))
        64
    """
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(f"{name} {columns[name].dtype} {columns[name].shape};".encode())
        digest.update(np.ascontiguousarray(columns[name]).view(np.uint8).data)
    return digest.hexdigest()


def arrays_file(config: DataConfig) -> Path:
    """The file of a config. DataError where there is none."""
    assert config.path is not None, "load_splits asks for it"
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file '{path}'; set data.path to a .npz file, or to its name in --data-dir")
    return path


def read_arrays(path: Path) -> tuple[dict[str, Dataset], str]:
    """The data sets of a .npz file by the names of PARTS (a .npy file is all `train`), and SHA-256 of its content."""
    try:
        columns = _columns(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # numpy's own words advise to trust a pickle
        raise DataError(f"{path} is no readable .npz or .npy file of plain arrays; write it with numpy.savez") from None
    if "train" not in columns:
        held = ", ".join(columns) or "nothing"
        raise DataError(f"{path} holds {held} but no 'train'; write it with numpy.savez(file, train=images, …)")
    classes = tuple(str(name) for name in columns.get("classes", ()))
    parts = {name: _dataset(path, name, columns, classes) for name in PARTS if name in columns}
    shapes = {name: part.shape for name, part in parts.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{name} {shape_words(shape)}" for name, shape in shapes.items())
        raise DataError(f"the images in {path} differ in shape: {said}; bring them to one")
    return parts, content_of_columns(columns)


def _columns(path: Path) -> dict[str, Array]:
    opened = np.load(path, allow_pickle=False)
    if isinstance(opened, np.ndarray):
        return {"train": opened}
    with opened:
        return {name: opened[name] for name in opened.files}


def _dataset(path: Path, name: str, columns: Mapping[str, Array], classes: tuple[str, ...]) -> Dataset:
    what = f"{path.name}: {name}"
    images = torch.from_numpy(as_pixels(columns[name], what))
    given = columns.get(f"{name}_labels")
    if given is None:
        return Dataset(images)
    labels = _labels(given, len(images), what)
    names = classes or tuple(str(k) for k in range(1 + int(labels.max(initial=0))))
    if len(labels) and labels.max() >= len(names):
        raise DataError(f"{what} has a label {labels.max()}; it has only {len(names)} classes")
    return Dataset(images, torch.from_numpy(labels), names)
