"""Praat's TextGrids, ELAN's .eaf and Audacity's labels: read as their own libraries read them, odd files too."""

from __future__ import annotations

import struct
import wave
from collections.abc import Callable
from pathlib import Path

import pympi
import pytest
from praatio import textgrid as praat
from praatio.utilities.constants import Interval

from whispertune.data.sources import read_utterances
from whispertune.errors import ManifestError

Spans = list[tuple[float, float, str, str | None]]
UTTERANCES = [(0.25, 1.2345678, 'Dice «ciao» e "basta".'), (1.2345678, 3.0, "È così."), (4.0, 5.5, "ქართული ไทย")]
WORDS = [(0.25, 0.5, "Dice"), (1.3, 1.5, "È")]


def record(path: Path, seconds: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(struct.pack("<h", 500) * 8000 * seconds)
    return path


def spans(described: str | Path) -> Spans:
    return [(row.start, row.end or -1.0, row.text, row.speaker) for row in read_utterances("data", str(described))]


def write_grid(path: Path, layout: str = "long_textgrid") -> None:
    grid = praat.Textgrid()
    for name, those in (
        ("utterance", UTTERANCES),
        ("words", WORDS),
        ("who", [(0.0, 3.5, "Anna"), (3.5, 8.0, "Bruno")]),
    ):
        grid.addTier(praat.IntervalTier(name, [Interval(*span) for span in those], 0, 8.0))
    grid.addTier(praat.PointTier("marks", [(1.0, "H*")], 0, 8.0))
    grid.save(str(path), layout, includeBlankSpaces=True)


@pytest.mark.parametrize("layout", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_textgrids_of_praatio(layout: str, encoding: str, tmp_path: Path) -> None:
    record(tmp_path / "talk.wav")
    path = tmp_path / "talk.TextGrid"
    write_grid(path, layout)
    content = path.read_text(encoding="utf-8")
    path.write_bytes(("\ufeff" * (encoding == "utf-16-be") + content.replace("\n", "\r\n")).encode(encoding))
    expected = [(round(start, 6), end if end != 1.2345678 else 1.234568, text, None) for start, end, text in UTTERANCES]
    assert spans(f"{tmp_path} [tier=utterance]") == expected
    assert [span[3] for span in spans(f"{path} [tier=utterance speaker=who]")] == ["Anna", "Anna", "Bruno"]
    both = spans(f"{path} [tier=utterance;words, language=it]")
    assert {span[3] for span in both} == {"utterance", "words"}
    assert len(both) == 5


ODD = """File type = "ooTextFile"
Object class = "TextGrid"

0 9 ! Time domain.
<exists>
3 tiers
"IntervalTier" "my tier"
0 9
4
0 1 ""
1 2 "first"
1.5 3 "overlaps ""it"" and
goes on"
3 3 ""
"TextTier" "points" 0 9
1
2.5 "H*"
"IntervalTier" "my tier" 0 9 0
"""


def test_an_odd_textgrid(tmp_path: Path) -> None:
    """Comments, overlaps, empty intervals, a text of two lines, two tiers of one name, no spaces where there may be."""
    record(tmp_path / "a.wav")
    (tmp_path / "a.TextGrid").write_text(ODD)
    expected = [(1.0, 2.0, "first", None), (1.5, 3.0, 'overlaps "it" and goes on', None)]
    assert [span[:3] for span in spans(tmp_path)] == [span[:3] for span in expected]
    rows = read_utterances("data", str(tmp_path))
    assert [row.row for row in rows] == [11, 12]
    assert [span[3] for span in spans(f"{tmp_path} [tier=my tier speaker=tier]")] == ["my tier"] * 2


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda text: text[:150], "ends where .* should follow: it was cut short"),
        (lambda text: text.replace("1 2 ", '"1" 2 '), "row 11: '\"1\"' stands where a number should"),
        (lambda text: text.replace("1 2 ", "2 1 "), "row 11, field 'end': the end, 1 s, is not after the start, 2 s"),
        (lambda text: text.replace("TextTier", "Pitch"), "'Pitch', which is neither IntervalTier nor TextTier"),
        (lambda text: text.replace("TextGrid", "Sound"), "is not a TextGrid"),
        (lambda text: "ooBinaryFile" + text, "binary TextGrid"),
        (lambda text: "", "is empty"),
    ],
)
def test_damaged_textgrids(change: Callable[[str], str], part: str, tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "a.TextGrid").write_text(change(ODD))
    with pytest.raises(ManifestError, match=part):
        spans(tmp_path)


def write_eaf(path: Path, media: str = "file:///C:/rec/talk.wav") -> None:
    document = pympi.Elan.Eaf(author="test")
    document.add_linked_file(media, relpath=f"./{media.rpartition('/')[2]}", mimetype="audio/x-wav")
    for number, name in enumerate(("Anna", "Bruno")):
        document.add_tier(f"{name}@utt", part=name)
        for start, end, text in UTTERANCES[number::2]:
            document.add_annotation(f"{name}@utt", round(start * 1000), round(end * 1000), text)
    document.add_tier("notes")
    document.remove_tier("default")
    document.to_file(str(path))


def test_eaf_of_pympi(tmp_path: Path) -> None:
    record(tmp_path / "talk.wav")
    write_eaf(tmp_path / "talk.eaf")
    document = pympi.Elan.Eaf(str(tmp_path / "talk.eaf"))
    theirs = [
        (start / 1000, end / 1000, text, tier.partition("@")[0])
        for tier in ("Anna@utt", "Bruno@utt") for start, end, text in document.get_annotation_data_for_tier(tier)
    ]  # fmt: skip
    assert sorted(spans(f"{tmp_path} [tier=*@utt speaker=participant]")) == sorted(theirs)
    with pytest.raises(ManifestError, match=r"several tiers hold text: Anna@utt \(2\), Bruno@utt \(1\); say which"):
        spans(tmp_path)


