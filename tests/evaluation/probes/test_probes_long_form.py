"""Recordings of minutes: what they are made of, and how they are scored."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from whispertune.data.utterances import Utterance
from whispertune.dataset.splits import Split
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import single_windows
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.transcriber import Transcriber
from whispertune.evaluation.probes import long_form as module
from whispertune.evaluation.probes.long_form import long_recordings, measure_long_form
from whispertune.features.options import FrameOptions

RATE = 16_000


def split_of(utterances: Sequence[Utterance], seconds: Sequence[float]) -> Split:
    languages = [utterance.language or "it" for utterance in utterances]
    samples = [round(RATE * s) for s in seconds]
    return Split("data", single_windows(utterances), samples, [], languages, {}, [], len(utterances))


def clip(folder: Path, name: str, seconds: float, **fields: object) -> Utterance:
    path = folder / f"{name}.wav"
    seed = sum(map(ord, name))
    soundfile.write(path, np.random.default_rng(seed).uniform(0.1, 0.3, round(seconds * RATE)), RATE, subtype="FLOAT")
    return Utterance(id=name, audio=path, text=f"frase {name}", **fields)  # type: ignore[arg-type]


def test_clips_are_joined_each_once(tmp_path: Path) -> None:
    lengths = [100.0] * 14 + [300.0] * 2
    utterances = [Utterance(id=f"u{n}", audio=tmp_path / f"{n}", text=f"t{n}") for n in range(15)]
    utterances.append(Utterance(id="de", audio=tmp_path / "de", text="de", language="de"))
    split = split_of(utterances, lengths)
    found = long_recordings(split, 0)
    assert Counter(u.id for recording in found for u in recording.utterances) == Counter(u.id for u in utterances)
    assert {recording.language: recording.utterances for recording in found if recording.language == "de"}
    assert all(len({u.language for u in recording.utterances}) == 1 for recording in found)
    for recording in found:
        assert recording.seconds <= 600
        assert all(0.5 <= silence <= 4 for silence in recording.silences)
    assert len({recording.id for recording in found}) == len(found) >= 4
    assert long_recordings(split, 0) == found != long_recordings(split, 1)


def test_a_joined_recording_holds_silences_and_clips(tmp_path: Path) -> None:
    utterances = [clip(tmp_path, name, seconds) for name, seconds in (("a", 0.5), ("b", 1.0), ("c", 0.25))]
    (recording,) = long_recordings(split_of(utterances, [0.5, 1.0, 0.25]), 0)
    heard = []

    def transcribe(
        files: Sequence[Path], language: str, task: str | None, advance: Callable[[int], None]
    ) -> Sequence[str]:
        assert (language, task) == ("it", "transcribe")
        heard.append(soundfile.read(files[0], dtype="float32")[0])
        advance(3)
        words = recording.reference.split()
        return [" ".join([words[0], *words[2:], "ancora"])]

    seconds: list[int] = []
    result = measure_long_form([recording], transcribe, seconds.append)
    assert seconds == [3]
    (waveform,) = heard
    sounding = np.flatnonzero(np.diff((waveform != 0).astype(int), prepend=0) == 1)
    at, starts = 0, []
    for utterance, silence in zip(recording.utterances, recording.silences, strict=True):
        at += round(silence * RATE)
        starts.append(at)
        at += len(soundfile.read(utterance.audio)[0])
    assert sounding.tolist() == starts
    assert len(waveform) == at == pytest.approx(recording.seconds * RATE, abs=3)
    # Six words, one left out and one put in.
    assert result.summary()["wer"] == pytest.approx(2 / 6)
    assert not result.own
    assert not list(tmp_path.glob("joined*"))  # nothing is left behind


def test_rows_of_long_recordings_are_heard_as_they_are(tmp_path: Path) -> None:
    whole = clip(tmp_path, "talk", 9)
    rows = [
        Utterance(id=f"{start}", audio=whole.audio, text=f"t{start}", start=start, end=start + 2.0)
        for start in (4.0, 0.0, 7.0)
    ]
    other = clip(tmp_path, "other", 3, start=0.0, end=2.0)
    split = split_of([*rows, other], [2, 2, 2, 2])
    found = long_recordings(split, 0)
    assert [(r.audio, r.reference, r.seconds) for r in found] == [
        (whole.audio, "t0.0 t4.0 t7.0", 9.0), (other.audio, "frase other", 3.0)
    ]  # fmt: skip
    result = measure_long_form(
        found, lambda files, *_: [r.reference for r in found if r.audio in files], lambda _: None
    )
    assert (result.own, result.summary()["wer"], result.summary()["seconds"]) == (True, 0.0, 12.0)
    # One row a file, a row without an end, or few of a recording's: these are clips.
    assert all(r.audio is None for r in long_recordings(split_of([rows[0], other], [2, 2]), 0))
    assert all(r.audio is None for r in long_recordings(split_of(rows[:2], [2, 2]), 0))
    assert all(r.audio is None for r in long_recordings(split_of([*rows, whole], [2, 2, 2, 9]), 0))


def test_translations_are_scored_as_the_english_they_are(tmp_path: Path) -> None:
    utterances = [clip(tmp_path, "a", 0.5, language="ja", task="translate")]
    utterances[0] = dataclasses.replace(utterances[0], text="I don't know")
    (recording,) = long_recordings(split_of(utterances, [0.5]), 0)
    result = measure_long_form([recording], lambda *_: ["i do not know"], lambda _: None)
    assert result.summary()["wer"] == 0


def test_segments_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models fine-tuned elsewhere begin them without a space."""
    said = ["Ciao.", " Come stai?", "Bene."]

    class Heard:
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def transcribe(self, files: Sequence[Path], advance: Callable[[int], None]) -> object:
            yield 0, SimpleNamespace(segments=[SimpleNamespace(text=text) for text in said])

    monkeypatch.setattr(module, "LongForm", Heard)
    ready = SimpleNamespace(whisper=None, tokenizer=None, rules=None)
    transcribe = module.long_form_of(
        Transcriber(ready, SearchOptions(), FrameOptions()),
        TextSettings(SimpleNamespace(aliases={}), "it", "transcribe"),
    )  # type: ignore[arg-type]
    files = [Path("a.wav")]
    assert transcribe(files, "it", None, lambda _: None) == ["Ciao. Come stai? Bene."]
    assert transcribe(files, "ja", None, lambda _: None) == ["Ciao.Come stai?Bene."]
    assert transcribe(files, "ja", "translate", lambda _: None) == ["Ciao. Come stai? Bene."]
