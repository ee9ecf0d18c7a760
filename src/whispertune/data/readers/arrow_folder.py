"""A data set saved by Hugging Face's `datasets` (`save_to_disk`): Arrow files, with audio embedded or beside them.

Embedded recordings are read from the Arrow file when they are needed; nothing is copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whispertune.data.reading import ALL_COLUMNS, AS_USUAL, AUDIO_COLUMNS, Reading, choose_columns
from whispertune.data.rows import make_row, shown
from whispertune.data.split_names import choose_split, require_no_split
from whispertune.data.text_files import read_text
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError


def is_arrow_folder(folder: Path) -> bool:
    """Whether the folder was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def add_arrow_folder(
    folder: Path, name: str, utterances: Utterances, reading: Reading = AS_USUAL, *, asked: str | None = None
) -> None:
    """Add the split `asked` of a saved data set, by default its `name` split, or all of one without splits.

    Raises:
        ManifestError: if pyarrow is missing, or the folder or a row is invalid.
    """
    place = folder
    if splits := splits_of(folder):
        place = folder / choose_split(folder, asked or name, splits)
    else:
        require_no_split(folder, asked)
    files = _json(place / "state.json").get("_data_files")
    if not isinstance(files, list) or not all(isinstance(f, Mapping) and "filename" in f for f in files):
        raise ManifestError(f"{place / 'state.json'}: names no data files; save the data set again")
    row, taken = 0, set[str]()
    for entry in files:
        file = str(entry["filename"])
        if Path(file).name != file:
            raise ManifestError(f"{place / 'state.json'}: {shown(file)} is not a file in this folder; save it again")
        row = add_arrow_file(place / file, utterances, reading, taken, row)


def splits_of(folder: Path) -> list[str]:
    """The splits of a saved data set; empty if it has none.

    Raises:
        ManifestError: if the file that lists them is invalid.
    """
    path = folder / "dataset_dict.json"
    if not path.is_file():
        return []
    splits = _json(path).get("splits")
    names = splits if isinstance(splits, list) else []
    if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise ManifestError(f"{path}: names no splits; save the data set again")
    return names


def add_arrow_file(
    path: Path, utterances: Utterances, reading: Reading, taken: set[str], row: int, *, source: str | None = None
) -> int:
    """Add the rows of an Arrow file, numbered from `row` + 1; returns the number of the last one.

    taken: the ids in use, to which theirs are added. source: the rows' source in messages; None: the file.

    Raises:
        ManifestError: as above.
    """
    try:
        import pyarrow
    except ImportError:
        remedy = "install whispertune[datasets], which brings pyarrow"
        raise ManifestError(f"{path}: reading a saved data set needs pyarrow; {remedy}") from None
    try:
        with pyarrow.memory_map(str(path)) as file:
            mapped = file.read_buffer(file.size())
            file.seek(0)
            for batch in pyarrow.ipc.open_stream(file):
                row = _add_batch(path, source or str(path), batch, mapped, utterances, reading, taken, row)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; save the data set again") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ManifestError(f"{path}: is not an Arrow file ({reason}); save the data set again") from None
    return row


def _add_batch(
    path: Path,
    source: str,
    batch: Any,
    mapped: Any,
    utterances: Utterances,
    reading: Reading,
    taken: set[str],
    row: int,
) -> int:
    columns = batch.schema.names
    reading.require_columns(source, 1, columns)
    audio_name = choose_columns(tuple(columns), reading.columns).audio
    kept = wanted_columns(reading)
    values = {name: batch.column(name).to_pylist() for name in columns if name in kept}
    audio = batch.column(audio_name)
    offsets = None
    if hasattr(audio, "field") and {"bytes", "path"} <= {field.name for field in audio.type}:
        paths = audio.field("path").to_pylist()
        offsets = _places(path, audio.field("bytes"), mapped)
    elif str(audio.type) in ("string", "large_string"):
        paths = audio.to_pylist()
    else:
        remedy = f"save it with cast_column({audio_name!r}, Audio())"
        problem = f"its type is {shown(str(audio.type))}; {remedy}"
        raise ManifestError(problem, file=source, row=1, field=audio_name)
    # A duration without a start is that of the whole recording.
    spanned = "start" in values or "offset" in values
    base = reading.base(path.absolute().parent)
    for index in range(batch.num_rows):
        row += 1
        record = {name: entries[index] for name, entries in values.items() if name != "duration" or spanned}
        record = reading.renamed(record)
        within = None if offsets is None else offsets[index]
        record["audio"] = paths[index] or (f"row-{row}" if within else None)
        make_id_distinct(record, row, taken)
        if within:
            reading.require_no_root(source)
        make_row(source, row, record).add_to(utterances, str(path.absolute()) if within else base, within=within)
    return row


def wanted_columns(reading: Reading) -> frozenset[str]:
    """The columns whose values are read, apart from the audio column."""
    named = {name for kind, name in reading.columns if kind != "audio"}
    return (ALL_COLUMNS - set(AUDIO_COLUMNS)) | named


def make_id_distinct(record: dict[str, Any], row: int, taken: set[str]) -> None:
    """Set an id that is not `taken`, and add it there: the row's own, followed by the row number if it repeats.

    FLEURS's ids are those of sentences, each spoken by several speakers.
    """
    given = record.get("id")
    id_ = "" if given is None else str(given).strip()
    if not id_:
        record["id"] = id_ = f"{row}-{Path(str(record['audio'])).name}"  # names of embedded files may repeat
    while id_ in taken:
        record["id"] = id_ = f"{id_}-{row}"
    taken.add(id_)


def _places(path: Path, array: Any, mapped: Any) -> list[tuple[int, int] | None]:
    """(offset, number of bytes) of each value of a binary column in the mapped file."""
    _, offsets_buffer, data = array.buffers()
    if data is None:
        return [None] * len(array)
    if not 0 <= data.address - mapped.address < mapped.size:
        raise ManifestError(f"{path}: its columns are compressed; save the data set with save_to_disk")
    wide = str(array.type).startswith("large_")
    offsets = np.frombuffer(offsets_buffer, np.int64 if wide else np.int32)[
        array.offset : array.offset + len(array) + 1
    ]
    first = data.address - mapped.address
    valid = array.is_valid().to_pylist()
    return [
        (int(first + a), int(b - a)) if there and b > a else None
        for a, b, there in zip(offsets[:-1], offsets[1:], valid, strict=True)
    ]


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: is not a JSON object; save the data set again")
    return content
