"""A row that forgot its end is told from its header: no memory for hours of audio."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whispertune import cli
from whispertune.check import audio as check_audio
from whispertune.data.audio.recording import TooLongError
from whispertune.data.audio.waveforms import load_utterance, load_waveform
from whispertune.data.utterances import Utterance
from whispertune.dataset.inspection import decode_rows
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import Window, window_waveform
from whispertune.features.log_mel import WINDOW_SAMPLES

HOUR = 3600


@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of almost nothing at 8 kHz: 230 MB once decoded and resampled twice as much."""
    path = tmp_path_factory.mktemp("hours") / "long.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_16") as file:
        minute = np.random.default_rng(0).integers(-300, 300, 8_000, np.int16).repeat(60)
        for _ in range(120):
            file.write(minute)
    return path


def peak_megabytes(function: object, *arguments: object) -> float:
    tracemalloc.start()
    try:
        function(*arguments)  # type: ignore[operator]
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak / 1e6


def test_nothing_of_it_is_decoded(hours: Path, text: TextSettings) -> None:
    row = Utterance(id="a", audio=hours, text="testo", row=2, source="train.csv")

    def look() -> None:
        found = decode_rows([row], text, 1, lambda _: None, keep_empty=False, share=range(1))
        assert found.reasons == {0: "audio lasts 7200.0 s; a window holds 30 s (cut it, with start and end columns)"}
        with pytest.raises(TooLongError, match="at most 30 s are decoded"):
            load_utterance(row, max_samples=WINDOW_SAMPLES)
        with pytest.raises(TooLongError.__mro__[1]):
            window_waveform(Window("a", (row,)))

    assert peak_megabytes(look) < 20


def test_check_looks_at_a_windows_length_of_it(hours: Path) -> None:
    def look() -> None:
        rows = [Utterance(id=name, audio=hours, text="testo") for name in "ab"]
        findings, facts = check_audio.check_audio(rows, workers=1)
        assert next(f.detail for f in findings if f.kind == "too_long").startswith("lasts 7200.0 s")
        assert (facts.keys[0] == facts.keys[1]).all()

    assert peak_megabytes(look) < 200  # of which the measures of 30 s take 100; all of it, decoded: 460


def test_exactly_a_window_is_decoded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(WINDOW_SAMPLES + 1, 0.1), 16_000)
    assert len(load_waveform(tmp_path / "a.wav", 0, 30.0, max_samples=WINDOW_SAMPLES)) == WINDOW_SAMPLES
    with pytest.raises(TooLongError):
        load_waveform(tmp_path / "a.wav", max_samples=WINDOW_SAMPLES)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), MemoryError("Unable to allocate 4.29 GiB"), RuntimeError("CUDA out of memory. Tried"),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")],
)  # fmt: skip
def test_no_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from whispertune.commands import evaluate

    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(evaluate, "main", fail)
    assert cli.main(["evaluate"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory")


def test_other_errors_of_that_kind_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from whispertune.commands import evaluate

    def fail(_: object) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(evaluate, "main", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["evaluate"])
