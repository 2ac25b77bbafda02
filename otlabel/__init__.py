"""Self-labelling by optimal transport: scores in, labels that meet your class proportions out."""

from otlabel import marginals, priors
from otlabel.errors import ConvergenceError, ConvergenceWarning, InfeasibleProblemError, NumericalWarning
from otlabel.labelers import sinkhorn_label, sinkhorn_marginal_label, sinkhorn_prior_label
from otlabel.result import LabelResult, Status
from otlabel.solvers import Sinkhorn

__version__ = "0.1.0"

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "InfeasibleProblemError",
    "LabelResult",
    "NumericalWarning",
    "Sinkhorn",
    "Status",
    "marginals",
    "priors",
    "sinkhorn_label",
    "sinkhorn_marginal_label",
    "sinkhorn_prior_label",
]
