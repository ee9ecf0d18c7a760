"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from whispertune.dataset.splits import Split
from whispertune.errors import Interrupted, ProcessLost, StorageError, TrainingError, WhispertuneError
from whispertune.evaluation.evaluate import Evaluation
from whispertune.model.loss import summed_nll
from whispertune.model.options import LossOptions
from whispertune.model.whisper import Whisper
from whispertune.states.computed import StateSource
from whispertune.system.console import Advance, console, progress_bar
from whispertune.system.files import write_jsonl
from whispertune.system.memory import give_back_freed_memory
from whispertune.system.precision import send
from whispertune.system.processes import ALONE, Processes
from whispertune.text.targets import Target, collate_targets
from whispertune.training.options import CheckpointOptions, OptimizerOptions
from whispertune.training.plan import Step, balance_step, epoch_plan
from whispertune.training.resume import Progress, StopSignal, hand_over_state, save_state
from whispertune.training.run_folder import BEST, RunFolder
from whispertune.training.schedule import Schedule
from whispertune.training.shards import Shards
from whispertune.training.working_copy import WorkingCopy

GROW_LOSS_SCALE_EVERY = 2000
LARGEST_LOSS_SCALE = 2.0**16


@dataclass(slots=True)
class Trainer:
    """One run of training: everything that was prepared, and the loop over it.

    model holds the float32 parameters, working computes; optimizer holds those that shards says are this process's.
    validate(advance) decodes the valid split with the model as it stands; save_best(weights) writes it to best/.
    copies: of each window in a batch (2 where clean and augmented ones go side by side).
    targets(index, epoch): of each copy of a window, all as long as the split's own.
    accumulation: micro-batches in an update, of all processes together.
    note_unreadable: called by all processes together in a step in which a window's audio could not be decoded;
    missing_tokens, missing_windows: of such windows, in this process's share of the step.
    """

    model: Whisper
    working: WorkingCopy
    shards: Shards
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    train_split: Split
    train_states: StateSource
    targets: Callable[[int, int], Sequence[Target]]
    validate: Callable[[Callable[[int], None]], Evaluation]
    save_best: Callable[[dict[str, Tensor]], None]
    folder: RunFolder
    progress: Progress
    stop: StopSignal
    device: torch.device
    dtype: torch.dtype
    pad_id: int
    epochs: int
    max_steps: int | None
    batch_size: int
    accumulation: int
    seed: int
    copies: int
    loss: LossOptions
    optimizer_options: OptimizerOptions
    checkpoint: CheckpointOptions
    validate_every: int | None
    valid_size: int
    frames_name: str
    processes: Processes = ALONE
    note_unreadable: Callable[[], None] = lambda: None
    trainable: list[Tensor] = field(init=False)
    last_saved: float = field(init=False, default=0.0)
    missing_tokens: int = field(init=False, default=0)
    missing_windows: int = field(init=False, default=0)
    _updating: bool = field(init=False, default=False)
    _metrics_size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.last_saved = time.monotonic()
        self._metrics_size = self.folder.metrics_size()
        if self.dtype == torch.float16 and self.progress.loss_scale is None:
            self.progress.loss_scale = LARGEST_LOSS_SCALE

    def run(self) -> None:
        """Train to the end; whatever ends it before, the state has been saved if it is whole."""
        progress = self.progress
        try:
            if progress.step == 0 and progress.position == 0 and not progress.validated:
                self._validate(baseline=True)
            # A state saved at the last step, before its validation, still owes that validation.
            while progress.epoch <= self.epochs and not (self._at_last_step() and progress.validated):
                self._run_epoch()
            progress.trained = True
            self.save()
        except Exception as error:
            self._save_before(error)
            raise

    def _save_before(self, error: Exception) -> None:
        """Keep what is done before an error ends the run, where that is whole and all who are needed are there."""
        # Divided, a lost process has taken its part with it, and one that fails alone would wait for the others' parts.
        together = isinstance(error, WhispertuneError) and error.met_by_all and not error.others_lost
        if self._updating or (self.shards.sharded and not together):
            return
        try:
            self.save()
            if not isinstance(error, Interrupted | ProcessLost):
                console.print(f"state     saved at update {self.progress.step}: {self.folder.resume_command}")
        except (StorageError, ProcessLost) as failed:
            if isinstance(error, Interrupted):
                raise
            console.print(f"state     could not be saved: {failed}", style="yellow")

    def _at_last_step(self) -> bool:
        return self.max_steps is not None and self.progress.step >= self.max_steps

    def _run_epoch(self) -> None:
        progress = self.progress
        epoch, split = progress.epoch, self.train_split
        plan = epoch_plan(
            split.num_samples, self.batch_size, self.accumulation, seed=self.seed, epoch=epoch, draws=split.draws
        )
        left = plan[progress.position :]
        self.train_states.prepare([batch for step in left for batch in self._own_share(step)], epoch)
        with progress_bar(f"epoch {epoch}/{self.epochs}: training", len(plan)) as advance:
            advance(progress.position)
            while progress.position < len(plan) and not self._at_last_step():
                # A state saved between a step and its validation resumes with that validation.
                if self._validation_is_due() and not progress.validated:
                    self._validate()
                self._run_step(plan[progress.position], advance)
        if not progress.validated or progress.best_rate is None:
            self._validate()
        progress.epoch, progress.position = epoch + 1, 0
        self._save_if_due()

    def _validation_is_due(self) -> bool:
        every = self.validate_every
        return every is not None and self.progress.step > 0 and self.progress.step % every == 0

    def _run_step(self, step: Step, advance: Advance) -> None:
        started = time.perf_counter()
        progress = self.progress
        targets, epoch = self.train_split.targets, progress.epoch
        num_tokens = self.copies * sum(targets[index].num_target_tokens for batch in step for index in batch)
        self.missing_tokens = self.missing_windows = 0
        losses = []
        for batch in self._own_share(step):
            copies = [self.targets(index, epoch) for index in batch]
            every = [target for copy in zip(*copies, strict=True) for target in copy]  # in the order of the states
            losses.append(self.backward(batch, every, num_tokens))
        # Only now, and once: to ask a GPU for a number is to wait for all that it has to do.
        loss = torch.stack(losses).double().sum().item() if losses else 0.0
        # First: on GPUs a process that is gone is only noticed here.
        loss, *missing = self.processes.sum([loss, self.missing_tokens, self.missing_windows])
        if missing[1]:
            self.note_unreadable()
        # What is there was divided by the number of all tokens, known before any audio was.
        share_there = 1 - missing[0] / num_tokens
        self.shards.sum_gradients()
        row: dict[str, Any] = {"step": progress.step + 1, "epoch": progress.epoch}
        self._updating = True
        norm = self._update(share_there)
        progress.position += 1
        if norm is None:
            row |= {"skipped": True, "loss": None, "loss_scale": progress.loss_scale}
        else:
            progress.validated = False
            row |= {"lr": self.schedule(progress.step), "loss": loss / share_there, "grad_norm": norm}
        row |= {
            "tokens": num_tokens - round(missing[0]),
            "utterances": sum(len(batch) for batch in step) - round(missing[1]),
            "seconds": round(time.perf_counter() - started, 4),
        }
        self._append_metrics(row)
        self._end_of_update()
        advance(1, note=f"loss {loss / share_there:.3f}" if share_there else "")
        self._save_if_due()
        self.stop.check_together()

    def _own_share(self, step: Step) -> Step:
        """This process's micro-batches of a step; all of them where it is the only one."""
        shares = balance_step(step, self.train_split.num_samples, self.batch_size, self.processes.world_size)
        return shares[self.processes.rank]

    def backward(self, batch: Sequence[int], targets: Sequence[Target], num_tokens: int) -> Tensor:
        """Add one micro-batch's part of the gradient; returns its part of the loss, on the device.

        num_tokens: target tokens of the whole optimiser step, so that parts add up to the step's mean per token.
        """
        states = self.train_states.fetch(batch, self.progress.epoch).to(self.device, self.dtype)
        if states.unreadable:
            targets = self._without_loss(batch, targets, {row % len(batch) for row in states.unreadable})
        input_ids, labels = collate_targets(targets, self.pad_id)
        decoder = self.working.model.decoder
        num_tokens_by_row = [len(target.input_ids) for target in targets]
        hidden = decoder(
            send(input_ids, self.device), states.states, states.log_weights, num_tokens_by_row, states.num_frames
        )
        nll = summed_nll(decoder, hidden, labels, self.loss.label_smoothing) / num_tokens
        (nll * (self.progress.loss_scale or 1.0)).backward()  # type: ignore[no-untyped-call]
        return nll.detach()

    def _without_loss(self, batch: Sequence[int], targets: Sequence[Target], missing: set[int]) -> list[Target]:
        """The targets of a micro-batch, all copies of those windows (places in it) without any loss."""
        lost = [place for place in range(len(targets)) if place % len(batch) in missing]
        self.missing_windows += len(missing)
        self.missing_tokens += sum(targets[place].num_target_tokens for place in lost)
        return [target.without_loss() if place in lost else target for place, target in enumerate(targets)]

    def _update(self, share_there: float = 1.0) -> float | None:
        """One optimiser update at the schedule's rate; the gradient's norm, or None if it was skipped.

        share_there: of the tokens that the loss was divided by, those that are in it.
        """
        progress, options = self.progress, self.optimizer_options
        if not share_there > 0:  # nothing to learn from, which is nobody's fault but the files'
            self.optimizer.zero_grad(set_to_none=True)
            return None
        scale = (progress.loss_scale or 1.0) * share_there
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        if scale != 1 and gradients:
            torch._foreach_mul_(gradients, 1 / scale)
        norm = self.shards.clip(options.max_grad_norm)
        finite = math.isfinite(norm)
        if finite:
            progress.step += 1
            progress.skipped_in_a_row = 0
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(progress.step)
            self.optimizer.step()
            self.shards.publish()
        else:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        if progress.loss_scale is not None:
            progress.loss_scale = self._adapted_loss_scale(progress.loss_scale, finite)
        return norm if finite else None

    def _end_of_update(self) -> None:
        """From here on model, optimiser, progress and metrics belong together again.

        Raises:
            TrainingError: after too many skipped updates in a row.
        """
        self._updating = False
        self._metrics_size = self.folder.metrics_size()
        progress = self.progress
        if progress.skipped_in_a_row >= self.optimizer_options.max_skipped_in_a_row:
            failed = TrainingError(
                f"{progress.skipped_in_a_row} updates in a row had gradients that are not finite (last at step "
                f"{progress.step + 1}); lower schedule.peak_lr, or try --precision fp32"
            )
            failed.met_by_all = True
            raise failed

    def _adapted_loss_scale(self, scale: float, finite: bool) -> float:
        """fp16: halve on overflow, double after many good updates (Micikevicius et al. 2018)."""
        if not finite:
            return max(1.0, scale / 2)
        grows = self.progress.step % GROW_LOSS_SCALE_EVERY == 0
        return min(LARGEST_LOSS_SCALE, scale * 2) if grows else scale

    def _validate(self, *, baseline: bool = False) -> None:
        progress = self.progress
        name = "untouched model" if baseline else f"epoch {progress.epoch}/{self.epochs}"
        with progress_bar(f"{name}: validating", self.valid_size) as advance:

            def advance_or_stop(amount: int) -> None:
                advance(amount)
                self.stop.check()

            self.working.release()  # the caches take its place
            give_back_freed_memory()
            found = self.validate(advance_or_stop)
            give_back_freed_memory()
        epoch = 0 if baseline else progress.epoch
        if self.processes.is_main:
            path = self.folder.validation(progress.step)
            progress.kept[self.folder.name_of(path)] = write_jsonl(path, found.rows())
        self._append_metrics(
            {
                "step": progress.step,
                "epoch": epoch,
                "split": "valid",
                "model": "baseline" if baseline else "epoch",
                "frames": self.frames_name,
                **found.summary(),
            }
        )
        notes = f", {found.loops} loops cut" if found.loops else ""
        notes += f", {found.capped} cut at the cap" if found.capped else ""
        # Ties go to the newer one: it has seen more.
        is_best = not baseline and (progress.best_rate is None or found.score.leading <= progress.best_rate)
        if is_best:
            weights = self.shards.weights(self.model.state_dict(keep_vars=True))
            if self.processes.is_main:
                self.save_best(weights)
                progress.kept[BEST] = self.folder.best_digest()
            del weights
            is_tie = progress.best_rate == found.score.leading
            notes += ", as good as the best so far, and newer: kept" if is_tie else ", best so far"
            progress.best_rate, progress.best_step, progress.best_epoch = found.score.leading, progress.step, epoch
        console.print(f"{name}: valid {found.rates()}, loss {found.loss:.3f}{notes}")
        progress.validated = True
        self._metrics_size = self.folder.metrics_size()
        if is_best:
            self.save()  # killed before, a run would repeat these updates, on a GPU not bit by bit: best/ is not theirs
        else:
            self._save_if_due()

    def _save_if_due(self) -> None:
        every = self.checkpoint.every_steps
        by_steps = every is not None and self.progress.step > 0 and self.progress.step % every == 0
        is_due = by_steps or time.monotonic() - self.last_saved >= 60 * self.checkpoint.every_minutes
        if self.shards.sharded:
            is_due = self.processes.from_main(lambda: is_due)
        if is_due:
            self.save()

    def _append_metrics(self, row: dict[str, Any]) -> None:
        if self.processes.is_main:
            self.folder.append_metrics(row)

    def save(self) -> None:
        """Write the state to last/, in the process that writes; the others hand it their parts."""
        if self.processes.is_main:
            so_far = self.folder.metrics_so_far(self._metrics_size)  # no row that an error has parted from its update
            self.progress.metrics_size, self.progress.metrics_sha256 = so_far
            save_state(self.folder.state, self.model, self.optimizer, self.progress, self.shards)
        elif self.shards.sharded:
            hand_over_state(self.model, self.optimizer, self.progress, self.shards)
        self.last_saved = time.monotonic()
