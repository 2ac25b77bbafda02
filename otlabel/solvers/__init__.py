"""Algorithms that find the duals of a labelling problem: frozen settings objects, called on a problem."""

from otlabel.solvers.anderson import Anderson
from otlabel.solvers.auto import Auto
from otlabel.solvers.base import Solver
from otlabel.solvers.newton import Newton
from otlabel.solvers.sinkhorn import Sinkhorn

__all__ = ["Anderson", "Auto", "Newton", "Sinkhorn", "Solver"]
