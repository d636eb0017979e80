"""How codes (N, D) hold known factors (N, F): MIG, SAP, modularity, DCI, and the scores of FactorVAE and β-VAE.

`score_codes` gives all of them; each is also a function of `labelled(codes, factors)`.
"""

from vaekit.evaluation.disentanglement.importance import Dci, dci
from vaekit.evaluation.disentanglement.information import entropies, mig, modularity, mutual_information, sap, sap_limit
from vaekit.evaluation.disentanglement.interventions import beta_vae_score, factor_vae_score
from vaekit.evaluation.disentanglement.labelled import Labelled, labelled
from vaekit.evaluation.disentanglement.scores import Disentanglement, FactorScore, score_codes, score_representation

__all__ = [
    "Dci",
    "Disentanglement",
    "FactorScore",
    "Labelled",
    "beta_vae_score",
    "dci",
    "entropies",
    "factor_vae_score",
    "labelled",
    "mig",
    "modularity",
    "mutual_information",
    "sap",
    "sap_limit",
    "score_codes",
    "score_representation",
]
