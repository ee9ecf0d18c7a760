"""The stages of a run on an open session: the check of thinning, the trainer, the saved model, the test."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.checksums import write_checksums
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.checkpoints.json_files import read_json
from whispertune.checkpoints.peft import lasting_name, save_adapter
from whispertune.dataset.splits import Split
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import GREEDY
from whispertune.evaluation.decode import SharedStates, System
from whispertune.evaluation.evaluate import Evaluation, evaluate_split, token_caps
from whispertune.evaluation.significance import compare_rows
from whispertune.features.frames import select_frames
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.prepacked import for_decoding
from whispertune.model.whisper import Whisper, build_whisper
from whispertune.run.encoder_states import move_encoder, plan_states
from whispertune.run.model_card import common, model_card, trained_languages
from whispertune.run.run_folder import BEST
from whispertune.run.session import Session
from whispertune.states.computed import StateSource
from whispertune.system.console import console, progress_bar
from whispertune.system.counts import counted
from whispertune.system.environment import free_memory_on
from whispertune.system.files import read_jsonl, replacing_folder, write_jsonl
from whispertune.training.adapted_copy import AdaptedCopy
from whispertune.training.averaging import Averaging
from whispertune.training.learner import Learner, TrainingData
from whispertune.training.memory_use import MicroBatch, described, training_memory
from whispertune.training.micro_batch import largest_micro_batch
from whispertune.training.optimiser import build_optimizer, placeholder_moments, quantized_parameters
from whispertune.training.pace import Pace
from whispertune.training.plan import total_steps
from whispertune.training.resume import load_mean, load_state
from whispertune.training.schedule import Schedule, build_schedule
from whispertune.training.thinning import (
    CHECKED_WINDOWS,
    Divergence,
    divergence,
    faithful_stride,
    settled_divergence,
)
from whispertune.training.trainer import Trainer

MOST_TRIED = 1000
"""The longest windows, so many of them: among these the ones with most tokens are taken as the most demanding."""


def check_thinning(session: Session) -> None:
    """Compare thinned with dense windows on a few training clips; take a denser stride where they disagree."""
    if session.frames.selection == "thinned" and session.progress.stride is None:
        session.progress.stride = session.processes.from_main(lambda: _measured_stride(session))


def _measured_stride(session: Session) -> int:
    """The stride at which thinned windows agree with dense ones."""
    last, most = session.train.num_utterances - 1, CHECKED_WINDOWS - 1
    windows = sorted({step * last // most for step in range(CHECKED_WINDOWS)})
    windows = [index for index in windows if session.train.waveform(index)[1]]
    if not windows:  # none of these recordings can be decoded; the run will soon report all of them
        return session.frames.stride
    whisper = session.working.model

    def measured_on(frames: FrameOptions, some: Sequence[int]) -> Divergence:
        found = divergence(
            whisper.encoder, whisper.decoder, partial(session.features, session.train), some, session.train.targets,
            frames, pad_id=session.ready.checkpoint.pad_token_id,
        )  # fmt: skip
        session.stop_if_alone()
        return found

    stride, measured = faithful_stride(
        lambda frames: settled_divergence(partial(measured_on, frames), windows), session.frames
    )
    found = measured[-1]
    console.print(
        f"frames    thinned: {found.frames:.0f} of 1500 a window; against dense KL {found.kl:.3f} nats, "
        f"same argmax {100 * found.same_argmax:.1f} % of {found.num_tokens} tokens"
    )
    if stride != session.frames.stride:
        console.print(f"frames    stride {session.frames.stride} changes too much; taking {stride}", style="yellow")
    return stride


def build_run_schedule(session: Session) -> Schedule:
    """The schedule of this run, shown to the user."""
    recipe = session.recipe
    total = total_steps(len(session.train.windows), session.progress.batches, recipe.epochs, recipe.max_steps)
    width = session.ready.checkpoint.config.d_model
    schedule = build_schedule(recipe.schedule, d_model=width, total_steps=total, lora=recipe.lora.rank > 0)
    scale = recipe.schedule.encoder_scale
    encoder = "" if scale == 1 else f", of the encoder {scale:g} times that"
    console.print(
        f"schedule  {recipe.schedule.name}: peak {schedule.peak_lr:.3g} "
        f"after {schedule.warmup_steps} of {counted(total, 'update')}{encoder}"
    )
    if schedule.warmup_steps > total:
        console.print(
            f"schedule  the warm-up is longer than the whole run: the rate only reaches {schedule(total):.3g}; "
            "lower schedule.warmup_steps, or train longer",
            style="yellow",
        )
    return schedule


def build_trainer(session: Session, schedule: Schedule) -> Trainer:
    """Encode what stays fixed, put saved weights back, and hand everything to the loop."""
    recipe, progress = session.recipe, session.progress
    learner = build_learner(session, schedule)
    states = plan_states(session)
    data = TrainingData(
        session.train, states.training(), states.targets, session.copies, session.ready.checkpoint.pad_token_id
    )
    stored_valid = states.validation()
    if not progress.trained:
        data.states.prepare([], progress.epoch)
        if stored_valid is not None:
            stored_valid.prepare([], 0)
    averaging = Averaging(
        recipe.average, {n: p for n, p in learner.model.named_parameters() if p.requires_grad},
        lambda: load_checkpoint(recipe.model, base=recipe.base).weights,
        load_mean(session.folder.state) if session.folder.state.exists() else {},
    )  # fmt: skip
    beam = {split.name for split in [session.test] if split is not None and recipe.search.beam_size > 1}
    test_windows = sum(2 * len(split.windows) * (1 + (split.name in beam)) for split in session.tests)
    trainer = Trainer(
        options=recipe, learner=learner, data=data, progress=progress, state=session.folder.state,
        resume_command=session.folder.resume_command, log=session.log, stop=session.stop, processes=session.processes,
        validate=partial(validate, session, stored_valid), save_best=partial(save_best, session),
        note_unreadable=session.note_unreadable, averaging=averaging,
        is_worse=partial(is_worse_than_best, session),
        pace=Pace(recipe, progress, session.log, session.train.num_samples, session.device, test_windows),
    )  # fmt: skip
    auto = session.device.type != "cpu" if recipe.batch.auto is None else recipe.batch.auto
    if auto and not progress.trained and not session.working.sharded:
        fit_micro_batch(session, trainer)
    if session.device.type != "cpu" and not progress.trained:
        report_memory(session, trainer)
    return trainer


def build_learner(session: Session, schedule: Schedule) -> Learner:
    """The model with its optimiser; with the weights and moments of the saved state, if there is one."""
    if session.recipe.processes.shard and session.processes.world_size > 1:
        from whispertune.training.sharded_copy import ShardedCopy  # imports a second's worth of modules

        session.working = ShardedCopy(session.working, session.processes)
        console.print(f"sharded   parameters, gradients and moments over {session.processes.world_size} processes")
    working, model = session.working, session.working.learns
    optimizer = build_optimizer(model, session.recipe.optimizer, session.recipe.schedule.encoder_scale)
    if session.folder.state.exists():
        load_state(session.folder.state, model, optimizer, working)
        working.refresh()
    return Learner(model, working, optimizer, schedule)


def is_worse_than_best(session: Session, model: str) -> bool:
    """Whether a candidate is worse on valid than the best model so far beyond chance (95 %, matched pairs)."""
    folder, progress = session.folder, session.progress

    def compare() -> bool:
        best = read_jsonl(folder.validation(progress.best_step, progress.best_model))
        return compare_rows(best, read_jsonl(folder.validation(progress.step, model))).low > 0

    return session.processes.from_main(compare)


def validate(session: Session, stored: StateSource | None, name: str, model: str) -> Evaluation:
    """Decode the valid split, greedily, with the model as it stands; its hypotheses are kept in the run folder.

    stored: the split's states; None where they are computed at each use. name: of the progress bar. model: as in
    metrics.jsonl.
    """
    split, folder, progress, options = session.valid, session.folder, session.progress, session.recipe.validation
    whisper = session.working.whole()
    ready = session.ready.with_parts(whisper.encoder, for_decoding(whisper.decoder, layers=False))
    source = session.computed(split, whisper.encoder, session.frames) if stored is None else stored
    with progress_bar(f"{name}: validating", len(split.windows)) as advance:

        def advance_or_stop(amount: int) -> None:
            advance(amount)
            session.stop.check()

        (found,) = evaluate_split(
            split, [SharedStates(source, [System("valid", ready, [GREEDY])])], frames=session.frames,
            max_tokens=token_caps(split, options, session.ready.tokenizer.max_tokens),
            cut_loops=options.cut_loops, advance=advance_or_stop, processes=session.processes,
        )  # fmt: skip
    session.note_unreadable()
    if session.processes.is_main:
        path = folder.validation(progress.step, model)
        progress.kept[folder.name_of(path)] = write_jsonl(path, found.rows())
    return found


def fit_micro_batch(session: Session, trainer: Trainer) -> None:
    """Cut updates into the largest micro-batches that fit in memory in every process; a resume keeps to them."""
    recipe, progress, split = session.recipe, session.progress, session.train
    utterances = recipe.batch_size * recipe.accumulation
    if not session.folder.state.exists():
        longest = heapq.nlargest(MOST_TRIED, range(len(split.windows)), key=split.num_samples.__getitem__)
        wordiest = sorted((split.targets[i] for i in longest), key=lambda target: -len(target.input_ids))

        def attempt(size: int) -> None:
            rows = [i % len(longest) for i in range(size)]
            targets = [wordiest[row] for row in rows] * trainer.data.copies
            try:
                for _ in range(2):  # the second one runs beside the gradients of the first
                    trainer.backward([longest[row] for row in rows], targets, sum(t.num_target_tokens for t in targets))
            finally:
                trainer.learner.working.release()
            session.stop_if_alone()

        # There must be room for what AdamW will keep from its first update on, too.
        moments = placeholder_moments(trainer.learner.optimizer)
        found = largest_micro_batch(utterances, attempt, session.device)
        del moments
        progress.batches = progress.batches.recut(min(session.processes.all_gather(found)))
    console.print(
        f"batch     {counted(progress.batches.batch_size, 'utterance')} at once, {utterances} per update and process"
    )


def save_best(
    session: Session, weights: dict[str, torch.Tensor], model: str = "epoch", step: int | None = None
) -> None:
    """Write the model with these weights to best/, replacing its content atomically; with LoRA, adapter/ as well.

    model: as in metrics.jsonl. step: the update they are of, if not the latest.
    """
    progress = session.progress
    of_step = progress.step if step is None else step
    _, token, tokens = trained_languages(session)
    tasks = [task or session.recipe.task for task in session.train.tasks]
    wanted = session.recipe.checkpoint.dtype
    with replacing_folder(session.folder.best) as folder:
        digests = save_huggingface(
            folder,
            session.ready.checkpoint,
            weights,
            language=token,
            task=common(tasks) or "transcribe",
            model_card=model_card(session, of_step, model),
            aliases={code: own for code, own in tokens.items() if own != code},
            trained_timestamps=None if step == 0 else session.trains_timestamps,
            dtype=session.ready.stored if wanted == "auto" else getattr(torch, wanted),
        )
        write_checksums(folder, digests, step=of_step, model=model, run=progress.began.get("run", ""))
    if isinstance(session.working, AdaptedCopy):
        with replacing_folder(session.folder.adapter) as folder:
            digests = save_adapter(
                folder,
                session.working.adapter,
                lasting_name(session.recipe.model),
                generation=read_json(session.folder.best / "generation_config.json"),
                untouched=step == 0,
            )
            write_checksums(folder, digests, step=of_step, model=model, run=progress.began.get("run", ""))
    progress.kept[BEST] = session.folder.best_digest()


def _share_encoder(session: Session) -> bool:
    """Whether the encoder in best/ is that of the pretrained model, not rounded (`checkpoint.dtype`)."""
    wanted = session.recipe.checkpoint.dtype
    exact = wanted in ("auto", "float32") or getattr(torch, wanted) == session.ready.stored
    return session.frozen and exact


def restore_best(session: Session) -> Whisper:
    """The run's working model with the weights of best/, in place of those of the last step."""
    weights = load_checkpoint(str(session.folder.best)).weights
    model = session.working.whole()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def evaluate_tests(session: Session) -> dict[str, list[Evaluation]]:
    """Baseline and best on each test set, dense, bounded by 448 tokens only: the baseline's evaluations, then those of
    the best. Greedy; on `test` with the recipe's beam as well."""
    weights = load_checkpoint(session.recipe.model, base=session.recipe.base).weights
    untouched = build_whisper(session.ready.checkpoint.config, weights, session.precision.dtype).to(session.device)
    del weights
    move_encoder(session, session.device)
    best = restore_best(session)
    models = {
        name: session.ready.with_parts(
            best.encoder if _share_encoder(session) else whisper.encoder, for_decoding(whisper.decoder, layers=False)
        )
        for name, whisper in (("baseline", untouched), ("best", best))
    }
    del untouched, best  # frees the parts that are not used
    return {split.name: _evaluate_test(session, split, models) for split in session.tests}


