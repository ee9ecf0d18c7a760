"""Manifests: what others write loads as it is, and every fault is told with its place."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.data import reading
from whispertune.data import text_files as reading_of_text
from whispertune.data.readers import tables
from whispertune.data.readers.manifest import read_manifest
from whispertune.data.reading import Reading, parse_columns
from whispertune.data.sources import read_utterances
from whispertune.data.utterances import Utterance
from whispertune.errors import ManifestError, RecipeError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def fault(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert path.name in message
    assert "; " in message, "a remedy follows"
    return message


# --- what loads -----------------------------------------------------------------------------------------


def test_plain_csv(tmp_path: Path) -> None:
    path = write(tmp_path, "train.csv", "id,audio,text\na,wav/a.wav,Ciao.\nb,/abs/b.wav,Sì\n")
    assert read_manifest(path) == [
        Utterance(id="a", audio=tmp_path / "wav/a.wav", text="Ciao.", source=str(path), row=2),
        Utterance(id="b", audio=Path("/abs/b.wav"), text="Sì", source=str(path), row=3),
    ]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("audio", reading.AUDIO_COLUMNS)
@pytest.mark.parametrize("text", reading.TEXT_COLUMNS)
def test_audio_and_text_columns(tmp_path: Path, ending: str, audio: str, text: str) -> None:
    check_one(tmp_path, ending, {audio: "a.wav", text: "Ciao."}, text="Ciao.", id="a.wav")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    ("column", "value", "field", "expected"),
    [
        ("id", "x", "id", "x"),
        ("ID", "x", "id", "x"),
        ("language", "it", "language", "it"),
        ("locale", " it ", "language", "it"),
        ("locale", "  ", "language", None),
        ("task", "translate", "task", "translate"),
        ("start", "1.5", "start", 1.5),
        ("offset", "1.5", "start", 1.5),
        ("end", "2.5", "end", 2.5),
        ("duration", "2.5", "end", 2.5),
        ("speaker", "s1", "speaker", "s1"),
        ("client_id", "s1", "speaker", "s1"),
        ("prompt", "Names: Ada", "prompt", "Names: Ada"),
    ],
)
def test_optional_columns(tmp_path: Path, ending: str, column: str, value: str, field: str, expected: object) -> None:
    check_one(tmp_path, ending, {"audio": "a.wav", "text": "Ciao.", column: value}, **{field: expected})


def check_one(folder: Path, ending: str, record: dict[str, str], **expected: object) -> None:
    if ending == ".jsonl":
        content = json_lines(record)
    else:
        delimiter = tables.DELIMITERS[ending]
        content = delimiter.join(record) + "\n" + delimiter.join(record.values()) + "\n"
    (utterance,) = read_manifest(write(folder, "m" + ending, content))
    assert {name: getattr(utterance, name) for name in expected} == expected


def test_first_column_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "path,sentence,text,audio\nb.wav,no,yes,a.wav\n")
    (utterance,) = read_manifest(path)
    assert (utterance.audio.name, utterance.text) == ("a.wav", "yes")


def test_end_is_start_plus_duration(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "audio,text,start,duration\na.wav,x,1.1,2.2\n")
    assert read_manifest(path)[0].end == 3.3
    path = write(tmp_path, "m.csv", "audio,text,start,end,duration\na.wav,x,1,3,9\nb.wav,x,1,,9\n")
    assert [utterance.end for utterance in read_manifest(path)] == [3, 10]


def test_missing_id_is_audio_and_span(tmp_path: Path) -> None:
    rows = ["a.wav,,", "a.wav,1.5,3.2", "a.wav,1.5,3.201", "a.wav,2,", "a.wav,,2"]
    path = write(tmp_path, "m.csv", "audio,start,end,text\n" + "".join(f"{row},x\n" for row in rows))
    ids = [utterance.id for utterance in read_manifest(path)]
    assert ids == ["a.wav", "a.wav#1.50-3.20", "a.wav#1.50-3.201", "a.wav#2.00-", "a.wav#0.00-2.00"]


def test_byte_order_mark_crlf_and_blank_lines(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfaudio,text\r\n\r\na.wav,Ciao.\r\n,\r\nb.wav,\r\n\r\n"
    rows = [(u.id, u.text, u.row) for u in read_manifest(write(tmp_path, "m.csv", content))]
    assert rows == [("a.wav", "Ciao.", 3), ("b.wav", "", 5)]
    content = b'\xef\xbb\xbf{"audio": "a.wav", "text": "x"}\r\n\r\n{"audio": "b.wav", "text": null}\r\n'
    rows = [(u.id, u.text, u.row) for u in read_manifest(write(tmp_path, "m.jsonl", content))]
    assert rows == [("a.wav", "x", 1), ("b.wav", "", 3)]


def test_rows_are_counted_over_embedded_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", 'audio,text\na.wav,"one\ntwo, ""three"""\nb.wav,x\n')
    assert [(u.text, u.row) for u in read_manifest(path)] == [('one\ntwo, "three"', 2), ("x", 4)]


