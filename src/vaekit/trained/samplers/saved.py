"""Samplers on disk: `<run>/samplers/<kind>/`, safetensors and JSON, bound to the checkpoint they were fitted to."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as to_safetensors

from vaekit.errors import CheckpointError, ConfigError, suggest
from vaekit.files import PARTIAL, held_to_sum, storage_errors, with_sum
from vaekit.trained.model import Trained
from vaekit.trained.samplers.flow import FlowSampler
from vaekit.trained.samplers.mixture import MixtureSampler

Array = np.ndarray[Any, Any]
FORMAT = 1
MOST_COLUMNS = 1024  # of codes that a sampler is fitted to
HELD_OUT = 0.1  # of the codes, to say how well a sampler describes what it was not fitted to


class Sampler(Protocol):
    """A density over codes, fitted after training to the aggregate posterior. It needs a `package` to be fitted."""

    package: str

    @classmethod
    def fit(cls, codes: Array, *, seed: int = 0) -> Self: ...

    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Array: ...

    def log_prob(self, codes: Array) -> Array: ...

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]: ...

    @classmethod
    def restore(cls, tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> Self: ...


SAMPLERS: Mapping[str, type[Sampler]] = {"mixture": MixtureSampler, "flow": FlowSampler}


class Fitted:
    """A sampler, and what is known about its fit: kind, seed, codes, checkpoint, held_out_nats, facts of its kind."""

    def __init__(self, sampler: Sampler, facts: Mapping[str, Any]) -> None:
        self.sampler, self.facts = sampler, dict(facts)


def sampler_named(kind: str) -> type[Sampler]:
    """A line of SAMPLERS. ConfigError for another name."""
    if kind not in SAMPLERS:
        raise ConfigError(f"unknown sampler '{kind}'; {suggest(kind, ['prior', *SAMPLERS])}")
    return SAMPLERS[kind]


def lacking(kind: str) -> str | None:
    """The package that a sampler of this kind needs and that is not installed."""
    package = sampler_named(kind).package
    return None if importlib.util.find_spec(package) else package


def fit_sampler(trained: Trained, kind: str, codes: Array, *, seed: int = 0) -> Fitted:
    """Fit to samples (N, D) of q(z | x) of training images, not to means alone: decoders expect the spread too.

    `held_out_nats` is the mean log-density of a tenth of the codes under a fit to the others, and
    `held_out_prior_nats` that under the prior: what the sampler gains is the difference.
    """
    family = sampler_named(kind)
    if codes.shape[1] > MOST_COLUMNS:
        raise ConfigError(
            f"a sampler of {codes.shape[1]:,} columns would take gigabytes and minutes, {MOST_COLUMNS:,} is the most; "
            "choose --group where there are several, fewer model.latent.channels or places, or sample from the prior"
        )
    if len(codes) < 2:
        raise ConfigError(f"a sampler cannot be fitted to {len(codes)} codes; give 2 or more images")
    order = np.random.default_rng(seed).permutation(len(codes))
    held = max(1, int(HELD_OUT * len(codes)))
    sampler = family.fit(codes[order[held:]], seed=seed)
    facts = {
        "kind": kind,
        "seed": seed,
        "codes": len(codes) - held,
        "held_out_nats": float(np.mean(sampler.log_prob(codes[order[:held]]))),
        "held_out_prior_nats": _prior_log_prob(trained, codes[order[:held]]),
        **_identity(trained),
    }
    return Fitted(sampler, facts)


def save_sampler(run: Path, fitted: Fitted) -> Path:
    """Write <run>/samplers/<kind>/, whole or not at all; returns the folder."""
    folder = sampler_folder(run, fitted.facts["kind"])
    tensors, shape = fitted.sampler.state()
    data = to_safetensors({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    facts = {"format": FORMAT, **fitted.facts, **shape, "sha256": hashlib.sha256(data).hexdigest()}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    with storage_errors(run):
        try:
            temporary.mkdir(parents=True)
            (temporary / "sampler.safetensors").write_bytes(data)
            (temporary / "sampler.json").write_text(
                json.dumps(with_sum(facts), indent=1) + "\n", encoding="utf-8", newline="\n"
            )
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_sampler(run: Path, trained: Trained, kind: str) -> Fitted:
    """The saved sampler. CheckpointError where there is none, a byte changed, or it belongs to other weights."""
    family, folder = sampler_named(kind), sampler_folder(run, kind)
    try:
        facts = held_to_sum(json.loads((folder / "sampler.json").read_text(encoding="utf-8"))) or {}
        data = (folder / "sampler.safetensors").read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no sampler; fit one with vaekit sample --sampler {kind}") from None
    except ValueError:
        raise CheckpointError(f"{folder / 'sampler.json'} is damaged: it is not JSON; fit it again") from None
    if facts.get("format") != FORMAT or facts.get("sha256") != hashlib.sha256(data).hexdigest():
        raise CheckpointError(
            f"{folder} is damaged or of another format: its SHA-256 is not the one noted; fit it again"
        )
    own = _identity(trained)
    if facts["weights_sha256"] != own["weights_sha256"]:
        raise CheckpointError(
            f"the {kind} sampler was fitted to {facts['checkpoint']}, "
            f"not to the weights of {own['checkpoint']}; fit it again"
        )
    return Fitted(family.restore(parse_safetensors(data), facts), facts)


def sampler_for(
    run: Path,
    trained: Trained,
    kind: str,
    codes: Callable[[], Array],
    *,
    seed: int = 0,
    announce: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """The run's sampler of a kind: the saved one, or a new one fitted to `codes()` and saved; `announce` hears why."""
    sampler_named(kind)
    if sampler_folder(run, kind).exists():
        try:
            return load_sampler(run, trained, kind)
        except CheckpointError as error:
            announce(f"{error}: done now")
    fitted = fit_sampler(trained, kind, codes(), seed=seed)
    folder = save_sampler(run, fitted)
    announce(_said(fitted, folder))
    return fitted


def _said(fitted: Fitted, folder: Path) -> str:
    """What was fitted, and whether it describes codes that it has not seen better than the prior does."""
    facts = fitted.facts
    found, prior = facts["held_out_nats"], facts["held_out_prior_nats"]
    text = f"fitted the {facts['kind']} sampler to {facts['codes']:,} codes of training images, saved in {folder}"
    if prior is None:
        return f"{text}; a code that it has not seen has a log-density of {found:.2f} nats"
    if found >= prior:
        return f"{text}; codes that it has not seen are {found - prior:.2f} nats more likely than under the prior"
    return (
        f"{text}; but codes that it has not seen are {prior - found:.2f} nats less likely than under the prior: sample "
        "from the prior (--sampler prior), or give it more images"
    )


def sampler_folder(run: Path, kind: str) -> Path:
    """Where a run keeps its sampler of a kind."""
    return run / "samplers" / kind


@torch.no_grad()
def _prior_log_prob(trained: Trained, codes: Array) -> float | None:
    if not trained.model.one_group:
        return None
    p, z = trained.model.p_of_classes(), trained.layout.codes(torch.as_tensor(codes, device=trained.device))[0]
    if z is None or not p.has_rsample:  # a mass says nothing beside a density
        return None
    if not p.batch_shape:
        return float(p.log_prob(z).double().mean())
    each = p.log_prob(z[:, None]).double()  # (N, classes)
    return float((each.logsumexp(1) - math.log(each.shape[1])).mean())


def _identity(trained: Trained) -> dict[str, str]:
    digest = hashlib.sha256()
    for name, value in sorted(trained.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return {"checkpoint": f"step-{trained.step:08d}", "weights_sha256": digest.hexdigest()}
