"""Fine-tuned with and without stitched windows: what becomes of timestamps, long form, and silence.

    python benchmarks/stitched.py                       # 3 seeds: 1 to 2 hours on two cores
    python benchmarks/stitched.py --seeds 0 --max_steps 8 --work /tmp/smoke --table /tmp/smoke.md     # a smoke test

whisper-base on the Italian prompts, the demo's recipe; the stitched arm adds --stitched. The untouched model and
every fine-tuned one decode valid and test together, greedy, dense (--frames thinned is several times as fast, for a
look on a slow machine): clip by clip; and, --clips of them if given, stitched into windows with known boundaries and
with timestamps, and joined into recordings of up to 10 minutes; and 5 minutes of silence and noise. (The checkpoint
was chosen on valid: compare the two arms with one another on clips, and with the untouched model on the rest.)
Intervals are bootstraps over seeds, and of the clips' difference over clips too. Any other flag is a field of both
arms' recipe.

What is done is kept in WORK, two JSONs for each arm and seed: started again, only what is missing is done, and a
training that was killed continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, ROOT, add_common, cut_manifest, markdown, percent, publish

from whispertune.evaluation.significance import matched_pairs
from whispertune.system.files import write_text

STITCHED = "--windows.stitched_share=0.15 --windows.timestamps=0.5 --windows.previous_text=0.3"
MOST_POINTS_LOST = 0.5
"""WER of short clips that stitching may cost, points."""

Found = dict[str, Any]
"""What is known of one model: evaluate's summary (its error rates are those of all clips), each clip's `errors` and
`words`, `training_seconds`."""


@dataclass(frozen=True)
class Measure:
    """A row of the table. of: the figure in a result. better: -1 where less is better."""

    name: str
    of: Callable[[Found], float | None]
    shown: Callable[[float], str]
    better: int = -1


MEASURES = (
    Measure("short-clip WER", lambda r: r["wer"], percent),
    Measure("short-clip CER", lambda r: r["cer"], percent),
    Measure("long-form WER", lambda r: r["long_form"]["wer"], percent),
    Measure("WER of stitched windows, with timestamps", lambda r: r["timestamps"]["wer"], percent),
    Measure("valid timestamps", lambda r: r["timestamps"]["valid"], percent, 1),
    Measure("boundary error, mean", lambda r: r["timestamps"]["boundary_error_mean"], lambda v: f"{v:.3f} s"),
    Measure("boundary error, median", lambda r: r["timestamps"]["boundary_error_median"], lambda v: f"{v:.3f} s"),
    Measure("boundaries found within 0.5 s", lambda r: r["timestamps"]["boundaries_found"], percent, 1),
    Measure("words an hour on silence and noise", lambda r: r["hallucination"]["insertions_per_hour"], "{:.0f}".format),
    Measure("clips that loop", lambda r: r["repetition_rate"], percent),
    Measure("clips at 448 tokens", lambda r: r["capped_rate"], percent),
)


def run(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "whispertune", *map(str, arguments)], check=True, cwd=ROOT)


def evaluated(model: str, data: Path, folder: Path, frames: str, *more: str) -> Found:
    """What `evaluate` says of a model, with each clip's errors."""
    run(
        "evaluate", "--model", model, "--data", data, "--language=it", "--beam-size=1",
        f"--frames.selection={frames}", "--output", folder, *more,
    )  # fmt: skip
    found: Found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()]
    return found | {"errors": [row["word_errors"] for row in rows], "words": [row["words"] for row in rows]}


def kept(path: Path, make: Callable[[], Found]) -> Found:
    """What the JSON holds, made first where it is missing."""
    if not path.exists():
        write_text(path, json.dumps(make(), ensure_ascii=False))
    found: Found = json.loads(path.read_text(encoding="utf-8"))
    return found


def result_of(arm: str, seed: int, work: Path, options: argparse.Namespace, fields: Sequence[str]) -> Found:
    """Of one arm and seed: read, or trained and measured now. fields: of the recipe."""
    name = f"{arm}-{seed}"
    model = options.model if arm == "untouched" else str(work / f"run-{name}")

    def probes() -> Found:
        started = time.perf_counter()
        if arm != "untouched":
            given = [f"--model={options.model}", f"--output={model}", f"--seed={seed}", "--test=null"]
            run("train", ROOT / "recipes" / "demo.yaml", *given, *fields)
        seconds = time.perf_counter() - started
        print(f"measuring {arm}, seed {seed}", flush=True)
        more = ("--timestamps=true", "--long_form=true", "--hallucination=true")
        found = evaluated(model, work / "clips.csv", work / f"decoded-{name}", options.frames, *more)
        return found | {"training_seconds": seconds}

    found = kept(work / f"{name}.json", probes)
    clips = kept(
        work / f"{name}-clips.json",
        lambda: evaluated(model, work / "all.csv", work / f"decoded-{name}-clips", options.frames),
    )
    return found | {key: clips[key] for key in ("wer", "cer", "errors", "words")}


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds; with three of them it is nearly their range."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (4000, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def mean_of(measure: Measure, results: Sequence[Found]) -> float | None:
    values = [measure.of(result) for result in results]
    return None if None in values else statistics.mean(value for value in values if value is not None)


