"""`vaekit compare-dae`: a VAE and a denoising autoencoder of the same network and budget, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit import plots
from vaekit.config.load import Override
from vaekit.config.schema import ModelConfig
from vaekit.data import passes
from vaekit.data.dataset import Dataset
from vaekit.errors import DataError
from vaekit.evaluation.comparison import comparison
from vaekit.evaluation.fidelity import psnr
from vaekit.evaluation.probe import principal_plane, probe
from vaekit.models.autoencoder import corrupted
from vaekit.plots.compare import Scattered, Shown, code_scatter, comparison_sheet
from vaekit.trained.model import Trained
from vaekit.trained.run import open_run
from vaekit.training.combinations import read_config
from vaekit.verbs.compare import (
    CODES,
    IMAGES,
    SAMPLE_ROWS,
    Compared,
    codes_of,
    content_arrays,
    data_of,
    floats,
    reconstructions,
    samples_of,
    spread,
)
from vaekit.verbs.evaluate import known_metrics
from vaekit.verbs.train import refuse_another_run, train, train_on

Array = np.ndarray[Any, Any]
NAMES = {"vae": "variational autoencoder", "dae": "denoising autoencoder"}


def compare_dae(
    recipe: str,
    *overrides: Override,
    out: str | Path | None = None,
    samples: int = 100,
    data_dir: str | None = None,
    device: str = "auto",
    announce: Callable[[str], None] = lambda text: None,
    train_run: Callable[..., Path] = train,
) -> Compared:
    """Train `recipe` as a VAE and as a denoising autoencoder; compare reconstructions, samples and latent structure.

    Both have the same trunks, data, seed and number of updates. The corruption is model.corruption, by default masked
    pixels for 0/1 data and normal noise else. In `out` (default runs/compare-dae-RECIPE): the runs vae/ and dae/, which
    are not trained again where they are finished, compare.csv, compare.json, compare.png.
    """
    folder = Path(out) if out is not None else Path("runs") / f"compare-dae-{Path(recipe).stem}"
    config = read_config(recipe, overrides, data_dir)
    corruption = config.model.corruption
    if corruption == "none":
        corruption = "gaussian" if config.data.binarize == "none" else "mask"
    wishes = {
        "vae": [*overrides, "model.kind=vae", "model.corruption=none"],
        "dae": [*overrides, "model.kind=autoencoder", f"model.corruption={corruption}"],
    }
    configs = {label: read_config(recipe, wish, data_dir) for label, wish in wishes.items()}
    for label, wanted in configs.items():
        refuse_another_run(folder / label, wanted)
    for label, wish in wishes.items():
        announce(f"{label}: {NAMES[label]}")
        train_on(recipe, wish, folder / label, device=device, data_dir=data_dir, train_run=train_run)
    where = config.data.path or config.data.root  # where it lies now, also for runs that are there already
    runs = {label: open_run(folder / label, device=device, data_dir=where) for label in wishes}
    models = {label: run.trained for label, run in runs.items()}
    test, train_set = runs["vae"].dataset("test"), runs["vae"].dataset("train")
    if len(test) == 0:
        raise DataError("the test set is empty, so there are no images to compare on; set data.test")
    metrics, shown, scattered = {}, [], []
    held = spread(test, IMAGES)
    originals = content_arrays(models["vae"], held)
    for label, model in models.items():
        found = known_metrics(folder / label, samples=samples, device=device, data_dir=where, announce=announce)
        codes, chosen = codes_of(model, train_set, CODES)
        structure, drawn = _structure(model, label, codes, _labels(train_set, chosen), test)
        metrics[label] = {
            **found,
            **structure,
            "denoised_psnr_db": denoised_psnr(model, configs["dae"].model, test),
            "latent_dim": model.latent_dim,
            "weights": sum(p.numel() for p in model.model.parameters()),
            "data": data_of(runs[label]),
        }
        source, sampled = samples_of(model, codes, IMAGES * SAMPLE_ROWS)
        title = f"{NAMES[label]} · PSNR {found['psnr_db']:.2f} dB"
        shown.append(Shown(title, reconstructions(model, originals, held.labels), source, sampled))
        scattered.append(drawn)
    table = comparison(metrics)
    level = configs["dae"].model.corruption_level
    notes = [f"the autoencoder was trained on corrupted images: {corruption} {level:g}", *table.sentences()]
    picture = comparison_sheet(floats(originals), shown, notes, code_scatter(scattered, test.class_names))
    return Compared(table, [*table.write(folder), plots.save_picture(picture, folder / "compare.png")])


def _labels(dataset: Dataset, chosen: Tensor) -> Array | None:
    return None if dataset.labels is None else dataset.labels[chosen].numpy()


def _structure(
    model: Trained, label: str, codes: Array, labels: Array | None, test: Dataset
) -> tuple[dict[str, float], Scattered]:
    """Accuracies of classes from codes, where there are classes, and the test codes in their principal plane."""
    held, chosen = codes_of(model, test, CODES)
    plane, shares = principal_plane(held)
    held_labels = _labels(test, chosen)
    if labels is None or held_labels is None or len(np.unique(labels)) < 2:
        return {}, Scattered(NAMES[label], plane, shares, None)
    accuracy = probe(codes, labels, held, held_labels)
    title = f"{NAMES[label]}: class by 5 nearest {accuracy.knn:.1%}, by a linear probe {accuracy.linear:.1%}"
    numbers = {"knn_accuracy": accuracy.knn, "linear_accuracy": accuracy.linear}
    return numbers, Scattered(title, plane, shares, held_labels)


@torch.no_grad()
def denoised_psnr(model: Trained, noise: ModelConfig, test: Dataset) -> float:
    """Mean PSNR in dB of the reconstructions of corrupted test images against the clean ones; seeded."""
    chosen = torch.linspace(0, len(test) - 1, min(CODES, len(test))).long()
    some = test.subset(chosen)
    images = some.images.to(model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noisy = corrupted(model.pixels.of_loose_images(images).cpu(), noise.corruption, noise.corruption_level)
    noisy = noisy.to(model.device)
    decoded = []
    for start in range(0, len(noisy), 256):
        part = noisy[start : start + 256]
        context = passes.context_of(model.model, some, start, len(part))
        decoded.append(model.model.decode(model.model.encode(part, context), context).mean)
    clean = model.cropped(images.float() / 255)
    return float(psnr(model.cropped(torch.cat(decoded)).clamp(0, 1), clean).double().mean())
