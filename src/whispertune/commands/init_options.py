"""The flags of `whispertune init`."""

from __future__ import annotations

from dataclasses import dataclass

from whispertune.run.help_text import help_text
from whispertune.run.options import LanguageOptions

USAGE = "whispertune init FOLDER [--language L]"

DESCRIPTION = """Look at what lies in a folder, and suggest the next commands.

It lists recordings (hours, sample rates, channels), transcripts (subtitles, tiers of Praat and ELAN, Audacity's labels,
plain text), tables and corpora in known formats, says in plain words what they seem to be, and prints the next two
commands. It writes nothing. Only headers and first rows are read, of at most 200 recordings; of a folder with more than
200,000 files, only the first 200,000 are looked at."""


@dataclass(frozen=True, kw_only=True)
class InitOptions(LanguageOptions):
    """The language spoken, for the commands that are printed."""


def usage() -> str:
    """The text of --help."""
    return help_text(InitOptions, USAGE, DESCRIPTION)
