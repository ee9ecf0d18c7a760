"""Audio: measures of known signals, and clips that do not fit the others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from whispertune.check.audio import judge
from whispertune.check.measures import measure
from whispertune.check.outliers import spectral_shift, tempo, wrong_rates
from whispertune.check.sets import SAME_BITS
from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.readers.manifest import read_manifest

EXAMPLE = Path(__file__).parents[2] / "examples" / "italian-prompts"
CLIPS = [load_waveform(u.audio) for u in read_manifest(EXAMPLE / "test.csv")[:40]]


def kinds(waveform: np.ndarray) -> set[str]:
    return {kind for kind, _ in judge(measure(waveform.astype(np.float32)))}


def test_speech_is_sound() -> None:
    assert [kinds(clip) for clip in CLIPS] == [set()] * len(CLIPS)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seconds", [0.5, 2.0, 10.0])
def test_noise(slope: float, seconds: float) -> None:
    generator = np.random.default_rng(1)
    spectrum = np.fft.rfft(generator.standard_normal(round(16_000 * seconds)))
    shaped = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 1) ** -slope)
    assert "noise" in kinds(0.05 * shaped / shaped.std())


def test_hum_and_silence() -> None:
    time = np.arange(32_000) / 16_000
    hum = sum(0.1 / k * np.sin(2 * np.pi * 50 * k * time) for k in range(1, 8))
    assert kinds(hum) == {"noise"}
    assert kinds(np.zeros(16_000)) == {"silence"}
    assert kinds(1e-3 * hum) == {"silence"}


def test_speech_reaches_as_far_as_30_db_below_the_loud_frames() -> None:
    """Half seconds at -45, -25, 0, -25 and -45 dB of the loudest: the three in the middle count."""
    gains = np.repeat(10 ** (np.array([-45, -25, 0, -25, -45]) / 20), 8_000)
    noise = 0.1 * np.random.default_rng(0).standard_normal(40_000) * gains
    assert measure(noise.astype(np.float32)).speech == pytest.approx(1.5, abs=0.05)


def test_levels() -> None:
    assert all("clipped" in kinds(np.clip(4 * clip / np.abs(clip).max(), -1, 1)) for clip in CLIPS)
    assert all("quiet" in kinds(0.01 * clip) for clip in CLIPS)
    assert "too_short" in kinds(CLIPS[0][:800])


def test_pitch_of_a_pulse_train() -> None:
    for hertz in (80, 125, 250, 400):
        pulses = np.zeros(16_000, np.float32)
        pulses[:: 16_000 // hertz] = 0.5
        assert abs(np.log2(measure(pulses).pitch / hertz)) < 0.02


def bits(waveform: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.frombuffer(measure(waveform.astype(np.float32)).fingerprint, np.uint8))


def test_fingerprints_survive_mp3_and_tell_clips_apart() -> None:
    ours = np.stack([bits(clip) for clip in CLIPS])
    for clip, own in zip(CLIPS[:10], ours, strict=False):
        content = io.BytesIO()
        soundfile.write(content, 0.6 * soxr.resample(clip, 16_000, 22_050), 22_050, format="MP3")
        content.seek(0)
        samples, rate = soundfile.read(content, dtype="float32")
        assert (bits(soxr.resample(samples, rate, 16_000)) != own).sum() <= SAME_BITS
    distances = (ours[:, None] != ours[None]).sum(axis=2)[np.triu_indices(len(ours), 1)]
    assert distances.min() > 1.5 * SAME_BITS


def test_spectral_shift_follows_the_sample_rate() -> None:
    spectra = np.stack([measure(clip).spectrum for clip in CLIPS])
    usual = np.median(spectra - spectra.mean(axis=1, keepdims=True), axis=0)
    assert abs(np.median(spectral_shift(spectra, usual))) < 0.1
    for rate in (24_000, 32_000):
        faster = np.stack([measure(soxr.resample(clip, rate, 16_000)).spectrum for clip in CLIPS])
        assert abs(np.median(spectral_shift(faster, usual)) - np.log2(rate / 16_000)) < 0.15


def test_tempo_finds_halved_clips_among_normal_ones() -> None:
    generator = np.random.default_rng(0)
    letters = generator.integers(1, 120, 400)
    seconds = (0.3 + 0.07 * letters) * 2 ** generator.normal(0, 0.15, 400)
    seconds[:20] /= 2
    faster, spreads = tempo(letters, seconds)
    found = (faster > 0.45) & (spreads > 2.5)
    assert found[:20].mean() >= 0.9
    assert found[20:].mean() <= 0.02


def test_few_clips_say_nothing() -> None:
    faster, spreads = tempo([1, 20, 300], [1.0, 1.0, 1.0])
    assert not faster.any()
    assert not spreads.any()


def test_wrong_rates_need_two_witnesses() -> None:
    generator = np.random.default_rng(0)
    shift, pitch, faster = (generator.normal(0, spread, 200) for spread in (0.08, 0.2, 0.2))
    for number in range(3):
        (shift, pitch, faster)[number][number] += 1  # one of them alone
    for values in (shift, pitch, faster):
        values[10:15] += 1
        values[15:20] -= 1
    pitch[12] = np.nan
    factors, evidence = wrong_rates(shift, pitch, faster)
    assert (evidence[10:20] > 9).all()
    assert (factors[10:15] > 1.5).all()
    assert (factors[15:20] < 0.7).all()
    assert (np.delete(evidence, np.arange(10, 20)) < 9).all()
