"""How much of a codebook a quantised model uses on a data set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.data import passes
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.codebooks import Quantised, UniformCodes
from vaekit.models.model import Model


class CodeUse(NamedTuple):
    """How often each row of the codebook is chosen, over all images and groups: int64 (codes,)."""

    counts: Tensor

    @property
    def used(self) -> int:
        """Rows that are chosen at all."""
        return int((self.counts > 0).sum())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the choices: as many rows, equally often chosen, would be as hard to guess.

        Example:
            >>> round(CodeUse(torch.tensor([5, 5, 0, 5, 5])).perplexity, 6)
            4.0
        """
        share = self.counts.double() / self.counts.sum().clamp_min(1)
        return float(torch.special.entr(share).sum().exp())

    def metrics(self) -> dict[str, int | float]:
        """For metrics.json; `codes_chances` is how many rows could have been used by so many choices."""
        total, chances = len(self.counts), min(len(self.counts), int(self.counts.sum()))
        return {
            "codes_used": self.used,
            "codes_total": total,
            "codes_chances": chances,
            "code_perplexity": self.perplexity,
        }


@torch.no_grad()
def code_use(model: Model, dataset: Dataset, pixels: Pixels, seed: int, *, batch: int = 500) -> CodeUse | None:
    """Counts over a data set, every image once; None for a model without a codebook."""
    if not model.one_group or not isinstance(prior := model.p_of_classes(), UniformCodes):
        return None
    rows = len(prior.codebook)
    counts = torch.zeros(rows, dtype=torch.int64)
    for _, _, x, context in passes.over(model, dataset, pixels, seed, batch=batch):
        q = model.q(x, context)
        assert isinstance(q, Quantised)
        counts += torch.bincount(q.index.flatten(), minlength=rows).cpu()
    return CodeUse(counts)
