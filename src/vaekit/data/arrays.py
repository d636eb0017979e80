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
from vaekit.data.images import Uint8Array, bytes_of_floats
from vaekit.errors import DataError

Array = np.ndarray[Any, Any]
ImageBatches = Any  # an iterable of images or of (images, labels); or one array; or a torch Dataset
PARTS = ("train", "validation", "test")
AT_ONCE = 256  # images of a torch Dataset


class Gathered(NamedTuple):
    """Images uint8 (N, C, H, W), and labels int64 (N,) where they came with labels."""

    images: Uint8Array
    labels: Array | None


def gather(batches: ImageBatches, name: str = "the images") -> Gathered:
    """All images of a loader, in an order of their own.

    Batches are images or (images, labels): (B, C, H, W) or (B, H, W), uint8 or floats in [0, 1]. They are sorted by
    their SHA-256, so that a loader that shuffles gives the same data set every time. DataError says what does not fit.

    Example:
        >>> gather([np.zeros((5, 8, 8)), np.ones((3, 8, 8))]).images.shape
        (8, 1, 8, 8)
    """
    images: list[Uint8Array] = []
    labels: list[Array] = []
    for batch in _batches(batches):
        given, given_labels = batch if isinstance(batch, list | tuple) and len(batch) == 2 else (_only(batch), None)
        pixels = as_pixels(given, name)
        if images and pixels.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"{name} come as {_shape(images[0].shape[1:])} and as {_shape(pixels.shape[1:])}; "
                "resize them to one shape in your loader"
            )
        images.append(pixels)
        if given_labels is not None:
            labels.append(_labels(given_labels, len(pixels), name))
    if not images:
        raise DataError(f"{name}: the loader gave no batch; a generator can be used only once, so give a DataLoader")
    if labels and len(labels) != len(images):
        raise DataError(f"{name}: only {len(labels)} of {len(images)} batches have labels; give all of them or none")
    return _sorted(np.concatenate(images), np.concatenate(labels) if labels else None)


def _batches(given: ImageBatches) -> Iterator[Any]:
    """What to go through: a torch Dataset gives single images, an array is one batch."""
    if isinstance(given, torch.utils.data.Dataset):
        yield from torch.utils.data.DataLoader(given, batch_size=AT_ONCE)
    elif isinstance(given, np.ndarray | torch.Tensor):
        yield given
    elif isinstance(given, Iterable):
        yield from given
    else:
        raise DataError(f"{type(given).__name__} gives no batches of images; give a DataLoader, a list or an array")


def _only(batch: Any) -> Any:
    return batch[0] if isinstance(batch, list | tuple) and len(batch) == 1 else batch


def as_pixels(given: Any, name: str) -> Uint8Array:
    """uint8 (N, C, H, W) from a batch: a tensor or an array, channels before or behind the sides, or no channel."""
    try:
        tensor = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"{name}: a batch is a {type(given).__name__}; give images, or (images, labels), as tensors or arrays"
        ) from None
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array[:1].size == 0:
        raise DataError(
            f"{name} come as {_shape(tuple(tensor.shape))}; give (B, 1, H, W), (B, 3, H, W) or (B, H, W), "
            "such as images.view(-1, 1, 28, 28) for rows of 784 values"
        )
    if array.dtype.kind == "f":
        return bytes_of_floats(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        raise DataError(f"{name} are {array.dtype}; give uint8 from 0 to 255, or floats in [0, 1]")
    return np.ascontiguousarray(array)


def _labels(given: Any, count: int, name: str) -> Array:
    try:
        labels = torch.as_tensor(given).detach().cpu().numpy()
    except (TypeError, ValueError, RuntimeError):
        labels = np.empty(0)
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(
            f"{name}: the labels of {count} images are {_shape(labels.shape)} {labels.dtype}; "
            "give one whole number from 0 for each image, or images alone"
        )
    return labels.astype(np.int64)


def _sorted(images: Uint8Array, labels: Array | None) -> Gathered:
    tails = [b""] * len(images) if labels is None else [label.tobytes() for label in labels]
    digests = [hashlib.sha256(image.tobytes() + tail).digest() for image, tail in zip(images, tails, strict=True)]
    order = sorted(range(len(images)), key=digests.__getitem__)
    return Gathered(images[order], None if labels is None else labels[order])


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def columns_of(parts: Mapping[str, Gathered], class_names: Sequence[str] = ()) -> dict[str, Array]:
    """The arrays of a file: `train`, `train_labels`, `test` … and `classes`; names default to the numbers.

    DataError where the parts differ in shape, or where there are fewer names than labels.
    """
    shapes = {name: part.images.shape[1:] for name, part in parts.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{name} {_shape(shape)}" for name, shape in shapes.items())
        raise DataError(f"the images differ in shape: {said}; bring them to one in your loaders")
    columns: dict[str, Array] = {name: part.images for name, part in parts.items()}
    labels = {f"{name}_labels": part.labels for name, part in parts.items() if part.labels is not None}
    if len(labels) < len(parts):
        return columns  # labels of some images alone are of no use
    classes = 1 + max(int(part.max()) for part in labels.values())
    if class_names and len(class_names) < classes:
        raise DataError(f"the labels reach {classes - 1} but there are {len(class_names)} class names; name all")
    return columns | labels | {"classes": np.array(list(class_names) or [str(k) for k in range(classes)])}


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
        said = ", ".join(f"{name} {_shape(shape)}" for name, shape in shapes.items())
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
