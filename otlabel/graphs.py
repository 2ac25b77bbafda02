"""Truncated labels as a CUDA graph: captured once for each shape, replayed without the cost of launching kernels."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from otlabel.errors import require
from otlabel.result import LabelResult, LastPass, Report
from otlabel.solvers import Sinkhorn, Solver

# Runs before the capture, on a side stream: they load kernels and let the allocator settle, as CUDA graphs need.
WARM_UP_RUNS = 3


@dataclass(frozen=True)
class _Capture:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    result: LabelResult


class CapturedLabeler:
    """A labeler whose calls on CUDA tensors are captured as a graph and replayed for repeated shapes.

    Only the truncated solver can be captured, because a tolerance needs the host to look at the error. The results are
    those of the labeler itself; labels and duals are copies, so they survive the next call. On the CPU the labeler is
    called as it is.

    Args:
        labeler: `sinkhorn_label`, `sinkhorn_marginal_label` or `sinkhorn_prior_label`.
        solver: Settings with `tol=None`.
        options: Keyword arguments of the labeler that stay the same: numbers, or tensors, whose values are read at
            every call.

    Raises:
        TypeError: If `labeler` is not callable or `solver` not a solver.
        ValueError: If `solver` has a tolerance.

    Example:
        >>> import otlabel
        >>> label = CapturedLabeler(otlabel.sinkhorn_label, solver=otlabel.Sinkhorn(max_iter=3, tol=None))
        >>> label(torch.eye(3)).hard_labels
        tensor([0, 1, 2])
    """

    def __init__(self, labeler: Callable[..., LabelResult], *, solver: Solver, **options: Any) -> None:
        if not callable(labeler):
            raise TypeError(
                f"`labeler` must be a function such as otlabel.sinkhorn_label, got {type(labeler).__name__}. Pass one."
            )
        if not isinstance(solver, Solver):
            raise TypeError(
                f"`solver` must be a settings object such as Sinkhorn(), got {type(solver).__name__}. Build one."
            )
        require(
            isinstance(solver, Sinkhorn) and solver.tol is None,
            "`solver` must have a fixed number of iterations, got {}. Use Sinkhorn(max_iter=3, tol=None).",
            solver,
        )
        self.labeler, self.solver, self.options = labeler, solver, options
        self._captures: dict[Hashable, _Capture] = {}

    def __call__(self, scores: Tensor, *arguments: Tensor, **options: Any) -> LabelResult:
        """Labels of `scores`, with further arguments of the labeler; see there."""
        options = {**self.options, **options}
        if not getattr(scores, "is_cuda", False):
            return self.labeler(scores, *arguments, solver=self.solver, **options)
        given = {str(at): value for at, value in enumerate((scores, *arguments))}
        given |= {name: value for name, value in options.items() if isinstance(value, Tensor)}
        fixed = {name: value for name, value in options.items() if name not in given}
        key = (
            tuple(sorted(fixed.items())),
            tuple((name, value.shape, value.dtype, value.device) for name, value in sorted(given.items())),
        )
        if key not in self._captures:
            self._captures[key] = self._capture(given, fixed, 1 + len(arguments))
        capture = self._captures[key]
        for name, value in capture.inputs.items():
            value.copy_(given[name])
        capture.graph.replay()
        return _copy(capture.result)

    def _capture(self, given: dict[str, Tensor], fixed: dict[str, Any], positional: int) -> _Capture:
        inputs = {name: value.detach().clone() for name, value in given.items()}

        def run() -> LabelResult:
            arguments = [inputs[str(at)] for at in range(positional)]
            named = {name: value for name, value in inputs.items() if not name.isdigit()}
            return self.labeler(*arguments, solver=self.solver, **named, **fixed)

        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
        return _Capture(graph, inputs, result)


def _copy(result: LabelResult) -> LabelResult:
    """The result, safe from the next replay."""
    measure, labels = result.measure, result.labels.clone()
    if isinstance(measure, LastPass | Report):
        values = {f.name: getattr(measure, f.name) for f in fields(measure)}
        changes: dict[str, Any] = {name: value.clone() for name, value in values.items() if isinstance(value, Tensor)}
        if isinstance(measure, LastPass) and measure.labels is not None:
            changes["labels"] = labels
        measure = replace(measure, **changes)
    return replace(result, labels=labels, measure=measure)
