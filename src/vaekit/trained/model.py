"""A trained model for other programs: ordinary images in, codes or ordinary images out, as the run itself saw them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.config.schema import Config
from vaekit.data import passes
from vaekit.data.dataset import Dataset
from vaekit.data.given import each_image
from vaekit.data.images import bytes_of_floats, open_image, pad_to, to_shape
from vaekit.data.pixels import Pixels, content_of
from vaekit.densities.noise import BlockNoise, no_noise
from vaekit.errors import ConfigError, DataError, suggest
from vaekit.models.build import build_model
from vaekit.models.layout import Layout, as_layout
from vaekit.models.model import Model
from vaekit.training.checkpoint import Checkpoint, load_checkpoint, load_weights, locate, require_state
from vaekit.training.device import choose_device, place

Array = np.ndarray[Any, Any]
ImageLike = Any  # a path, bytes, a PIL image, or an array or tensor of uint8 or of floats in [0, 1]; see `each_image`
BATCH = 256


class Trained:
    """A model with its averaged weights and its run's pre- and post-processing.

    Example:
        >>> vae = load("runs/digits")  # doctest: +SKIP
        >>> codes = vae.encode(["seven.png"])  # doctest: +SKIP
        >>> vae.decode(codes).shape  # doctest: +SKIP
        (1, 8, 8)
    """

    def __init__(self, model: Model, config: Config, checkpoint: Checkpoint, device: torch.device) -> None:
        self.model = place(model, device).eval()
        self.config, self.device = config, device
        self.step = checkpoint.step
        self.class_names: tuple[str, ...] = tuple(checkpoint.state["class_names"])
        self.history: list[dict[str, Any]] = list(checkpoint.state["progress"]["history"])
        channels, height, width = checkpoint.state["shape"]
        self.shape: tuple[int, int, int] = (channels, height, width)  # of what the network sees, padding included
        rows, columns = checkpoint.state["data"]["content_size"]
        self.content_size: tuple[int, int] = (rows, columns)  # without padding
        self.data_facts: dict[str, Any] = dict(checkpoint.state["data"])  # counts, classes, fingerprint
        self.pixels = Pixels.of(config.data)
        self.layout: Layout = model.layout  # of the matrices that codes are here

    @property
    def latent_dim(self) -> int:
        """D, the columns of a matrix of codes."""
        return self.layout.width

    def only(self, groups: Sequence[str]) -> Trained:
        """The same model, whose codes are these groups of latents alone: the others are decoded as the prior's mean.

        ConfigError for a group that it has not.
        """
        if not groups:
            return self
        other = copy.copy(self)
        other.layout = self.layout.only(groups)
        return other

    def at(self, size: tuple[int, int]) -> Trained:
        """The same weights for images of another (height, width), where all layers are convolutions.

        ConfigError for a model whose code is no grid, or a size that its halvings do not divide.
        """
        layout = self.model.layout
        said = "×".join(map(str, size))
        if not layout.is_grid:
            raise ConfigError(f"a size of {said} is for models whose code is a grid (model.latent); leave --size out")
        channels, rows, _ = layout.groups[0].event
        factor = self.shape[1] // rows
        if min(size) < factor or size[0] % factor or size[1] % factor:
            raise ConfigError(f"this model's codes have 1/{factor} of an image's sides; choose multiples of {factor}")
        other = copy.copy(self)
        other.shape, other.content_size = (self.shape[0], *size), size
        other.layout = as_layout([(channels, size[0] // factor, size[1] // factor)])
        return other

    def prepare(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """uint8 (N, C, H, W) on the device, as the model sees them. DataError names an image that cannot be read."""
        arrays = [self._prepared(image) for image in each_image(images, (self.shape[0], *self.content_size))]
        if not arrays:
            raise DataError("no images were given; give at least one file, PIL image or array")
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().to(self.device)

    def _prepared(self, image: ImageLike) -> Array:
        channels, height, width = self.shape
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            image = bytes_of_floats(image)
        opened = open_image(image, 1 if channels == 1 else 3)
        if opened.size == 0:
            raise DataError(f"this image of {opened.shape[0]}×{opened.shape[1]} holds no pixel; leave it out")
        return pad_to(to_shape(opened, *self.content_size, self.config.data.fit), height, width)

    @torch.no_grad()
    def encode(self, images: ImageLike | Sequence[ImageLike]) -> Array:
        """Codes (posterior means) as float32 (N, D), for files, PIL images, arrays or tensors, one or several.

        A batch is (N, C, H, W), (N, H, W, C) or (N, H, W), one image (C, H, W), (H, W, C) or (H, W); DataError for
        a shape that reads two ways. A torch Dataset, a DataLoader or any other iterable is gone through.
        """
        x = self.pixels.of_loose_images(self.prepare(images))
        return torch.cat([self.layout.matrix(self.model.encode(part)) for part in x.split(BATCH)]).cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: Array | Tensor, labels: Tensor | None = None) -> Array:
        """uint8 images (N, H, W) or (N, H, W, 3) from codes (N, D), without padding. ConfigError for another D.

        A conditional model decodes images of these classes, int64 (N,), or of the class that it was loaded with;
        ConfigError where there is none.
        """
        return self.to_images(self.decoded_means(codes, labels))

    @torch.no_grad()
    def decoded_means(self, codes: Array | Tensor, labels: Tensor | None = None) -> Tensor:
        """The same as floats (N, C, H, W), padding included."""
        z = torch.as_tensor(codes, dtype=torch.float32, device=self.device)
        z = z.unsqueeze(0) if z.ndim == 1 else z
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ConfigError(f"codes are {tuple(z.shape)} but this model decodes (N, {self.latent_dim})")
        rows = [slice(start, start + BATCH) for start in range(0, len(z), BATCH)]
        return torch.cat([self._decoded(z[part], None if labels is None else labels[part]) for part in rows])

    def _decoded(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        return self.model.decode(self.layout.codes(codes), labels, noise=no_noise, temperature=0.0).mean

    def reconstruct(self, images: ImageLike | Sequence[ImageLike]) -> Array:
        """Encode and decode: uint8 images."""
        return self.decode(self.encode(images))

    def sample(self, count: int, *, temperature: float = 1.0, seed: int = 0) -> Array:
        """Decoded means of `count` codes from the prior: uint8 images. ConfigError for an autoencoder."""
        return self.to_images(self.sample_means(count, temperature=temperature, seed=seed))

    @torch.no_grad()
    def sample_means(self, count: int, *, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """The same as floats (N, C, H, W), padding included. Of a conditional model: each class in turn, or `given`."""
        if not self.model.has_prior:
            raise ConfigError("an autoencoder has no prior to sample from; train a model with model.kind=vae")
        if count < 1 or not temperature >= 0:
            raise ConfigError(f"{count} samples at temperature {temperature}: ask for 1 or more, at 0 or more")
        model, ends = self.model, [*range(BATCH, count, BATCH), count]
        labels = self.labels_in_turn(count)
        parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        places = self.layout.groups[0].event[1:] if self.layout.is_grid else None
        means = []
        for part in parts:
            context = None if labels is None else labels[part]
            codes = model.draw(part.stop - part.start, BlockNoise(seed, part.start), temperature, context, places)
            means.append(model.decode(codes, context).mean)
        return torch.cat(means)

    def labels_in_turn(self, count: int) -> Tensor | None:
        """The classes 0, 1, 2 … of `count` samples of a conditional model; None for others, and where one is given."""
        model = self.model
        if not model.classes or model.given is not None:
            return None
        return torch.arange(count, device=self.device) % model.classes

    def reconstruct_prepared(self, images: Dataset) -> Tensor:
        """Decoded means (N, C, H, W) of images in the network's own shape."""
        return torch.cat([px.mean[0] for px in self.described(images)]).clamp(0, 1)

    @torch.no_grad()
    def described(self, images: Dataset) -> Iterator[Distribution]:
        """p(x | z) at the mean codes of the images, batch by batch: each of batch (1, B)."""
        for _, _, x, context in passes.over(self.model, images, self.pixels, batch=BATCH):
            yield self.model(x, 1, no_noise, context).px

    def cropped(self, images: Tensor) -> Tensor:
        """The content of images (N, C, H, W): without padding."""
        return content_of(images, self.content_size)

    def to_images(self, means: Tensor) -> Array:
        """uint8 (N, H, W) or (N, H, W, 3): clipped, and cropped to the content."""
        content = self.cropped(means).clamp(0, 1)
        values = (content * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return values[..., 0] if values.shape[-1] == 1 else values


def load(
    run: str | Path, *, which: str = "best", device: str = "cpu", given: str | None = None, groups: Sequence[str] = ()
) -> Trained:
    """The averaged weights of a run (its best checkpoint, or `latest`), or of one checkpoint folder.

    `given` is the class, by name or number, that a conditional model is to take all images for; `groups` are those of
    the latents that codes are made of, by default all.
    CheckpointError if there is no checkpoint, or if a byte of it changed; ConfigError for a class that it cannot take.
    """
    from vaekit.config.load import from_dict

    folder = locate(Path(run), which)
    checkpoint = load_checkpoint(folder, ("ema",))
    require_state(folder, checkpoint)
    config = from_dict(checkpoint.state["config"], str(folder / "state.json"))
    shape: tuple[int, int, int] = tuple(checkpoint.state["shape"])  # type: ignore[assignment]
    model = build_model(config.model, shape, len(checkpoint.state["class_names"]))
    load_weights(model, checkpoint.tensors["ema"])
    trained = Trained(model, config, checkpoint, choose_device(device))
    if given is not None:
        if not model.classes:
            raise ConfigError(f"this model is not conditional on classes, so '{given}' cannot be given")
        model.given = torch.tensor([class_number(given, trained.class_names)], device=trained.device)
    return trained.only(groups)


def class_number(name: str, names: Sequence[str]) -> int:
    """The number of a class from its name or number. DataError without classes, ConfigError for an unknown one."""
    if not names:
        raise DataError("the run's images have no labels; use files, or data with a folder for each class")
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise ConfigError(f"unknown class '{name}'; {suggest(name, names)}")
