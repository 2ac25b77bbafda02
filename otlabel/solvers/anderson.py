r"""Anderson acceleration of Sinkhorn's iteration on the class duals.

The fixed-point map :math:`v \mapsto v + \log b - \log p(v)` is extrapolated from a few past residuals by least squares,
weighted by :math:`\sqrt{b}` (Anderson 1965; Walker and Ni, "Anderson Acceleration for Fixed-Point Iterations", SIAM J.
Numer. Anal. 2011).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from otlabel.errors import require_count
from otlabel.solvers.base import Solver
from otlabel.solvers.history import History
from otlabel.solvers.iterate import Iterate
from otlabel.solvers.sinkhorn import first_column_step

# Longest accelerated step, in units of the duals; beyond it the plain step is taken.
LONGEST_STEP = 5.0
LONGEST_PLAIN_STEP = 20.0
# A step that leaves more than so many times the least error so far is taken back.
WORSE = 1.5
# Steps that together should gain a tenth, else extrapolation stalls.
STALLED_STEPS = 12


@dataclass(frozen=True)
class Anderson(Solver):
    """Settings of Anderson-accelerated Sinkhorn: cheaper than Newton's where many classes meet a large epsilon.

    Attributes:
        max_iter: Most passes over the scores, at least 1.
        tol: Largest L1 error of the class proportions.
        on_failure: What to do when `tol` is missed: `"warn"` (ConvergenceWarning), `"raise"` (ConvergenceError) or
            `"ignore"`.
        memory: Past steps that are combined.

    Raises:
        TypeError: If a setting has a wrong type.
        ValueError: If a setting is out of range or unknown.

    Example:
        >>> import torch, otlabel
        >>> bool(otlabel.sinkhorn_label(torch.eye(3), epsilon=0.5, solver=Anderson(tol=1e-6)).converged)
        True
    """

    memory: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_tolerance()
        require_count(self.memory, "memory", "Eight is a good value.")

    def _iterate(self, state: Iterate) -> None:
        assert self.tol is not None  # noqa: S101 - checked above
        state.move(first_column_step(state))
        accelerate(state, self.tol, self.max_iter, memory=self.memory)

    @property
    def _relaxed_settings(self) -> tuple[int, int]:
        return 0, self.memory


def accelerate(state: Iterate, tol: float, max_iter: int, *, memory: int) -> None:
    """Accelerated steps until `tol` or `max_iter` passes."""
    history = History(memory)
    errors: list[float] = []
    best: list[float] = []
    safe: Tensor | None = None
    plain, pause = 0, 1  # plain steps still to take, and how many after the next failure
    while not state.look(tol):
        if state.passes >= max_iter:
            return
        errors.append(max(state.errors))
        if len(best) != len(state.errors):  # at the start, and after problems left the batch
            history, best, safe = History(memory), list(state.errors), None
        state.stay_in_reach()
        dual, residual = state.log_v, (state.marginal / state.mass).log()
        worse = [error > WORSE * least for error, least in zip(state.errors, best, strict=True)]
        best = [min(pair) for pair in zip(state.errors, best, strict=True)]
        if any(worse) and safe is not None:
            # Back to the plain step from the last point, which a Sinkhorn step never makes worse, and forget the rest.
            astray = torch.tensor(worse, device=dual.device)[:, None]
            change = torch.where(astray, safe - dual, residual)
            best = [math.inf if bad else least for bad, least in zip(worse, best, strict=True)]
            history, safe = History(memory), None
            # Where extrapolation fails again and again, this becomes Sinkhorn's iteration.
            plain, pause = pause, 2 * pause
        elif not plain and len(errors) >= STALLED_STEPS and errors[-1] > 0.9 * errors[-STALLED_STEPS]:
            history, safe, change = History(memory), None, residual
            plain, pause = pause, 2 * pause
        elif plain:
            change, plain = residual, plain - 1
        else:
            change = history.extrapolate(dual, residual, state.marginal)
            long = change.abs().amax(dim=-1, keepdim=True) > LONGEST_STEP
            change = torch.where(long | ~change.isfinite().all(dim=-1, keepdim=True), residual, change)
            safe = dual + residual
        state.move(state.factor * change.clamp_(-LONGEST_PLAIN_STEP, LONGEST_PLAIN_STEP).exp())
