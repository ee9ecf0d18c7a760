"""Augmentation, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from whispertune.errors import RecipeError
from whispertune.system.fields import Bounds, Options, Share

Number = Annotated[int, Bounds(ge=1, le=100)]
Frequency = Annotated[float, Bounds(ge=0, le=8000)]
"""Up to the Nyquist frequency of 16 kHz."""
Ratio = Annotated[float, Bounds(ge=-30, le=100)]
Seconds = Annotated[float, Bounds(ge=0, le=30)]
Masks = Annotated[int, Bounds(ge=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(Options):
    """Speed perturbation: tempo and pitch are changed together (Ko et al. 2015)."""

    probability: Share = 0.0
    """Probability that the speed of an utterance is changed."""
    factors: Annotated[tuple[float, ...], Bounds(ge=0.5, le=2)] = (0.95, 1.0, 1.05)
    """Speeds to draw from, each equally likely; 1.05 plays 5 % faster."""


@dataclass(frozen=True, kw_only=True)
class DropFrequencyOptions(Options):
    """Frequency dropout: a few narrow bands of the spectrum are removed."""

    probability: Share = 0.0
    """Probability that an utterance loses frequency bands."""
    max_bands: Number = 3
    """Maximum number of bands to remove; the number is drawn uniformly, from 1 on."""
    width_hz: Annotated[float, Bounds(ge=1, le=8000)] = 300.0
    """Width of each removed band in Hz."""
    lowest_hz: Frequency = 100.0
    """Lower limit of all bands in Hz."""
    highest_hz: Frequency = 7500.0
    """Upper limit of all bands in Hz (at most 8000, the Nyquist frequency)."""

    def check(self) -> None:
        if self.lowest_hz + self.width_hz > self.highest_hz:
            limits = f"lowest_hz ({self.lowest_hz:g}) and highest_hz ({self.highest_hz:g})"
            problem = f"is {self.width_hz:g}; it must fit between {limits}"
            raise RecipeError(problem, field="width_hz", others=("lowest_hz", "highest_hz"))


@dataclass(frozen=True, kw_only=True)
class DropChunkOptions(Options):
    """Chunk dropout: a few short stretches of an utterance are silenced."""

    probability: Share = 0.0
    """Probability that chunks of an utterance are silenced."""
    max_chunks: Number = 3
    """Maximum number of chunks to silence; the number is drawn uniformly, from 1 on."""
    min_duration: Seconds = 0.05
    """Minimum length of a chunk in seconds; it may be shorter where max_share requires it."""
    max_duration: Seconds = 0.125
    """Maximum length of a chunk in seconds."""
    max_share: Share = 0.1
    """Maximum share of an utterance that its chunks may silence together."""

    def check(self) -> None:
        self.require_order("min_duration", "max_duration")


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(Options):
    """Additive noise from your own recordings."""

    probability: Share = 0.0
    """Probability that noise is added to an utterance."""
    folder: str | None = None
    """Folder of noise recordings (wav, flac, ogg, opus, mp3), including its subfolders."""
    min_snr: Ratio = 5.0
    """Lowest signal-to-noise ratio in dB (the loudest noise)."""
    max_snr: Ratio = 20.0
    """Highest signal-to-noise ratio in dB (the faintest noise)."""

    def check(self) -> None:
        self.require_order("min_snr", "max_snr")
        if self.probability > 0 and not self.folder:
            problem = (
                f"is not set, but augment.noise.probability is {self.probability:g}; give a folder of noise recordings"
            )
            raise RecipeError(problem, field="folder", others=("probability",))


@dataclass(frozen=True, kw_only=True)
class SpecAugmentOptions(Options):
    """SpecAugment: stretches of time and bands of frequency of the log-mel spectrogram are masked.

    The defaults follow the "Switchboard mild" policy of Park et al. 2019 (2 + 2 masks, 15 bins) without
    its time warping (no major factor, they found) and with shorter time masks.
    """

    probability: Share = 0.0
    """Probability that the log-mel spectrogram of an utterance is masked."""
    time_masks: Masks = 2
    """Number of time masks."""
    max_time_share: Share = 0.05
    """Maximum length of a time mask as a share of the utterance."""
    frequency_masks: Masks = 2
    """Number of frequency masks."""
    max_frequency_bins: Annotated[int, Bounds(ge=0, le=128)] = 15
    """Maximum width of a frequency mask in mel bins (of 80 or 128)."""


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(Options):
    """Augmentation of the training data; each kind is off until it is given a probability."""

    speed: SpeedOptions = field(default_factory=SpeedOptions)
    drop_frequency: DropFrequencyOptions = field(default_factory=DropFrequencyOptions)
    drop_chunk: DropChunkOptions = field(default_factory=DropChunkOptions)
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    spec_augment: SpecAugmentOptions = field(default_factory=SpecAugmentOptions)
    keep_original: bool = False
    """Train on the clean copy of each utterance as well as the augmented one."""
    views: Annotated[int | Literal["fresh", "auto"], Bounds(ge=1)] = "auto"
    """`fresh` draws new augmented copies in every epoch. A number K draws K copies, which are encoded once and stored
    while the encoder is frozen: epoch e trains on copy e modulo K. `auto` is fresh in runs of up to 4 epochs, where
    the encoder is trained, and where the copies fit nowhere; otherwise it is at least 4 copies, and no more than can
    be encoded in half of the training time. That time is computed, not measured, so that a run repeats exactly."""

    @property
    def enabled(self) -> bool:
        """Whether anything is augmented at all."""
        parts = (self.speed, self.drop_frequency, self.drop_chunk, self.noise, self.spec_augment)
        return any(part.probability > 0 for part in parts)
