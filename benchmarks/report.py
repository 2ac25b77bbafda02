"""The Markdown report."""

from pathlib import Path
from typing import Any

from benchmarks.contenders import ALL, DEFAULT
from benchmarks.entry import FIXED_DIFFERENCE, GOALS, OURS, PEERS
from benchmarks.records import Records
from benchmarks.summary import EASY, Results, Standing, behind, geometric_mean, outdone_by_own, standings, totals
from benchmarks.tables import count, detail, error, milliseconds, ratio, table
from benchmarks.workloads import WORKLOADS

GOAL_WORDS = {"fixed": "3 iterations", "1e-3": "error 1e-3", "1e-6": "error 1e-6"}


def write(records: Records, out: Path, plots: list[Path]) -> None:
    """Write OUT.md."""
    results = records.results()
    header = (records.of("header") or [{}])[-1]
    parts = [f"# Balanced labels {'on ' + header['gpu'] if 'gpu' in header else 'on the CPU'}: otlabel and its peers"]
    parts += [_machine(records, header), _rules(header)]
    if results:
        parts += [_summary(results, plots), _totals(results)]
    parts += [_extras(records, results)]
    parts += _details(results, records)
    path = out.with_name(out.name + ".md")
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def _machine(records: Records, header: dict[str, Any]) -> str:
    commands = list(dict.fromkeys(f"`{one['command']}`" for one in records.of("header")))
    threads = f"{header.get('threads')} thread{'s' if header.get('threads') != 1 else ''}"
    pinned = f", held to {count(header['pinned'], 'core')}" if header.get("pinned") else ""
    versions = ", ".join(f"{name} {number}" for name, number in header.get("versions", {}).items())
    lines = [
        f"* Command: {', then '.join(commands)}",
        f"* Processor: {header.get('processor')}, {threads} for every contender{pinned}",
        f"* Versions: {versions}",
    ]
    if header.get("dry_run"):
        lines.insert(0, "* **Dry run on tiny problems: the numbers mean nothing.**")
    return "\n".join(lines)


def _rules(header: dict[str, Any]) -> str:
    budget, patience, rounds = header.get("budget"), header.get("patience"), header.get("rounds")
    return f"""## How to read the numbers

* Times are medians of wall-clock milliseconds over {rounds} rounds in which all contenders take turns (3 rounds for
  calls above 0.3 s, 1 above 1 s if otlabel is five times faster). In brackets stands the median of the paired ratios
  contender / otlabel: more than 1 means that otlabel is faster. `otlabel` is the default solver; in the fixed mode it
  is `Sinkhorn(max_iter=3, tol=None)`.
* Inputs are prepared in every library's own type outside the timing, priors and masks folded into its costs; outputs
  stay in its own type. otlabel is timed through its public functions, with their checks, and given priors and masks
  as they are. Compilation (OTT) is not timed.
* Goals: exactly 3 iterations from SwAV's start, or an L1 error of the class proportions of 1e-3 or 1e-6 with exact
  rows, the worst problem of a batch. Every answer is checked in float64 once its rows are scaled; it fails above
  {OURS:g} times the tolerance (otlabel) or {PEERS:g} times (peers), and in the fixed mode where a label differs by
  more than {FIXED_DIFFERENCE:g} from the same loop in float64.
* Loops without a test of their own (SwAV, logsumexp, POT) are told the number of iterations that Sinkhorn needs in
  float64, and their early stop is off: this flatters them, no user knows that number. GeomLoss is given the smallest
  number that does. OTT, RegOT, MDOT-TNT and otlabel stop by themselves; the loosest of their own settings that meets
  the error is taken.
* `~` marks a time predicted from the cost of an iteration because the call would pass {budget:g} s (and twice
  otlabel's time). `>` marks a prediction from the iterations after which float64 Sinkhorn was still not there. Neither
  answer could be checked; `~` counts as correct, `>` does not. What cannot be predicted (peers that stop by
  themselves) is given {patience:g} s, or the time of the best correct peer before it in the table if that is less: it
  cannot be the best if it takes longer.
* The variants (class prior, skewed proportions, 20 % of the labels forbidden) are run by all contenders: priors shift
  the cost, a forbidden label gets -inf (loops) or a cost far above the others (libraries).
* POT's stabilised method runs with `tau=1e9`: with the default it loses the mass of the plan from 1,000 samples on.
* MDOT-TNT has a non-commercial licence."""


