"""The table of checks, and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from vaekit.errors import ConfigError, one_line, suggest
from vaekit.selftest import bounds, divergences, durability, estimates, likelihoods, objectives
from vaekit.selftest.figure import Check, Figure, NotHere
from vaekit.training.device import available_devices, choose_device

CHECKS: Mapping[str, Check] = {
    "sums": Check("a discrete likelihood sums to 1 (1, 5, 8 bits)", likelihoods.worst_sum, 1e-10),
    "sums-float32": Check("and in float32", likelihoods.worst_single_precision_sum, 2e-5),
    "integrals": Check("a density integrates to 1", likelihoods.worst_integral, 1e-10),
    "codes": Check("a posterior or prior integrates to 1", divergences.worst_integral_of_codes, 1e-6),
    "optional": Check("every part can be checked here: absent ones", divergences.parts_that_are_not_here, 0.0),
    "kl": Check("closed-form KL is the sampled one: standard errors", divergences.worst_in_standard_errors, 4.0),
    "kl-relative": Check("and relatively, above 0.1 nats", divergences.worst_relative, 0.005),
    "exact-elbo": Check("ELBO of the exact posterior is log p(x): nats", bounds.elbo_of_exact_posterior, 1e-9),
    "exact-weights": Check("and so is every importance weight: nats", bounds.weights_of_exact_posterior, 1e-9),
    "ppca": Check("a trained linear VAE reaches probabilistic PCA: nats", bounds.gap_of_training, 1e-6),
    "one-sample": Check("IWAE with one sample is the ELBO: nats", bounds.one_sample_bound, 1e-9),
    "order": Check("ELBO ≤ IWAE 2 ≤ … ≤ IWAE 1000: largest fall, nats", bounds.largest_fall, 0.0),
    "thousand": Check("IWAE 1000 is close to log p(x): nats", bounds.gap_of_thousand_samples, 0.05),
    "annealing": Check("annealed importance sampling returns log p(x): nats", estimates.gap_of_annealing, 0.05),
    "doubly": Check(
        "DReG and IWAE gradients agree on average: standard errors", objectives.difference_of_gradients, 4.0
    ),
    "aggregate": Check(
        "stratified sampling is unbiased for q(z): standard errors", objectives.bias_of_stratified_sampling, 4.0
    ),
    "duplicated": Check("an image counted twice changes no term: relative", objectives.change_by_duplication, 1e-6),
    "two-networks": Check(
        "no loss or step of one network touches the other: weights", objectives.weights_that_the_other_touched, 0.0
    ),
    "bf16": Check("networks in bf16 change the ELBO little: relative", estimates.change_by_half_precision, 1e-3),
    "perfect-code": Check(
        "a perfect code has the best of every score: distance", estimates.perfect_codes_short_of_the_best, 0.01
    ),
    "noise-code": Check("and noise that of chance: distance", estimates.noise_above_chance, 0.05),
    "batches": Check("bounds do not depend on batch or chunk: relative", bounds.spread_over_batches, 1e-6),
    "company": Check("nor on the order and company of images: relative", bounds.spread_over_company, 1e-6),
    "devices": Check("the ELBO is the same on CPU and accelerator: relative", bounds.difference_from_cpu, 1e-4),
    "saved": Check("a saved and loaded model is the same: largest difference", durability.change_by_saving, 0.0),
    "resumed": Check("a killed and resumed run is the same: files that differ", durability.files_that_differ, 0.0),
}


def run_checks(
    only: Sequence[str] = (), *, device: str = "auto", announce: Callable[[str, int, int], Any] = lambda *now: None
) -> Iterator[Figure]:
    """Each figure as soon as it is known; all of them, or `only` some. `announce` hears name, position, count.

    `auto` is the fastest device that knows float64. Nothing is written but in a temporary folder. ConfigError for an
    unknown name or device.
    """
    for name in only:
        if name not in CHECKS:
            raise ConfigError(f"unknown check '{name}'; {suggest(name, CHECKS)}")
    fastest = "cuda" if "cuda" in available_devices() else "cpu"
    place = choose_device(fastest if device == "auto" else device)
    chosen = [name for name in CHECKS if name in only or not only]
    return (_figure(name, place, announce, now, len(chosen)) for now, name in enumerate(chosen))


def _figure(name: str, device: torch.device, announce: Callable[[str, int, int], Any], now: int, count: int) -> Figure:
    announce(name, now, count)
    return judge(name, CHECKS[name], device)


def judge(name: str, check: Check, device: torch.device) -> Figure:
    """Make one check. Whatever it raises is its failure."""
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(cuda):  # the same numbers whichever checks ran before
            torch.manual_seed(0)
            value = float(check.measure(device))
    except NotHere as reason:
        return Figure(name, check.law, None, check.limit, "not here", str(reason))
    except Exception as error:  # a broken law may show itself as any error
        return Figure(name, check.law, None, check.limit, "fail", f"{type(error).__name__}: {one_line(error)}")
    return Figure(name, check.law, value, check.limit, "ok" if value <= check.limit else "fail")
