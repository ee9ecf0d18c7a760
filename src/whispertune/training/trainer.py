"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from whispertune.errors import Interrupted, ProcessLost, Stopped, StorageError, WhispertuneError
from whispertune.evaluation.evaluate import Evaluation
from whispertune.model.loss import summed_nll
from whispertune.system.console import Advance, console, progress_bar
from whispertune.system.counts import counted
from whispertune.system.lazy import Anew
from whispertune.system.memory import give_back_freed_memory
from whispertune.system.precision import exact_dtype, send
from whispertune.system.processes import ALONE, Processes
from whispertune.text.targets import Target, collate_targets
from whispertune.training.averaging import Averaging, described
from whispertune.training.learner import Learner, TrainingData
from whispertune.training.loss_scale import FIRST_LOSS_SCALE, adapted, too_many_skipped
from whispertune.training.metrics import EvaluationRow, Row, RunLog, SkippedRow, UpdateRow
from whispertune.training.micro_batch import halved
from whispertune.training.optimiser import set_rate
from whispertune.training.options import TrainingOptions
from whispertune.training.pace import Pace, peak_memory_gb, shown_update
from whispertune.training.plan import Step, balance_step, epoch_plan, last_epoch
from whispertune.training.resume import Progress, StopSignal, gather_state, save_state


