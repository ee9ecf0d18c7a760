"""Terminal output: lines, tables and progress bars, on standard error except for results."""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.control import Control
from rich.live_render import LiveRender
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def printable(text: str, *, keep: str = "") -> str:
    """Text with control characters, line ends and lone surrogates escaped (ESC as `\\x1b`), except for those in `keep`.

    A file name with control characters could retitle or clear the terminal. Lone surrogates stand for bytes of a name
    that is not UTF-8, and cannot be encoded.
    """
    if text.isprintable():
        return text
    return "".join(
        repr(char)[1:-1] if char not in keep and unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char
        for char in text
    )


class LogFile:
    """Takes the lines that a command prints: held back until the file is opened, so that none is made for nothing."""

    def __init__(self) -> None:
        self._held = [f"--- {datetime.now().astimezone().isoformat(' ', 'seconds')}\n"]
        self._path: Path | None = None

    def write(self, text: str) -> None:
        """Append text, if the log is kept."""
        if self._path is None:
            self._held.append(text)
            return
        with suppress(OSError), self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)  # a log that cannot be written fails no run

    def open(self, path: Path) -> None:
        """Append everything to this file, from what was held back on."""
        self._path, held = path, self._held
        self._held = []
        self.write("".join(held))


class EscapingConsole(Console):
    """A console that escapes control sequences in names and transcripts. log_file: takes its lines as well."""

    log_file: LogFile | None = None

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        is_bar = any(isinstance(shown, Control | LiveRender) for shown in objects)
        if self.log_file is not None and not self.quiet and not is_bar:
            plain = EscapingConsole(
                file=io.StringIO(), width=LOG_WIDTH, highlight=False, soft_wrap=True, markup=False, emoji=False
            )
            plain.print(*objects, **options)
            self.log_file.write(plain.file.getvalue())  # type: ignore[attr-defined]

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep="\n\t"), **options)


# No markup and no emoji, as paths and transcripts may contain [brackets] and :words:.
console = EscapingConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
results = EscapingConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)


LOG_WIDTH = 120


@contextmanager
def logged() -> Iterator[LogFile]:
    """Keep what both consoles print, during the block, in a file that the caller opens."""
    console.log_file = results.log_file = log = LogFile()
    try:
        yield log
    finally:
        console.log_file = results.log_file = None


class Advance(Protocol):
    """Advances a progress bar."""

    def __call__(self, amount: int = 1, note: str = "") -> None: ...


ROOM_FOR_NOTES = 130
"""Columns from which on a progress bar has room for a whole note; with fewer, its first part is shown."""


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Advance]:
    """A progress bar; if the output is not a terminal, one line when it is done."""
    bar = Progress(
        TextColumn("{task.description:<26}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
        console=console,
    )
    with bar:
        task = bar.add_task(description, total=total, note="", shown="")

        def advance(amount: int = 1, note: str = "") -> None:
            bar.update(task, advance=amount)
            if note:
                short = note if console.width >= ROOM_FOR_NOTES else note.partition(",")[0]
                bar.update(task, note=note, shown=short)

        try:
            yield advance
        finally:
            if console.log_file is not None and not console.quiet:
                shown = bar.tasks[0]
                seconds, note = shown.elapsed or 0.0, shown.fields["note"]
                line = f"{description:<26} {shown.completed:g}/{total} in {seconds:.0f} s  {note}".rstrip()
                console.log_file.write(f"{printable(line)}\n")


def wrapped(text: str, first: str = "", later: str = "", width: int = 78) -> list[str]:
    """Lines of at most `width` columns; only a longer word (a path) takes more. first, later: how lines begin."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def percent(fraction: float) -> str:
    """0.1312 as `13.1 %`."""
    return f"{100 * fraction:.1f} %"
