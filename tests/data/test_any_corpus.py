"""Whatever bytes, or whatever JSON in whatever field: rows, or an error of one bounded line; no other exception."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from whispertune.data.audio.waveforms import load_utterance, num_samples_between, probe_audio
from whispertune.data.reading import Reading, parse_columns
from whispertune.data.sources import parse_sources, read_utterances
from whispertune.data.splits_of_sources import every_split
from whispertune.errors import MOST_CHARACTERS, AudioError, ManifestError, UserError

HARD_NUMBERS = [1e308, -1e308, 1e9, 1e-320, -0.0, 0, -1, 2**53, 2**63, 10**400, float("nan"), float("inf"), True]
HARD_TEXTS = [
    "", " ", "\0", "\n", "\udc80", "\ud800", "\x1b[2J", "a\u2028b", "x" * 5_000, "../../etc/passwd", "/", ".", "..",
    "C:\\a", "a\\b.wav", "$root/a.wav", "{root}/a.wav", "hub:x", "http://x/y.wav", "1e308", "1,5", "1,234", "-1", "nan",
    "é", "e\u0301", "a.wav|", "raw.ark:12", "sox a.wav -t wav - |", "٣", "1_000", "0x10", "9" * 5_000,
]  # fmt: skip
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
HARD = st.sampled_from(HARD_NUMBERS) | st.sampled_from(HARD_TEXTS)
ANY_JSON = st.recursive(
    PLAIN | HARD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)

FLAT: dict[str, Any] = {
    "id": "a", "audio": "a.wav", "text": "Sì.", "start": 0.1, "end": 0.9, "duration": 0.8, "language": "it",
    "task": "transcribe", "speaker": "s", "prompt": "p", "channel": 0,
}  # fmt: skip
NESTED: dict[str, Any] = {
    "audio": {"path": "a.wav"}, "sentence": "Sì.", "sentences": [{"start": 0, "end": 0.5, "text": "Sì."}],
}  # fmt: skip
CUT: dict[str, Any] = {
    "id": "c", "start": 0.1, "duration": 0.5, "channel": 0, "type": "MonoCut",
    "supervisions": [{"id": "s", "start": 0.0, "duration": 0.4, "text": "Sì.", "language": "it", "channel": 0}],
    "recording": {
        "id": "r", "sources": [{"type": "file", "channels": [0, 1], "source": "a.wav"}], "channel_ids": [0, 1],
        "transforms": [{"name": "Resample"}],
    },
}  # fmt: skip
TABLES = {
    "wav.scp": "r a.wav\n", "text": "u Sì.\n", "segments": "u r 0.1 0.9 0\n", "utt2spk": "u s\n", "utt2lang": "u it\n",
}  # fmt: skip
SUBTITLES = "1\n00:00:00,100 --> 00:00:00,500\nSì.\n\n2\n00:00:00,500 --> 00:00:00,900\n<v Anna>No.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("corpus")
    soundfile.write(made / "sound.wav", np.full((1_600, 2), 0.1, np.float32), 16_000)
    return made


def reads_or_says_why(source: Path | str) -> None:
    """Rows that can be decoded, or left out, for one reason each; or one reason for the whole."""
    try:
        rows = read_utterances("train", str(source))
    except UserError as error:
        require_one_line(error)
    else:
        for row in rows:
            row.id.encode()
            try:
                samples = load_utterance(row)
            except AudioError as error:
                require_one_line(error)
            else:
                length = probe_audio(row.audio, within=row.within)
                assert len(samples) == num_samples_between(row.audio, length, row.start, row.end, within=row.within)
    # As `check` reads: what is wrong with rows is listed, and the others are there.
    faults: list[ManifestError] = []
    try:
        listed = read_utterances("train", str(source), faults=faults)
    except UserError as error:
        require_one_line(error)
    else:
        list(listed)
        for fault in faults:
            require_one_line(fault)


def require_one_line(error: UserError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) <= MOST_CHARACTERS


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


@st.composite
def damaged(draw: st.DrawFn, record: dict[str, Any]) -> dict[str, Any]:
    """A record of which up to three fields hold anything, or are gone."""
    result = copy.deepcopy(record)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(places(result)) or [("text",)]))
        inner: Any = result
        for key in way:
            inner = inner[key]
        if draw(st.integers(0, 4)):
            inner[last] = draw(ANY_JSON)
        else:
            del inner[last]
    return result


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Any bytes at all, or this content cut somewhere with some bytes put in."""
    if not draw(st.integers(0, 4)):
        return draw(st.binary(max_size=200))
    data = bytearray(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=4) | st.sampled_from([text.encode("utf-8", "surrogatepass") for text in HARD_TEXTS])
        )
    return bytes(data)


MANY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fresh(folder: Path) -> Path:
    corpus = folder / "now"
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir()
    shutil.copy(folder / "sound.wav", corpus / "a.wav")
    return corpus


@MANY
@given(st.data())
def test_any_json_in_any_field(folder: Path, data: st.DataObject) -> None:
    records = [
        data.draw(damaged(data.draw(st.sampled_from([FLAT, NESTED, CUT])))) for _ in range(data.draw(st.integers(1, 2)))
    ]
    content = "\n".join(json.dumps(record) for record in records)
    path = fresh(folder) / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    reads_or_says_why(path)


