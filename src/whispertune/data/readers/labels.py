"""Read Audacity's label tracks: `start<TAB>end<TAB>text` in seconds, one a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from whispertune.data.readers.subtitles import Cue
from whispertune.errors import ManifestError

TIME = r"([0-9]+(?:[.,][0-9]+)?)"
LABEL = re.compile(rf"{TIME}\t{TIME}(?:\t(.*))?")


def is_label_track(content: str) -> bool:
    """Whether every line is a label, or the frequencies of one (Audacity's spectral selection)."""
    lines = [line for line in content.split("\n") if line.strip() and not line.startswith("\\")]
    return bool(lines) and all(LABEL.fullmatch(line.rstrip("\r")) for line in lines)


def read_labels(source: str, content: str, report: Callable[[ManifestError], None]) -> Iterator[Cue]:
    """The labels of a track that span some time and have text; points are marks, not utterances.

    report: called with each label that ends before it begins.
    """
    for row, line in enumerate(content.split("\n"), start=1):
        match = LABEL.fullmatch(line.rstrip("\r"))
        if match is None:
            continue
        start, end = (float(time.replace(",", ".")) for time in match.groups()[:2])
        text = " ".join((match[3] or "").split())
        if end < start:
            problem = f"the end, {end:g} s, is not after the start, {start:g} s; correct the times"
            report(ManifestError(problem, file=source, row=row, field="end"))
        elif text and end > start:
            yield Cue(row, start, end, text, None)
