"""Prints the largest differences from independent solvers, so that the numbers which are quoted come from a run."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """One line for each kind of agreement, gathered from the reports (those of parallel workers included)."""
    found = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "agreement" and report.when == "call":
                    what, dtype, difference, count = value
                    largest, problems = found.setdefault(what, {}).get(dtype, (0.0, 0))
                    found[what][dtype] = (max(largest, difference), problems + count)
    for what, by_dtype in sorted(found.items()):
        numbers = ", ".join(f"{dtype} {largest:.1e}" for dtype, (largest, _) in sorted(by_dtype.items(), reverse=True))
        count = sum(problems for _, problems in by_dtype.values())
        terminalreporter.write_line(f"{what} {numbers} over {count} problems")
