"""What the tests share: a problem as plain data, the solver settings of an exact answer, a recorder of differences."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from otlabel import (
    Anderson,
    Auto,
    LabelResult,
    Newton,
    Sinkhorn,
    Solver,
    sinkhorn_label,
    sinkhorn_marginal_label,
    sinkhorn_prior_label,
)

# Far below every tolerance used here; "ignore" because float32 labels cannot show 1e-12 and say so.
EXACT = Sinkhorn(max_iter=200_000, tol=1e-12, on_failure="ignore")
# The others to the same accuracy; with one dense class Newton's method takes its conjugate-gradient branch.
FAST = {
    "Auto": Auto(tol=EXACT.tol, on_failure="ignore"),
    "Newton": Newton(tol=EXACT.tol, on_failure="ignore"),
    "Newton, conjugate gradients": Newton(tol=EXACT.tol, on_failure="ignore", dense_classes=1),
    "Anderson": Anderson(tol=EXACT.tol, on_failure="ignore"),
}
SOLVERS = {"Sinkhorn": EXACT, **FAST}


@dataclass(frozen=True)
class Problem:
    """Arguments of one labelling problem; the fields that are set choose the labeler.

    `solver` is the one that `label` and `label_roughly` use unless they are told another.
    """

    scores: Tensor
    epsilon: float | Tensor = 0.5
    sample_weight: Tensor | None = None
    marginal: Tensor | None = None
    log_prior: Tensor | None = None
    prior_weight: float = 1.0
    mask: Tensor | None = None
    solver: Solver = EXACT

    def label_roughly(self) -> LabelResult:
        """Labels whose marginals are off by up to 1e-2."""
        return self.label(replace(self.solver, tol=1e-2, on_failure="warn"))

    def label(self, solver: Solver | None = None, init: LabelResult | None = None) -> LabelResult:
        """Call the labeler that takes what is set, and insist on convergence where it was asked for."""
        solver = self.solver if solver is None else solver
        common = {
            "epsilon": self.epsilon,
            "sample_weight": self.sample_weight,
            "mask": self.mask,
            "solver": solver,
            "init": init,
        }
        if self.log_prior is not None:
            result = sinkhorn_prior_label(
                self.scores,
                log_prior=self.log_prior,
                prior_weight=self.prior_weight,
                marginal=self.marginal,
                **common,
            )
        elif self.marginal is not None:
            result = sinkhorn_marginal_label(self.scores, self.marginal, **common)
        else:
            result = sinkhorn_label(self.scores, **common)
        # Not `converged`: at 1e-12 the rounding of the error decides whether it is a little above the tolerance.
        if solver.tol == EXACT.tol and not bool((result.marginal_error <= 2 * EXACT.tol).all()):
            raise AssertionError(f"the exact solver must converge, got {result}")
        return result

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same problem with every floating tensor rounded to `dtype`."""
        cast = {
            name: value.to(dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return replace(self, **cast)

    @property
    def rows(self) -> Tensor:
        """Normalised sample weights, float64."""
        shape = self.scores.shape[:-1]
        weight = torch.ones(shape) if self.sample_weight is None else self.sample_weight.expand(shape)
        return weight.double() / weight.double().sum(dim=-1, keepdim=True)

    @property
    def columns(self) -> Tensor:
        """Normalised class proportions, float64."""
        shape = (*self.scores.shape[:-2], self.scores.shape[-1])
        share = torch.ones(shape) if self.marginal is None else self.marginal.expand(shape)
        return share.double() / share.double().sum(dim=-1, keepdim=True)


@dataclass
class Largest:
    """Largest difference of a property run; the number is quoted in the terminal summary."""

    what: str
    dtype: str
    difference: float = 0.0
    count: int = 0

    def add(self, have: Tensor, want: Tensor) -> None:
        """Take one more pair into account; NaN counts as infinity."""
        gap = (have.double() - want.double()).abs().max().item()
        self.difference = max(self.difference, gap if gap == gap else float("inf"))
        self.count += 1

    def record(self, record_property: Callable[[str, object], None]) -> None:
        """Hand the number to the terminal summary (through the report, so that it survives parallel workers)."""
        record_property("agreement", [self.what, self.dtype, self.difference, self.count])


@contextmanager
def patched(reach: float | None = None, **constants: object) -> Iterator[None]:
    """Constants of the library changed for a while, in every module with a copy; `reach` is that of each dtype.

    A function, such as `threads`, may be replaced likewise.
    """
    modules = [module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "otlabel"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in constants.items():
            holders = [module for module in modules if hasattr(module, name)]
            assert holders, f"no module of otlabel has a constant {name}"
            for module in holders:
                patch.setattr(module, name, value)
        if reach is not None:
            table = next(module.REACH for module in modules if hasattr(module, "REACH"))
            for dtype in table:
                patch.setitem(table, dtype, reach)
        yield


def assert_labels_close(have: Tensor, want: Tensor, *, atol: float) -> None:
    """Absolute closeness only: labels and plans are at most one, and relative errors of tiny labels mean nothing."""
    torch.testing.assert_close(have.double(), want.double(), rtol=0.0, atol=atol)


def generator(seed: int) -> torch.Generator:
    """A generator of its own, so that no test depends on the order of the others."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers from a seed."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform numbers from a seed."""
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def clustered(n: int, k: int, *, batch: int = 0, seed: int = 0, features: int = 64) -> Tensor:
    """Cosines of features with prototypes that are hard to balance, float32, shape (n, k) or (batch, n, k).

    Features lie around the prototypes, the first of which have most of them, and all share a drift: a network early in
    training on imbalanced data.
    """
    source, rows, scale = generator(seed), n * (batch or 1), features**-0.5

    def directions(count: int) -> Tensor:
        return torch.randn(count, features, generator=source)

    prototypes, noise = F.normalize(directions(k), dim=1), directions(rows)
    cluster = torch.multinomial(1 / torch.arange(1, k + 1), rows, replacement=True, generator=source)
    points = prototypes[cluster] + 0.5 * scale * directions(1) + 0.7 * scale * noise
    scores = F.normalize(points, dim=1) @ prototypes.T
    return scores.reshape(batch, n, k) if batch else scores
