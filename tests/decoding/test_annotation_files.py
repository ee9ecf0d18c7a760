"""Transcripts as annotations: read back to a millisecond, by their own libraries and by the readers of corpora."""

from __future__ import annotations

import dataclasses
import struct
import wave
from pathlib import Path

import pympi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from praatio import textgrid as praat
from test_transcript_files import RESULT

from whispertune.data.sources import read_utterances
from whispertune.decoding.annotation_files import as_eaf, as_labels, as_textgrid, as_tsv
from whispertune.decoding.long_form import Segment, Transcript
from whispertune.decoding.words import Word

Spoken = tuple[int, int, str, str | None]
"""Milliseconds, text, speaker."""


def transcript(spoken: list[Spoken], duration: float = 600.0) -> Transcript:
    segments = [
        Segment(start / 1000, end / 1000, f" {text}", (5, 6), 0.0, RESULT, speaker=speaker)
        for start, end, text, speaker in spoken
    ]
    return Transcript(segments, "it", 0.9, duration, [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a recording, talk.wav."""
    folder = tmp_path_factory.mktemp("talks") / "due parole"
    folder.mkdir()
    with wave.open(str(folder / "talk.wav"), "wb") as file:
        file.setparams((1, 2, 100, 0, "NONE", ""))
        file.writeframes(struct.pack("<h", 500) * 100 * 600)
    return folder


TEXTS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='"'), min_size=1, max_size=8)


@st.composite
def spoken(draw: st.DrawFn) -> list[Spoken]:
    """Each speaker's segments follow one another; those of different ones overlap."""
    found: list[Spoken] = []
    for speaker in draw(st.sampled_from([[None], ["Anna", "Bruno & Co."]])):
        at = 0
        for pause, long, text in draw(
            st.lists(st.tuples(st.integers(0, 9999), st.integers(1, 9999), TEXTS), max_size=6)
        ):
            found.append((at + pause, at + pause + long, text, speaker))
            at += pause + long
    return sorted(found, key=lambda each: each[:2])


def read_back(path: Path, tiers: str = "") -> list[Spoken]:
    rows = read_utterances("data", f"{path}{tiers}")
    return sorted((round(r.start * 1000), round((r.end or 0) * 1000), r.text, r.speaker) for r in rows)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spoken())
def test_read_back_to_a_millisecond(folder: Path, said: list[Spoken]) -> None:
    found = transcript(said)
    expected = sorted(said)
    grid = folder / "talk.TextGrid"
    grid.write_text(as_textgrid(found), encoding="utf-8")
    theirs = praat.openTextgrid(str(grid), includeEmptyIntervals=False, reportingMode="error")
    assert sorted(
        (round(span.start * 1000), round(span.end * 1000), span.label, None if name == "transcript" else name)
        for name in theirs.tierNames for span in theirs.getTier(name).entries
    ) == expected  # fmt: skip
    speakers = " [tier=* speaker=tier]" if said and said[0][3] else ""
    assert read_back(grid, speakers) == expected
    eaf = folder / "talk.eaf"
    eaf.write_text(as_eaf(found, folder / "talk.wav", folder), encoding="utf-8")
    document = pympi.Elan.Eaf(str(eaf))
    assert sorted(
        (*span[:3], document.tiers[name][2].get("PARTICIPANT"))
        for name in document.tiers for span in document.get_annotation_data_for_tier(name)
    ) == expected  # fmt: skip
    assert document.media_descriptors[0]["RELATIVE_MEDIA_URL"] == "talk.wav"
    assert read_back(eaf, " [tier=*]") == expected
    labels = folder / "talk.labels.txt"
    if said:
        labels.write_text(as_labels(found), encoding="utf-8")
        named = [(start, end, text if who is None else f"{who}: {text}", None) for start, end, text, who in expected]
        assert read_back(labels) == sorted(named)
    rows = [line.split("\t") for line in as_tsv(found).splitlines()]
    assert rows[0] == ["start", "end", "text"]
    assert [(int(start), int(end)) for start, end, _ in rows[1:]] == [each[:2] for each in said]


def test_overlaps_quotes_and_line_ends(folder: Path) -> None:
    odd = transcript([(0, 2000, 'dice "sì"', None), (1000, 1000, "a\tb\u2028c", None), (1500, 3000, "<&>\x0b", None)])
    path = folder / "talk.TextGrid"
    path.write_text(as_textgrid(odd), encoding="utf-8")
    grid = praat.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")
    assert grid.tierNames == ("transcript", "transcript 2")
    assert [span.label for span in grid.getTier("transcript 2").entries] == ["a b c", "<&>"]
    assert [span.label for span in grid.getTier("transcript").entries] == ['dice "sì"']
    (folder / "talk.eaf").write_text(as_eaf(odd, folder / "talk.wav", folder), encoding="utf-8")
    assert pympi.Elan.Eaf(str(folder / "talk.eaf")).get_annotation_data_for_tier("transcript 2")[1][2] == "<&>"
    assert as_labels(odd).splitlines()[1] == "1.000000\t1.001000\ta b c"
    nothing = dataclasses.replace(odd, segments=[])
    path.write_text(as_textgrid(nothing), encoding="utf-8")
    assert praat.openTextgrid(str(path), includeEmptyIntervals=False).maxTimestamp == 600


def test_words_are_a_tier_of_their_own(folder: Path) -> None:
    """Those without a duration last a millisecond, and delay the next; each speaker has their own."""
    words = (Word(1.0, 1.5, " Sì,", 0.9), Word(1.5, 1.5, " no", 0.8), Word(1.5, 2.0, ".", 0.7))
    made = [
        Segment(1.0, 2.0, " Sì, no.", (5, 6), 0.0, RESULT, speaker=speaker, words=words) for speaker in (None, "Anna")
    ]
    expected = [(1000, 1500, "Sì,"), (1500, 1501, "no"), (1501, 2000, ".")]
    for segment, tier in zip(made, ("words", "Anna words"), strict=True):
        said = Transcript([segment], "it", 0.9, 600.0, [])
        for kind, content in (("TextGrid", as_textgrid(said)), ("eaf", as_eaf(said, folder / "talk.wav", folder))):
            path = folder / f"talk.{kind}"
            path.write_text(content, encoding="utf-8")
            assert [row[:3] for row in read_back(path, f" [tier={tier}]")] == expected
            path.unlink()
