"""One look at a set of labels: a table of what to watch, and advice where a number is one that users complain about."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Real
from torch import Tensor

from otlabel import diagnostics
from otlabel.errors import require, require_numbers

# From these numbers on there is advice.
UNINFORMATIVE = 0.9  # label entropy, as a part of its largest value
MISPLACED = 0.1  # marginal error
CROWDED = 0.5  # share of the samples in one hard class that was to get less than half of that
RESTLESS = 0.5  # share of the samples whose most likely class changed
IDLE_PRIOR = 0.01  # part of a label that the prior moved

# Field, its name in the table, format, which end is the worse one, meaning.
_ROWS = (
    ("marginal_error", "marginal error", "{:.1e}", max, "sum over classes of |share - asked for|, at most 2"),
    ("hard_marginal_error", "  of hard labels", "{:.2f}", max, "the same with each sample in its most likely class"),
    ("labelled", "labelled mass", "{:.1%}", min, "of the samples"),
    ("label_perplexity", "label perplexity", "{:.2f}", max, "classes a label wavers between: 1 is sure"),
    ("class_perplexity", "class perplexity", "{:.2f}", min, "classes in use; labels that waver as much say nothing"),
    ("target_perplexity", "  asked for", "{:.2f}", min, "the same of the marginal"),
    ("effective_classes", "effective classes", "{:.2f}", min, "1 / sum of squares; far below: a few classes dominate"),
    ("dead_by_mass", "dead by mass", "{:.3g}", max, "classes with less than {dead_fraction:g} of their share"),
    ("dead_by_argmax", "dead by argmax", "{:.3g}", max, "classes that are no sample's most likely one"),
    ("largest_hard_share", "largest hard class", "{:.1%}", max, "of the samples"),
    ("label_change", "label change", "{:.1%}", max, "mean part of a label that moved since the previous ones"),
    ("flipped", "  flipped", "{:.1%}", max, "samples whose most likely class changed"),
    ("dual_drift", "dual drift", "{:.2f}", max, "largest change of log odds between two classes, in nats"),
    ("prior_shift", "prior shift", "{:.1%}", max, "mean part of a label that the prior moved"),
    ("prior_flipped", "  flipped", "{:.1%}", max, "samples whose most likely class it changed"),
)


@dataclass(frozen=True, eq=False)
class LabelSummary:
    """What `LabelResult.summary` measured; print it for a table with advice.

    Attributes:
        n: Number of samples.
        k: Number of classes.
        dead_fraction: Of its share, below which a class counts as dead by mass.
        busy: Number of samples with mass, shape (*batch), as all that follow.
        asked: Number of classes that are to get something.
        labelled: Share of the mass that is labelled.
        marginal_error: L1 error of the class proportions.
        hard_marginal_error: The same when each sample goes to its most likely class.
        label_entropy: Mean entropy of a label, in nats.
        class_entropy: Entropy of the class proportions: the largest that the labels can have.
        target_entropy: Entropy of the proportions asked for.
        effective_classes: Inverse Simpson number of classes.
        dead_by_mass: Number of classes with less than `dead_fraction` of their share.
        dead_by_argmax: Number of classes, of those that are to get something, that are no sample's most likely one.
        largest_hard_class: The class that is most samples' most likely one.
        largest_hard_share: Share of these samples.
        largest_hard_target: Share that this class was to get.
        label_change: Mean total variation from the previous labels; None without.
        flipped: Share of the samples whose most likely class changed since; None without.
        dual_drift: Largest change of log odds since; None without.
        prior_shift: Mean total variation from the labels without prior; None without.
        prior_flipped: Share of the samples whose most likely class the prior changed; None without.
    """

    n: int
    k: int
    dead_fraction: float
    busy: Tensor
    asked: Tensor
    labelled: Tensor
    marginal_error: Tensor
    hard_marginal_error: Tensor
    label_entropy: Tensor
    class_entropy: Tensor
    target_entropy: Tensor
    effective_classes: Tensor
    dead_by_mass: Tensor
    dead_by_argmax: Tensor
    largest_hard_class: Tensor
    largest_hard_share: Tensor
    largest_hard_target: Tensor
    label_change: Tensor | None = None
    flipped: Tensor | None = None
    dual_drift: Tensor | None = None
    prior_shift: Tensor | None = None
    prior_flipped: Tensor | None = None

    @property
    def label_perplexity(self) -> Tensor:
        """Number of classes that a label wavers between, shape (*batch)."""
        return self.label_entropy.exp()

    @property
    def class_perplexity(self) -> Tensor:
        """Number of classes in use, shape (*batch)."""
        return self.class_entropy.exp()

    @property
    def target_perplexity(self) -> Tensor:
        """Number of classes asked for, shape (*batch)."""
        return self.target_entropy.exp()

    @property
    def metrics(self) -> dict[str, Tensor]:
        """Means over the batch of what the table shows, for a logger; nothing waits for the device."""
        rows = {name: getattr(self, name) for name, *_ in _ROWS}
        return {name: value.to(torch.float64).mean() for name, value in rows.items() if value is not None}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the labels and what to do about it, a line each."""
        problems = self._problems()
        texts = [_advice(self, problem) for problem in problems]
        found = []
        for i in range(len(_CHECKS) + 1):
            lines = {at: text[i] for at, text in enumerate(texts) if text[i] is not None}
            if lines:
                first, line = next(iter(lines.items()))
                where = f"in {len(lines)} of {len(problems)} problems, first {first}: " if self.busy.ndim else ""
                found.append(f"{where}{line}")
        return tuple(found)

    def __str__(self) -> str:
        problems = self._problems()
        head, lines = ["", "value"], []
        if self.busy.ndim:
            head = ["", "mean", "worst", "problem"]
        for name, title, form, worse, meaning in _ROWS:
            values = [problem[name] for problem in problems if name in problem]
            if not values or (name == "labelled" and min(values) > 1 - 1e-6):
                continue
            cells = [title, form.format(sum(values) / len(values))]
            if self.busy.ndim:
                worst = next((value for value in values if math.isnan(value)), worse(values))
                cells += [form.format(worst), str(values.index(worst))]
            lines.append((*cells, meaning.format(dead_fraction=self.dead_fraction)))
        widths = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]

        def line(cells: list[str] | tuple[str, ...]) -> str:
            padded = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=False)]
            return "  ".join(["  " + cells[0].ljust(widths[0]), *padded, *cells[len(widths) :]]).rstrip()

        size = f"{self.n} samples x {self.k} classes"
        size += f", batch {tuple(self.busy.shape)}" if self.busy.ndim else ""
        return "\n".join([f"Labels of {size}", line(head), *map(line, lines), *(f"! {text}" for text in self.warnings)])

    def _problems(self) -> list[dict[str, float]]:
        """The numbers of each problem, in one transfer from the device."""
        names = [field.name for field in fields(self)] + ["label_perplexity", "class_perplexity", "target_perplexity"]
        values = {name: value for name in names if isinstance(value := getattr(self, name), Tensor)}
        table = torch.stack([value.to(torch.float64).flatten() for value in values.values()], dim=-1).tolist()
        return [dict(zip(values, row, strict=True)) for row in table]


