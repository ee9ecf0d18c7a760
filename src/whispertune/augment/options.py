"""Augmentation, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from whispertune.augment.bounds import require_between
from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """How often and how much the speed is changed."""

    probability: float = 0.0
    """Share of utterances whose speed is drawn anew, 0 to 1."""
    factors: tuple[float, ...] = (0.95, 1.0, 1.05)
    """Speeds to draw from, each as likely; 1.05 plays 5 % faster."""

    def __post_init__(self) -> None:
        require_between("speed.probability", self.probability, 0, 1)
        if not self.factors:
            raise RecipeError("augment.speed.factors is empty; give at least one speed, such as 1.05")
        for factor in self.factors:
            require_between("speed.factors", factor, 0.5, 2)


@dataclass(frozen=True, kw_only=True)
class DropFrequencyOptions:
    """How often bands are dropped, how many, where and how wide."""

    probability: float = 0.0
    """Share of utterances that lose frequency bands, 0 to 1."""
    max_bands: int = 3
    """An utterance loses 1 to this many bands."""
    width_hz: float = 300.0
    """Width of each dropped band, in Hz."""
    lowest_hz: float = 100.0
    """Bands lie above this frequency, in Hz."""
    highest_hz: float = 7500.0
    """Bands lie below this frequency, in Hz (at most 8000)."""

    def __post_init__(self) -> None:
        nyquist = 8000  # of 16 kHz
        require_between("drop_frequency.probability", self.probability, 0, 1)
        require_between("drop_frequency.max_bands", self.max_bands, 1, 100)
        require_between("drop_frequency.width_hz", self.width_hz, 1, nyquist)
        require_between("drop_frequency.lowest_hz", self.lowest_hz, 0, nyquist)
        require_between("drop_frequency.highest_hz", self.highest_hz, 0, nyquist)
        if self.lowest_hz + self.width_hz > self.highest_hz:
            raise RecipeError(
                f"is {self.width_hz:g}; a band that wide does not fit "
                f"between lowest_hz ({self.lowest_hz:g}) and highest_hz ({self.highest_hz:g})",
                field="augment.drop_frequency.width_hz",
            )


@dataclass(frozen=True, kw_only=True)
class DropChunkOptions:
    """How often chunks are dropped, how many and how long."""

    probability: float = 0.0
    """Share of utterances that lose chunks, 0 to 1."""
    max_chunks: int = 3
    """An utterance loses 1 to this many chunks."""
    min_duration: float = 0.05
    """Shortest chunk, in seconds (less where max_share demands it)."""
    max_duration: float = 0.125
    """Longest chunk, in seconds."""
    max_share: float = 0.1
    """All chunks together never exceed this share of the utterance, 0 to 1."""

    def __post_init__(self) -> None:
        require_between("drop_chunk.probability", self.probability, 0, 1)
        require_between("drop_chunk.max_chunks", self.max_chunks, 1, 100)
        require_between("drop_chunk.min_duration", self.min_duration, 0, 30)
        require_between("drop_chunk.max_duration", self.max_duration, 0, 30)
        require_between("drop_chunk.max_share", self.max_share, 0, 1)
        if self.min_duration > self.max_duration:
            raise RecipeError(
                f"is {self.min_duration:g}; it must not exceed max_duration ({self.max_duration:g})",
                field="augment.drop_chunk.min_duration",
            )


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """How often noise is added, from where and how loud."""

    probability: float = 0.0
    """Share of utterances that noise is added to, 0 to 1."""
    folder: str | None = None
    """Folder of noise recordings (wav, flac, ogg, opus, mp3; subfolders count)."""
    min_snr: float = 5.0
    """Loudest noise: lowest signal-to-noise ratio, in dB."""
    max_snr: float = 20.0
    """Faintest noise: highest signal-to-noise ratio, in dB."""

    def __post_init__(self) -> None:
        require_between("noise.probability", self.probability, 0, 1)
        require_between("noise.min_snr", self.min_snr, -30, 100)
        require_between("noise.max_snr", self.max_snr, -30, 100)
        if self.min_snr > self.max_snr:
            raise RecipeError(
                f"is {self.min_snr:g}; it must not exceed max_snr ({self.max_snr:g})",
                field="augment.noise.min_snr",
            )
        if self.probability > 0 and not self.folder:
            raise RecipeError(
                f"is not set, but augment.noise.probability is {self.probability:g}; give a folder of noise recordings",
                field="augment.noise.folder",
            )


@dataclass(frozen=True, kw_only=True)
class SpecAugmentOptions:
    """How often the log-mel is masked, and how much of it.

    The defaults follow the "Switchboard mild" policy of Park et al. 2019 (2 + 2 masks, 15 bins) without
    its time warping (no major factor, they found) and with shorter time masks.
    """

    probability: float = 0.0
    """Share of utterances whose log-mel is masked, 0 to 1."""
    time_masks: int = 2
    """Number of masks in time."""
    max_time_share: float = 0.05
    """Longest time mask, as a share of the utterance, 0 to 1."""
    frequency_masks: int = 2
    """Number of masks in frequency."""
    max_frequency_bins: int = 15
    """Widest frequency mask, in mel bins (of 80 or 128)."""

    def __post_init__(self) -> None:
        require_between("spec_augment.probability", self.probability, 0, 1)
        require_between("spec_augment.time_masks", self.time_masks, 0, 100)
        require_between("spec_augment.max_time_share", self.max_time_share, 0, 1)
        require_between("spec_augment.frequency_masks", self.frequency_masks, 0, 100)
        require_between("spec_augment.max_frequency_bins", self.max_frequency_bins, 0, 128)


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """Augmentation of the training data; each part is off until it is given a probability."""

    speed: SpeedOptions = field(default_factory=SpeedOptions)
    """Play faster or slower."""
    drop_frequency: DropFrequencyOptions = field(default_factory=DropFrequencyOptions)
    """Remove frequency bands."""
    drop_chunk: DropChunkOptions = field(default_factory=DropChunkOptions)
    """Silence short chunks."""
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    """Mix in noise from a folder."""
    spec_augment: SpecAugmentOptions = field(default_factory=SpecAugmentOptions)
    """Mask the log-mel in time and frequency."""
    keep_original: bool = False
    """Train on the clean copy of each utterance beside the augmented one."""
    views: int | Literal["fresh", "auto"] = "auto"
    """`fresh` draws new augmented copies in every epoch; a number K has K of them, which are encoded once and stored
    while the encoder is frozen: epoch e trains on copy e modulo K. `auto`: fresh in runs of up to 4 epochs, where the
    encoder learns, and where they fit nowhere; else at least 4 copies, and no more than can be encoded in half of the
    time that training takes (by arithmetic, so that a run repeats exactly)."""

    def __post_init__(self) -> None:
        if isinstance(self.views, int) and self.views < 1:
            raise RecipeError(f"is {self.views}; it must be at least 1, fresh or auto", field="augment.views")

    @property
    def enabled(self) -> bool:
        """Whether anything is augmented at all."""
        parts = (self.speed, self.drop_frequency, self.drop_chunk, self.noise, self.spec_augment)
        return any(part.probability > 0 for part in parts)
