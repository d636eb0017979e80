"""Fashion-MNIST from data to interpolation: load, train, reconstructions, samples, interpolation, model and pictures.

python examples/fashion_story.py                                # downloads the data, 2 latent dimensions
python examples/fashion_story.py --recipe fashion-mnist         # 32 latent dimensions
"""

import argparse
from pathlib import Path

import numpy as np

from vaekit import load, plots, train
from vaekit.data.splits import load_splits
from vaekit.trained.run import as_floats
from vaekit.trained.walks import codes_near, interpolate, latent_grid
from vaekit.training.combinations import read_config
from vaekit.training.loggers import Pictures, Row, Silent, row_as_text

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--recipe", default="fashion-mnist-2d")
parser.add_argument("--out", type=Path, default=Path("runs/example-fashion"))
parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
options = parser.parse_args()


class Lines(Silent):
    """A line for each validation, so that the wait is not silent."""

    def message(self, text: str) -> None:
        print(text, flush=True)

    def validated(self, row: Row, pictures: Pictures) -> None:
        print(row_as_text(row), flush=True)


def save_rows(rows: list[np.ndarray], name: str, title: str) -> None:
    """Rows of uint8 images as one picture with its caption."""
    figure = plots.labelled_grid([as_floats(row) for row in rows], title=title)
    print(plots.save_picture(figure, options.out / "story" / name), flush=True)


# 1. The data: 28×28 grey images, padded to 32×32 by the recipe.
splits = load_splits(read_config(options.recipe, options.overrides).data)
print(f"{len(splits.train):,} images to train, {len(splits.test):,} to test, {splits.facts['shape']} each")
print("classes:", ", ".join(splits.train.class_names))

# 2. The training. The loss is 500 · (cross-entropy, mean over pixels) + KL; both terms are in the history.
run = train(options.recipe, *options.overrides, out=options.out, resume=True, loggers=[Lines()])
vae = load(run)  # the model is saved in the run: this is how another program gets it
last = vae.history[-1]
print(f"distortion {last['distortion']:.2f} nats, rate {last['rate']:.2f} nats, weight {last['weight']:.3f}")

# 3. Test images and their reconstructions.
originals = vae.to_images(splits.test.images[:10] / 255)
codes = vae.encode(list(originals))
save_rows(
    [originals, vae.decode(codes)], "reconstructions.png", "ten test images; below, decoded from their mean codes"
)

# 4. Samples: over the whole plane where there are two dimensions, else from the prior; then near one image.
plane = vae.decode(latent_grid(10)) if vae.latent_dim == 2 else vae.sample(100, seed=0)
what = "the latent plane, 10 × 10" if vae.latent_dim == 2 else "100 samples of the prior"
near = vae.decode(codes_near(codes[0], 10, scale=0.2))
save_rows(
    [*plane.reshape(10, 10, *plane.shape[1:]), near], "samples.png", f"{what}; last row: near the first test image"
)

# 5. From the first image to the second.
save_rows(
    [vae.decode(interpolate(codes[0], codes[1], 10))],
    "interpolation.png",
    "from the first test image to the second, straight through codes",
)
