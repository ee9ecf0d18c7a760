"""A run put together from its recipe: model, data, states, trainer, and the test at its end."""

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
from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.console import console, progress_bar
from whispertune.decoding.windows import GREEDY
from whispertune.errors import RecipeError
from whispertune.features import num_speech_mel_frames
from whispertune.frames import DENSE, FrameOptions
from whispertune.loading import ReadyModel, load_model
from whispertune.model.whisper import Encoder, build_whisper
from whispertune.precision import precision_name, resolve_device, resolve_precision
from whispertune.recipe import Recipe
from whispertune.run_folder import RunFolder, replacing_folder, write_jsonl
from whispertune.splits import Split, TextSettings, excluded_summary, load_split, read_rows, require_usable
from whispertune.states import (
    ComputedStates,
    EncoderStates,
    StateSource,
    StoredStates,
    WindowFeatures,
    window_features,
)
from whispertune.text.languages import language_code
from whispertune.training.freeze import apply_freeze, encoder_is_frozen
from whispertune.training.optimiser import build_optimizer
from whispertune.training.resume import Progress, StopSignal, load_state
from whispertune.training.schedule import Schedule, build_schedule
from whispertune.training.thinning import CHECKED_WINDOWS, divergence, faithful_stride
from whispertune.training.trainer import Trainer, total_steps
from whispertune.training.validate import Contender, Evaluation, evaluate_split, token_caps
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


