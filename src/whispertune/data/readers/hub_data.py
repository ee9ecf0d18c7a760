"""A data set of the Hugging Face Hub, through the `datasets` library: `hub:NAME[:CONFIG][:SPLIT]`.

It is downloaded once, into the library's own cache, and read from its Arrow files there. With the option `first`, only
that many rows are streamed, into an Arrow file in whispertune's cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from whispertune.data.readers.arrow_folder import add_arrow_file, wanted_columns
from whispertune.data.reading import AS_USUAL, Reading, choose_columns
from whispertune.data.split_names import choose_split
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError, RecipeError
from whispertune.system.files import replacing_file
from whispertune.system.home import cache_folder

PREFIX = "hub:"


def add_hub_data(
    address: str,
    name: str,
    utterances: Utterances,
    reading: Reading = AS_USUAL,
    *,
    asked: str | None = None,
    first: int | None = None,
) -> None:
    """Add the split `asked` of a data set on the Hub, by default its `name` split; only its `first` rows if given.

    Raises:
        ManifestError: if `datasets` is missing or the data set cannot be loaded.
    """
    reading.require_no_root(address)
    corpus, _, rest = address.removeprefix(PREFIX).partition(":")
    config, _, own_split = rest.partition(":")
    if own_split and asked is not None:
        problem = f"the address already names the split {own_split}"
        raise ManifestError(f"{address} [split={asked}]: {problem}; remove one of the two")
    datasets = _library(address)
    try:
        known = datasets.get_dataset_split_names(corpus, config or None)
        chosen = choose_split(address, own_split or asked or name, known)
        if first is None:
            loaded = datasets.load_dataset(corpus, config or None, split=chosen)
            files = [Path(entry["filename"]) for entry in loaded.cache_files]
        else:
            files = [_first_rows(datasets, address, corpus, config, chosen, first, reading)]
    except (ManifestError, RecipeError):
        raise
    except Exception as error:  # the network, the Hub and each data set's files may raise anything
        raise _not_loaded(address, error) from None
    row, taken = 0, set[str]()
    for path in files:
        row = add_arrow_file(path, utterances, reading, taken, row, source=address)


def splits_of(address: str) -> list[str]:
    """The splits of a data set on the Hub; empty if the address names one.

    Raises:
        ManifestError: as above.
    """
    corpus, _, rest = address.removeprefix(PREFIX).partition(":")
    config, _, own_split = rest.partition(":")
    if own_split:
        return []
    datasets = _library(address)
    try:
        return list(datasets.get_dataset_split_names(corpus, config or None))
    except Exception as error:  # as above
        raise _not_loaded(address, error) from None


def _library(address: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ManifestError(f"{address}: reading the Hub needs `datasets`; install whispertune[datasets]") from None
    return datasets


def _not_loaded(address: str, error: BaseException) -> ManifestError:
    while error.__cause__ is not None:  # the library's own message may be no more than that it failed
        error = error.__cause__
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ManifestError(f"{address}: cannot be loaded ({reason}); check name, config, split and access")


def _first_rows(datasets: Any, address: str, name: str, config: str, split: str, first: int, reading: Reading) -> Path:
    """An Arrow file of the first rows, which are fetched unless they are cached."""
    key = hashlib.sha256(f"{address}\n{split}\n{first}{reading.columns or ''}".encode()).hexdigest()[:16]
    path = cache_folder() / "streams" / f"{key}.arrow"
    if path.is_file():
        return path
    import pyarrow

    stream = datasets.load_dataset(name, config or None, split=split, streaming=True)
    columns = tuple(stream.column_names or ())
    reading.require_columns(address, None, columns)
    audio = choose_columns(columns, reading.columns).audio
    kept = wanted_columns(reading)
    stream = stream.select_columns([column for column in columns if column == audio or column in kept])
    stream = stream.cast_column(audio, datasets.Audio(decode=False))
    schema = stream.features.arrow_schema
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing_file(path) as unfinished,
        pyarrow.OSFile(str(unfinished), "wb") as file,
        pyarrow.ipc.new_stream(file, schema) as writer,
    ):
        for sample in stream.take(first):
            if sample[audio]["bytes"] is None:
                sample[audio] = sample[audio] | {"bytes": Path(sample[audio]["path"]).read_bytes()}
            writer.write_batch(pyarrow.RecordBatch.from_pylist([sample], schema))
    return path