def packed(record: dict[str, Any]) -> bytes:
    """A tar of one sample."""
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in (("a.wav", b"RIFF"), ("a.json", json.dumps(record).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return file.getvalue()


@MANY
@given(damaged({name: value for name, value in FLAT.items() if name != "audio"}))
def test_any_json_in_a_tar(folder: Path, record: dict[str, Any]) -> None:
    path = fresh(folder) / "rows.tar"
    path.write_bytes(packed(record))
    reads_or_says_why(path)


@MANY
@given(st.data())
def test_any_value_in_any_column(folder: Path, data: st.DataObject) -> None:
    delimiter = data.draw(st.sampled_from([",", ";", "\t"]))
    lines = [delimiter.join(FLAT)]
    for _ in range(data.draw(st.integers(1, 3))):
        row = {**FLAT, data.draw(st.sampled_from(list(FLAT))): data.draw(PLAIN | HARD)}
        lines.append(delimiter.join(str(value) for value in row.values()))
    path = fresh(folder) / data.draw(st.sampled_from(["rows.csv", "rows.tsv"]))
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    reads_or_says_why(path)


EAF = b"""<ANNOTATION_DOCUMENT><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="100"/>
<TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="900"/></TIME_ORDER><TIER TIER_ID="t"><ANNOTATION>
<ALIGNABLE_ANNOTATION ANNOTATION_ID="x" TIME_SLOT_REF1="a" TIME_SLOT_REF2="b"><ANNOTATION_VALUE>S</ANNOTATION_VALUE>
</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""

FILES: dict[str, dict[str, bytes]] = {
    "csv": {"rows.csv": b"id,audio,text,end,channel\na,a.wav,\"S\xc3\xac, no.\",0.9,0\nb,a.wav,x,,\n"},
    "csv of a spreadsheet": {"rows.csv": b"sep=;\r\naudio;text;end\r\na.wav;\"S;\";0,5\r\n"},
    "tsv": {"rows.tsv": b"path\tsentence\na.wav\tS\xc3\xac.\n"},
    "packed": {"rows.csv.gz": b"\x1f\x8b\x08\x00audio,text\n"},
    "json lines": {"rows.jsonl": json.dumps(FLAT).encode() + b"\n" + json.dumps(NESTED).encode()},
    "cuts": {"rows.jsonl": json.dumps(CUT).encode()},
    "kaldi": {name: content.encode() for name, content in TABLES.items()},
    "librispeech": {"x.trans.txt": b"a S\xc3\xac.\n"},
    "subtitles": {"a.srt": SUBTITLES.encode()},
    "web subtitles": {"a.vtt": b"WEBVTT\n\nNOTE x\n\n" + SUBTITLES.replace(",", ".").encode()},
    "text": {"a.txt": b"S\xc3\xac.\n"},
    "labels": {"a.txt": b"0.1\t0.5\tS\xc3\xac.\n0.5\t0.9\tNo.\n"},
    "textgrid": {"a.TextGrid": b'"ooTextFile"\n"TextGrid"\n0 1\n<exists>\n1\n"IntervalTier" "a" 0 1 1\n0.1 0.9 "S"\n'},
    "eaf": {"a.eaf": EAF},
    "audiofolder": {"metadata.csv": b"file_name,text\na.wav,S\xc3\xac.\n"},
    "tar": {"rows.tar": packed(FLAT)},
    "saved data set": {
        "state.json": json.dumps({"_data_files": [{"filename": "data.arrow"}]}).encode(),
        "data.arrow": b"\xff\xff\xff\xff\0\0",
    },
    "saved splits": {"dataset_dict.json": json.dumps({"splits": ["train"]}).encode()},
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
@settings(MANY, max_examples=15)
@given(st.data())
def test_any_bytes_in_any_file(folder: Path, kind: str, data: st.DataObject) -> None:
    corpus = fresh(folder)
    contents = FILES[kind]
    chosen = data.draw(st.sampled_from(list(contents)))
    for name, content in contents.items():
        (corpus / name).write_bytes(data.draw(damaged_bytes(content)) if name == chosen else content)
    alone = [name for name in contents if name.startswith("rows.")]
    reads_or_says_why(corpus / alone[0] if alone else corpus)


@MANY
@given(
    st.lists(
        st.sampled_from([*"[]=+;,{} .", "hub:", "split", "first", "weight", "columns", "a.csv", "{0..9}", *HARD_TEXTS])
    ).map("".join),
    st.sampled_from(["train", "data"]),
)
def test_any_words_as_sources(described: str, part: str) -> None:
    assume("://" not in described)  # nothing is asked of the network
    for read in (
        lambda: parse_sources(described),
        lambda: None if "hub:" in described else read_utterances(part, described),
        lambda: None if "hub:" in described else every_split(described),
        lambda: parse_columns(described),
        lambda: Reading(audio_root=described).base("."),
    ):
        try:
            read()  # type: ignore[no-untyped-call]
        except UserError as error:
            require_one_line(error)


def test_a_folder_that_vanishes_while_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the folders of processes do in /proc: the others are read."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / f"{name}.wav", np.zeros(16_000, np.float32), 16_000)
        (tmp_path / name / f"{name}.txt").write_text("parole", encoding="utf-8")
    real = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "two":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        found = read_utterances("train", str(tmp_path))
    assert [row.text for row in found] == ["parole"]
