"""A run put together from its recipe: model, data, and everything that its stages share."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from whispertune.augment.pipeline import WaveformAugmenter, spec_mask
from whispertune.data.glossary import read_glossary
from whispertune.data.marked import MarkedRows, read_marked
from whispertune.data.sources import read_rows, require_sources
from whispertune.dataset.exclusions import excluded_summary
from whispertune.dataset.leakage import require_no_leaks
from whispertune.dataset.options import WindowOptions
from whispertune.dataset.splits import Arranged, Split, load_split, merged_rows, require_enough, require_usable
from whispertune.dataset.transcripts import TextSettings
from whispertune.decoding.loading import ReadyModel, allow_empty_output, load_model
from whispertune.errors import DataError, RecipeError
from whispertune.features.log_mel import num_speech_mel_frames
from whispertune.features.options import FrameOptions
from whispertune.model.whisper import Encoder
from whispertune.run.recipe import Recipe
from whispertune.run.run_folder import RunFolder
from whispertune.run.text_changes import report_text_changes
from whispertune.run.undivided import require_divided
from whispertune.states.computed import ComputedStates, WindowFeatures, window_features
from whispertune.system.console import console, progress_bar
from whispertune.system.counts import counted
from whispertune.system.files import write_jsonl
from whispertune.system.precision import Precision, make_deterministic, resolve_device, resolve_precision
from whispertune.system.processes import ALONE, Pace, Processes
from whispertune.text.languages import language_name
from whispertune.text.rules import read_rules
from whispertune.training.adapted_copy import AdaptedCopy, build_adapter
from whispertune.training.freeze import apply_freeze, encoder_is_frozen, frozen_encoder_layers
from whispertune.training.metrics import MetricsFile, RunLog
from whispertune.training.plan import BatchPlan, expected_draws
from whispertune.training.resume import Progress, StopSignal
from whispertune.training.working_copy import WorkingCopy


@dataclass(slots=True)
class Session:
    """Everything of one run that is ready before its first step.

    progress: where it stands; also the one holder of what was settled at its start (batches, stride, views).
    frozen: whether the encoder stays as it is. trains_timestamps: whether any training window has timestamps.
    """

    recipe: Recipe
    folder: RunFolder
    stop: StopSignal
    device: torch.device
    precision: Precision
    ready: ReadyModel
    working: WorkingCopy
    text: TextSettings
    train: Split
    valid: Split
    test: Split | None
    also_tests: list[Split]
    frozen: bool
    augmenter: WaveformAugmenter | None
    processes: Processes
    progress: Progress
    log: RunLog
    trains_timestamps: bool

    @property
    def frames(self) -> FrameOptions:
        """Frames of training and validation: the recipe's, with the stride that the self-check settled on."""
        stride = self.progress.stride
        return self.recipe.frames if stride is None else dataclasses.replace(self.recipe.frames, stride=stride)

    def features(self, split: Split, index: int, frames: FrameOptions) -> WindowFeatures:
        """Features of one window as it is."""
        waveform, readable = split.waveform(index)
        return window_features(waveform, self.ready.n_mels, frames, readable=readable)

    def augmented_features(self, index: int, view: int) -> WindowFeatures:
        """Features of the augmented copy of a training window."""
        assert self.augmenter is not None
        seed = self.recipe.seed
        waveform, readable = self.train.waveform(index, self.augmenter, seed=seed, view=view)
        options, speech = self.recipe.augment.spec_augment, num_speech_mel_frames(len(waveform))
        mask = spec_mask(options, speech, seed=seed, view=view, utterance_id=self.train.windows[index].id)
        return window_features(waveform, self.ready.n_mels, self.frames, mask, readable=readable)

    def copies_of(self, index: int, view: int) -> list[WindowFeatures]:
        """The copies of a training window that a step trains on: the augmented one, behind the clean one if both."""
        clean = [self.features(self.train, index, self.frames)] if self.copies == 2 or not self.augmenter else []
        return [*clean, self.augmented_features(index, view)] if self.augmenter else clean

    @property
    def copies(self) -> int:
        """Copies of each training window in a batch: clean and augmented side by side are two."""
        return 2 if self.augmenter is not None and self.recipe.augment.keep_original else 1

    def computed(self, split: Split, encoder: Encoder, frames: FrameOptions) -> ComputedStates:
        """States of a split encoded at each use by this encoder."""
        return ComputedStates(
            encoder, lambda index, _: [self.features(split, index, frames)], workers=self.recipe.data.workers
        )

    @property
    def fixed_layers(self) -> int | None:
        """Number of lower encoder layers whose output stays the same, so that it can be stored; None if the
        convolutions learn, or the encoder is sharded, which only computes as a whole."""
        return None if self.working.sharded and not self.frozen else frozen_encoder_layers(self.working.model)

    @property
    def splits(self) -> list[Split]:
        return [self.train, self.valid, *self.tests]

    @property
    def tests(self) -> list[Split]:
        """The test sets."""
        return [*([] if self.test is None else [self.test]), *self.also_tests]

    def stop_if_alone(self) -> None:
        """Raise Interrupted if a signal has come, where no other process could be left waiting for this one."""
        if self.processes.world_size == 1:
            self.stop.check()

    def note_unreadable(self) -> None:
        """List the rows that a process could not decode since the last call. All processes call it together.

        Raises:
            DataError: in all processes, if more rows of a split are unusable by now than data.max_excluded allows.
        """
        found = self.processes.all_gather([split.unreadable.take() for split in self.splits])
        new = [
            exclusion
            for split, parts in zip(self.splits, zip(*found, strict=True), strict=True)
            for exclusion in split.unreadable.learn(chain.from_iterable(parts))
        ]
        if not new:
            return
        if self.processes.is_main:
            listed = _listed(self.folder)
            known = {(row["split"], row["id"]) for row in listed}
            rows = [dataclasses.asdict(exclusion) for exclusion in new if (exclusion.split, exclusion.id) not in known]
            write_jsonl(self.folder.excluded, [*listed, *rows])
        for exclusion in new:
            console.print(
                f"left out  {exclusion.split}: {exclusion.file}, row {exclusion.row}: {exclusion.reason}",
                style="yellow",
            )
        try:
            for split in self.splits:
                require_enough(split, self.recipe.data)
        except DataError as error:
            error.met_by_all = True
            raise


