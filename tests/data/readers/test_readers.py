"""Every format, as its own library or its documentation has it, reads to the same utterances; its faults are told."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.data import index
from whispertune.data.audio.waveforms import load_utterance, load_waveform
from whispertune.data.readers.subtitles import read_cues
from whispertune.data.readers.tar_shards import expand_shards
from whispertune.data.reading import Reading
from whispertune.data.segments import merge_segments
from whispertune.data.sources import Source, parse_sources, read_utterances, require_sources
from whispertune.data.splits_of_sources import as_data, every_split
from whispertune.data.utterances import Utterance, Utterances
from whispertune.errors import ManifestError

RATE = 16_000
TEXTS = {"103-1240-0000": "Il numero chiamato.", "103-1240-0001": "Prego, attendere in linea.", "104-9-0000": "È sì!"}


def waveform(name: str, seconds: float = 1.0) -> np.ndarray:
    seed = int.from_bytes(name.encode(), "little") % 2**32
    return np.random.default_rng(seed).integers(-9_000, 9_000, round(seconds * RATE)).astype(np.int16)


def audio_file(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform(name), RATE)
    return path


# One builder a format: makes the corpus of TEXTS in a folder and returns what the user would give.


def common_voice(folder: Path) -> str:
    """As in a release: client_id, path, sentence_id, sentence, votes, …, locale."""
    header = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale"
    lines = ["\t".join([*header.split(), "segment"])]
    for name, text in TEXTS.items():
        audio_file(folder / "it" / "clips" / f"{name}.flac", name)
        lines.append("\t".join(["c" + name[:3], f"{name}.flac", "s", text, "", "2", "0", "", "", "", "", "it", ""]))
    (folder / "it" / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "it" / "dev.tsv").write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    return str(folder / "it")


def librispeech(folder: Path) -> str:
    for name, text in TEXTS.items():
        speaker, chapter, _ = name.split("-")
        audio = audio_file(folder / "train-clean" / speaker / chapter / f"{name}.flac", name)
        with (audio.parent / f"{speaker}-{chapter}.trans.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name} {text}\n")
    return str(folder)


def audiofolder(folder: Path) -> str:
    for split in ("train", "validation"):
        rows = [{"file_name": f"{name}.wav", "transcription": text} for name, text in TEXTS.items()]
        for name in TEXTS:
            audio_file(folder / split / f"{name}.wav", name)
        lines = [json.dumps(row) for row in rows[: 3 if split == "train" else 1]]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def audiofolder_with_one_table(folder: Path) -> str:
    lines = ["file_name,text"]
    for split in ("train", "test"):
        for name, text in TEXTS.items():
            audio_file(folder / split / f"{name}.wav", name)
            lines.append(f'{split}/{name}.wav,"{text}"')
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def kaldi(folder: Path) -> str:
    names = sorted(TEXTS)
    for name in names:
        audio_file(folder / "wavs" / f"{name}.wav", name)
    tables = {
        "wav.scp": {name: f"wavs/{name}.wav" for name in names},
        "text": {name: TEXTS[name] for name in names},
        "utt2spk": {name: name[:3] for name in names},
    }
    for table, rows in tables.items():
        (folder / table).write_text("".join(f"{k} {v}\n" for k, v in rows.items()), encoding="utf-8")
    return str(folder)


def kaldi_segments(folder: Path) -> str:
    names = sorted(TEXTS)
    soundfile.write(folder / "long.wav", np.concatenate([waveform(name) for name in names]), RATE)
    (folder / "wav.scp").write_text("call-1 long.wav\n", encoding="utf-8")
    lines = [f"{name} call-1 {n}.00 {n + 1}.00\n" for n, name in enumerate(names)]
    (folder / "segments").write_text("".join(lines), encoding="utf-8")
    (folder / "text").write_text("".join(f"{name} {TEXTS[name]}\n" for name in names), encoding="utf-8")
    return str(folder)


def nemo(folder: Path) -> str:
    rows = [
        {"audio_filepath": audio_file(folder / f"{name}.wav", name).name, "duration": 1.0, "text": text}
        for name, text in TEXTS.items()
    ]
    (folder / "manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / "manifest.json")


def lhotse_cuts(folder: Path) -> str:
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed")
    names = list(TEXTS)
    soundfile.write(folder / "long.wav", np.concatenate([waveform(name) for name in names]), RATE)
    recording = lhotse.Recording.from_file(folder / "long.wav", recording_id="long")
    cuts = [
        lhotse.MonoCut(
            id=f"cut-{name}", start=float(n), duration=1.0, channel=0, recording=recording,
            supervisions=[
                lhotse.SupervisionSegment(
                    id=name, recording_id="long", start=0.0, duration=1.0, text=TEXTS[name], speaker=name[:3]
                )
            ],
        )
        for n, name in enumerate(names)
    ]  # fmt: skip
    lhotse.CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return str(folder / "cuts.jsonl.gz")


def subtitles(ending: str) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        names = list(TEXTS)
        soundfile.write(folder / "talk.wav", np.concatenate([waveform(name) for name in names]), RATE)
        point = "," if ending == "srt" else "."
        blocks = [] if ending == "srt" else ["WEBVTT - a talk", "NOTE\nnot said", "STYLE\n::cue { color: red }"]
        for n, name in enumerate(names):
            times = f"00:00:0{n}{point}000 --> 00:00:0{n + 1}{point}000"
            said = TEXTS[name].replace(" ", "\n", 1)
            blocks.append(f"{n + 1}\n{times}{' align:start' if ending == 'vtt' else ''}\n<i>{said}</i>")
        (folder / f"talk.it.{ending}").write_text("\r\n\r\n".join(blocks) + "\n", encoding="utf-8", newline="")
        return str(folder)

    return build


def text_beside(folder: Path) -> str:
    for name, text in TEXTS.items():
        audio_file(folder / "deep" / f"{name}.flac", name)
        (folder / "deep" / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    return str(folder)


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def flac(name: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform(name), RATE, format="FLAC")
    return buffer.getvalue()


def shards(folder: Path) -> str:
    """WebDataset: files of a sample side by side, named alike up to the first dot."""
    for number, (name, text) in enumerate(TEXTS.items()):
        with tarfile.open(folder / f"shard-00{number}.tar", "w") as tar:
            add_member(tar, f"it/{name}.flac", flac(name))
            if number == 0:
                add_member(tar, f"it/{name}.json", json.dumps({"text": text, "speaker": name[:3]}).encode())
            else:
                add_member(tar, f"it/{name}.txt", text.encode())
            add_member(tar, f"it/{name}.cls", b"7")
    return str(folder / "shard-{000..002}.tar")


def audio_table(names: list[str]) -> Any:
    """Audio as `datasets` stores it: a column of {bytes, path}."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `datasets` is not installed")
    audio = [{"bytes": flac(name), "path": f"{name}.flac"} for name in names]
    return pyarrow.table({"audio": audio, "sentence": [TEXTS[name] for name in names]})


