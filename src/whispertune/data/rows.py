"""One row of any corpus: its values are checked as it becomes an utterance."""

from __future__ import annotations

import math
import os
import re
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath

from whispertune.data.reading import AUDIO_COLUMNS, Columns, choose_columns
from whispertune.data.remote import as_path, is_remote
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

MAX_CHANNEL = 1023  # libsndfile opens no file with more channels
# float() alone would also take "1_000", "infinity" and digits of other scripts.
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # tab and line ends are fine in a text
CONTROL_OR_LINE_END = re.compile(r"[\x00-\x1f\x7f]")
PLACEHOLDER = re.compile(r"(\$\{\w+\}|\$\w+(?=[/\\])|\{\w+\}(?=[/\\]))")  # SpeechBrain's $data_root/…
DECIMAL_COMMA = re.compile(r"([0-9]+),([0-9]+)")  # as spreadsheets write it in many countries
THOUSANDS = re.compile(r"[1-9][0-9]{0,2},[0-9]{3}")  # 1,234: a bit over one second, or twenty minutes?
MOST_SECONDS = 1e9
"""Latest time in a recording (31 years); beyond it, products with sample rates would overflow."""
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(slots=True)
class Row:
    """A row before its values are checked.

    source: the file. number: its line there. decimal_comma: whether commas are known to be decimal (`1,234` is 1.234).
    listed: whether the audio's name comes from listing a folder, so that it may hold bytes that are not UTF-8 (in
    Python, lone surrogates).
    """

    source: str
    number: int
    record: Mapping[str, object]
    columns: Columns
    decimal_comma: bool = False
    listed: bool = False

    def fault(self, field: str, problem: str, remedy: str) -> ManifestError:
        return ManifestError(f"{problem}; {remedy}", file=self.source, row=self.number, field=field)

    def string(
        self, name: str | None, *, numbers: bool = False, one_line: bool = False, encoding_errors: str = "strict"
    ) -> str:
        """The value, stripped; "" if there is none. numbers: accept JSON integers, as in `"id": 17`."""
        if name is None:
            return ""
        value = self.record[name]
        if type(value) is str and (stripped := value.strip()).isprintable():  # the usual case, and quick
            return stripped
        if value is None:
            return ""
        if numbers and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise self.fault(name, f"{shown(value)} is not text", "write it as a string, in double quotes")
        value = value.strip()
        control = (CONTROL_OR_LINE_END if one_line else CONTROL).search(value)
        if control:
            problem = f"{shown(value)} holds the control character {control.group()!r}"
            raise self.fault(name, problem, "remove it")
        try:
            value.encode("utf-8", encoding_errors)
        except UnicodeEncodeError as error:
            code = ord(value[error.start])
            if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that it can't decode
                raise self.fault(name, f"byte 0x{code - 0xDC00:02x} is not UTF-8", "save the file as UTF-8") from None
            problem = f"{shown(value)} holds half of a surrogate pair"
            raise self.fault(name, problem, "write the character itself, as UTF-8") from None
        return value

    def seconds(self, name: str | None) -> float | None:
        """The value in seconds, finite and not negative; None if there is none."""
        if name is None:
            return None
        value = self.record[name]
        if value is None:
            return None
        text = value.strip() if isinstance(value, str) else str(value)
        if not text:
            return None
        remedy = "give seconds as a plain number, such as 3.25"
        if isinstance(value, (bool, list, dict)):
            raise self.fault(name, f"{shown(value)} is not a number", remedy)
        if DECIMAL_COMMA.fullmatch(text):
            if THOUSANDS.fullmatch(text) and not self.decimal_comma:
                other = text.replace(",", "")
                problem = f"{shown(value)} may be {text.replace(',', '.')} or {other} seconds"
                raise self.fault(name, problem, "write it with a decimal point")
            text = text.replace(",", ".")
        seconds = float(text) if NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(seconds):
            raise self.fault(name, f"{shown(value)} is not a finite number", remedy)
        if seconds > MOST_SECONDS:
            raise self.fault(name, f"{shown(value)} is longer than any recording", remedy)
        if seconds < 0:
            raise self.fault(name, f"{shown(value)} is negative", "give seconds from the start of the file")
        return seconds

    def span(self) -> tuple[float, float | None]:
        """Start and end in seconds."""
        start = self.seconds(self.columns.start) or 0.0
        end = self.seconds(self.columns.end)
        if end is not None and end <= start:
            problem = f"the end, {end:g} s, is not after the start, {start:g} s"
            raise self.fault("end", problem, "both are seconds from the start of the file")
        if end is None:
            duration = self.seconds(self.columns.duration)
            if duration is not None:
                end = round(start + duration, 6)  # 1.1 + 2.2 is 3.3, not 3.3000000000000003
                if end <= start:
                    raise self.fault("duration", f"{duration:g} s is not a duration", "give seconds above 0")
        return start, end

    def channel(self) -> int | None:
        """The channel to use, from 0; None for the mean of all."""
        text = self.string(self.columns.channel, numbers=True, one_line=True)
        if not text:
            return None
        if not re.fullmatch("[0-9]{1,4}", text) or int(text) > MAX_CHANNEL:
            problem = f"{shown(text)} is not a channel"
            raise self.fault("channel", problem, "give its number, from 0, or leave it empty for the mean of all")
        return int(text)

    def audio(self) -> str:
        """The audio's path as written."""
        errors = "surrogateescape" if self.listed else "strict"
        audio = self.string(self.columns.audio, one_line=True, encoding_errors=errors)
        name = self.columns.audio or AUDIO_COLUMNS[0]
        if not audio:
            raise self.fault(name, "no audio file is given", "fill it in or delete the row")
        placeholder = PLACEHOLDER.match(audio) if audio[0] in "${" else None
        if placeholder:
            problem = f"{shown(audio)} holds the placeholder {placeholder.group()!r}"
            raise self.fault(name, problem, "replace it with the folder that it stands for")
        if "://" in audio and URL.match(audio) and not is_remote(audio):
            remedy = "give a path, or a URL with s3://, gs://, hf:// or https://"
            raise self.fault(name, f"{shown(audio)} is a URL of another kind", remedy)
        if WINDOWS_DRIVE.match(audio) and os.name != "nt":
            raise self.fault(name, f"{shown(audio)} is a path on a Windows drive", drive_remedy(audio))
        return audio

    def add_to(
        self,
        utterances: Utterances,
        base: str,
        *,
        clips: str | None = None,
        within: tuple[int, int] | None = None,
    ) -> None:
        """Add the utterance; its audio is relative to the folder `base` or, if it is not there, to `clips`.

        within: offset and number of bytes of the audio in the file `base`.
        """
        try:
            self._add_to(utterances, base, clips, within)
        except ManifestError as fault:
            utterances.report(fault)

    def _add_to(self, utterances: Utterances, base: str, clips: str | None, within: tuple[int, int] | None) -> None:
        columns = self.columns
        audio = self.audio()
        start, end = self.span()
        id_ = self.string(self.columns.id, numbers=True, one_line=True)
        channel = self.channel() if columns.channel else None
        path = base
        if within is None:
            path, sure = audio_path(audio, base, clips)
            utterances.follows_from_files |= not sure
        utterances.add(
            id=id_ or made_id(audio, start, end, channel).encode("utf-8", "backslashreplace").decode(),
            audio=path,
            text=self.string(self.columns.text),
            start=start,
            end=end,
            language=(self.string(columns.language, one_line=True) or None) if columns.language else None,
            task=(self.string(columns.task, one_line=True) or None) if columns.task else None,
            speaker=(self.string(columns.speaker, numbers=True, one_line=True) or None) if columns.speaker else None,
            prompt=(self.string(columns.prompt) or None) if columns.prompt else None,
            channel=channel,
            within=within,
            source=self.source,
            row=self.number,
        )


