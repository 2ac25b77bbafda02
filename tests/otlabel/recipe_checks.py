"""Every recipe beside the independent transcription of its system, on easy and hard problems.

`python -m tests.otlabel.recipe_checks` rewrites docs/recipes/verified.csv, which the site's pages of recipes show.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from otlabel import recipes
from otlabel.structured import TemporalConsistency
from tests.otlabel import transcriptions as published
from tests.otlabel.helpers import generator, rand
from tests.otlabel.transcriptions.problems import HardProblem, hard_problems

TABLE = Path(__file__).parents[2] / "docs" / "recipes" / "verified.csv"
SEEDS = (0, 1)


@dataclass(frozen=True)
class Check:
    """One recipe: what its transcription gives on the float64 values, and what it gives on values of some dtype."""

    kind: str
    source: str
    want: Callable[[HardProblem], Tensor]
    have: Callable[[HardProblem, Tensor], Tensor]
    # Labels of float32 scores: those of the values, rounded; the truncated loop itself is float32 where that is safe.
    atol: dict[torch.dtype, float] = field(default_factory=lambda: {torch.float64: 1e-12, torch.float32: 1e-6})

    def cases(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, answer and wanted answer on every problem; both see the values rounded to `dtype`."""
        for seed in SEEDS:
            is_log = self.kind == "log_probabilities"
            for problem in hard_problems("probabilities" if is_log else self.kind, generator(seed)):
                values = (problem.values.log() if is_log else problem.values).to(dtype)
                rounded = HardProblem(
                    problem.name, values.double(), problem.marginal, problem.similarity, problem.epsilon_factor
                )
                yield f"{problem.name}, seed {seed}", self.have(rounded, values), self.want(rounded)

    def largest(self, dtype: torch.dtype) -> float:
        """Largest difference over all problems; NaN counts as infinity."""
        gap = max((have.double() - want.double()).abs().max().item() for _, have, want in self.cases(dtype))
        return gap if gap == gap else float("inf")


def eps(problem: HardProblem, epsilon: float) -> float:
    return epsilon * problem.epsilon_factor


def attention(problem: HardProblem) -> Tensor:
    return rand(problem.values.shape[0], seed=11)


def foreground(problem: HardProblem) -> Tensor:
    return rand(problem.values.shape[1], seed=12)


def candidates(problem: HardProblem) -> Tensor:
    """Candidate labels, the most likely class of a sample always among them, and every class with a sample."""
    values = problem.values
    allowed = rand(*values.shape, seed=13) < 0.5
    allowed[torch.arange(len(values)), values.argmax(dim=1)] = True
    allowed[torch.arange(values.shape[1]) % len(values), torch.arange(values.shape[1])] = True
    return allowed


def sizes(problem: HardProblem) -> Tensor:
    return 1 + 0.1 * torch.randn(problem.values.shape[1], generator=generator(14), dtype=torch.float64)


def structure(problem: HardProblem) -> TemporalConsistency:
    """As released: the window is cut to whole frames, and vanishes for two."""
    return TemporalConsistency(frames=int(len(problem.values) * 0.2), radius=0.2, order_weight=0.15)


def known_labels(problem: HardProblem) -> Tensor:
    return torch.arange(4) % 2


def sla_upper(problem: HardProblem) -> Tensor:
    return 1.5 * problem.marginal


def without_diagonal(similarity: Tensor) -> Tensor:
    return similarity - torch.diag(similarity.diagonal())


def flat(problem: HardProblem, mass: float) -> Tensor:
    return torch.full_like(problem.values, mass / problem.values.numel())


def ota_cost(distances: Tensor) -> Tensor:
    """Costs of the ground truths, one of them out of reach of some anchors, and of background as the last column."""
    cost = distances.clone()
    cost[::3, 0] = 1e6
    return torch.cat([cost, torch.full_like(cost[:, :1], 0.9)], dim=1)