def test_common_voice(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/common_voice_it_1.mp3").touch()
    (tmp_path / "here.mp3").touch()
    header = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents locale"
    rows = [
        ["c1", "common_voice_it_1.mp3", "s1", 'Disse "ciao', "", "2", "0", "", "", "", "it"],
        ["c2", "here.mp3", "s2", '"Era, lì', "", "2", "0", "", "", "", "it"],
        ["c2", "gone.mp3", "s3", "Era là", "", "2", "0"],  # trailing empty fields left out
    ]
    lines = [header.split(), *rows]
    path = write(tmp_path, "validated.tsv", "".join("\t".join(line) + "\n" for line in lines))
    first, second, third = read_manifest(path)
    assert first.audio == tmp_path / "clips/common_voice_it_1.mp3"
    assert (first.id, first.text, first.speaker, first.language) == (
        "common_voice_it_1.mp3",
        'Disse "ciao',
        "c1",
        "it",
    )
    assert (second.audio, second.text) == (tmp_path / "here.mp3", '"Era, lì')
    assert (third.audio, third.language) == (tmp_path / "clips" / "gone.mp3", None)


def test_huggingface_audiofolder(tmp_path: Path) -> None:
    path = write(tmp_path, "metadata.csv", 'file_name,transcription\ndata/a.wav,"Sì, ciao"\n')
    (utterance,) = read_manifest(path)
    assert (utterance.audio, utterance.text) == (tmp_path / "data/a.wav", "Sì, ciao")


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".ndjson", ".json-lines", ".JSONL"])
def test_nemo(tmp_path: Path, ending: str) -> None:
    record = {"audio_filepath": "/d/a.wav", "duration": 3.25, "offset": 12, "text": "ciao"}
    (utterance,) = read_manifest(write(tmp_path, "manifest" + ending, json_lines(record)))
    assert (utterance.audio, utterance.start, utterance.end) == (Path("/d/a.wav"), 12.0, 15.25)


def test_speechbrain(tmp_path: Path) -> None:
    content = "ID, duration, wav, spk_id, wrd\nu1, 2.5, /d/a.wav, s1, CIAO A TUTTI\n"
    (utterance,) = read_manifest(write(tmp_path, "train.csv", content))
    assert (utterance.id, utterance.end, utterance.audio, utterance.text) == (
        "u1",
        2.5,
        Path("/d/a.wav"),
        "CIAO A TUTTI",
    )


def test_header_only_is_an_empty_list(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, "m.csv", "audio,text\n")) == []


def test_json_integers_as_names(tmp_path: Path) -> None:
    record = {"id": 17, "audio": "a.wav", "text": "x", "speaker": 103}
    (utterance,) = read_manifest(write(tmp_path, "m.jsonl", json_lines(record)))
    assert (utterance.id, utterance.speaker) == ("17", "103")


