"""Faulty rows listed instead of raised: the same faults in the same words, and every other row is there."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from whispertune.data.sources import read_utterances
from whispertune.errors import ManifestError


def csv(folder: Path) -> Path:
    rows = [
        "id,audio,text,start,end", "a,a.wav,uno,,", "b,,due,,", "c,c.wav,tre,2,1", 'd,d.wav,"quattro" x,,',
        "e,e.wav,cinque,0,1,zu,viel", "f,f.wav,sei,0,1", "g,g.wav,perch\xe9,,", 'h,h.wav,"otto\x01",,',
        "i,i.wav,nove,x,", "j,j.wav,dieci,0,2",
    ]  # fmt: skip
    (folder / "train.csv").write_bytes("\n".join(rows).encode("latin-1"))
    return folder / "train.csv"


def jsonl(folder: Path) -> Path:
    good = [json.dumps({"id": name, "audio": f"{name}.wav", "text": "uno"}) for name in "afj"]
    rows = [good[0], "{", "[]", good[1], '{"text": "no audio"}', '{"id": "x", "text": "nor here"}', good[2]]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder / "train.jsonl"


def transcripts(folder: Path) -> Path:
    for name in ("a", "b", "c", "d", "f", "j"):
        (folder / f"{name}.wav").touch()
    (folder / "a.txt").write_text("uno", encoding="utf-8")
    (folder / "c.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\nperch\xe9\n".encode("latin-1"))
    (folder / "d.srt").write_text("stray\n\n1\n0,994 --> 00:00:02,000\nx\n\n2\n00:00:05,000 --> 00:00:04,000\ny\n")
    (folder / "f.txt").write_text("sei", encoding="utf-8")
    (folder / "j.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\ndieci\n", encoding="utf-8")
    (folder / "z.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nx\n", encoding="utf-8")
    return folder


def kaldi(folder: Path) -> Path:
    (folder / "wav.scp").write_text("a a.wav\nb cat b.wav |\nf f.wav\nj j.wav\n", encoding="utf-8")
    (folder / "text").write_text("a uno\nb due\nc tre\nf sei\nj dieci\n", encoding="utf-8")
    return folder


def librispeech(folder: Path) -> Path:
    for name in "afj":
        (folder / f"{name}.flac").touch()
    (folder / "1.trans.txt").write_text("a UNO\nb DUE\nf SEI\nj DIECI\n", encoding="utf-8")
    return folder


def cuts(folder: Path) -> Path:
    def cut(name: str, **changed: object) -> str:
        source = {"type": "file", "channels": [0], "source": f"{name}.wav"}
        recording = {"id": name, "sources": [source]}
        spoken = [{"id": name, "start": 0, "duration": 1, "text": "uno"}]
        return json.dumps({"type": "MonoCut", "recording": recording, "supervisions": spoken, **changed})

    lines = [cut("a"), cut("b", type="MixedCut"), cut("f"), cut("c", recording=None), "{", cut("j")]
    (folder / "cuts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "cuts.jsonl"


def shard(folder: Path) -> Path:
    contents = {
        "a.wav": b"x", "a.txt": b"uno", "b.wav": b"x", "c.txt": b"tre", "d.wav": b"x", "d.txt": b"\xe9",
        "f.wav": b"x", "f.json": b'{"text": "sei"}', "g.wav": b"x", "g.json": b"[]", "j.wav": b"x", "j.txt": b"dieci",
    }  # fmt: skip
    with tarfile.open(folder / "train.tar", "w") as tar:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
            tar.add(folder / name, name)
    return folder / "train.tar"


@pytest.mark.parametrize(
    ("make", "places"),
    [
        (csv, [(3, "audio"), (4, "end"), (5, None), (6, None), (8, "text"), (9, "text"), (10, "start")]),
        (jsonl, [(2, None), (3, None), (5, "audio"), (6, "audio")]),
        (transcripts, [(None, None), (3, None), (1, None), (4, "start"), (8, "end"), (None, None)]),
        (kaldi, [(2, "audio"), (3, "id")]),
        (librispeech, [(2, "id")]),
        (cuts, [(5, None), (2, "type"), (4, "recording")]),
        (shard, [(3, "b"), (4, "c"), (1, None), (10, "g.json")]),
    ],
)  # fmt: skip
def test_faults_are_listed_and_all_else_is_read(
    make: Callable[[Path], Path], places: list[tuple[int | None, str | None]], tmp_path: Path
) -> None:
    path = make(tmp_path)
    faults: list[ManifestError] = []
    rows = read_utterances("train", str(path), faults=faults)
    assert [row.id[0] for row in rows] == ["a", "f", "j"]
    found = [(fault.row, fault.field) for fault in faults]  # a CSV is read in blocks, and each told of as a whole
    assert (sorted(found, key=str) if make is csv else found) == (sorted(places, key=str) if make is csv else places)
    assert all(fault.file and fault.file.startswith(str(tmp_path)) and "\n" not in str(fault) for fault in faults)
    with pytest.raises(ManifestError) as raised:  # and without a list the first one ends the reading
        read_utterances("train", str(path))
    # The bytes of a CSV are decoded far ahead of its rows.
    assert str(raised.value) == str(faults[0]) or (make is csv and "row 8: byte 0xe9 is not" in str(raised.value))


def test_a_manifest_that_was_only_listed_is_not_kept_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("whispertune.data.index.FEWEST_ROWS", 1)
    path = tmp_path / "train.csv"
    path.write_text("id,audio,text\na,a.wav,uno\na,b.wav,due\n", encoding="utf-8")
    for _ in range(2):
        assert len(read_utterances("train", str(path), faults=[])) == 2
        with pytest.raises(ManifestError, match="the id 'a' is repeated; row 2 already has it"):
            read_utterances("train", str(path))


def test_utf_16_is_no_rows_to_tell_of(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,audio,text\na,a.wav,uno\n", encoding="utf-16")
    with pytest.raises(ManifestError, match="UTF-16"):
        read_utterances("train", str(tmp_path / "train.csv"), faults=[])
