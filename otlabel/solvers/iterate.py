"""Where a solve stands: the state that all solvers move, with one stopping rule."""

import math
from operator import mul

import torch
from torch import Tensor

from otlabel.absorbed import DIRECT_RANGE, REACH, AbsorbedKernel
from otlabel.problem import LabelProblem
from otlabel.result import LastPass
from otlabel.solvers.system import System

# Below this tolerance the kernel is kept in float64: rounding of float32 limits the marginal error to about 1e-7.
FLOAT32_TOL = 5e-7
# Problems of a batch are copied apart from those that are done once these are a quarter of at least so many, and have
# so many entries: passes over fewer cost less than the calls to copy.
COMPACT_FROM = 8
COMPACT_SHARE = 4
COMPACT_ENTRIES = 2**16
# Size of exponents up to which none is shifted: times duals of a range of 50 the sums stay inside float32.
LARGEST_UNSHIFTED = 25.0
# Size of the prior's largest exponent up to which float32 adds it accurately.
LARGEST_PRIOR = 25.0
# Size of exponents that float32 rounds by less than a thousandth: annealing needs no more.
LARGEST_ROUGH = 1e4
# Of Newton's system, relative to its diagonal, at first.
FIRST_DAMPING = 1e-3
# Most that one Newton step moves one dual, at first. Clipping each class, not scaling the step, keeps a class whose
# samples are all decided from freezing the others.
LONGEST_STEP = 12.0
# No column of an absorbed kernel counts as emptier than this: its dual would leave the dtype.
EMPTIEST = {torch.float32: 1e-30, torch.float64: 1e-300}
# Logarithms of factors up to which no column can be that empty, if no entry is forbidden: they add to FLOOR.
HARMLESS_MOVE = {torch.float32: -1.0, torch.float64: 70.0}
# An error below ROUNDED that STUCK_LOOKS looks did not lessen by a fiftieth is rounding of float32.
ROUNDED = 1e-4
STUCK_LOOKS = 8
# So few numbers are summed faster on the host than by calls.
HOST_ENTRIES = 32


def has_one_shift(problem: LabelProblem, cooling: float = 1.0) -> bool:
    """Whether the exponentials need one shift only, not one for each row: the range is known to be small.

    Where a mask forbids labels the duals may leave that range all the same.
    """
    kernel = problem.kernel
    if kernel.has_infinities or kernel.scale is None:
        return False
    return problem.exponent_range <= cooling * DIRECT_RANGE and abs(problem.prior_peak) <= cooling * LARGEST_PRIOR


