"""Samples that are spread over the processes of `torch.distributed`: what these tell each other, and the kernel.

Every process holds some rows, perhaps none, and the solvers' state, which is one number for each class. A pass scales
the rows at hand, and one all-reduce of the column sums makes it a pass over all rows.
"""

import functools
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from otlabel.errors import RankError, require
from otlabel.kernel import DenseKernel
from otlabel.problem import LabelProblem, build_sides, exponent_range
from otlabel.sides import Relax

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    """What a rank says in place of what it was to say."""

    error: str


class Ranks:
    """The processes that hold the samples, as one of them sees them, while it makes labels once.

    As a context it tells the others of an error before they would wait for this process in vain.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        # From here on every rank does the same, errors included.
        self.has_agreed = False

    @classmethod
    def of(cls, group: "Group | None") -> "Ranks | None":
        """The ranks of a `group=` argument; None where this process has all samples."""
        if group is None or isinstance(group, Ranks):
            return group
        if group == "world":
            return cls(_world()) if dist.is_available() and dist.is_initialized() else None
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                "`group` must be a torch.distributed.ProcessGroup that this process is part of, 'world' or None, got "
                f"{group!r} ({type(group).__name__}). Call only where the group has this process."
            )
        return cls(group)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not self.has_agreed:
            self.has_agreed = True
            self._gather(_Failure(f"{type(error).__name__}: {error}"))

    def exchange(self, facts: T) -> list[T]:
        """What the ranks have to say, in their order; an error if one of them had one. A few Python objects."""
        said = self._gather(facts)
        for rank, other in enumerate(said):
            if isinstance(other, _Failure):
                self.has_agreed = True
                raise RankError(
                    f"`group` must have ranks whose arguments are all valid, got an error on rank {rank} ("
                    f"{other.error}). Correct the call there; nothing was labelled."
                )
        return said

    def concatenated(self, value: Tensor, dim: int) -> tuple[Tensor, slice]:
        """The parts of all ranks in their order, and where the own part lies. For a few numbers a sample."""
        parts = self.exchange(value.detach().cpu())
        start = sum(part.shape[dim] for part in parts[: self.rank])
        return torch.cat(parts, dim=dim).to(value.device), slice(start, start + value.shape[dim])

    def summed(self, value: Tensor) -> Tensor:
        """Sum over the ranks, which all call this before their first solve."""
        return torch.stack(self.exchange(value.detach().cpu())).sum(dim=0).to(value.device)

    def reduce(self, value: Tensor, operation: Literal["SUM", "MAX"] = "SUM") -> Tensor:
        """All-reduce in place, where possible; the same bits on all ranks."""
        value = value.contiguous()
        self._call(dist.all_reduce, value, getattr(dist.ReduceOp, operation), group=self.group)
        return value

    def first(self, value: Tensor) -> Tensor:
        """What the first rank has, on all."""
        value = value.contiguous()
        self._call(dist.broadcast, value, group=self.group, group_src=0)
        return value

    def _gather(self, facts: Any) -> list[Any]:
        said: list[Any] = [None] * self.size
        self._call(dist.all_gather_object, said, facts, group=self.group)
        return said

    def _call(self, collective: Callable[..., object], *arguments: Any, **options: Any) -> None:
        try:
            collective(*arguments, **options)
        except RuntimeError as error:
            self.has_agreed = True  # nobody is left to be told
            raise RankError(
                f"`group` must keep all of its {self.size} ranks until the labels are made, got on rank {self.rank}: "
                f"{error}. Look for the first error of another rank; one that is only slow needs a longer timeout of "
                "the group."
            ) from error


Group = dist.ProcessGroup | Literal["world"] | Ranks


def _world() -> dist.ProcessGroup:
    world = dist.group.WORLD
    assert world is not None  # noqa: S101 - for the type checker
    return world


def guarded(label: Callable[P, T]) -> Callable[P, T]:
    """A function with a keyword `group`, one of whose ranks may fail without the others waiting for it."""

    @functools.wraps(label)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if kwargs.get("group") is None:
            return label(*args, **kwargs)
        ranks = Ranks.of(kwargs["group"])  # type: ignore[arg-type]
        kwargs["group"] = ranks
        if ranks is None:
            return label(*args, **kwargs)
        with ranks:
            return label(*args, **kwargs)

    return call


@dataclass(slots=True, eq=False)
class ShardedKernel(DenseKernel):
    """The rows of one rank. Sums over samples are sums over all ranks, except in `row_step` and `finish`."""

    ranks: Ranks = field(kw_only=True)

    @property
    def is_sharded(self) -> bool:
        """Whether other processes hold samples of the same problems: yes."""
        return True

    def total(self, value: Tensor) -> Tensor:
        """Sum over the ranks."""
        return self.ranks.reduce(value)

    def log_total(self, value: Tensor) -> Tensor:
        """Log-sum over the ranks."""
        largest = self.ranks.reduce(value.clone(), "MAX")
        origin = torch.where(largest == -torch.inf, 0.0, largest)
        return self.ranks.reduce((value - origin).exp_()).log_().add_(origin)

    def largest(self, value: Tensor) -> Tensor:
        """Largest over the samples of all ranks."""
        here = value.amax(dim=-1) if value.shape[-1] else value.new_full(value.shape[:-1], -torch.inf)
        return self.ranks.reduce(here, "MAX")

    def agreed(self, value: Tensor) -> Tensor:
        """The value of the first rank: a linear solve depends on the number of threads."""
        return self.ranks.first(value)


@dataclass(frozen=True)
class Shard:
    """What the others must know of a rank's rows.

    Attributes:
        terms: What must be the same on all ranks, by the name of the argument.
        n: Rows.
        peak: Largest sample weight of each problem.
        weight: Sum of the sample weights as multiples of that.
        spans: Of the scores and the log-prior; see `LabelProblem`.
        top: Largest score.
        limits: See `LabelProblem`.
    """

    terms: dict[str, str]
    n: int
    peak: list[float]
    weight: list[float]
    spans: list[tuple[float, float]] | None
    top: float | None
    limits: tuple[str, ...]

    @classmethod
    def of(cls, problem: LabelProblem, terms: dict[str, object]) -> "Shard":
        """That of this rank."""
        kernel = problem.kernel
        peak = DenseKernel.largest(kernel, kernel.weight).clamp_min(0.0)
        weight = (kernel.weight / torch.where(peak > 0, peak, 1.0)[:, None]).sum(dim=-1)
        shape = ", ".join(map(str, [*problem.batch_shape, "n", kernel.scores.shape[-1]]))
        own: dict[str, object] = {
            "scores": f"({shape}) {kernel.scores.dtype} {kernel.scores.device.type}",
            "epsilon": kernel.strength,
            "marginal": problem.given_marginal,
            "log_prior": "none" if problem.prior_weight is None else f"one of weight {problem.prior_weight}",
        }
        return cls(
            terms={name: _told(value) for name, value in (own | terms).items()},
            n=kernel.scores.shape[1],
            peak=peak.tolist(),
            weight=weight.tolist(),
            spans=problem.spans,
            top=problem.top,
            limits=problem.limits,
        )


def _told(value: object) -> str:
    """A value in a form that can be compared and read."""
    if isinstance(value, Tensor):
        numbers = array("d", value.detach().to(torch.float64).flatten().tolist())
        shown = ", ".join(f"{number:g}" for number in numbers[:3])
        rest = ", ..." if len(numbers) > 3 else ""
        return f"[{shown}{rest}] (digest {blake2b(numbers.tobytes(), digest_size=6).hexdigest()})"
    if isinstance(value, Relax):
        return f"Relax(rho={_told(value.rho)}, lower={_told(value.lower)}, upper={_told(value.upper)})"
    return str(value)


def told_samples(samples: Relax | None) -> str:
    """The part of the samples' rule that all ranks share: tensors hold a number for each row."""
    if not isinstance(samples, Relax):
        return _told(samples)
    own = {name: "a tensor" if isinstance(value, Tensor) else value for name, value in vars(samples).items()}
    return f"Relax({', '.join(f'{name}={value}' for name, value in own.items())})"


