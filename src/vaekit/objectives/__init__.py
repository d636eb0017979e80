"""Trace to scalar: nats per example, mean over the batch; lower is better. A file for each family.

The keyword-only parameters of an objective are its options in a config; the facts of the run come before them.
"""

from vaekit.objectives.adversarial import adversarial, factor
from vaekit.objectives.constrained import capacity, geco
from vaekit.objectives.evidence import Elbo, elbo
from vaekit.objectives.importance import iwae
from vaekit.objectives.learned import Learned
from vaekit.objectives.matching import mmd
from vaekit.objectives.needs import Facts, Needs, needs_of
from vaekit.objectives.total_correlation import total_correlation

__all__ = [
    "Elbo",
    "Facts",
    "Learned",
    "Needs",
    "adversarial",
    "capacity",
    "elbo",
    "factor",
    "geco",
    "iwae",
    "mmd",
    "needs_of",
    "total_correlation",
]
