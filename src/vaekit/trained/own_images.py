"""A trained model on one's own images: files or folders in, numbers of each image and pictures out.

Streamed: a batch of images is in memory at a time, so a folder of any length passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.data.found import find_images
from vaekit.errors import DataError
from vaekit.evaluation.evaluate import bits_offset
from vaekit.evaluation.fidelity import psnr, ssim
from vaekit.evaluation.likelihood import Bounds, bounds_of_each
from vaekit.trained.model import Trained

BATCH = 128
SAMPLES = 16  # codes per image: a whole block of noise


class ImageScore(NamedTuple):
    """The numbers of one image; None where the model has no such number. `Coding` says why."""

    name: str
    psnr_db: float  # of the reconstruction that is shown, like SSIM
    ssim: float
    elbo_nats: float | None
    distortion_nats: float | None
    rate_nats: float | None
    bits_per_dim: float | None
    bits: float | None  # that the ELBO implies for this image
    bits_ratio: float | None  # input bits to these

    def words(self) -> str:
        """The numbers with their units on one line."""
        said = [f"PSNR {self.psnr_db:.2f} dB", f"SSIM {self.ssim:.3f}"]
        said += [] if self.elbo_nats is None else [f"ELBO {self.elbo_nats:.2f} nats"]
        said += [] if self.bits_per_dim is None else [f"{self.bits_per_dim:.3f} bits/dim"]
        said += [] if self.bits_ratio is None else [f"{self.bits_ratio:.1f} : 1 in bits"]
        return " · ".join(said)


class ScoredImages(NamedTuple):
    """One batch: its images and reconstructions (N, C, H, W) in [0, 1] without padding, codes (N, D) and scores."""

    images: Tensor
    decoded: Tensor
    codes: Tensor
    scores: list[ImageScore]


@dataclass(frozen=True)
class Coding:
    """What a model makes of an image as a code: how many values go in, how many come out, in which bits.

    `input_bits` is values times the bits of one value as the likelihood counts them: 8 of a grey value (or data.bits),
    1 of a 0/1 pixel. None, with the reason, where the ELBO implies no length of a code.
    """

    input_values: int
    latent_values: int
    input_bits: int | None
    offset: (
        float  # bits to add to those of the ELBO: a density over dequantised values is 2^bits times a probability each
    )
    reason: str = ""

    @property
    def values_ratio(self) -> float:
        """Input values to latent values."""
        return self.input_values / self.latent_values

    def words(self) -> str:
        """The ratio of values, and what the ratio of bits is made of, or why there is none."""
        values = f"{self.input_values:,} values in, {self.latent_values:,} latent values: {self.values_ratio:.1f} : 1"
        if self.input_bits is None:
            return f"compression: {values}; no ratio of bits: {self.reason}"
        size = self.input_bits // self.input_values
        return f"compression: {values}; in bits: {self.input_bits:,} in ({size} a value), -ELBO / ln 2 out"

    def bits(self, elbo: float) -> float | None:
        """-ELBO / ln 2, for probabilities of the image's own values."""
        return None if self.input_bits is None else -elbo / math.log(2) + self.offset


def coding_of(trained: Trained) -> Coding:
    """The sizes that a compression ratio is made of. The values counted are those without padding."""
    channels, height, width = trained.shape
    values, likelihood = channels * math.prod(trained.content_size), trained.model.likelihood
    measure = likelihood.base_measure
    per_value = bits_offset(measure, trained.pixels)

    def without(reason: str) -> Coding:
        return Coding(values, trained.latent_dim, None, 0.0, reason)

    if not trained.model.has_posterior:
        return without("an autoencoder has no ELBO, so it implies no bits")
    if not likelihood.family.is_likelihood:
        return without("the model's loss is no likelihood, so it implies no bits")
    if per_value is None:
        return without("a density of pixels that were not dequantised implies no bits; see data.dequantize")
    depth = 1 if measure == "binary" else trained.pixels.bits
    offset = per_value * channels * height * width  # padding is part of what the density describes
    return Coding(values, trained.latent_dim, values * depth, offset)


