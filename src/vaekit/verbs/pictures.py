"""The pictures of a run, written where the run keeps them."""

from __future__ import annotations

from pathlib import Path

from vaekit import plots
from vaekit.trained.codes import some_rows
from vaekit.trained.model import Trained
from vaekit.trained.run import open_run
from vaekit.verbs.latents import FEWEST_IMAGES, draw_latents
from vaekit.verbs.reconstruct import _save_reconstructions


def pictures(
    run: str | Path, *, which: str = "best", count: int = 10, device: str = "auto", data_dir: str | None = None
) -> list[Path]:
    """Write reconstructions of test images, prior samples, loss curves and the latent space; returns their paths."""
    opened = open_run(run, which=which, device=device, data_dir=data_dir)
    trained, folder, test = opened.trained, opened.folder, opened.dataset("test")
    made = [_save_reconstructions(trained, test, folder, 2 * count)]
    if trained.model.has_prior:
        made.append(_save_samples(trained, folder, 100, 1.0, 0))
    made.append(plots.save_figure(plots.loss_curves(opened.history), folder / "grids" / "loss_curves.png"))
    if len(test) >= FEWEST_IMAGES:
        chosen = test.subset(some_rows(len(test), opened.limit))
        made += draw_latents(opened, opened.use(chosen), chosen, "test").paths
    return made


def _save_samples(trained: Trained, folder: Path, count: int, temperature: float, seed: int) -> Path:
    means = trained.sample_means(count, temperature=temperature, seed=seed).clamp(0, 1).cpu().numpy()
    title = f"{plots.counted(count, 'sample')} from the prior, temperature {temperature:g}"
    grid = plots.labelled_grid(plots.rows_of(means, min(10, count)), title=title)
    return plots.save_picture(grid, folder / "samples" / "prior_samples.png")
