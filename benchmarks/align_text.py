"""`whispertune align` on recordings whose true pieces are known: are its pieces right, and how near are their times?

    python benchmarks/align_text.py
    python benchmarks/align_text.py --confidence 0 0.3 0.5 --keep /tmp/align

The Italian prompts are joined, in random order with pauses of 0.4 to 2.2 s, to three recordings of about 10 minutes.
Of the sentences 5 % are said but not in the text, and 5 % of all prompts are in the text but not said. A piece is wrong
if its text is not said, or if less than half of what is said lies in it. It is near if both its ends are within 0.3 s
of the ends of the clip (which has some silence of its own). Greedy, temperature 0. `--keep` keeps what the model heard
in a folder, and uses it again. Every prompt is one sentence, however long.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import DATA, add_common, markdown, percent, publish

from whispertune.align.options import ConfidenceOptions
from whispertune.align.pauses import find_pauses, frame_levels
from whispertune.align.sentences import Sentence
from whispertune.commands import align
from whispertune.commands.align_options import AlignOptions
from whispertune.data.audio.waveforms import load_utterance, stream_waveform
from whispertune.data.readers.manifest import read_manifest
from whispertune.decoding.options import FallbackOptions
from whispertune.decoding.words import Word
from whispertune.features.log_mel import SAMPLE_RATE

RECORDINGS, CHANGED = 3, 0.05
PAUSES = (0.4, 2.2)  # seconds
NEAR = 0.3

Said = tuple[Path, float, float] | None


def make(folder: Path, seed: int) -> tuple[list[Path], list[str], list[Said]]:
    """The recordings, the lines of the text, and when each of these is said."""
    utterances = [u for split in ("train", "valid", "test") for u in read_manifest(DATA / f"{split}.csv")]
    draws = np.random.default_rng(seed)
    order = draws.permutation(len(utterances))
    changed = round(CHANGED * len(utterances))
    added, spoken = order[:changed].tolist(), order[changed:]
    paths, said = [], []
    for number, part in enumerate(np.array_split(spoken, RECORDINGS)):
        parts: list[Any] = []
        at = 0
        paths.append(folder / f"{number}.flac")
        for index in part.tolist():
            parts += [
                np.zeros(round(draws.uniform(*PAUSES) * SAMPLE_RATE), np.float32),
                load_utterance(utterances[index]),
            ]
            at += len(parts[-2])
            said.append((utterances[index].text, (paths[-1], at / SAMPLE_RATE, (at + len(parts[-1])) / SAMPLE_RATE)))
            at += len(parts[-1])
        soundfile.write(paths[-1], np.concatenate(parts), SAMPLE_RATE)
    missing = set(draws.choice(len(said), changed, replace=False).tolist())
    lines: list[tuple[str, Said]] = [one for place, one in enumerate(said) if place not in missing]
    for index in added:
        lines.insert(int(draws.integers(len(lines) + 1)), (utterances[index].text, None))
    return paths, [text for text, _ in lines], [where for _, where in lines]


def kept_words(file: Path, paths: list[Path]) -> Any:
    """What takes the place of `align._heard`: it writes what was heard to a file, or reads it."""
    original = align._heard

    def heard(*given: Any) -> Any:
        if not file.exists():
            words, audios, _ = original(*given)
            rows = [[w.text, w.start, w.end, w.confidence, paths.index(a)] for w, a in zip(words, audios, strict=True)]
            file.write_text(json.dumps(rows), encoding="utf-8")
        rows = json.loads(file.read_text(encoding="utf-8"))
        words = [Word(start, end, text, confidence) for text, start, end, confidence, _ in rows]
        pauses = {path: find_pauses(frame_levels(stream_waveform(path))) for path in paths}
        return words, [paths[row[-1]] for row in rows], pauses

    return heard


def apart(row: dict[str, Any], where: Said) -> float:
    """Seconds by which the further end of a piece is off; infinite if it is wrong."""
    if where is None or Path(row["audio"]) != where[0]:
        return np.inf
    _, start, end = where
    if min(row["end"], end) - max(row["start"], start) < (end - start) / 2:
        return np.inf
    return max(abs(row["start"] - start), abs(row["end"] - end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--seed", type=int, default=0)
    default = ConfidenceOptions().min_confidence
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.0, 0.1, 0.2, default, 0.4, 0.5, 0.7])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what was heard here, and use it again")
    add_common(parser, "align-text")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths, texts, truth = make(Path(folder), given.seed)
        if given.keep is not None:
            given.keep.mkdir(parents=True, exist_ok=True)
            align._heard = kept_words(given.keep / f"heard-{given.seed}.json", paths)
        options = AlignOptions(
            model=given.model, language="it", text="", output="",
            confidence=ConfidenceOptions(min_confidence=0), search=FallbackOptions(beam_size=1, temperature=(0.0,)),
        )  # fmt: skip
        started = time.perf_counter()
        rows, excluded = align.align(paths, [Sentence(text, line) for line, text in enumerate(texts, start=1)], options)
        seconds = time.perf_counter() - started
    off = [apart(row, truth[row["line"] - 1]) for row in rows]
    for row, far in sorted(zip(rows, off, strict=True), key=lambda pair: -pair[1]):
        if far > NEAR:
            print(
                f"{far:.2f} {row['confidence']:.3f} {row['start']}-{row['end']} {row['text']}", truth[row["line"] - 1]
            )
    table = []
    for least in given.confidence:
        kept = np.array([far for row, far in zip(rows, off, strict=True) if row["confidence"] >= least])
        said = sum(where is not None for where in truth)
        table.append([
            least, len(kept), percent(float(np.mean(np.isfinite(kept)) * len(kept) / said)),
            percent(float(np.mean(kept <= NEAR))), percent(float(np.mean(np.isinf(kept)))),
            f"{np.median(kept):.2f}",
        ])  # fmt: skip
    header = ["min_confidence", "pieces", f"of the {said} sentences said", f"both ends within {NEAR} s", "wrong"]
    about = f"{len(texts)} lines of text, {len(excluded)} of them not heard; {seconds:.0f} s"
    publish(given.table, "a plain text aligned with long recordings", [about, markdown([*header, "median, s"], table)])


if __name__ == "__main__":
    main()
