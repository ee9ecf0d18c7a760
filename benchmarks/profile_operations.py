"""Which operations the time goes to, in encoding, a training epoch and a validation: what a compiler could still win.

    python benchmarks/profile_operations.py
    python benchmarks/profile_operations.py --freeze none  # of a run in which the encoder learns
    python benchmarks/profile_operations.py --clips 16     # a smoke test

Of a run, by default with the encoder frozen: all training clips encoded, one epoch of updates, the valid split decoded
greedily and scored. Seconds are the operations' own, on the calling thread, by torch's profiler, which adds some to
small ones. All is measured without it; what is left of it (Python, audio) is the time between operations. A compiler
can fuse gelu, layer_norm and the like with their neighbours; it leaves products and attention to the same kernels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from common import DATA, add_common, cut_manifest, markdown, publish
from torch.profiler import ProfilerActivity, profile

from whispertune.features.options import FrameOptions
from whispertune.run.recipe import Recipe
from whispertune.run.run_folder import RunFolder
from whispertune.run.session import open_session
from whispertune.run.stages import build_run_schedule, build_trainer
from whispertune.states.computed import ComputedStates, encoding_batches
from whispertune.states.options import StateOptions
from whispertune.system.memory import keep_freed_memory
from whispertune.training.plan import epoch_plan
from whispertune.training.resume import StopSignal
from whispertune.training.trainer import Trainer

GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul"),
    "convolutions": ("conv",),
    "attention": ("scaled_dot_product",),
    "gelu": ("gelu",),
    "layer_norm": ("layer_norm",),
    "softmax, logits": ("softmax", "amax", "max", "topk", "gather", "scatter", "exp", "log"),
    "AdamW, norm, copies of parameters": ("adam", "foreach", "linalg_vector_norm"),
    "copies and indexing": (
        "copy",
        "index",
        "cat",
        "pad",
        "fill",
        "zero",
        "select",
        "embedding",
        "contiguous",
        "clone",
    ),
    "sums and scaling": ("add", "mul", "sub", "div", "sum", "neg"),
}
"""Parts of operations' names; the first group that has one counts."""


def group_of(operation: str) -> str:
    name = operation.removeprefix("aten::").removeprefix("_")
    for group, parts in GROUPS.items():
        if any(part in name.split("_") or ("_" in part and part in name) for part in parts):
            return group
    return next((group for group, parts in GROUPS.items() if any(part in name for part in parts)), "others")


def seconds_of(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of each group of operations, of the time between them, and of all."""
    work()  # a warm-up
    started = time.perf_counter()
    work()
    whole = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        seconds[group_of(event.key)] += event.self_cpu_time_total / 1e6
    seconds["between operations"] = max(0.0, whole - sum(seconds.values()))
    return {**seconds, "all": whole}


def train_an_epoch(trainer: Trainer) -> None:
    """The updates of the next epoch."""
    progress, split, learner = trainer.progress, trainer.data.split, trainer.learner
    plan = epoch_plan(split.num_samples, progress.batches, seed=trainer.options.seed, epoch=progress.epoch)
    trainer.data.states.prepare([batch for step in plan for batch in step], progress.epoch)
    for step in plan:
        num_tokens = sum(split.targets[index].num_target_tokens for batch in step for index in batch)
        learner.working.gradient_sum.expect(len(step))
        for batch in step:
            trainer.backward(batch, [split.targets[index] for index in batch], num_tokens)
        learner.working.clip(trainer.options.optimizer.max_grad_norm)
        learner.working.update(learner.optimizer)
        learner.optimizer.zero_grad(set_to_none=True)
    progress.epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "profile-operations")
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--freeze", default="encoder", help="as of train (%(default)s)")
    parser.add_argument("--clips", type=int, help="only so many of train and of valid (a smoke test)")
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        recipe = Recipe(
            model=options.model, train=str(cut_manifest([DATA / "train.csv"], work / "train.csv", options.clips)),
            valid=str(cut_manifest([DATA / "valid.csv"], work / "valid.csv", options.clips)), language="it",
            output=str(work / "run"), batch_size=8, accumulation=1, epochs=2, precision=options.precision,
            states=StateOptions(folder=str(work / "states")), freeze=options.freeze,
        )  # fmt: skip
        folder = RunFolder(work / "run")
        folder.create()
        session = open_session(recipe, folder, StopSignal())
        trainer = build_trainer(session, build_run_schedule(session))

        def encode_all() -> None:
            states = ComputedStates(
                session.working.model.encoder,
                lambda index, _: [session.features(session.train, index, FrameOptions())],
                workers=recipe.data.workers,
            )
            batches = encoding_batches(session.train.num_samples, session.frames)
            states.prepare(list(batches))
            for batch in batches:
                states.fetch(batch)

        found = {
            "encoding": seconds_of(encode_all),
            "training epoch": seconds_of(lambda: train_an_epoch(trainer)),
            "validation": seconds_of(lambda: trainer.validate("valid", "epoch")),
        }
        name = session.precision.name
    rows = []
    for group in [*GROUPS, "others", "between operations", "all"]:
        shares = [(part.get(group, 0.0), part["all"]) for part in found.values()]
        if any(seconds for seconds, _ in shares):
            rows.append((group, *(f"{seconds:.2f} ({100 * seconds / whole:.1f} %)" for seconds, whole in shares)))
    clips = f"{len(session.train.windows)} clips of train, {len(session.valid.windows)} of valid, batches of 8."
    publish(
        options.table,
        f"operations of a run, {options.model}, {name}, freeze: {options.freeze}",
        [clips, markdown(("seconds (share)", *found), rows)],
    )


if __name__ == "__main__":
    main()