def _listed(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows that excluded.jsonl lists. No result depends on them: damaged lines are reported, and left out."""
    rows: list[dict[str, Any]] = []
    damaged = 0
    for line in folder.excluded.read_bytes().split(b"\n") if folder.excluded.exists() else []:
        try:
            if line:
                row = json.loads(line.decode("utf-8"))
                rows.append({**row, "split": str(row["split"]), "id": str(row["id"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += 1
    if damaged:
        console.print(
            f"{folder.excluded}: {damaged} of its lines are damaged and are left out; rows that cannot be used are "
            "listed again when they are next read",
            style="yellow",
        )
    return rows


def open_session(
    recipe: Recipe,
    folder: RunFolder,
    stop: StopSignal,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Session:
    """Load the model and inspect all data; nothing is computed yet.

    progress: of the run in the folder; None for a new run.

    Raises:
        UserError: whatever is wrong with recipe, model or data.
    """
    if recipe.deterministic:
        make_deterministic()
    device = processes.device or resolve_device(recipe.device)
    precision = resolve_precision(recipe.precision, device)
    language_flags = [] if recipe.language is None else ["--language", recipe.language]
    require_divided(recipe.train, recipe.valid, recipe.test, language_flags, recipe.data.reading)
    manifests = {name: getattr(recipe, name) for name in ("train", "valid", "test") if getattr(recipe, name)}
    for name, manifest in (manifests | {f"also_test {name}": path for name, path in recipe.also_tests.items()}).items():
        require_sources(name, manifest)
    if progress is None:
        progress = Progress(BatchPlan(recipe.batch_size, recipe.accumulation * processes.world_size))
    augmenter = WaveformAugmenter(recipe.augment) if recipe.augment.enabled else None
    ready = load_model(recipe.model, device, base=recipe.base)
    if recipe.data.empty_text == "keep":
        ready = allow_empty_output(ready, device)
    adapter = None
    trainable, total = apply_freeze(ready.whisper, recipe.freeze)  # before the data is read: it may fail
    if recipe.lora.rank:
        if ready.checkpoint.adapted_from is not None:
            problem = f"is {recipe.model}, an adapter; merge it first (whispertune export --to huggingface)"
            raise RecipeError(problem, field="model", others=("lora.rank",))
        adapter = build_adapter(ready.whisper, recipe.lora, recipe.seed)
        trainable = sum(parameter.numel() for parameter in adapter.parameters())
    if trainable == 0:
        raise RecipeError(f"is {recipe.freeze!r}, which leaves nothing to train", field="freeze")
    language = None
    if recipe.language is not None:
        language = ready.tokenizer.spoken_language(recipe.language, recipe.language_token)
    text = TextSettings(ready.tokenizer, language, recipe.task, recipe.loss.prompt_tokens, recipe.language_token)
    if language is not None:
        token = recipe.language_token or language
        ready.tokenizer.prompt_tokens(token, recipe.task)  # refuses a language that this model does not know
        if (borrowed := text.token_for(language)) != language:
            console.print(f"language  {language}, under the token of {language_name(borrowed)}")
    marked = read_marked(recipe.data.exclude) if recipe.data.exclude else None
    if recipe.search.glossary is not None:  # the final test comes too late to find out that it cannot be read
        read_glossary(recipe.search.glossary)
    writing = dataclasses.replace(text, rules=read_rules(recipe.text))
    rewritten = [*manifests, *recipe.also_tests] if recipe.text.references else ["train"]
    splits = {
        name: _load(name, manifest, writing if name in rewritten else text, recipe, stop, processes, marked)
        for name, manifest in (manifests | recipe.also_tests).items()
    }
    if marked is not None and (line := marked.unmatched()) is not None:
        console.print(f"left out  {line}", style="yellow")
    excluded = [exclusion for split in splits.values() for exclusion in split.excluded]
    if processes.is_main:
        rows = [dataclasses.asdict(exclusion) for exclusion in excluded]
        if folder.has_begun():  # rows that were left out during the run may not be read again
            known = {(row["split"], row["id"]) for row in rows}
            rows += [row for row in _listed(folder) if (row["split"], row["id"]) not in known]
        write_jsonl(folder.excluded, rows)
    for line in excluded_summary(excluded):
        console.print(f"left out  {line}", style="yellow")
    if excluded:
        console.print(f"all {len(excluded)} left out are listed in {folder.excluded}")
    require_usable(list(splits.values()), recipe.data)
    if writing.rules is not None and processes.is_main:
        report_text_changes([splits[name] for name in rewritten], writing, folder.text_changes)
    contents = not folder.state.exists()  # on a resume they have been compared, and changed data is refused
    compared = require_no_leaks(
        list(splits.values()), recipe.data.workers, contents=contents, processes=processes, stop=stop.check
    )
    console.print(f"leakage   {compared}")
    windows = splits["train"].settled(recipe.windows, text)
    arranged = splits["train"].arrange(windows, text, recipe.seed)
    if arranged.timestamps and not ready.tokenizer.has_timestamps:
        raise RecipeError(
            f"is {recipe.windows.timestamps:g}, but the model's {ready.tokenizer.vocab_size} tokens "
            "do not include timestamps; set --windows.timestamps 0, or train a model that has them",
            field="windows.timestamps",
        )
    train = splits["train"]
    train.draws = expected_draws(train.languages, train.weights, recipe.data.temperature)
    if adapter is None:
        usual = recipe.optimizer.name == "adamw"
        working = WorkingCopy(ready.whisper, precision.dtype, processes, narrow_gradients=usual)
    else:
        working = AdaptedCopy(ready.whisper, adapter, precision.dtype, processes)
    session = Session(
        recipe, folder, stop, device, precision, ready, working, text,
        splits["train"], splits["valid"], splits.get("test"),
        [splits[name] for name in recipe.also_tests],
        encoder_is_frozen(working.model), augmenter, processes, progress,
        RunLog(MetricsFile(folder.metrics), progress.metrics_size, writes=processes.is_main), arranged.timestamps > 0,
    )  # fmt: skip
    for half in (session.working.model.encoder, session.working.model.decoder):
        half.recompute = recipe.recompute
    threads = f", {counted(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    if processes.world_size > 1:
        threads = f", {processes.world_size} processes{threads}{' each' if threads else ''}"
    console.print(f"model     {recipe.model}: {trainable:,} of {total:,} parameters learn ({recipe.what_learns})")
    console.print(f"device    {device}, {precision.name}{threads}")
    for split in splits.values():
        extra = _describe(arranged) if split.name == "train" else ""
        console.print(f"{split.name:<9} {counted(len(split.windows), 'window')}{extra}, {60 * split.hours:.1f} minutes")
        if split.name == "train":
            _report_timestamps(recipe, windows, arranged, has_timestamps=ready.tokenizer.has_timestamps)
        if not split.decoded:
            console.print(f"{split.name:<9} headers of the audio read, not all of it decoded (data.check_audio)")
    if train.draws is not None:
        shares = dict.fromkeys(sorted(set(train.languages)), 0.0)
        for language, draw in zip(train.languages, train.draws.tolist(), strict=True):
            shares[language] += draw / len(train.languages)
        shown = ", ".join(f"{language} {100 * share:.1f} %" for language, share in shares.items())
        console.print(f"drawn     with data.temperature {recipe.data.temperature:g} and weights: {shown}")
    return session


def _report_timestamps(recipe: Recipe, windows: WindowOptions, arranged: Arranged, *, has_timestamps: bool) -> None:
    """Say what `windows.stitched_share auto` chose, or what a run that trains no timestamps may cost."""
    if recipe.windows.stitched_share == "auto" and arranged.stitched:
        console.print(
            f"train     windows.stitched_share auto: {windows.stitched_share:g}, as most rows are segments of longer "
            "recordings, so that timestamps are trained; 0 turns this off"
        )
    if not arranged.timestamps and has_timestamps:
        share = "" if windows.timestamps else " --windows.timestamps 0.5"
        console.print(
            "train     no timestamps are trained: the times of subtitles made with this model may be off by seconds, "
            f"and transcripts of long recordings worse; if you need either, add --windows.stitched_share 0.15{share} "
            "(an epoch takes up to twice as long)"
        )


def _describe(arranged: Arranged) -> str:
    kinds = {
        "stitched": arranged.stitched,
        "with timestamps": arranged.timestamps,
        "with a previous text": arranged.previous_text,
    }
    found = [f"{count} {kind}" for kind, count in kinds.items() if count]
    return f" ({', '.join(found)})" if found else ""


def _load(
    name: str, manifest: str, text: TextSettings, recipe: Recipe, stop: StopSignal, processes: Processes,
    marked: MarkedRows | None,
) -> Split:  # fmt: skip
    part = "test" if name in recipe.also_tests else name  # of a corpus that comes in splits
    rows = merged_rows(read_rows(part, manifest, recipe.data.reading), text, recipe.data)
    with progress_bar(f"checking {name}", len(rows)) as advance:
        pace = Pace(advance, len(range(processes.rank, len(rows), processes.world_size)), len(rows))

        def advance_or_stop(amount: int) -> None:
            pace(amount)
            stop.check()

        return load_split(name, rows, text, recipe.data, advance=advance_or_stop, processes=processes, marked=marked)
