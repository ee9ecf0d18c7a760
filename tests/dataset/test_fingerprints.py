"""Only rows that may be equal are decoded; those that are equal always are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

from whispertune.data.audio.waveforms import content_key, load_utterance
from whispertune.data.utterances import Utterance
from whispertune.dataset.fingerprints import NUM_SUMS, content_keys, fingerprints, likely_pairs

RATE = 48_000


def recording(path: Path, seed: int, seconds: float = 2.0, *, ending: int | None = None) -> Utterance:
    """Noise at 48 kHz; of another seed from 1 s on, if asked for."""
    samples = np.random.default_rng(seed).integers(-9_000, 9_000, round(seconds * RATE), np.int16)
    if ending is not None:
        samples[RATE:] = np.random.default_rng(ending).integers(-9_000, 9_000, len(samples) - RATE, np.int16)
    soundfile.write(path, samples, RATE)
    return Utterance(id=path.name, audio=path, text="a")


def likely(rows: list[Utterance], others: list[Utterance], length: int) -> tuple[list[int], list[int]]:
    sums = [fingerprints([(length, row) for row in part], 2) for part in (rows, others)]
    found = likely_pairs(np.full(len(rows), length), sums[0], np.full(len(others), length), sums[1])
    return found[0].tolist(), found[1].tolist()


def test_what_begins_alike_may_be_equal(tmp_path: Path) -> None:
    rows = [
        recording(tmp_path / "same.wav", 1), recording(tmp_path / "other.wav", 2),
        recording(tmp_path / "beginning.wav", 1, ending=3),
    ]  # fmt: skip
    others = [recording(tmp_path / "else.wav", 5), recording(tmp_path / "theirs.flac", 1)]
    assert likely(rows, others, 32_000) == ([0, 2], [1])
    keys = content_keys([rows[0], rows[2], others[1]], 2)
    assert keys[0] == keys[2] == content_key(load_utterance(rows[0]))
    assert keys[1] != keys[0]


def test_other_lengths_are_never_equal() -> None:
    sums = np.zeros((2, NUM_SUMS))
    ours, theirs = likely_pairs(np.array([5, 7]), sums, np.array([6, 7]), sums)
    assert (ours.tolist(), theirs.tolist()) == ([1], [1])


def test_what_cannot_be_decoded_is_like_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    bad = Utterance(id="bad", audio=tmp_path / "bad.wav", text="a")
    good = recording(tmp_path / "good.wav", 1)
    assert likely([bad, good, bad], [bad, good], 32_000) == ([1], [1])


def test_equal_at_16_khz_whatever_the_rate_of_the_file(tmp_path: Path) -> None:
    """A copy resampled and rounded to 16 bits begins alike, though its last bits differ."""
    original = recording(tmp_path / "a.wav", 1)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    soundfile.write(tmp_path / "b.wav", soxr.resample(samples, RATE, 16_000, quality="HQ"), 16_000, subtype="PCM_16")
    copy = Utterance(id="b", audio=tmp_path / "b.wav", text="a")
    assert likely([original], [copy], 32_000) == ([0], [0])


def test_spans_shorter_than_what_is_compared(tmp_path: Path) -> None:
    short = [recording(tmp_path / f"{name}.wav", seed, 0.2) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert likely([short[0], short[2]], [short[1]], 3_200) == ([0], [0])
