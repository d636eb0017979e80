"""Every number of one model on one data set, flat, with the unit in the key."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from vaekit.data import passes
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels, content_of
from vaekit.densities.noise import no_noise
from vaekit.errors import DataError
from vaekit.evaluation.code_use import code_use
from vaekit.evaluation.fidelity import SCALE_WEIGHTS, ms_ssim, ms_ssim_scales, psnr, ssim
from vaekit.evaluation.information import information, takes_too_long
from vaekit.evaluation.latents import LatentUse, latent_use
from vaekit.evaluation.likelihood import Bounds, bounds
from vaekit.models.likelihoods import Likelihood
from vaekit.models.model import Model
from vaekit.networks.pretrained.lpips import Lpips

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The flat metrics of metrics.json, and the arrays behind them where the model has latents."""

    metrics: Metrics
    bounds: Bounds | None
    latents: LatentUse | None


def expected_seconds(model: Model, dataset: Dataset, pixels: Pixels, samples: int, seed: int) -> float:
    """How long the bounds will take, by a timed run on a few images."""
    if not model.has_posterior:
        return 0.0
    few = dataset.subset(torch.arange(min(len(dataset), 64)))
    part = min(samples, 64)
    bounds(model, few, pixels, part, seed)  # the first pass warms up
    began = time.perf_counter()
    bounds(model, few, pixels, part, seed)
    return (time.perf_counter() - began) * (len(dataset) / len(few)) * (samples / part)


