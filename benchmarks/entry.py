"""How a contender enters a cell: with which setting, by how long a call, or why it does not run."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from benchmarks.check import Errors, check
from benchmarks.contenders import DEFAULT, Ask, Contender
from benchmarks.contenders.base import Run
from benchmarks.measure import attempt
from benchmarks.reference import Reference
from benchmarks.workloads import Problem

OURS, PEERS = 1.1, 2.0  # accepted errors as multiples of the tolerance asked for
FIXED_DIFFERENCE = 0.01  # labels of the fixed mode may differ by that much: float32 scores / 0.001 are good to 1e-4
FORBIDDEN = 1e-6
SLOW = "not within"  # and a number of seconds
OUR_BUDGETS = 20.0  # otlabel's default is given so many


@dataclass(frozen=True)
class Goal:
    """Exactly `iterations`, or a column error of `tol`."""

    name: str
    iterations: int | None = None
    tol: float | None = None


GOALS = {g.name: g for g in (Goal("fixed", iterations=3), Goal("1e-3", tol=1e-3), Goal("1e-6", tol=1e-6))}


@dataclass
class Entry:
    """A contender in a cell: what it is asked for, the time of the last trial, and what is known of it."""

    contender: Contender
    run: Run | None = None
    ask: Ask | None = None
    seconds: float = float("nan")
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether its answer passed the check, so that it takes part in the rounds."""
        return self.record.get("status") == "ok"

    def fail(self, reason: str, **more: Any) -> None:
        self.record |= {"status": "failed", "reason": reason, **more}

    def call(self) -> Any:
        return self.run(self.ask)


