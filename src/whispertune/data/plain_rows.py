"""Fast path for ordinary rows of a CSV or TSV: hundreds at once, as columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from whispertune.data.reading import Columns
from whispertune.data.remote import is_remote
from whispertune.data.rows import CONTROL, CONTROL_OR_LINE_END, MOST_SECONDS, WINDOWS_DRIVE, audio_path, made_id
from whispertune.data.utterances import Utterances

CHUNK_ROWS = 512
"""Larger chunks are slower, as they no longer fit in the CPU's cache."""
PLAIN_NUMBERS = re.compile("[0-9.]*")


class _UnusualError(Exception):
    """A value that the row-by-row path must check."""


def add_plain_rows(
    utterances: Utterances,
    source: str,
    numbers: Sequence[int],
    fields: Mapping[str, Sequence[str]],
    columns: Columns,
    base: str,
    clips: str | None,
) -> bool:
    """Add rows, given as columns, if `Row.add_to` would add all of them without a fault; the result is the same.

    Returns False, and adds nothing, if any value is faulty or unusual; the caller then adds the rows one by one.
    """
    try:
        audio = _strings(fields, columns.audio, one_line=True)
        joined = "\n".join(audio)
        if (
            not all(audio)
            or ("://" in joined and not all(is_remote(name) for name in audio if "://" in name))
            or "$" in joined
            or "{" in joined
            or any(_strings(fields, columns.channel))
        ):
            return False
        starts, ends = _spans(fields, columns, len(numbers))
        ids = _strings(fields, columns.id, one_line=True)
        if not all(ids):
            ids = [
                id_ or made_id(path, start, end) for id_, path, start, end in zip(ids, audio, starts, ends, strict=True)
            ]
        kinds = (
            _if_any(_strings(fields, columns.language, one_line=True)),
            _if_any(_strings(fields, columns.task, one_line=True)),
            _if_any(_strings(fields, columns.speaker, one_line=True)),
            _if_any(_strings(fields, columns.prompt)),
        )
        texts = _strings(fields, columns.text)
    except _UnusualError:
        return False
    if (":/" in joined or ":\\" in joined) and any(map(WINDOWS_DRIVE.match, audio)):
        return False
    if clips is None and "/" not in joined and "\\" not in joined and joined.isascii():
        folders, names = [f"{base}/"] * len(audio), audio
    else:
        found = [audio_path(name, base, clips) for name in audio]
        utterances.follows_from_files |= not all(sure for _, sure in found)
        parts = [path.rpartition("/") for path, _ in found]
        folders, names = [folder + slash for folder, slash, _ in parts], [name for *_, name in parts]
    utterances.add_all(
        ids=ids,
        names=names,
        texts=texts,
        source=source,
        rows=numbers,
        starts=starts,
        ends=[-1.0 if end is None else end for end in ends],
        kinds=list(zip(folders, *kinds, strict=True)),
    )
    return True


def _if_any(values: Sequence[str]) -> Sequence[str | None]:
    """The values, with None for empty ones."""
    return values if all(values) else [value or None for value in values]


def _strings(fields: Mapping[str, Sequence[str]], name: str | None, *, one_line: bool = False) -> list[str]:
    """A column, stripped."""
    if name is None:
        return [""] * len(next(iter(fields.values())))
    stripped = list(map(str.strip, fields[name]))
    joined = "".join(stripped)
    if not joined.isprintable():
        try:
            joined.encode()
        except UnicodeEncodeError:
            raise _UnusualError from None
        if (CONTROL_OR_LINE_END if one_line else CONTROL).search(joined):
            raise _UnusualError
    return stripped


def _seconds(fields: Mapping[str, Sequence[str]], name: str | None, size: int) -> Sequence[float | None]:
    """A column of seconds: either all rows have one, or none."""
    values = _strings(fields, name)
    joined = "".join(values)
    if not joined:
        return [None] * size
    try:
        if PLAIN_NUMBERS.fullmatch(joined) is None:
            raise _UnusualError
        seconds = list(map(float, values))
    except ValueError:
        raise _UnusualError from None
    if max(seconds) > MOST_SECONDS:
        raise _UnusualError
    return seconds


def _spans(
    fields: Mapping[str, Sequence[str]], columns: Columns, size: int
) -> tuple[list[float], Sequence[float | None]]:
    """Starts and ends in seconds."""
    starts = [0.0 if start is None else start for start in _seconds(fields, columns.start, size)]
    ends = _seconds(fields, columns.end, size)
    if ends[0] is None:
        durations = _seconds(fields, columns.duration, size)
        if durations[0] is not None:
            ends = [round(start + (length or 0.0), 6) for start, length in zip(starts, durations, strict=True)]
    if any(end is not None and end <= start for start, end in zip(starts, ends, strict=True)):
        raise _UnusualError
    return starts, ends
