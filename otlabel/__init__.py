"""Self-labelling by optimal transport: scores in, labels that meet your class proportions out."""

from otlabel import marginals, priors
from otlabel.errors import ConvergenceError, ConvergenceWarning, InfeasibleProblemError, NumericalWarning
from otlabel.graphs import CapturedLabeler
from otlabel.labelers import sinkhorn_label, sinkhorn_marginal_label, sinkhorn_prior_label
from otlabel.result import LabelResult, Status
from otlabel.solvers import Anderson, Auto, Newton, Sinkhorn, Solver

__version__ = "0.1.0"

__all__ = [
    "Anderson",
    "Auto",
    "CapturedLabeler",
    "ConvergenceError",
    "ConvergenceWarning",
    "InfeasibleProblemError",
    "LabelResult",
    "Newton",
    "NumericalWarning",
    "Sinkhorn",
    "Solver",
    "Status",
    "marginals",
    "priors",
    "sinkhorn_label",
    "sinkhorn_marginal_label",
    "sinkhorn_prior_label",
]
