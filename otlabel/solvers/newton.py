r"""Newton's method on the semi-dual, whose unknowns are the k class duals alone.

With the rows eliminated, v maximises the concave :math:`F(v) = \langle b, v \rangle - \sum_i a_i \log \sum_j
\exp(L_{ij} + v_j)`; its gradient is :math:`b - p(v)` and its Hessian :math:`-(\mathrm{diag}\, p - P^\top
\mathrm{diag}(a) P)` with P the labels at v. Far from the optimum the plan at small epsilon is nearly hard and the
Hessian says little, so the kernel is annealed: solve for a larger epsilon, shrink it, start from the duals found.
(Cuturi and Peyré, "A Smoothed Dual Approach for Variational Wasserstein Problems", SIAM J. Imaging Sci. 2016, sec. 3;
Brauer et al., "A Sinkhorn-Newton method for entropic optimal transport", 2017; Schmitzer, "Stabilized Sparse Scaling
Algorithms for Entropy Regularized Transport Problems", SIAM J. Sci. Comput. 2019, for the annealing.)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from otlabel.errors import require_count
from otlabel.solvers.base import Solver
from otlabel.solvers.iterate import FIRST_DAMPING, LONGEST_STEP, Iterate, dots
from otlabel.solvers.krylov import conjugate_gradient, sparse_direction
from otlabel.solvers.system import System

# The first annealing stage has exponents of this range, and each next one this much larger ones.
FIRST_RANGE = 16.0
ANNEALING_FACTOR = 5.0
# L1 error at which a stage hands over to the next, and at which Sinkhorn's steps hand over to Newton's.
STAGE_TOL = 0.05
NEWTON_TOL = 0.3
STAGE_PASSES = 30
SETTLING_STEPS = 10
LINE_SEARCHES = 12
# Passes after which a start from given duals is given up.
INIT_PASSES = 60
# Classes up to which the system is solved densely.
DENSE_CLASSES = 256
# Rows of the sampled Hessian, in multiples of k; entries from which it is sampled; error below which Newton's method
# should converge fast.
SAMPLED_ROWS = 64
SAMPLED_FROM = 2**20
NEAR = 0.1


@dataclass(frozen=True)
class Newton(Solver):
    """Settings of damped Newton on the class duals, with annealed epsilon where the scores span many epsilons.

    Attributes:
        max_iter: Most passes over the scores, at least 1.
        tol: Largest L1 error of the class proportions.
        on_failure: What to do when `tol` is missed: `"warn"` (ConvergenceWarning), `"raise"` (ConvergenceError) or
            `"ignore"`.
        dense_classes: Up to so many classes the Newton system is solved densely (k x k for each problem), above by
            conjugate gradients.

    Raises:
        TypeError: If a setting has a wrong type.
        ValueError: If a setting is out of range or unknown.

    Example:
        >>> import torch, otlabel
        >>> result = otlabel.sinkhorn_label(torch.eye(3), epsilon=1e-3, solver=Newton(tol=1e-6))
        >>> bool(result.converged)
        True
    """

    dense_classes: int = DENSE_CLASSES

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_tolerance()
        require_count(self.dense_classes, "dense_classes", "256 is a good value.")

    def _iterate(self, state: Iterate) -> None:
        assert self.tol is not None  # noqa: S101 - checked above
        if not (state.init is not None and climb_from_init(state, self.tol, self.max_iter, self.dense_classes)):
            anneal(state, self.tol, self.max_iter, dense_classes=self.dense_classes)

    @property
    def _relaxed_settings(self) -> tuple[int, int]:
        return self.dense_classes, super()._relaxed_settings[1]


def anneal(state: Iterate, tol: float, max_iter: int, *, dense_classes: int) -> None:
    """Solve for exponents of a small range first, then for larger ones from the duals found."""
    log_v = torch.zeros_like(state.marginal)
    cooling = max(1.0, min(state.problem.exponent_range, 1e300) / FIRST_RANGE)
    while cooling > 1.0 and state.passes + 1 < max_iter:  # the last pass is for the problem itself
        if state.passes == 0:
            state.start(cooling)
        else:
            state.absorb(log_v, cooling)
        state.move(state.factor)
        settle(state, STAGE_TOL, max_iter - 1, final=False)
        stage_iter = min(max_iter - 1, state.passes + STAGE_PASSES)
        climb(state, STAGE_TOL, stage_iter, final=False, dense_classes=dense_classes)
        warmer, cooling = cooling, max(1.0, cooling / ANNEALING_FACTOR)
        log_v = state.readmit() * (warmer / cooling)
        log_v = log_v - log_v.mean(dim=-1, keepdim=True)
    state.absorb(log_v)
    climb_from_here(state, tol, max_iter, dense_classes=dense_classes)


def climb_from_init(state: Iterate, tol: float, max_iter: int, dense_classes: int) -> bool:
    """Solve from the duals given; False where they help so little that annealing from none is better."""
    assert state.init is not None  # noqa: S101 - for the type checker
    state.absorb(state.init)
    limit = min(max_iter, INIT_PASSES)
    if climb_from_here(state, tol, limit, dense_classes=dense_classes) or state.passes >= max_iter:
        return True
    state.readmit()
    return False


def climb_from_here(state: Iterate, tol: float, max_iter: int, *, dense_classes: int) -> bool:
    """Measure, take a few safe steps if the start is poor, then Newton's."""
    state.move(state.factor)
    settle(state, tol, max_iter)
    return climb(state, tol, max_iter, dense_classes=dense_classes)