def saved_data_set(folder: Path) -> str:
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    audio = datasets.Audio(decode=False)
    parts = {"train": list(TEXTS), "test": list(TEXTS)[:1]}
    splits = {}
    for split, names in parts.items():  # a fingerprint given: making one fails with some versions of dill and pyarrow
        splits[split] = datasets.Dataset(audio_table(names), fingerprint=split).cast_column("audio", audio)
    datasets.DatasetDict(splits).save_to_disk(folder / "saved")
    return str(folder / "saved")


FORMATS: dict[str, Callable[[Path], str]] = {
    "common voice": common_voice,
    "librispeech": librispeech,
    "audiofolder": audiofolder,
    "audiofolder, one table": audiofolder_with_one_table,
    "kaldi": kaldi,
    "kaldi segments": kaldi_segments,
    "nemo": nemo,
    "lhotse": lhotse_cuts,
    "srt": subtitles("srt"),
    "vtt": subtitles("vtt"),
    "text beside": text_beside,
    "shards": shards,
    "saved data set": saved_data_set,
}


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_read_to_the_same_utterances(tmp_path: Path, name: str) -> None:
    found = read_utterances("train", FORMATS[name](tmp_path))
    assert [utterance.text for utterance in found] == list(TEXTS.values())
    assert len({utterance.id for utterance in found}) == 3
    assert len(found.fingerprint) == 64
    for utterance, key in zip(found, TEXTS, strict=True):
        heard = load_utterance(utterance)
        np.testing.assert_array_equal(heard, waveform(key).astype(np.float32) / 32_768)
        if name in ("common voice", "srt", "vtt"):
            assert utterance.language == "it"
        if name in ("librispeech", "lhotse", "kaldi"):
            assert utterance.speaker == key[:3]


@pytest.mark.parametrize("name", ["common voice", "audiofolder", "audiofolder, one table", "saved data set"])
def test_splits(tmp_path: Path, name: str) -> None:
    """dev, validation and test by the names others give them; one that is missing is told with those there are."""
    where = FORMATS[name](tmp_path)
    other = "test" if name in ("audiofolder, one table", "saved data set") else "valid"
    assert len(read_utterances(other, where)) == (3 if name == "audiofolder, one table" else 1)
    assert len(read_utterances("valid", f"{where} [split=train]")) == 3
    missing = "valid" if other == "test" else "test"
    with pytest.raises(ManifestError, match=rf"it has no '{missing}' split; it has .*train.*: choose one as in"):
        read_utterances(missing, where)
    with pytest.raises(ManifestError, match="it has several splits"):
        read_utterances("data", where)