def test_json_row_without_text(tmp_path: Path) -> None:
    path = write(tmp_path, "m.jsonl", json_lines({"audio": "a.wav", "text": "x"}, {"audio": "b.wav"}))
    assert [utterance.text for utterance in read_manifest(path)] == ["x", ""]


def test_line_separator_inside_json(tmp_path: Path) -> None:
    path = write(tmp_path, "m.jsonl", json_lines({"audio": "a.wav", "text": "one\u2028two"}))
    assert read_manifest(path)[0].text == "one\u2028two"


def test_trailing_commas(tmp_path: Path) -> None:
    assert len(read_manifest(write(tmp_path, "m.csv", "audio,text\na.wav,x,,\n"))) == 1


def test_example(request: pytest.FixtureRequest) -> None:
    utterances = read_manifest(request.config.rootpath / "examples/italian-prompts/test.csv")
    assert all(utterance.audio.is_file() and utterance.text for utterance in utterances)


# --- what does not --------------------------------------------------------------------------------------

NUMBER_FAULTS = [
    ("start", "1,5,5", "finite number"),
    ("offset", "abc", "finite number"),
    ("start", "-1", "negative"),
    ("end", "nan", "finite number"),
    ("end", "inf", "finite number"),
    ("end", "1e999", "finite number"),
    ("end", "1_0", "finite number"),
    ("end", "٣", "finite number"),
    ("end", "0", "not after the start"),
    ("duration", "0", "above 0"),
    ("duration", "-2", "negative"),
    ("duration", "2.5s", "finite number"),
]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@pytest.mark.parametrize(("field", "value", "problem"), NUMBER_FAULTS)
def test_bad_number(tmp_path: Path, ending: str, field: str, value: str, problem: str) -> None:
    good = {"audio": "a.wav", "text": "x", field: "1"}
    bad = good | {"audio": "b.wav", field: value}
    if ending == ".csv":
        content = f'audio,text,{field}\na.wav,x,1\nb.wav,x,"{value}"\n'
    else:
        content = json_lines(good, bad)
    message = fault(write(tmp_path, "m" + ending, content))
    assert f"row {3 if ending == '.csv' else 2}, field '{field}'" in message
    assert problem in message
    assert value.removeprefix("-").rstrip("0") in message


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "true", "[1]", '{"a": 1}', "1e999", "9" * 400])
def test_bad_json_number(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, "m.jsonl", f'{{"audio": "a.wav", "text": "x", "start": {value}}}\n')
    assert "row 1, field 'start'" in fault(path)


def test_end_before_start(tmp_path: Path) -> None:
    message = fault(write(tmp_path, "m.csv", "audio,text,start,end\na.wav,x,3.5,2\n"))
    assert "row 2, field 'end'" in message
    assert "3.5 s" in message
    assert "2 s" in message


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"audio": "a.wav", "text": 5}, "text"),
        ({"audio": "a.wav", "text": ["x"]}, "text"),
        ({"audio": {"file": "a.wav"}, "text": "x"}, "audio"),
        ({"audio": 5, "text": "x"}, "audio"),
        ({"audio": None, "text": "x"}, "audio"),
        ({"audio": "", "text": "x"}, "audio"),
        ({"text": "x"}, "audio"),
        ({"audio": "a.wav", "text": "x", "id": True}, "id"),
        ({"audio": "a.wav", "text": "x", "id": 1.5}, "id"),
        ({"audio": "a.wav", "text": "x", "language": 5}, "language"),
        ({"audio": "a.wav", "text": "a\x00b"}, "text"),
        ({"audio": "a\nb.wav", "text": "x"}, "audio"),
    ],
)
def test_wrong_json_value(tmp_path: Path, record: dict[str, Any], field: str) -> None:
    first = {"audio": "first.wav", "text": "x"}
    assert f"row 2, field '{field}'" in fault(write(tmp_path, "m.jsonl", json_lines(first, record)))