def settle(state: Iterate, tol: float, max_iter: int, *, final: bool = True) -> None:
    """A few Sinkhorn steps, until Newton's are safe."""
    for _ in range(SETTLING_STEPS):
        if state.look(tol, final=final) or max(state.errors) <= NEWTON_TOL or state.passes >= max_iter:
            return
        # A column that underflowed can be trusted down to the floor of the kernel only.
        state.move(state.factor * (state.marginal / state.mass).clamp_(1e-9, 1e9))
        state.stay_in_reach()


def climb(state: Iterate, tol: float, max_iter: int, *, dense_classes: int, final: bool = True) -> bool:
    """Damped Newton steps; whether all problems meet `tol`."""
    sample = SAMPLED_ROWS * state.marginal.shape[1]
    state.longest_step = LONGEST_STEP
    before = math.inf
    while not state.look(tol, final=final):
        if state.passes >= max_iter:
            return False
        if before <= NEAR and max(state.errors) > 0.25 * before and max(state.damping) < FIRST_DAMPING:
            sample *= 4  # so near the optimum a whole step should gain more: the sample is to blame
        before = max(state.errors)
        gradient = state.gradient
        if state.marginal.shape[1] <= dense_classes:
            direction = dense_direction(state, gradient, sample)
        else:
            direction = iterative_direction(state, gradient)
        ascend(state, gradient, direction, max_iter)
        state.stay_in_reach()
    return True


def dense_direction(state: Iterate, gradient: Tensor, sample: int) -> Tensor:
    """Newton's direction by elimination."""
    factor, sums = state.factor, state.sums
    batch, rows = state.kernel.weight.shape
    stride = rows // sample if batch == 1 and state.kernel.block.numel() > SAMPLED_FROM else 1
    gram = state.kernel.gram(max(1, stride))
    if stride > 1:
        # A sample of the rows gives the correlations between classes; all rows gave the sums on the diagonal.
        level = (sums / torch.matmul(gram, factor[..., None]).squeeze(-1)).sqrt()
        gram = gram * level[:, :, None] * level[:, None, :]
    if state.system is None or state.system.batch != batch:
        state.system = System(sums)
    return state.system.solve(gram, sums, factor, gradient, state.damping)


def iterative_direction(state: Iterate, gradient: Tensor) -> Tensor:
    """Newton's direction by conjugate gradients, on the plan's few large entries where it is sparse."""
    direction = sparse_direction(state, gradient) if state.marginal.shape[0] == 1 else None
    if direction is None:
        direction = conjugate_gradient(state, gradient)
    mass = state.mass
    return direction - (direction * mass).sum(dim=-1, keepdim=True) / mass.sum(dim=-1, keepdim=True)


def ascend(state: Iterate, gradient: Tensor, direction: Tensor, max_iter: int) -> None:
    """Move along the direction, each problem as far as the slope there allows."""
    limit = state.longest_step
    clipped = step = direction.clamp(-limit, limit)
    gains = dots(gradient, step)
    if not all(gain > 0 for gain in gains):  # also where the system gave NaN
        uphill = torch.tensor([[gain > 0] for gain in gains], device=step.device)
        step = torch.where(uphill, step, (state.marginal / state.mass).log().clamp_(-limit, limit))
        gains = dots(gradient, step)
    is_far = limit > LONGEST_STEP
    start, lengths = state.position(absorbs=is_far), [1.0] * len(gains)
    state.advance(start, step, limit, absorbs=is_far)
    for _ in range(LINE_SEARCHES):
        # F is concave: a slope that has not turned clearly negative means that the step did not overshoot. Unlike a
        # comparison of values of F this can be judged in float32.
        slopes = dots(state.gradient, step)
        held = [slope >= -0.5 * gain or gain <= 0 for slope, gain in zip(slopes, gains, strict=True)]
        if all(held) or state.passes >= max_iter:
            break
        lengths = [
            value if fits else value * _shorter(gain, slope)
            for value, fits, gain, slope in zip(lengths, held, gains, slopes, strict=True)
        ]
        length: float | Tensor = lengths[0]
        if len(lengths) > 1:
            length = torch.tensor([[value] for value in lengths], dtype=step.dtype, device=step.device)
        state.advance(start, length * step, limit, absorbs=is_far)
    state.damping = [
        max(0.1 * damping, 1e-7) if value == 1.0 else min(max(10.0 * damping, FIRST_DAMPING), 0.1)
        for damping, value in zip(state.damping, lengths, strict=True)
    ]
    # Where whole steps are cut at the limit and the way still leads uphill as before, the optimum is far away in a flat
    # direction: walk there ever faster. Where it leads downhill, slow down.
    if min(lengths) < 1.0 or any(slope < 0.0 for slope, gain in zip(slopes, gains, strict=True) if gain > 0):
        state.longest_step = max(LONGEST_STEP, 0.25 * limit)
    elif not torch.equal(direction, clipped):
        state.longest_step = 4.0 * limit


def _shorter(gain: float, slope: float) -> float:
    """Where the secant of the slope vanishes, within bounds."""
    return min(max(gain / (gain - slope), 0.1), 0.7) if math.isfinite(slope) else 0.1
