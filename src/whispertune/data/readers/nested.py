"""Nested JSON lines, as other trainers write them: a recording as an object, with a list of segments.

    {"audio": {"path": "talk.wav"}, "sentence": "Uno. Due.", "sentences": [{"start": 0, "end": 1.5, "text": "Uno."}, …]}

Each segment becomes an utterance, like a subtitle; `data.merge_segments` can join them, keeping their times.
"""

from __future__ import annotations

from collections.abc import Iterator

from whispertune.data.reading import KINDS, Columns
from whispertune.data.rows import Row, shown

SEGMENTS = ("sentences", "segments")
INHERITED = ("audio", "language", "task", "speaker", "prompt", "channel")


def nested_rows(row: Row) -> Iterator[Row]:
    """Yield the row with its audio's path, or a row for each of its segments.

    Raises:
        ManifestError: for audio without a path, malformed segments, and a row with both segments and a start.
    """
    columns = row.columns
    if columns.audio is not None and isinstance(audio := row.record[columns.audio], dict):
        path = audio.get("path")
        if not isinstance(path, str) or not path.strip():
            remedy = 'write the recordings to files, and give their paths: {"path": "a.wav"}'
            raise row.fault(columns.audio, f"{shown(audio)} has no path", remedy)
        row.record = {**row.record, columns.audio: path}
    field = next((name for name in SEGMENTS if row.record.get(name)), None)
    if field is None:
        yield row
        return
    segments = row.record[field]
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise row.fault(
            field, f"{shown(segments)} is not a list of objects", 'write [{"start": 0, "end": 1, "text": "Sì."}]'
        )
    if columns.start is not None and row.seconds(columns.start):
        problem = f"the row starts at {row.seconds(columns.start):g} s and has segments of its own"
        raise row.fault(columns.start, problem, "give the segments' times from the start of the file, and no start")
    own = {kind: row.record[name] for kind in INHERITED if (name := getattr(columns, kind)) is not None}
    further = {name: value for name, value in row.record.items() if name not in columns and name != field}
    id_ = row.string(columns.id, numbers=True, one_line=True)
    for number, segment in enumerate(segments, start=1):
        record = {**further, **own, **{kind: segment.get(kind) for kind in ("start", "end", "text")}}
        if segment.get("start") is None or segment.get("end") is None:
            raise row.fault(field, f"segment {number} has no start or no end", "give both, in seconds")
        if id_:
            record["id"] = f"{id_}#{number}"
        chosen = Columns(**{kind: kind if kind in record else None for kind in KINDS})
        yield Row(row.source, row.number, record, chosen, decimal_comma=row.decimal_comma)
