"""What is read, and what is written: manifests with all their columns, transcripts in other programs' formats."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from correct_samples import TEXTS, served, transcript, write_recording

from whispertune import cli
from whispertune.commands import correct
from whispertune.correct.journal import Correction
from whispertune.correct.saving import Saver, Snapshots
from whispertune.data.reading import Reading
from whispertune.data.sources import read_rows
from whispertune.data.utterances import Utterance
from whispertune.system.files import read_jsonl

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, without its server."""

    def begin(*arguments: object) -> tuple[Correction, Saver]:
        found: list[Correction] = []
        monkeypatch.setattr(correct, "_serve", lambda correction, _: found.append(correction) or 0)
        out = tmp_path / "out"
        assert cli.main(["correct", *map(str, arguments), "--output", str(out)]) == 0
        correction = Correction(out)
        return correction, Saver(
            correction, only_done=correction.facts["by_model"], formats=correction.facts["formats"]
        )

    return begin


def manifest(folder: Path, rows: Sequence[dict[str, object]]) -> Path:
    path = folder / "train.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def apply(correction: Correction, op: str, id_: str, **fields: object) -> None:
    correction.apply({"op": op, "id": id_, "seen": 1 << 30, **fields})


def test_a_manifest_keeps_its_columns_and_its_texts(tmp_path: Path, begun: Any) -> None:
    for name in ("a", "b", "c"):
        write_recording(tmp_path / f"{name}.wav", 3.0, 22_050)
    path = manifest(
        tmp_path,
        [
            {
                "id": "a",
                "wav": "a.wav",
                "wrd": "uno due",
                "sentence": "x",
                "mood": "glad",
                "confidence": 0.9,
                "speaker": "S",
            },
            {
                "id": "b",
                "wav": "b.wav",
                "wrd": "tre",
                "sentence": "y",
                "mood": "sad",
                "confidence": 0.2,
                "speaker": "S",
            },
            {"id": "c", "wav": "c.wav", "wrd": "", "sentence": "z", "mood": "", "confidence": "", "speaker": ""},
        ],
    )
    before = path.read_bytes()
    correction, saver = begun(path, "--language", "it")
    assert [segment.id for segment in correction.session.ranked()] == ["b", "a", "c"]
    apply(correction, "edit", "a", text="uno, due")
    apply(correction, "split", "b", at=1.0, texts=["t", "re"])
    apply(correction, "edit", "b~2", status="unusable", note="rauscht")
    assert saver.manifest() == (2, 4.0)
    rows = read_jsonl(correction.folder / "corrected.jsonl")
    assert rows[0] == {
        "id": "a",
        "audio": "../a.wav",
        "text": "uno, due",
        "speaker": "S",
        "sentence": "x",
        "mood": "glad",
    }
    assert rows[1] == {
        "id": "b",
        "audio": "../b.wav",
        "text": "t",
        "start": 0.0,
        "end": 1.0,
        "speaker": "S",
        "sentence": "y",
        "mood": "sad",
    }
    left = {row["id"]: row["reason"] for row in read_jsonl(correction.folder / "left-out.jsonl")}
    assert left == {"b~2": "unusable: rauscht", "c": "no text"}
    read = read_rows("data", correction.folder / "corrected.jsonl")
    assert [(row.text, row.start, row.end) for row in read] == [("uno, due", 0.0, None), ("t", 0.0, 1.0)]
    assert path.read_bytes() == before
    correction.close()


def facts(rows: Sequence[Utterance]) -> list[tuple[str, float, float | None, str | None]]:
    return sorted((row.text, row.start, row.end, row.speaker) for row in rows)


@pytest.mark.parametrize("kind", ["TextGrid", "eaf", "srt"])
def test_transcripts_go_back_to_their_format(tmp_path: Path, begun: Any, kind: str) -> None:
    """What was corrected is read from the file that is written as from the manifest, to the millisecond."""
    source = transcript(tmp_path)
    correction, _ = begun(source)
    Saver(correction, only_done=False, formats=[kind.lower()]).everything()
    correction.close()
    (tmp_path / "out").rename(tmp_path / "given")
    given = tmp_path / "given" / "transcripts" / f"talk.{kind}"
    reading = Reading(audio_root=str(tmp_path))
    tiers = "" if kind == "srt" else " [tier=*]"
    correction, saver = begun(f"{given}{tiers}", "--audio_root", tmp_path)
    assert saver._formats == [kind.lower()]
    first = min(correction.session.segments.values(), key=lambda segment: segment.start)
    apply(correction, "edit", first.id, text="Buonasera", end=1.999)
    rows, _, written = saver.everything()
    assert [path.name for path in written] == [f"talk.{kind}"]
    assert rows == len(TEXTS)
    back = read_rows("data", f"{written[0]}{tiers}", reading)
    saved = read_rows("data", correction.folder / "corrected.jsonl")
    assert facts(back) == facts(saved)
    assert {row.text.rpartition(": ")[2] for row in back} >= {"Buonasera", TEXTS[3][0]}
    correction.close()


def test_speakers_as_any_json(tmp_path: Path, begun: Any) -> None:
    source = transcript(tmp_path)
    content = json.loads(source.read_text(encoding="utf-8"))
    for segment, speaker in zip(content["segments"], [7, "A\nB", " ", None, "C"], strict=True):
        segment["speaker"] = speaker
    source.write_text(json.dumps(content), encoding="utf-8")
    correction, _ = begun(source)
    assert [segment.speaker for segment in correction.session.of_recording(0)] == ["7", "A B", None, None, "C"]
    _, _, written = Saver(correction, only_done=False, formats=["textgrid"]).everything()
    assert 'name = "7"' in written[0].read_text(encoding="utf-8")
    correction.close()


