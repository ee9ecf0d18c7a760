"""Where our own time goes, and which share of the machine's matrix ceiling it reaches: training steps and encoding.

    python benchmarks/profile_step.py
    python benchmarks/profile_step.py --clips 16 --steps 2 --repeats 1     # a smoke test

The encoder is frozen, its states stored: a step is the decoder forward and backward, and the update. Utilisation
counts the products that the model needs on real (unpadded) frames and tokens, by the formulas in flops.py, no
gradient to the states, over all seconds of the steps. The ceiling is the best rate of a large square product in
this run; beside it stands what the model's own shapes reach as single products. The parts of a step are taken by
timers around public functions of the package.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from common import DATA, add_common, cut_manifest, markdown, publish
from flops import (
    Product,
    backward_products,
    decoder_products,
    decoder_training,
    encoder_forward,
    encoder_products,
)

from whispertune.data.audio.waveforms import load_waveform
from whispertune.features.frames import select_frames
from whispertune.model.whisper import Decoder
from whispertune.run.recipe import Recipe
from whispertune.run.run_folder import RunFolder
from whispertune.run.session import Session, open_session
from whispertune.run.stages import build_run_schedule, build_trainer
from whispertune.states.computed import encode, encoding_batches, window_features
from whispertune.system.memory import keep_freed_memory
from whispertune.training import trainer as trainer_module
from whispertune.training import working_copy
from whispertune.training.metrics import EvaluationRow, MetricsFile, Row, RunLog
from whispertune.training.plan import epoch_plan
from whispertune.training.resume import StopSignal
from whispertune.training.trainer import Trainer
from whispertune.training.working_copy import WorkingCopy

WARM_UP_STEPS = 2


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def product_seconds(product: Product, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Median seconds of one product of this shape."""
    a = torch.randn(product.rows, product.inner, device=device).to(dtype)
    b = torch.randn(product.columns, product.inner, device=device).to(dtype).t()
    seconds = []
    for _ in range(repeats + 1):
        synchronize()
        started = time.perf_counter()
        torch.mm(a, b)
        synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def square_rate(dtype: torch.dtype, device: torch.device, repeats: int, sizes: Sequence[int]) -> float:
    """The ceiling: FLOP a second of the quickest square product."""
    rates = []
    for size in sizes:
        product = Product(size, size, size)
        rates += [product.flops / product_seconds(product, dtype, device, 1) for _ in range(repeats)]
    return max(rates)


def shapes_rate(products: Sequence[Product], dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """FLOP a second of the model's own products, one after the other."""
    seconds = sum(product_seconds(p, dtype, device, repeats) * p.count for p in products)
    return sum(p.flops for p in products) / seconds


@contextmanager
def timed(owner: Any, name: str, label: str, into: dict[str, float]) -> Iterator[None]:
    """Add the seconds of each call of owner.name to `into`; where the name is gone, the part is left out."""
    original = getattr(owner, name, None)
    if original is None:
        print(f"no {name} in {owner}: its time is counted as other")
        yield
        return

    def wrapped(*arguments: Any, **named: Any) -> Any:
        synchronize()
        started = time.perf_counter()
        try:
            return original(*arguments, **named)
        finally:
            synchronize()
            into[label] += time.perf_counter() - started

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, original)


class TimedStates:
    """The trainer's states, with the seconds of fetching them."""

    def __init__(self, states: Any, into: dict[str, float]) -> None:
        self.states, self.into = states, into

    def fetch(self, *arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        found = self.states.fetch(*arguments, **named)
        self.into["states from the store"] += time.perf_counter() - started
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.states, name)


