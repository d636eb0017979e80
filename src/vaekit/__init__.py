"""vaekit: variational autoencoders on images.

>>> from vaekit import evaluate, load, train
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaekit.anomalies import rank_anomalies
    from vaekit.build import vae
    from vaekit.compare.denoising import compare_dae
    from vaekit.compare.runs import compare_runs
    from vaekit.errors import VaekitError
    from vaekit.loaders import fit
    from vaekit.pictures import picture_run
    from vaekit.reconstructions import reconstruct_images
    from vaekit.runs import evaluate, train
    from vaekit.sweep import run_sweep
    from vaekit.trained import Trained, load

__version__ = "0.1.0"
__all__ = [
    "Trained",
    "VaekitError",
    "compare_dae",
    "compare_runs",
    "evaluate",
    "fit",
    "load",
    "picture_run",
    "rank_anomalies",
    "reconstruct_images",
    "run_sweep",
    "train",
    "vae",
]

_HOMES = {
    "Trained": "vaekit.trained",
    "VaekitError": "vaekit.errors",
    "compare_dae": "vaekit.compare.denoising",
    "compare_runs": "vaekit.compare.runs",
    "evaluate": "vaekit.runs",
    "fit": "vaekit.loaders",
    "load": "vaekit.trained",
    "picture_run": "vaekit.pictures",
    "rank_anomalies": "vaekit.anomalies",
    "reconstruct_images": "vaekit.reconstructions",
    "run_sweep": "vaekit.sweep",
    "train": "vaekit.runs",
    "vae": "vaekit.build",
}


def __getattr__(name: str) -> Any:
    # lazily: the command line answers --help without waiting seconds for torch
    if name not in _HOMES:
        raise AttributeError(f"module 'vaekit' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