def ota_capacity(problem: HardProblem) -> Tensor:
    n, k = problem.values.shape
    return torch.full((k,), 0.6 * n / k, dtype=torch.float64)


def topic_rows(problem: HardProblem) -> Tensor:
    return rand(len(problem.values), seed=15).softmax(dim=0)


# Loops that stop on a change of their scalings: a rounding of it may cost or save an iteration at the very end.
STOPPED = {torch.float64: 1e-9, torch.float32: 1e-6}


CHECKS: dict[str, Check] = {
    "swav": Check(
        "cosines",
        "SwAV, NeurIPS 2020, eqs. 3-5",
        lambda p: published.swav(p.values, eps(p, 0.05)),
        lambda p, x: recipes.swav(x, epsilon=eps(p, 0.05)).labels,
    ),
    "dino": Check(
        "logits",
        "DINOv2, TMLR 2024",
        lambda p: published.dino(p.values, eps(p, 0.2)),  # below it the transcription's exponentials overflow
        lambda p, x: recipes.dino(x, epsilon=eps(p, 0.2)).labels,
    ),
    "msn": Check(
        "probabilities",
        "MSN, ECCV 2022",
        lambda p: published.msn(p.values, 0.25),
        lambda p, x: recipes.msn(x.log()).labels,
    ),
    "capi": Check(
        "cosines",
        "CAPI, 2025",
        lambda p: published.capi(torch.stack([p.values, p.values.flip(0) ** 3]), eps(p, 0.06)),
        lambda p, x: recipes.capi(torch.stack([x, x.flip(0) ** 3]), epsilon=eps(p, 0.06)).labels,
    ),
    "uno": Check(
        "cosines",
        "UNO, ICCV 2021",
        lambda p: published.uno_targets(p.values, known_labels(p), 2, eps(p, 0.05)),
        lambda p, x: (
            recipes.uno(
                torch.nn.functional.pad(torch.cat([x[:1].expand(4, -1), x]), (2, 0)),
                torch.cat([known_labels(p), torch.full((len(x),), -1)]),
                known=2,
                epsilon=eps(p, 0.05),
            ).labels
        ),
    ),
    "vissl_power_law": Check(
        "cosines",
        "VISSL, 2021",
        lambda p: published.vissl_power_law(p.values, 0.7, eps(p, 0.05), 10),
        lambda p, x: recipes.vissl_power_law(x, exponent=0.7, epsilon=eps(p, 0.05)).labels,
    ),
    "cpsl": Check(
        "cosines",
        "CPSL, CVPR 2022",
        lambda p: published.cpsl(p.values, p.marginal, eps(p, 0.05)),
        lambda p, x: recipes.cpsl(x, p.marginal, epsilon=eps(p, 0.05)).labels,
    ),
    "sela": Check(
        "log_probabilities",
        "SeLa, ICLR 2020, eqs. 6-8",
        lambda p: len(p.values) * published.sela(p.values.exp(), 25.0, 0.1, p.marginal, 2000)[1],
        lambda p, x: recipes.sela(x, marginal=p.marginal).labels,
    ),
    "selavi_marginal": Check(
        "probabilities",
        "SeLaVi, NeurIPS 2020",
        lambda p: published.selavi_marginal(sizes(p), p.values.sum(dim=0)),
        lambda p, x: recipes.selavi_marginal(x, sizes(p)),
    ),
    "solar": Check(
        "probabilities",
        "SoLar, NeurIPS 2022",
        lambda p: published.solar(p.values, candidates(p).double(), p.marginal)[0],
        lambda p, x: recipes.solar(x, candidates(p), p.marginal).labels,
    ),
    "sla": Check(
        "log_probabilities",
        "SLA, ICML 2021, sec. 3",
        lambda p: published.sla(p.values, sla_upper(p), 0.7, 10 / p.epsilon_factor, max_iter=20_000).labels,
        lambda p, x: recipes.sla(x, 0.7, upper=sla_upper(p), epsilon=eps(p, 0.1), max_iter=20_000).labels,
    ),
    "case_snippets": Check(
        "cosines",
        "CASE, ICCV 2023, eqs. 11-12",
        lambda p: published.case_snippets(
            p.values, published.case_prior(attention(p), foreground(p), 0.3), 1 / eps(p, 0.05)
        ),
        lambda p, x: recipes.case_snippets(x, attention(p), foreground(p), sigma=0.3, epsilon=eps(p, 0.05)).labels,
    ),
    "case_clusters": Check(
        "cosines",
        "CASE, ICCV 2023, eq. 13",
        lambda p: published.case_clusters(p.values[:, :2], attention(p), 1 / eps(p, 0.05)),
        lambda p, x: recipes.case_clusters(x[:, :2], attention(p), epsilon=eps(p, 0.05)).labels,
    ),
    "tot": Check(
        "cosines",
        "TOT, CVPR 2022",
        lambda p: published.tot(p.values, eps(p, 0.08), 0.5),
        lambda p, x: recipes.tot(x, epsilon=eps(p, 0.08), sigma=0.5).labels,
    ),
    "opw": Check(
        "distances",
        "OPW, CVPR 2017, eqs. 7-14",
        # The released loop looks after iteration 2 and after the last, which is one beyond its limit of 20.
        lambda p: published.opw(p.values, lambda2=eps(p, 0.1), max_iter=21, check_at=(2,))[0] * len(p.values),
        lambda p, x: recipes.opw(x, lambda2=eps(p, 0.1)).labels,
    ),
    "asot": Check(
        "cosines",
        "ASOT, CVPR 2024",
        lambda p: published.asot(
            1 - p.values,
            eps(p, 0.07),
            radius=0.2,
            rho=0.15,
            lambda_actions=0.05,
        ),
        lambda p, x: recipes.asot(x, structure(p), epsilon=eps(p, 0.07)).labels,
        atol={torch.float64: 1e-9, torch.float32: 1e-6},  # the original adds 1e-12 to what it takes logarithms of
    ),
    "p2ot": Check(
        "log_probabilities",
        "P2OT, ICLR 2024",
        lambda p: published.p2ot(p.values.exp(), 0.6, 1.0, eps(p, 0.2)).labels,
        lambda p, x: len(x) * recipes.p2ot(x, 0.6, epsilon=eps(p, 0.2)).plan,
        atol=STOPPED,
    ),
    "sp2ot": Check(
        "log_probabilities",
        "SP2OT, 2024",
        # All ten outer steps: what the original's stop counts as its objective is not known.
        lambda p: (
            published.sp2ot(
                p.values.exp(), p.similarity, 0.6, 3.0, epsilon=eps(p, 0.2), tol=0.0, start=flat(p, 0.6)
            ).labels
        ),
        lambda p, x: recipes.sp2ot(x, p.similarity, 0.6, lambda_=3.0, epsilon=eps(p, 0.2), stop=0.0).labels,
        atol=STOPPED,
    ),
    "csot": Check(
        "probabilities",
        "CSOT, NeurIPS 2023, eqs. 9-12",
        lambda p: (
            len(p.values) * published.csot(p.values, without_diagonal(p.similarity), 0.6, epsilon=0.1, stop=1e-6).plan
        ),
        lambda p, x: recipes.csot(x, p.similarity, 0.6, epsilon=0.1).result.labels,
        atol=STOPPED,
    ),
    "ptmap": Check(
        "distances",
        "PT-MAP, ICANN 2021, sec. 3.3",
        lambda p: published.ptmap(p.values, 10 / p.epsilon_factor)[0],
        lambda p, x: len(x) * recipes.ptmap(x, lambda_=10 / p.epsilon_factor).plan,
    ),
    "ota": Check(
        "distances",
        "OTA, CVPR 2021, algorithm 1",
        lambda p: published.ota(ota_cost(p.values).T, ota_capacity(p), eps(p, 0.1), floor=0.0)[0].T,
        lambda p, x: (
            len(x)
            * recipes.ota(ota_cost(x)[:, :-1], ota_cost(x)[:, -1], ota_capacity(p), epsilon=eps(p, 0.1)).result.plan
        ),
    ),
    "superglue_dustbin": Check(
        "logits",
        "SuperGlue, CVPR 2020, eqs. 8-9",
        lambda p: published.superglue_dustbin(p.values, 0.7).exp() / sum(p.values.shape),
        lambda p, x: recipes.superglue_dustbin(x, alpha=0.7).plan,
    ),
    "fastopic": Check(
        "distances",
        "FASTopic, NeurIPS 2024, eqs. 2-4",
        lambda p: published.fastopic(p.values, 3 / p.epsilon_factor, topic_rows(p), p.marginal, floor=0.0)[0],
        lambda p, x: recipes.fastopic(x, p.marginal, sample_weight=topic_rows(p), alpha=3 / p.epsilon_factor).plan,
    ),
    "uniot": Check(
        "cosines",
        "UniOT, NeurIPS 2022, sec. 3.2",
        lambda p: published.uniot_unbalanced(1 - p.values, p.marginal, 0.5, eps(p, 0.1), tol=1e-4)[0],
        lambda p, x: recipes.uniot(x.double() - 1, p.marginal, epsilon=eps(p, 0.1)).plan,
    ),
    "uniot_clusters": Check(
        "cosines",
        "UniOT, NeurIPS 2022, sec. 3.3",
        lambda p: published.uniot_clusters(p.values, eps(p, 0.05)),
        lambda p, x: recipes.uniot_clusters(x, epsilon=eps(p, 0.05)).plan,
    ),
    "jumbot": Check(
        "distances",
        "JUMBOT, ICML 2021, sec. 4",
        lambda p: published.jumbot(p.values, 0.5, eps(p, 0.1), "kl")[0],
        lambda p, x: recipes.jumbot(x, tau=0.5, epsilon=eps(p, 0.1), reg_type="kl").plan,
    ),
    "semi_relaxed_ncd": Check(
        "cosines",
        "DASL / NCD_PC, 2024",
        lambda p: published.semi_relaxed_ncd(p.values, epsilon=eps(p, 1.0)).labels,
        lambda p, x: len(x) * recipes.semi_relaxed_ncd(x, epsilon=eps(p, 1.0)).plan,
        atol=STOPPED,
    ),
    "lcrec": Check(
        "distances",
        "LC-Rec, ICDE 2024, sec. III-B",
        lambda p: published.lcrec(p.values, eps(p, 0.05), amplitude_offset=1e-5),
        lambda p, x: len(x) * recipes.lcrec(x, epsilon=eps(p, 0.05)).plan,
    ),
    "optvq": Check(
        "distances",
        "OptVQ, 2024",
        lambda p: published.optvq(p.values, 10 / p.epsilon_factor, floor=0.0),
        lambda p, x: recipes.optvq(x, epsilon=eps(p, 0.1)).labels,
        # The divisor is the deviation here, that plus 1e-6 there.
        atol={torch.float64: 1e-4, torch.float32: 1e-4},
    ),
    "megatron_router": Check(
        "logits",
        "Megatron-LM; S-BASE, ICML 2022",
        lambda p: published.megatron_router(p.values, floor=0.0)[0],
        lambda p, x: recipes.megatron_router(x).result.plan,
    ),
}


def row(name: str) -> dict[str, str]:
    check = CHECKS[name]
    gaps = {str(dtype)[6:]: f"{check.largest(dtype):.1e}" for dtype in (torch.float64, torch.float32)}
    count = sum(1 for _ in check.cases(torch.float64))
    return {"recipe": name, "source": check.source, **gaps, "problems": str(count)}


def main() -> None:
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("recipe", "source", "float64", "float32", "problems"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row(name) for name in sorted(CHECKS))


if __name__ == "__main__":
    main()
