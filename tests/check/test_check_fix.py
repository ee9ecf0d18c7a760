"""`check --fix`: nothing of the user's is overwritten, nothing of a row is lost, paths lead where they led."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

sys.path.append(str(Path(__file__).parents[1] / "cli"))
from cli_samples import example_rows, write_manifest

from whispertune.check.written import MARK
from whispertune.cli import main
from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.readers.manifest import read_manifest


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def refused(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    (line,) = err.splitlines()  # nothing was checked: no progress bar
    assert part in line
    assert "choose another folder" in line


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """train.jsonl with a column of the user's, beside the audio it names."""
    (row,) = example_rows("train", 1)
    soundfile.write(tmp_path / "a.flac", load_waveform(Path(row["audio"])), 16_000)
    given = {"id": "a", "audio": "a.flac", "text": row["text"], "dialect": "ligure", "score": 3}
    (tmp_path / "train.jsonl").write_text(
        json.dumps(given) + "\n" + json.dumps({**given, "id": "b", "text": ""}) + "\n"
    )
    return tmp_path / "train.jsonl"


def test_the_manifest_that_is_read_is_never_overwritten(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = manifest.parent
    monkeypatch.chdir(folder)
    before = contents(folder)
    for given in (
        ["train.jsonl", "--fix", "."],
        [str(manifest), f"--fix={folder}"],
        ["--train=train.jsonl", "--fix=."],
    ):
        refused(["check", *given], "train.jsonl is an input", capsys)
    (folder / "link").symlink_to(folder)
    refused(["check", "train.jsonl", "--fix=link"], "is an input", capsys)
    (folder / "link").unlink()
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["excluded.jsonl", "train.jsonl", "check.jsonl", "summary.json", "check.html", MARK])
def test_a_file_of_the_users_is_never_overwritten(
    name: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / name).write_text('{"files": {}}')
    before = contents(tmp_path)
    flag = "--output" if name in ("check.jsonl", "summary.json", "check.html") else "--fix"
    refused(["check", str(manifest), flag, str(folder)], f"{flag}: {folder / name}", capsys)
    assert contents(tmp_path) == before
    # By a link either, whether it leads somewhere or not.
    (folder / name).rename(tmp_path / "kept")
    for target in (tmp_path / "kept", tmp_path / "nowhere"):
        (folder / name).symlink_to(target)
        refused(["check", str(manifest), flag, str(folder)], f"{flag}: {folder / name}", capsys)
        assert (folder / name).is_symlink()
        (folder / name).unlink()


def test_what_check_wrote_is_replaced_unless_it_was_changed(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    arguments = ["check", str(manifest), "--language=it", "--no-audio", f"--fix={folder}", f"--output={folder}"]
    for text in ("Uno.", "Due."):
        (row, faulty) = lines(manifest)
        manifest.write_text(json.dumps({**row, "text": text}) + "\n" + json.dumps(faulty) + "\n")
        assert main(arguments) == 2
        assert lines(folder / "train.jsonl")[0]["text"] == text
    (folder / "train.jsonl").write_text((folder / "train.jsonl").read_text() + "\n")
    refused(arguments, "train.jsonl", capsys)


def test_a_file_that_appears_meanwhile_is_kept(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "out" / "excluded.jsonl"
    monkeypatch.setattr("whispertune.commands.check.print_report", lambda *_: theirs.write_text("mine"))
    assert main(["check", str(manifest), "--no-audio", f"--fix={theirs.parent}"]) == 2
    assert theirs.read_text() == "mine"


def test_every_column_is_in_the_cleaned_manifest(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        "id,audio,text,offset,duration,start,locale,language,dialect,notes\n"
        'x,x.wav,uno,5,2,,it,,ligure,"a, ""b"""\ny,y.wav,,,,,it,,,\nz,z.wav,tre,9,2,1,it,en,sardo,\n',
        encoding="utf-8",
    )
    joined = [{"id": "v", "audio": "v.wav", "text": "quattro", "extra": {"nested": [1, None]}}, {"broken": 1}]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in joined), encoding="utf-8")
    given = f"{tmp_path / 'train.csv'} + {tmp_path / 'more.jsonl'}"
    assert main(["check", "--no-audio", "--train", given, f"--fix={tmp_path / 'out'}"]) == 2
    x, z, v = lines(tmp_path / "out" / "train.jsonl")
    assert (x["dialect"], x["notes"], z["dialect"], v["extra"]) == ("ligure", 'a, "b"', "sardo", {"nested": [1, None]})
    faults: list[Any] = []
    from whispertune.data.sources import read_utterances

    before = {row.id: row for row in read_utterances("train", given, faults=faults)}
    for row in read_manifest(tmp_path / "out" / "train.jsonl"):
        for field in ("text", "start", "end", "language", "speaker", "channel", "prompt"):
            assert getattr(row, field) == getattr(before[row.id], field), field
    reasons = {row["id"]: row["reason"] for row in lines(tmp_path / "out" / "excluded.jsonl")}
    assert set(reasons) == {None, "train.csv/y"}
    assert "no audio file is given" in reasons[None]


