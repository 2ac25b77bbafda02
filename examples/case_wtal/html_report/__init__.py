"""One HTML file for a run: results, an interactive timeline of every test recording, and the pictures."""

from examples.case_wtal.html_report.build import write_report

__all__ = ["write_report"]
