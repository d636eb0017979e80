"""All scores of one set of codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from vaekit.data.dataset import Factors
from vaekit.evaluation.disentanglement.importance import dci
from vaekit.evaluation.disentanglement.information import entropies, mig, modularity, mutual_information, sap, sap_limit
from vaekit.evaluation.disentanglement.interventions import beta_vae_score, factor_vae_score
from vaekit.evaluation.disentanglement.labelled import labelled

Array = np.ndarray[Any, Any]
Representation = Callable[[Tensor], Array]  # images (N, C, H, W), as they are given → codes (N, D)


class FactorScore(NamedTuple):
    """A number, what codes that know nothing get, and what perfect ones get."""

    name: str
    value: float
    chance: float
    best: float


@dataclass(frozen=True)
class Disentanglement:
    """The scores that the factors allow, and the mutual information of every dimension with every factor."""

    scores: tuple[FactorScore, ...]
    information: Array  # (D, F), nats
    entropies: Array  # (F,), nats: the most that `information` can be
    factors: tuple[str, ...]
    images: int
    notes: tuple[str, ...]  # what was left out, and why

    def __getitem__(self, name: str) -> float:
        """The value of a score. KeyError where it was left out."""
        return {score.name: score.value for score in self.scores}[name]


def score_codes(codes: Any, factors: Factors, seed: int = 0) -> Disentanglement:
    """MIG, SAP, modularity, DCI and the FactorVAE and β-VAE scores of codes (N, D) beside the factors of their images.

    Images are taken as a sample of the world: where factors go together in it, no score can tell them apart. What a
    single factor or dimension leaves undefined is named in `notes`. Errors are those of `labelled`.

    Example:
        >>> import torch
        >>> values = torch.cartesian_prod(torch.arange(20), torch.arange(20))
        >>> found = score_codes(values.numpy(), Factors(values, ("x", "y"), (20, 20), (True, True)))
        >>> [round(found[name], 3) for name in ("mig", "sap", "factor_vae")]
        [1.0, 1.0, 1.0]
    """
    data = labelled(codes, factors)
    count, forests = len(data.sizes), dci(data, seed)
    rows = (
        ("mig", mig(data), 0.0, 1.0),
        ("sap", sap(data), 0.0, sap_limit(data)),
        ("dci_disentanglement", forests.disentanglement, 0.0, 1.0),
        ("dci_completeness", forests.completeness, 0.0, 1.0),
        ("dci_informativeness", forests.informativeness, forests.chance, 1.0),
        ("factor_vae", factor_vae_score(data, seed), 1 / count, 1.0),
        ("beta_vae", beta_vae_score(data, seed), 1 / count, 1.0),
        ("modularity", modularity(data), 0.0, 1.0),
    )
    scores = tuple(FactorScore(name, value, chance, best) for name, value, chance, best in rows if value is not None)
    absent = [name for name, value, _, _ in rows if value is None]
    why = "one factor" if count == 1 else "one dimension"
    notes = data.notes + ((f"left out, for {why} leaves nothing to say: {', '.join(absent)}",) if absent else ())
    return Disentanglement(scores, mutual_information(data), entropies(data), data.names, len(data.codes), notes)


def score_representation(
    representation: Representation, images: Tensor, factors: Factors, seed: int = 0
) -> Disentanglement:
    """The same of a function from images to codes (N, D), asked once for all images."""
    return score_codes(representation(images), factors, seed)
