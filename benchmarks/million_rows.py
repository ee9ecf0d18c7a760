"""A manifest of a million rows: seconds and memory of `check --no-audio` and of the start of `train`, twice each.

    python benchmarks/million_rows.py [--rows 1000000] [--files 8] [--model packaged:whisper-base] [--core 0]

The recordings (10 minutes each, noise) are few; each row is a span of one, with a text of 3 to 20 words. Each start is
a process of its own, bound to one core, and counts from the command line on: imports and model included. The first
finds no index, the second that of the first. The start of `train` is all that is done before the first window is
encoded: the session opened, validation compared with training data, schedule, states and an epoch planned. What comes
after the start is timed apart, in the same process: an epoch's steps dealt to 8 ranks, and which states each rank would
encode and where they would lie (the layout, its batches, the key of the store).
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import resource
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

WORDS = "il numero chiamato non è raggiungibile prego attendere in linea digitare uno per un operatore"
MINUTES = 10
NOTES = "notes"
RANKS = 8
STEPS = 10_000
"""Steps of the epoch that are dealt to ranks."""


def write_corpus(folder: Path, rows: int, files: int) -> Path:
    draw = random.Random(0)
    for number in range(files):
        noise = np.random.default_rng(number).integers(-9_000, 9_000, MINUTES * 60 * 16_000).astype(np.int16)
        soundfile.write(folder / f"{number}.wav", noise, 16_000)
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "audio", "text", "start", "end", "speaker", "language"])
        for row in range(rows):
            start = draw.randrange(0, (MINUTES * 60 - 20) * 1000) / 1000
            end = start + draw.randrange(1_000, 15_000) / 1000
            text = " ".join(draw.choices(WORDS.split(), k=draw.randint(3, 20))).capitalize() + "."
            writer.writerow(
                [f"u{row}", f"{row % files}.wav", text, f"{start:.3f}", f"{end:.3f}", f"s{row % 5000}", "it"]
            )
    return folder / "train.csv"


def write_valid(folder: Path, rows: int = 100) -> None:
    """Validation data: spans of a recording of its own."""
    noise = np.random.default_rng(1_000).integers(-9_000, 9_000, MINUTES * 60 * 16_000).astype(np.int16)
    soundfile.write(folder / "valid.wav", noise, 16_000)
    lines = [
        f"v{row},valid.wav,Prego attendere in linea.,{row * 5},{row * 5 + 1.5 + row / 100:g}" for row in range(rows)
    ]
    (folder / "valid.csv").write_text("\n".join(["id,audio,text,start,end", *lines]) + "\n", encoding="utf-8")


def start_training(manifest: Path, model: str, folder: Path, stitched: float | Literal["auto"]) -> None:
    """Everything that `train` does before it computes."""
    from whispertune.dataset.options import WindowOptions
    from whispertune.run.encoder_states import plan_states
    from whispertune.run.recipe import Recipe
    from whispertune.run.run_folder import RunFolder
    from whispertune.run.session import open_session
    from whispertune.run.stages import build_run_schedule
    from whispertune.states.key import store_key
    from whispertune.training.plan import balance_step, epoch_plan
    from whispertune.training.resume import StopSignal

    began = time.perf_counter()

    def note(what: str) -> None:
        nonlocal began
        now, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        with (manifest.parent / NOTES).open("a", encoding="utf-8") as file:
            file.write(f"| … {what} | {now - began:.1f} | | {peak:.2f} |\n")
        began = now

    recipe = Recipe(
        model=model, train=str(manifest), valid=str(manifest.with_name("valid.csv")), language="it", output=str(folder),
        windows=WindowOptions(stitched_share=stitched),
    )  # fmt: skip
    run = RunFolder(folder)
    run.create()
    session = open_session(recipe, run, StopSignal())
    build_run_schedule(session)
    states = plan_states(session)
    note("start: everything up to the plan of an epoch")
    num_samples, batches = session.train.num_samples, session.progress.batches
    plan = epoch_plan(num_samples, batches, seed=0, epoch=1)
    note(f"an epoch planned ({len(plan):,} steps)")
    dealt = sum(len(balance_step(step, num_samples, batches.batch_size, RANKS)[0]) for step in islice(plan, STEPS))
    note(f"{STEPS:,} of its steps dealt to {RANKS} ranks ({dealt:,} micro-batches for the first)")
    layout = states.train
    shares = [sum(len(layout.batches[number]) for number in range(rank, len(layout.batches), RANKS)) for rank in (0, 1)]
    note(f"states dealt to {RANKS} ranks ({len(layout.batches):,} batches, {shares[0]:,} windows for the first)")
    store_key("", session.train.windows, layout, n_mels=80, device=session.device)
    note(f"key of a store of {layout.num_bytes / 1e9:,.0f} GB of states")


def measured(name: str, command: list[str], core: int) -> None:
    """Run a command on one core and print a row of the table."""
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {core})
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.execv(command[0], command)
    _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    failed = "" if status == 0 else f" (exit status {os.waitstatus_to_exitcode(status)})"
    cpu = used.ru_utime + used.ru_stime
    print(f"| {name}{failed} | {seconds:.1f} | {cpu:.1f} | {used.ru_maxrss * 1024 / 1e9:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--core", type=int, default=0, help="the core that all of it runs on")
    parser.add_argument("--stitched_share", default="auto", help="windows.stitched_share: 0 as for a corpus of clips")
    parser.add_argument("--start-only", action="store_true", help="leave `check` out")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    share: float | Literal["auto"] = "auto" if arguments.stitched_share == "auto" else float(arguments.stitched_share)
    if arguments.start is not None:
        start_training(arguments.start, arguments.model, arguments.start.parent / f"run-{os.getpid()}", share)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        manifest = write_corpus(folder, arguments.rows, arguments.files)
        write_valid(folder)
        check = ["-m", "whispertune", "check", str(manifest), "--language", "it", "--no-audio"]
        train = [__file__, "--start", str(manifest), "--model", arguments.model]
        train += ["--stitched_share", arguments.stitched_share]
        print("| | seconds | of one core | peak memory, GB |\n|---|---|---|---|")
        for index in ("no index yet", "second start"):
            measured(f"start of train, {index}", [sys.executable, *train], arguments.core)
            print((folder / NOTES).read_text(encoding="utf-8"), end="", flush=True)
            (folder / NOTES).unlink()
        if arguments.start_only:
            return
        for entry in (folder / "cache" / "whispertune" / "index").iterdir():
            entry.unlink()
        for index in ("no index yet", "second start"):
            command = [sys.executable, *check, "--output", str(folder / "check")]
            measured(f"check --no-audio, {index}", command, arguments.core)


if __name__ == "__main__":
    main()