def evaluate_model(
    model: Model,
    dataset: Dataset,
    pixels: Pixels,
    *,
    samples: int = 100,
    seed: int = 0,
    content_size: tuple[int, int] | None = None,
    lpips: Lpips | None = None,
    progress: Callable[[float], None] = lambda share: None,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Bounds, bits/dim, PSNR, SSIM, MS-SSIM and latent use over the data set, every image once; LPIPS where given.

    `samples` is K of the importance-weighted bound; `content_size`, (height, width) without padding, is what bits/dim
    and the scores of reconstructions count. What one image or one sample cannot say (standard errors, active units) is
    left out. The model is put into evaluation mode. DataError for an empty data set.
    """
    if len(dataset) == 0:
        raise DataError("there are no images to evaluate on; give the split some, or evaluate another with --split")
    model.eval()
    content = content_size or dataset.shape[1:]
    found, use = None, None
    metrics: Metrics = {}
    if model.has_posterior:
        found = bounds(model, dataset, pixels, samples, seed, progress=progress, say=say)
        use = latent_use(model, dataset, pixels, seed)
        metrics |= _bound_metrics(found, model.likelihood, pixels, dataset.shape[0] * math.prod(content))
        metrics["latent_dim"] = len(use.active)
        if len(dataset) > 1:  # of one image there is no spread to measure
            metrics["active_units"] = int(use.active.sum())
            if not use.discrete:  # a finite set of codes is no normal: how it is used is counted instead
                metrics |= {"aggregate_kl_nats": use.aggregate_gap_nats} if use.has_covariance else {}
        counted = code_use(model, dataset, pixels, seed)
        metrics |= counted.metrics() if counted else {}
        told = information(model, dataset, pixels, seed)
        metrics |= told.metrics() if told else {}
        if takes_too_long(model.layout.width, len(dataset)):
            say(f"mutual information is left out: of codes of {model.layout.width:,} numbers it takes minutes")
        if not use.has_covariance:
            say(f"aggregate_kl_nats is left out: it needs the covariances of {model.layout.width:,} numbers")
    metrics |= _reconstruction_metrics(model, dataset, pixels, content, seed, lpips)
    metrics |= {
        "images": len(dataset),
        "seed": seed,
        "base_measure": model.likelihood.base_measure,
        "is_likelihood": model.likelihood.family.is_likelihood,
        "binarization": pixels.binarization,
        "dequantization": pixels.dequantization,
        "data_bits": pixels.bits,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
    return Evaluation(metrics, found, use)


def _bound_metrics(found: Bounds, likelihood: Likelihood, pixels: Pixels, dims: int) -> Metrics:
    metrics: Metrics = {
        "elbo_nats": float(found.elbo.mean()),
        "distortion_nats": float(found.distortion.mean()),
        "rate_nats": float(found.rate.mean()),
    }
    if not likelihood.family.is_likelihood:  # its "bound" bounds nothing: no likelihood is reported
        return metrics
    errors = {"nll_se_nats": found.nll_se_nats, "nll_sampling_se_nats": found.nll_sampling_se_nats}
    metrics |= {
        "nll_nats": found.nll_nats,
        **{name: error for name, error in errors.items() if error is not None},
        "nll_samples": found.samples,
        "effective_samples": float(found.effective_samples.mean()),
    }
    offset = bits_offset(likelihood.base_measure, pixels)
    if offset is not None:
        metrics["bits_per_dim"] = found.nll_nats / (math.log(2) * dims) + offset
        metrics["elbo_bits_per_dim"] = -float(found.elbo.mean()) / (math.log(2) * dims) + offset
    return metrics


def bits_offset(measure: str, pixels: Pixels) -> float | None:
    """What to add to nats / (ln 2 · dims): 0 for discrete values, their bits for dequantised ones, else None."""
    if measure.startswith("discrete") or measure == "binary":
        return 0.0
    return float(pixels.bits) if measure == "density" and pixels.dequantization else None


@torch.no_grad()
def _reconstruction_metrics(
    model: Model, dataset: Dataset, pixels: Pixels, content: tuple[int, int], seed: int, lpips: Lpips | None
) -> Metrics:
    """Decoded mean at the mean code against the 8-bit image, without padding, whatever noise or bits the model saw."""
    device = next(model.parameters()).device
    scores = {"psnr_db": psnr, "ssim": ssim, "ms_ssim": ms_ssim} | ({"lpips": lpips.to(device)} if lpips else {})
    sums = dict.fromkeys((*scores, "distortion_nats", "distortion_without_code_nats"), 0.0)
    middle = model.centre() if model.has_prior and not model.classes else None  # once: a flow's takes long
    for _, images, x, context in passes.over(model, dataset, pixels, seed, batch=250):
        trace = model(x, 1, no_noise, context)
        decoded, target = trace.px.mean[0].clamp(0, 1).float(), images.float() / 255
        decoded, target = content_of(decoded, content), content_of(target, content)  # padding is too easy to count
        for name, score in scores.items():
            sums[name] += float(score(decoded, target).double().sum())
        sums["distortion_nats"] -= float(trace.log_px.double().sum())
        if model.has_prior:
            codes = model.centre(context) if middle is None else middle
            groups = zip(codes, model.layout.groups, strict=True)
            without = model.decode(tuple(code.expand(1, len(x), *group.event) for code, group in groups), context)
            sums["distortion_without_code_nats"] -= float(without.log_prob(x).double().sum())
    means: Metrics = {name: total / len(dataset) for name, total in sums.items()}
    # the bounds have a VAE's distortion, averaged over the posterior; an autoencoder has no prior mean to decode
    del means["distortion_nats" if model.has_posterior else "distortion_without_code_nats"]
    return means | {"ms_ssim_scales": ms_ssim_scales(*content)} | ({"lpips_sha256": lpips.sha256} if lpips else {})


def headline(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value with unit) rows for a table, the most telling first."""
    rows: list[tuple[str, str]] = []

    def add(key: str, name: str, form: str) -> None:
        if key in metrics:
            rows.append((name, form.format(metrics[key])))

    if "nll_nats" in metrics:
        error = f" ± {metrics['nll_se_nats']:.2f}" if "nll_se_nats" in metrics else ""
        value = f"{metrics['nll_nats']:.2f}{error} nats"
        rows.append((f"NLL (importance-weighted, K = {metrics['nll_samples']})", value))
    add(
        "elbo_nats", "ELBO" if metrics.get("is_likelihood") else "ELBO (of a loss that is no likelihood)", "{:.2f} nats"
    )
    add("distortion_nats", "distortion", "{:.2f} nats")
    add("rate_nats", "rate (KL)", "{:.2f} nats")
    rows += _information_rows(metrics)
    add("bits_per_dim", "bits per dimension", "{:.3f}")
    if "effective_samples" in metrics:
        rows.append(("effective samples", f"{metrics['effective_samples']:.1f} of {metrics['nll_samples']}"))
    add("psnr_db", "PSNR of reconstructions", "{:.2f} dB")
    add("ssim", "SSIM of reconstructions", "{:.3f}")
    if "ms_ssim" in metrics:
        scales = f"{metrics['ms_ssim_scales']} of {len(SCALE_WEIGHTS)} scales"
        rows.append(("MS-SSIM of reconstructions", f"{metrics['ms_ssim']:.3f} ({scales})"))
    if "lpips" in metrics or "lpips_unavailable" in metrics:
        rows.append(("LPIPS of reconstructions", f"{metrics['lpips']:.4f}" if "lpips" in metrics else "unavailable"))
    if "active_units" in metrics:
        rows.append(("active units", f"{metrics['active_units']} of {metrics['latent_dim']}"))
    if "codes_used" in metrics:
        used = f"{metrics['codes_used']} of {metrics['codes_total']} (perplexity {metrics['code_perplexity']:.1f})"
        rows.append(("codes used", used))
    return rows


def _information_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of the rate, each with its standard error; whether I is as large as so many images can show."""
    if "mutual_information_nats" not in metrics:
        return []

    def said(key: str) -> str:
        return f"{metrics[f'{key}_nats']:.2f} ± {metrics[f'{key}_se_nats']:.2f} nats"

    most = f"log {metrics['information_images']:,} = {metrics['mutual_information_ceiling_nats']:.2f}"
    limit = f" (saturated: at most {most}; I may be more)" if metrics["mutual_information_saturated"] else ""
    rows = [
        ("  of which I(x; z)", said("mutual_information") + limit),
        ("  of which KL(q(z) ‖ p(z))", said("aggregate_kl_mc")),
    ]
    if "total_correlation_nats" in metrics:
        rows.append(("    of which total correlation", said("total_correlation")))
        rows.append(("    of which KL of each dimension", said("dimension_kl")))
    return rows