def require_agreement(shards: list[Shard]) -> None:
    """Raise unless the ranks solve one problem that has a sample with weight."""
    for name, value in shards[0].terms.items():
        other = next((rank for rank, shard in enumerate(shards) if shard.terms.get(name) != value), 0)
        require(
            other == 0,
            "`{}` must be the same on all ranks, got {} on rank 0 and {} on rank {}. Only rows may differ.",
            name,
            value,
            shards[other].terms.get(name),
            other,
        )
    require(
        any(shard.n for shard in shards),
        "`scores` must not be empty on all ranks, got no row on any of {}. Skip the call where there is nothing to do.",
        len(shards),
    )
    require(
        all(max(peaks) > 0 for peaks in zip(*(shard.peak for shard in shards), strict=True)),
        "`sample_weight` must not sum to zero over the ranks, got a sum of 0. Give some sample a positive weight.",
    )


def join(
    problem: LabelProblem,
    ranks: Ranks,
    *,
    classes: Relax | None,
    samples: Relax | None,
    mass: Tensor | None,
    terms: dict[str, object],
) -> LabelProblem:
    """Make one problem of the shards of all ranks, after they compared what must be the same."""
    kernel = problem.kernel
    shared = {"classes": classes, "samples": told_samples(samples), "mass": mass}
    shards = ranks.exchange(Shard.of(problem, shared | terms))
    ranks.has_agreed = True
    require_agreement(shards)
    peaks = kernel.weight.new_tensor([shard.peak for shard in shards])
    parts = kernel.weight.new_tensor([shard.weight for shard in shards])
    peak = peaks.amax(dim=0)
    total = (parts * (peaks / peak)).sum(dim=0)
    values = {item.name: getattr(kernel, item.name) for item in fields(DenseKernel) if item.init}
    values["given_weight"] = kernel.weight / peak[:, None] / total[:, None]
    problem.kernel = ShardedKernel(**values, ranks=ranks)
    problem.spans = _merged([shard.spans for shard in shards])
    problem.exponent_range = exponent_range(kernel, problem.spans)
    tops = [shard.top for shard in shards]
    problem.top = None if None in tops else max(top for top in tops if top is not None)
    problem.limits = tuple(dict.fromkeys(limit for shard in shards for limit in shard.limits))
    problem.sides = build_sides(problem, classes, samples, mass)
    problem.check_feasible()
    problem.sides = problem.exact_sides()
    return problem


def _merged(spans: list[list[tuple[float, float]] | None]) -> list[tuple[float, float]] | None:
    """Ranges over all ranks; None where one did not look."""
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None
    return [(min(low for low, _ in parts), max(high for _, high in parts)) for parts in zip(*known, strict=True)]
