"""What a labeler returns: the labels, and how well they meet what was asked for."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import torch
from torch import Tensor

from otlabel.errors import require, require_beside
from otlabel.problem import build_kernel, check_scores, resolve_log_prior

# Labels that are summed together in float64.
SUMMED_ENTRIES = 2**18


class Status(StrEnum):
    """How a solve ended; the member's value is the sentence a user reads."""

    CONVERGED = "the marginals are met to the tolerance"
    TRUNCATED = "stopped after the fixed number of iterations asked for (tol=None)"
    MAX_ITER_REACHED = "stopped at max_iter before the marginals were met to the tolerance"


@dataclass(frozen=True, eq=False)
class Report:
    """Duals of a solve and how well it met the marginals; see `LabelResult` for the fields."""

    epsilon: Tensor
    log_u: Tensor
    log_v: Tensor
    row_mass: Tensor
    marginal_error: Tensor
    n_iter: Tensor
    converged: Tensor

    def __call__(self) -> "Report":
        """Itself: a report that is ready."""
        return self


@dataclass(slots=True, eq=False)
class LastPass:
    """What the last pass of a solve left, from which the report can be worked out when somebody looks.

    Rows of `exp(L + log_v0 - shift) * factor` sum to `row_sum`; with the rows scaled exactly, its columns sum to
    `factor * column_sum`. All tensors have one leading batch dimension (or none, for a single problem); `weight` and
    `marginal` may be None for all alike, and `met` says which problems met the tolerance in the loop. `mass` is what
    `column_sum` is to be multiplied with for a total mass of one. Without `column_sum` the `labels` are summed.
    """

    batch_shape: torch.Size
    strength: Tensor | float
    weight: Tensor | None
    marginal: Tensor | None
    shift: Tensor | float
    log_v0: Tensor | None
    row_sum: Tensor
    factor: Tensor
    column_sum: Tensor | None
    iterations: Tensor | int
    tol: float | None = None
    met: Tensor | bool = False
    mass: float = 1.0
    labels: Tensor | None = None

    def __call__(self) -> Report:
        """Work out the report."""
        batch, n, k = self.batch_shape.numel(), self.row_sum.shape[-1], self.factor.shape[-1]
        row_sum, factor = (value.to(torch.float64).reshape(batch, -1) for value in (self.row_sum, self.factor))
        weight = row_sum.new_full((batch, n), 1.0 / n) if self.weight is None else self.weight
        marginal = row_sum.new_full((batch, k), 1.0 / k) if self.marginal is None else self.marginal
        strength = self.strength
        epsilon = strength if isinstance(strength, Tensor) else row_sum.new_full((batch,), strength)
        # A weightless row has log_u = -inf even where no class may take it (there the row sum is 0).
        log_u = (weight.log() - self.shift - row_sum.log()).masked_fill(weight == 0, -torch.inf)
        log_v = factor.log() if self.log_v0 is None else factor.log() + self.log_v0
        if self.column_sum is None:
            assert self.labels is not None  # noqa: S101 - for the type checker
            mass = torch.zeros_like(factor)
            labels, rows = self.labels.reshape(batch, n, k), max(1, SUMMED_ENTRIES // (batch * k))
            for start in range(0, n, rows):
                block = labels[:, start : start + rows].to(torch.float64)
                mass += torch.bmm(weight[:, None, start : start + rows], block).squeeze(1)
        else:
            mass = (factor * self.column_sum * self.mass).masked_fill(marginal == 0, 0.0)
        error = (mass - marginal).abs().sum(dim=-1)
        count = self.iterations
        if not isinstance(count, Tensor):
            count = torch.full((batch,), count, dtype=torch.int64, device=error.device)
        converged = torch.zeros_like(error, dtype=torch.bool) if self.tol is None else error <= self.tol
        # A loop may have ended on an error that, summed in another order, rounds to the tolerance's other side.
        converged = converged | self.met

        def unflatten(value: Tensor) -> Tensor:
            return value.reshape((*self.batch_shape, *value.shape[1:]))

        return Report(
            epsilon=unflatten(epsilon),
            log_u=unflatten(log_u),
            log_v=unflatten(log_v.masked_fill(marginal == 0, -torch.inf)),
            row_mass=unflatten(weight),
            marginal_error=unflatten(error),
            n_iter=unflatten(count),
            converged=unflatten(converged),
        )


@dataclass(frozen=True, repr=False, eq=False)
class LabelResult:
    """Labels of one problem or a batch, with duals and a report. Holds no reference to the scores.

    The report is worked out at the first look at one of its numbers. Look before you change `labels` in place: those of
    a truncated solve are part of it.

    Attributes:
        labels: Soft labels, shape (*batch, n, k), rows sum to one; float64 for float64 scores, else float32. A sample
            of weight 0 is labelled like unseen data; if no class may take it, its row is zero.
        status: How the solve ended, the worst of a batch.
        prior_weight: Weight of the log-prior, or None if the problem had no prior.
        measure: Makes the report that the other properties read.
    """

    labels: Tensor
    status: Status
    prior_weight: float | None
    measure: Callable[[], Report]

    @property
    def _report(self) -> Report:
        """Duals and errors, worked out at the first look; the properties of the same names read it."""
        report = self.measure()
        if report is not self.measure:
            object.__setattr__(self, "measure", report)  # the dataclass is frozen, a report gives itself
        return report

    @property
    def epsilon(self) -> Tensor:
        """Entropic strength, float64, shape (*batch)."""
        return self._report.epsilon

    @property
    def log_u(self) -> Tensor:
        """Dual of the samples, float64, shape (*batch, n); -inf for samples of weight 0."""
        return self._report.log_u

    @property
    def log_v(self) -> Tensor:
        """Dual of the classes, float64, shape (*batch, k); -inf for classes of proportion 0.

        The plan is `exp(scores / epsilon + prior_weight * log_prior + log_u + log_v)`.
        """
        return self._report.log_v

    @property
    def row_mass(self) -> Tensor:
        """Row sums of the plan, shape (*batch, n).

        They are the normalised sample weights, exactly unless the solver ended on the columns.
        """
        return self._report.row_mass

    @property
    def marginal_error(self) -> Tensor:
        """Sum over classes of the absolute difference between the plan's column sums and `marginal`, shape (*batch).

        Over samples, from `sample_weight`, if the solver ended on the columns. At most 2.
        """
        return self._report.marginal_error

    @property
    def n_iter(self) -> Tensor:
        """Iterations used, shape (*batch)."""
        return self._report.n_iter

    @property
    def converged(self) -> Tensor:
        """Whether `marginal_error` is within the tolerance, shape (*batch); False when no tolerance was set."""
        return self._report.converged

    @property
    def plan(self) -> Tensor:
        """Transport plan of total mass one, shape (*batch, n, k)."""
        return self.labels * self.row_mass.to(self.labels.dtype)[..., None]

    @property
    def hard_labels(self) -> Tensor:
        """Most likely class of each sample, int64, shape (*batch, n); -1 where no class may take the sample."""
        return self.labels.argmax(dim=-1).masked_fill(self.labels.sum(dim=-1) == 0, -1)

    @property
    def proportions(self) -> Tensor:
        """Share of each class in the labels, weighted by `row_mass`, float64, shape (*batch, k)."""
        return (self.labels.to(torch.float64) * self.row_mass[..., None]).sum(dim=-2)

    def predict(
        self,
        new_scores: Tensor,
        *,
        prior: Tensor | None = None,
        log_prior: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Label unseen samples with the class duals found here: the softmax of `new_scores / epsilon + log_v`.

        Args:
            new_scores: Scores of other samples for the same classes, shape (*batch, m, k).
            prior: Prior of the new samples, needed (or `log_prior`) exactly if the labels were made with one.
            log_prior: Its logarithm.
            mask: False forbids a label; broadcasts to `new_scores`.

        Returns:
            Labels, shape (*batch, m, k); rows sum to one, or to zero where every class is forbidden.

        Raises:
            TypeError: If an argument has a wrong type.
            ValueError: If shapes disagree, scores are NaN or +inf, or a prior is missing or unexpected.

        Example:
            >>> import torch, otlabel
            >>> result = otlabel.sinkhorn_label(torch.eye(2))
            >>> result.predict(torch.tensor([[0.9, 0.1]])).round(decimals=4)
            tensor([[1., 0.]])

        Source: the rule for unseen data of Sinkhorn label allocation (Tai et al., ICML 2021).
        """
        scores = check_scores(new_scores, "new_scores")
        batch_shape, k = self.log_v.shape[:-1], self.log_v.shape[-1]
        require(
            (*scores.shape[:-2], scores.shape[-1]) == (*batch_shape, k),
            "`new_scores` must have shape {}, got {}. Use the classes and the batch of the labels.",
            f"({', '.join(map(str, [*batch_shape, 'm', k]))})",
            tuple(scores.shape),
        )
        require_beside(scores, "new_scores", self.log_v, "log_v")
        given = prior is not None or log_prior is not None
        require(
            given == (self.prior_weight is not None),
            "`log_prior` must be given exactly if the labels were made with a prior, got {}. "
            "Without knowledge of the new samples pass `log_prior=torch.zeros(k)`.",
            "one for labels without" if given else "none for labels with one",
        )
        with torch.no_grad():
            kernel = build_kernel(
                scores,
                strength=self.epsilon,
                log_prior=resolve_log_prior(prior, log_prior, scores) if given else None,
                prior_weight=self.prior_weight or 0.0,
                mask=mask,
            )
            labels, _, _ = kernel.finish(self.log_v.reshape(-1, k))
            return labels.reshape(scores.shape)

    def to(self, device: torch.device | str) -> "LabelResult":
        """The same result with every tensor on `device`."""
        report = Report(**{f.name: getattr(self._report, f.name).to(device) for f in fields(Report)})
        return replace(self, labels=self.labels.to(device), measure=report)

    def __repr__(self) -> str:
        *batch, n, k = self.labels.shape
        size = f"{n} samples x {k} classes" + (f", batch {tuple(batch)}" if batch else "")
        worst = "worst " if batch else ""
        return (
            f"LabelResult({size}, {str(self.labels.dtype).removeprefix('torch.')} on {self.labels.device}\n"
            f"  status: {self.status.name}, {self.status.value}\n"
            f"  {worst}marginal_error: {self.marginal_error.max().item():.2e} after "
            f"{int(self.n_iter.max())} iterations)"
        )
