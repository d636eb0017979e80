"""Small models with each posterior, for the tests of them."""

import torch
from laws import SMALL

from vaekit.config.schema import Part
from vaekit.models.build import POSTERIORS, PRIORS, vae

SHAPE = (1, 6, 5)
FLOWS = ("iaf", "maf")
QUANTISED = ("vq", "fsq")
OPTIONS = {
    "iaf": {"widths": (16,), "context": 5},
    "maf": {"widths": (16,), "context": 5, "transforms": 3},
    "vq": {"codes": 8, "groups": 2},
    "fsq": {"levels": (3, 4)},
}


def model_of(posterior, prior=None, dims=4, dtype=torch.float64, **options):
    torch.manual_seed(0)
    prior = prior or ("codes" if POSTERIORS[posterior].discrete else "standard")
    part, classes = Part(posterior, {**OPTIONS.get(posterior, {}), **options}), 3 if PRIORS[prior].of_class else 0
    return vae(SHAPE, dims, SMALL, posterior=part, prior=prior, classes=classes).to(dtype)


def given(model, count):
    """The context of so many images, where the model wants one."""
    return torch.arange(count) % model.classes if model.classes else None


def images(count=3, dtype=torch.float64):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype).round()


def shaken(model, size=0.5):
    """The model with weights far from where they start, so that no map is the identity."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.posterior.parameters():
            weight += size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return model


def flow_of(kind, dims=4, dtype=torch.float64, count=3):
    """q(z | x) of a shaken flow: batch (count,)."""
    return shaken(model_of(kind, dims=dims, dtype=dtype)).q(images(count, dtype))


def noise_of(q, samples=5, seed=3):
    shape = (samples, *q.batch_shape, *q.noise_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=q.loc.dtype)
