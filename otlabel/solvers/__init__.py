"""Algorithms that find the duals of a labelling problem: frozen settings objects, called on a problem."""

from otlabel.solvers.sinkhorn import Sinkhorn

__all__ = ["Sinkhorn"]
