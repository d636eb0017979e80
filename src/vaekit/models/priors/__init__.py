"""p(z): modules that return a distribution of codes, batch () or, given a context, (B,)."""

from vaekit.densities.mixtures import Mixture
from vaekit.models.priors.codes import Codes
from vaekit.models.priors.flow import Flow
from vaekit.models.priors.mixture import GaussianMixture
from vaekit.models.priors.normal import LearnedNormal, NormalPerClass, Prior, StandardNormal
from vaekit.models.priors.vamp import Vamp

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
