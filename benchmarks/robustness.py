"""A thousand random problems, each solved by every solver: what converges, and whether the report is true.

    python -m benchmarks.robustness --problems 1000 --out benchmarks/results/robustness.md

Sizes, epsilon from 1e-4 to 10, score scales from 1e-2 to 1e4, marginals skewed down to 1e-6, masks, priors, weights and
dtypes are drawn at random. The marginal error of every answer is computed again in float64 from the scores and the
class duals. A solve counts as sound if its labels are finite and the two errors agree within 10 % or the rounding of
the labels' dtype and of the exponents.
"""

import argparse
import math
import platform
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

import otlabel

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOL = 1e-4
MAX_ITER = 1000


@dataclass
class Drawn:
    """One random problem, as arguments of a labeler."""

    scores: Tensor
    options: dict
    marginal: Tensor | None
    tags: list[str] = field(default_factory=list)

    def label(self, solver: otlabel.Solver) -> otlabel.LabelResult:
        if "log_prior" in self.options:
            return otlabel.sinkhorn_prior_label(self.scores, marginal=self.marginal, solver=solver, **self.options)
        if self.marginal is not None:
            return otlabel.sinkhorn_marginal_label(self.scores, self.marginal, solver=solver, **self.options)
        return otlabel.sinkhorn_label(self.scores, solver=solver, **self.options)


def draw(seed: int, largest: int) -> Drawn:
    """A problem that has a solution."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def log_uniform(low: float, high: float) -> float:
        return math.exp(uniform(math.log(low), math.log(high)))

    def chance(probability: float) -> bool:
        return uniform(0, 1) < probability

    k = int(log_uniform(1, 400))
    n = max(1, int(log_uniform(1, largest / k)))
    scale, epsilon = log_uniform(1e-2, 1e4), log_uniform(1e-4, 10.0)
    dtype = DTYPES[int(uniform(0, 4))]
    batch = (int(uniform(2, 12)),) if chance(0.2) and n * k < largest / 12 else ()
    if chance(0.5):  # cosines of clustered, long-tailed features
        prototypes = normalize(torch.randn(k, 32, generator=generator), dim=1)
        cluster = torch.multinomial(
            1 / torch.arange(1, k + 1), math.prod(batch) * n, replacement=True, generator=generator
        )
        noise = 0.7 * torch.randn(math.prod(batch) * n, 32, generator=generator) / math.sqrt(32)
        scores = (normalize(prototypes[cluster] + noise, dim=1) @ prototypes.T).reshape(*batch, n, k)
    else:
        scores = torch.randn(*batch, n, k, generator=generator)
    scores = (scale * scores).clamp(-6e4, 6e4).to(dtype)
    tags = [str(dtype).removeprefix("torch."), *(["batch"] if batch else [])]
    options: dict = {"epsilon": epsilon}
    marginal = None
    if chance(0.4):
        marginal = torch.logspace(0, -uniform(0, 6), k, dtype=torch.float64)
        marginal = (marginal / marginal.sum())[torch.randperm(k, generator=generator)]
        tags.append("skewed")
    if chance(0.2):
        options["sample_weight"] = torch.rand(n, generator=generator).pow(4) + 1e-8
        tags.append("weights")
    if chance(0.2):
        options["log_prior"] = uniform(0, 30) * torch.rand(n, k, generator=generator)
        tags.append("prior")
    if chance(0.3) and n > 1 and k > 1:
        # What a plan needs stays allowed: fill rows one after the other (the north-west corner rule).
        mask = torch.rand(n, k, generator=generator) < uniform(0.05, 0.95)
        weight = options.get("sample_weight", torch.ones(n)).double()
        rows = (weight / weight.sum()).cumsum(0)
        share = torch.full((k,), 1 / k, dtype=torch.float64) if marginal is None else marginal
        columns = share.cumsum(0)
        first = torch.searchsorted(columns, torch.cat([rows.new_zeros(1), rows[:-1]]) - 1e-9).clamp(max=k - 1)
        last = torch.searchsorted(columns, rows + 1e-9).clamp(max=k - 1)
        index = torch.arange(k)
        options["mask"] = mask | ((index >= first[:, None]) & (index <= last[:, None]))
        tags.append("mask")
    return Drawn(scores, options, marginal, tags)


def checked_error(drawn: Drawn, result: otlabel.LabelResult) -> tuple[Tensor, Tensor]:
    """L1 error of the columns from the scores and class duals in float64, and what rounding can do to it."""
    exponent = drawn.scores.double() / drawn.options["epsilon"]
    if "log_prior" in drawn.options:
        exponent = exponent + drawn.options["log_prior"].double()
    if "mask" in drawn.options:
        exponent = exponent.masked_fill(~drawn.options["mask"], -torch.inf)
    size = exponent[exponent.isfinite()].abs().max()
    labels = torch.softmax(exponent + result.log_v[..., None, :], dim=-1)
    k = labels.shape[-1]
    share = torch.full((k,), 1 / k, dtype=torch.float64) if drawn.marginal is None else drawn.marginal
    error = ((labels * result.row_mass[..., None]).sum(dim=-2) - share).abs().sum(dim=-1)
    eps = torch.finfo(result.labels.dtype).eps
    return error, 8 * eps + torch.finfo(torch.float64).eps * (8 * size + labels.shape[-2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000, help="random problems")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--largest", type=int, default=200_000, help="entries of the largest problem")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    solvers = {
        name: getattr(otlabel, name)(tol=TOL, max_iter=MAX_ITER, on_failure="ignore")
        for name in ("Auto", "Newton", "Anderson", "Sinkhorn")
    }
    solvers["Sinkhorn, 3 iterations"] = otlabel.Sinkhorn(max_iter=3, tol=None)
    converged: Counter = Counter()
    passes, unsound = defaultdict(list), []
    kinds: Counter = Counter()
    for seed in range(options.first, options.first + options.problems):
        drawn = draw(seed, options.largest)
        kinds.update(drawn.tags)
        for name, solver in solvers.items():
            result = drawn.label(solver)
            error, rounding = checked_error(drawn, result)
            gap = (error - result.marginal_error).abs()
            finite = bool(result.labels.isfinite().all() and result.log_v.isfinite().any())
            if not finite or bool((gap > 0.1 * error + rounding).any()):
                unsound.append(
                    f"seed {seed}, {name}: {tuple(drawn.scores.shape)}, epsilon {drawn.options['epsilon']:.2e}, "
                    f"{' '.join(drawn.tags)}: reported {result.marginal_error.max():.3e}, true {error.max():.3e}"
                    + ("" if finite else ", not finite")
                )
                print(unsound[-1], flush=True)
            converged[name] += bool(result.converged.all())
            passes[name].append(int(result.n_iter.max()))
    lines = [
        f"# {options.problems:,} random problems",
        "",
        f"`python -m benchmarks.robustness --problems {options.problems}`; tol {TOL:g}, at most {MAX_ITER} passes; "
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, one thread.",
        "",
        "Drawn: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) + ".",
        "",
        "| solver | converged | passes: median | 90 % | most |",
        "|---|---|---|---|---|",
    ]
    for name in solvers:
        counts = sorted(passes[name])
        share = "-" if solvers[name].tol is None else f"{100 * converged[name] / options.problems:.1f} %"
        lines.append(
            f"| {name} | {share} | {counts[len(counts) // 2]} | {counts[9 * len(counts) // 10]} | {counts[-1]} |"
        )
    lines += ["", f"Unsound answers (not finite, or an error that is not the reported one): {len(unsound)}.", ""]
    lines += [f"* {text}" for text in unsound]
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