def test_lone_surrogate(tmp_path: Path) -> None:
    path = write(tmp_path, "m.jsonl", '{"audio": "a.wav", "text": "\\ud800"}\n')
    assert "row 1, field 'text'" in fault(path)


@pytest.mark.parametrize(
    "line", ['{"audio": ', "[1, 2]", '"x"', "5", "null", "{]", "[" * 100_000, '{"start": ' + "9" * 5000 + "}"]
)
def test_bad_json(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, "m.jsonl", json_lines({"audio": "a.wav", "text": "x"}) + line + "\n")
    message = fault(path)
    assert "row 2" in message
    assert len(message) < 400 + len(str(path))


def test_pretty_printed_json(tmp_path: Path) -> None:
    path = write(tmp_path, "m.json", json.dumps({"u1": {"wav": "a.wav", "wrd": "x"}}, indent=2))
    assert re.search(r"row 1: .*one object per line", fault(path))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(("kind", "columns"), [("audio", ("text", "id")), ("text", ("audio", "id"))])
def test_missing_column(tmp_path: Path, ending: str, kind: str, columns: tuple[str, str]) -> None:
    if ending == ".jsonl":
        content = json_lines(dict.fromkeys(columns, "x"))
    else:
        content = tables.DELIMITERS[ending].join(columns) + "\n"
    message = fault(write(tmp_path, "m" + ending, content))
    assert f"no {kind} column" in message
    assert all(repr(column) in message for column in columns)
    accepted = reading.AUDIO_COLUMNS if kind == "audio" else reading.TEXT_COLUMNS
    assert ", ".join(accepted) in message


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ";"), (".csv", "\t"), (".csv", "|"), (".tsv", ",")])
def test_the_header_says_what_separates_values(tmp_path: Path, ending: str, delimiter: str) -> None:
    """As spreadsheets write it where a comma stands in numbers; rows are counted as an editor does."""
    lines = ["audio;text;start;end", "a.wav;Sì, certo.;0;1,5", "b c.wav;Ciao;1,234;2.5", "c.wav;;;0,25"]
    content = "\r\n".join(lines).replace("Sì, certo", "Sì certo" if delimiter == "," else "Sì, certo")
    if delimiter == ",":
        content = content.replace("1,5", '"1,5"').replace("1,234", "1.234").replace("0,25", '"0,25"')
    rows = read_manifest(write(tmp_path, f"m{ending}", content.replace(";", delimiter)))
    assert [row.text for row in rows] == ["Sì certo." if delimiter == "," else "Sì, certo.", "Ciao", ""]
    assert [(row.start, row.end, row.row) for row in rows] == [(0.0, 1.5, 2), (1.234, 2.5, 3), (0.0, 0.25, 4)]


def test_a_spreadsheet_that_names_its_separator(tmp_path: Path) -> None:
    rows = read_manifest(write(tmp_path, "m.csv", 'sep=;\r\naudio;text\r\na.wav;"Si; no"\r\n'))
    assert [(row.text, row.row) for row in rows] == [("Si; no", 3)]
    assert "row 3: has 3 fields" in fault(write(tmp_path, "n.csv", "sep=;\r\naudio;text\r\na.wav;x;y\r\n"))


@pytest.mark.parametrize("value", ["1,234", "12,345"])
def test_a_comma_that_may_stand_between_thousands(tmp_path: Path, value: str) -> None:
    message = fault(write(tmp_path, "m.csv", f'audio,text,end\na.wav,x,"{value}"\n'))
    assert f"row 2, field 'end': '{value}' may be {value.replace(',', '.')} or {value.replace(',', '')} s" in message