def encoding_parts(session: Session) -> tuple[dict[str, float], int]:
    """Seconds of each part of encoding the training split, one after the other; FLOPs on real frames."""
    split, frames, config = session.train, session.frames, session.ready.checkpoint.config
    seconds: dict[str, float] = defaultdict(float)
    flops = 0
    encoder = session.working.model.encoder
    batches = encoding_batches(split.num_samples, frames)
    with torch.inference_mode():
        for number, batch in enumerate([batches[0], *batches]):  # the first is a warm-up
            start = time.perf_counter()
            utterances = [split.windows[i].utterances[0] for i in batch]
            waveforms = [load_waveform(u.audio, u.start, u.end) for u in utterances]
            decoded = time.perf_counter()
            features = [window_features(waveform, session.ready.n_mels, frames) for waveform in waveforms]
            ready = time.perf_counter()
            encode(encoder, features)
            synchronize()
            done = time.perf_counter()
            if number == 0:
                continue
            seconds["audio decoding and resampling"] += decoded - start
            seconds["log-mel"] += ready - decoded
            seconds["encoder"] += done - ready
            flops += sum(encoder_forward(config, len(f.positions), f.log_mel.shape[1]) for f in features)
    return seconds, flops


def step_parts(trainer: Trainer, steps: int) -> tuple[dict[str, float], list[float]]:
    """Seconds of each part over `steps` updates, and of each whole update; warm-up and validations left out."""
    into: dict[str, float] = defaultdict(float)
    counted: dict[str, float] = {}
    before: dict[str, float] = {}
    seconds: list[float] = []
    trainer.data = dataclasses.replace(trainer.data, states=TimedStates(trainer.data.states, into))

    def watch(row: Row) -> None:
        if isinstance(row, EvaluationRow):  # a validation: what it added is taken out again
            into.clear()
            into.update(before)
            return
        seconds.append(row.seconds)
        if len(seconds) == WARM_UP_STEPS:
            into.clear()
        if len(seconds) == WARM_UP_STEPS + steps:
            counted.update(into)
        before.clear()
        before.update(into)

    with ExitStack() as stack:
        for owner, name, label in (
            (Decoder, "forward", "decoder forward"),
            (trainer_module, "summed_nll", "vocabulary and cross-entropy, forward"),
            (torch.Tensor, "backward", "backward (vocabulary, gradients into float32)"),
            (working_copy, "clip_gradients", "gradient norm and clipping"),
            (WorkingCopy, "update", "AdamW, working copy refreshed"),
        ):
            stack.enter_context(timed(owner, name, label, into))
        trainer.log = RunLog(
            MetricsFile(trainer.state.with_name("metrics.jsonl")), sinks=[SimpleNamespace(write=watch)]
        )
        trainer.run()
    return counted, seconds[WARM_UP_STEPS:]


def measured_batches(session: Session, steps: int) -> list[list[int]]:
    """The micro-batches of the measured updates, as the trainer cuts them."""
    batches: list[list[list[int]]] = []
    recipe, epoch = session.recipe, 0
    while len(batches) < WARM_UP_STEPS + steps:
        epoch += 1
        batches += epoch_plan(session.train.num_samples, session.progress.batches, seed=recipe.seed, epoch=epoch)
    return [batch for step in batches[WARM_UP_STEPS : WARM_UP_STEPS + steps] for batch in step]