def test_media_that_moved_or_has_another_name(tmp_path: Path) -> None:
    write_eaf(tmp_path / "session 1.eaf")
    with pytest.raises(ManifestError, match="no recording of that name in "):
        spans(f"{tmp_path} [tier=*@utt audio_root={tmp_path}]")
    record(tmp_path / "talk.wav")
    (tmp_path / "talk.mp4").write_bytes(b"a video of the same")
    assert len(spans(f"{tmp_path} [tier=*@utt]")) == 3
    assert len(spans(f"{tmp_path / 'session 1.eaf'} [tier=*@utt]")) == 3
    record(tmp_path / "sound" / "talk.wav")
    assert len(spans(f"{tmp_path / 'session 1.eaf'} [tier=*@utt audio_root={tmp_path / 'sound'}]")) == 3


ODD_EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT><HEADER/><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="1000"/><TIME_SLOT TIME_SLOT_ID="t2"/><TIME_SLOT TIME_SLOT_ID="t3"/>
<TIME_SLOT TIME_SLOT_ID="t4" TIME_VALUE="4000"/></TIME_ORDER>
<TIER TIER_ID="utt"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t4">
<ANNOTATION_VALUE>due &amp; tre</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="parts" PARENT_REF="utt">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="b1" TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t2"><ANNOTATION_VALUE>uno</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="b2" TIME_SLOT_REF1="t2" TIME_SLOT_REF2="t3"><ANNOTATION_VALUE>due</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="b3" TIME_SLOT_REF1="t3" TIME_SLOT_REF2="t4"><ANNOTATION_VALUE>tre</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
</TIER>
<TIER TIER_ID="words" PARENT_REF="utt">
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="c1" ANNOTATION_REF="a1"><ANNOTATION_VALUE>two</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="c2" ANNOTATION_REF="a1" PREVIOUS_ANNOTATION="c1"><ANNOTATION_VALUE>three</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
</TIER></ANNOTATION_DOCUMENT>
"""  # noqa: E501


def test_times_that_are_not_set_and_annotations_that_depend_on_others(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "a.eaf").write_text(ODD_EAF)
    assert spans(f"{tmp_path} [tier=utt]") == [(1.0, 4.0, "due & tre", None)]
    assert spans(f"{tmp_path} [tier=parts]") == [(1, 2, "uno", None), (2, 3, "due", None), (3, 4, "tre", None)]
    assert spans(f"{tmp_path} [tier=words]") == [(1.0, 4.0, "two three", None)]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda text: text[:400], r"row \d+: is not XML"),
        (lambda text: "<x/>", "is not an annotation document of ELAN's"),
        (lambda text: text.replace('N_REF="a1"', 'N_REF="a9"'), "depends on 'a9', which does"),
        (lambda text: text.replace('REF="a1"', 'REF="c1"'), "depends on"),
        (lambda text: text.replace('REF1="t1"', 'REF1="t9"'), "the time slot 't9' does not exist"),
        (lambda text: text.replace("1000", "1e3"), "'1e3' is not a time in milliseconds"),
        (lambda text: text.replace(' TIME_VALUE="4000"', ""), "an annotation has no time"),
        (lambda text: text.replace("<ANN", '<!DOCTYPE a [<!ENTITY x "ha">]><ANN', 1), "declares entities"),
        (lambda text: text.replace("<HEADER/>", '<MEDIA_DESCRIPTOR TIME_ORIGIN="250"/>'), "TIME_ORIGIN"),
    ],
)  # fmt: skip
def test_damaged_eaf(change: Callable[[str], str], part: str, tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "a.eaf").write_text(change(ODD_EAF))
    with pytest.raises(ManifestError, match=part):
        spans(f"{tmp_path} [tier=words]")


def test_labels_of_audacity(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    labels = tmp_path / "a.txt"
    labels.write_text(
        "0.500000\t2.250000\tUno due.\n\\\t100.0\t2000.0\n2,5\t3\tTre.\n3\t3\tcough\n4\t5\t\n", encoding="utf-8"
    )
    expected = [(0.5, 2.25, "Uno due.", None), (2.5, 3.0, "Tre.", None)]
    assert spans(tmp_path) == spans(labels) == expected
    labels.write_text("Un testo intero\t1\t2\n", encoding="utf-8")
    assert spans(tmp_path) == [(0.0, -1.0, "Un testo intero 1 2", None)]
    with pytest.raises(ManifestError, match=r"Audacity's labels \(.txt\)"):
        spans(labels)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("[tier=utt]", "has no tier 'utt'; its tiers are utterance \\(3\\), words \\(2\\), who \\(2\\)"),
        ("[tier=words speaker=x]", "has no tier 'x' for speakers"),
        ("[tier=]", "tier has no value"),
        ("[language=it foo]", "unknown option 'foo'"),
    ],
)
def test_tiers_that_are_not_there(given: str, part: str, tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    write_grid(tmp_path / "a.TextGrid")
    with pytest.raises(ManifestError, match=part):
        spans(f"{tmp_path} {given}")


def test_tiers_of_formats_without_tiers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("audio,text\na.wav,x\n")
    with pytest.raises(ManifestError, match="tier utt is given, but there are no tiers in it"):
        spans(f"{tmp_path / 'a.csv'} [tier=utt]")
