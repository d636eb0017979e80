"""p(z): modules that return a distribution of codes, batch () or, given a context, (B,)."""

from vaekit.priors.codes import Codes
from vaekit.priors.flow import Flow
from vaekit.priors.mixture import GaussianMixture, Mixture
from vaekit.priors.normal import LearnedNormal, NormalPerClass, Prior, StandardNormal
from vaekit.priors.vamp import Vamp

__all__ = [
    "Codes",
    "Flow",
    "GaussianMixture",
    "LearnedNormal",
    "Mixture",
    "NormalPerClass",
    "Prior",
    "StandardNormal",
    "Vamp",
]
