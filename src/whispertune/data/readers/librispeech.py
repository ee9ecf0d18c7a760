"""A LibriSpeech tree: NAME.trans.txt in each chapter's folder, with the recordings beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from whispertune.data.reading import AS_USUAL, Reading
from whispertune.data.remote import files_below
from whispertune.data.rows import exists, make_row
from whispertune.data.text_files import read_text
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

ENDINGS = (".flac", ".wav", ".opus", ".ogg", ".mp3")


def transcripts_in(folder: Path) -> Iterator[Path]:
    """Its *.trans.txt, sorted."""
    return iter(sorted(path for path in files_below(folder) if path.name.endswith(".trans.txt")))


def add_librispeech(
    folder: Path, utterances: Utterances, reading: Reading = AS_USUAL, *, asked: str | None = None
) -> None:
    """Add every line `ID TEXT` of every *.trans.txt below the folder; the speaker is the id up to its first dash.

    asked: the only folder in it to use, such as dev-clean.

    Raises:
        ManifestError: for a line without text, or without a recording, or if there is no such folder.
    """
    reading.require_no_columns(folder)
    root, corpus = reading.base(folder.absolute()), folder
    if asked is not None:
        folder = folder / asked
        if asked.startswith("/") or next(transcripts_in(folder), None) is None:
            remedy = f"[split=…] is the name of a folder in {folder.parent}"
            raise ManifestError(f"{folder}: no such folder with *.trans.txt in it; {remedy}")
    for path in transcripts_in(folder):
        beside = str(Path(root, path.parent.relative_to(corpus)))
        for number, line in enumerate(read_text(path, empty="write a line `ID TEXT` per utterance").split("\n"), 1):
            if not line.strip():
                continue
            id_, _, text = line.strip().partition(" ")
            audio = next((id_ + ending for ending in ENDINGS if exists(f"{beside}/{id_}{ending}")), None)
            if audio is None:
                problem = (
                    f"no recording {id_}{ENDINGS[0]} (or {', '.join(ENDINGS[1:])}) beside it; each line is `ID TEXT`: "
                    "fetch the recording or delete the line"
                )
                utterances.report(ManifestError(problem, file=path, row=number, field="id"))
                continue
            record = {"id": id_, "audio": audio, "text": text, "speaker": id_.partition("-")[0]}
            make_row(str(path), number, record).add_to(utterances, beside)