def test_columns_by_the_names_that_the_user_gives(tmp_path: Path) -> None:
    named = Reading(parse_columns("text = Transkript; audio=Datei"))
    content = "Datei;text;Transkript;Sprecher\nä.wav;alt;neu;s1\n"
    (row,) = read_utterances("train", str(write(tmp_path, "m.csv", content)), named)
    assert (row.text, row.audio, row.speaker) == ("neu", tmp_path / "ä.wav", None)
    lines = '{"Datei": "a.wav", "Transkript": "eins"}\n{"Datei": "b.wav", "Transkript": 2}\n'
    path = write(tmp_path, "m.jsonl", lines)
    with pytest.raises(ManifestError, match="row 2, field 'Transkript': 2 is not text"):
        read_utterances("train", str(path), named)
    with pytest.raises(ManifestError, match=r"no column 'Sprecher' \(for speaker\) among 'Datei', 'Transkript'"):
        read_utterances("train", str(write(tmp_path, "m.jsonl", lines.replace("2}", '"zwei"}'))),
                        Reading(parse_columns("text=Transkript,audio=Datei,speaker=Sprecher")))  # fmt: skip
    described = f"{path} [columns=text=Transkript;audio=Datei]"
    assert [row.text for row in read_utterances("train", described)] == ["eins", "zwei"]
    for written, said in (("txt=a", "there are audio, text, id"), ("text", "write it as"), ("text=a,text=b", "twice")):
        with pytest.raises(RecipeError, match=said):
            parse_columns(written)


def test_json_lines_as_other_trainers_nest_them(tmp_path: Path) -> None:
    segments = [{"start": 0, "end": 1.5, "text": "Uno."}, {"start": 1.5, "end": 3.25, "text": "Due."}]
    records: list[dict[str, object]] = [
        {"audio": {"path": "a.wav", "sampling_rate": 16_000}, "sentence": "Uno. Due.", "language": "it",
         "duration": 3.25, "sentences": segments},
        {"audio": {"path": "b.wav"}, "sentence": "Tre.", "sentences": []},
        {"id": "c", "audio": "c.wav", "segments": segments},
    ]  # fmt: skip
    path = write(tmp_path, "m.jsonl", "\n".join(map(json.dumps, records)))
    rows = read_manifest(path)
    assert [(u.id, u.audio.name, u.start, u.end, u.text, u.language, u.row) for u in rows] == [
        ("a.wav#0.00-1.50", "a.wav", 0.0, 1.5, "Uno.", "it", 1),
        ("a.wav#1.50-3.25", "a.wav", 1.5, 3.25, "Due.", "it", 1),
        ("b.wav", "b.wav", 0.0, None, "Tre.", None, 2),
        ("c#1", "c.wav", 0.0, 1.5, "Uno.", None, 3), ("c#2", "c.wav", 1.5, 3.25, "Due.", None, 3),
    ]  # fmt: skip
    for change, said in (
        ({"audio": {"array": [0.0]}}, "field 'audio': {'array': [0.0]} has no path; write the recordings to files"),
        ({"sentences": "Uno."}, "field 'sentences': 'Uno.' is not a list of objects"),
        ({"sentences": [{"start": 0, "text": "Uno."}]}, "field 'sentences': segment 1 has no start or no end"),
        ({"sentences": [{"start": 2, "end": 1, "text": "Uno."}]}, "field 'end': the end, 1 s, is not after"),
        ({"start": 1.0}, "field 'start': the row starts at 1 s and has segments of its own"),
    ):
        assert said in fault(write(tmp_path, "n.jsonl", json.dumps(records[0] | change)))


