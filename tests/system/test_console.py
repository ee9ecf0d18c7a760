"""What reaches the terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.cli import main
from whispertune.system.console import EscapingConsole, console, printable, progress_bar


@given(st.text(st.characters(codec=None)))
def test_printable_text_is_one_line_that_any_stream_takes(text: str) -> None:
    shown = printable(text)
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in shown)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")


def test_letters_of_every_script_stay() -> None:
    for text in ("पूछताछ", "e\u0301", "\u0645\u06cc\u200c\u062e", "a\u00a0b", "👩\u200d🚀", ""):
        assert printable(text) == text
    assert printable("a\x1b]0;b\x07\n\x9b\udcff") == r"a\x1b]0;b\x07\n\x9b\udcff"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_consoles_escape_in_lines_and_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    console = EscapingConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print("two\nlines of \x1b[31mred")
    table = Table(title="\x1b[2J")
    table.add_column("name")
    table.add_row("\x1b[31mred")
    console.print(table)
    out = capsys.readouterr().out
    assert "two\nlines of \\x1b[31mred" in out
    assert "\x1b" not in out
    assert out.count("\\x1b") == 3


def test_error_lines_escape(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", "m", "--data", "a\x1b[2J\n.csv", "--language", "it"]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert len(err.splitlines()) == 1


def test_an_output_in_another_encoding_loses_no_text() -> None:
    program = "import sys; from whispertune import cli; sys.argv[1:] = ['train', '--help']; cli.entry_point()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"\u2026" in done.stdout  # the ellipsis of the usage


@pytest.mark.parametrize(("width", "shown"), [(80, "loss 1.234"), (150, "loss 1.234, 21 x real time")])
def test_a_bar_shows_what_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, shown: str
) -> None:
    """Counts and times are not pushed out by a long note."""
    monkeypatch.setattr(console, "width", width)
    with progress_bar("epoch 1/1: training", 21) as advance:
        for _ in range(21):
            advance(1, note="loss 1.234, 21 x real time")
    line = capsys.readouterr().err.splitlines()[-1].rstrip()
    assert line.endswith(f"left 0:00:00 {shown}")
    assert "21/21" in line
    assert len(line) <= width
