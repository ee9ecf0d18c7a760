"""A run put together from its recipe: model, data, and the states that its parts draw on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from whispertune.augment.pipeline import WaveformAugmenter, generator_for
from whispertune.augment.spec_augment import spec_augment
from whispertune.console import console, progress_bar
from whispertune.errors import RecipeError
from whispertune.features import num_speech_mel_frames
from whispertune.frames import FrameOptions
from whispertune.loading import ReadyModel, load_model
from whispertune.model.whisper import Encoder
from whispertune.precision import precision_name, resolve_device, resolve_precision
from whispertune.recipe import Recipe
from whispertune.run_folder import RunFolder, write_jsonl
from whispertune.splits import Split, TextSettings, excluded_summary, load_split, read_rows, require_usable
from whispertune.states import (
    ComputedStates,
    EncoderStates,
    StoredStates,
    WindowFeatures,
    window_features,
)
from whispertune.text.languages import language_code
from whispertune.training.freeze import apply_freeze, encoder_is_frozen
from whispertune.training.resume import StopSignal
from whispertune.training.working_copy import WorkingCopy
from whispertune.windows import window_waveform


@dataclass(slots=True)
class Session:
    """Everything of one run that is ready before its first step."""

    recipe: Recipe
    folder: RunFolder
    stop: StopSignal
    device: torch.device
    dtype: torch.dtype
    ready: ReadyModel
    working: WorkingCopy
    text: TextSettings
    train: Split
    valid: Split
    test: Split | None
    frozen: bool
    augmenter: WaveformAugmenter | None
    frames: FrameOptions

    def features(self, split: Split, index: int, frames: FrameOptions) -> WindowFeatures:
        """Features of one window as it is."""
        return window_features(window_waveform(split.windows[index]), self.ready.n_mels, frames)

    def augmented_features(self, index: int, view: int) -> list[WindowFeatures]:
        """The copies of a training window that a step sees: augmented, beside the clean one if asked for."""
        clean = [self.features(self.train, index, self.frames)] if self.copies == 2 or not self.augmenter else []
        if self.augmenter is None:
            return clean
        window, seed = self.train.windows[index], self.recipe.seed
        waveform = window_waveform(window, self.augmenter, seed=seed, view=view)
        speech = num_speech_mel_frames(len(waveform))
        options = self.recipe.augment.spec_augment
        generator = generator_for(seed, view, f"{window.id}/spec")

        def mask(log_mel: np.ndarray) -> np.ndarray:
            log_mel[:, :speech] = spec_augment(log_mel[:, :speech], options, generator)
            return log_mel

        return [*clean, window_features(waveform, self.ready.n_mels, self.frames, mask)]

    @property
    def copies(self) -> int:
        return 2 if self.augmenter is not None and self.recipe.augment.keep_original else 1

    @property
    def keeps_states(self) -> bool:
        """Whether training states are encoded once: frozen encoder, fixed waveforms."""
        store = self.recipe.states.store
        fixed = self.frozen and self.augmenter is None
        if store == "memory" and not fixed:
            reason = "the encoder learns" if not self.frozen else "waveforms are augmented"
            raise RecipeError(f"states.store is memory, but {reason}: states change; take auto or off")
        return fixed and store != "off"

    def store(self, split: Split, what: str) -> StoredStates:
        """States of a split, encoded once, with a progress bar."""
        store = StoredStates(split.num_samples, self.frames, self.ready.checkpoint.config.d_model, self.dtype)
        features = partial(self.features, split, frames=self.frames)
        with progress_bar(f"encoding {what}", len(split.windows)) as advance:
            for count in store.fill(self.working.model.encoder, features, workers=self.recipe.data.workers):
                advance(count)
                self.stop.check()
        return store

    def computed(
        self, split: Split, encoder: Encoder, frames: FrameOptions
    ) -> Callable[[Sequence[int]], EncoderStates]:
        """States of a split encoded at each use by this encoder."""
        return ComputedStates(
            encoder, lambda index, _: [self.features(split, index, frames)], workers=self.recipe.data.workers
        ).fetch


def open_session(recipe: Recipe, folder: RunFolder, stop: StopSignal) -> Session:
    """Load the model and look at all data; nothing is computed yet.

    Raises:
        UserError: whatever is wrong with recipe, model or data.
    """
    device = resolve_device(recipe.device)
    dtype = resolve_precision(recipe.precision, device)
    for name in ("train", "valid", "test"):
        manifest = getattr(recipe, name)
        if manifest is not None and not Path(manifest).is_file():
            raise RecipeError(f"--{name} {manifest}: no such file")
    language = None if recipe.language is None else language_code(recipe.language)
    augmenter = WaveformAugmenter(recipe.augment) if recipe.augment.enabled else None
    ready = load_model(recipe.model, device)
    text = TextSettings(ready.tokenizer, language, recipe.task, recipe.loss.prompt_tokens)
    if language is not None:
        ready.tokenizer.prompt_tokens(language, recipe.task)  # refuses what this model does not know
    splits = {
        name: _load(name, manifest, text, recipe, stop)
        for name in ("train", "valid", "test")
        if (manifest := getattr(recipe, name))
    }
    excluded = [exclusion for split in splits.values() for exclusion in split.excluded]
    write_jsonl(folder.excluded, [dataclasses.asdict(exclusion) for exclusion in excluded])
    for line in excluded_summary(excluded):
        console.print(f"left out  {line}", style="yellow")
    if excluded:
        console.print(f"all {len(excluded)} left out are listed in {folder.excluded}")
    require_usable(list(splits.values()), recipe.data)
    stitched = splits["train"].add_stitched(recipe.windows, text, recipe.seed)
    trainable, total = apply_freeze(ready.whisper, recipe.freeze)
    if trainable == 0:
        raise RecipeError(f"freeze is {recipe.freeze!r}, which leaves nothing to train")
    session = Session(
        recipe, folder, stop, device, dtype, ready, WorkingCopy(ready.whisper, dtype), text,
        splits["train"], splits["valid"], splits.get("test"),
        encoder_is_frozen(ready.whisper), augmenter, recipe.frames,
    )  # fmt: skip
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    console.print(f"model     {recipe.model}: {trainable:,} of {total:,} parameters learn (freeze: {recipe.freeze})")
    console.print(f"device    {device}, {precision_name(dtype)}{threads}")
    for split in splits.values():
        extra = f", {stitched} of them stitched" if split.name == "train" and stitched else ""
        console.print(f"{split.name:<9} {len(split.windows)} windows{extra}, {60 * split.hours:.1f} minutes")
    return session


def _load(name: str, manifest: str, text: TextSettings, recipe: Recipe, stop: StopSignal) -> Split:
    rows = read_rows(name, Path(manifest))
    with progress_bar(f"checking {name}", len(rows)) as advance:

        def advance_or_stop(amount: int) -> None:
            advance(amount)
            stop.check()

        return load_split(name, rows, text, recipe.data, advance=advance_or_stop)
