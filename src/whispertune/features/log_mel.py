"""Whisper's log-mel features of the speech, without computing the silence after it.

After the speech Whisper's log-mel is one constant, the utterance's own floor. The encoder's two convolutions see two
frames to each side, so they need only the speech and a few frames of that floor: the last frame of their output is
the window's right edge, and the last but one equals every other silent frame.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""480000 samples in a 30 s window."""
FFT_SIZE = 400
"""25 ms."""
HOP_SAMPLES = 160
"""10 ms between log-mel frames."""
WINDOW_MEL_FRAMES = WINDOW_SAMPLES // HOP_SAMPLES
"""3000 log-mel frames in a window."""
SILENT_MEL_FRAMES = 6
"""Frames of the floor after the speech: enough for one interior silent encoder frame and the edge."""
DYNAMIC_RANGE = 8.0
"""The floor lies this far (log10 units, 80 dB) below the utterance's maximum."""


@functools.cache
def mel_filters(n_mels: int) -> Tensor:
    """Slaney's mel filter bank (n_mels, 201) for 16 kHz and 400-point spectra, each filter of unit area.

    The scale is linear below 1000 Hz (200/3 Hz a mel) and logarithmic above (27 mels to each factor of 6.4):
    Slaney, Auditory Toolbox, 1998.
    """
    hz_per_mel, knee, log_step = 200.0 / 3, 1000.0, math.log(6.4) / 27
    knee_mel = knee / hz_per_mel
    top = knee_mel + math.log(SAMPLE_RATE / 2 / knee) / log_step
    mels = np.linspace(0.0, top, n_mels + 2)
    edges = np.where(mels < knee_mel, mels * hz_per_mel, knee * np.exp(log_step * (mels - knee_mel)))
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1)
    rising = (frequencies[None] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies[None]) / np.diff(edges)[1:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    filters = np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]
    return torch.from_numpy(filters).float()


@functools.cache
def _hann_window() -> Tensor:
    return torch.hann_window(FFT_SIZE)


def num_speech_mel_frames(num_samples: int) -> int:
    """Log-mel frames that see at least one sample (frame t is centred on sample 160 t and sees 200 each way)."""
    return min(WINDOW_MEL_FRAMES, -(-(num_samples + FFT_SIZE // 2) // HOP_SAMPLES))


def log_mel_speech(waveform: np.ndarray | Tensor, n_mels: int) -> Tensor:
    """Log-mel (n_mels, M) of the speech and a few silent frames after it, M even and at most 3000.

    waveform: (num_samples,) float32 at 16 kHz, at most 480000 samples (else ValueError).
    Column t equals column t of Whisper's (n_mels, 3000) features of the zero-padded 30 s window, whose columns from
    M - 6 on all equal the last one here.
    """
    audio = torch.as_tensor(waveform, dtype=torch.float32)
    num_samples = audio.shape[0]
    if num_samples > WINDOW_SAMPLES:
        raise ValueError(f"{num_samples} samples do not fit in a window of {WINDOW_SAMPLES}")
    num_frames = num_speech_mel_frames(num_samples) + SILENT_MEL_FRAMES
    num_frames = min(WINDOW_MEL_FRAMES, num_frames + num_frames % 2)
    audio = torch.nn.functional.pad(audio, (0, num_frames * HOP_SAMPLES - num_samples))
    spectrum = torch.stft(
        audio,
        FFT_SIZE,
        HOP_SAMPLES,
        window=_hann_window(),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    power = spectrum[:, :-1].abs().square()  # the last frame is dropped, as Whisper does
    log_mel = (mel_filters(n_mels) @ power).clamp(min=1e-10).log10()
    log_mel = log_mel.clamp(min=float(log_mel.max()) - DYNAMIC_RANGE)
    return (log_mel + 4.0) / 4.0
