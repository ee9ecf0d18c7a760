"""The flags of `whispertune report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whispertune.run.help_text import help_text

USAGE = """whispertune report RUN … [--output report.html]
                          [--format html|md|csv|latex] [--plots DIR]"""

DESCRIPTION = """Show a run, or compare several.

RUN is the --output of `whispertune train`; the run may be finished or in progress. The page about one run reports what
fine-tuning gained, whether that is significant, and what to do next. It shows the curves, the kinds of errors, and the
utterances with most errors, with audio and with the outputs before and after; then the data and the recipe. Several
runs are compared in tables: those that differ only in their seeds as mean and standard deviation, and each run and
recipe with the first one, by a matched-pairs test over the utterances that all of them decoded (over speakers, if at
least six are named).

The page is a single file that loads nothing from elsewhere."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to write, and where."""

    output: str | None = None
    """File to write. By default the page is written to RUN/report.html, or to report.html if several runs are compared;
    tables are printed."""

    format: Literal["html", "md", "csv", "latex"] = "html"
    """html: the page. md, csv, latex: only the tables, as Markdown, as one CSV whose first column names the table, or
    as LaTeX (package booktabs)."""

    plots: str | None = None
    """Folder to write every plot to, each as SVG, PNG and PDF."""


def usage() -> str:
    """The text of --help."""
    return help_text(ReportOptions, USAGE, DESCRIPTION)
