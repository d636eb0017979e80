"""python -m benchmarks.compression RECIPE|RUN [key=value …] [--out DIR] [--samples K]: bits/dim beside PNG and WebP.

Trains the recipe (or takes a run as it is) and prints what its likelihood would spend on each value of the test images,
beside what lossless files of the very same pixels spend.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import Table
from vaekit import evaluate, load, train
from vaekit.data.pixels import content_of
from vaekit.data.splits import load_splits

Array = np.ndarray[Any, Any]
FORMATS: Mapping[str, Mapping[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True, "compress_level": 9},
    "WebP, lossless": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
}


def file_bytes(image: Array, options: Mapping[str, Any]) -> int:
    """The size of a file of uint8 (H, W, C), header and all."""
    held = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(held, **options)
    return held.getbuffer().nbytes


def contact_sheet(images: Array) -> Array:
    """Images (N, H, W, C) in rows of one picture, as square as it goes; cells to spare are black."""
    count, height, width, channels = images.shape
    columns = max(1, min(count, round(math.sqrt(count * height / width))))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, channels), images.dtype)
    cells[:count] = images
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def bits_per_value(images: Array, options: Mapping[str, Any]) -> tuple[float, float]:
    """(a file for each image, one file with all of them), in bits for each value of uint8 images (N, H, W, C).

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
        >>> all(8 < bits < 8.2 for bits in bits_per_value(noise, FORMATS["PNG"]))
        True
    """
    each = sum(file_bytes(image, options) for image in images)
    return 8 * each / images.size, 8 * file_bytes(contact_sheet(images), options) / images.size


def described_pixels(run: Path) -> Array:
    """The values of the test images that the run's likelihood describes: uint8 (N, H, W, C), without padding."""
    trained = load(run)
    bits = trained.pixels.bits
    levels = load_splits(trained.config.data).test.images >> (8 - bits)
    return np.ascontiguousarray(content_of(levels, trained.content_size).permute(0, 2, 3, 1).numpy())


def compared(run: Path, samples: int) -> Table:
    """Bits per value of the test images, by the run and by files."""
    metrics = evaluate(run, samples=samples)
    if not str(metrics["base_measure"]).startswith("discrete"):
        raise SystemExit(
            f"{run} describes '{metrics['base_measure']}' values; choose a discretised-logistic likelihood"
        )
    images = described_pixels(run)
    count, height, width, channels = images.shape
    table = Table(f"{count} test images of {height}×{width}×{channels}, bits/dim", ["", "file by file", "all in one"])
    bound = f"{metrics['bits_per_dim']:.3f}"
    table.add(f"model, importance-weighted bound (K = {samples})", bound, bound)
    table.add("model, -ELBO", *[f"{metrics['elbo_bits_per_dim']:.3f}"] * 2)
    for name, options in FORMATS.items():
        table.add(name, *(f"{bits:.3f}" for bits in bits_per_value(images, options)))
    return table


def main() -> None:
    """Train where asked for, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("what", help="a recipe, or the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    parser.add_argument("--out", type=Path, help="the folder of the new run")
    parser.add_argument("--samples", type=int, default=100, help="K of the bound")
    options = parser.parse_args()
    existing = Path(options.what)
    run = existing if existing.is_dir() else train(options.what, *options.overrides, out=options.out)
    print(compared(run, options.samples).markdown())


if __name__ == "__main__":
    main()
