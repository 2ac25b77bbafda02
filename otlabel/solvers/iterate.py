"""Where a solve stands: the state that all solvers move, with one stopping rule."""

import math

import torch
from torch import Tensor

from otlabel.absorbed import DIRECT_RANGE, REACH, AbsorbedKernel
from otlabel.problem import LabelProblem
from otlabel.result import LastPass

# Below this tolerance the kernel is kept in float64: rounding of float32 limits the marginal error to about 1e-7.
FLOAT32_TOL = 5e-7
# Problems of a batch are copied apart from those that are done once these are a quarter of at least so many.
COMPACT_FROM = 8
COMPACT_SHARE = 4
# Size of exponents up to which none is shifted: times duals of a range of 50 the sums stay inside float32.
LARGEST_UNSHIFTED = 25.0
# Of Newton's system, relative to its diagonal, at first.
FIRST_DAMPING = 1e-3
# Most that one Newton step moves one dual, at first. Clipping each class, not scaling the step, keeps a class whose
# samples are all decided from freezing the others.
LONGEST_STEP = 12.0
# No column of an absorbed kernel counts as emptier than this: its dual would leave the dtype.
EMPTIEST = {torch.float32: 1e-30, torch.float64: 1e-300}


def has_one_shift(problem: LabelProblem) -> bool:
    """Whether the exponentials need one shift only, not one for each row: the range is known to be small."""
    kernel = problem.kernel
    return problem.exponent_range <= DIRECT_RANGE and not kernel.has_holes and kernel.scale is not None