def test_channels_of_one_file_are_two_utterances(tmp_path: Path) -> None:
    """A call in stereo, a speaker a channel, without ids."""
    rows = read_manifest(write(tmp_path, "m.csv", "audio,text,end,channel\na.wav,x,1,0\na.wav,y,1,1\na.wav,z,1,\n"))
    assert [row.id for row in rows] == ["a.wav#0.00-1.00#channel-0", "a.wav#0.00-1.00#channel-1", "a.wav#0.00-1.00"]
    message = fault(write(tmp_path, "n.csv", "audio,text,channel\na.wav,x,1\na.wav,y,1\n"))
    assert "field 'audio': the id 'a.wav#channel-1' is repeated" in message


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("folder", ["", "sé/"])
def test_names_in_another_spelling(tmp_path: Path, form: str, folder: str) -> None:
    """macOS writes accents apart; Windows separates folders by backslashes."""
    there = unicodedata.normalize(form, f"{folder}perché.wav")
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", f"{folder}perché.wav")
    names = [there, other, there.replace("/", "\\"), other.replace("/", "\\")]
    content = "id,audio,text\n" + "".join(f"{n},{name},x\n" for n, name in enumerate(names))
    for chosen in (content, content + '4,"absent é.wav",x\n'):
        rows = read_manifest(write(tmp_path, "m.csv", chosen))
        assert [row.audio for row in rows[:4]] == 4 * [tmp_path / there]
        assert rows.follows_from_files
    assert rows[4].audio == tmp_path / "absent é.wav"
    assert "field 'audio': 'C:\\\\a.wav' is a path on a Windows drive; write paths relative to one folder" in fault(
        write(tmp_path, "n.csv", "audio,text\nC:\\a.wav,x\n")
    )


def test_the_path_that_was_tried_is_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (row,) = read_manifest(write(tmp_path, "train.tsv", "path\tsentence\nabsent.mp3\tx\n"))
    assert row.audio == tmp_path / "clips" / "absent.mp3"


def test_recordings_in_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    path = write(tmp_path, "m.csv", "audio,text\na.wav,x\n")
    (row,) = read_utterances("train", str(path), Reading(audio_root=str(tmp_path / "sounds")))
    assert row.audio == tmp_path / "sounds" / "a.wav"
    (row,) = read_utterances("train", f"{path} [audio_root={tmp_path}/sounds]")
    assert row.audio == tmp_path / "sounds" / "a.wav"
    with pytest.raises(ManifestError, match="audio_root absent: no such folder"):
        read_utterances("train", str(path), Reading(audio_root="absent"))


@pytest.mark.parametrize("value", ["1e308", "1" * 400, "1e10"])
def test_seconds_beyond_all_bounds(tmp_path: Path, value: str) -> None:
    assert "row 2, field 'end': '1" in fault(write(tmp_path, "m.csv", f"audio,text,end\na.wav,x,{value}\n"))
    assert "row 1, field 'duration': 1" in fault(
        write(tmp_path, "m.jsonl", f'{{"audio": "a.wav", "text": "x", "duration": {value}}}\n')
    )


def test_a_field_that_is_longer_than_any_text(tmp_path: Path) -> None:
    message = fault(write(tmp_path, "m.csv", f'audio,text\na.wav,"{"x" * 140_000}\n'))
    assert "row 2: a field of more than 131,072 characters; is a quote in it never closed?" in message


def test_a_path_that_is_too_long_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot be read \(File name too long\)"):
        read_utterances("train", str(tmp_path / ("x" * 5_000)))
    with pytest.raises(ManifestError, match=r"cannot be read \(File name too long\)"):
        read_manifest(tmp_path / ("x" * 5_000 + ".csv"))


def test_column_there_twice(tmp_path: Path) -> None:
    assert "field 'text'" in fault(write(tmp_path, "m.csv", "audio,text,text\na.wav,x,y\n"))


def test_empty_audio(tmp_path: Path) -> None:
    assert "row 3, field 'wav'" in fault(write(tmp_path, "m.csv", "wav,wrd\na.wav,x\n ,y\n"))


@pytest.mark.parametrize("audio", ["$data_root/a.wav", "${root}/a.wav", "{data_root}/a.wav"])
def test_placeholder(tmp_path: Path, audio: str) -> None:
    message = fault(write(tmp_path, "m.csv", f"ID,wav,wrd\nu1,{audio},x\n"))
    assert "row 2, field 'wav'" in message
    assert "placeholder" in message


def test_dollar_in_a_file_name(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, "m.csv", "audio,text\n$5.wav,x\n"))[0].audio.name == "$5.wav"


