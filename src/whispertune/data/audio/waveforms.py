"""Load a span of an audio file as a mono waveform at 16 kHz."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import soxr

from whispertune.data.audio import containers
from whispertune.data.audio.av_decoder import (
    channels_with_av,
    decode_with_av,
    needs_av,
    probe_with_av,
    stream_with_av,
)
from whispertune.data.audio.levels import mixed, require_usual_levels
from whispertune.data.audio.recording import (
    Recording,
    convert,
    fail,
    fail_channel,
    fail_cut_short,
    require_short,
)
from whispertune.data.audio.sound_files import open_sound_file, opened_recording
from whispertune.data.utterances import Utterance

SAMPLE_RATE = 16_000  # Hz, as Whisper's
EDGE_SECONDS = 0.05  # tolerance for rounding: a span may end this much after the file's end, or a file be this short
MIN_SAMPLE_RATE = 1_000  # Hz; below that it cannot be speech, and resampling it would fill the memory
MAX_SAMPLE_RATE = 1_000_000  # Hz; above that a window would fill the memory
MAX_FRAMES = 1 << 40  # libsndfile gives 2^63 - 1 where it is unknown
BLOCK_SAMPLES = 1 << 23  # decoded at once (32 MiB): a header's word for the length is not trusted with memory
STREAM_SAMPLES = 1 << 20  # decoded at once of a recording that is read in blocks (4 MiB)
AV_SECONDS = 60  # the same, of one that FFmpeg decodes

Count = TypeVar("Count", int, npt.NDArray[np.int64])
Waveform = npt.NDArray[np.float32]


def load_waveform(
    audio: Path,
    start: float = 0.0,
    end: float | None = None,
    *,
    channel: int | None = None,
    within: tuple[int, int] | None = None,
    max_samples: int | None = None,
) -> Waveform:
    """The span `start` to `end` (seconds; None: the file's end): float32 `(num_samples,)`, mono, 16 kHz.

    Only the span is decoded. Channels are averaged, unless one is chosen (from 0). within: offset and number of bytes
    of the recording in `audio`, if that holds several. Safe to call from several threads. Raises TooLongError, without
    decoding, if the span has more than max_samples; AudioError for a file that is missing, unreadable, empty or cut
    short, samples that are not finite or far above full scale, channels that cancel each other, and a span outside the
    file (by more than 0.05 s at its end).
    """
    with opened_recording(audio, within) as recording:
        recording.max_samples = max_samples
        samples, sample_rate = _decode(recording, start, end, channel)
        wanted = num_samples_of(len(samples), sample_rate)
        if sample_rate != SAMPLE_RATE:
            samples = soxr.resample(samples, sample_rate, SAMPLE_RATE, quality="HQ")
        if not len(samples) or not wanted:
            fail(recording, "holds no samples here", "remove its row or correct its start and end")
        if not np.isfinite(samples).all():
            fail(recording, "holds samples that are not finite", convert(recording))
        require_usual_levels(recording, samples)
    return np.ascontiguousarray(samples, dtype=np.float32)


def stream_waveform(audio: Path, channel: int | None = None) -> Iterator[Waveform]:
    """Yield a whole recording in blocks; together they equal `load_waveform` up to rounding.

    Raises AudioError as `load_waveform` does; for damage in the middle, when it is reached.
    """
    with opened_recording(audio, None) as recording:
        total = 0
        resampler: soxr.ResampleStream | None = None
        for samples, sample_rate, last in _blocks(recording, channel):
            if sample_rate != SAMPLE_RATE:
                if resampler is None:
                    resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
                samples = resampler.resample_chunk(samples, last=last)
            if not np.isfinite(samples).all():
                fail(recording, "holds samples that are not finite", convert(recording))
            require_usual_levels(recording, samples)
            total += len(samples)
            yield np.ascontiguousarray(samples, dtype=np.float32)
        if not total:
            fail(recording, "holds no samples", "give another file")


def load_utterance(utterance: Utterance, *, max_samples: int | None = None) -> Waveform:
    """The waveform of an utterance, (num_samples,) float32 at 16 kHz; raises AudioError as above."""
    row, within = utterance, utterance.within
    return load_waveform(row.audio, row.start, row.end, channel=row.channel, within=within, max_samples=max_samples)


def probe_audio(audio: Path, *, within: tuple[int, int] | None = None) -> tuple[int, int]:
    """Samples per channel and sample rate (Hz) of a recording, from its headers; raises AudioError as above."""
    with opened_recording(audio, within) as recording:
        if needs_av(recording.head):
            return _av_length(recording)
        with open_sound_file(recording) as file:
            return _num_frames(recording, file), _usual_rate(recording, file.samplerate)


def num_channels(audio: Path) -> int:
    """Number of channels of a recording, from its headers; raises AudioError as above."""
    with opened_recording(audio, None) as recording:
        if needs_av(recording.head):
            with recording.open() as raw:
                return channels_with_av(raw)
        with open_sound_file(recording) as file:
            return int(file.channels)


def num_samples_between(
    audio: Path, length: tuple[int, int], start: float, end: float | None, *, within: tuple[int, int] | None = None
) -> int:
    """Samples that `load_waveform` returns for a span, given `length` from `probe_audio`; AudioError if none."""
    num_frames, rate = length
    first = round(start * rate)
    last = num_frames if end is None else round(end * rate)
    if not first < last <= num_frames:
        _check_span(Recording(audio, within), first, last, num_frames, rate)
    return num_samples_of(min(last, num_frames) - first, rate)


def num_samples_of(num_frames: Count, rate: Count) -> Count:
    """Samples at 16 kHz for `num_frames` samples at `rate`, rounded as soxr does."""
    return (2 * num_frames * SAMPLE_RATE + rate) // (2 * rate)


def content_key(waveform: Waveform) -> str:
    """Hash (32 hexadecimal digits) of a waveform rounded to 16 bits, the same for copies in different files."""
    samples = np.clip(np.rint(waveform * np.float32(32_768)), -32_768, 32_767).astype("<i2")
    return hashlib.sha256(samples.tobytes()).hexdigest()[:32]


def _usual_rate(recording: Recording, rate: int) -> int:
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        fail(recording, f"has a sample rate of {rate} Hz", convert(recording))
    return rate


def _decode(recording: Recording, start: float, end: float | None, channel: int | None) -> tuple[Waveform, int]:
    if needs_av(recording.head):
        return _decode_av(recording, start, end, channel)
    with open_sound_file(recording) as file:
        rate = _usual_rate(recording, file.samplerate)
        if channel is not None and channel >= file.channels:
            fail_channel(recording, channel, file.channels)
        num_frames = _num_frames(recording, file)
        first = round(start * rate)
        last = num_frames if end is None else round(end * rate)
        _check_span(recording, first, last, num_frames, rate)
        last = min(last, num_frames)
        require_short(recording, num_samples_of(last - first, rate))
        if first:
            file.seek(first)
        samples = _read(recording, file, last - first, channel)
        return _completed(recording, samples, first, last, rate), rate


def _blocks(recording: Recording, channel: int | None) -> Iterator[tuple[Waveform, int, bool]]:
    """Yield (mono samples at the recording's own rate, that rate, whether they are the last)."""
    if needs_av(recording.head):
        yield from _av_blocks(recording, channel)
        return
    with open_sound_file(recording) as file:
        rate = _usual_rate(recording, file.samplerate)
        if channel is not None and channel >= file.channels:
            fail_channel(recording, channel, file.channels)
        num_frames = _num_frames(recording, file)
        size = max(1, STREAM_SAMPLES // file.channels)
        for first in range(0, num_frames, size):
            last = min(first + size, num_frames)
            samples = _read(recording, file, last - first, channel)
            # Only the end may be padded with silence; samples missing before it are an error.
            whole = _completed(recording, samples, first, last, rate)
            if last < num_frames and len(samples) < last - first:
                fail_cut_short(recording, f"{(first + len(samples)) / rate:.2f} s of {num_frames / rate:.2f} s decoded")
            yield whole, rate, last == num_frames


def _av_blocks(recording: Recording, channel: int | None) -> Iterator[tuple[Waveform, int, bool]]:
    num_frames, rate = _av_length(recording)
    first, block = 0, np.zeros(0, np.float32)
    with recording.open() as raw:
        for part in stream_with_av(raw, num_frames, AV_SECONDS * rate):
            if len(block):  # held back until it is known whether it is the last
                yield block, rate, False
            first, block = first + len(block), _one_channel(recording, part, channel)
    yield _completed(recording, block, first, num_frames, rate), rate, True


def _decode_av(recording: Recording, start: float, end: float | None, channel: int | None) -> tuple[Waveform, int]:
    num_frames, rate = _av_length(recording)
    first = round(start * rate)
    last = num_frames if end is None else round(end * rate)
    _check_span(recording, first, last, num_frames, rate)
    last = min(last, num_frames)
    require_short(recording, num_samples_of(last - first, rate))
    with recording.open() as raw:
        found = decode_with_av(raw, first / rate, last / rate)
    samples = _one_channel(recording, found, channel)
    return _completed(recording, samples[: last - first], first, last, rate), rate


def _one_channel(recording: Recording, found: Waveform, channel: int | None) -> Waveform:
    """One of (channels, samples), or their mean."""
    if channel is not None and channel >= len(found):
        fail_channel(recording, channel, len(found))
    return mixed(recording, found.T) if channel is None else found[channel]


def _av_length(recording: Recording) -> tuple[int, int]:
    with recording.open() as raw:
        num_frames, rate = probe_with_av(raw)
    _usual_rate(recording, rate)
    if not 0 < num_frames < MAX_FRAMES:
        fail(recording, "holds no samples", "fetch it again or remove its row")
    return num_frames, rate


def _completed(recording: Recording, samples: Waveform, first: int, last: int, rate: int) -> Waveform:
    """Pad to exactly `last - first` samples, so that headers alone determine an utterance's length.

    At most 0.05 s of silence are added, for rounding.
    """
    missing = last - first - len(samples)
    if missing > EDGE_SECONDS * rate:
        fail_cut_short(recording, f"{(first + len(samples)) / rate:.2f} s of {last / rate:.2f} s decoded")
    return np.pad(samples, (0, missing)) if missing and len(samples) else samples


def _num_frames(recording: Recording, file: Any) -> int:
    """Samples per channel in the file; raises AudioError if it is cut short."""
    num_frames = int(file.frames)
    edge = EDGE_SECONDS * (rate := file.samplerate)
    with recording.open() as raw:
        if file.format == "OGG":
            if not containers.ogg_ends(raw):
                fail_cut_short(recording, "its last page lacks the end-of-stream mark")
        elif file.format == "MP3":
            counted = containers.mp3_samples_without_header(raw)
            if counted is not None:
                if not counted[1]:
                    fail_cut_short(recording, "its last MP3 frame is incomplete")
                if counted[0] > num_frames + edge:
                    seconds = f"{num_frames / rate:.2f} s of {counted[0] / rate:.2f} s"
                    problem = f"is an MP3 without a length header: only {seconds} would be read"
                    fail(recording, problem, convert(recording))
                num_frames = min(num_frames, counted[0])
        missing = containers.missing_share(raw)
    if num_frames >= MAX_FRAMES:
        # soundfile seeks after each read, and libsndfile cannot in such a file.
        fail(recording, "is a stream whose header gives no length", convert(recording))
    if num_frames <= 0:
        fail(recording, "holds no samples", "fetch it again or remove its row")
    if missing * num_frames > edge:
        promised = num_frames * (1 + missing) / rate
        fail_cut_short(recording, f"its header declares {promised:.2f} s, it holds {num_frames / rate:.2f} s")
    return num_frames


def _check_span(recording: Recording, first: int, last: int, num_frames: int, rate: int) -> None:
    remedy = "correct start, end or duration in the manifest"
    seconds = f"the file is {num_frames / rate:.2f} s long"
    if first >= num_frames:
        fail(recording, f"the span starts at {first / rate:.2f} s and {seconds}", remedy)
    if last > num_frames + EDGE_SECONDS * rate:
        fail(recording, f"the span ends at {last / rate:.2f} s and {seconds}", remedy)
    if last <= first:
        fail(recording, f"the span from {first / rate:.2f} to {last / rate:.2f} s holds no samples", remedy)


def _read(recording: Recording, file: Any, num_frames: int, channel: int | None) -> Waveform:
    """Read `num_frames` samples from the current position; fewer if the file ends earlier."""
    block_frames = max(1, BLOCK_SAMPLES // file.channels)
    blocks: list[Waveform] = []
    left = num_frames
    while left > 0:
        wanted = min(left, block_frames)
        block = file.read(wanted, dtype="float32", always_2d=True)
        if not np.isfinite(block).all():
            fail(recording, "holds samples that are NaN or infinite", "repair or replace it")
        one = block.shape[1] == 1 or channel is not None
        # A view of one channel would keep all of them.
        blocks.append(np.ascontiguousarray(block[:, channel or 0]) if one else mixed(recording, block))
        left -= wanted
        if len(block) < wanted:
            break
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