def _name(workload: str) -> str:
    return f"{workload} ({WORKLOADS[workload].size})"


def _scores(standing: Standing) -> str:
    _, kind, variant, *_ = standing.cell
    return kind if variant == "plain" else variant


def _where(cell: tuple[Any, ...]) -> str:
    workload, kind, variant, epsilon, goal = cell
    return f"{workload}, {kind if variant == 'plain' else variant}, epsilon {epsilon:g}, {GOAL_WORDS[goal]}"


def _summary(results: Results, plots: list[Path]) -> str:
    found = standings(results)
    parts = ["## Summary", _means(found)]
    losses = [f"* {_where(s.cell)}: {_loss(s)}" for s in behind(found)]
    parts.append(f"otlabel is not first in {count(len(losses), 'cell')} of {len(found)}" + (":" if losses else "."))
    parts += ["\n".join(losses)] if losses else []
    own = [
        f"* {_where(cell)}: {name}, {ratio(value)} of the default's time"
        for cell, name, value in outdone_by_own(results)
    ]
    parts += ["Another solver of otlabel beats the default by a tenth or more:", "\n".join(own)] if own else []
    parts += [f"![time against error, {path.stem}]({path.name})" for path in plots]
    for scores in dict.fromkeys(_scores(s) for s in found):
        rows = [_standing_row(s) for s in found if _scores(s) == scores]
        heading = {"clustered": "clustered scores", "random": "random scores"}.get(
            scores, f"clustered scores, {scores}"
        )
        parts.append(f"### Best correct peer: {heading}")
        parts.append(
            table(["workload", "epsilon", "until", "otlabel, ms", "best peer", "ms", "ratio"], rows, right={3, 5, 6})
        )
    return "\n\n".join(parts)


def _standing_row(standing: Standing) -> list[str]:
    workload, _, _, epsilon, goal = standing.cell
    ours = milliseconds(standing.ours["seconds"]) if standing.ours["status"] == "ok" else error(standing.ours)
    row = [_name(workload), f"{epsilon:g}", GOAL_WORDS[goal], ours]
    if standing.peer is None:
        return [*row, "none is correct", "", ""]
    mark = "~" if standing.peer["status"] == "extrapolated" else ""
    value = f"{mark}{ratio(standing.ratio)}" if standing.ratio else ""
    value = f"**{value}**" if standing.ratio and standing.ratio < 1 else value
    return [*row, standing.peer["contender"], mark + milliseconds(standing.peer["seconds"]), value]


def _loss(standing: Standing) -> str:
    if standing.ours["status"] != "ok":
        return f"otlabel {error(standing.ours)}"
    return f"{standing.peer['contender']}, {ratio(standing.ratio)} of otlabel's time"


def _means(found: list[Standing]) -> str:
    rows = []
    for scores in dict.fromkeys(_scores(s) for s in found):
        for words, fixed in (("3 iterations", True), ("errors 1e-3 and 1e-6", False)):
            mine = [s for s in found if _scores(s) == scores and (s.cell[4] == "fixed") == fixed]
            groups = ([s for s in mine if s.cell[3] > EASY], [s for s in mine if s.cell[3] <= EASY])
            if mine:
                rows.append([scores, words, *(_mean(group) for group in groups)])
    head = ["scores", "until", "epsilon 0.05", f"epsilon up to {EASY:g}"]
    return "Geometric means of the time of the best correct peer over otlabel's:\n\n" + table(head, rows)


def _mean(group: list[Standing]) -> str:
    ratios = [s.ratio for s in group if s.ratio]
    missing = sum(s.peer is None for s in group)
    text = f"{ratio(geometric_mean(ratios))} ({count(len(ratios), 'cell')})" if ratios else "" if not missing else "-"
    return text + (f", no correct peer in {missing}" if missing else "")