def check_thinning(session: Session, progress: Progress) -> None:
    """Compare thinned with dense windows on a few training clips; take a denser stride where they disagree."""
    if session.frames.selection == "dense":
        return
    if progress.stride is None:
        singles = [i for i, window in enumerate(session.train.windows) if len(window.utterances) == 1]
        step = max(1, len(singles) // CHECKED_WINDOWS)
        whisper = session.working.model
        stride, measured = faithful_stride(
            lambda frames: divergence(
                whisper.encoder, whisper.decoder, partial(session.features, session.train),
                singles[::step][:CHECKED_WINDOWS], session.train.targets, frames,
                pad_id=session.ready.checkpoint.pad_token_id,
            ),
            session.frames,
        )  # fmt: skip
        found = measured[-1]
        console.print(
            f"frames    thinned: {found.frames:.0f} of 1500 a window; against dense KL {found.kl:.3f} nats, "
            f"same argmax {100 * found.same_argmax:.1f} % of {found.num_tokens} tokens"
        )
        if stride != session.frames.stride:
            console.print(f"frames    stride {session.frames.stride} strays too far; taking {stride}", style="yellow")
        progress.stride = stride
    session.frames = dataclasses.replace(session.frames, stride=progress.stride)


def build_run_schedule(session: Session) -> Schedule:
    """The schedule of this run, told to the user."""
    recipe = session.recipe
    total = total_steps(
        len(session.train.windows), recipe.batch_size, recipe.accumulation, recipe.epochs, recipe.max_steps
    )
    schedule = build_schedule(recipe.schedule, d_model=session.ready.checkpoint.config.d_model, total_steps=total)
    console.print(
        f"schedule  {recipe.schedule.name}: peak {schedule.peak_lr:.3g} "
        f"after {schedule.warmup_steps} of {total} updates"
    )
    if schedule.warmup_steps > total:
        console.print(
            f"schedule  the warm-up is longer than the whole run: the rate only reaches {schedule(total):.3g}; "
            "lower schedule.warmup_steps, or train longer",
            style="yellow",
        )
    return schedule


def build_trainer(session: Session, schedule: Schedule, progress: Progress) -> Trainer:
    """Encode what stays fixed, put saved weights back, and hand everything to the loop."""
    recipe, whisper = session.recipe, session.ready.whisper
    optimizer = build_optimizer(whisper, recipe.optimizer)
    if session.folder.state.exists():
        load_state(session.folder.state, whisper, optimizer)
        session.working.refresh()
    train_states: StateSource
    if session.keeps_states:
        train_states = session.store(session.train, "train")
    else:
        train_states = ComputedStates(
            session.working.model.encoder,
            session.augmented_features,
            workers=recipe.data.workers,
            trained=not session.frozen,
        )
    stored_valid = session.store(session.valid, "valid") if session.frozen and recipe.states.store != "off" else None
    caps = token_caps(session.valid, recipe.validation)

    def validate(advance: Callable[[int], None]) -> Evaluation:
        decoder = session.working.model.decoder
        if stored_valid is None:
            fetch = session.computed(session.valid, session.working.model.encoder, session.frames)
        else:
            fetch = lambda indices: stored_valid.fetch(indices).to(session.device, session.dtype)  # noqa: E731
        (found,) = evaluate_split(
            session.valid, [Contender("valid", decoder, fetch, GREEDY)], session.ready.tokenizer, session.ready.rules,
            pad_id=session.ready.checkpoint.pad_token_id,
            frames=session.frames, max_tokens=caps, cut_loops=recipe.validation.cut_loops, advance=advance,
        )  # fmt: skip
        return found

    return Trainer(
        model=whisper, working=session.working, optimizer=optimizer, schedule=schedule,
        train_split=session.train, train_states=train_states,
        validate=validate, save_best=partial(save_best, session), folder=session.folder, progress=progress,
        stop=session.stop, device=session.device, dtype=session.dtype, pad_id=session.ready.checkpoint.pad_token_id,
        epochs=recipe.epochs, max_steps=recipe.max_steps, batch_size=recipe.batch_size,
        accumulation=recipe.accumulation, seed=recipe.seed, copies=session.copies, loss=recipe.loss,
        optimizer_options=recipe.optimizer, checkpoint=recipe.checkpoint,
        validate_every=recipe.validation.every_steps, valid_size=len(session.valid.windows),
        frames_name=session.frames.selection,
    )  # fmt: skip


def _common(values: Sequence[str]) -> str | None:
    """The value all share, or None."""
    return values[0] if len(set(values)) == 1 else None


def save_best(session: Session, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the model as it stands (or these weights) to best/, replacing what is there at once."""
    language = _common(session.train.languages)
    tasks = [window.utterances[0].task or session.recipe.task for window in session.train.windows]
    with replacing_folder(session.folder.best) as folder:
        save_huggingface(
            folder,
            session.ready.checkpoint,
            session.ready.whisper.state_dict() if weights is None else weights,
            language=language,
            task=_common(tasks) or "transcribe",
            model_card=model_card(session, language),
        )


def model_card(session: Session, language: str | None) -> str:
    """The README of a saved model: where it comes from and how to use it."""
    recipe = session.recipe
    header = [f"language: {language}"] if language else []
    header += [
        "library_name: transformers",
        "pipeline_tag: automatic-speech-recognition",
        "tags: [whisper, whispertune]",
    ]
    return "\n".join(
        ["---", *header, "---", f"# {Path(recipe.output).name}", "",
         f"`{recipe.model}`, fine-tuned with whispertune on {len(session.train.audio_keys)} utterances "
         f"(freeze: {recipe.freeze}, seed {recipe.seed}). The exact recipe is in the run's `recipe.yaml`.", "",
         "```python", "from transformers import pipeline", "",
         'transcribe = pipeline("automatic-speech-recognition", model="PATH/TO/THIS/FOLDER")',
         'print(transcribe("audio.wav")["text"])', "```", ""]
    )  # fmt: skip


def evaluate_test(session: Session) -> list[Evaluation]:
    """Baseline and best on the test split: greedy and with the recipe's beam, dense, bounded by 448 tokens only."""
    split = session.test
    assert split is not None
    searches = [GREEDY] if session.recipe.search.beam_size == 1 else [GREEDY, session.recipe.search]
    config = session.ready.checkpoint.config
    weights = {
        "baseline": session.ready.checkpoint.weights,
        "best": load_checkpoint(str(session.folder.best)).weights,
    }
    contenders = []
    fetch: Callable[[Sequence[int]], EncoderStates] | None = None
    for name, tensors in weights.items():
        whisper = build_whisper(config, tensors, session.dtype).to(session.device)
        if fetch is None or not session.frozen:
            fetch = session.computed(split, whisper.encoder, DENSE)
        contenders += [Contender(name, whisper.decoder, fetch, search) for search in searches]
    with progress_bar("test: dense, greedy + beam", len(split.windows) * len(contenders)) as advance:

        def advance_or_stop(amount: int) -> None:
            advance(amount)
            session.stop.check()

        return evaluate_split(
            split, contenders, session.ready.tokenizer, session.ready.rules,
            pad_id=session.ready.checkpoint.pad_token_id, frames=DENSE,
            max_tokens=token_caps(split, None), cut_loops=False, advance=advance_or_stop,
        )  # fmt: skip
