"""Stitched windows: how many, what they hold, and what their waveforms are."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from whispertune.augment.options import AugmentOptions, DropChunkOptions, SpeedOptions
from whispertune.augment.pipeline import WaveformAugmenter
from whispertune.data.utterances import TimedText, Utterance
from whispertune.dataset.options import WindowOptions
from whispertune.dataset.stitching import stitched_windows
from whispertune.dataset.windows import (
    Window,
    augmented_lengths,
    augmented_num_samples,
    join_waveforms,
    single_windows,
    window_waveform,
    with_previous_texts,
)
from whispertune.errors import AudioError, RecipeError
from whispertune.features.log_mel import WINDOW_SAMPLES
from whispertune.system.lazy import Lazy

RATE = 16_000


def utterance(name: str, audio: Path | str = "a.wav", **fields: Any) -> Utterance:
    given = {"text": f" text of {name} ", "start": 0.0, "end": None, "language": None, "task": None, **fields}
    others = {"speaker": None, "prompt": None, "source": "m.csv", "row": 2}
    return Utterance(id=name, audio=Path(audio), **{**others, **given})


def corpus(count: int, seconds: tuple[float, float] = (1, 4), **fields: Any) -> tuple[list[Utterance], list[int]]:
    generator = np.random.default_rng(5)
    lengths = (generator.uniform(*seconds, size=count) * RATE).astype(int).tolist()
    return [utterance(f"u{n}", **fields) for n in range(count)], lengths


def stitch(
    utterances: list[Utterance], lengths: list[int], *, tokens: int = 20, max_tokens: int = 440, seed: int = 0,
    **options: Any,
) -> list[Window]:  # fmt: skip
    return stitched_windows(
        utterances, lengths, [tokens] * len(lengths), WindowOptions(**options), seed, max_tokens=max_tokens
    )


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_share_is_of_all_windows(share: float) -> None:
    utterances, lengths = corpus(300)
    windows = stitch(utterances, lengths, stitched_share=share)
    assert len(windows) / (len(windows) + 300) == pytest.approx(share, abs=0.01)
    assert len({window.id for window in windows}) == len(windows)
    assert {window.id for window in windows}.isdisjoint({u.id for u in utterances})


def test_no_share_no_windows() -> None:
    assert stitch(*corpus(50)) == []


def test_what_a_window_holds() -> None:
    utterances, lengths = corpus(300)
    number = {u.id: n for n, u in enumerate(utterances)}
    options = {"min_utterances": 3, "max_utterances": 7, "min_pause": 0.3, "max_pause": 0.6}
    windows = stitch(utterances, lengths, tokens=50, max_tokens=300, stitched_share=0.5, **options)
    sizes = Counter(len(window.utterances) for window in windows)
    assert set(sizes) == {3, 4, 5, 6}  # 7 are 350 tokens
    for window in windows:
        assert len(set(window.utterances)) == len(window.utterances)
        assert len(window.pauses) == len(window.utterances) - 1
        assert all(0.3 <= pause <= 0.6 for pause in window.pauses)
        samples = sum(lengths[number[u.id]] for u in window.utterances)
        assert samples + sum(round(pause * RATE) for pause in window.pauses) <= 30 * RATE
        assert window.text == " ".join(f"text of {u.id}" for u in window.utterances)
    used = Counter(u.id for window in windows for u in window.utterances)
    assert len(used) > 290  # all take part


def test_long_recordings_fill_but_never_overfill() -> None:
    utterances, lengths = corpus(300, (8, 11))
    windows = stitch(utterances, lengths, stitched_share=0.5)
    number = {u.id: n for n, u in enumerate(utterances)}
    totals = [
        sum(lengths[number[u.id]] for u in w.utterances) + sum(round(p * RATE) for p in w.pauses) for w in windows
    ]
    assert windows
    assert max(totals) <= 480_000
    assert all(len(w.utterances) == 3 for w in windows)
    assert stitch(*corpus(50, (11, 29)), stitched_share=0.5) == []


def test_windows_follow_from_the_seed_alone() -> None:
    utterances, lengths = corpus(100)
    first = stitch(utterances, lengths, stitched_share=0.3, seed=1)
    assert stitch(utterances, lengths, stitched_share=0.3, seed=1) == first
    other = stitch(utterances, lengths, stitched_share=0.3, seed=2)
    assert [w.utterances for w in other] != [w.utterances for w in first]


def test_one_language_and_task_a_window() -> None:
    italian, lengths = corpus(60, language="it")
    german, more = corpus(60, language="de")
    german = [utterance(f"de-{u.id}", language="de", task="translate" if n % 2 else None) for n, u in enumerate(german)]
    windows = stitch([*italian, *german], lengths + more, stitched_share=0.5)
    kinds = [{(u.language, u.task) for u in window.utterances} for window in windows]
    assert all(len(kind) == 1 for kind in kinds)
    assert {next(iter(kind)) for kind in kinds} == {("it", None), ("de", None), ("de", "translate")}


def test_every_language_gets_its_windows() -> None:
    utterances: list[Utterance] = []
    lengths: list[int] = []
    for number in range(20):
        rows, samples = corpus(35, language=f"l{number}")
        utterances, lengths = utterances + rows, lengths + samples
    windows = stitch(utterances, lengths, stitched_share=0.2, seed=1)
    assert len(windows) == 175  # as many as are asked for
    counts = Counter(window.utterances[0].language for window in windows)
    assert len(counts) == 20
    assert max(counts.values()) < 20
    assert stitch(utterances, lengths, stitched_share=0.2, seed=1) == windows


def test_too_few_to_stitch() -> None:
    assert stitch(*corpus(2), stitched_share=0.5) == []
    assert stitch([], [], stitched_share=0.5) == []


def test_options_are_checked() -> None:
    for options in (
        {"stitched_share": 1.0}, {"timestamps": 1.1}, {"previous_text": -0.1},
        {"min_utterances": 1}, {"max_utterances": 2}, {"min_pause": 2.0},
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=r"is .* must"):
            WindowOptions(**options)  # type: ignore[arg-type]


def test_join_waveforms() -> None:
    parts = [np.full(3, n, np.float32) for n in (1, 2, 3)]
    joined = join_waveforms(parts, [2 / RATE, 1 / RATE])
    assert joined.dtype == np.float32
    assert joined.tolist() == [1, 1, 1, 0, 0, 2, 2, 2, 0, 3, 3, 3]
    assert join_waveforms(parts[:1], []).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="zip"):
        join_waveforms(parts, [0.1])


@pytest.fixture
def recordings(tmp_path: Path) -> list[Utterance]:
    """Three recordings of noise: 9, 10 and 10.5 s."""
    generator = np.random.default_rng(0)
    found = []
    for number, seconds in enumerate([9, 10, 10.5]):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, generator.uniform(-0.5, 0.5, round(seconds * RATE)), RATE, subtype="FLOAT")
        found.append(utterance(f"u{number}", path))
    return found


def test_window_waveform_is_the_recordings_with_pauses(recordings: list[Utterance]) -> None:
    waveform = window_waveform(Window("w", tuple(recordings), (0.25, 0.2)))
    parts = [soundfile.read(u.audio, dtype="float32")[0] for u in recordings]
    assert len(waveform) == round(29.95 * RATE)
    assert np.array_equal(waveform[: len(parts[0])], parts[0])
    second = 9 * RATE + 4_000
    assert not waveform[9 * RATE : second].any()
    assert np.array_equal(waveform[second : second + len(parts[1])], parts[1])
    assert np.array_equal(waveform[-len(parts[2]) :], parts[2])


def test_window_waveform_takes_the_span(recordings: list[Utterance]) -> None:
    (window,) = single_windows([utterance("u", recordings[0].audio, start=1.0, end=2.5)])
    expected, _ = soundfile.read(recordings[0].audio, dtype="float32", start=RATE, stop=round(2.5 * RATE))
    assert np.array_equal(window_waveform(window), expected)


def test_augmented_windows_never_exceed_30_seconds(recordings: list[Utterance]) -> None:
    slow = WaveformAugmenter(AugmentOptions(speed=SpeedOptions(probability=1.0, factors=(0.98, 0.9))))
    window = Window("w", tuple(recordings), (0.0, 0.0))
    lengths = {len(window_waveform(window, slow, view=view)) for view in range(12)}
    assert max(lengths) <= 480_000
    assert max(lengths) > round(29.5 * RATE)  # those that fit were slowed down
    full = Window("w", (recordings[0], recordings[1], recordings[2]), (0.25, 0.25))
    assert len(window_waveform(full, slow)) == 480_000


def test_augmentation_follows_from_seed_view_window_and_utterance(recordings: list[Utterance]) -> None:
    augmenter = WaveformAugmenter(AugmentOptions(drop_chunk=DropChunkOptions(probability=1.0)))
    (single,) = single_windows(recordings[:1])
    stitched = Window("stitched-0", tuple(recordings[:2]), (0.5,))

    def drawn(window: Window, **where: int) -> bytes:
        return window_waveform(window, augmenter, **where)[: 9 * RATE].tobytes()

    first = drawn(single, seed=1, view=1)
    assert drawn(single, seed=1, view=1) == first
    others = [drawn(single, seed=1, view=2), drawn(single, seed=2, view=1), drawn(stitched, seed=1, view=1)]
    assert len({first, *others}) == 4


def test_unreadable_recordings_are_told(tmp_path: Path) -> None:
    (window,) = single_windows([utterance("u", tmp_path / "absent.wav")])
    with pytest.raises(AudioError, match=r"absent\.wav"):
        window_waveform(window)


def test_lengths_are_known_before_any_audio_is_read(tmp_path: Path) -> None:
    """Stitched windows close to 30 s too, where a drawn speed may not be taken."""
    generator = np.random.default_rng(7)
    augmenter = WaveformAugmenter(AugmentOptions(speed=SpeedOptions(probability=0.8, factors=(0.7, 0.9, 1.2))))
    lengths = [100_000, 150_001, 120_000, 99_999, 7]
    utterances = []
    for number, length in enumerate(lengths):
        audio = tmp_path / f"{number}.wav"
        soundfile.write(audio, generator.normal(size=length) * 0.1, RATE, subtype="FLOAT")
        utterances.append(utterance(f"u{number}", audio))
    windows = single_windows(utterances)
    windows.append(Window("stitched-0", tuple(utterances), (0.1, 0.2, 0.15, 0.1)))
    altered = 0
    for window in windows:
        clean = [lengths[int(u.id[1:])] for u in window.utterances]
        for view in range(6):
            ours = augmented_num_samples(window, clean, augmenter, seed=3, view=view)
            assert ours == len(window_waveform(window, augmenter, seed=3, view=view)) <= WINDOW_SAMPLES
            altered += ours != len(window_waveform(window))
    assert altered > 15


def test_a_lead_is_silence_before_the_first_utterance(recordings: list[Utterance]) -> None:
    plain = window_waveform(Window("w", tuple(recordings[:2]), (0.25,)))
    led = window_waveform(Window("w", tuple(recordings[:2]), (0.25,), lead=0.5))
    assert len(led) == len(plain) + RATE // 2
    assert not led[: RATE // 2].any()
    assert np.array_equal(led[RATE // 2 :], plain)


def test_timestamps_are_drawn_for_a_share_of_stitched_windows() -> None:
    utterances, lengths = corpus(400)
    windows = stitch(utterances, lengths, stitched_share=0.5, timestamps=0.25)
    timed = [window for window in windows if window.timestamps]
    assert len(timed) / len(windows) == pytest.approx(0.25, abs=0.06)
    number = {u.id: n for n, u in enumerate(utterances)}
    for window in windows:
        assert window.num_samples == tuple(lengths[number[u.id]] for u in window.utterances)
        assert 0 <= window.lead <= 1.0
        assert (window.lead > 0) == window.timestamps
        assert window.total_samples <= 30 * RATE
        assert not window.timestamps or window.segments()[-1].end * RATE == pytest.approx(window.total_samples)
    other = stitch(utterances, lengths, stitched_share=0.5, timestamps=0.25, seed=1)
    assert [w.timestamps for w in other] != [w.timestamps for w in windows]
    assert not any(w.timestamps for w in stitch(utterances, lengths, stitched_share=0.5, timestamps=0.0))
    assert all(w.timestamps for w in stitch(utterances, lengths, stitched_share=0.5, timestamps=1.0))


def test_timestamps_count_as_tokens() -> None:
    utterances, lengths = corpus(100, (0.5, 1))
    options = {"tokens": 10, "max_tokens": 72, "stitched_share": 0.5, "max_utterances": 10}
    assert max(len(w.utterances) for w in stitch(utterances, lengths, timestamps=0.0, **options)) == 7
    assert max(len(w.utterances) for w in stitch(utterances, lengths, timestamps=1.0, **options)) == 6


@pytest.mark.parametrize(("most", "doubtful"), [(21, False), (90, True)])
def test_bounds_of_tokens_save_counting_and_change_nothing(most: int, doubtful: bool) -> None:
    """Where they do not suffice, tokens are counted, and the windows are looked at once more."""
    utterances, lengths = corpus(100, segments=(TimedText(0.0, 1.0, "a"),) * 2)
    options = WindowOptions(stitched_share=0.5, max_utterances=8, timestamps=0.5)
    counted, seen = [], []
    tokens = Lazy(100, lambda index: counted.append(index) or 20)  # type: ignore[func-returns-value]
    windows = stitched_windows(
        utterances, lengths, tokens, options, 0, max_tokens=200, most_tokens=lambda _: most, alike=[0] * 100,
        fits=lambda window: seen.append(window.id) or len(seen) > 1,  # type: ignore[func-returns-value]
    )  # fmt: skip
    expected = stitched_windows(utterances, lengths, [20] * 100, options, 0, max_tokens=200)
    assert bool(counted) == doubtful
    assert windows == [window for window in expected if window.id not in seen[:1]]
    assert bool(seen) == doubtful
    assert list(windows.total_samples) == [window.total_samples for window in windows]


def test_stitched_windows_get_the_text_of_another_one() -> None:
    italian, lengths = corpus(60, language="it")
    german, more = corpus(60, language="de")
    german = [utterance(f"de-{u.id}", language="de") for u in german]
    windows = stitch([*italian, *german], lengths + more, stitched_share=0.5)
    prompted = with_previous_texts(windows, 1.0, seed=0)
    language_of = {window.text: window.utterances[0].language for window in windows}
    for before, after in zip(windows, prompted, strict=True):
        assert after.previous_text is not None
        assert after.previous_text != after.text
        assert language_of[after.previous_text] == after.utterances[0].language
        assert dataclasses.replace(after, previous_text=None) == before
    half = with_previous_texts(windows, 0.5, seed=0)
    assert 0.35 < np.mean([w.previous_text is not None for w in half]) < 0.65
    assert with_previous_texts(windows, 0.5, seed=0) == half != with_previous_texts(windows, 0.5, seed=1)
    assert with_previous_texts(windows[:1], 1.0, seed=0) == windows[:1]
    assert with_previous_texts(windows, 0.0, seed=0) == windows


def test_a_previous_text_holds_nothing_of_what_is_said() -> None:
    """Utterances are drawn anew for each stitched window, so that neighbours share some."""
    few = [utterance(f"u{n}", text=f"text {n}.") for n in range(12)]
    options = WindowOptions(stitched_share=0.8, min_utterances=3, max_utterances=4, timestamps=0)
    windows = stitched_windows(few, [RATE] * 12, [3] * 12, options, seed=0, max_tokens=400)
    prompted = with_previous_texts(windows, 1.0, seed=0)
    shared = [
        [u.text for u in window.utterances if u.text in window.previous_text]
        for window in prompted
        if window.previous_text is not None
    ]
    assert len(shared) > len(windows) // 2
    assert not any(shared)


def test_lengths_and_boundaries_follow_the_speed(recordings: list[Utterance]) -> None:
    """Where each utterance begins in the augmented waveform, found by its own samples, is where its segment begins."""
    augmenter = WaveformAugmenter(AugmentOptions(speed=SpeedOptions(probability=1.0, factors=(1.25, 1.5))))
    clean = tuple(len(window_waveform(Window("", (u,)))) for u in recordings[:2])
    window = Window("w", tuple(recordings[:2]), (0.75,), lead=0.5, num_samples=clean, timestamps=True)
    for view in range(3):
        lengths = augmented_lengths(window, clean, augmenter, seed=0, view=view)
        waveform = window_waveform(window, augmenter, seed=0, view=view)
        assert sum(lengths) + round(1.25 * RATE) == len(waveform)
        assert lengths != list(clean)
        silent = np.flatnonzero(waveform == 0)
        gaps = np.split(silent, np.flatnonzero(np.diff(silent) > 1) + 1)
        edges = [(gap[0] / RATE, (gap[-1] + 1) / RATE) for gap in gaps if len(gap) > 1000]
        segments = window.segments(lengths)
        assert [edge[1] for edge in edges] == pytest.approx([s.start for s in segments], abs=1e-3)
        assert [edge[0] for edge in edges[1:]] == pytest.approx([s.end for s in segments[:-1]], abs=1e-3)