def test_paths_lead_to_the_same_audio_through_links(tmp_path: Path) -> None:
    rows = example_rows("train", 3)
    deep = tmp_path / "disk" / "deep" / "audio"
    deep.mkdir(parents=True)
    for name, row in zip("abc", rows, strict=True):
        soundfile.write(deep / f"{name}.flac", load_waveform(Path(row["audio"])), 16_000)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clips").symlink_to(deep)  # the audio's folder is a link
    (tmp_path / "elsewhere" / "x" / "y").mkdir(parents=True)
    (tmp_path / "fixed").symlink_to(tmp_path / "elsewhere" / "x" / "y")  # the folder written to is one
    wrong = tmp_path / "elsewhere" / "x" / "data" / "clips"
    wrong.mkdir(parents=True)
    for name in "abc":  # what a path that is wrong by the link would find
        soundfile.write(wrong / f"{name}.flac", load_waveform(Path(rows[0]["audio"])) * 0.1, 16_000)
    paths = {"a": "clips/a.flac", "b": str(deep / "b.flac"), "c": f"{tmp_path}/data/clips/../audio/c.flac"}
    given = [{"id": n, "audio": paths[n], "text": row["text"]} for n, row in zip("abc", rows, strict=True)]
    manifest = write_manifest(tmp_path / "data" / "train.csv", given)
    for folder in (tmp_path / "fixed", tmp_path / "data" / "clean", tmp_path / "data" / "clips" / "in" / "clean"):
        assert main(["check", str(manifest), "--language=it", f"--fix={folder}"]) == 0
        found = {row.id: row.audio for row in read_manifest(folder / "train.jsonl")}
        assert {name: os.path.realpath(path) for name, path in found.items()} == {
            name: str(deep / f"{name}.flac") for name in "abc"
        }
    # Where nothing stands in the way they stay relative, so that the folder can be moved.
    plain = [{**row, "audio": "../disk/deep/audio/a.flac"} for row in given[:1]]
    manifest = write_manifest(tmp_path / "data" / "plain.csv", plain)
    assert main(["check", str(manifest), "--language=it", f"--fix={tmp_path / 'data' / 'clean'}"]) == 0
    assert lines(tmp_path / "data" / "clean" / "plain.jsonl")[0]["audio"] == "../../disk/deep/audio/a.flac"


def test_columns_by_the_users_names_and_segments_are_cleaned(tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_text("datei;transkript;team\na.wav;Guten Tag;Ost\n", encoding="utf-8")
    nested = {"audio": {"path": "b.wav"}, "id": "b", "job": 7}
    nested["sentences"] = [{"start": n, "end": n + 1, "text": f"satz {'xy'[n]}"} for n in range(2)]
    (tmp_path / "talk.jsonl").write_text(json.dumps(nested) + "\n", encoding="utf-8")
    flags = ["--no-audio", "--language=de", f"--fix={tmp_path / 'out'}"]
    assert main(["check", str(tmp_path / "calls.csv"), "--columns", "text=transkript,audio=datei", *flags]) == 0
    assert main(["check", str(tmp_path / "talk.jsonl"), *flags]) == 0
    (row,) = lines(tmp_path / "out" / "calls.jsonl")
    assert row == {"id": "a.wav", "audio": "../a.wav", "text": "Guten Tag", "team": "Ost"}
    talk = read_manifest(tmp_path / "out" / "talk.jsonl")
    assert [(u.start, u.end, u.text) for u in talk] == [(0, 1, "satz x"), (1, 2, "satz y")]
    assert all(row["job"] == 7 for row in lines(tmp_path / "out" / "talk.jsonl"))
