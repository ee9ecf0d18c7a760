"""Rows taken as columns are the rows taken one by one, and the same faults are told."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st

from whispertune.data import plain_rows
from whispertune.data.readers import manifest
from whispertune.data.readers.manifest import add_manifest
from whispertune.data.utterances import Utterance, Utterances
from whispertune.errors import ManifestError

USUAL = {
    "id": st.sampled_from(["", "u1", " u2", "è"]),
    "audio": st.sampled_from(["a.wav", "b/c.wav", " /d.wav "]),
    "text": st.sampled_from(["Ciao.", " né\u00a0qui ", "", "a\tb"]),
    "start": st.sampled_from(["0", "1.5", "", "2."]),
    "end": st.sampled_from(["3.25", "4", ".5"]),
    "duration": st.sampled_from(["", "0.1", "2.2"]),
    "language": st.sampled_from(["", "it"]),
    "speaker": st.sampled_from(["", "s1", "s2"]),
}
RARE = st.sampled_from(
    ["$root/a.wav", "http://x/y", "1e-3", "-1", "nan", "\x07", "1_0", "1" * 400, "a\nb", "٣", "\ufeff"]
)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    names = draw(st.sets(st.sampled_from(sorted(USUAL))).map(lambda some: sorted(some | {"audio", "text"})))
    rows = [[draw(USUAL[name]) for name in names] for _ in range(draw(st.integers(1, 7)))]
    if draw(st.booleans()):
        rows[draw(st.integers(0, len(rows) - 1))][draw(st.integers(0, len(names) - 1))] = draw(RARE)
    return [names, *rows]


def outcome(path: Path) -> tuple[list[Utterance], str] | str:
    utterances = Utterances()
    try:
        add_manifest(path, utterances)
    except ManifestError as error:
        return str(error)
    return list(utterances), utterances.digest()


@given(tables(), st.integers(1, 4))
@example([["audio", "text", "end"], ["a.wav", "A", "1"], ["b.wav", "B", ""]], 2)
@example([["audio", "text", "start", "duration"], ["a.wav", "A", "1.1", "2.2"], ["b.wav", "B", "0", "1"]], 8)
@example([["audio", "text"], ["a.wav", "A"], ["", "B"], ['c.wav"x', "C"]], 2)
def test_as_columns_or_one_by_one_they_are_the_same(table: list[list[str]], chunk: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
        with patch.object(manifest, "CHUNK_ROWS", chunk):
            ours = outcome(path)
        with patch.object(manifest, "add_plain_rows", lambda *_: False):
            theirs = outcome(path)
    assert ours == theirs


def test_usual_rows_need_not_be_taken_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    rows = [f"u{n},a.wav,né\u00a0qui {n},0,1.5,s{n},\n" for n in range(3)]
    path.write_text("id,audio,text,start,end,speaker,language\n" + "".join(rows), encoding="utf-8")
    taken: list[bool] = []
    real = plain_rows.add_plain_rows
    with patch.object(manifest, "add_plain_rows", lambda *a: (taken.append(real(*a)), taken[-1])[1]):
        assert len(outcome(path)[0]) == 3
    assert taken == [True]


def test_a_row_at_fault_is_told_before_the_file_s_end_is(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('audio,text\na.wav,A\n,B\nc.wav,"never closed\n', encoding="utf-8")
    assert "row 3, field 'audio'" in str(outcome(path))