def test_url(tmp_path: Path) -> None:
    message = fault(write(tmp_path, "m.csv", "audio,text\nftp://example.org/a.wav,x\n"))
    assert "row 2, field 'audio'" in message


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("id,audio,text\nu1,a.wav,x\nu2,b.wav,x\nu1,c.wav,x\n", "id"),
        ("audio,text\na.wav,x\nb.wav,x\na.wav,x\n", "audio"),
    ],
)
def test_repeated_id(tmp_path: Path, content: str, field: str) -> None:
    message = fault(write(tmp_path, "m.csv", content))
    assert f"row 4, field '{field}'" in message
    assert "row 2" in message


def test_too_many_fields(tmp_path: Path) -> None:
    message = fault(write(tmp_path, "m.csv", "audio,text\na.wav,x\nb.wav,Sì, ciao\n"))
    assert "row 3: has 3 fields, the header has 2" in message
    assert "comma" in message
    assert "tabs" in fault(write(tmp_path, "m.tsv", "audio\ttext\nb.wav\tSì\tciao\n"))


def test_quote_never_closed(tmp_path: Path) -> None:
    assert "row 3" in fault(write(tmp_path, "m.csv", 'audio,text\na.wav,x\nb.wav,"y\nc.wav,z\n'))
    assert "row 2" in fault(write(tmp_path, "m.csv", 'audio,text\na.wav,"Ciao" disse\n'))


