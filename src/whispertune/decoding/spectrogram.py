"""The log-mel of a whole recording, read forwards window by window, in memory that does not grow with its length.

openai-whisper's `transcribe` computes the log-mel of the whole file at once: its floor lies 80 dB below the loudest
point of the *file*, and a window holds zeros after the end of the file. So a recording is read twice, once for that
floor and the length, once for the windows; a short one is kept from the first time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from whispertune.data.audio.waveforms import Waveform, stream_waveform
from whispertune.features.frames import convolved_index, select_frames
from whispertune.features.log_mel import (
    DYNAMIC_RANGE,
    FFT_SIZE,
    HOP_SAMPLES,
    SAMPLE_RATE,
    SILENT_MEL_FRAMES,
    WINDOW_MEL_FRAMES,
    mel_filters,
)
from whispertune.features.options import FrameOptions
from whispertune.states.computed import WindowFeatures

KEPT_SECONDS = 1200
"""A recording up to 20 minutes is decoded once, and its log-mel kept: 38 MB with 80 mels."""
BLOCK_MEL_FRAMES = 3000
"""Spectra computed at once."""
FRAMES_BEYOND = 3
"""Frames after a recording's last whole hop that still cover some of its samples."""
SILENT_LOG_POWER = -10.0
"""log10 of the least power that counts."""


class Spectrogram:
    """The log-mel of one recording, or of one channel of it. num_frames: of 10 ms each, without those after its end.

    Raises:
        AudioError: if the recording cannot be read, now or in `window`.
    """

    def __init__(self, audio: Path, n_mels: int, channel: int | None = None) -> None:
        self.audio = audio
        kept: list[Tensor] | None = []
        loudest, num_frames, num_samples = -torch.inf, 0, 0

        def counted() -> Iterator[Waveform]:
            nonlocal num_samples
            for block in stream_waveform(audio, channel):
                num_samples += len(block)
                yield block

        for block in _log_power(counted(), n_mels):
            loudest = max(loudest, float(block.max()))
            num_frames += block.shape[1]
            if kept is not None:
                kept.append(block)
                if num_frames > KEPT_SECONDS * SAMPLE_RATE // HOP_SAMPLES:
                    kept = None
        self.num_frames = num_samples // HOP_SAMPLES
        self.duration = num_samples / SAMPLE_RATE
        self._floor = loudest - DYNAMIC_RANGE
        self._source = iter(kept) if kept is not None else _log_power(stream_waveform(audio, channel), n_mels)
        self._blocks: deque[Tensor] = deque()
        self._begin = self._end = 0  # the frames that these blocks span

    @property
    def silence(self) -> float:
        """The log-mel value of silence after the recording's end."""
        return (max(self._floor, SILENT_LOG_POWER) + 4.0) / 4.0

    def window(self, begin: int, *, beyond: bool = False) -> Tensor:
        """Log-mel (n_mels, M) of the window from `begin` on: M is 3000, or less where the recording ends.

        Column by column what openai-whisper's `transcribe` computes. `begin` must never decrease (ValueError). With
        `beyond` the few frames after the end that still cover speech are included.
        """
        if begin < self._begin:
            raise ValueError(f"frame {begin} is no longer held; the first one that is held is {self._begin}")
        end = min(begin + WINDOW_MEL_FRAMES, self.num_frames + (FRAMES_BEYOND if beyond else 0))
        while self._end < end:
            block = next(self._source)
            self._blocks.append(block)
            self._end += block.shape[1]
        while self._blocks and self._begin + self._blocks[0].shape[1] <= begin:
            self._begin += self._blocks.popleft().shape[1]
        log_power = torch.cat(list(self._blocks), dim=1)[:, begin - self._begin : end - self._begin]
        return (log_power.clamp(min=self._floor) + 4.0) / 4.0


def padded_features(log_mel: Tensor, frames: FrameOptions, *, padding: float = 0.0) -> WindowFeatures:
    """Features of a window that begins with `log_mel` (n_mels, M) and is filled up with `padding`."""
    num_frames = log_mel.shape[1]
    padded = num_frames + SILENT_MEL_FRAMES
    padded = min(WINDOW_MEL_FRAMES, padded + padded % 2)
    log_mel = torch.nn.functional.pad(log_mel, (0, padded - num_frames), value=padding)
    selection = select_frames(num_frames * HOP_SAMPLES, frames)
    index = convolved_index(selection.positions, padded)
    return WindowFeatures(log_mel, selection.positions, selection.counts, index)


def _log_power(blocks: Iterator[Waveform], n_mels: int) -> Iterator[Tensor]:
    """log10 of mel power (n_mels, M) of a recording with silence after it, in blocks, before any floor.

    Frame t is centred on sample 160 t. After frame `num_samples // 160` come a few more: three may still cover speech.
    """
    window = torch.hann_window(FFT_SIZE)
    filters = mel_filters(n_mels)
    rest = np.zeros(0, np.float32)
    started = False

    def spectra(final: bool) -> Iterator[Tensor]:
        nonlocal rest
        wanted = BLOCK_MEL_FRAMES * HOP_SAMPLES + FFT_SIZE - HOP_SAMPLES
        while len(rest) >= (FFT_SIZE if final else wanted):
            audio = torch.from_numpy(rest[:wanted])
            spectrum = torch.stft(audio, FFT_SIZE, HOP_SAMPLES, window=window, center=False, return_complex=True)
            rest = rest[spectrum.shape[1] * HOP_SAMPLES :]
            yield (filters @ spectrum.abs().square()).clamp(min=10**SILENT_LOG_POWER).log10()

    def mirrored(samples: Waveform) -> Waveform:
        """The samples with their first 200 mirrored in front of them."""
        return np.pad(samples, (FFT_SIZE // 2, 0), mode="reflect")

    for block in blocks:
        rest = np.concatenate([rest, block])
        if not started and len(rest) > FFT_SIZE // 2:
            rest, started = mirrored(rest), True
        if started:
            yield from spectra(final=False)
    silence = np.zeros(FFT_SIZE + HOP_SAMPLES, np.float32)
    rest = np.concatenate([rest, silence])
    if not started:  # shorter than the part to be mirrored: the silence after it is mirrored, too
        rest = mirrored(rest)
    yield from spectra(final=True)