@pytest.mark.parametrize("name", FORMATS)
def test_a_source_that_says_its_split_reads_the_same_without_its_part(tmp_path: Path, name: str) -> None:
    """As the commands do that are printed at the end of a run."""
    where = FORMATS[name](tmp_path)
    expected = list(read_utterances("train", where))
    assert list(read_utterances("data", as_data(where, "train"))) == expected
    found = read_utterances("data", as_data(f"{where} [language=fr weight=2]", "train"))
    assert [(row.id, row.weight) for row in found] == [(row.id, 1.0) for row in expected]
    assert {row.language for row in found} <= {"it", "fr"}
    splits = every_split(where)
    if name in ("common voice", "audiofolder", "audiofolder, one table", "saved data set"):
        assert [part for part, _ in splits] == ["train", "test" if name.endswith(("table", "set")) else "valid"]
        assert list(read_utterances("data", splits[0][1])) == expected
    else:
        assert splits == []


def test_only_the_splits_of_common_voice_are_offered(tmp_path: Path) -> None:
    where = Path(common_voice(tmp_path))
    (where / "clip_durations.tsv").write_text("clip\tduration[ms]\na.mp3\t1000\n", encoding="utf-8")
    (where / "reported.tsv").write_text("sentence_id\tsentence\tlocale\treason\n", encoding="utf-8")
    (where / "validated.tsv").write_text("path\tsentence\n", encoding="utf-8")
    (where / "mine.tsv").write_text("path\tsentence\na.mp3\tSì.\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="it has dev, mine, train, validated: choose one as in"):
        read_utterances("data", str(where))
    assert every_split(str(where)) == [("train", f"{where} [split=train]"), ("valid", f"{where} [split=dev]")]
    (where / "train.tsv").unlink()
    (where / "dev.tsv").unlink()
    assert every_split(str(where)) == [("", f"{where} [split=mine]"), ("", f"{where} [split=validated]")]


WITHOUT_SPLITS = ["kaldi", "nemo", "lhotse", "srt", "text beside", "shards"]


@pytest.mark.parametrize("name", WITHOUT_SPLITS)
def test_a_split_is_not_asked_of_a_corpus_without(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FEWEST_ROWS", 1)
    where = FORMATS[name](tmp_path)
    with pytest.raises(
        ManifestError, match=r"\[split=dev\]: there are no splits .*; give the file or folder that holds"
    ):
        read_utterances("train", f"{where} [split=dev]")
    if name == "kaldi":
        (tmp_path / "dev").mkdir()
        with pytest.raises(ManifestError, match=r"; give .*/dev without \[split=…\]"):
            read_utterances("train", f"{where} [split=dev]")


def test_a_split_of_a_part_of_a_corpus(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there are no splits"):
        read_utterances("train", f"{audiofolder(tmp_path)}/train [split=validation]")
    where = saved_data_set(tmp_path)
    with pytest.raises(ManifestError, match="there are no splits"):
        read_utterances("train", f"{where}/train [split=test]")


def test_a_split_of_librispeech_is_a_folder(tmp_path: Path) -> None:
    where = librispeech(tmp_path)
    shutil.copytree(tmp_path / "train-clean" / "104", tmp_path / "dev-clean" / "104")
    assert [u.text for u in read_utterances("train", f"{where} [split=dev-clean]")] == [TEXTS["104-9-0000"]]
    with pytest.raises(ManifestError, match=r"/dev: no such folder with \*\.trans\.txt in it; \[split=…\] is the name"):
        read_utterances("train", f"{where} [split=dev]")


def test_a_hub_data_set_from_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_dataset` reads local Parquet files as it would those of the Hub."""
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ours"))
    where = tmp_path / "corpus"
    (where / "data").mkdir(parents=True)
    for split, names in {"train": list(TEXTS), "validation": list(TEXTS)[:1]}.items():
        parquet.write_table(audio_table(names), where / "data" / f"{split}-00000-of-00001.parquet")
    for described, count in ((f"hub:{where}", 3), (f"hub:{where}::validation", 1), (f"hub:{where} [first=2]", 2)):
        for _ in range(2):  # the second time from the cache
            found = read_utterances("train", described)
            assert [utterance.text for utterance in found] == list(TEXTS.values())[:count]
            for utterance, key in zip(found, TEXTS, strict=False):
                np.testing.assert_array_equal(load_utterance(utterance), waveform(key).astype(np.float32) / 32_768)
    with pytest.raises(ManifestError, match="cannot be loaded"):
        read_utterances("train", f"hub:{tmp_path / 'absent'}")
    with pytest.raises(ManifestError, match=r"already names the split validation; remove one of the two"):
        read_utterances("train", f"hub:{where}::validation [split=train]")
    assert len(read_utterances("train", f"hub:{where} [split=validation]")) == 1


@pytest.mark.parametrize(
    ("given", "made"),
    [([7, 7, 8], ["7", "7-2", "8"]), (["a", "a-3", "a"], ["a", "a-3", "a-3-3"]), (["a", None, ""], None)],
)
def test_ids_that_repeat_get_their_rows_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[Any], made: list[str] | None
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ours"))
    table = audio_table(list(TEXTS)).append_column("id", [given])
    (tmp_path / "corpus").mkdir()
    parquet.write_table(table, tmp_path / "corpus" / "train.parquet")
    audio = datasets.Audio(decode=False)
    datasets.Dataset(table, fingerprint="a").cast_column("audio", audio).save_to_disk(tmp_path / "saved", num_shards=2)
    names = list(TEXTS)
    for where in (f"hub:{tmp_path}/corpus", f"hub:{tmp_path}/corpus [first=3]", f"{tmp_path}/saved"):
        found = [utterance.id for utterance in read_utterances("train", where)]
        assert found == (made or ["a", f"2-{names[1]}.flac", f"3-{names[2]}.flac"])


# The same with a fault: one line that says where, and what to do.


def broken(where: str, path: str, change: Callable[[str], str]) -> str:
    file = Path(path)
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        read_utterances("train", where)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(file) in message
    assert "; " in message
    return message


def test_broken_text_formats(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(9)]
    for folder in folders:
        folder.mkdir()
    where = common_voice(folders[0])
    assert "no text column" in broken(where, f"{where}/train.tsv", lambda s: s.replace("sentence\t", "satz\t"))
    where = librispeech(folders[1])
    path = f"{where}/train-clean/103/1240/103-1240.trans.txt"
    assert "row 3, field 'id': no recording 999" in broken(where, path, lambda s: s + "999 ABC\n")
    where = audiofolder(folders[2])
    path = f"{where}/train/metadata.jsonl"
    assert "row 2: " in broken(where, path, lambda s: s.replace("\n", "\n{", 1))
    where = kaldi(folders[3])
    message = broken(where, f"{where}/wav.scp", lambda s: s.replace("wavs/104-9-0000.wav", "sox a.sph -t wav - |"))
    assert "row 3, field 'audio': 'sox a.sph -t wav - |' is a command" in message
    message = broken(where, f"{where}/wav.scp", lambda s: s.replace("sox a.sph -t wav - |", "raw.ark:1234"))
    assert "is not an audio file; unpack it" in message
    where = kaldi_segments(folders[4])
    message = broken(where, f"{where}/text", lambda s: s + "new-utterance Sì.\n")
    assert "row 4, field 'id': 'new-utterance' is not in segments" in message
    where = kaldi_segments(folders[5])
    message = broken(where, f"{where}/segments", lambda s: s.replace("1.00 2.00", "1.00"))
    assert "row 2, field 'start'" in message
    message = broken(where, f"{where}/segments", lambda s: s.replace("0.00 1.00", "0.00 1.00 A"))
    assert "row 1, field 'channel': 'A' is not a channel; give its number, from 0" in message
    where = subtitles("srt")(folders[6])
    path = f"{where}/talk.it.srt"
    assert "field 'start': '00:0x:01,000 -->" in broken(
        where, path, lambda s: s.replace("00:00:01,000 ", "00:0x:01,000 ")
    )
    where = subtitles("vtt")(folders[7])
    path = f"{where}/talk.it.vtt"
    message = broken(where, path, lambda s: s.replace("00:00:03.000", "00:00:01.000"))
    assert "field 'end': the end, 1 s, is not after the start, 2 s" in message
    where = text_beside(folders[8])
    (Path(where) / "deep" / "104-9-0000.txt").unlink()
    with pytest.raises(ManifestError, match=r"104-9-0000\.flac: no transcript beside it; write 104-9-0000\.txt"):
        read_utterances("train", where)


def test_a_kaldi_segment_takes_its_own_channel(tmp_path: Path) -> None:
    where = kaldi_segments(tmp_path)
    names = sorted(TEXTS)
    sides = [np.concatenate([waveform(side + name) for name in names]) for side in ("a", "b")]
    soundfile.write(tmp_path / "long.wav", np.stack(sides, axis=1), RATE)
    channels = {names[0]: " 1", names[1]: " 0", names[2]: ""}
    lines = [f"{name} call-1 {n}.00 {n + 1}.00{channels[name]}\n" for n, name in enumerate(names)]
    (tmp_path / "segments").write_text("".join(lines), encoding="utf-8")
    first, second, third = read_utterances("train", where)
    assert (first.channel, second.channel, third.channel) == (1, 0, None)
    for row, side in ((first, "b"), (second, "a")):
        np.testing.assert_array_equal(load_utterance(row), waveform(side + row.id).astype(np.float32) / 32_768)


def cut_with(**changes: object) -> dict[str, object]:
    source = {"type": "file", "channels": [0], "source": "a.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": RATE, "num_samples": RATE, "duration": 1.0}
    supervision = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 1.0, "text": "Sì."}
    cut: dict[str, object] = {"id": "c", "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut"}
    return cut | {"supervisions": [supervision], "recording": recording} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": "MixedCut"}, "field 'type': a MixedCut is not a span of a recording"),
        ({"recording": None}, "write the cuts with their recordings"),
        ({"recording": {"sources": [{"type": "command", "source": "rm -rf /"}]}}, "no command is ever run"),
        ({"recording": {"sources": [{"type": "file", "source": "a"}], "transforms": [{"name": "Speed"}]}}, "by Speed"),
        ({"start": "soon"}, "field 'start': 'soon' is not a number"),
        ({"supervisions": 3}, "field 'supervisions'"),
        ({"type": ["MonoCut"]}, "field 'type': a ['MonoCut'] is not a span"),
        ({"start": 1e308}, "field 'start': 1e+308 is not a number of seconds"),
        ({"supervisions": [{"id": "s", "text": "Sì.", "duration": 1e308}]}, "field 'duration': 1e+308 is longer than"),
        ({"recording": {"sources": [{"type": "file", "source": 5}]}}, "its source, 5, is not a path"),
        ({"recording": {"sources": [{"type": "file", "source": "a"}], "transforms": 5}}, "its transforms, 5, are no"),
        ({"recording": {"sources": [{"type": "file", "source": "a"}], "channel_ids": 5}}, "its channels, 5, are no"),
    ],
)
def test_broken_cuts(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(cut_with()) + "\n" + json.dumps(cut_with(**changes))).encode()))
    with pytest.raises(ManifestError, match="row 2, ") as caught:
        read_utterances("train", str(path))
    assert said in str(caught.value)


def test_a_cut_takes_its_own_channel(tmp_path: Path) -> None:
    left, right = waveform("left"), waveform("right")
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE)
    source = {"type": "file", "channels": [0, 1], "source": "a.wav"}
    recording = {"id": "r", "sources": [source], "channel_ids": [0, 1]}
    lines = []
    for channel in (0, 1):
        spoken = {"id": f"s{channel}", "start": 0.25, "duration": 0.5, "text": "Sì.", "channel": channel}
        lines.append(json.dumps(cut_with(recording=recording, supervisions=[spoken], id=f"c{channel}")))
    (tmp_path / "cuts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for utterance, side in zip(read_utterances("train", str(tmp_path / "cuts.jsonl")), (left, right), strict=True):
        np.testing.assert_array_equal(load_utterance(utterance), side[4_000:12_000].astype(np.float32) / 32_768)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("/etc/passwd.wav", tarfile.REGTYPE, "points outside"),
        ("a/../../b.wav", tarfile.REGTYPE, "points outside"),
        ("b.wav", tarfile.SYMTYPE, "not a plain file"),
        ("b.wav", tarfile.LNKTYPE, "not a plain file"),
        ("b.wav", tarfile.FIFOTYPE, "not a plain file"),
        ("b.wav", tarfile.REGTYPE, "a recording without text"),
        ("b.txt", tarfile.REGTYPE, "a text without a recording"),
    ],
)
def test_members_of_a_tar_that_are_refused(tmp_path: Path, name: str, kind: bytes, said: str) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        add_member(tar, "a.flac", flac("a"))
        add_member(tar, "a.txt", b"ciao")
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ManifestError, match=rf"s\.tar, row 3, field .*{said}"):
        read_utterances("train", str(tmp_path / "s.tar"))


def test_packed_and_cut_tars(tmp_path: Path) -> None:
    shards(tmp_path)
    whole = (tmp_path / "shard-000.tar").read_bytes()
    (tmp_path / "packed.tar").write_bytes(gzip.compress(whole))
    (tmp_path / "cut.tar").write_bytes(whole[:2_000])
    with pytest.raises(ManifestError, match="gunzip it"):
        read_utterances("train", str(tmp_path / "packed.tar"))
    with pytest.raises(ManifestError, match=r"cut\.tar"):
        read_utterances("train", str(tmp_path / "cut.tar"))


def test_headers_of_long_names_without_end(tmp_path: Path) -> None:
    """Each is read within the one before it."""
    with tarfile.open(tmp_path / "names.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add_member(tar, "x" * 101, b"")
    header = (tmp_path / "names.tar").read_bytes()[:1024]
    (tmp_path / "deep.tar").write_bytes(header * 3_000)
    with pytest.raises(ManifestError, match=r"deep\.tar: its headers are nested too deeply; make the tar again"):
        read_utterances("train", str(tmp_path / "deep.tar"))


def test_ranges_of_shards_are_bounded_together() -> None:
    assert [str(path) for path in expand_shards("a-{08..10}-{0..1}.tar")] == [
        f"a-{a}-{b}.tar" for a in ("08", "09", "10") for b in (0, 1)
    ]
    for pattern, said in (
        ("a-{0..99999}-{0..9}.tar", "means 1,000,000 shards"),
        ("a-" + "{0..9}" * 60 + ".tar", "means 1,000,000,"),
        ("a-{3..1}.tar", "{3..1} is not a range of shards"),
    ):
        with pytest.raises(ManifestError) as caught:
            expand_shards(pattern)
        assert said in str(caught.value)


# Recordings in another folder than what is said in them, and subtitles alone.


@pytest.mark.parametrize("ending", ["srt", "vtt"])
def test_subtitles_alone(tmp_path: Path, ending: str) -> None:
    subtitles(ending)(tmp_path)
    expected = list(read_utterances("train", str(tmp_path)))
    path = tmp_path / f"talk.it.{ending}"
    assert list(read_utterances("train", str(path))) == expected
    assert expected[0].language == "it"
    (tmp_path / "sounds").mkdir()
    (tmp_path / "talk.wav").rename(tmp_path / "sounds" / "talk.wav")
    with pytest.raises(ManifestError, match=r"talk\.it\.\w+: no recording of that name in .*; .* --audio_root DIR"):
        read_utterances("train", str(path))
    elsewhere = Reading(audio_root=str(tmp_path / "sounds"))
    for source in (path, tmp_path):
        found = read_utterances("train", str(source), elsewhere)
        assert [row.text for row in found] == list(TEXTS.values())
        assert {row.audio for row in found} == {tmp_path / "sounds" / "talk.wav"}
    (tmp_path / "sounds" / "talk.mp3").touch()
    with pytest.raises(ManifestError, match=r"several recordings of that name \(talk\.mp3, talk\.wav\)"):
        read_utterances("train", str(path), elsewhere)


@pytest.mark.parametrize("name", ["common voice", "librispeech", "kaldi segments", "nemo", "lhotse", "text beside"])
def test_recordings_in_another_folder(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    where = FORMATS[name](tmp_path / "texts")
    for path in sorted((tmp_path / "texts").rglob("*")):
        if path.suffix in (".wav", ".flac"):
            inside = path.relative_to(where if Path(where).is_dir() else Path(where).parent)
            inside = Path(*[part for part in inside.parts if part != "clips"])
            (tmp_path / "sounds" / inside).parent.mkdir(parents=True, exist_ok=True)
            path.rename(tmp_path / "sounds" / inside)
    if name == "lhotse":  # it holds the absolute path
        content = gzip.decompress(Path(where).read_bytes()).decode().replace(f"{tmp_path}/texts/", "")
        Path(where).write_bytes(gzip.compress(content.encode()))
    found = read_utterances("train", where, Reading(audio_root="sounds"))
    assert [utterance.text for utterance in found] == list(TEXTS.values())
    for utterance, key in zip(found, TEXTS, strict=True):
        np.testing.assert_array_equal(load_utterance(utterance), waveform(key).astype(np.float32) / 32_768)


def test_options_that_a_format_has_no_use_for_are_refused(tmp_path: Path) -> None:
    for name in ("librispeech", "kaldi", "lhotse", "srt", "text beside"):
        (tmp_path / name).mkdir()
        with pytest.raises(ManifestError, match="columns text=t is given, but this format has no columns"):
            read_utterances("train", FORMATS[name](tmp_path / name), Reading((("text", "t"),)))
    with pytest.raises(ManifestError, match="this format contains its recordings"):
        read_utterances("train", shards(tmp_path), Reading(audio_root=str(tmp_path)))


def test_columns_of_a_saved_data_set(tmp_path: Path) -> None:
    where = saved_data_set(tmp_path)
    datasets = pytest.importorskip("datasets")
    renamed = datasets.load_from_disk(where).rename_column("sentence", "satz").rename_column("audio", "ton")
    renamed.save_to_disk(tmp_path / "renamed")
    named = Reading((("text", "satz"), ("audio", "ton")))
    assert [row.text for row in read_utterances("train", str(tmp_path / "renamed"), named)] == list(TEXTS.values())
    with pytest.raises(ManifestError, match="no audio column among 'ton', 'satz'"):
        read_utterances("train", str(tmp_path / "renamed"))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """As an archive from Windows leaves them: read, decoded, and with ids that can be written down."""
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    audio_file(tmp_path / "a.wav", "a").rename(tmp_path / f"{name}.wav")
    (tmp_path / f"{name}.txt").write_text("Un caffè.", encoding="utf-8")
    (row,) = read_utterances("train", str(tmp_path))
    np.testing.assert_array_equal(load_utterance(row), waveform("a").astype(np.float32) / 32_768)
    assert row.id == "caf\\udce9.wav"
    (tmp_path / f"{name}.txt").rename(tmp_path / f"{name}.srt")
    (tmp_path / f"{name}.srt").write_text("1\n00:00:00,000 --> 00:00:00,500\nUn.\n", encoding="utf-8")
    for source in (tmp_path, tmp_path / f"{name}.srt"):
        (row,) = read_utterances("train", str(source))
        assert len(load_utterance(row)) == RATE // 2
        row.id.encode()


@pytest.mark.parametrize("there", ["NFC", "NFD"])
def test_transcripts_in_another_spelling_than_their_recordings(tmp_path: Path, there: Literal["NFC", "NFD"]) -> None:
    other: Literal["NFC", "NFD"] = "NFD" if there == "NFC" else "NFC"
    audio_file(tmp_path / unicodedata.normalize(there, "perché.wav"), "a")
    (tmp_path / unicodedata.normalize(other, "perché.txt")).write_text("Perché?", encoding="utf-8")
    (tmp_path / "wav.scp").write_text(unicodedata.normalize(other, "a perché.wav\n"), encoding="utf-8")
    (tmp_path / "text").write_text("a Perché?\n", encoding="utf-8")
    (row,) = read_utterances("train", str(tmp_path))  # as Kaldi has it
    assert row.audio.exists()
    (tmp_path / "wav.scp").unlink()
    (row,) = read_utterances("train", str(tmp_path))
    assert (row.text, row.audio.exists()) == ("Perché?", True)


# Several sources.


def test_sources_are_parsed() -> None:
    found = parse_sources("cv/it [split=dev] + a+b.csv [language=it weight=2.5] + hub:x/y [first=9]")
    assert found == [
        Source("cv/it", split="dev"), Source("a+b.csv", language="it", weight=2.5), Source("hub:x/y", first=9)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ("a.csv + ", "a source is empty"),
        ("a.csv [speed=2]", "unknown option 'speed'"),
        ("a.csv [weight=0]", "weight is 0"),
        ("a.csv [weight=nan]", "weight is nan"),
        ("a.csv [language=]", "language has no value"),
        ("a.csv [first=3]", "first is for hub: data sets"),
    ],
)
def test_sources_that_are_refused(described: str, said: str) -> None:
    with pytest.raises(ManifestError, match="; ") as caught:
        parse_sources(described)
    assert said in str(caught.value)


def test_joined_sources(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"id,audio,text,language\n1,{name}.wav,x,\n2,c.wav,y,fr\n")
    described = f"{tmp_path}/a.csv [language=it weight=2] + {tmp_path}/b.csv"
    found = read_utterances("train", described)
    assert [(u.id, u.language, u.weight) for u in found] == [
        ("a.csv/1", "it", 2.0), ("a.csv/2", "fr", 2.0), ("b.csv/1", None, 1.0), ("b.csv/2", "fr", 1.0)
    ]  # fmt: skip
    with pytest.raises(ManifestError, match="a weight only applies to --train"):
        require_sources("valid", described)
    with pytest.raises(ManifestError, match=r"--train .*absent\.csv: no such file"):
        require_sources("train", f"{described} + {tmp_path}/absent.csv")


def test_unknown_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="without a corpus of a supported format"):
        read_utterances("train", str(tmp_path))


# Segments.


def segment(start: float, end: float, text: str, audio: str = "a.wav") -> Utterance:
    return Utterance(id=f"{audio}{start}", audio=Path(audio), text=text, start=start, end=end)


def spoken(row: Utterance) -> bool:
    return bool(row.text)


def test_neighbours_are_joined_up_to_the_length_asked_for() -> None:
    rows = [
        segment(0, 4, "a"),
        segment(4.5, 9, "b"),
        segment(9, 12, "c"),
        segment(15, 16, "d"),
        segment(16, 17, "e", "b"),
    ]
    found = merge_segments(Utterances(rows), 10.0, spoken)
    assert [(u.id, u.start, u.end, u.text) for u in found] == [
        ("a.wav0+1", 0, 9, "a b"), ("a.wav9", 9, 12, "c"), ("a.wav15", 15, 16, "d"), ("b16", 16, 17, "e")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other", [{"task": "translate"}, {"language": "fr"}, {"channel": 1}, {"within": (0, 9)}, {"weight": 2.0}]
)
def test_only_what_is_alike_is_joined(other: dict[str, Any]) -> None:
    """One target has one language and one task; one waveform is one channel of one recording."""
    first, second = segment(0, 4, "a"), segment(4.5, 9, "b")
    assert len(merge_segments(Utterances([first, second]), 10.0, spoken)) == 1
    assert len(merge_segments(Utterances([first, replace(second, **other)]), 10.0, spoken)) == 2


def test_no_more_is_joined_than_can_be_used() -> None:
    """As with the tokens of a dense script: what would be too much goes on its own, with what follows it."""
    rows = [segment(n, n + 1, text) for n, text in enumerate(["abcd", "", "efgh", "ijkl", "mnop", "toolong" * 3, "q"])]
    found = merge_segments(Utterances(rows), 30.0, lambda row: len(row.text) <= 9)
    assert [u.text for u in found] == ["abcd efgh", "ijkl mnop", "toolong" * 3, "q"]


def test_half_of_a_short_pause_before_belongs_to_what_is_joined() -> None:
    rows = [segment(1, 4, "a"), segment(5, 9.5, "b"), segment(10.5, 11.2, "c"), segment(12, 15, "d")]
    rows += [segment(16.5, 21, "e"), segment(21, 26.2, "f"), segment(29, 30, "g"), segment(30, 31, "h")]
    found = list(merge_segments(Utterances(rows), 10.0, spoken))
    # "c d" has 0.5 s of the pause of 1 s before it, "e f" 0.3 s: more would be over 10 s. What was said in the longer
    # pause before "g" may have been left out, and before "a" nothing is known.
    assert [(u.start, u.end, u.text) for u in found] == [
        (1, 9.5, "a b"), (10, 15, "c d"), (pytest.approx(16.2), 26.2, "e f"), (29, 31, "g h")
    ]  # fmt: skip
    assert [(s.start, s.end) for s in found[1].segments] == [(0.5, pytest.approx(1.2)), (2.0, 5.0)]
    joined = merge_segments(Utterances(rows), 10.0, spoken)
    # The columns say the same as the rows.
    for part in (range(4), range(1, 4, 2)):
        chosen = [found[index] for index in part]
        ids, paths, texts = joined.strings(part)
        assert (ids, texts) == ([u.id for u in chosen], [u.text for u in chosen])
        assert paths == [str(u.audio) for u in chosen]
        starts, ends = joined.spans(part)
        assert (starts.tolist(), ends.tolist()) == ([u.start for u in chosen], [u.end for u in chosen])
    assert len(joined.kind_numbers) == 4


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 20)), max_size=12), st.floats(1, 30))
def test_joining_loses_no_text(spans: list[tuple[float, float]], longest: float) -> None:
    rows = [segment(start, start + length, f"w{n}") for n, (start, length) in enumerate(spans)]
    rows = [Utterance(id=str(n), audio=u.audio, text=u.text, start=u.start, end=u.end) for n, u in enumerate(rows)]
    found = merge_segments(Utterances(rows), longest, spoken)
    assert " ".join(u.text for u in found).split() == [u.text for u in rows]
    for utterance in found:
        assert utterance.end is not None
        assert "+" not in utterance.id or utterance.end - utterance.start <= longest + 1e-9
        assert utterance.start >= 0
        for piece in utterance.segments:
            (row,) = [row for row in rows if row.text == piece.text]
            assert (utterance.start + piece.start, utterance.start + piece.end) == pytest.approx((row.start, row.end))


# Columns hold what objects do.


@given(
    st.lists(
        st.builds(
            Utterance,
            id=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
            audio=st.sampled_from([Path("/a/b.wav"), Path("c.wav"), Path("/d.wav"), Path("/e/\udcff.wav")]),
            text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            start=st.floats(0, 100),
            end=st.none() | st.floats(101, 200),
            language=st.none() | st.just("it"),
            task=st.none() | st.just("translate"),
            speaker=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            prompt=st.none() | st.just("x"),
            channel=st.none() | st.integers(0, 9),
            within=st.none() | st.tuples(st.integers(0, 2**50), st.integers(0, 2**50)),
            weight=st.floats(0.1, 9),
            source=st.sampled_from(["", "m.csv"]),
            row=st.integers(0, 2**40),
        ),
        max_size=5,
    )
)
def test_columns_give_back_what_was_put_in(rows: list[Utterance]) -> None:
    kept = Utterances(rows)
    assert list(kept) == rows
    assert kept == rows
    assert kept[1:] == rows[1:]
    repeated = kept.repeated_id()
    ids = [row.id for row in rows]
    assert (repeated is None) == (len(set(ids)) == len(ids))
    if repeated:
        assert ids[repeated[0]] == ids[repeated[1]]
    assert kept.digest() == Utterances(rows).digest()


# Anything at all as a corpus: an error in one line, or utterances.


def reads_or_says_why(path: Path) -> None:
    try:
        for utterance in read_utterances("train", str(path)):
            assert utterance.within is None or sum(utterance.within) <= path.stat().st_size
    except ManifestError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - either outcome will do


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_mutated_tars(tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "tars"
    if not folder.exists():
        folder.mkdir()
        shards(folder)
    data = bytearray((folder / "shard-001.tar").read_bytes()[: draw.draw(st.integers(100, 6_000))])
    for _ in range(draw.draw(st.integers(0, 8))):
        data[draw.draw(st.integers(0, min(len(data), 1_024) - 1))] = draw.draw(st.integers(0, 255))
    (folder / "mutated.tar").write_bytes(data)
    reads_or_says_why(folder / "mutated.tar")


@settings(deadline=None, max_examples=100)
@given(st.text("0123456789:,.->\n WEBVTTNOTE<v>/&;aé\r{}\\", max_size=120), st.sampled_from(["", "WEBVTT\n\n"]))
def test_any_text_as_subtitles(text: str, head: str) -> None:
    try:
        for cue in read_cues("talk.srt", head + "1\n00:00:01,000 --> 00:00:02,000\n" + text):
            assert cue.end > cue.start
            assert cue.text
    except ManifestError as error:
        assert str(error).isprintable()  # noqa: PT017


def test_cues_without_blank_lines_between() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nuno\n2\n00:00:02,000 --> 01:00:03,500\n<v Anna>due &amp; tre</v>"
    cues = [(cue.start, cue.end, cue.text, cue.speaker) for cue in read_cues("a.srt", text)]
    assert cues == [(1, 2, "uno", None), (2, 3603.5, "due & tre", "Anna")]


def test_within_reads_no_other_bytes(tmp_path: Path) -> None:
    """A recording within a file equals the same recording as a file."""
    content = flac("a")
    (tmp_path / "blob").write_bytes(b"x" * 100 + content + b"y" * 100)
    (tmp_path / "a.flac").write_bytes(content)
    alone = load_waveform(tmp_path / "a.flac", 0.25, 0.75)
    np.testing.assert_array_equal(load_waveform(tmp_path / "blob", 0.25, 0.75, within=(100, len(content))), alone)
