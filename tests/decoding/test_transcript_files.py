"""Transcripts as files: read back by the readers of corpora, and named apart."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.data.audio_files import TranscriptIndex, output_names
from whispertune.data.readers.subtitles import read_cues
from whispertune.decoding.fallback import WindowResult
from whispertune.decoding.long_form import Segment, Transcript
from whispertune.decoding.options import SubtitleOptions
from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.transcript_files import as_json, as_lines, as_srt, as_txt, as_vtt, clock
from whispertune.decoding.words import Word
from whispertune.errors import RecipeError

RESULT = WindowResult(Hypothesis((5, 6), -1.5), "x", 0.2, -0.51234567, 1.25, 0.0123)


def transcript(*segments: tuple[float, float, str]) -> Transcript:
    made = [Segment(start, end, text, (5, 6), 0.0, RESULT) for start, end, text in segments]
    alternatives = [(0.0, [("Pronto. Sì?", -0.5, -1.5), ("Pronto? Sì!", -0.75, -3.0)])]
    return Transcript(made, "it", 0.98765432, 3725.25, alternatives)


CALL = transcript((0.0, 2.4, " Pronto."), (2.4, 61.08, " A & B <c>, x --> y?"), (3661.5, 3725.0, " Sì."))


def test_txt_and_lines() -> None:
    assert as_txt(CALL) == "Pronto.\nA & B <c>, x --> y?\nSì.\n"
    assert as_lines(CALL).splitlines()[0] == "[00:00.000 --> 00:02.400] Pronto."
    assert as_lines(CALL).splitlines()[2] == "[01:01:01.500 --> 01:02:05.000] Sì."


def test_srt_as_it_is_written() -> None:
    first = "1\n00:00:00,000 --> 00:00:02,400\nPronto.\n\n2\n00:00:02,400 --> 00:01:01,080\nA & B <c>, x -> y?\n\n"
    assert as_srt(CALL).startswith(first)
    assert as_srt(transcript()) == ""


def test_vtt_escapes_what_would_be_markup() -> None:
    assert as_vtt(CALL).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.400\nPronto.\n\n")
    assert "A &amp; B &lt;c&gt;, x --&gt; y?" in as_vtt(CALL)
    assert [cue.text for cue in read_cues("x.vtt", as_vtt(CALL))] == [s.text.strip() for s in CALL.segments]


TEXTS = st.text(st.characters(whitelist_categories=["L", "N"], whitelist_characters=" ,.'"), min_size=1).map(str.strip)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 10**5), TEXTS.filter(bool)), max_size=5))
def test_subtitles_are_read_back(cues: list[tuple[int, int, str]]) -> None:
    given = transcript(*((start / 1000, (start + long) / 1000, f" {text}") for start, long, text in cues))
    for content in (as_srt(given), as_vtt(given)):
        found = list(read_cues("x", content)) if content else []
        assert [(round(1000 * c.start), round(1000 * c.end)) for c in found] == [(a, a + b) for a, b, _ in cues]
        assert [cue.text for cue in found] == [" ".join(text.split()) for _, _, text in cues]


@given(st.lists(st.text(), min_size=1, max_size=4), st.sampled_from([10, 42, None]), st.integers(1, 3))
def test_any_text_is_one_subtitle_after_another(texts: list[str], width: int | None, count: int) -> None:
    """No text ends its subtitle early (a blank line), nor stands outside of one; none is lost, times go forwards."""
    spoken = transcript(*((float(n), n + 1.0, text) for n, text in enumerate(texts) if text.strip()))
    for write in (as_srt, as_vtt):
        content = write(spoken, SubtitleOptions(max_line_width=width, max_line_count=count))
        cues = list(read_cues("x", content)) if content else []
        joined = "".join("".join(cue.text.split()) for cue in cues)
        if not any(char in "<>&{}-" for text in texts for char in text):  # what readers take for markup
            assert joined == "".join("".join(s.text.split()) for s in spoken.segments)
        assert all(a.end <= b.start for a, b in pairwise(cues))


LONG = (
    "Il numero da lei chiamato non è al momento raggiungibile, la preghiamo di richiamare più tardi oppure di "
    "lasciare un messaggio dopo il segnale acustico."
)


def test_long_segments_become_subtitles_of_two_lines_of_42() -> None:
    cues = list(read_cues("x", as_srt(transcript((0.0, 10.0, LONG)))))
    shown = [line for line in as_srt(transcript((0.0, 10.0, LONG))).splitlines() if line and line[0].isalpha()]
    assert max(map(len, shown)) <= 42
    assert " ".join(shown) == LONG
    assert min(map(len, shown)) > 25  # of about one length
    assert len(cues) == 2
    assert (cues[0].start, cues[-1].end) == (0.0, 10.0)
    share = len(cues[0].text) / len(LONG)
    assert cues[0].end == cues[1].start == pytest.approx(10 * share, abs=0.1)  # as long as its text
    unlimited = list(read_cues("x", as_srt(transcript((0.0, 10.0, LONG)), SubtitleOptions(max_line_width=None))))
    assert [cue.text for cue in unlimited] == [LONG]
    # No subtitle is too short to be read; then it has more lines.
    assert len(list(read_cues("x", as_srt(transcript((0.0, 0.6, LONG)))))) == 1


def test_lines_without_spaces_break_between_characters() -> None:
    text = "今天天气很好我们去公园散步吧。" * 2
    lines = as_srt(transcript((0.0, 10.0, text))).split("\n")[2:4]
    assert "".join(lines) == text
    assert max(map(len, lines)) <= 23  # two columns each
    assert not lines[1].startswith("。")


def test_line_limits_are_checked() -> None:
    for width, count in ((9, 2), (42, 0)):
        with pytest.raises(RecipeError, match="max_line_"):
            SubtitleOptions(max_line_width=width, max_line_count=count)


def test_json_holds_times_scores_and_hypotheses() -> None:
    content = json.loads(as_json(CALL, audio=Path("a/call.mp3"), model="runs/x", n_best=2))
    assert content["audio"] == "a/call.mp3"
    assert (content["language"], content["language_prob"], content["duration"]) == ("it", 0.9877, 3725.25)
    assert content["text"] == "Pronto. A & B <c>, x --> y? Sì."
    assert content["segments"][0] == {
        "id": 0, "start": 0.0, "end": 2.4, "text": "Pronto.", "avg_logprob": -0.5123, "compression_ratio": 1.25,
        "no_speech_prob": 0.0123, "temperature": 0.2, "confidence": 0.5991, "window": 0.0,
    }  # fmt: skip
    assert content["windows"] == [
        {
            "start": 0.0,
            "hypotheses": [
                {"text": "Pronto. Sì?", "score": -0.5, "log_prob": -1.5},
                {"text": "Pronto? Sì!", "score": -0.75, "log_prob": -3.0},
            ],
        }
    ]
    assert "windows" not in json.loads(as_json(CALL, audio=Path("x"), model="m"))


def spoken(*words: tuple[float, float, str], speaker: str | None = None) -> Transcript:
    """A segment with these words."""
    made = tuple(Word(start, end, text, 0.87654) for start, end, text in words)
    text = "".join(word.text for word in made)
    segment = Segment(made[0].start, made[-1].end, text, (5, 6), 0.0, RESULT, speaker=speaker, words=made)
    return Transcript([segment], "it", 0.9, 60.0, [])


SENTENCE = spoken((1.0, 1.25, " Sì,"), (4.0, 4.5, " A"), (4.5, 4.5, " noi"), (5.0, 6.0, " circuiti"), (6.5, 8.0, " B."))


def test_words_in_json() -> None:
    (segment,) = json.loads(as_json(SENTENCE, audio=Path("x"), model="m"))["segments"]
    assert segment["words"][0] == {"start": 1.0, "end": 1.25, "text": " Sì,", "confidence": 0.8765}
    assert "".join(word["text"] for word in segment["words"]).strip() == segment["text"]


def times(content: str) -> list[tuple[float, float, str]]:
    return [(cue.start, cue.end, cue.text) for cue in read_cues("x", content)]


@pytest.mark.parametrize("write", [as_srt, as_vtt])
@pytest.mark.parametrize("speaker", [None, "Anna Rossi"])
def test_subtitles_by_words(write: Any, speaker: str | None) -> None:
    """Words apart have their own times; a longer subtitle begins with its first word and ends with its last."""
    said = replace(SENTENCE, segments=[replace(SENTENCE.segments[0], speaker=speaker)])
    alone = times(write(said, SubtitleOptions(max_words=1)))
    assert [cue[:2] for cue in alone] == [(1.0, 1.25), (4.0, 4.5), (5.0, 6.0), (6.5, 8.0)]  # one lasts no time
    pairs = times(write(said, SubtitleOptions(max_words=2)))
    assert [cue[:2] for cue in pairs] == [(1.0, 4.5), (5.0, 8.0)]
    narrow = times(write(said, SubtitleOptions(max_line_width=18, max_line_count=1)))
    assert len(narrow) == 2
    assert (narrow[0][0], narrow[1][1]) == (1.0, 8.0)
    assert {cue[0] for cue in narrow} < {1.0, 4.0, 4.5, 5.0, 6.5}
    assert {cue[1] for cue in narrow} < {1.25, 4.5, 6.0, 8.0}


@given(st.lists(st.text(), min_size=1, max_size=6), st.sampled_from([10, None]), st.sampled_from([1, 2, None]))
def test_any_words_are_subtitles(texts: list[str], width: int | None, most: int | None) -> None:
    said = spoken(*((n + 0.25, n + 1.0, text) for n, text in enumerate(texts)))
    if said.text.strip():
        content = as_srt(said, SubtitleOptions(max_line_width=width, max_words=most))
        assert all(a.start <= a.end <= b.start for a, b in pairwise([*read_cues("x", content)]))


def test_clock() -> None:
    assert clock(0.0) == "00:00:00.000"
    assert clock(59.9996) == "00:01:00.000"
    assert clock(3661.5, decimal=",") == "01:01:01,500"
    assert clock(61.08, hours=False) == "01:01.080"
    assert clock(360_000) == "100:00:00.000"


def names(*paths: str) -> list[str]:
    return output_names([Path(path) for path in paths])


def test_names_are_the_files_own_or_longer() -> None:
    assert names("/a/talk.mp3", "/b/call.wav") == ["talk", "call"]
    assert names("/x/a/talk.mp3", "/x/b/talk.mp3", "/x/b/call.wav") == ["a/talk", "b/talk", "call"]
    assert names("/x/talk.mp3", "/x/talk.wav", "/x/y.wav") == ["talk.mp3", "talk.wav", "y"]
    assert names("/x/Talk.mp3", "/x/b/talk.mp3") == ["Talk", "b/talk"]
    assert names("/x/talk.mp3") == ["talk"]
    assert output_names([]) == []


PATHS = ["a/x.wav", "b/x.wav", "a/x.mp3", "x.wav", "b/x.mp3", "a/b/x.wav", "y.wav"]


@given(st.lists(st.sampled_from(PATHS), unique=True))
def test_names_never_collide(paths: list[str]) -> None:
    found = names(*(f"/r/{path}" for path in paths))
    assert len(set(found)) == len(paths)


def test_names_that_cannot_be_told_apart() -> None:
    with pytest.raises(RecipeError, match="same file"):
        names("/x/talk.mp3", "/x/talk.wav", "/x/talk.mp3.wav", "/x/TALK.mp3")


def test_a_torn_line_costs_no_other(tmp_path: Path) -> None:
    """A kill may leave half a line; what is written behind it is read."""
    audio = tmp_path / "a.wav"
    audio.write_bytes(b"a")
    TranscriptIndex(tmp_path).add("one", audio)
    with (tmp_path / TranscriptIndex.FILE).open("a", encoding="utf-8") as file:
        file.write('\n{"name": "tor')
    TranscriptIndex(tmp_path).add("two", audio)
    other = tmp_path / "b.wav"
    other.write_bytes(b"another")
    known = TranscriptIndex(tmp_path)
    assert [known.other_than(name, other) for name in ("one", "two", "tor")] == [str(audio.resolve())] * 2 + [None]
    assert known.other_than("one", audio) is None
