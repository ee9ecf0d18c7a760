"""Only rows that may be equal are decoded; those that are equal always are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from whispertune import openings
from whispertune.data.audio import content_key, load_utterance
from whispertune.data.utterances import Utterance
from whispertune.openings import likely_keys

RATE = 48_000


def recording(path: Path, seed: int, seconds: float = 2.0, *, ending: int | None = None) -> Utterance:
    """Noise at 48 kHz; of another seed from 1 s on, if asked for."""
    samples = np.random.default_rng(seed).integers(-9_000, 9_000, round(seconds * RATE), np.int16)
    if ending is not None:
        samples[RATE:] = np.random.default_rng(ending).integers(-9_000, 9_000, len(samples) - RATE, np.int16)
    soundfile.write(path, samples, RATE)
    return Utterance(id=path.name, audio=path, text="a")


def test_equal_recordings_are_found_and_few_others_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(openings, "load_utterance", lambda u: (decoded.append(u.id), load_utterance(u))[1])
    theirs = recording(tmp_path / "theirs.flac", 1)
    rows = [
        recording(tmp_path / "same.wav", 1), recording(tmp_path / "other.wav", 2),
        recording(tmp_path / "beginning.wav", 1, ending=3),
    ]  # fmt: skip
    found = likely_keys([(32_000, row) for row in rows], [(32_000, theirs)], 2)
    assert sorted(decoded) == ["beginning.wav", "same.wav"]
    assert found[content_key(load_utterance(theirs))].id == "same.wav"
    assert likely_keys([(31_999, rows[0])], [(32_000, theirs)], 2) == {}


def test_spans_shorter_than_what_is_compared(tmp_path: Path) -> None:
    short = [recording(tmp_path / f"{name}.wav", seed, 0.2) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    found = likely_keys([(3_200, short[0]), (3_200, short[2])], [(3_200, short[1])], 1)
    assert content_key(load_utterance(short[1])) in found
