"""whispertune split: train, valid and test manifests that leak nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whispertune.check.cleaned import require_expressible
from whispertune.commands.split_options import SplitOptions
from whispertune.data.marked import read_marked
from whispertune.data.reading import AS_USUAL
from whispertune.data.sources import read_rows
from whispertune.data.utterances import Shared, Utterances
from whispertune.errors import RecipeError, one_line
from whispertune.run.flags import parse_fields, split_arguments
from whispertune.run.next_step import training_command
from whispertune.split.division import Plan, divide
from whispertune.split.manifests import as_record, earlier_split, require_ours, write_split
from whispertune.split.tables import remarks, side_figures, side_table, strata_table
from whispertune.split.wishes import SIDES
from whispertune.system.console import console, progress_bar, results
from whispertune.system.files import make_writable, no_empty_folders
from whispertune.system.memory import cycles_left_alone
from whispertune.text.languages import spoken_language


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune split ARGUMENTS`."""
    given, flags = split_arguments(arguments)
    options = parse_fields(SplitOptions, {}, flags, command="split")
    if not given:
        raise RecipeError("nothing to split: name a manifest or a folder; see whispertune split --help")
    if options.language is not None:
        spoken_language(options.language, options.language_token)  # raises if this is no language
    with no_empty_folders(options.output), cycles_left_alone():
        return _split(given, options)


def _split(given: Sequence[str], options: SplitOptions) -> int:
    described = " + ".join(given)
    folder = Path(options.output)
    rows = read_rows("data", described, options.reading.reading)
    require_expressible(described, rows, "split")
    inputs = {Path(kind.source) for kind in rows.kinds if kind.source} | {Path(path) for path in rows.readings}
    require_ours(folder, inputs, overwrite=options.overwrite)
    make_writable(folder)
    plan = Plan(options.by, options.texts, options.seed, options.wishes)
    earlier, record = earlier_split(folder, plan)
    marked = None if options.reading.exclude is None else read_marked(options.reading.exclude)
    excluded = {} if marked is None else marked.reasons(rows)
    if marked is not None and (line := marked.unmatched()) is not None:
        console.print(line, style="yellow")
    with progress_bar("reading", len(rows)) as advance:
        found = divide(
            rows, plan, source_namer(rows), earlier=earlier, workers=options.reading.workers, advance=advance,
            earlier_texts=record.get("texts") if earlier else None, excluded=excluded,
        )  # fmt: skip
    figures: dict[str, Any] = {
        "plan": as_record(plan), "texts": found.texts, "sides": side_figures(found, plan),
        "left_out": len(found.reasons),
    }  # fmt: skip
    with progress_bar("writing", len(rows)) as advance:
        files = write_split(found, folder, figures, overwrite=options.overwrite, advance=advance)
    for table in (side_table(found, plan), strata_table(found)):
        if table is not None:
            results.print(table)
    for line in remarks(found, plan, sum(len(those) for _, those in earlier), bool(record) and not earlier):
        results.print(one_line(line))
    if found.reasons:
        results.print(one_line(f"left out, with reasons: {folder / 'excluded.jsonl'}"))
    if any(row["seconds"] is None for row in figures["sides"].values()):
        console.print("durations are not shown, as that would take reading many headers, or recordings are missing")
    results.print(next_step({SIDES[side]: [str(path)] for side, path in sorted(files.items())}, rows, options))
    return 0


def source_namer(rows: Utterances) -> Any:
    """A function that says which of the given sources a kind of row comes from."""
    known: dict[str, str] = {}

    def name(kind: Shared) -> str:
        if kind.source not in known:
            path = Path(kind.source)
            inside = (str(place) for place in (path, *path.parents))
            known[kind.source] = next((place for place in inside if place in rows.readings), kind.source)
        return known[kind.source]

    return name


def next_step(sources: dict[str, list[str]], rows: Utterances, options: SplitOptions) -> str:
    """The command that trains on the manifests, or what is missing for it."""
    language = [] if options.language is None else ["--language", options.language]
    if options.language_token is not None:
        language += ["--language_token", options.language_token]
    if not language and not all(kind.language for kind in rows.kinds):
        return "to train, say which language is spoken: the same with --language L"
    if "valid" not in sources:
        return "to train, a run needs valid as well, on which the best checkpoint is chosen: --valid 0.1"
    command = training_command(sources, "openai/whisper-base", language, AS_USUAL)
    return f"next:  {command}"
