"""whispertune report: show a run, or compare several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whispertune import __version__
from whispertune.commands.report_options import ReportOptions
from whispertune.errors import RecipeError
from whispertune.report.comparison import Comparison, compare
from whispertune.report.rendering import MARK, require_replaceable
from whispertune.report.run_page import RunReport, report_on
from whispertune.report.runs import read_run, seed_folders
from whispertune.report.tables import as_text
from whispertune.run.flags import parse_fields, split_arguments
from whispertune.run.run_folder import RunFolder
from whispertune.system.console import console, results
from whispertune.system.files import make_writable, write_text


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune report ARGUMENTS`."""
    paths, flags = split_arguments(arguments)
    options = parse_fields(ReportOptions, {}, flags, command="report")
    if not paths:
        raise RecipeError("the run folder is missing; see whispertune report --help")
    folders = [Path(path) for path in paths]
    repeated = [path for place, path in enumerate(folders) if path.resolve() in {p.resolve() for p in folders[:place]}]
    if repeated:
        raise RecipeError(f"{repeated[0]} is given twice; name each run once")
    runs = [read_run(run) for folder in folders for run in seed_folders(folder) or [folder]]
    made = report_on(runs[0]) if len(runs) == 1 else compare(runs)
    output = None if options.output is None else Path(options.output)
    if output is not None and output.is_dir():
        raise RecipeError(f"--output {output} is a folder; name a file in it, such as {output / 'report.html'}")
    if options.format == "html" and output is None:
        output = RunFolder(folders[0]).report if len(folders) == 1 else Path("report.html")
    if output is not None:
        require_replaceable(output)
    if options.plots is not None:
        folder = Path(options.plots)
        make_writable(folder, "--plots")
        for plot in made.plots:
            plot.paths(folder)  # before any is written
        for plot in made.plots:
            plot.save(folder)
        console.print(f"plots     {folder}: {len(made.plots)}, each as SVG, PNG and PDF")
    if output is not None:
        page = options.format == "html"
        _write(output, made.page() if page else _tables(made, options.format) + _MARKS[options.format])
    else:
        print(_tables(made, options.format), end="")  # as it is, for a file or another program
    return 0


_MARKS = {"md": f"\n<!-- {MARK}{__version__} -->\n", "latex": f"% {MARK}{__version__}\n", "csv": ""}


def _tables(made: RunReport | Comparison, kind: str) -> str:
    return as_text(made.tables, kind, [made.opening])


def _write(path: Path, content: str) -> None:
    make_writable(path.parent)
    write_text(path, content)
    results.print(f"report: {path}")
