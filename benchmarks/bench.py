"""The run: every cell (workload, kind, variant, epsilon, goal) with all contenders interleaved."""

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import ALL, DEFAULT, Contender
from benchmarks.entry import Entries, Entry, Goal
from benchmarks.measure import Entrant, paired_ratio, take_turns
from benchmarks.memory import peak_bytes
from benchmarks.records import Records, cell_of
from benchmarks.reference import Reference, converged_labels, reference, truncated_labels
from benchmarks.summary import COUNTS
from benchmarks.workloads import VARIED, WORKLOADS, Problem, Workload, problem_of


@dataclass(frozen=True)
class Plan:
    """What is measured, and how patiently.

    Attributes:
        workloads: Their names.
        kinds: Of scores.
        variants: Of the problem; all but "plain" on workloads a and b with clustered scores only.
        epsilons: Entropic strengths.
        goals: Fixed or tolerances.
        contenders: Parts of names; empty for all.
        rounds: Most interleaved repetitions.
        budget: Seconds of a call; a longer one is predicted instead of made.
        patience: Seconds of a call that cannot be predicted, as long as no faster peer is correct.
        memory_limit: Gigabytes of a contender.
        reference_limit: Seconds of a float64 reference run.
        device: "cpu" or "cuda".
        tiny: Replace every workload by a tiny one.
    """

    workloads: Sequence[str]
    kinds: Sequence[str]
    variants: Sequence[str]
    epsilons: Sequence[float]
    goals: Sequence[Goal]
    contenders: Sequence[str]
    rounds: int
    budget: float
    patience: float
    memory_limit: float
    reference_limit: float
    device: str
    tiny: bool

    def workload(self, name: str) -> Workload:
        return WORKLOADS[name].tiny() if self.tiny else WORKLOADS[name]

    def chosen(self) -> list[Contender]:
        """The contenders, otlabel's default first: the others are compared with it."""
        parts = [part.lower() for part in self.contenders]
        others = [c for c in ALL if c is not DEFAULT and (not parts or any(part in c.name.lower() for part in parts))]
        return [DEFAULT, *others]

    def problems(self) -> Iterator[dict[str, Any]]:
        """Keys of the problems."""
        for name in self.workloads:
            for kind in self.kinds:
                for variant in self.variants:
                    if variant != "plain" and (name not in VARIED or kind != "clustered"):
                        continue
                    for epsilon in self.epsilons:
                        yield {"workload": name, "kind": kind, "variant": variant, "epsilon": epsilon}


def run(plan: Plan, records: Records) -> None:
    """Measure every cell that the records do not have yet."""
    warnings.simplefilter("ignore")  # answers are checked; contenders warn of what the checks report
    done = records.done()
    for key in plan.problems():
        goals = [goal for goal in plan.goals if cell_of(key | {"goal": goal.name}) not in done]
        if not goals:
            continue
        problem = problem_of(plan.workload(key["workload"]), key["kind"], key["variant"], key["epsilon"], plan.device)
        yardstick = _reference(plan, problem, key, records)
        entries = Entries(
            problem, yardstick, budget=plan.budget, patience=plan.patience, memory_limit=plan.memory_limit
        )
        for goal in goals:
            start = time.perf_counter()
            _cell(plan, entries, goal, key | {"goal": goal.name}, records)
            records.add("done", **key, goal=goal.name, seconds=time.perf_counter() - start)
        del problem, yardstick, entries  # before the next one is built: the largest takes gigabytes


def _reference(plan: Plan, problem: Problem, key: dict[str, Any], records: Records) -> Reference:
    tols = [goal.tol for goal in plan.goals if goal.tol]
    start = time.perf_counter()
    found = reference(problem, tols, plan.reference_limit)
    records.add("reference", **key, **found.record(), seconds=time.perf_counter() - start)
    return found


def _cell(plan: Plan, entries: Entries, goal: Goal, key: dict[str, Any], records: Records) -> None:
    """One cell: find every contender's setting, take turns, write the records."""
    problem, yardstick = entries.problem, entries.reference
    expected = None
    if goal.iterations:
        expected = truncated_labels(problem, goal.iterations)
    elif yardstick.log_v is not None:
        expected = converged_labels(problem, yardstick.log_v)
    entered: list[Entry] = []
    own = best = None
    for contender in plan.chosen():
        entry = entries.enter(contender, goal, expected, own, best)
        entered.append(entry)
        own = own or (entered[0].seconds if entered[0].counts else None)
        if contender.family != DEFAULT.family and entry.record["status"] in COUNTS:
            best = min(entry.record["seconds"], best or math.inf)
    del expected
    running = {entry.contender.name: entry for entry in entered if entry.counts}
    entrants = {name: Entrant(name, entry.call, entry.seconds) for name, entry in running.items()}
    take_turns(list(entrants.values()), plan.rounds, problem.scores.device)
    base = entrants.get(DEFAULT.name)
    for entry in entered:
        record = dict(entry.record)
        entrant = entrants.get(entry.contender.name)
        if entrant:
            record |= {"seconds": entrant.median, "samples": entrant.samples, "repeats": entrant.repeats()}
            if goal.iterations and entry.contender.on_torch:
                record["memory"] = peak_bytes(entry.call, problem.scores.device) / (4 * problem.scores.numel())
        if base and record.get("seconds") and record["status"] != "failed":
            record["ratio"] = paired_ratio(entrant, base) if entrant else record["seconds"] / base.median
        records.add("result", **key, contender=entry.contender.name, family=entry.contender.family, **record)
        print(_line(key, entry.contender.name, record), flush=True)


def _line(key: dict[str, Any], name: str, record: dict[str, Any]) -> str:
    where = f"{key['workload']} {key['kind']} {key['variant']} {key['epsilon']:g} {key['goal']}"
    numbers = f"{1e3 * record['seconds']:12.3f} ms" if "seconds" in record else " " * 15
    ratio = f"x{record['ratio']:<8.2f}" if "ratio" in record else " " * 9
    status = "" if record["status"] == "ok" else f"{record['status']} {record.get('reason', '')}"
    error = f"error {record['error']:.1e}" if "error" in record else ""
    return f"{where:32s} {name:38s} {numbers} {ratio} {error} {status}"