def summarize(
    labels: Real[Tensor, "*batch n k"],
    row_mass: Real[Tensor, "*batch n"],
    marginal: Real[Tensor, "*batch k"],
    *,
    marginal_error: Float[Tensor, "*batch"] | None = None,
    log_v: Float[Tensor, "*batch k"] | None = None,
    previous_labels: Real[Tensor, "*batch n k"] | None = None,
    previous_log_v: Float[Tensor, "*batch k"] | None = None,
    labels_without_prior: Real[Tensor, "*batch n k"] | None = None,
    dead_fraction: float = 0.1,
) -> LabelSummary:
    """Measure a set of labels; see `LabelSummary` for the numbers.

    Args:
        labels: Soft labels, shape (*batch, n, k).
        row_mass: Mass of each sample, any scale, shape (*batch, n): `labels` times these is the plan.
        marginal: Proportions asked for, any scale, shape (*batch, k) or (k,).
        marginal_error: Error that the solver reported, shape (*batch); default that of the shares in `labels`.
        log_v: Class duals, shape (*batch, k).
        previous_labels: Earlier labels of the same samples, for their change.
        previous_log_v: Earlier class duals, for their drift; needs `log_v`.
        labels_without_prior: Labels of the same problem without its prior, for the effect of the prior.
        dead_fraction: Of its share, below which a class counts as dead.

    Returns:
        The numbers, as tensors on the device of `labels`; printing them is the first wait for it.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If shapes disagree.

    Example:
        >>> labels = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> print(summarize(labels, torch.ones(2), torch.tensor([0.7, 0.3])))
        Labels of 2 samples x 2 classes
                                value
          marginal error      1.0e-01  sum over classes of |share - asked for|, at most 2
            of hard labels       0.60  the same with each sample in its most likely class
          label perplexity       1.65  classes a label wavers between: 1 is sure
          class perplexity       1.75  classes in use; labels that waver as much say nothing
        ...
        ! 1 of 2 classes has no argmax member: lower epsilon, or take hard labels of exact capacity
    """
    share = diagnostics.proportions(labels, row_mass)
    labelled = share.sum(dim=-1)
    require_numbers(marginal, "marginal")
    require(
        marginal.shape in (share.shape, share.shape[-1:]),
        "`marginal` must have shape {}, got {}. Give one proportion for each class.",
        tuple(share.shape),
        tuple(marginal.shape),
    )
    target = marginal.detach().to(torch.float64).expand(share.shape)
    target = target / target.sum(dim=-1, keepdim=True)
    have = share / labelled[..., None]
    hard = diagnostics.hard_proportions(labels, row_mass)
    largest = hard.max(dim=-1)
    has_target = target > 0
    change = None if previous_labels is None else diagnostics.label_churn(previous_labels, labels, row_mass)
    shift = None if labels_without_prior is None else diagnostics.prior_shift(labels, labels_without_prior, row_mass)
    return LabelSummary(
        n=labels.shape[-2],
        k=labels.shape[-1],
        dead_fraction=dead_fraction,
        busy=(row_mass > 0).sum(dim=-1).expand(labelled.shape),
        asked=has_target.sum(dim=-1),
        labelled=labelled,
        marginal_error=(have - target).abs().sum(dim=-1) if marginal_error is None else marginal_error.detach(),
        hard_marginal_error=(hard / hard.sum(dim=-1, keepdim=True) - target).abs().sum(dim=-1),
        label_entropy=diagnostics.label_entropy(labels, row_mass),
        class_entropy=diagnostics.entropy(share),
        target_entropy=diagnostics.entropy(target),
        effective_classes=diagnostics.effective_classes(share),
        dead_by_mass=diagnostics.dead_by_mass(have, target, fraction=dead_fraction).sum(dim=-1),
        dead_by_argmax=((hard == 0) & has_target).sum(dim=-1),
        largest_hard_class=largest.indices,
        largest_hard_share=largest.values,
        largest_hard_target=target.gather(-1, largest.indices[..., None]).squeeze(-1),
        label_change=None if change is None else change.total_variation,
        flipped=None if change is None else change.flipped,
        dual_drift=None if previous_log_v is None or log_v is None else diagnostics.dual_drift(previous_log_v, log_v),
        prior_shift=None if shift is None else shift.total_variation,
        prior_flipped=None if shift is None else shift.flipped,
    )


