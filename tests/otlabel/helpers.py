"""What the tests share: a problem as plain data, the solver settings of an exact answer, a recorder of differences."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from otlabel import LabelResult, Sinkhorn, sinkhorn_label, sinkhorn_marginal_label, sinkhorn_prior_label

# Far below every tolerance used here; "ignore" because float32 labels cannot show 1e-12 and say so.
EXACT = Sinkhorn(max_iter=200_000, tol=1e-12, on_failure="ignore")


@dataclass(frozen=True)
class Problem:
    """Arguments of one labelling problem; the fields that are set choose the labeler."""

    scores: Tensor
    epsilon: float | Tensor = 0.5
    sample_weight: Tensor | None = None
    marginal: Tensor | None = None
    log_prior: Tensor | None = None
    prior_weight: float = 1.0
    mask: Tensor | None = None

    def label(self, solver: Sinkhorn = EXACT) -> LabelResult:
        """Call the labeler that takes what is set, and insist on convergence where it was asked for."""
        common = {
            "epsilon": self.epsilon,
            "sample_weight": self.sample_weight,
            "mask": self.mask,
            "solver": solver,
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
        if solver is EXACT and not bool((result.marginal_error <= 2 * EXACT.tol).all()):
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
