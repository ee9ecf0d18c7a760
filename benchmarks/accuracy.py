"""Word error rates of differently trained models: two languages, several seeds, and what was forgotten of English.

    python benchmarks/accuracy.py --variant 'frozen' --variant 'all: --freeze none --schedule.name linear --epochs 2'
    python benchmarks/accuracy.py --seeds 0 --languages it --clips 12 --variant 'a: --epochs 1' --work /tmp/smoke
    python benchmarks/accuracy.py --clips 200 --token fi --work W --variant frozen --variant 'all: --freeze none'

Each VARIANT is `NAME: FLAGS OF TRAIN`, or `NAME: FLAGS then FLAGS`: a second run that starts from the best model of the
first. The first variant is what the others are compared with. Every model is
packaged:whisper-base, trained on examples/italian-prompts or french-prompts; it decodes the language's test and
examples/english-prompts, greedy, dense, bounded by 448 tokens only. Seconds are those of the processor (all threads),
for the whole run, states being encoded anew in each, so that other work on the machine counts little. What is done is
kept in WORK: started again, only what is missing is done. With --token the languages stand for one that Whisper does
not know: they are called Sardinian, and borrow that token.

Intervals: of one variant's mean over seeds, by Student's t; of differences, over utterances (their errors averaged over
the seeds) by a paired bootstrap within each language, and over seeds and languages by Student's t.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, add_common, cut_manifest, markdown, publish
from thinned_training import T_95

MODEL = "packaged:whisper-base"
FOLDERS = {"it": "italian-prompts", "fr": "french-prompts", "en": "english-prompts"}
DRAWS = 4000
EXPLAINED = """WER of each test in per cent, mean ± standard deviation over seeds: an utterance's errors count up to its
number of words; `with loops` without that bound, where a one-word clip whose output repeats itself may weigh as much as
all others. The change is the mean of the relative changes of all pairs of runs, with its 95 % interval over runs; then
that over utterances."""


@dataclass(frozen=True)
class Variant:
    """A way to train: flags of `whispertune train`, with `then` between those of runs that follow each other."""

    name: str
    flags: list[str]

    @property
    def runs(self) -> list[list[str]]:
        """The flags of each run."""
        runs: list[list[str]] = [[]]
        for flag in self.flags:
            if flag == "then":
                runs.append([])
            else:
                runs[-1].append(flag)
        return runs


def parse_variant(text: str) -> Variant:
    name, _, flags = text.partition(":")
    return Variant(name.strip(), shlex.split(flags))


def curve(run: Path, before: float, seconds: float) -> list[tuple[float, float]]:
    """Processor seconds so far and WER of each validation of a run, which began at `before` and took `seconds`.

    About: metrics.jsonl gives shares of it, in seconds by the clock. What its rows do not account for (start, states)
    lies before the first of them, or is lost among them on a busy machine.
    """
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    taken = list(accumulate(row["seconds"] for row in rows))
    return [
        (before + max(0.0, seconds - taken[-1]) + so_far * min(1.0, seconds / taken[-1]), row["wer"])
        for so_far, row in zip(taken, rows, strict=True)
        if row.get("split") == "valid"
    ]


class Bench:
    """Trains and scores what is missing in the working folder."""

    def __init__(self, work: Path, clips: int | None, token: str | None) -> None:
        cut = None if clips is None else f"{clips}-clips"
        self.work = work / "-".join(filter(None, ["greedy", token, cut]))  # figures of other settings lie elsewhere
        self.clips = clips
        self.token = token

    def spoken(self, language: str) -> list[str]:
        """The flags that name a language."""
        if self.token is None or language == "en":
            return ["--language", language]
        return ["--language", "sc", "--language_token", self.token]

    def data(self, language: str, part: str) -> Path:
        source = ROOT / "examples" / FOLDERS[language] / f"{part}.csv"
        if self.clips is None:
            return source
        return cut_manifest([source], self.work / "data" / f"{language}-{part}.csv", self.clips)

    def seconds_of(self, arguments: Sequence[str], log: Path) -> float:
        """Processor seconds of a whispertune command without a cache, its output going to `log`."""
        cache = log.parent / "cache"
        before = os.times()
        with log.open("w", encoding="utf-8") as output:
            status = subprocess.run(
                [sys.executable, "-m", "whispertune", *arguments], cwd=ROOT, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, check=False, env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            ).returncode  # fmt: skip
        if status:
            sys.exit(f"{shlex.join(arguments)}: failed, see {log}")
        after = os.times()
        shutil.rmtree(cache, ignore_errors=True)
        return after.children_user + after.children_system - before.children_user - before.children_system

    def train(self, variant: Variant, language: str, seed: int) -> dict[str, Any]:
        """Train one model and score it; its figures, kept in result.json."""
        folder = self.work / f"{variant.name}-{language}-{seed}"
        done = folder / "result.json"
        if done.exists() and (kept := json.loads(done.read_text(encoding="utf-8")))["flags"] == variant.flags:
            return dict(kept)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"{variant.name}, {language}, seed {seed}", flush=True)
        model, seconds, validations = MODEL, 0.0, []
        for number, flags in enumerate(variant.runs, start=1):
            run = folder / f"run-{number}"
            taken = self.seconds_of(
                ["train", "--model", model, "--train", str(self.data(language, "train")), "--valid",
                 str(self.data(language, "valid")), *self.spoken(language), "--output", str(run), "--seed", str(seed),
                 "--report", "false", *flags],
                folder / f"train-{number}.log",
            )  # fmt: skip
            validations += curve(run, seconds, taken)
            model, seconds = str(run), seconds + taken
            shutil.rmtree(run / "last", ignore_errors=True)  # the state, which is the largest part
        result = {"flags": variant.flags, "seconds": seconds, "curve": validations}
        result |= {name: self.score(model, name, folder) for name in (language, "en")}
        done.write_text(json.dumps(result), encoding="utf-8")
        return result

    def score(self, model: str, language: str, folder: Path) -> dict[str, list[int]]:
        """Errors and words of each utterance of a language's test."""
        output = folder / f"test-{language}"
        self.seconds_of(
            ["evaluate", "--model", model, "--data", str(self.data(language, "test")), *self.spoken(language),
             "--beam_size", "1", "--output", str(output)],
            folder / f"test-{language}.log",
        )  # fmt: skip
        rows = [json.loads(line) for line in (output / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()]
        return {"errors": [row["word_errors"] for row in rows], "words": [row["words"] for row in rows]}

    def untouched(self, languages: Sequence[str]) -> dict[str, dict[str, list[int]]]:
        """The pretrained model's score on each test."""
        folder = self.work / "untouched"
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / "result.json"
        found = json.loads(done.read_text(encoding="utf-8")) if done.exists() else {}
        for language in (*languages, "en"):
            if language not in found:
                found[language] = self.score(MODEL, language, folder)
                done.write_text(json.dumps(found), encoding="utf-8")
        return dict(found)


def bounded(score: dict[str, list[int]]) -> list[int]:
    """Errors of each utterance, at most its words: a clip in a loop counts as wholly wrong, and not a hundred times."""
    return [min(pair) for pair in zip(score["errors"], score["words"], strict=True)]


def wer(score: dict[str, list[int]]) -> float:
    return sum(bounded(score)) / sum(score["words"])


def raw_wer(score: dict[str, list[int]]) -> float:
    return sum(score["errors"]) / sum(score["words"])


def loops(score: dict[str, list[int]]) -> int:
    """Utterances with so many errors that the output must repeat itself."""
    return sum(errors > 20 + 2 * words for errors, words in zip(score["errors"], score["words"], strict=True))


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of rates, in per cent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def relative_change(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], sets: Sequence[str]) -> str:
    """Mean relative change of the test WER in per cent, with both intervals."""
    pairs = [
        wer(a[name]) / wer(b[name]) - 1 for a, b, name in zip(ours, theirs, sets, strict=True) if sum(b[name]["errors"])
    ]
    shown = f"{100 * statistics.mean(pairs):+.1f} %"
    if len(pairs) > 1:
        half = T_95.get(len(pairs) - 1, 1.96) * statistics.stdev(pairs) / math.sqrt(len(pairs))
        shown += f" ({100 * (statistics.mean(pairs) - half):+.1f} to {100 * (statistics.mean(pairs) + half):+.1f})"
    generator = np.random.default_rng(0)
    drawn = np.zeros(DRAWS)
    for name in dict.fromkeys(sets):
        errors = [
            np.mean([bounded(run[name]) for run, its in zip(runs, sets, strict=True) if its == name], axis=0)
            for runs in (ours, theirs)
        ]
        chosen = generator.integers(0, len(errors[0]), (DRAWS, len(errors[0])))
        drawn += (errors[0][chosen].sum(1) / np.maximum(errors[1][chosen].sum(1), 1e-9) - 1) / len(set(sets))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{shown}; {100 * low:+.1f} to {100 * high:+.1f}"


