"""What is solved: cosine scores of seven sizes, two kinds, and three variants of the problem."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

KINDS = ("clustered", "random")
VARIANTS = ("plain", "prior", "marginal", "mask")
VARIED = ("a", "b")  # the workloads that the variants are measured on, and only on clustered scores


@dataclass(frozen=True)
class Workload:
    """One size: a batch of `batch` problems (0: no batch dimension) of `n` samples and `k` classes."""

    name: str
    n: int
    k: int
    batch: int = 0
    features: int = 64

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, self.n, self.k) if self.batch else (self.n, self.k)

    @property
    def size(self) -> str:
        return " x ".join(f"{side:,}" for side in self.shape)

    def tiny(self) -> "Workload":
        """The same number of dimensions, small enough to try the program."""
        return Workload(self.name, min(self.n, 96), min(self.k, 8), min(self.batch, 3), 16)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("a", 7_500, 16),
        Workload("b", 3_840, 3_000, features=128),
        Workload("c", 750, 16, batch=10),
        Workload("d", 512, 64, batch=64),
        Workload("e", 200_000, 100),
        Workload("f", 2_048, 65_536, features=256),
        Workload("g", 64, 10),
    )
}


@dataclass(eq=False)
class Problem:
    """Scores and what goes with them, and the same in the forms that contenders take.

    Attributes:
        scores: float32, on the device.
        log_prior: log R, added to scores / epsilon, or None.
        marginal: Class proportions, float32, or None for all alike.
        mask: True where a label is allowed, or None.
    """

    workload: Workload
    kind: str
    variant: str
    epsilon: float
    scores: Tensor
    log_prior: Tensor | None = None
    marginal: Tensor | None = None
    mask: Tensor | None = None
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def batched(self) -> bool:
        return self.scores.dim() == 3

    @property
    def count(self) -> int:
        """Number of problems."""
        return self.scores.shape[0] if self.batched else 1

    @property
    def proportions(self) -> Tensor:
        """Class proportions in float64, given or all alike, shape (k,)."""
        k = self.workload.k
        if self.marginal is None:
            return torch.full((k,), 1 / k, dtype=torch.float64, device=self.scores.device)
        return self.marginal.double()

    def once(self, name: str, build: Callable[[], Any]) -> Any:
        """Build a converted input the first time it is asked for: contenders of one library share it."""
        if name not in self._kept:
            self._kept[name] = build()
        return self._kept[name]

    def log_kernel(self) -> Tensor:
        """scores / epsilon + log R in float64, -inf where forbidden; a new tensor at every call."""
        log_kernel = self.scores.double().div_(self.epsilon)
        if self.log_prior is not None:
            log_kernel += self.log_prior
        return log_kernel if self.mask is None else log_kernel.masked_fill_(~self.mask, -torch.inf)

    def folded_scores(self) -> Tensor:
        """Scores with the prior folded in and -inf where forbidden: what a loop without such options is given."""
        if self.log_prior is None and self.mask is None:
            return self.scores
        return self.once("folded scores", lambda: self.log_kernel().mul_(self.epsilon).float())

    def cost(self) -> Tensor:
        """Non-negative costs for transport solvers, float32: the largest score costs 0, so that exp(-cost / epsilon)
        is at most 1. A forbidden label costs five times the largest cost and more; no plan uses it.
        """

        def build() -> Tensor:
            scores = self.folded_scores()
            cost = scores.max() - scores
            if self.mask is not None:
                largest = cost[torch.isfinite(cost)].max()
                cost = cost.masked_fill_(~self.mask, float(5 * largest + 50 * self.epsilon))
            return cost

        return self.once("cost", build)

    def cost64(self) -> np.ndarray:
        """The costs for numpy contenders, float64 as those libraries work."""
        return self.once("cost64", lambda: self.cost().double().cpu().numpy())

    def costs64(self) -> list[np.ndarray]:
        """One matrix a problem."""
        return list(self.cost64()) if self.batched else [self.cost64()]


def scores_of(workload: Workload, kind: str) -> Tensor:
    """Cosines of features with unit prototypes, float32, shape of the workload.

    "clustered": features lie around the prototypes, the first of which have most of them (shares fall as 1/rank), and
    all share a drift: a network early in training on imbalanced data, hard to balance. "random": features know nothing
    of the prototypes, easy to balance.
    """
    generator = torch.Generator().manual_seed(0)
    rows, scale = workload.n * (workload.batch or 1), workload.features**-0.5

    def directions(count: int) -> Tensor:
        return torch.randn(count, workload.features, generator=generator)

    prototypes = normalize(directions(workload.k), dim=1)
    features = directions(rows)
    if kind == "clustered":
        share = 1 / torch.arange(1, workload.k + 1)
        cluster = torch.multinomial(share, rows, replacement=True, generator=generator)
        features = prototypes[cluster] + 0.5 * scale * directions(1) + 0.7 * scale * features
    return (normalize(features, dim=1) @ prototypes.T).reshape(workload.shape)


def problem_of(workload: Workload, kind: str, variant: str, epsilon: float, device: str) -> Problem:
    """Build the scores and the variant on the device."""
    problem = Problem(workload, kind, variant, epsilon, scores_of(workload, kind).to(device))
    n, k = workload.n, workload.k
    if variant == "prior":  # classes are expected in order along the samples, as with the stages of an activity
        ahead = torch.arange(n)[:, None] / n - torch.arange(k) / k
        problem.log_prior = (-8 * ahead.square()).to(device)
    elif variant == "marginal":
        share = 1 / torch.arange(1, k + 1)
        problem.marginal = (share / share.sum()).to(device)
    elif variant == "mask":
        generator = torch.Generator().manual_seed(1)
        problem.mask = (torch.rand(workload.shape, generator=generator) < 0.8).to(device)
    return problem
