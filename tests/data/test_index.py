"""The index: with and without it the same rows and the same split; stale and damaged entries are never used."""

from __future__ import annotations

import os
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from whispertune.data import index, sources
from whispertune.data.index import Files, index_files, index_folder, index_verdicts, indexed_files, indexed_verdicts
from whispertune.data.sources import read_utterances
from whispertune.data.utterances import Utterances
from whispertune.system.locks import mark_in_use

HEADER = "id,audio,text,start,end,speaker,language\n"
ROWS = [f"u{n},{n % 3}.wav,Ciao numero {n}.,{n % 5},{n % 5 + 2}.5,s{n % 7},it\n" for n in range(40)]


@pytest.fixture(autouse=True)
def small_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FEWEST_ROWS", 10)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text(HEADER + "".join(ROWS), encoding="utf-8")
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(16_000 * 8, np.int16), 16_000)
    return path


def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one whenever a manifest is really read."""
    found: list[object] = []
    real = sources._read_sources

    def counted(name: str, *given: Any) -> Utterances:
        found.append(name)
        return real(name, *given)

    monkeypatch.setattr(sources, "_read_sources", counted)
    return found


def entry() -> Path:
    (found,) = index_folder().glob("*.npz")
    return found


def test_the_second_start_reads_the_same_rows_from_the_index(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = reads(monkeypatch)
    first, second = read_utterances("train", str(manifest)), read_utterances("train", str(manifest))
    assert len(really) == 1
    assert list(second) == list(first)
    assert second.digest() == first.digest()
    assert second.fingerprint == first.fingerprint
    assert second[7].row == 9
    assert second[7].audio == manifest.parent / "1.wav"


def test_rare_fields_survive_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    rows = [f'{{"audio": "{n}.wav", "text": "ü\\n{n}", "task": "translate", "channel": 1}}\n' for n in range(20)]
    path.write_text("".join(rows), encoding="utf-8")
    really = reads(monkeypatch)
    described = f"{path} [language=de weight=2] + {path} [language=it]"
    first, second = read_utterances("train", described), read_utterances("train", described)
    assert len(really) == 1
    assert list(second) == list(first)
    assert {row.weight for row in second} == {1.0, 2.0}
    assert second[0].channel == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text(HEADER + "".join(ROWS).replace("numero 3.", "numero 4."), encoding="utf-8"),
        lambda path: (path.parent / "clips").mkdir(),  # rows' audio may lie there
    ],
)
def test_a_stale_entry_is_not_used(manifest: Path, monkeypatch: pytest.MonkeyPatch, change) -> None:  # type: ignore[no-untyped-def]
    read_utterances("train", str(manifest))
    times = manifest.stat()
    change(manifest)
    os.utime(manifest, ns=(times.st_atime_ns, times.st_mtime_ns))
    really = reads(monkeypatch)
    found = read_utterances("train", str(manifest))
    assert len(really) == 1
    assert [row.text for row in found] == [line.split(",")[2] for line in manifest.read_text().split("\n")[1:41]]


def test_a_damaged_entry_is_made_anew_wherever_the_damage_is(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(read_utterances("train", str(manifest)))
    whole = entry().read_bytes()
    really = reads(monkeypatch)
    for at in range(0, len(whole), 197):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        entry().write_bytes(damaged)
        assert list(read_utterances("train", str(manifest))) == expected
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        entry().write_bytes(whole[:size])
        assert list(read_utterances("train", str(manifest))) == expected
    assert len(really) > 25
    assert [path.suffix for path in index_folder().iterdir()] == [".npz"]


def test_a_damaged_shape_asks_for_no_memory(manifest: Path) -> None:
    """A column that claims 100 million bytes is known for damaged before room is made for them."""
    manifest.write_text(HEADER + "".join(row.replace("numero", "numero " * 1000) for row in ROWS), encoding="utf-8")
    expected = list(read_utterances("train", str(manifest)))
    whole = entry().read_bytes()
    texts = max(re.finditer(rb"'shape': \((\d+),\), \} {9}", whole), key=lambda shape: int(shape[1]))
    claimed = b"'shape': (100000000,), }".ljust(len(texts[0]))
    entry().write_bytes(whole[: texts.start()] + claimed + whole[texts.end() :])
    tracemalloc.start()
    try:
        assert list(read_utterances("train", str(manifest))) == expected
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_the_index_is_bounded_and_drops_what_was_unused_for_longest(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_utterances("train", str(manifest))
    oldest = entry()
    os.utime(oldest, (1, 1))
    monkeypatch.setattr(index, "MOST_BYTES", 3 * oldest.stat().st_size)
    for number in range(5):
        manifest.write_text(HEADER + "".join(ROWS[: 20 + number]), encoding="utf-8")
        read_utterances("train", str(manifest))
    assert not oldest.exists()
    assert sum(path.stat().st_size for path in index_folder().iterdir()) <= index.MOST_BYTES


@pytest.mark.parametrize("ahead", [-1e9, 0.0, 1e9])
def test_what_another_process_is_writing_stays_whatever_the_clock_says(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """The clock is set while an entry is written; what a killed process left goes, from the future as well."""
    index_folder().mkdir(parents=True)
    written, left = index_folder() / "tmpwritten.new", index_folder() / "tmpleft.new"
    written.touch()
    left.touch()
    mark = mark_in_use(written)
    assert mark is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + ahead)
    expected = list(read_utterances("train", str(manifest)))
    assert written.exists()
    assert left.exists() is (ahead == 0.0)
    os.close(mark)
    assert list(read_utterances("train", str(manifest))) == expected


def test_a_manifest_changed_while_the_clock_was_back_is_read_anew(manifest: Path) -> None:
    times = manifest.stat()
    first = list(read_utterances("train", str(manifest)))
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("Ciao", "Ciau"), encoding="utf-8")
    os.utime(manifest, (times.st_atime - 1e8, times.st_mtime - 1e8))
    second = list(read_utterances("train", str(manifest)))
    assert [row.text for row in second] == [row.text.replace("Ciao", "Ciau") for row in first]


def test_a_folder_that_cannot_be_written_to_does_no_harm(manifest: Path) -> None:
    index_folder().parent.mkdir(parents=True)
    index_folder().write_text("a file")
    assert len(read_utterances("train", str(manifest))) == 40


def test_small_manifests_leave_nothing_behind(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FEWEST_ROWS", 41)
    read_utterances("train", str(manifest))
    assert not index_folder().exists()


def test_files_are_kept_for_these_rows_in_this_folder(manifest: Path) -> None:
    rows = read_utterances("train", str(manifest))
    assert indexed_files(rows) is None
    files = Files(np.arange(40, dtype=np.int32) % 3, np.arange(3), np.arange(15).reshape(3, 5))
    index_files(rows, files)
    found = indexed_files(rows)
    assert found is not None
    for name in ("of", "rows", "headers"):
        np.testing.assert_array_equal(getattr(found, name), getattr(files, name))
    elsewhere = manifest.parent / "elsewhere" / "train.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(manifest.read_bytes())
    assert indexed_files(read_utterances("train", str(elsewhere))) is None


def test_verdicts_on_texts_are_kept_for_what_they_follow_from(manifest: Path) -> None:
    rows, valid = read_utterances("train", str(manifest)), np.arange(40) % 2 == 0
    index_verdicts(rows, "it", valid)
    np.testing.assert_array_equal(indexed_verdicts(rows, "it"), valid)
    assert indexed_verdicts(rows, "en") is None
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("Ciao", "Addio"), encoding="utf-8")
    assert indexed_verdicts(read_utterances("train", str(manifest)), "it") is None