def _evaluate_test(session: Session, split: Split, models: Mapping[str, ReadyModel]) -> list[Evaluation]:
    beam = split is session.test and session.recipe.search.beam_size > 1
    searches = [GREEDY, session.recipe.search] if beam else [GREEDY]
    systems = [System(name, model, searches) for name, model in models.items()]
    shared = [
        SharedStates(session.computed(split, group[0].model.whisper.encoder, DENSE), group)
        for group in ([systems] if _share_encoder(session) else [[system] for system in systems])
    ]
    label = f"{split.name}: dense, greedy{' + beam' if beam else ''}"
    with progress_bar(label, len(split.windows) * len(systems) * len(searches)) as advance:

        def advance_or_stop(amount: int) -> None:
            advance(amount)
            session.stop.check()

        found = evaluate_split(
            split, shared, frames=DENSE, max_tokens=token_caps(split, None, session.ready.tokenizer.max_tokens),
            cut_loops=False, advance=advance_or_stop, processes=session.processes,
        )  # fmt: skip
    session.note_unreadable()
    return found


def report_memory(session: Session, trainer: Trainer) -> None:
    """Say what a step will take on a GPU, by its longest windows."""
    split, model = session.train, session.ready.whisper
    longest = heapq.nlargest(MOST_TRIED, range(len(split.windows)), key=split.num_samples.__getitem__)
    batch = MicroBatch(
        rows=trainer.progress.batches.batch_size * session.copies,
        frames=len(select_frames(split.num_samples[longest[0]], session.frames).positions),
        tokens=max(len(split.targets[index].input_ids) for index in longest),
    )
    learning = sum(parameter.numel() for parameter in trainer.trainable)
    adapted = isinstance(session.working, AdaptedCopy)
    encoder = session.working.model.encoder
    away = 0 if encoder.conv1.weight.device.type != "cpu" else sum(p.numel() for p in encoder.parameters())
    use = training_memory(
        session.ready.checkpoint.config, batch, total=sum(parameter.numel() for parameter in model.parameters()),
        trainable=0 if adapted else learning, adapter=learning if adapted else 0,
        adapted=sum(weight.numel() for weight in session.working.compute_params) if adapted else 0,
        away=away, quantized=quantized_parameters(trainer.learner.optimizer),
        element=session.precision.dtype.itemsize, encoder_learns=not session.frozen, recompute=session.recipe.recompute,
    )  # fmt: skip
    fits, line = described(use, free_memory_on(session.device))
    console.print(f"memory    {line}", style=None if fits else "yellow")