class Scorer:
    """Numbers of images that depend on the image, the seed and the number of samples alone.

    Each image is measured as if it were a data set of its own (`bounds_of_each`), so its ELBO is what `evaluate` says
    of that image alone, in whatever batch and order it comes. The ELBO is of the image as the model was trained on it,
    binarised with `seed` where it was; the reconstruction is of the image itself, as `Trained.reconstruct` makes it.
    """

    def __init__(self, trained: Trained, samples: int = SAMPLES, seed: int = 0) -> None:
        self.trained, self.samples, self.seed = trained, samples, seed
        self.coding = coding_of(trained)

    def bounds(self, images: Tensor, labels: Tensor | None) -> Bounds:
        """The bounds of uint8 images (N, C, H, W) in the network's shape, each as if it were alone."""
        model, pixels = self.trained.model, self.trained.pixels
        return bounds_of_each(model, images, pixels, self.samples, self.seed, context=labels)

    def __call__(self, names: Sequence[str], images: Tensor, labels: Tensor | None = None) -> ScoredImages:
        """All numbers of uint8 images (N, C, H, W) in the network's shape; `labels` are for a conditional model."""
        trained = self.trained
        with torch.no_grad():
            codes = trained.model.encode(trained.pixels.of_loose_images(images), labels)
            decoded = trained.cropped(trained.model.decode(codes, labels).mean).clamp(0, 1)
            matrix = trained.layout.matrix(codes).cpu()
        originals = trained.cropped(images.float() / 255)
        quality = zip(names, psnr(decoded, originals).tolist(), ssim(decoded, originals).tolist(), strict=True)
        return ScoredImages(
            originals.cpu(),
            decoded.cpu(),
            matrix,
            [
                ImageScore(*close, *terms)
                for close, terms in zip(quality, self._likelihoods(images, labels), strict=True)
            ],
        )

    def _likelihoods(self, images: Tensor, labels: Tensor | None) -> Iterator[tuple[float | None, ...]]:
        if not self.trained.model.has_posterior:
            yield from [(None,) * 6] * len(images)
            return
        found = self.bounds(images, labels)
        for elbo, distortion, rate in torch.stack([found.elbo, found.distortion, found.rate], 1).tolist():
            bits, coding = self.coding.bits(elbo), self.coding
            if bits is None or coding.input_bits is None:
                yield elbo, distortion, rate, None, None, None
            else:
                yield elbo, distortion, rate, bits / coding.input_values, bits, coding.input_bits / bits


@dataclass
class Reading:
    """Files that go through a model batch by batch; what could not be read is in `failures` afterwards."""

    scorer: Scorer
    files: Sequence[Path]
    batch: int = BATCH
    progress: Callable[[float], None] = lambda share: None
    failures: dict[str, str] = field(default_factory=dict)  # file → what is wrong with it

    def __iter__(self) -> Iterator[ScoredImages]:
        names: list[str] = []
        images: list[Tensor] = []
        for number, file in enumerate(self.files, start=1):
            try:
                images.append(self.scorer.trained.prepare(file))
                names.append(str(file))
            except DataError as error:
                self.failures[str(file)] = str(error)
            if images and (len(images) == self.batch or number == len(self.files)):
                yield self.scorer(names, torch.cat(images))
                names, images = [], []
                self.progress(number / len(self.files))


def refuse_failures(failures: Mapping[str, str], listed_in: Path | None = None) -> None:
    """DataError that names the files that failed, or the first ten of them; nothing where none did."""
    if failures:
        first, more = list(failures.values())[:10], len(failures) - 10
        where = f"; all are in {listed_in}" if listed_in else ""
        raise DataError("; ".join(first) + (f"; and {more:,} more{where}" if more > 0 else ""))


def image_files(places: Iterable[str | Path]) -> tuple[list[Path], dict[str, str]]:
    """The files named, and every image below the folders named, each once, in the order given; and the places without.

    The second is place → what is wrong with it. Images in a folder go by their suffix; hidden ones are ignored.
    """
    files: dict[Path, None] = {}
    empty = {}
    for place in map(Path, places):
        if not place.is_dir():
            files[place] = None
            continue
        found = [place / image.name for image in find_images(place)]
        if not found:
            empty[str(place)] = f"there are no images in the folder '{place}'; give another, or files"
        files.update(dict.fromkeys(found))
    return list(files), empty


def read_images(
    scorer: Scorer, places: Iterable[str | Path], *, progress: Callable[[float], None] = lambda share: None
) -> Reading:
    """The images of files and folders, ready to be gone through. DataError where there is no file at all."""
    files, empty = image_files(places)
    reading = Reading(scorer, files, progress=progress, failures=dict(empty))
    if not files:
        refuse_failures(empty)
        raise DataError("no images were given; name a file or a folder")
    return reading
