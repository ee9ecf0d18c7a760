"""What `check` tells on the terminal, and of rows that cannot be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from whispertune.cli import main


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whispertune.system.console.results._width", 80)


def test_every_fault_of_a_folder_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        (folder / f"{name}.wav").touch()
    (folder / "a.txt").write_text("uno due tre", encoding="utf-8")
    (folder / "c.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\nperch\xe9\n".encode("latin-1"))
    (folder / "d.srt").write_text("1\n0,994 --> 00:00:02,000\nx\n\n2\n00:00:05,000 --> 00:00:04,000\ny\n")
    arguments = ["check", str(folder), "--no-audio", f"--fix={tmp_path / 'fix'}", f"--output={tmp_path / 'out'}"]
    assert main(arguments) == 2
    out = capsys.readouterr().out
    found = lines(tmp_path / "out" / "check.jsonl")
    assert [(Path(row["file"]).name, row["row"], row["field"]) for row in found if row["kind"] == "bad_row"] == [
        ("b.wav", None, None), ("c.srt", 3, None), ("d.srt", 2, "start"), ("d.srt", 6, "end"),
    ]  # fmt: skip
    assert {row["severity"] for row in found} == {"error"}
    for place in ("b.wav: bad_row", "c.srt, row 3: bad_row", "d.srt, row 2, start: bad_row"):
        assert f"error  {place}\n" in out
    assert "4 of 5 rows have errors" in out
    assert len(lines(tmp_path / "fix" / "excluded.jsonl")) == 4
    assert [row["text"] for row in lines(tmp_path / "fix" / "corpus.jsonl")] == ["uno due tre"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["rows"], summary["unread"], summary["kinds"]["bad_row"]) == (1, 4, 4)
    assert "d.srt, row 6" in (tmp_path / "out" / "check.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("flags", [["--no-audio"], []])
def test_where_no_row_can_be_read_all_of_it_is_listed(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.csv").write_text("id,audio,text\na,,uno\nb,,due\n", encoding="utf-8")
    assert main(["check", str(tmp_path / "train.csv"), *flags, f"--output={tmp_path / 'out'}"]) == 2
    out = capsys.readouterr().out
    assert "2 of 2 rows have errors" in out
    assert "train.csv, row 2, audio: bad_row" in out
    assert "train.csv, row 3, audio: bad_row" in out


def test_repeated_ids_are_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": i, "audio": f"{n}.wav", "text": f"frase {'abc'[n]}"} for n, i in enumerate("aba")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["check", str(tmp_path / "train.jsonl"), "--no-audio", f"--fix={tmp_path / 'fix'}"]) == 2
    assert "train.jsonl, row 3, id: repeated_id" in capsys.readouterr().out
    assert [row["id"] for row in lines(tmp_path / "fix" / "train.jsonl")] == ["a", "b"]


def test_the_worst_findings_are_told_without_an_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["", *("<b>così</b>" * 20 for _ in range(9)), "prezzo 3 euro"]
    rows = [{"id": str(n), "audio": f"{n}.wav", "text": text} for n, text in enumerate(texts)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["check", str(tmp_path / "train.jsonl"), "--no-audio"]) == 2
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 80
    findings = [line.split(": ") for line in printed if ", row " in line]
    assert [kind for _, kind in findings[:4]] == ["empty_text", "markup", "markup", "markup"]  # not nine of one kind
    assert ["note   train.jsonl, row 11, text", "digits"] in findings
    assert "10 of 11 rows have errors" in printed
    assert any(line.startswith("--output DIR") for line in printed)


def test_names_with_control_characters_reach_neither_terminal_nor_page_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a\x1b[31m\nb"
    folder.mkdir()
    (folder / "c\x1b[2J.wav").touch()
    (folder / "train.csv").write_text("id,audio,text\na,a.wav,\n", encoding="utf-8")
    main(["check", str(folder), str(folder / "train.csv"), "--no-audio", f"--output={folder / 'out'}"])
    main(["check", "--train", str(folder / "train.csv"), f"--output={folder / 'out'}", f"--fix={folder / 'fix'}"])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err.replace("\x1b[", "", 0)
    assert "\\x1b" in out
    page = (folder / "out" / "check.html").read_text(encoding="utf-8")
    assert "\x1b" not in page


def test_names_that_are_not_utf_8_are_checked(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "train.csv").write_text("id,audio,text\na,a.wav,uno\nb,b.wav,\n", encoding="utf-8")
    (folder / "a.wav").touch()
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "whispertune", "check", str(folder / "train.csv"), "--no-audio"]
    done = subprocess.run(
        [*command, f"--output={folder / 'out'}"], capture_output=True, env=environment, check=False, timeout=100
    )
    assert done.returncode == 2, done.stderr
    assert b"1 of 2 rows have errors" in done.stdout
    assert lines(folder / "out" / "check.jsonl")[0]["id"] == "b"
    assert (folder / "out" / "check.html").exists()
    done = subprocess.run([*command, "--fix", str(folder / "fix")], capture_output=True, check=False, timeout=100)
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_recording_whose_name_is_not_utf_8_is_not_written_into_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ending in (b".wav", b".txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9" + ending)).write_text("uno due")
    assert main(["check", str(tmp_path), "--no-audio"]) == 0
    assert main(["check", str(tmp_path), "--no-audio", f"--fix={tmp_path / 'fix'}"]) == 2
    assert "not UTF-8, so a manifest cannot hold it" in capsys.readouterr().err
    assert not (tmp_path / "fix").exists()