def share_rows(parts: dict[str, float], whole: float, units: int, unit: str) -> list[tuple[str, str, str]]:
    """Rows of a table: each part, and what is left."""
    rows = {**parts, "other": whole - sum(parts.values())}
    lines = [(name, f"{1000 * s / units:.1f}", f"{100 * s / whole:.1f} %") for name, s in rows.items()]
    return [*lines, (f"whole {unit}", f"{1000 * whole / units:.1f}", "100 %")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "profile-step")
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--train", type=Path, default=DATA / "train.csv")
    parser.add_argument("--valid", type=Path, default=DATA / "valid.csv")
    parser.add_argument("--language", default="it")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30, help="updates that are measured")
    parser.add_argument("--repeats", type=int, default=5, help="of each product")
    parser.add_argument("--clips", type=int, help="only so many training clips (a smoke test)")
    options = parser.parse_args()
    keep_freed_memory()

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        train = cut_manifest([options.train], work / "train.csv", options.clips)
        valid = cut_manifest([options.valid], work / "valid.csv", 2)
        recipe = Recipe(
            model=options.model, train=str(train), valid=str(valid), language=options.language,
            output=str(work / "run"), batch_size=options.batch_size, accumulation=1, epochs=1000,
            max_steps=WARM_UP_STEPS + options.steps, precision=options.precision,
        )  # fmt: skip
        folder = RunFolder(work / "run")
        folder.create()
        session = open_session(recipe, folder, StopSignal())
        encoding, encoding_flops = encoding_parts(session)
        trainer = build_trainer(session, build_run_schedule(session))
        parts, steps = step_parts(trainer, options.steps)

    device, dtype, config = session.device, session.precision.dtype, session.ready.checkpoint.config
    split, batches = session.train, measured_batches(session, options.steps)
    frames = [len(select_frames(samples, session.frames).positions) for samples in split.num_samples]
    tokens = [len(target.input_ids) for target in split.targets]
    scored = [target.num_target_tokens for target in split.targets]
    needed = sum(decoder_training(config, frames[i], tokens[i], scored[i]) for batch in batches for i in batch)
    mean = [round(sum(lengths[i] for batch in batches for i in batch) / len(batches)) for lengths in (frames, tokens)]
    mean_scored = round(sum(scored[i] for b in batches for i in b) / len(batches))
    both, weights_only = decoder_products(config, mean[0], mean[1], mean_scored)
    step_products = (
        both + weights_only + backward_products(both) + backward_products(weights_only, input_gradient=False)
    )
    encoder_rows = max(len(b) * max(frames[i] for i in b) for b in encoding_batches(split.num_samples, session.frames))

    squares = [1024] if options.clips else [2048, 4096]
    if device.type == "cuda" and not options.clips:
        squares = [4096, 8192]
    ceilings = {
        name: square_rate(kind, device, options.repeats, squares)
        for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    own = {
        "training step": shapes_rate(step_products, dtype, device, options.repeats),
        "encoding": shapes_rate(encoder_products(config, encoder_rows), dtype, device, options.repeats),
    }
    name = session.precision.name
    ceiling = ceilings[name]
    whole_step, whole_encoding = sum(steps), sum(encoding.values())
    rows = []
    for what, flops, seconds in (
        ("training step", needed, whole_step),
        ("encoding", encoding_flops, whole_encoding),
        ("encoding, encoder alone", encoding_flops, encoding["encoder"]),
    ):
        rate = flops / seconds
        rows.append(
            (
                what, f"{flops / 1e9:.0f}", f"{seconds:.2f}",
                f"{rate / 1e9:.0f}", f"{100 * rate / ceiling:.1f} %",
                f"{100 * rate / own[what.partition(',')[0]]:.1f} %",
            )
        )  # fmt: skip
    publish(
        options.table,
        f"profile of a training step and of encoding, {options.model}, {name}",
        [
            f"{len(split.windows)} clips encoded, {options.steps} updates of {options.batch_size} clips; a micro-batch "
            f"holds on average {mean[0]} frames, {mean[1]} tokens and {mean_scored} targets.",
            "Ceiling, large square products: "
            + ", ".join(f"{kind} {rate / 1e9:.0f} GFLOP/s" for kind, rate in ceilings.items())
            + f". The model's own shapes, {name}: "
            + ", ".join(f"{kind} {rate / 1e9:.0f} GFLOP/s" for kind, rate in own.items())
            + ".",
            markdown(("", "GFLOP needed", "s", "GFLOP/s", "of the ceiling", "of own shapes"), rows),
            markdown(("training step", "ms a step", "share"), share_rows(parts, whole_step, len(steps), "step")),
            markdown(
                ("encoding, one after the other", "ms a clip", "share"),
                share_rows(encoding, whole_encoding, len(split.windows), "encoding"),
            ),
            f"Median step {1000 * statistics.median(steps):.0f} ms.",
        ],
    )


if __name__ == "__main__":
    main()
