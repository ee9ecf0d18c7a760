"""What the rules of `text.*` changed: counted, shown, and listed, so that nothing is lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from whispertune.dataset.splits import Split
from whispertune.dataset.transcripts import TextSettings
from whispertune.errors import one_line
from whispertune.system.console import console
from whispertune.system.counts import counted
from whispertune.system.files import replacing_file
from whispertune.text.rules import TextRules

SHOWN = 3
"""Examples to print of each split."""
WIDTH = 60
"""Characters of a text to print."""


def report_text_changes(splits: Sequence[Split], text: TextSettings, path: Path) -> None:
    """Print how many transcripts each rule changed, with the first examples, and write all of them to `path`.

    text: with the rules. splits: those whose transcripts were rewritten by them.
    """
    assert text.rules is not None
    listed = 0
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for split in splits:
            listed += _report_split(split, text, text.rules, file)
    console.print(f"text      all {listed:,} are listed in {path}; the data itself is never changed")


def _report_split(split: Split, text: TextSettings, rules: TextRules, file: TextIO) -> int:
    """The same of one split; returns the number of lines that were written."""
    counts: Counter[str] = Counter()
    examples: list[str] = []
    total = listed = 0
    for row in _changes(split, text, rules):
        counts.update(row["rules"])
        if row["before"] != row["after"]:
            total += 1
            if len(examples) < SHOWN:
                examples.append(f"{_short(row['before'])} -> {_short(row['after'])}")
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        listed += 1
    flagged = counts.pop("digits", None)
    by_rule = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
    console.print(
        f"text      {split.name}: {total:,} of {counted(len(split.windows), 'transcript')} rewritten"
        + (f" ({by_rule})" if by_rule else "")
        + ("" if flagged is None else f"; with digits: {flagged:,}")
    )
    for example in examples:
        console.print(f"          {example}")
    return listed


def _changes(split: Split, text: TextSettings, rules: TextRules) -> Iterator[dict[str, Any]]:
    """The lines of text_changes.jsonl."""
    for window in split.windows:
        row = window.utterances[0]
        before = row.text if row.transcript is None else row.transcript
        names = rules.applied(before, text.written_in(text.language_of(row), row.task))[1]
        if row.transcript is not None or "digits" in names:
            yield {"split": split.name, "id": row.id, "rules": names, "before": before, "after": row.text}


def _short(text: str) -> str:
    shown = one_line(text)
    return repr(shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 1]}…")
