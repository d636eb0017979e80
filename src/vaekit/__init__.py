"""vaekit: variational autoencoders on images.

>>> from vaekit import evaluate, load, train
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaekit.errors import VaekitError
    from vaekit.models.build import vae
    from vaekit.trained.model import Trained, load
    from vaekit.verbs.anomalies import anomalies as rank_anomalies
    from vaekit.verbs.compare import compare as compare_runs
    from vaekit.verbs.compare_dae import compare_dae
    from vaekit.verbs.evaluate import evaluate
    from vaekit.verbs.fit import fit
    from vaekit.verbs.pictures import pictures as picture_run
    from vaekit.verbs.reconstruct import reconstruct as reconstruct_images
    from vaekit.verbs.sweep import sweep as run_sweep
    from vaekit.verbs.train import train

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

_HOMES = {  # public name: module, and its name there; a verb's function is called like its command
    "Trained": ("vaekit.trained.model", "Trained"),
    "VaekitError": ("vaekit.errors", "VaekitError"),
    "compare_dae": ("vaekit.verbs.compare_dae", "compare_dae"),
    "compare_runs": ("vaekit.verbs.compare", "compare"),
    "evaluate": ("vaekit.verbs.evaluate", "evaluate"),
    "fit": ("vaekit.verbs.fit", "fit"),
    "load": ("vaekit.trained.model", "load"),
    "picture_run": ("vaekit.verbs.pictures", "pictures"),
    "rank_anomalies": ("vaekit.verbs.anomalies", "anomalies"),
    "reconstruct_images": ("vaekit.verbs.reconstruct", "reconstruct"),
    "run_sweep": ("vaekit.verbs.sweep", "sweep"),
    "train": ("vaekit.verbs.train", "train"),
    "vae": ("vaekit.models.build", "vae"),
}


def __getattr__(name: str) -> Any:
    # lazily: the command line answers --help without waiting seconds for torch
    if name not in _HOMES:
        raise AttributeError(f"module 'vaekit' has no attribute '{name}'")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