class Iterate:
    """Where a solve stands: an absorbed kernel, the factor by which the duals moved since, and the last pass there.

    Everything has a leading batch dimension of the problems still under way. Classes without mass take part as if
    their share and their column were one, so that no solver meets 0 / 0.

    Attributes:
        factor: exp(v - v0), float64.
        sums: Column sums before the factor.
        marginal: b.
        passes: Passes over the scores so far.
        errors: L1 error of each problem at the last look, on the host.
        damping: Of Newton's method, for each problem.
        longest_step: Most that Newton's method moves a dual at once.
        system: Buffers of Newton's method.
    """

    def __init__(
        self, problem: LabelProblem, tol: float | None, init: Tensor | None = None, block: Tensor | None = None
    ) -> None:
        self.problem, self.tol, self.init = problem, tol, init
        precise = tol is not None and tol < FLOAT32_TOL
        self.kernel = self._whole = AbsorbedKernel(problem.kernel, precise=precise, block=block)
        self.passes = 0
        self.next_recentre = 1  # passes after which Sinkhorn's iteration asks whether to absorb anew
        self.cooling = 1.0
        self.errors: list[float] = []
        self.longest_step = LONGEST_STEP
        self.system: System | None = None
        self._sums_labels = False
        self._least_error, self._stuck_looks = math.inf, 0
        self._most_moved = 0.0  # bound on the size of log factor
        self._mass: Tensor | None = None
        self._gradient: Tensor | None = None
        self._ended = [0] * problem.kernel.scores.shape[0]  # passes after which each was done, 0 if it is not
        empty = problem.empty
        self._marginal = problem.marginal if empty is None else problem.marginal.masked_fill(empty, 1.0)
        self._admit_all()

    def _admit_all(self) -> None:
        self.kernel, self.empty, self.marginal = self._whole, self.problem.empty, self._marginal
        self.damping = [FIRST_DAMPING] * self.marginal.shape[0]
        self._index = list(range(self.marginal.shape[0]))
        self._open: Tensor | None = None  # which of the present problems may move; None for all

    # ------------------------------------------------------------------ moving

    def start(self, cooling: float = 1.0) -> None:
        """Make the kernel at v = 0, from where duals may move far."""
        if has_one_shift(self.problem, cooling) and not self.problem.kernel.has_holes:
            self.absorb_direct(cooling)
        else:
            self.absorb(torch.zeros_like(self.marginal), cooling)

    def absorb_direct(self, cooling: float = 1.0) -> None:
        """Make the kernel at v = 0, without looking at row maxima."""
        problem = self.problem
        assert problem.top is not None  # noqa: S101 - for the type checker
        is_shifted = problem.largest_exponent > cooling * LARGEST_UNSHIFTED
        self.cooling = cooling
        self.kernel.absorb_direct(*((problem.top, problem.prior_peak) if is_shifted else (0.0, 0.0)), cooling)
        self._at_rest()

    def go_on_from(self, block: Tensor, shift: Tensor | float, factor: Tensor) -> None:
        """Start where other work on the same problem ended: on its exponentials, where they fit, else at its duals."""
        if self.kernel.block.data_ptr() == block.data_ptr():
            self.kernel.log_v, self.kernel.shift = None, shift
            self._at_rest()
            self.factor, self._most_moved = factor, math.inf
        else:
            self.absorb(factor.log())

    def absorb(self, log_v: Tensor, cooling: float = 1.0) -> None:
        """Make the kernel anew at `log_v`."""
        self.cooling = cooling
        log_v = log_v if self.empty is None else log_v.masked_fill(self.empty, -torch.inf)
        self.kernel.absorb(log_v, cooling, is_rough=cooling > 1.0 and self._may_be_rough(cooling))
        self._at_rest()

    def _may_be_rough(self, cooling: float) -> bool:
        """Whether exponents in float32 are good enough to anneal with."""
        kernel = self.problem.kernel
        has_all = not kernel.has_holes and kernel.scale is not None
        return has_all and self.problem.largest_exponent <= cooling * LARGEST_ROUGH

    def _at_rest(self) -> None:
        self.factor = torch.ones_like(self.marginal)
        self._most_moved = 0.0

    @property
    def log_v(self) -> Tensor:
        """Class duals of the present problems; anything finite for classes without mass."""
        return self.log_v_at(self.factor)

    def log_v_at(self, factor: Tensor) -> Tensor:
        """Class duals at `factor`."""
        log_v = factor.log()
        if self.kernel.log_v is not None:
            log_v = log_v + self.kernel.log_v
        return log_v if self.empty is None else log_v.masked_fill(self.empty, 0.0)

    def move(self, factor: Tensor, most_moved: float = math.inf) -> None:
        """One pass at `factor`, whose logarithm is at most `most_moved` in size; what is done stays where it is."""
        if factor is not self.factor:
            self._most_moved = most_moved
            if self.empty is not None:
                factor = factor.masked_fill(self.empty, 1.0)
            self.factor = factor if self._open is None else torch.where(self._open, factor, self.factor)
        sums = self.kernel.sums(self.factor)
        kernel = self.kernel
        may_be_empty = not kernel.is_direct and self._most_moved > HARMLESS_MOVE[kernel.dtype]
        if kernel.kernel.has_holes or may_be_empty:
            sums.clamp_(min=EMPTIEST[kernel.dtype])
        if self.empty is not None:
            sums = sums.masked_fill(self.empty, 1.0)
        self.sums = sums
        self._weigh()
        self.passes += 1

    def _weigh(self) -> None:
        self._mass = self._gradient = None

    @property
    def mass(self) -> Tensor:
        """Column sums of the plan with exact rows, `factor * sums`."""
        if self._mass is None:
            self._mass = self.factor * self.sums
        return self._mass

    @property
    def gradient(self) -> Tensor:
        """Of the semi-dual, `marginal - mass`."""
        if self._gradient is None:
            self._gradient = torch.addcmul(self.marginal, self.factor, self.sums, value=-1)
        return self._gradient

    def position(self, *, absorbs: bool) -> tuple[Tensor, float]:
        """Where `advance` is to start: factor and a bound on its logarithm, or class duals."""
        return (self.log_v, 0.0) if absorbs else (self.factor, self._most_moved)

    def advance(self, start: tuple[Tensor, float], change: Tensor, longest: float, *, absorbs: bool) -> None:
        """One pass at `start` moved by `change`, at most by `longest`; far moves need the kernel absorbed there."""
        point, moved = start
        if not absorbs:
            self.move(change.exp().mul_(point), moved + longest)
            return
        if self._open is not None:
            change = torch.where(self._open, change, 0.0)
        self.absorb(point + change, self.cooling)
        self.move(self.factor)

    def end_on_rows(self, factor: Tensor) -> None:
        """The last pass of a fixed number of iterations: the report takes the column sums from the labels."""
        self.factor, self._most_moved, self._sums_labels = factor, math.inf, True
        self.kernel.finish_rows(factor)
        self.passes += 1

    # ------------------------------------------------------------------ stopping

    def look(self, tol: float, *, final: bool = True) -> bool:
        """Whether all problems meet `tol`; those that do stay where they are, or leave the batch.

        Only in the `final` stage this counts as the end of a problem.
        """
        self.errors = norms(self.gradient)
        if final and self._is_stuck():
            self._sharpen()
            self.errors = norms(self.gradient)
        if min(self.errors) <= tol and self._leave_floor():  # what is done is not looked at again
            self.errors = norms(self.gradient)
        done = [error <= tol for error in self.errors]
        if final:
            for index, met in zip(self._index, done, strict=True):
                if met and not self._ended[index]:
                    self._ended[index] = self.passes
        if all(done):
            return True
        if any(done):
            count, entries = sum(done), sum(done) * self.kernel.block.shape[1:].numel()
            if len(done) >= COMPACT_FROM and COMPACT_SHARE * count >= len(done) and entries >= COMPACT_ENTRIES:
                self._leave(done)
            else:
                self._open = torch.tensor([[not met] for met in done], device=self.marginal.device)
        return False

    def _is_stuck(self) -> bool:
        """Whether rounding of a float32 kernel keeps the error from falling."""
        if self.kernel.dtype != torch.float32:
            return False
        error = max(self.errors)
        if error > ROUNDED or error < 0.98 * self._least_error:
            self._least_error, self._stuck_looks = error, 0
        else:
            self._stuck_looks += 1
        return self._stuck_looks >= STUCK_LOOKS

    def _sharpen(self) -> None:
        """Go on with a kernel in float64."""
        log_v = self.readmit()
        self.kernel = self._whole = AbsorbedKernel(self.problem.kernel, precise=True)
        self.system = None
        self.absorb(log_v, self.cooling)
        self.move(self.factor)
        self.passes -= 1  # the same point again

    def _leave(self, done: list[bool]) -> None:
        """Go on with the problems that are not done."""
        keep = [at for at, met in enumerate(done) if not met]
        index = [self._index[at] for at in keep]
        errors, damping = ([values[at] for at in keep] for values in (self.errors, self.damping))
        self._gather()
        at = torch.tensor(index, device=self.marginal.device)
        self._index, self.errors, self.damping = index, errors, damping
        self.kernel = self._whole.take(at)
        self._all = self.factor, self.sums
        self.marginal, self.factor, self.sums = (value[at] for value in (self.marginal, self.factor, self.sums))
        self._weigh()
        self.empty = None if self.empty is None else self.empty[at]

    def _gather(self) -> None:
        """Bring all problems together where they stand."""
        if self.kernel is not self._whole:
            at = torch.tensor(self._index, device=self.marginal.device)
            self._whole.put(at, self.kernel)
            factor, sums = self._all
            factor[at], sums[at] = self.factor, self.sums
            self._admit_all()
            self.factor, self.sums, self._most_moved = factor, sums, math.inf
            self._weigh()
        self._open = None

    def readmit(self) -> Tensor:
        """Class duals of all problems, which may all move again once the kernel is absorbed."""
        self._gather()
        self.damping = [FIRST_DAMPING] * len(self.damping)
        return self.log_v

    # ------------------------------------------------------------------ reach of the absorbed kernel

    def stay_in_reach(self) -> bool:
        """Absorb anew if the duals moved so far that the dtype suffers, and say whether; looks at the device."""
        reach = REACH[self.kernel.dtype]
        is_beyond = 2.0 * self._most_moved > reach and self.spread() > reach
        if is_beyond:
            self.recentre()
        return is_beyond

    def _leave_floor(self) -> bool:
        """`stay_in_reach` before an answer: errors and labels must not rest on entries at the floor, if E has one."""
        return not self.kernel.is_direct and self.stay_in_reach()

    def reaches(self, factor: Tensor) -> bool:
        """Whether the kernel is accurate at `factor`; looks at the device."""
        if self.empty is not None:
            factor = factor.masked_fill(self.empty, 1.0)
        low, high = (value.item() for value in torch.aminmax(factor))
        limit = math.exp(REACH[self.kernel.dtype])
        return high <= limit and low * limit >= 1.0

    def spread(self) -> float:
        """Range by which the duals moved since the kernel was absorbed."""
        low, high = (math.log(max(value.item(), 1e-300)) for value in torch.aminmax(self.factor))
        self._most_moved = max(abs(low), abs(high))
        return high - low

    def recentre(self, *, measures: bool = True) -> None:
        """Absorb at the present duals; the row sums are there after another pass only."""
        mass = self.mass
        self.absorb(self.log_v, self.cooling)
        if measures:
            self.move(self.factor)
            self.passes -= 1  # the same point again
        else:
            self.sums = mass

    # ------------------------------------------------------------------ the end

    @property
    def has_ended(self) -> bool:
        """Whether all problems met the tolerance."""
        return all(self._ended)

    def finish(self) -> tuple[Tensor, LastPass]:
        """Labels and report at the present duals."""
        problem = self.problem
        ended: Tensor | int = self.passes
        met: Tensor | bool = self._ended[0] > 0
        if len(self._ended) > 1:
            met = torch.tensor([passes > 0 for passes in self._ended], device=self.marginal.device)
            ended = torch.tensor([passes or self.passes for passes in self._ended], device=self.marginal.device)
        self._gather()
        if self.tol is not None:
            self._leave_floor()
        labels = self.kernel.labels(self.factor)
        if problem.top is None:
            labels.nan_to_num_(nan=0.0)  # values went unchecked: labels stay finite, the error tells
        measure = LastPass(
            batch_shape=problem.batch_shape,
            strength=problem.kernel.strength,
            weight=problem.kernel.given_weight,
            marginal=problem.given_marginal,
            shift=self.kernel.shift,
            log_v0=self.kernel.log_v,
            row_sum=self.kernel.row_sum,
            factor=self.factor,
            column_sum=None if self._sums_labels else self.sums,
            labels=labels if self._sums_labels else None,
            iterations=ended,
            tol=self.tol,
            met=met,
        )
        return labels, measure


def norms(value: Tensor) -> list[float]:
    """L1 norms of the rows, on the host."""
    if value.numel() <= HOST_ENTRIES:
        return [sum(map(abs, row)) for row in value.tolist()]
    lengths: list[float] = torch.linalg.vector_norm(value, 1, dim=-1).tolist()
    return lengths


def dots(left: Tensor, right: Tensor) -> list[float]:
    """Inner products of the rows, on the host."""
    if left.numel() <= HOST_ENTRIES:
        return [sum(map(mul, *pair)) for pair in zip(left.tolist(), right.tolist(), strict=True)]
    products: list[float] = torch.linalg.vecdot(left, right).tolist()
    return products
