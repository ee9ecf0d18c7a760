"""Corpora with a fault that only their format can have: one line that names file and place, and says what to do."""

from __future__ import annotations

import importlib
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from whispertune.data.sources import read_rows, read_utterances
from whispertune.errors import DataError, ManifestError

RATE = 16_000


def message_of(described: str, split: str = "train") -> str:
    with pytest.raises(ManifestError) as caught:
        read_utterances(split, described)
    (line,) = str(caught.value).splitlines()
    assert "; " in line
    return line


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"audio_filepath": "b.wav", "duration": "long", "text": "Due."}, "row 2, field 'duration': 'long'"),
        ({"audio_filepath": "b.wav", "duration": -1.0, "text": "Due."}, "row 2, field 'duration'"),
        ({"audio_filepath": "", "duration": 1.0, "text": "Due."}, "row 2, field 'audio_filepath'"),
        ({"audio_filepath": "b.wav", "duration": 1.0, "text": ["Due."]}, "row 2, field 'text'"),
    ],
)
def test_nemo(tmp_path: Path, row: dict[str, object], said: str) -> None:
    rows = [{"audio_filepath": "a.wav", "duration": 1.0, "text": "Uno."}, row]
    path = tmp_path / "manifest.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert f"{path}, {said}" in message_of(str(path))


def test_one_table_over_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    path = tmp_path / "metadata.csv"
    path.write_text("file_name,text\ntrain/a.wav,Uno.\n", encoding="utf-8")
    assert f"{path}, row 2, field 'file_name': no row's file lies in the folder test/" in message_of(
        str(tmp_path), "test"
    )
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "train/a.wav", "text": "Uno."}\n', encoding="utf-8")
    assert "holds both metadata.csv and metadata.jsonl" in message_of(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("audio,text\na.wav,Perché\n".encode("utf-16"), "is UTF-16; save the file as UTF-8"),
        (b"RIFF\x24\0\0\0WAVEfmt \x80\xff", "holds binary data instead of text; check the path"),
        ("audio,text\na.wav,Perché\n".encode("latin-1"), "row 2: byte 0xe9 is not UTF-8"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    assert said in message_of(str(tmp_path / "train.csv"))


def test_a_tar_without_members(tmp_path: Path) -> None:
    tarfile.open(tmp_path / "empty.tar", "w").close()
    with pytest.raises(DataError, match=r"empty\.tar: no utterances in it; at least one"):
        read_rows("train", str(tmp_path / "empty.tar"))


@pytest.mark.parametrize("ending", ["srt", "txt"])
def test_two_recordings_with_one_transcript(tmp_path: Path, ending: str) -> None:
    for name in ("talk.mp4", "talk.wav"):
        (tmp_path / name).touch()
    (tmp_path / f"talk.it.{ending}").write_text("1\n00:00:01,000 --> 00:00:02,000\nSì.\n", encoding="utf-8")
    said = f"talk.wav: talk.it.{ending} is the transcript of talk.mp4 too; remove one recording"
    assert said in message_of(str(tmp_path))


def test_names_of_transcripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.wav", "a.b.wav", "a.b.c.wav", "d-1.wav"]
    for name, ending in zip(names, ["txt", "zh-Hant.txt", "vtt.txt", "TXT"], strict=True):
        (tmp_path / name).touch()
        (tmp_path / f"{name.removesuffix('.wav')}.{ending}").write_text(name, encoding="utf-8")
    listed: list[Path] = []
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: (listed.append(path), real(path))[1])
    found = read_utterances("train", str(tmp_path))
    assert sorted((row.text, row.language) for row in found) == [
        ("a.b.c.wav", "vtt"), ("a.b.wav", "zh-Hant"), ("a.wav", None), ("d-1.wav", None)
    ]  # fmt: skip
    assert len(listed) < len(names)  # no recording lists its folder
    (tmp_path / "a.it.txt").write_text("Sì.", encoding="utf-8")
    assert "a.wav: several transcripts (a.it.txt, a.txt) beside it; keep only one" in message_of(str(tmp_path))
    (tmp_path / "a.it.txt").unlink()
    (tmp_path / "e.srt").write_text("", encoding="utf-8")
    assert "e.srt: no recording of that name beside it" in message_of(str(tmp_path))


# With the `datasets` extra.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A data set that `save_to_disk` wrote, of one recording."""
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE, np.int16), RATE)
    pyarrow = pytest.importorskip("pyarrow")
    audio = [{"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}]
    table = pyarrow.table({"audio": audio, "sentence": ["Uno."]})
    made = datasets.Dataset(table, fingerprint="a").cast_column("audio", datasets.Audio(decode=False))
    made.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_saved_data_set(saved: Path) -> None:
    assert [row.text for row in read_utterances("train", str(saved))] == ["Uno."]
    (arrow,) = saved.glob("*.arrow")
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[: len(whole) // 2])
    assert f"{arrow}: is not an Arrow file" in message_of(str(saved))
    arrow.unlink()
    assert f"{arrow}: no such file; save the data set again" in message_of(str(saved))
    state = json.loads((saved / "state.json").read_text())
    for files, said in ((None, "names no data files"), ([{"filename": "../a.wav"}], "is not a file in this folder")):
        (saved / "state.json").write_text(json.dumps(state | {"_data_files": files}))
        assert said in message_of(str(saved))


@pytest.mark.parametrize("first", ["", " [first=1]"])
def test_hub_data_set_without_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    datasets: Any = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ours"))
    (tmp_path / "corpus").mkdir()
    parquet = pytest.importorskip("pyarrow.parquet")
    table = importlib.import_module("pyarrow").table({"sound": ["a"], "sentence": ["Uno."]})
    parquet.write_table(table, tmp_path / "corpus" / "train.parquet")
    assert "no audio column among 'sound', 'sentence'; rename one to" in message_of(f"hub:{tmp_path / 'corpus'}{first}")


def test_hub_data_set_with_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the file's, not only that the library failed."""
    datasets: Any = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.parquet").write_bytes(b"PAR1" + bytes(100))
    where = f"hub:{tmp_path / 'corpus'}"
    assert re.search(r"cannot be loaded \(.*(magic|footer|corrupted).*\); check name", message_of(where))
