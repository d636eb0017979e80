"""vaekit: variational autoencoders on images.

>>> from vaekit import evaluate, load, train
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaekit.build import vae
    from vaekit.errors import VaekitError
    from vaekit.pictures import picture_run
    from vaekit.runs import evaluate, train
    from vaekit.trained import Trained, load

__version__ = "0.1.0"
__all__ = ["Trained", "VaekitError", "evaluate", "load", "picture_run", "train", "vae"]

_HOMES = {
    "Trained": "vaekit.trained",
    "VaekitError": "vaekit.errors",
    "evaluate": "vaekit.runs",
    "load": "vaekit.trained",
    "picture_run": "vaekit.pictures",
    "train": "vaekit.runs",
    "vae": "vaekit.build",
}


def __getattr__(name: str) -> Any:
    # lazily: the command line answers --help without waiting seconds for torch
    if name not in _HOMES:
        raise AttributeError(f"module 'vaekit' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
