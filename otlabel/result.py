"""What a labeler returns: the labels, and how well they meet what was asked for."""

import copy
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from otlabel.errors import require, require_beside
from otlabel.problem import build_kernel, check_scores, resolve_log_prior


class Status(StrEnum):
    """How a solve ended; the member's value is the sentence a user reads."""

    CONVERGED = "the marginals are met to the tolerance"
    TRUNCATED = "stopped after the fixed number of iterations asked for (tol=None)"
    MAX_ITER_REACHED = "stopped at max_iter before the marginals were met to the tolerance"


@dataclass(frozen=True, repr=False, eq=False)
class LabelResult:
    """Labels of one problem or a batch, with duals and a report. Holds no reference to the scores.

    Attributes:
        labels: Soft labels, shape (*batch, n, k), rows sum to one; float64 for float64 scores, else float32. A sample
            of weight 0 is labelled like unseen data; if no class may take it, its row is zero.
        log_u: Dual of the samples, float64, shape (*batch, n); -inf for samples of weight 0.
        log_v: Dual of the classes, float64, shape (*batch, k); -inf for classes of proportion 0. The plan is
            `exp(scores / epsilon + prior_weight * log_prior + log_u + log_v)`.
        row_mass: Row sums of the plan, shape (*batch, n): the normalised sample weights, exactly unless the solver
            ended on the columns.
        marginal_error: Sum over classes of the absolute difference between the plan's column sums and `marginal` (over
            samples, from `sample_weight`, if the solver ended on the columns), shape (*batch). At most 2.
        n_iter: Iterations used, shape (*batch).
        converged: Whether `marginal_error` is within the tolerance, shape (*batch); False when no tolerance was set.
        status: How the solve ended, the worst of a batch.
        epsilon: Entropic strength, float64, shape (*batch).
        prior_weight: Weight of the log-prior, or None if the problem had no prior.
    """

    labels: Tensor
    log_u: Tensor
    log_v: Tensor
    row_mass: Tensor
    marginal_error: Tensor
    n_iter: Tensor
    converged: Tensor
    status: Status
    epsilon: Tensor
    prior_weight: float | None = None

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
                epsilon=self.epsilon,
                log_prior=resolve_log_prior(prior, log_prior, scores) if given else None,
                prior_weight=self.prior_weight or 0.0,
                mask=mask,
            )
            labels, _, _ = kernel.finish(self.log_v.reshape(-1, k))
            return labels.reshape(scores.shape)

    def to(self, device: torch.device | str) -> "LabelResult":
        """The same result with every tensor on `device`."""
        result = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                object.__setattr__(result, name, value.to(device))  # the dataclass is frozen
        return result

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
