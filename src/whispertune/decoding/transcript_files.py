"""Transcripts of recordings as files: plain text, subtitles (SRT, WebVTT), JSON."""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from whispertune.decoding.long_form import Segment, Transcript
from whispertune.decoding.options import SubtitleOptions
from whispertune.decoding.words import Word

LINE_ENDS = re.compile(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
"""What some program that reads these files takes for the end of a line; a blank line would end a subtitle."""
SHORTEST_TIME = 0.001
"""Seconds: subtitles have their times in milliseconds."""
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
    for segment in _short(transcript.segments, lines):
        for start, end, text in _cues(segment, _text_of(segment).replace("-->", "->"), lines):
            times = f"{clock(start, decimal=',')} --> {clock(end, decimal=',')}"
            cues.append(f"{len(cues) + 1}\n{times}\n{text}\n\n")
    return "".join(cues)


def as_vtt(transcript: Transcript, lines: SubtitleOptions | None = None) -> str:
    """WebVTT, in which & and < are escaped (W3C), and a channel is a voice."""
    cues = ["WEBVTT\n\n"]
    for segment in _short(transcript.segments, lines):
        voice = "" if segment.speaker is None else f"<v {html.escape(segment.speaker, quote=False)}>"
        for start, end, text in _cues(segment, _one_line(segment.text), lines):
            cues.append(f"{clock(start)} --> {clock(end)}\n{voice}{html.escape(text, quote=False)}\n\n")
    return "".join(cues)


def _one_line(text: str) -> str:
    return LINE_ENDS.sub(" ", text.strip())


def _text_of(segment: Segment) -> str:
    text = _one_line(segment.text)
    return text if segment.speaker is None else f"{segment.speaker}: {text}"


def _short(segments: Iterable[Segment], lines: SubtitleOptions | None) -> Iterator[Segment]:
    """The segments, those whose words are known cut to `max_words` words each, which all last some time."""
    most = None if lines is None else lines.max_words
    for segment in segments:
        groups: list[list[Word]] = []
        for word in segment.words:
            open_group = groups and (len(groups[-1]) < (most or 1) or groups[-1][-1].end <= groups[-1][0].start)
            if open_group or (groups and word.end <= word.start):
                groups[-1].append(word)
            else:
                groups.append([word])
        if most is None or len(groups) < 2:
            yield segment
            continue
        for words in groups:
            text = "".join(word.text for word in words)
            yield replace(segment, start=words[0].start, end=words[-1].end, text=text, words=tuple(words))


def _cues(segment: Segment, text: str, lines: SubtitleOptions | None) -> Iterator[tuple[float, float, str]]:
    """(start, end, text) of the subtitles that a segment fills.

    Where it fills several, they have the times of their words; without these, its time is divided in proportion to
    their lengths.
    """
    lines = SubtitleOptions() if lines is None else lines
    wrapped = _wrapped(text, lines.max_line_width)
    most = max(1, int((segment.end - segment.start) / SHORTEST_CUE))
    number = min(most, -(-len(wrapped) // lines.max_line_count))
    parts = [wrapped[len(wrapped) * n // number : len(wrapped) * (n + 1) // number] for n in range(number)]
    times = list(_times_by_words(segment.words, parts)) if segment.words and number > 1 else []
    if not times or any(end - start < SHORTEST_TIME for start, end in times):
        times = list(_times_by_length(segment, parts))
    for (start, end), part in zip(times, parts, strict=True):
        yield start, end, "\n".join(part)


def _times_by_length(segment: Segment, parts: Sequence[Sequence[str]]) -> Iterator[tuple[float, float]]:
    total, done, start = sum(len(line) for part in parts for line in part), 0, segment.start
    for part in parts:
        done += sum(map(len, part))
        end = segment.end if part is parts[-1] else segment.start + (segment.end - segment.start) * done / total
        yield start, end
        start = end


def _times_by_words(words: Sequence[Word], parts: Sequence[Sequence[str]]) -> Iterator[tuple[float, float]]:
    """From the first letter of each part to its last; a word's letters share its time."""
    ends = list(accumulate(_letters(word.text) for word in words))
    sizes = [sum(map(_letters, part)) for part in parts]
    first = min(0, ends[-1] - sum(sizes))  # the name of a speaker may come before the words

    def time(letter: int, after: int) -> float:
        letter = min(max(letter, 0), ends[-1] - 1)
        place = bisect_right(ends, letter)
        word, size = words[place], _letters(words[place].text)
        return word.start + (word.end - word.start) * (letter - ends[place] + size + after) / size

    for size in sizes:
        start, first = time(first, 0), first + size
        yield start, max(start, time(first - 1, 1))


def _letters(text: str) -> int:
    """Characters, spaces apart."""
    return sum(map(len, text.split()))


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
        "confidence": round(math.exp(segment.result.mean_log_prob), 4),
        "window": round(segment.window, 2),
        **({"words": [_word(word) for word in segment.words]} if segment.words else {}),
    }


def _word(word: Word) -> dict[str, Any]:
    times = {"start": round(word.start, 2), "end": round(word.end, 2)}
    return {**times, "text": word.text, "confidence": round(word.confidence, 4)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


WRITERS: dict[str, Callable[[Transcript, SubtitleOptions], str]] = {
    "txt": lambda transcript, _: as_txt(transcript),
    "srt": as_srt,
    "vtt": as_vtt,
}
"""Formats that need nothing but the transcript."""