def make_row(source: str, number: int, record: Mapping[str, object], *, listed: bool = False) -> Row:
    """A row of a format without columns; `record` uses the usual names of a manifest's columns."""
    return Row(source, number, record, choose_columns(tuple(record)), listed=listed)


def shown(value: object) -> str:
    """The value's repr, shortened for messages."""
    text = repr(value) if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def drive_remedy(audio: str) -> str:
    """What to do about a path on a Windows drive."""
    name_alone = shown(PureWindowsPath(audio).name)
    return f"write paths relative to one folder (such as {name_alone}), and give it: --audio_root DIR"


def exists(path: str) -> bool:
    """Whether the file exists; False for a name that is too long (reading it will report that)."""
    if is_remote(path):
        return as_path(path).exists()
    try:
        os.stat(path)  # noqa: PTH116 - called a million times
    except (OSError, ValueError):
        return False
    return True


def audio_path(audio: str, base: str, clips: str | None) -> tuple[str, bool]:
    """The path of a row's audio, and whether it is independent of which files exist.

    The audio is relative to the folder `base` or, if it is not there, to `clips`. A file that exists under another
    spelling only (accents composed or decomposed, as on macOS; backslashes of Windows) is found under that.
    """
    path = audio if audio[0] == "/" or is_remote(audio) else f"{base}/{audio}"
    if is_remote(path):  # not looked for, which would take a request for each row
        return path if clips is None or "/" in audio else f"{clips}/{audio}", True
    has_spellings = not audio.isascii() or "\\" in audio
    if clips is None and not has_spellings:
        return path, True
    if exists(path):
        return path, not has_spellings
    # Common Voice keeps its audio in clips/ beside the manifest; its paths omit the folder.
    inside = None if clips is None or audio[0] == "/" else f"{clips}/{audio}"
    for tried in (path, inside):
        for spelling in spellings(tried) if tried is not None else ():
            if exists(spelling):
                return spelling, False
    return (path if inside is None or "/" in audio else inside), not has_spellings


def spellings(path: str) -> Iterator[str]:
    """The path and its other spellings: separators, composed and decomposed accents."""
    yield path
    for separated in dict.fromkeys((path, path.replace("\\", "/"))):
        for form in ("NFC", "NFD"):
            if (spelling := unicodedata.normalize(form, separated)) != path:
                yield spelling


def base_with(audio: str, bases: Sequence[str]) -> str:
    """The first of these folders that holds the audio; the last if none does."""
    there = (base for base in bases if audio and exists(audio_path(audio, base, None)[0]))
    return next(there, bases[-1])


def made_id(audio: str, start: float, end: float | None, channel: int | None = None) -> str:
    """The id of a row without one: its audio, span and channel."""
    side = "" if channel is None else f"#channel-{channel}"
    if start == 0 and end is None:
        return audio + side
    return f"{audio}#{_id_seconds(start)}-{'' if end is None else _id_seconds(end)}{side}"


def _id_seconds(seconds: float) -> str:
    text = f"{seconds:.2f}"
    return text if float(text) == seconds else repr(seconds)  # so that different spans get different ids
