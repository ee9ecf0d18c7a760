"""Pauses of a recording, and pieces cut at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from whispertune.align.pauses import KEPT_PAUSE, Pauses, find_pauses, frame_levels
from whispertune.align.pieces import cut_pieces
from whispertune.align.sentences import Found
from whispertune.decoding.words import Word

SAID = [(0.5, 1.7), (2.1, 3.0), (3.1, 4.4), (6.0, 9.5)]
"""Seconds; between the second and the third there is only a plosive."""


def recording(noise: float) -> np.ndarray:
    draws = np.random.default_rng(0)
    waveform = noise * draws.standard_normal(16_000 * 10)
    for start, end in SAID:
        span = slice(round(16_000 * start), round(16_000 * end))
        waveform[span] += 0.1 * draws.standard_normal(len(waveform[span]))
    return waveform.astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 1e-5, 3e-3])
def test_pauses_are_found_in_silence_and_in_noise(noise: float) -> None:
    waveform = recording(noise)
    levels = frame_levels([waveform[:7777], waveform[7777:7800], waveform[7800:]])
    np.testing.assert_allclose(levels, frame_levels([waveform]), atol=1e-4)
    found = find_pauses(levels)
    np.testing.assert_allclose(found.starts, [0, 1.7, 4.4, 9.5], atol=0.011)
    np.testing.assert_allclose(found.ends, [0.5, 2.1, 6.0, np.inf], atol=0.011)


@pytest.mark.parametrize(
    ("start", "end", "sound"),
    [(0.0, 0.9, 0.7), (1.6, 2.0, 1.65), (1.8, 2.0, 1.695), (1.95, 2.05, 2.105), (4.5, 9.0, 7.5), (9.7, 9.9, 9.495)],
)
def test_where_a_word_sounds(start: float, end: float, sound: float) -> None:
    """Its times may stretch into a pause before or after it, or lie in one."""
    assert find_pauses(frame_levels([recording(0)])).sound_in(start, end) == pytest.approx(sound, abs=0.012)


def test_a_recording_without_a_pause_or_without_a_sound() -> None:
    loud = find_pauses(frame_levels([np.full(16_000, 0.1, np.float32)]))
    assert len(loud.starts) == 0
    assert loud.sound_in(0.2, 0.4) == pytest.approx(0.3)
    assert loud.begin_of(0.5, 0) is None
    assert loud.end_of(0.5, 1) is None
    assert len(find_pauses(frame_levels([])).starts) == 0


def test_pieces_begin_and_end_in_pauses() -> None:
    audio, other = Path("a.wav"), Path("b.wav")
    pauses = {audio: find_pauses(frame_levels([recording(0)])), other: Pauses(np.zeros(0), np.zeros(0), 0.0)}
    words = [
        Word(0.0, 0.9, " Sì", 0.9), Word(0.9, 1.8, " no", 0.9),  # times that stretch into the silence
        Word(2.2, 3.05, " forse", 0.9), Word(3.05, 4.6, " mai", 0.9), Word(5.0, 7.0, " poi", 0.9),
        Word(7.0, 9.0, " e", 0.9), Word(9.6, 9.8, " ora", 0.9), Word(0.3, 0.8, " qui", 0.9),
    ]  # fmt: skip
    audios = [audio] * 7 + [other]
    found = [Found(0, 2, 1.0), None, Found(2, 3, 0.9), Found(3, 4, 0.8), Found(5, 6, 0.7)]
    pieces = cut_pieces(found, words, audios, pauses)
    assert [piece.sentence for piece in pieces] == [0, 2, 3, 4]
    assert [piece.heard for piece in pieces] == [" Sì no", " forse", " mai", " e"]
    assert cut_pieces([Found(6, 8, 0.5)], words, audios, pauses) == []  # of two recordings
    expected = [(0.5, 1.7), (2.1, 3.05), (3.05, 4.4), (6.0, 9.5)]
    for piece, (start, end) in zip(pieces, expected, strict=True):
        assert start - KEPT_PAUSE - 0.02 <= piece.start <= start + 0.02
        assert end - 0.02 <= piece.end <= end + KEPT_PAUSE + 0.02


@pytest.mark.parametrize("silence", [0.0, 0.01, 0.03, 0.08, 0.3])
def test_no_piece_ends_behind_its_recording(silence: float) -> None:
    tone = np.sin(np.arange(16_000) * 0.3).astype(np.float32)
    waveform = np.concatenate([tone, np.zeros(round(silence * 16_000), np.float32)])
    end = find_pauses(frame_levels([waveform])).end_of(0.5, latest=30.0)
    if silence:
        assert end == pytest.approx(min(1.0 + silence, 1.1))
        assert end <= len(waveform) / 16_000
