"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from whispertune.allocator import give_back_freed_memory
from whispertune.console import Advance, console, progress_bar
from whispertune.errors import Interrupted, ProcessLost, TrainingError
from whispertune.model.loss import LossOptions, summed_nll
from whispertune.model.whisper import Whisper
from whispertune.precision import send
from whispertune.processes import ALONE, Processes
from whispertune.run_folder import BEST, RunFolder, write_jsonl
from whispertune.splits import Split
from whispertune.states import StateSource
from whispertune.targets import Target, collate_targets
from whispertune.training.optimiser import OptimizerOptions
from whispertune.training.plan import Step, deal_step, epoch_plan, steps_per_epoch
from whispertune.training.resume import CheckpointOptions, Progress, StopSignal, hand_over_state, save_state
from whispertune.training.schedule import Schedule
from whispertune.training.shards import Shards
from whispertune.training.validate import Evaluation
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
    trainable: list[Tensor] = field(init=False)
    last_saved: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.last_saved = time.monotonic()
        if self.dtype == torch.float16 and self.progress.loss_scale is None:
            self.progress.loss_scale = LARGEST_LOSS_SCALE

    def run(self) -> None:
        """Train to the end; on Interrupted, and on ProcessLost where it is not divided, the state has been saved."""
        progress = self.progress
        try:
            if progress.step == 0 and progress.position == 0 and not progress.validated:
                self._validate(baseline=True)
            # A state saved at the last step, before its validation, still owes that validation.
            while progress.epoch <= self.epochs and not (self._at_last_step() and progress.validated):
                self._run_epoch()
            progress.trained = True
            self.save()
        except (Interrupted, ProcessLost) as stopped:
            # Divided, a lost process has taken its part with it.
            if not self.shards.divided or not (isinstance(stopped, ProcessLost) or stopped.others_lost):
                self.save()
            raise

    def _at_last_step(self) -> bool:
        return self.max_steps is not None and self.progress.step >= self.max_steps

    def _run_epoch(self) -> None:
        progress = self.progress
        epoch = progress.epoch
        split = self.train_split
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
        losses = []
        for batch in self._own_share(step):
            copies = [self.targets(index, epoch) for index in batch]
            every = [target for copy in zip(*copies, strict=True) for target in copy]  # in the order of the states
            losses.append(self.backward(batch, every, num_tokens))
        # Only now, and once: to ask a GPU for a number is to wait for all that it has to do.
        loss = torch.stack(losses).double().sum().item() if losses else 0.0
        (loss,) = self.processes.sum([loss])  # first: on GPUs a process that is gone is only noticed here
        self.shards.sum_gradients()
        row: dict[str, Any] = {"step": progress.step + 1, "epoch": progress.epoch}
        norm = self._update()
        progress.position += 1
        if norm is None:
            row |= {"skipped": True, "loss": None, "loss_scale": progress.loss_scale}
        else:
            progress.validated = False
            row |= {"lr": self.schedule(progress.step), "loss": loss, "grad_norm": norm}
        utterances = sum(len(batch) for batch in step)
        row |= {
            "tokens": num_tokens,
            "utterances": utterances,
            "seconds": round(time.perf_counter() - started, 4),
        }
        self._append_metrics(row)
        advance(1, note=f"loss {loss:.3f}")
        self._save_if_due()
        self.stop.check_together()

    def _own_share(self, step: Step) -> Step:
        """This process's micro-batches of a step; all of them where it is the only one."""
        shares = deal_step(step, self.train_split.num_samples, self.batch_size, self.processes.world)
        return shares[self.processes.rank]

    def backward(self, batch: Sequence[int], targets: Sequence[Target], num_tokens: int) -> Tensor:
        """Add one micro-batch's part of the gradient; returns its part of the loss, on the device.

        num_tokens: target tokens of the whole optimiser step, so that parts add up to the step's mean per token.
        """
        input_ids, labels = collate_targets(targets, self.pad_id)
        decoder = self.working.model.decoder
        states = self.train_states.fetch(batch, self.progress.epoch).to(self.device, self.dtype)
        num_tokens_by_row = [len(target.input_ids) for target in targets]
        hidden = decoder(
            send(input_ids, self.device), states.states, states.log_weights, num_tokens_by_row, states.num_frames
        )
        nll = summed_nll(decoder, hidden, labels, self.loss.label_smoothing) / num_tokens
        (nll * (self.progress.loss_scale or 1.0)).backward()  # type: ignore[no-untyped-call]
        return nll.detach()

    def _update(self) -> float | None:
        """One optimiser update at the schedule's rate; the gradient's norm, or None if it was skipped."""
        progress, options = self.progress, self.optimizer_options
        if progress.loss_scale is not None:
            torch._foreach_mul_([p.grad for p in self.trainable if p.grad is not None], 1 / progress.loss_scale)
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
        if progress.skipped_in_a_row >= options.max_skipped_in_a_row:
            raise TrainingError(
                f"{progress.skipped_in_a_row} updates in a row had gradients that are not finite (last at step "
                f"{progress.step + 1}); lower schedule.peak_lr, or try --precision fp32"
            )
        return norm if finite else None

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
        if is_best:
            self.save()  # killed before, a run would repeat these updates, on a GPU not bit by bit: best/ is not theirs
        else:
            self._save_if_due()

    def _save_if_due(self) -> None:
        every = self.checkpoint.every_steps
        by_steps = every is not None and self.progress.step > 0 and self.progress.step % every == 0
        is_due = by_steps or time.monotonic() - self.last_saved >= 60 * self.checkpoint.every_minutes
        if self.shards.divided:
            is_due = self.processes.from_main(lambda: is_due)
        if is_due:
            self.save()

    def _append_metrics(self, row: dict[str, Any]) -> None:
        if self.processes.is_main:
            self.folder.append_metrics(row)

    def save(self) -> None:
        """Write the state to last/, in the process that writes; the others hand it their parts."""
        if self.processes.is_main:
            self.progress.metrics_size, self.progress.metrics_sha256 = self.folder.metrics_so_far()
            save_state(self.folder.state, self.model, self.optimizer, self.progress, self.shards)
        elif self.shards.divided:
            hand_over_state(self.model, self.optimizer, self.progress, self.shards)
        self.last_saved = time.monotonic()


def total_steps(num_windows: int, batch_size: int, accumulation: int, epochs: int, max_steps: int | None) -> int:
    """Optimiser updates of the whole run, if none is skipped."""
    planned = epochs * steps_per_epoch(num_windows, batch_size, accumulation)
    return planned if max_steps is None else min(planned, max_steps)
