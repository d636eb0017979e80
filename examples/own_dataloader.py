"""Train on a DataLoader of your own: any iterable of images or (images, labels), uint8 or floats in [0, 1].

The images here are drawn: squares and discs of any size and place. Put your own loaders in their stead.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from vaekit import evaluate, fit, load, picture_run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--count", type=int, default=4000)
parser.add_argument("--out", type=Path, default=Path("runs/example-own-data"))
parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
options = parser.parse_args()


def shapes(count: int, seed: int) -> TensorDataset:
    """`count` images (1, 16, 16) in [0, 1], and whether each is a square (0) or a disc (1)."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (count,), generator=generator)
    x, y = 5 + 6 * torch.rand(2, count, 1, 1, generator=generator)
    radius = 2 + 3 * torch.rand(count, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    across, down = (columns - x).abs(), (rows - y).abs()
    distance = torch.where(label.view(-1, 1, 1) == 0, torch.maximum(across, down), (across**2 + down**2).sqrt())
    return TensorDataset((radius + 0.5 - distance).clamp(0, 1).unsqueeze(1), label)


train_loader = DataLoader(shapes(options.count, seed=0), batch_size=64, shuffle=True)
test_loader = DataLoader(shapes(options.count // 5, seed=1), batch_size=64)

# What is not said here is as in the recipe "arrays"; recipe="digits" would take another.
settings = ["model.network={kind: mlp, widths: [256, 256]}", "model.latent_dim=6", "model.likelihood=bernoulli"]
settings += ["data.binarize=dynamic", "training.epochs=100", "training.batch_size=64", *options.overrides]
run = fit(train_loader, test_loader, *settings, class_names=("square", "disc"), out=options.out, resume=True)

# From here on it is a run like any other: it keeps its images, so every command works on it.
print(f"PSNR {evaluate(run, samples=10)['psnr_db']:.1f} dB")
images, labels = next(iter(test_loader))
codes = load(run).encode(images[:, 0].numpy())
print(f"{len(images)} images → codes {codes.shape}, of which {int(labels.sum())} are of discs")
for path in picture_run(run):
    print(path)
