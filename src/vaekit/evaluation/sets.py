"""One table of why samples look bad: real images, reconstructions and samples, each against real test images.

The first row says what a perfect model would get; what reconstructions lose comes from the decoder; what samples lose
beyond that comes from a prior that is not where the codes are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.errors import ConfigError, NumericalError
from vaekit.evaluation.distances import coverage, frechet, kernel_distance
from vaekit.evaluation.features import Extractor

FEWEST = 16  # images, below which no covariance and no neighbourhood means anything
ImageSource = Callable[[int], Tensor]  # a count to as many images (N, C, H, W) in [0, 1], without padding


class SetScore(NamedTuple):
    """One source of images against the same number of real test images."""

    source: str
    images: int
    frechet: float
    kernel: float
    kernel_se: float
    precision: float
    recall: float
    density: float
    coverage: float


def score_sources(extractor: Extractor, real: Tensor, sources: Mapping[str, ImageSource]) -> Iterator[SetScore]:
    """A row for each source as it is ready. `real`: uint8 test images (N, C, H, W); each source is asked for N.

    Images are rounded to 8 bits as the real ones are, since networks see a difference. ConfigError for fewer than 16
    images, NumericalError for a source whose images are not finite.
    """
    if len(real) < FEWEST:
        raise ConfigError(f"{len(real)} images are too few to compare sets; have {FEWEST} or more, 1,000 if possible")
    reference = extractor.features(real)
    for name, draw in sources.items():
        images = draw(len(real))
        if not bool(torch.isfinite(images).all()):
            raise NumericalError(f"the images of '{name}' are not finite; evaluate another checkpoint, or train again")
        found = extractor.features((images.clamp(0, 1) * 255).round().to(torch.uint8))
        near = coverage(reference, found)
        yield SetScore(name, len(found), frechet(reference, found), *kernel_distance(reference, found), *near)


def score_metrics(extractor: Extractor, rows: list[SetScore]) -> dict[str, Any]:
    """The rows as flat metrics such as `proxy_frechet_prior_samples`."""
    numbers = [field for field in SetScore._fields if field not in ("source", "images")]
    return {f"{extractor.name}_{number}_{row.source}": getattr(row, number) for row in rows for number in numbers}