def mean_curve(runs: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Mean processor seconds and WER of each validation that all of the runs, of several seeds, came to."""
    points = zip(*(run["curve"] for run in runs), strict=False)
    return [(statistics.mean(s for s, _ in point), statistics.mean(rate for _, rate in point)) for point in points]


def plot(curves: dict[tuple[str, str], list[tuple[float, float]]], path: Path) -> None:
    """WER on valid over processor seconds, by language and variant."""
    from matplotlib.figure import Figure

    languages = list(dict.fromkeys(language for language, _ in curves))
    figure = Figure(figsize=(4.5 * len(languages), 3.6), layout="constrained")
    for axes, language in zip(figure.subplots(1, len(languages), squeeze=False)[0], languages, strict=True):
        for (its, name), points in curves.items():
            if its == language:
                axes.plot([s for s, _ in points], [100 * rate for _, rate in points], marker="o", label=name)
        axes.set(title=language, xlabel="processor seconds", ylabel="valid WER, %")
        axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", required=True, type=parse_variant, help="NAME: FLAGS OF TRAIN")
    parser.add_argument("--languages", nargs="+", default=["it", "fr"], choices=["it", "fr"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--clips", type=int, help="of each manifest, for a smoke test")
    parser.add_argument("--token", help="language token to borrow (fi), as if Whisper did not know the languages")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "whispertune" / "accuracy")
    parser.add_argument("--plot", type=Path, help="also plot valid WER over processor seconds (.svg, .png)")
    add_common(parser, "accuracy")
    given = parser.parse_args()
    bench = Bench(given.work, given.clips, given.token)
    untouched = bench.untouched(given.languages)
    columns = [f"{language}{what}, %" for language in given.languages for what in ("", " with loops")]
    header = ["variant", *columns, "loops", "change over the first", "English after it", "processor seconds"]
    untouched_cells = [f"{100 * rate(untouched[name]):.1f}" for name in given.languages for rate in (wer, raw_wer)]
    num_loops = sum(loops(untouched[name]) for name in given.languages)
    rows = [["untouched", *untouched_cells, num_loops, "", f"{100 * wer(untouched['en']):.1f}", ""]]
    first: list[dict[str, Any]] = []
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    sets = [language for language in given.languages for _ in given.seeds]
    for variant in given.variant:
        runs = [bench.train(variant, name, seed) for name in given.languages for seed in given.seeds]
        of_language = {name: [run[name] for run, its in zip(runs, sets, strict=True) if its == name] for name in sets}
        cells = [
            spread([rate(score) for score in scores]) for scores in of_language.values() for rate in (wer, raw_wer)
        ]
        num_loops = sum(loops(score) for scores in of_language.values() for score in scores)
        for name in given.languages:
            its_runs = [run for run, its in zip(runs, sets, strict=True) if its == name]
            curves[name, variant.name] = mean_curve(its_runs)
        change = relative_change(runs, first, sets) if first else ""
        first = first or runs
        seconds = statistics.median(run["seconds"] for run in runs)
        english = spread([wer(run["en"]) for run in runs])
        rows.append([variant.name, *cells, num_loops, change, english, f"{seconds:.0f}"])
    flags = "\n".join(f"- {variant.name}: `{shlex.join(variant.flags) or 'defaults'}`" for variant in given.variant)
    parts = [f"Seeds {', '.join(map(str, given.seeds))}; greedy, dense. {EXPLAINED}", flags, markdown(header, rows)]
    validations = [
        [name, language, "; ".join(f"{seconds:.0f} s {100 * rate:.1f}" for seconds, rate in points)]
        for (language, name), points in curves.items()
    ]
    parts.append(
        "The validations of each run (greedy, on its own frames), mean over seeds; seconds are about right, "
        "as they are shares by the clock:"
    )
    parts.append(markdown(["variant", "language", "processor seconds so far, WER in %"], validations))
    if given.plot:
        given.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(curves, given.plot)
    publish(given.table, "accuracy, packaged:whisper-base", parts)


if __name__ == "__main__":
    main()
