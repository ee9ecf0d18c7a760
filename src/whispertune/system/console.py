"""Terminal output: lines, tables and progress bars, on standard error except for results."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
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


class EscapingConsole(Console):
    """A console that escapes control sequences in names and transcripts."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep="\n\t"), **options)


# No markup and no emoji, as paths and transcripts may contain [brackets] and :words:.
console = EscapingConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
results = EscapingConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)


class Advance(Protocol):
    """Advances a progress bar."""

    def __call__(self, amount: int = 1, note: str = "") -> None: ...


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
        TextColumn("{task.fields[note]}"),
        console=console,
    )
    with bar:
        task = bar.add_task(description, total=total, note="")

        def advance(amount: int = 1, note: str = "") -> None:
            bar.update(task, advance=amount)
            if note:
                bar.update(task, note=note)

        yield advance


def wrapped(text: str, first: str = "", later: str = "", width: int = 78) -> list[str]:
    """Lines of at most `width` columns; only a longer word (a path) takes more. first, later: how lines begin."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def percent(fraction: float) -> str:
    """0.1312 as `13.1 %`."""
    return f"{100 * fraction:.1f} %"