@pytest.mark.parametrize("control", ["\x00", "\x07", "\x1b", "\x7f"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_control_characters(tmp_path: Path, control: str, ending: str) -> None:
    delimiter = tables.DELIMITERS[ending]
    content = f"audio{delimiter}text\na.wav{delimiter}a{control}b\n"
    message = fault(write(tmp_path, "m" + ending, content))
    assert "row 2, field 'text'" in message
    assert message.isprintable()


def test_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "audio,text\na.wav,x\nb.wav,perché\n".encode("latin-1"))
    message = fault(path)
    assert "row 3" in message
    assert "UTF-8" in message
    fault(write(tmp_path, "m.csv", "audio,text\n".encode("utf-16")))


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl"])
@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_empty(tmp_path: Path, name: str, content: str) -> None:
    assert "is empty" in fault(write(tmp_path, name, content))


def test_missing_folder_and_ending(tmp_path: Path) -> None:
    assert "no such file" in fault(tmp_path / "gone.csv")
    assert "is a folder" in fault(tmp_path)
    assert ".jsonl" in fault(write(tmp_path, "m.xlsx", "x"))
    fault(tmp_path / ("x" * 300 + ".csv"))


# --- properties -----------------------------------------------------------------------------------------

BLACK = st.characters(exclude_categories=("Cs", "Cc"))
ONE_LINE = st.text(BLACK, max_size=12).map(str.strip)
SECONDS = st.floats(0, 1e5).map(lambda seconds: round(seconds, 3))
RECORD = st.fixed_dictionaries(
    {
        "audio": st.from_regex(r"[a-z0-9 é/]{1,12}\.wav", fullmatch=True).map(str.strip),
        "text": st.text(BLACK | st.sampled_from("\n\t\r\"',;"), max_size=20).map(str.strip),
        "start": SECONDS,
        "length": st.floats(0.01, 30).map(lambda seconds: round(seconds, 3)),
        "language": ONE_LINE,
        "task": st.sampled_from(["", "transcribe", "translate"]),
        "speaker": ONE_LINE,
        "prompt": ONE_LINE,
    }
)


@settings(deadline=None, max_examples=60)
@given(st.lists(RECORD, min_size=1, max_size=5), st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[Any], ending: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"round_trip{ending}"
    rows = []
    for number, record in enumerate(records):
        if ending == ".tsv":
            record["text"] = re.sub(r"[\t\r\n]", " ", record["text"]).strip()
        end = round(record["start"] + record["length"], 3)
        names = ("audio", "text", "start", "language", "task", "speaker", "prompt")
        rows.append({"id": f"u{number}", **{name: record[name] for name in names}, "end": end})
    if ending == ".jsonl":
        path.write_text(json_lines(*rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            if ending == ".csv":
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            else:
                for line in (list(rows[0]), *(row.values() for row in rows)):
                    file.write("\t".join(str(value) for value in line) + "\n")
    utterances = read_manifest(path)
    assert len(utterances) == len(rows)
    for utterance, row in zip(utterances, rows, strict=True):
        assert utterance.audio == path.parent / row["audio"]
        for name in ("id", "text", "start", "end"):
            assert getattr(utterance, name) == row[name]
        for name in ("language", "task", "speaker", "prompt"):
            assert getattr(utterance, name) == (row[name] or None)


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=60) | st.text("audiotext,\t\n\r\"'{}:[]1.5\x00é", max_size=60).map(str.encode),
    st.sampled_from([".csv", ".tsv", ".jsonl"]),
    st.sampled_from([b"", b"audio,text,start\n", b"audio\ttext\n", b'{"audio": "a", "text": ']),
)
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{ending}"
    path.write_bytes(head + data)
    try:
        utterances = read_manifest(path)
    except ManifestError as caught:
        error, utterances = str(caught), []
    else:
        error = ""
    assert error.isprintable()
    assert len({utterance.id for utterance in utterances}) == len(utterances)


# --- what would fill the memory -------------------------------------------------------------------------


def endless(path: Path, beginning: bytes, unit: bytes, num_bytes: int = 300 << 20) -> Path:
    """A packed file a thousand times smaller than what it unpacks to."""
    with gzip.open(path, "wb", 9) as file:
        file.write(beginning)
        for _ in range(num_bytes >> 20):
            file.write(unit * ((1 << 20) // len(unit)))
    return path


@pytest.mark.parametrize(
    ("name", "beginning", "unit", "told"),
    [
        ("zeros.csv.gz", b"", b"\0", "row 1: a line of more than 16 MiB"),
        ("line.csv.gz", b"audio,text\n", b"a", "row 2: a line of more than 16 MiB"),
        ("line.jsonl.gz", b'{"audio": "a.wav", "text": "Ciao."}\n', b"a", "row 2: a line of more than 16 MiB"),
        ("latin.tsv.gz", b"audio\ttext\n", b"\xe8", "row 2: a line of more than 16 MiB"),
        ("blank.csv.gz", b"audio,text\n", b"\n", "unpacks to more than 100 times its size"),
        ("rows.csv.gz", b"audio,text\n", b"a.wav,Sure.\n", "unpacks to more than 100 times its size"),
    ],
)
def test_a_packed_manifest_without_end_is_refused_in_little_memory(
    tmp_path: Path, name: str, beginning: bytes, unit: bytes, told: str
) -> None:
    path = endless(tmp_path / name, beginning, unit)
    tracemalloc.start()
    try:
        message = fault(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        with pytest.raises(ManifestError, match=told):  # as `check` reads, which lists faults
            read_utterances("data", str(path), faults=[])
    finally:
        tracemalloc.stop()
    assert told in message


def test_a_line_without_end_that_is_not_packed(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", "audio,text\na.wav,")
    os.truncate(path, 4 << 30)  # as a disk leaves a file that it could not write: zeros, of which none takes room
    tracemalloc.start()
    try:
        assert "row 2: a line of more than 16 MiB" in fault(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_packed_manifest_of_many_like_rows_is_read(tmp_path: Path) -> None:
    """What speech commands look like, packed: far from what is refused."""
    rows = "".join(f"/data/corpora/speech commands/clips/{number:07}.wav,yes\n" for number in range(200_000))
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(f"audio,text\n{rows}".encode(), 9))
    assert len(rows) / path.stat().st_size < reading_of_text.MOST_EXPANSION / 2
    assert len(read_manifest(path)) == 200_000