def cell(measure: Measure, results: Sequence[Found]) -> str:
    """The mean, and its interval where there are several."""
    mean = mean_of(measure, results)
    if mean is None:
        return "–"
    values = [value for result in results if (value := measure.of(result)) is not None]
    low, high = map(measure.shown, over_seeds(values))
    return measure.shown(mean) + (f" ({low} to {high})" if len(values) > 1 else "")


def short_clips(plain: Sequence[Found], stitched: Sequence[Found]) -> tuple[float, str]:
    """Points of WER that stitching costs on clips, with intervals over seeds and over clips."""
    differences = [100 * (b["wer"] - a["wer"]) for a, b in zip(plain, stitched, strict=True)]
    low, high = over_seeds(differences)
    before, after = (np.sum([result["errors"] for result in results], axis=0).tolist() for results in (plain, stitched))
    clips = matched_pairs(before, after, [len(plain) * words for words in plain[0]["words"]])
    mean = statistics.mean(differences)
    return mean, (
        f"{mean:+.2f} points (over seeds {low:+.2f} to {high:+.2f}, over clips {100 * clips.low:+.2f} to "
        f"{100 * clips.high:+.2f})"
    )


def bars(untouched: Found, plain: Sequence[Found], stitched: Sequence[Found]) -> list[tuple[str, str, str]]:
    """(bar, what was found, whether it is met) of each."""
    by_name = {measure.name: measure for measure in MEASURES}

    def against_untouched(name: str) -> tuple[str, str, str]:
        measure = by_name[name]
        before, after = measure.of(untouched), mean_of(measure, stitched)
        if before is None or after is None:
            return f"{name}: no worse than untouched", "–", "unknown"
        met = measure.better * (after - before) >= 0
        return f"{name}: no worse than untouched", f"{measure.shown(before)} → {measure.shown(after)}", _said(met)

    lost, described = short_clips(plain, stitched)
    return [
        against_untouched("valid timestamps"),
        against_untouched("boundary error, mean"),
        against_untouched("boundary error, median"),
        (f"short clips: within {MOST_POINTS_LOST} points of without", described, _said(lost <= MOST_POINTS_LOST)),
        against_untouched("words an hour on silence and noise"),
    ]


def _said(met: bool) -> str:
    return "yes" if met else "NO"


def tables(untouched: Found, plain: Sequence[Found], stitched: Sequence[Found]) -> list[str]:
    rows = [
        (measure.name, cell(measure, [untouched]), cell(measure, plain), cell(measure, stitched))
        for measure in MEASURES
    ]
    sounds = [
        (kind, *(statistics.mean(r["hallucination"]["sounds"][kind]["words"] for r in results)
                 for results in ([untouched], plain, stitched)))
        for kind in untouched["hallucination"]["sounds"]
    ]  # fmt: skip
    shown = [(kind, *(f"{words:.1f}" for words in counts)) for kind, *counts in sounds]
    return [
        markdown(("", "untouched", "without stitching", "with stitching"), rows),
        "Words written down in 60 s of each sound, mean over seeds:",
        markdown(("", "untouched", "without stitching", "with stitching"), shown),
        markdown(("bar", "found", "met"), bars(untouched, plain, stitched)),
    ]


def require_same_settings(work: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder with results of other settings.

    Raises:
        SystemExit: if it holds some.
    """
    path = work / "settings.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
        sys.exit(f"{work} holds results of other settings; remove it, or give another --work")
    work.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "stitched")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stitched", default=STITCHED, help="fields of the stitched arm (%(default)s)")
    parser.add_argument("--model", default="packaged:whisper-base", help="(%(default)s)")
    parser.add_argument("--frames", choices=["dense", "thinned"], default="dense", help="decoded (%(default)s)")
    parser.add_argument("--clips", type=int, help="stitch and join so many clips only (all are decoded one by one)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "stitched", help="(%(default)s)")
    options, fields = parser.parse_known_args()
    work = options.work.resolve()
    names = ("model", "stitched", "clips", "frames")
    require_same_settings(work, {name: getattr(options, name) for name in names} | {"fields": fields})
    for name, clips in (("all", None), ("clips", options.clips)):
        cut_manifest([DATA / "valid.csv", DATA / "test.csv"], work / f"{name}.csv", clips)
    untouched = result_of("untouched", 0, work, options, [])
    plain, stitched = (
        [result_of(arm, seed, work, options, [*fields, *extra]) for seed in options.seeds]
        for arm, extra in (("plain", []), ("stitched", options.stitched.split()))
    )
    seconds = [statistics.mean(result["training_seconds"] for result in results) for results in (plain, stitched)]
    note = f"Training took {seconds[0]:.0f} s without stitching and {seconds[1]:.0f} s with (mean over seeds)."
    clips = f"{len(untouched['words'])} clips, {sum(untouched['words'])} words, greedy, {options.frames}"
    if options.clips:
        clips += f"; {options.clips} of them stitched and joined"
    described = f"With stitching: `{options.stitched}`. {clips}."
    publish(options.table, "with and without stitched windows", [described, *tables(untouched, plain, stitched), note])


if __name__ == "__main__":
    main()
