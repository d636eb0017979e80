"""The pictures of a run, written where the run keeps them."""

from __future__ import annotations

from pathlib import Path

import torch

from vaekit import plots, sampling
from vaekit.checkpoint import load_checkpoint, locate
from vaekit.data.dataset import Dataset
from vaekit.errors import DataError
from vaekit.latentspace import FEWEST_IMAGES, OpenRun, draw_latents
from vaekit.runs import dataset_of, run_folder
from vaekit.trained import Trained, load


def picture_run(
    run: str | Path, *, which: str = "best", count: int = 10, device: str = "auto", data_dir: str | None = None
) -> list[Path]:
    """Write reconstructions of test images, prior samples, loss curves and the latent space; returns their paths."""
    folder = run_folder(Path(run))
    trained = load(run, which=which, device=device)
    test = dataset_of(trained, "test", data_dir)
    made = [_save_reconstructions(trained, test, folder, 2 * count)]
    if trained.config.model.kind == "vae":
        made.append(_save_samples(trained, folder, 100, 1.0, 0))
    # the whole training, also where the best checkpoint is not the last
    history = load_checkpoint(locate(Path(run), "latest"), ()).state["progress"]["history"]
    made.append(plots.save_figure(plots.loss_curves(history), folder / "grids" / "loss_curves.png"))
    if len(test) >= FEWEST_IMAGES:
        opened = OpenRun(folder, trained, data_dir)
        chosen = test.subset(sampling.some_rows(len(test), opened.limit))
        made += draw_latents(opened, opened.use(chosen), chosen, "test")
    return made


def reconstruct_test_images(
    run: str | Path, count: int = 20, *, which: str = "best", device: str = "auto", data_dir: str | None = None
) -> Path:
    """grids/recon_grid.png from images spread over the test set."""
    trained = load(run, which=which, device=device)
    return _save_reconstructions(trained, dataset_of(trained, "test", data_dir), run_folder(Path(run)), count)


def _save_reconstructions(trained: Trained, dataset: Dataset, folder: Path, count: int) -> Path:
    if len(dataset) == 0:
        raise DataError("the test set is empty, so there is nothing to reconstruct; give image files")
    chosen = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long()
    images = dataset.subset(chosen)
    decoded = trained.cropped(trained.reconstruct_prepared(images)).cpu().numpy()
    rows = plots.reconstruction_rows(trained.cropped(images.images).numpy() / 255, decoded)
    names = ["test image", "reconstruction", "difference"] * (len(rows) // 3)
    title = f"{plots.counted(len(images), 'test image')}, decoded from mean codes; differences are absolute"
    sheet = plots.labelled_grid(rows, title=title, row_labels=names)
    return plots.save_picture(sheet, folder / "grids" / "recon_grid.png")


def _save_samples(trained: Trained, folder: Path, count: int, temperature: float, seed: int) -> Path:
    means = trained.sample_means(count, temperature=temperature, seed=seed).clamp(0, 1).cpu().numpy()
    title = f"{plots.counted(count, 'sample')} from the prior, temperature {temperature:g}"
    grid = plots.labelled_grid(plots.rows_of(means, min(10, count)), title=title)
    return plots.save_picture(grid, folder / "samples" / "prior_samples.png")