def test_a_path_with_two_slashes(tmp_path: Path, begun: Any) -> None:
    """As `$ROOT/data` with ROOT=/ makes it."""
    source = transcript(tmp_path)
    content = json.loads(source.read_text(encoding="utf-8"))
    content["audio"] = f"/{tmp_path}/talk.wav"
    source.write_text(json.dumps(content), encoding="utf-8")
    correction, _ = begun(source)
    assert {id_.partition("#")[0] for id_ in correction.session.segments} == {"talk.wav"}
    correction.close()


def test_recordings_of_one_name_in_two_folders(tmp_path: Path, begun: Any) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        transcript(tmp_path / name)
    correction, _ = begun(tmp_path / "a", tmp_path / "b")
    assert {id_.partition("#")[0] for id_ in correction.session.segments} == {"a/talk.wav", "b/talk.wav"}
    assert len(correction.session.segments) == 2 * len(TEXTS)
    correction.close()


@pytest.mark.parametrize("error", [RuntimeError("no luck"), OSError("no disk")])
def test_whatever_keeps_a_snapshot_from_being_written_is_shown(error: Exception) -> None:
    tried, errors = threading.Event(), [error]

    def write() -> None:
        tried.set()
        if errors:
            raise errors.pop()

    snapshots = Snapshots(write)
    for fault in (str(error), None):
        tried.clear()
        snapshots.changed()
        assert tried.wait(20)
        deadline = time.monotonic() + 20
        while snapshots.fault != fault and time.monotonic() < deadline:
            time.sleep(0.01)
        assert snapshots.fault == fault
    snapshots.close()


def test_what_a_model_transcribed_is_kept_once_it_is_looked_at(tmp_path: Path, begun: Any) -> None:
    correction, saver = begun(transcript(tmp_path))
    assert saver.manifest()[0] == 0
    first = correction.session.ranked()[0]
    apply(correction, "edit", first.id, status="done")
    assert saver.manifest()[0] == 1
    assert {row["reason"] for row in read_jsonl(correction.folder / "left-out.jsonl")} == {"not corrected yet"}
    correction.close()


def test_segments_of_json_lines_keep_words_and_confidence(tmp_path: Path, begun: Any) -> None:
    content = json.loads(transcript(tmp_path).read_text(encoding="utf-8"))
    path = tmp_path / "all.jsonl"
    path.write_text(
        json.dumps({"audio": "talk.wav", "text": "", "segments": content["segments"]}) + "\n", encoding="utf-8"
    )
    correction, _ = begun(path)
    found = correction.session.of_recording(0)
    assert [[word.text for word in segment.words] for segment in found] == [text.split() for text, _ in TEXTS]
    assert all(segment.score is not None for segment in found)
    correction.close()


def test_rows_that_are_excluded(tmp_path: Path, begun: Any) -> None:
    write_recording(tmp_path / "a.wav")
    rows: list[dict[str, object]] = [
        {"id": n, "audio": "a.wav", "text": n, "start": number, "end": number + 1} for number, n in enumerate("abc")
    ]
    (tmp_path / "marked.csv").write_text("id\nb\n", encoding="utf-8")
    correction, _ = begun(manifest(tmp_path, rows), "--exclude", tmp_path / "marked.csv")
    assert [segment.text for segment in correction.session.ranked()] == ["a", "c"]
    correction.close()


def test_recordings_that_cannot_be_played_come_last(tmp_path: Path, begun: Any) -> None:
    write_recording(tmp_path / "b.wav")
    (tmp_path / "a.wav").write_bytes(b"no audio")
    rows: list[dict[str, object]] = [
        {"audio": "a.wav", "text": "x"},
        {"audio": "b.wav", "text": "y"},
        {"audio": "gone.wav", "text": "z"},
    ]
    correction, _ = begun(manifest(tmp_path, rows))
    found = correction.session.ranked()
    assert [segment.text for segment in found] == ["y", "x", "z"]
    assert [segment.status for segment in found] == ["todo", "unusable", "unusable"]
    assert "no such file" in found[2].note
    correction.close()


def test_refusals(tmp_path: Path, begun: Any, capsys: pytest.CaptureFixture[str]) -> None:
    source = transcript(tmp_path)
    begun(source)[0].close()
    out = str(tmp_path / "out")
    other = str(transcript(tmp_path, "other"))
    for arguments, said in (
        ([other, "--output", out], "holds a correction of"),
        (["--output", str(tmp_path / "new")], "nothing to correct"),
        ([str(tmp_path / "talk.wav"), "--output", str(tmp_path / "new")], "name the model that transcribes it"),
        ([other, "--format", "docx"], "choose from txt, srt, vtt, tsv, textgrid"),
        ([other, other, "--output", str(tmp_path / "new2")], "is repeated"),
        (["--output", out, "--port", "70000"], "port"),
        (["--output", out, "--model", "m"], "was made with no model"),
        ([other, "--output", str(tmp_path / "new3"), "--exclude", other], "mark segments as unusable"),
    ):
        assert cli.main(["correct", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(transcript(tmp_path))
    with served(source, "--output", str(tmp_path / "one")) as client:
        arguments = [
            "correct",
            source,
            "--output",
            str(tmp_path / "two"),
            "--open",
            "false",
            "--port",
            str(client.port),
        ]
        assert cli.main(arguments) == 2
        assert "cannot be used" in capsys.readouterr().err