class Iterate:
    """Where a solve stands: an absorbed kernel, the factor by which the duals moved since, and the last pass there.

    Everything has a leading batch dimension of the problems still under way. Classes without mass take part as if
    their share and their column were one, so that no solver meets 0 / 0.

    Attributes:
        factor: exp(v - v0), float64.
        sums: Column sums before the factor.
        mass: Column sums of the plan with exact rows, `factor * sums`.
        marginal: b.
        passes: Passes over the scores so far.
        errors: L1 error of each problem at the last look, on the host.
        damping: Of Newton's method, for each problem.
        longest_step: Most that Newton's method moves a dual at once.
    """

    def __init__(self, problem: LabelProblem, tol: float | None, init: Tensor | None = None) -> None:
        self.problem, self.tol, self.init = problem, tol, init
        self.kernel = self._whole = AbsorbedKernel(problem.kernel, precise=tol is not None and tol < FLOAT32_TOL)
        self.passes = 0
        self.next_recentre = 1  # passes after which Sinkhorn's iteration asks whether to absorb anew
        self.cooling = 1.0
        self.errors: list[float] = []
        self.longest_step = LONGEST_STEP
        self._sums_labels = False
        self._ended = [0] * problem.marginal.shape[0]  # passes after which each was done, 0 if it is not
        self._admit_all()

    def _admit_all(self) -> None:
        problem = self.problem
        self.kernel, self.empty = self._whole, problem.empty
        self.marginal = problem.marginal if self.empty is None else problem.marginal.masked_fill(self.empty, 1.0)
        self.damping = [FIRST_DAMPING] * self.marginal.shape[0]
        self._index = list(range(self.marginal.shape[0]))
        self._open: Tensor | None = None  # which of the present problems may move; None for all

    # ------------------------------------------------------------------ moving

    def absorb_direct(self) -> None:
        """Make the kernel at v = 0, without looking at row maxima."""
        top = self.problem.top
        assert top is not None  # noqa: S101 - for the type checker
        self.kernel.absorb_direct(top if self.problem.largest_exponent > LARGEST_UNSHIFTED else 0.0)
        self._at_rest()

    def absorb(self, log_v: Tensor, cooling: float = 1.0) -> None:
        """Make the kernel anew at `log_v`."""
        self.cooling = cooling
        self.kernel.absorb(log_v if self.empty is None else log_v.masked_fill(self.empty, -torch.inf), cooling)
        self._at_rest()

    def _at_rest(self) -> None:
        self.factor = torch.ones_like(self.marginal)

    @property
    def log_v(self) -> Tensor:
        """Class duals of the present problems; anything finite for classes without mass."""
        log_v = self.factor.log()
        if self.kernel.log_v is not None:
            log_v = log_v + self.kernel.log_v
        return log_v if self.empty is None else log_v.masked_fill(self.empty, 0.0)

    def move(self, factor: Tensor) -> None:
        """One pass at `factor`; problems that are done stay where they are."""
        if self.empty is not None:
            factor = factor.masked_fill(self.empty, 1.0)
        self.factor = factor if self._open is None else torch.where(self._open[:, None], factor, self.factor)
        sums = self.kernel.sums(self.factor)
        if not self.kernel.is_direct:
            sums.clamp_(min=EMPTIEST[self.kernel.dtype])
        if self.empty is not None:
            sums = sums.masked_fill(self.empty, 1.0)
        self.sums = sums
        self.mass = self.factor * sums
        self.passes += 1

    def position(self) -> tuple[Tensor, Tensor]:
        """Where the present point is: factor, and class duals."""
        return self.factor, self.log_v

    def advance(self, start: tuple[Tensor, Tensor], change: Tensor, *, absorbs: bool) -> None:
        """One pass at `start` moved by `change`; far moves need the kernel absorbed there."""
        factor, log_v = start
        if not absorbs:
            self.move(factor * change.exp())
            return
        if self._open is not None:
            change = torch.where(self._open[:, None], change, 0.0)
        self.absorb(log_v + change, self.cooling)
        self.move(self.factor)

    def end_on_rows(self, factor: Tensor) -> None:
        """The last pass of a fixed number of iterations: the report takes the column sums from the labels."""
        self.factor, self._sums_labels = factor, True
        self.kernel.finish_rows(factor)
        self.passes += 1

    # ------------------------------------------------------------------ stopping

    def look(self, tol: float, *, final: bool = True) -> bool:
        """Whether all problems meet `tol`; those that do stay where they are, or leave the batch.

        Only in the `final` stage this counts as the end of a problem.
        """
        self.errors = (self.mass - self.marginal).abs().sum(dim=-1).tolist()
        if min(self.errors) <= tol and self._leave_floor():  # what is done is not looked at again
            self.errors = (self.mass - self.marginal).abs().sum(dim=-1).tolist()
        done = [error <= tol for error in self.errors]
        if final:
            for index, met in zip(self._index, done, strict=True):
                if met and not self._ended[index]:
                    self._ended[index] = self.passes
        if all(done):
            return True
        if any(done):
            if len(done) >= COMPACT_FROM and COMPACT_SHARE * sum(done) >= len(done):
                self._leave(done)
            else:
                self._open = torch.tensor([not met for met in done], device=self.marginal.device)
        return False

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
        self.marginal, self.factor, self.sums, self.mass = (
            value[at] for value in (self.marginal, self.factor, self.sums, self.mass)
        )
        self.empty = None if self.empty is None else self.empty[at]

    def _gather(self) -> None:
        """Bring all problems together where they stand."""
        if self.kernel is not self._whole:
            at = torch.tensor(self._index, device=self.marginal.device)
            self._whole.put(at, self.kernel)
            factor, sums = self._all
            factor[at], sums[at] = self.factor, self.sums
            self._admit_all()
            self.factor, self.sums, self.mass = factor, sums, factor * sums
        self._open = None

    def readmit(self) -> Tensor:
        """Class duals of all problems, which may all move again once the kernel is absorbed."""
        self._gather()
        self.damping = [FIRST_DAMPING] * len(self.damping)
        return self.log_v

    # ------------------------------------------------------------------ reach of the absorbed kernel

    def stay_in_reach(self) -> bool:
        """Absorb anew if the duals moved so far that the dtype suffers, and say whether; looks at the device."""
        is_beyond = self.spread() > REACH[self.kernel.dtype]
        if is_beyond:
            self.recentre()
        return is_beyond

    def _leave_floor(self) -> bool:
        """`stay_in_reach` before an answer: errors and labels must not rest on entries at the floor, if E has one."""
        return not self.kernel.is_direct and self.stay_in_reach()

    def spread(self) -> float:
        """Range by which the duals moved since the kernel was absorbed."""
        low, high = torch.aminmax(self.factor)
        return math.log(max(high.item(), 1e-300)) - math.log(max(low.item(), 1e-300))

    def recentre(self, *, measures: bool = True) -> None:
        """Absorb at the present duals; the row sums are there after another pass only."""
        mass = self.mass
        self.absorb(self.log_v, self.cooling)
        if measures:
            self.move(self.factor)
            self.passes -= 1  # the same point again
        else:
            self.sums = self.mass = mass

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
