"""Samplers fitted after training to the aggregate posterior: often better samples than another model would give."""

from vaekit.trained.samplers.saved import (
    SAMPLERS,
    Fitted,
    Sampler,
    fit_sampler,
    lacking,
    load_sampler,
    sampler_folder,
    sampler_for,
    sampler_named,
    save_sampler,
)

__all__ = [
    "SAMPLERS",
    "Fitted",
    "Sampler",
    "fit_sampler",
    "lacking",
    "load_sampler",
    "sampler_folder",
    "sampler_for",
    "sampler_named",
    "save_sampler",
]