class Entries:
    """Prepares contenders for one problem; inputs and costs per iteration are kept for all goals."""

    def __init__(
        self, problem: Problem, reference: Reference, *, budget: float, patience: float, memory_limit: float
    ) -> None:
        self.problem, self.reference = problem, reference
        self.budget, self.patience, self.memory_limit = budget, patience, memory_limit
        self.device = problem.scores.device
        self._runs: dict[str, Run] = {}
        self._costs: dict[str, tuple[float, float, str]] = {}
        self._searches: dict[str, dict[int, tuple[float, float]]] = {}
        self._slow: dict[str, tuple[float, float, dict[str, Any]]] = {}
        self._broken: dict[str, str] = {}

    def enter(
        self, contender: Contender, goal: Goal, expected: Tensor | None, own: float | None, best: float | None
    ) -> Entry:
        """Find the setting with which the contender reaches the goal, by running it.

        Args:
            contender: Who.
            goal: What for.
            expected: float64 labels to compare with, or None.
            own: Seconds of otlabel's default; whoever needs less than twice that is always run.
            best: Seconds of the fastest correct peer so far: only whoever needs less can be the fastest.
        """
        entry = Entry(contender)
        absent = self._absent(contender, goal)
        if absent:
            entry.record = {"status": "skipped", "reason": absent}
            return entry
        limit = self._limit(contender, goal, own, best)
        if contender.name not in self._runs:
            prepared = attempt(lambda: contender.prepare(self.problem), self.device, limit=300)
            if prepared.failure:
                entry.fail(prepared.failure)
                return entry
            self._runs[contender.name] = prepared.answer
        entry.run = self._runs[contender.name]
        if contender.stop == "told":
            counts = (goal.iterations,) * self.problem.count if goal.iterations else self.reference.counts(goal.tol)
            self._told(entry, counts, goal, expected, limit)
        elif self._too_slow_before(entry, goal, limit):
            return entry
        elif goal.iterations:
            self._try(entry, Ask(iterations=(goal.iterations,) * self.problem.count), goal, expected, 20 * limit)
        elif contender.stop == "searched":
            self._searched(entry, goal, expected, limit)
        else:
            self._own_test(entry, goal, expected, limit)
        if entry.counts and contender.compiles:
            again = attempt(entry.call, self.device, 20 * limit)
            entry.seconds = again.seconds if not again.failure else entry.seconds
        if goal.tol and entry.record.get("reason", "").startswith(SLOW):
            self._slow[contender.name] = (goal.tol, limit, entry.record)
        return entry

    def _limit(self, contender: Contender, goal: Goal, own: float | None, best: float | None) -> float:
        """Seconds of a call. A peer that stops by itself cannot be predicted: it runs until it cannot be the best."""
        if contender is DEFAULT:
            return self.budget * OUR_BUDGETS
        limit = max(self.budget, 2 * (own or 0))
        is_waited_for = goal.tol and contender.stop != "told" and contender.family != DEFAULT.family
        return max(limit, min(self.patience, best or self.patience)) if is_waited_for else limit

    def _too_slow_before(self, entry: Entry, goal: Goal, limit: float) -> bool:
        """Whether it missed a looser tolerance in no less time: then it is not asked again."""
        tol, allowed, record = self._slow.get(entry.contender.name, (0.0, 0.0, {}))
        if not goal.tol or goal.tol > tol or limit > allowed:
            return False
        entry.record = dict(record)
        return True

    def _absent(self, contender: Contender, goal: Goal) -> str:
        if goal.iterations and not contender.fixed:
            return "no such mode"
        memory = contender.copies * 4 * self.problem.scores.numel() / 1e9
        if memory > self.memory_limit:
            return f"needs about {memory:.0f} GB"
        return contender.absent(self.problem, cuda=self.device.type == "cuda")

    # ---------------------------------------------------------------- three ways to stop

    def _told(self, entry: Entry, counts: Any, goal: Goal, expected: Tensor | None, limit: float) -> None:
        """A loop without a test of its own gets the number of iterations it needs, and runs if that is affordable."""
        first, each, failure = self._cost(entry, limit)
        if failure:
            entry.fail(failure)
            return
        known = counts or [self.reference.iterations]
        predicted = first + each * ((sum(known) / len(known) if entry.contender.loops else max(known)) - 1)
        record = {"iterations": max(known), "seconds": predicted}
        if not counts:
            reason = f"float64 Sinkhorn is at error {self.reference.error:.0e} after {self.reference.iterations:,}"
            entry.record = record | {"status": "lower bound", "reason": reason}
        elif predicted > limit and entry.contender.name in self._broken:
            entry.fail(self._broken[entry.contender.name])  # more iterations do not mend what fewer broke
        elif predicted > limit:
            entry.record = record | {"status": "extrapolated"}
        elif not self._try(entry, Ask(iterations=tuple(counts)), goal, expected, 4 * limit):
            reason = entry.record["reason"]
            if goal.tol and not reason.startswith(SLOW):
                self._broken[entry.contender.name] = reason

    def _cost(self, entry: Entry, limit: float) -> tuple[float, float, str]:
        """Seconds of the first iteration and of each further one, or why it fails at once."""
        name = entry.contender.name
        if name not in self._costs:
            self._costs[name] = self._measured_cost(entry, limit)
        return self._costs[name]

    def _measured_cost(self, entry: Entry, limit: float) -> tuple[float, float, str]:
        seconds: dict[int, float] = {}
        for count in (1, 1, 4, 4):  # the first call of each pays for warming up, so the better of two counts
            if count > 1 and seconds.get(count, 0) > limit / 4:
                continue
            ask = Ask(iterations=(count,) * self.problem.count)
            trial = attempt(lambda ask=ask: entry.run(ask), self.device, 20 * limit)
            if trial.failure:
                return 0.0, 0.0, trial.failure
            is_first = count not in seconds
            if is_first and not check(entry.contender.plan(trial.answer), self.problem).finite:
                return 0.0, 0.0, "NaN"
            seconds[count] = min(trial.seconds, seconds.get(count, trial.seconds))
            if seconds[count] > limit and not is_first:
                return seconds[count], seconds[count] / count, ""
        return seconds[1], max((seconds[4] - seconds[1]) / 3, seconds[4] / 50), ""

    def _searched(self, entry: Entry, goal: Goal, expected: Tensor | None, limit: float) -> None:
        """The smallest number of iterations that does, to one part in four: doubled, then halved in between."""
        tried = self._searches.setdefault(entry.contender.name, {})  # count: error and seconds, for all tolerances

        def reaches(count: int) -> bool:
            if count in tried and PEERS * goal.tol < tried[count][0] < math.inf:
                return False
            reached = self._try(entry, Ask(iterations=(count,) * self.problem.count), goal, expected, limit)
            tried[count] = (entry.record.get("error", math.inf), entry.seconds)
            return reached

        count = 2
        while not reaches(count):
            error, seconds = tried[count]
            if not math.isfinite(error):
                return
            stalls = count > 500 and error > 0.9 * tried[count // 4][0]
            if stalls or 2 * seconds > limit:
                why = "stalls" if stalls else f"{SLOW} {limit:.2g} s"
                entry.fail(f"{why}, error {error:.0e} after {count:,} iterations")
                return
            count *= 2
        low, high = count // 2, count
        while high - low > max(1, count // 8):
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle, high)
        reaches(high)

    def _own_test(self, entry: Entry, goal: Goal, expected: Tensor | None, limit: float) -> None:
        """The loosest of its own tolerances that gives the error asked for."""
        contender, counts = entry.contender, self.reference.counts(goal.tol)
        most = attempt(lambda: contender.most_iterations(self.problem, entry.run, limit), self.device, 20 * limit)
        if most.failure:
            entry.fail(most.failure)
            return
        for tol in contender.settings(goal.tol):
            ask = Ask(tol=tol, max_iter=most.answer, expected=max(counts) if counts else None)
            failure = contender.first_run(self.problem, ask, limit)
            if failure:
                entry.fail(failure, setting=tol)
                return
            reached = self._try(entry, ask, goal, expected, 4 * limit if most.answer else limit)
            entry.record["setting"] = tol
            if most.answer and (entry.record.get("iterations") or 0) >= most.answer:
                self._looser(entry, goal, expected, 4 * limit)
                return
            if reached or entry.record.get("reason", "").startswith(SLOW):
                return

    def _looser(self, entry: Entry, goal: Goal, expected: Tensor | None, limit: float) -> None:
        """It ran to its limit; its own test may be stricter than the check, or beyond float32: ask for what passes."""
        before, error = replace(entry), entry.record.get("error", math.nan)
        ask = replace(entry.ask, tol=PEERS * goal.tol)
        if self._try(entry, ask, goal, expected, limit):
            entry.record["setting"] = ask.tol
        elif before.counts:
            entry.ask, entry.seconds, entry.record = before.ask, before.seconds, before.record
        else:
            entry.fail(f"{SLOW} {limit:.2g} s, error {error:.0e}")

    # ---------------------------------------------------------------- one checked call

    def _try(self, entry: Entry, ask: Ask, goal: Goal, expected: Tensor | None, limit: float) -> bool:
        """Call, check, and fill the record; True if the answer counts."""
        entry.ask = ask
        trial = attempt(entry.call, self.device, limit)
        if trial.failure:
            entry.record = {"status": "failed", "reason": trial.failure}
            return False
        entry.seconds = trial.seconds
        errors = check(entry.contender.plan(trial.answer), self.problem, expected)
        iterations = ask.most if ask.iterations else entry.contender.iterations(trial.answer)
        entry.record = {"status": "ok", "iterations": iterations, "seconds": trial.seconds, **_numbers(errors)}
        reason = _judge(entry.contender, goal, errors)
        if reason:
            entry.fail(reason)
        return not reason


def _judge(contender: Contender, goal: Goal, errors: Errors) -> str:
    """Why an answer does not count, or an empty string."""
    if not errors.finite:
        return "NaN"
    if errors.forbidden > FORBIDDEN:
        return f"forbidden labels get {errors.forbidden:.0e}"
    if goal.iterations:
        return f"labels differ by {errors.difference:.0e}" if errors.difference > FIXED_DIFFERENCE else ""
    slack = OURS if contender.family == DEFAULT.family else PEERS
    return f"error {errors.columns:.0e}" if errors.columns > slack * goal.tol else ""


def _numbers(errors: Errors) -> dict[str, float]:
    names = {"columns": "error", "rows": "row_error", "forbidden": "forbidden"}
    names |= {"difference": "difference", "distance": "distance"}
    found = {new: getattr(errors, old) for old, new in names.items()}
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
