"""Nothing is lost: killed in mid-edit, cut short, on a full disk, in two tabs."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from correct_samples import TEXTS, served, transcript

from whispertune import cli
from whispertune.commands import correct
from whispertune.correct import journal
from whispertune.correct.journal import Correction, StaleError, begin
from whispertune.correct.segments import Recording, Segment
from whispertune.data.sources import read_rows
from whispertune.errors import RunFolderError


def begun(folder: Path) -> Path:
    segments = [Segment(f"s{n}", 0, float(n), n + 1.0, f"text {n}", rank=n, further={"a": n}) for n in range(4)]
    begin(folder, [Recording("/a.wav", 10.0)], segments, {"sources": ["x"]})
    return folder


def edit(correction: Correction, op: str, **fields: Any) -> None:
    correction.apply({"op": op, "seen": correction.session.number, **fields})


def some_edits(correction: Correction) -> None:
    edit(correction, "edit", id="s0", text="erster")
    edit(correction, "split", id="s1", at=1.5, texts=["a", "b"])
    edit(correction, "edit", id="s1~2", note="hm", status="done")
    edit(correction, "join", id="s2")
    edit(correction, "undo")
    edit(correction, "edit", id="s3", end=3.5)
    edit(correction, "undo")
    edit(correction, "redo")


def test_replayed_to_the_same_state_with_undo_to_the_beginning(tmp_path: Path) -> None:
    correction = Correction(begun(tmp_path))
    original = dict(correction.session.segments)
    some_edits(correction)
    correction.close()
    again = Correction(tmp_path)
    assert again.session.segments == correction.session.segments
    assert again.session.number == 8
    while again.session.can_undo:
        edit(again, "undo")
    assert again.session.segments == original
    again.close()


def test_cut_short_anywhere_it_is_the_state_after_the_last_whole_line(tmp_path: Path) -> None:
    correction = Correction(begun(tmp_path))
    states = [dict(correction.session.segments)]
    take = correction.session.take

    def taken(*arguments: Any) -> None:
        take(*arguments)
        states.append(dict(correction.session.segments))

    correction.session.take = taken  # type: ignore[method-assign]
    some_edits(correction)
    correction.close()
    path = tmp_path / journal.JOURNAL
    content = path.read_bytes()
    for size in range(0, len(content) + 1, 7):
        path.write_bytes(content[:size])
        again = Correction(tmp_path)
        assert again.session.segments == states[content[:size].count(b"\n")]
        edit(again, "edit", id="s0", note="later")
        again.close()
        Correction(tmp_path).close()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    correction = Correction(begun(tmp_path))
    some_edits(correction)
    correction.close()
    path = tmp_path / journal.JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (b"{}\n", b"\xff\n", lines[3], b"null\n"):
        path.write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]) if damaged != lines[3] else b"".join(lines[1:]))
        with pytest.raises(RunFolderError, match=r"journal.jsonl, line \d"):
            Correction(tmp_path)
    (tmp_path / journal.SEGMENTS).write_text("{}\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"segments.jsonl is damaged"):
        Correction(tmp_path)


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    correction = Correction(begun(tmp_path))
    edit(correction, "edit", id="s0", text="before")
    size = (tmp_path / journal.JOURNAL).stat().st_size

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            edit(correction, "edit", id="s0", text="lost")
    assert correction.session.segments["s0"].text == "before"
    assert (tmp_path / journal.JOURNAL).stat().st_size == size
    edit(correction, "edit", id="s0", text="after")
    correction.close()
    again = Correction(tmp_path)
    assert again.session.segments["s0"].text == "after"
    again.close()


@pytest.mark.parametrize("within", [None, [4, 8]])
def test_a_correction_of_an_earlier_version(tmp_path: Path, within: list[int] | None) -> None:
    """It goes on, unless it needs what is no longer known."""
    path = begun(tmp_path) / journal.SESSION
    content = json.loads(path.read_text(encoding="utf-8"))
    content["recordings"][0]["within"] = within
    path.write_text(json.dumps(content), encoding="utf-8")
    if within is None:
        Correction(tmp_path).close()
        return
    with pytest.raises(RunFolderError, match="was written by another version"):
        Correction(tmp_path)


def test_nothing_is_left_where_nothing_could_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn")
    assert cli.main(["correct", str(tmp_path / "absent.csv"), "--output", str(tmp_path / "new" / "out")]) == 2
    assert "absent.csv" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_other_command_begins_while_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn")
    arguments = ["correct", str(transcript(tmp_path)), "--output", str(tmp_path / "out")]
    read, status = correct._read, []

    def meanwhile(*given: Any) -> Any:
        if not status:
            status.append(0)
            status.append(cli.main(arguments))
        return read(*given)

    def edited(correction: Correction, _: object) -> int:
        edit(correction, "edit", id=correction.session.ranked()[0].id, text="kept")
        return 0

    monkeypatch.setattr(correct, "_read", meanwhile)
    monkeypatch.setattr(correct, "_serve", edited)
    assert cli.main(arguments) == 0
    assert status == [0, 2]
    assert "is being corrected by another process" in capsys.readouterr().err
    again = Correction(tmp_path / "out")
    assert again.session.ranked()[0].text == "kept"
    again.close()


def test_an_edit_of_what_another_tab_has_changed_is_refused(tmp_path: Path) -> None:
    correction = Correction(begun(tmp_path))
    edit(correction, "edit", id="s0", text="mine")
    with pytest.raises(StaleError):
        correction.apply({"op": "edit", "id": "s0", "text": "theirs", "seen": 0})
    with pytest.raises(StaleError):
        correction.apply({"op": "undo", "seen": 0})
    correction.apply({"op": "edit", "id": "s1", "text": "another segment", "seen": 0})
    correction.close()


def test_edits_of_many_threads_are_all_kept(tmp_path: Path) -> None:
    correction = Correction(begun(tmp_path))

    def write(segment: int) -> None:
        for number in range(10):
            correction.apply({"op": "edit", "id": f"s{segment}", "text": f"{number}", "seen": 1 << 30})

    threads = [threading.Thread(target=write, args=(segment,)) for segment in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    correction.close()
    again = Correction(tmp_path)
    assert again.session.number == 40
    assert {segment.text for segment in again.session.segments.values()} == {"9"}
    again.close()


def test_killed_in_mid_edit_and_started_again(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    source = transcript(tmp_path)
    original, out = source.read_bytes(), tmp_path / "out"
    answered = 0
    with served(str(source), "--output", str(out)) as client:
        first = client.json("items?order=time")["items"][0]["id"]

        def kill() -> None:
            time.sleep(0.7)
            client.process.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            while True:
                status, _ = client.post(
                    "apply", {"op": "edit", "id": first, "text": f"text {answered + 1}", "seen": answered}
                )
                assert status == 200
                answered += 1
        except OSError:
            pass
        killer.join()
    assert answered > 3
    with served("--output", str(out)) as client:
        number = client.json("items")["number"]
        assert number in (answered, answered + 1)  # the last may have been written, but not answered
        assert client.segment(first)["text"] == f"text {number}"
        for _ in range(number):
            client.edit("undo")
        assert client.segment(first)["text"] == TEXTS[0][0]
        client.edit("edit", first, text="Buonasera", status="done")
        deadline = time.monotonic() + 10  # the manifest follows by itself
        while time.monotonic() < deadline and not any(
            "Buonasera" in path.read_text(encoding="utf-8") for path in out.glob("corrected.jsonl")
        ):
            time.sleep(0.05)
    rows = read_rows("data", out / "corrected.jsonl")
    assert [(row.text, row.start, row.end, row.audio.name) for row in rows] == [("Buonasera", 0.5, 2.0, "talk.wav")]
    assert source.read_bytes() == original


def test_an_edit_is_on_disk_within_a_second(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    with served(str(transcript(tmp_path)), "--output", str(tmp_path / "out")) as client:
        first = client.json("items")["items"][0]["id"]
        began = time.monotonic()
        client.edit("edit", first, text="adesso")
        lines = (tmp_path / "out" / journal.JOURNAL).read_text(encoding="utf-8").splitlines()
        assert time.monotonic() - began < 1
        assert json.loads(lines[-1])["changes"] == {first: {"text": "adesso", "words": []}}


def test_ended_by_a_signal_it_prints_what_to_do_next(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    for number in (signal.SIGINT, signal.SIGTERM):
        out = tmp_path / f"out{number}"
        with served(str(transcript(tmp_path)), "--output", str(out), "--language", "it") as client:
            client.edit("edit", client.json("items")["items"][0]["id"], status="done")
            client.process.send_signal(number)
            assert client.process.stdout is not None
            shown = client.process.stdout.read()
            assert client.process.wait(timeout=30) == 0
        assert "1 of 5 looked at: 1 done" in shown
        assert f"next:  whispertune split {out}/corrected.jsonl --language it" in shown
        assert (out / "transcripts" / "talk.TextGrid").exists()


def test_help_loads_neither_the_server_nor_torch() -> None:
    code = (
        "import sys; from whispertune import cli; assert cli.main(['correct', '--help']) == 0; "
        "assert not {'torch', 'starlette', 'uvicorn'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "--keep" in shown.stdout


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["correct", str(transcript(tmp_path)), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "error: the page needs uvicorn, which is not installed: pip install 'whispertune[correct]'\n"
    )
    assert not (tmp_path / "out").exists()
