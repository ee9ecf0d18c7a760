"""Rows that are left out because the user marked them."""

from __future__ import annotations

from pathlib import Path

import pytest

from whispertune.data.marked import read_marked
from whispertune.data.readers.manifest import read_manifest
from whispertune.data.segments import merge_segments
from whispertune.errors import ManifestError


def manifest(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "rows.csv"
    path.write_text("id,audio,text\n" + "".join(f'{id_},{id_}.wav,"{text}"\n' for id_, text in rows), encoding="utf-8")
    return path


ROWS = [("1", "uno"), ("2", "due, tre"), ("3", 'disse ""sì""'), ("4", "quattro")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'id,text,reason\r\n"2","due, tre","transcript wrong"\r\n"3","disse ""sì""","transcript wrong"\r\n'),
        ("a.csv", "\ufeffreason;id;text\ntranscript wrong;2;due,  tre\n\ntranscript wrong;3;\n"),
        ("a.tsv", "id\treason\n2\ttranscript wrong\n3\ttranscript wrong\n"),
        ("a.jsonl", '{"id": 2, "text": "due,\\u00a0tre", "reason": "transcript wrong"}\n{"id": "3", "reason": '
         '"transcript\\nwrong"}\n'),
    ],
)  # fmt: skip
def test_rows_are_found_by_id_and_text(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    marked = read_marked(str(path))
    assert marked.reasons(read_manifest(manifest(tmp_path, ROWS))) == {
        1: f"transcript wrong ({name})", 2: f"transcript wrong ({name})"
    }  # fmt: skip
    assert marked.unmatched() is None


def test_a_corrected_transcript_takes_part_again(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,uno\n2,due\n9,\n", encoding="utf-8")
    marked = read_marked(str(tmp_path / "a.csv"))
    assert marked.reasons(read_manifest(manifest(tmp_path, ROWS))) == {0: "marked as wrong (a.csv)"}
    line = marked.unmatched()
    assert line is not None
    assert line.startswith(f"{tmp_path / 'a.csv'}: 2 of 3 marked ids without a row that has this transcript")
    assert line.endswith("'2', '9'")
    # The same id in another split, with another text: each mark is of its own row.
    (tmp_path / "b.csv").write_text("id,text\n1,uno\n1,one\n", encoding="utf-8")
    marked = read_marked(str(tmp_path / "b.csv"))
    assert list(marked.reasons(read_manifest(manifest(tmp_path, [("1", "one"), ("2", "two")])))) == [0]
    assert list(marked.reasons(read_manifest(manifest(tmp_path, [("1", "eins"), ("2", "two")])))) == []


def test_texts_that_cannot_be_printed_are_found_as_a_page_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a\\u2028b", "audio": "a.wav", "text": "uno\\u2028 due\\n tre"}\n', encoding="utf-8")
    for shown in ("uno\\u2028 due\\n tre", "uno due tre"):
        (tmp_path / "a.csv").write_text(f"id,text\na\\u2028b,{shown}\n", encoding="utf-8")
        assert list(read_marked(str(tmp_path / "a.csv")).reasons(read_manifest(path))) == [0]


def test_joined_segments_are_found_as_they_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,audio,start,end,text\na,x.wav,0,1,uno\nb,x.wav,1,2,due\n", encoding="utf-8")
    rows = merge_segments(read_manifest(path), 10, lambda row: True)
    (tmp_path / "a.csv").write_text("id,text\na+1,uno due\n", encoding="utf-8")
    assert list(read_marked(str(tmp_path / "a.csv")).reasons(rows)) == [0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "name,text\na,b\n", "a.csv, row 1: no column is called id; give it the column id"),
        ("a.csv", "id,text\n ,b\n", "a.csv, row 2, field 'id': the row has no id"),
        ("a.jsonl", '{"text": "b"}\n', "a.jsonl, row 1, field 'id': the row has no id"),
        ("a.jsonl", "[1]\n", "a.jsonl, row 1: [1] is not a JSON object"),
        ("a.csv", "", "a.csv: is empty"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError) as error:
        read_marked(str(tmp_path / name))
    assert said in str(error.value)
    with pytest.raises(ManifestError, match="no such file"):
        read_marked(str(tmp_path / "absent.csv"))
