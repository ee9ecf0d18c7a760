"""Transcripts of recordings as files: plain text, subtitles (SRT, WebVTT), JSON."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from whispertune.decoding.long_form import Segment, Transcript
from whispertune.decoding.options import SubtitleOptions

LINE_ENDS = re.compile(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
"""What some program that reads these files takes for the end of a line; a blank line would end a subtitle."""
SHORTEST_CUE = 0.5
"""Seconds for which a part of a segment is shown at least; nobody can read it in less."""


def clock(seconds: float, *, decimal: str = ".", hours: bool = True) -> str:
    """3661.5 as `01:01:01.500`; without `hours`, they are shown only where there are any."""
    total = round(seconds * 1000)
    rest, milliseconds = divmod(total, 1000)
    shown = f"{rest // 60 % 60:02d}:{rest % 60:02d}{decimal}{milliseconds:03d}"
    return f"{rest // 3600:02d}:{shown}" if hours or rest >= 3600 else shown


def as_lines(transcript: Transcript) -> str:
    """For people: `[00:00.000 --> 00:02.400] Pronto.`, one segment per line."""
    return "".join(
        f"[{clock(segment.start, hours=False)} --> {clock(segment.end, hours=False)}] {_text_of(segment)}\n"
        for segment in transcript.segments
    )


def as_txt(transcript: Transcript) -> str:
    """The text alone, one segment per line; with channels, each after the name of its channel."""
    return "".join(f"{_text_of(segment)}\n" for segment in transcript.segments)


def as_srt(transcript: Transcript, lines: SubtitleOptions | None = None) -> str:
    """SubRip. An arrow in the text is shortened, as it would be taken for times."""
    cues: list[str] = []
    for segment in transcript.segments:
        for start, end, text in _cues(segment, _text_of(segment).replace("-->", "->"), lines):
            times = f"{clock(start, decimal=',')} --> {clock(end, decimal=',')}"
            cues.append(f"{len(cues) + 1}\n{times}\n{text}\n\n")
    return "".join(cues)


def as_vtt(transcript: Transcript, lines: SubtitleOptions | None = None) -> str:
    """WebVTT, in which & and < are escaped (W3C), and a channel is a voice."""
    cues = ["WEBVTT\n\n"]
    for segment in transcript.segments:
        voice = "" if segment.speaker is None else f"<v {html.escape(segment.speaker, quote=False)}>"
        for start, end, text in _cues(segment, _one_line(segment.text), lines):
            cues.append(f"{clock(start)} --> {clock(end)}\n{voice}{html.escape(text, quote=False)}\n\n")
    return "".join(cues)


def _one_line(text: str) -> str:
    return LINE_ENDS.sub(" ", text.strip())


def _text_of(segment: Segment) -> str:
    text = _one_line(segment.text)
    return text if segment.speaker is None else f"{segment.speaker}: {text}"


def _cues(segment: Segment, text: str, lines: SubtitleOptions | None) -> Iterator[tuple[float, float, str]]:
    """(start, end, text) of the subtitles that a segment fills.

    Where it fills several, its time is divided in proportion to their lengths: the model gives no times for them.
    """
    lines = SubtitleOptions() if lines is None else lines
    wrapped = _wrapped(text, lines.max_line_width)
    most = max(1, int((segment.end - segment.start) / SHORTEST_CUE))
    number = min(most, -(-len(wrapped) // lines.max_line_count))
    parts = [wrapped[len(wrapped) * n // number : len(wrapped) * (n + 1) // number] for n in range(number)]
    total, done, start = sum(map(len, wrapped)), 0, segment.start
    for part in parts:
        done += sum(map(len, part))
        end = segment.end if part is parts[-1] else segment.start + (segment.end - segment.start) * done / total
        yield start, end, "\n".join(part)
        start = end


def _wrapped(text: str, width: int | None) -> list[str]:
    """Lines of at most `width` columns, as few as possible and about equally long."""
    if width is None or cell_len(text) <= width:
        return [text]
    pieces = list(_pieces(text, width))
    fewest = len(_filled(pieces, width))
    narrow, wide = 1, width  # the narrowest that needs no more lines
    while narrow < wide:
        middle = (narrow + wide) // 2
        if len(_filled(pieces, middle)) <= fewest:
            wide = middle
        else:
            narrow = middle + 1
    return _filled(pieces, wide)


def _filled(pieces: Sequence[str], width: int) -> list[str]:
    lines, line = [], ""
    for piece in pieces:
        if line and cell_len((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()]


def _pieces(text: str, width: int) -> Iterator[str]:
    """The pieces after which a line may end: words with their space, and the characters of words longer than a line."""
    for word in re.findall(r"[^ ]+ *", text):
        if cell_len(word.rstrip()) <= width:
            yield word
            continue
        piece = ""
        for char in word:  # marks and closing punctuation stay with what is before them
            if piece and not (unicodedata.category(char) in ("Mn", "Mc", "Me", "Pe", "Pf", "Po", "Cf") or char == " "):
                yield piece
                piece = ""
            piece += char
        yield piece


def as_json(transcript: Transcript, *, audio: Path, model: str, n_best: int = 1) -> str:
    """Everything: times (seconds), scores, language; with `n_best` above 1 each window's hypotheses as well."""
    content: dict[str, Any] = {
        "audio": str(audio),
        "model": model,
        "duration": round(transcript.duration, 3),
        "language": transcript.language,
        "language_prob": _rounded(transcript.language_prob),
        "text": transcript.text,
        "segments": [_entry(number, segment) for number, segment in enumerate(transcript.segments)],
    }
    if transcript.channels:
        content["channels"] = [
            {
                "channel": number,
                "speaker": name,
                "language": channel.language,
                "language_prob": _rounded(channel.language_prob),
                "text": channel.text,
            }
            for number, (name, channel) in enumerate(transcript.channels)
        ]
    if n_best > 1:
        content["windows"] = [
            {
                **({} if number is None else {"channel": number}),
                "start": round(window, 2),
                "hypotheses": [
                    {"text": text, "score": _rounded(score), "log_prob": _rounded(log_prob)}
                    for text, score, log_prob in hypotheses[:n_best]
                ],
            }
            for number, part in _parts(transcript)
            for window, hypotheses in part.alternatives
        ]
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _parts(transcript: Transcript) -> list[tuple[int | None, Transcript]]:
    """The channels, or the whole."""
    return list(enumerate(channel for _, channel in transcript.channels)) or [(None, transcript)]


def _entry(number: int, segment: Segment) -> dict[str, Any]:
    channel = {} if segment.channel is None else {"channel": segment.channel, "speaker": segment.speaker}
    return {
        **channel,
        "id": number,
        "start": round(segment.start, 2),
        "end": round(segment.end, 2),
        "text": segment.text.strip(),
        "avg_logprob": _rounded(segment.result.mean_log_prob),
        "compression_ratio": _rounded(segment.result.compression_ratio),
        "no_speech_prob": _rounded(segment.result.no_speech_prob),
        "temperature": segment.result.temperature,
        "window": round(segment.window, 2),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


WRITERS: dict[str, Callable[[Transcript, SubtitleOptions], str]] = {
    "txt": lambda transcript, _: as_txt(transcript),
    "srt": as_srt,
    "vtt": as_vtt,
}
"""Formats that need nothing but the transcript."""
