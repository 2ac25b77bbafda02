"""Numbers and tables in Markdown."""

from typing import Any


def count(number: int, noun: str) -> str:
    """1 cell, 2 cells."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def milliseconds(seconds: float) -> str:
    """Three digits or so."""
    value = 1e3 * seconds
    digits = 3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def ratio(value: float) -> str:
    """Two digits or so."""
    return f"{value:,.{2 if value < 2 else 1 if value < 20 else 0}f}"


def error(record: dict[str, Any]) -> str:
    """failed (why), with the longest reasons cut."""
    reason = record.get("reason", "")
    return f"failed ({reason if len(reason) <= 60 else reason[:57] + '...'})"


def table(head: list[str], rows: list[list[str]], right: set[int] | None = None) -> str:
    """A Markdown table; columns in `right` are aligned to the right."""
    rule = ["---:" if column in (right or set()) else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def detail(goals: dict[str, dict[str, dict[str, Any]]], order: list[str], default: str, words: dict[str, str]) -> str:
    """Contenders by goals; beside the fixed mode, how far labels are from the float64 loop and the extra memory."""
    head = ["contender"]
    for goal in goals:
        head.append(f"{words[goal]}, ms")
        head += ["labels off by", "extra memory"] if goal == "fixed" else []
    rows = []
    for name in order:
        records = [contenders.get(name, {"status": "skipped", "reason": ""}) for contenders in goals.values()]
        if all(r["status"] == "skipped" and r["reason"] in ("", "no CUDA", "no such mode") for r in records):
            continue
        row = [name]
        for goal, record in zip(goals, records, strict=True):
            row.append(_cell(record, is_default=name == default))
            if goal == "fixed":
                row.append(f"{record['difference']:.0e}" if "difference" in record else "")
                row.append(f"{record['memory']:.1f} x scores" if "memory" in record else "")
        rows.append(row)
    return table(head, rows, right=set(range(1, len(head))))


def _cell(record: dict[str, Any], *, is_default: bool) -> str:
    status = record["status"]
    if status == "skipped":
        return "" if record["reason"] in ("", "no such mode") else record["reason"]
    if status == "failed":
        return error(record)
    mark = {"ok": "", "extrapolated": "~", "lower bound": ">"}[status]
    text = mark + milliseconds(record["seconds"])
    return text if is_default or "ratio" not in record else f"{text} ({mark}{ratio(record['ratio'])}x)"