@dataclass(slots=True)
class Trainer:
    """One run of training: everything that was prepared, and the loop over it.

    progress: where the run stands; it holds the `BatchPlan`. state: the file that it is saved to, for `resume_command`.
    validate(name, model): decodes the valid split with the model as it stands, `name` being shown beside the progress
    bar, `model` as in metrics.jsonl.
    save_best(weights, model): writes them to best/.
    is_worse(model): whether a candidate that was just validated is worse than the best so far beyond chance.
    note_unreadable: called by all processes together in a step in which a window's audio could not be decoded;
    missing_tokens, missing_windows: of such windows, in this process's share of the step.
    """

    options: TrainingOptions
    learner: Learner
    data: TrainingData
    progress: Progress
    state: Path
    resume_command: str
    log: RunLog
    stop: StopSignal
    validate: Callable[[str, str], Evaluation]
    save_best: Callable[[dict[str, Tensor], str], None]
    note_unreadable: Callable[[], None]
    averaging: Averaging
    is_worse: Callable[[str], bool]
    pace: Pace
    processes: Processes = ALONE
    trainable: list[Tensor] = field(init=False)
    last_saved: float = field(init=False)
    missing_tokens: int = field(init=False, default=0)
    missing_windows: int = field(init=False, default=0)
    _updating: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.trainable = [p for p in self.learner.model.parameters() if p.requires_grad]
        self.last_saved = time.monotonic()
        if self.learner.working.dtype == torch.float16 and self.progress.loss_scale is None:
            self.progress.loss_scale = FIRST_LOSS_SCALE

    def run(self) -> None:
        """Train to the end; whatever ends it early, the state has been saved if it is consistent."""
        progress = self.progress
        try:
            if progress.step == 0 and progress.position == 0 and not progress.validated:
                self._validate(baseline=True)
            # A state saved at the last step, before its validation, still owes that validation.
            while progress.epoch <= self.options.epochs and not (
                (self._at_last_step() and progress.validated) or self._out_of_patience()
            ):
                self._run_epoch()
            if progress.epoch <= self.options.epochs and self._out_of_patience():
                without = counted(progress.since_best, "validation")
                console.print(f"stopped early in epoch {progress.epoch - 1}: {without} without a lower error rate")
            self._try_averages()
            progress.trained = True
            self.save()
        except Exception as error:
            self._save_before(error)
            raise

    def _save_before(self, error: Exception) -> None:
        """Save the state before an error ends the run, if it is consistent and the processes it needs are there."""
        # Sharded, a lost process has taken its part with it, and one that fails alone would wait for the others' parts.
        together = isinstance(error, WhispertuneError) and error.met_by_all and not error.others_lost
        if isinstance(error, Stopped) or self._updating or (self.learner.working.sharded and not together):
            return
        try:
            self.save()
            if not isinstance(error, Interrupted | ProcessLost):
                console.print(f"state     saved at update {self.progress.step}: {self.resume_command}")
        except (StorageError, ProcessLost) as failed:
            if isinstance(error, Interrupted):
                raise
            console.print(f"state     could not be saved: {failed}", style="yellow")

    def _at_last_step(self) -> bool:
        most = self.options.max_steps
        return most is not None and self.progress.step >= most

    def _out_of_patience(self) -> bool:
        patience = self.options.validation.patience
        return patience is not None and self.progress.since_best >= patience

    def _run_epoch(self) -> None:
        progress, epoch, split = self.progress, self.progress.epoch, self.data.split
        plan = epoch_plan(split.num_samples, progress.batches, seed=self.options.seed, epoch=epoch, draws=split.draws)
        self._announce(plan)
        with progress_bar(f"epoch {epoch}/{self.options.epochs}: training", len(plan)) as advance:
            advance(progress.position)
            while progress.position < len(plan) and not self._at_last_step():
                # A state saved between a step and its validation resumes with that validation.
                if self._validation_is_due() and not progress.validated:
                    self._validate()
                if self._out_of_patience():
                    break
                self._run_step(plan, advance)
        if not progress.validated or progress.best_rate is None:
            self._validate()
        last = last_epoch(len(split.num_samples), progress.batches, self.options.epochs, self.options.max_steps)
        if self.averaging.counts(epoch, last):
            progress.averaged += 1
            self.averaging.add(progress.averaged)
        progress.epoch, progress.position = epoch + 1, 0
        self._save_if_due()

    def _try_averages(self) -> None:
        """Validate averages and mixtures of weights, after the last epoch; a resume does all of them again."""
        averaged = self.progress.averaged
        for model in self.averaging.names(averaged):
            with self.averaging.trying(model, averaged, self.learner.working.refresh):
                self._validate_as(model, described(model, averaged))
        self.log.settle()

    def _validation_is_due(self) -> bool:
        every = self.options.validation.every_steps
        return every is not None and self.progress.step > 0 and self.progress.step % every == 0

    def _announce(self, plan: Sequence[Step]) -> None:
        """Name the micro-batches that are left in the epoch, whose states may then be fetched ahead."""
        steps = range(self.progress.position, len(plan))
        left = Anew(lambda: (batch for step in steps for batch in self._own_share(plan[step]) if batch))
        self.data.states.prepare(left, self.progress.epoch)

    def _run_step(self, plan: Sequence[Step], advance: Advance) -> None:
        started = time.perf_counter()
        progress, data = self.progress, self.data
        epoch, step = progress.epoch, plan[progress.position]
        num_tokens = data.copies * sum(data.split.targets[i].num_target_tokens for batch in step for i in batch)
        while (losses := self._losses(step, num_tokens)) is None:
            self.learner.working.release()
            progress.batches = halved(progress.batches)
            self._announce(plan)
        # Only now, and once: reading a number from a GPU waits for everything it was asked to do.
        loss = torch.stack(losses).to(exact_dtype(losses[0].device)).sum().item() if losses else 0.0
        self.learner.working.gradient_sum.send()
        # Before waiting for gradients: on GPUs a process that is gone is only noticed here.
        loss, *missing = self.processes.sum([loss, self.missing_tokens, self.missing_windows])
        if missing[1]:
            self.note_unreadable()
        # The sum was divided by the number of all tokens, known before any audio was read; some may be missing.
        share_there = 1 - missing[0] / num_tokens
        self.learner.working.gradient_sum.finish()
        number = progress.step + 1
        self._updating = True
        norm = self._update(share_there)
        progress.position += 1
        took = self.pace.measure(step, time.perf_counter() - started, num_tokens, missing)
        row: Row
        if norm is None:
            row = SkippedRow(step=number, epoch=epoch, loss_scale=progress.loss_scale, **took)
        else:
            progress.validated = False
            rate, mean = self.learner.schedule(number), loss / share_there
            row = UpdateRow(step=number, epoch=epoch, lr=rate, loss=mean, grad_norm=norm, **took)
        self.log.write(row)
        self._end_of_update()
        advance(1, note=shown_update(loss / share_there if share_there else None, took))
        self._save_if_due()
        self.stop.check_together()

    def _losses(self, step: Step, num_tokens: int) -> list[Tensor] | None:
        """The losses of this process's micro-batches; None if a GPU's memory ran out and smaller ones may fit."""
        self.missing_tokens = self.missing_windows = 0
        share = self._own_share(step)
        self.learner.working.gradient_sum.expect(len(share))
        try:
            return [self._loss(*((batch, num_tokens) if batch else (step[0][:1], math.inf))) for batch in share]
        except torch.OutOfMemoryError:  # several processes would have to agree, but the others are a step ahead
            if self.progress.batches.batch_size == 1 or self.processes.world_size > 1:
                raise
            return None

    def _loss(self, batch: Sequence[int], num_tokens: float) -> Tensor:
        copies = zip(*(self.data.targets(index, self.progress.epoch) for index in batch), strict=True)  # as the states
        every = list(chain.from_iterable(copies))
        return self.learner.working.together(lambda: self.backward(batch, every, num_tokens))

    def _own_share(self, step: Step) -> Step:
        """This process's micro-batches of a step; sharded, empty ones for each that another has more."""
        size, num_processes = self.progress.batches.batch_size, self.processes.world_size
        shares = balance_step(step, self.data.split.num_samples, size, num_processes)
        own, passes = shares[self.processes.rank], max(map(len, shares))
        return [*own, *([] for _ in range(passes - len(own)) if self.learner.working.sharded)]

    def backward(self, batch: Sequence[int], targets: Sequence[Target], num_tokens: float) -> Tensor:
        """Add one micro-batch's part of the gradient; returns its part of the loss, on the device.

        num_tokens: of the whole step, so that parts add up to its mean per token; infinite for a pass that adds none.
        """
        working, data, decoder = self.learner.working, self.data, self.learner.working.model.decoder
        states = data.states.fetch(batch, self.progress.epoch).to(working.device, working.dtype)
        if states.unreadable and num_tokens < math.inf:
            targets = self._without_loss(batch, targets, {row % len(batch) for row in states.unreadable})
        input_ids, labels = collate_targets(targets, data.pad_id)
        num_tokens_by_row = [len(target.input_ids) for target in targets]
        hidden = decoder(
            send(input_ids, working.device), states.states, states.log_weights, num_tokens_by_row, states.num_frames
        )
        nll = summed_nll(decoder, hidden, labels, self.options.loss.label_smoothing) / num_tokens
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
        progress, learner = self.progress, self.learner
        if not share_there > 0:  # none of its audio could be decoded
            learner.optimizer.zero_grad(set_to_none=True)
            return None
        scale = (progress.loss_scale or 1.0) * share_there
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        if scale != 1 and gradients:
            torch._foreach_mul_(gradients, 1 / scale)
        norm = learner.working.clip(self.options.optimizer.max_grad_norm)
        finite = math.isfinite(norm)
        if finite:
            progress.step += 1
            progress.skipped_in_a_row = 0
            set_rate(learner.optimizer, learner.schedule(progress.step))
            learner.working.update(learner.optimizer)
        else:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        learner.optimizer.zero_grad(set_to_none=True)
        if progress.loss_scale is not None:
            progress.loss_scale = adapted(progress.loss_scale, finite, progress.step)
        return norm if finite else None

    def _end_of_update(self) -> None:
        """Model, optimiser, progress and metrics are consistent again.

        Raises:
            TrainingError: after too many skipped updates in a row.
        """
        self._updating = False
        self.log.settle()
        if (skipped := self.progress.skipped_in_a_row) >= self.options.optimizer.max_skipped_in_a_row:
            raise too_many_skipped(skipped, self.progress.step + 1)

    def _validate(self, *, baseline: bool = False) -> None:
        progress = self.progress
        name = "untouched model" if baseline else f"epoch {progress.epoch}/{self.options.epochs}"
        is_best = self._validate_as("baseline" if baseline else "epoch", name)
        progress.since_best = 0 if is_best or baseline else progress.since_best + 1
        progress.validated = True
        self.log.settle()
        if is_best:
            self.save()  # a run killed before would repeat these updates, on a GPU not bit by bit: best/ is not theirs
        else:
            self._save_if_due()

    def _validate_as(self, model: str, name: str) -> bool:
        """Validate the model as it stands, and save it if it is the best so far; whether it is.

        model: as in metrics.jsonl. name: for people.
        """
        progress, learner, baseline = self.progress, self.learner, model == "baseline"
        learner.working.release()  # decoding's caches take its place
        give_back_freed_memory()
        found = self.validate(name, model)
        give_back_freed_memory()
        epoch = 0 if baseline else progress.epoch if model == "epoch" else progress.epoch - 1
        self.log.write(
            EvaluationRow(
                step=progress.step, epoch=epoch, split="valid", model=model,
                frames=self.options.frames.selection, memory_gb=peak_memory_gb(self.pace.device), **found.summary(),
            )
        )  # fmt: skip
        notes = f", {counted(found.loops, 'loop')} cut" if found.loops else ""
        notes += f", {found.capped} cut at the cap" if found.capped else ""
        # Ties go to the newer one: it has seen more. An average has less of chance in it than the luckiest epoch has.
        is_best = not baseline and (progress.best_rate is None or found.score.leading <= progress.best_rate)
        is_best = is_best or (model == "average" and not self.is_worse(model))
        if is_best:
            weights = learner.working.weights()
            if self.processes.is_main:
                self.save_best(weights, model)
            del weights
            rate, before = found.score.leading, progress.best_rate
            kept = "as good as the best so far, and newer" if rate == before else "worse by no more than chance"
            notes += ", best so far" if before is None or rate < before else f", {kept}: kept"
            progress.best_rate, progress.best_step, progress.best_epoch = found.score.leading, progress.step, epoch
            progress.best_model = model
        console.print(f"{name}: valid {found.rates()}, loss {found.loss:.3f}{notes}")
        return is_best

    def _save_if_due(self) -> None:
        every = self.options.checkpoint.every_steps
        by_steps = every is not None and self.progress.step > 0 and self.progress.step % every == 0
        is_due = by_steps or time.monotonic() - self.last_saved >= 60 * self.options.checkpoint.every_minutes
        if self.processes.from_main(lambda: is_due) if self.learner.working.sharded else is_due:
            self.save()

    def save(self) -> None:
        """Write the state to last/, in the process that writes; the others hand it their parts."""
        learner, progress = self.learner, self.progress
        if self.processes.is_main:
            progress.metrics_size, progress.metrics_sha256 = self.log.settled()
            mean = self.averaging.mean
            save_state(self.state, learner.model, learner.optimizer, progress, learner.working, mean)
        elif learner.working.sharded:
            gather_state(learner.model, learner.optimizer, learner.working)
        self.last_saved = time.monotonic()
