"""The flags of `whispertune init`."""

from __future__ import annotations

from dataclasses import dataclass

from whispertune.run.flags import help_text
from whispertune.run.options import LanguageOptions

USAGE = "whispertune init FOLDER [--language L]"

DESCRIPTION = """Look at what lies in a folder, and say what to do with it.

It lists recordings (hours, sample rates, channels), transcripts (subtitles, tiers of Praat and ELAN, Audacity's labels,
plain text), tables and corpora in known formats, says in plain words what that could be, and prints the next two
commands. It writes nothing. Only headers and first rows are read: of recordings at most 200, and of a folder with more
than 200,000 files the first."""


@dataclass(frozen=True, kw_only=True)
class InitOptions(LanguageOptions):
    """The language spoken, for the commands that are printed."""


def usage() -> str:
    """The text of --help."""
    return help_text(InitOptions, USAGE, DESCRIPTION)