Check = Callable[[LabelSummary, dict[str, float]], str | None]


def _advice(summary: LabelSummary, problem: dict[str, float]) -> list[str | None]:
    """What every check says of a problem, and before them what speaks of numbers that are none."""
    if all(math.isfinite(value) for value in problem.values()):
        return [None, *(check(summary, problem) for check in _CHECKS)]
    return ["some numbers are not finite: the labels hold NaN, or nothing is labelled", *[None] * len(_CHECKS)]


def _uninformative(_: LabelSummary, problem: dict[str, float]) -> str | None:
    ratio = problem["label_entropy"] / max(problem["class_entropy"], 1e-12)
    if not ratio > UNINFORMATIVE:
        return None
    most = f"log {problem['class_perplexity']:.3g}"
    return f"mean label entropy is {ratio:.2f} of {most}: labels say nearly nothing, lower epsilon"


def _misplaced(_: LabelSummary, problem: dict[str, float]) -> str | None:
    if not problem["marginal_error"] > MISPLACED:
        return None
    return (
        f"{problem['marginal_error'] / 2:.0%} of the mass is in the wrong class: more iterations or a `tol`, "
        "unless the classes are relaxed on purpose"
    )


def _dead_by_mass(summary: LabelSummary, problem: dict[str, float]) -> str | None:
    if not problem["dead_by_mass"]:
        return None
    return (
        f"{_count(problem, 'dead_by_mass')} less than {summary.dead_fraction:g} of the share asked for: more "
        "iterations, or a stricter class side (larger rho, a lower bound)"
    )


def _dead_by_argmax(_: LabelSummary, problem: dict[str, float]) -> str | None:
    if not problem["dead_by_argmax"]:
        return None
    advice = "lower epsilon, or take hard labels of exact capacity"
    if problem["busy"] < problem["asked"]:
        advice = f"{problem['busy']:.0f} samples are too few, take a larger batch or a queue"
    return f"{_count(problem, 'dead_by_argmax')} no argmax member: {advice}"


def _count(problem: dict[str, float], name: str) -> str:
    """The number of classes, up to the verb."""
    return f"{problem[name]:.0f} of {problem['asked']:.0f} classes {'has' if problem[name] == 1 else 'have'}"


def _crowded(_: LabelSummary, problem: dict[str, float]) -> str | None:
    share, target = problem["largest_hard_share"], problem["largest_hard_target"]
    if not (share > CROWDED and share > 2 * target):
        return None
    return (
        f"class {problem['largest_hard_class']:.0f} is the most likely one of {share:.0%} of the samples, {target:.0%} "
        "asked for: features collapse or epsilon is too large; normalise features and prototypes, lower epsilon"
    )


def _restless(_: LabelSummary, problem: dict[str, float]) -> str | None:
    if not problem.get("flipped", 0.0) > RESTLESS:
        return None
    return (
        f"{problem['flipped']:.0%} of the samples changed their most likely class: too fast to learn from; label more "
        "samples at once (queue), less often, or with a running marginal"
    )


def _prior_rules(_: LabelSummary, problem: dict[str, float]) -> str | None:
    if not problem.get("prior_flipped", 0.0) > RESTLESS:
        return None
    return f"the prior decides the class of {problem['prior_flipped']:.0%} of the samples: lower prior_weight"


def _prior_idles(_: LabelSummary, problem: dict[str, float]) -> str | None:
    if not problem.get("prior_shift", 1.0) < IDLE_PRIOR:
        return None
    return (
        f"the prior moves {problem['prior_shift']:.1%} of a label: raise prior_weight, which is in units of epsilon, "
        "or narrow the prior"
    )


_CHECKS: tuple[Check, ...] = (
    _uninformative,
    _misplaced,
    _dead_by_mass,
    _dead_by_argmax,
    _crowded,
    _restless,
    _prior_rules,
    _prior_idles,
)
