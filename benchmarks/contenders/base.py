"""What a contender is: it prepares its own form of a problem once, and then answers calls."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.workloads import Problem


@dataclass(frozen=True)
class Ask:
    """What one call is asked for: a number of iterations, or a tolerance.

    Attributes:
        iterations: Exactly so many, one number a problem.
        tol: The contender's own tolerance.
        max_iter: Where a contender with a test of its own has to give up; None leaves it alone.
        expected: Iterations that plain Sinkhorn needs, if known: a contender may look at its error that often.
    """

    iterations: tuple[int, ...] | None = None
    tol: float | None = None
    max_iter: int | None = None
    expected: int | None = None

    @property
    def most(self) -> int:
        """Iterations of a loop that treats the batch as one."""
        return max(self.iterations)


Run = Callable[[Ask], Any]

# How a contender knows when to stop: it is told the number of iterations that the float64 reference needed; the number
# is searched for, because its iteration is not Sinkhorn's; or it has a test of its own.
Stop = Literal["told", "searched", "own test"]


class Contender:
    """A way to balance labels.

    Attributes:
        name: As in the tables, unique.
        family: Colour in the plot.
        modules: What it needs to import; the first is looked up to see whether it is installed.
        stop: How it knows when to stop.
        fixed: Whether a run of exactly three iterations means something for it.
        loops: Whether a batch is solved one problem after the other, each with its own number of iterations.
        copies: Estimate of the most memory it holds at once, inputs included, in multiples of float32 scores.
        compiles: Whether a first call takes longer, by a compilation that is not timed.
        cuda: Whether it runs on a CUDA device.
        on_torch: Whether torch sees its memory.
    """

    name: str
    family: str
    modules: tuple[str, ...] = ()
    stop: Stop = "told"
    fixed: bool = True
    loops: bool = False
    compiles: bool = False
    copies: float = 4.0
    cuda: bool = True
    on_torch: bool = True

    def prepare(self, problem: Problem) -> Run:
        """Convert the inputs and return the call that is timed."""
        raise NotImplementedError

    def plan(self, answer: Any) -> Tensor:
        """The plan or the labels as a tensor (*batch, n, k) of any scale; not timed, rows are scaled by the check."""
        if isinstance(answer, list):
            answer = torch.stack(answer) if isinstance(answer[0], Tensor) else np.stack(answer)
            answer = answer if len(answer) > 1 else answer[0]
        return answer if isinstance(answer, Tensor) else torch.from_numpy(np.array(answer))

    def iterations(self, answer: Any) -> int | None:  # noqa: ARG002 - most do not tell
        """Iterations that the answer took, as far as it tells."""
        return None

    def settings(self, tol: float) -> Iterator[float]:
        """Own tolerances to try for an L1 error of `tol`, the loosest first; norms differ between libraries."""
        for factor in (1, 0.3, 0.1, 0.03, 0.01):
            yield factor * tol

    def most_iterations(self, problem: Problem, run: Run, seconds: float) -> int | None:  # noqa: ARG002 - see above
        """Iterations that fit into a time, for a contender that nothing can interrupt."""
        return None

    def first_run(self, problem: Problem, ask: Ask, seconds: float) -> str:  # noqa: ARG002 - as above
        """Make the call where it can be ended, if it cannot be interrupted: why it failed, or an empty string."""
        return ""

    def absent(self, problem: Problem, *, cuda: bool) -> str:
        """Why it does not take part, or an empty string."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                return "not installed" if error.name == module.split(".")[0] else f"cannot be imported: {error}"
        return "no CUDA" if cuda and not self.cuda else self.unfit(problem)

    def unfit(self, problem: Problem) -> str:  # noqa: ARG002 - most take every problem
        """Why it cannot take this problem, or an empty string."""
        return ""