def _totals(results: Results) -> str:
    rows = []
    for total in totals(results):
        correct = f"{total.correct} of {total.cells}" + (f" ({total.predicted} predicted)" if total.predicted else "")
        means = [ratio(mean) if mean else "" for mean in (total.ratio_easy, total.ratio_hard)]
        rows.append([total.name, correct, *means])
    intro = (
        "All cells with a tolerance: where a contender was correct, and the geometric mean of its time over otlabel's "
        "there (a contender that fails on the hard cells is not charged for them)."
    )
    head = ["contender", "correct", "epsilon 0.05", f"epsilon up to {EASY:g}"]
    return f"### Contenders\n\n{intro}\n\n" + table(head, rows, right={2, 3})


def pass_cost_line(found: dict[str, Any]) -> str:
    """One sentence."""
    return (
        f"One Sinkhorn pass on {found['size']} takes {milliseconds(found['pass_seconds'])} ms, "
        f"{found['ratio']:.2f} times `scores.sum()` ({milliseconds(found['other_seconds'])} ms), "
        f"from the difference of 23 and 3 iterations."
    )


def _extras(records: Records, results: Results) -> str:
    lines = [f"* {pass_cost_line(found)}" for found in records.of("pass_cost")[-1:]]
    lines += [
        f"* One pass on {found['size']} reads {found['pass_gb_s']:,.0f} GB/s, {found['share']:.0%} of what a device "
        f"copy moves ({found['copy_gb_s']:,.0f} GB/s, read and written)."
        for found in records.of("bandwidth")[-1:]
    ]
    for found in records.of("graph")[-1:]:
        times = [f"{name} {milliseconds(seconds)} ms" for name, seconds in found["seconds"].items()]
        times += [f"{name} cannot be captured ({reason})" for name, reason in found["failures"].items()]
        lines.append(f"* Fixed mode on {found['size']}, called and replayed from a CUDA graph: {', '.join(times)}.")
        lines += _batched(results)
    return "## Other measurements\n\n" + "\n".join(lines) if lines else ""


def _batched(results: Results) -> list[str]:
    """The batched workload beside the better method of `ot.batch`, one line for clustered scores."""
    found = []
    for cell, contenders in results.items():
        ratios = [r["ratio"] for name, r in contenders.items() if name.startswith("POT batch") and r["status"] == "ok"]
        if cell[:3] == ("d", "clustered", "plain"):
            found.append(
                f"epsilon {cell[3]:g}, {GOAL_WORDS[cell[4]]} {f'{ratio(min(ratios))}x' if ratios else 'fails'}"
            )
    return [f"* Time of `ot.batch` (its better method) over otlabel's on d: {'; '.join(found)}."] if found else []


def _details(results: Results, records: Records) -> list[str]:
    parts, last = [], None
    for key in dict.fromkeys(cell[:4] for cell in results):
        workload, kind, variant, epsilon = key
        if workload != last:
            parts.append(f"## {workload}: {WORKLOADS[workload].size}")
            last = workload
        title = f"{kind}, epsilon {epsilon:g}" + ("" if variant == "plain" else f", {variant}")
        parts += [f"### {workload}, {title}", _needed(records, key)]
        goals = {cell[4]: contenders for cell, contenders in results.items() if cell[:4] == key}
        parts.append(detail(goals, [contender.name for contender in ALL], DEFAULT.name, GOAL_WORDS))
    return parts


def _needed(records: Records, key: tuple[Any, ...]) -> str:
    names = ("workload", "kind", "variant", "epsilon")
    mine = [r for r in records.of("reference") if tuple(r[name] for name in names) == key]
    if not mine or not mine[-1]["needed"]:
        return ""
    found = mine[-1]
    texts = []
    for name, counts in found["needed"].items():
        tol = next((goal.name for goal in GOALS.values() if goal.tol == float(name)), name)
        if None in counts:
            texts.append(f"is not at {tol} after {found['iterations']:,} (error {found['error']:.0e})")
        else:
            texts.append(f"{max(counts):,} to {tol}")
    return f"Iterations of plain Sinkhorn in float64: {', '.join(texts)}."
