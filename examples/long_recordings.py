"""For docs/loop.md: three long recordings of the Italian prompts, and someone who corrects a transcript of the third.

    python examples/long_recordings.py make DIR
    python examples/long_recordings.py correct DIR TRANSCRIPT.json

`make` writes DIR/talks (two recordings with their TextGrids), DIR/new/three.flac (without one) and DIR/truth.csv, what
is said in the third. `correct` takes the place of a person: it writes what is said in the ten segments of which the
model was least certain to DIR/new/three.TextGrid, and the rest of the recording to DIR/rest.csv, for scoring.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

PROMPTS = Path(__file__).parent / "italian-prompts"
RATE = 16_000
CLIPS = 60
"""Clips of a recording; --clips takes another number."""
PAUSE = 0.8
"""Seconds between them."""
CORRECTED = 10
"""Segments to correct."""
LOST = " è "
"""What a lone question mark in the middle of five of the prompts' texts stands for."""

Interval = tuple[float, float, str]
"""Start and end in seconds, and the text."""


def make(folder: Path, clips: int) -> None:
    """Join the prompts, in an order drawn once, to three recordings."""
    rows = [row for split in ("train", "valid", "test") for row in read_rows(PROMPTS / f"{split}.csv")]
    order = np.random.default_rng(0).permutation(len(rows))[: 3 * clips]
    for number, name in enumerate(("one", "two", "three")):
        place = folder / ("new" if name == "three" else "talks")
        place.mkdir(parents=True, exist_ok=True)
        pieces, intervals, end = [], [], 0.0
        for index in order[number * clips : (number + 1) * clips].tolist():
            waveform, rate = soundfile.read(PROMPTS / rows[index]["audio"], dtype="float32")
            assert rate == RATE
            intervals.append((end, end + len(waveform) / RATE, rows[index]["text"].replace(" ? ", LOST)))
            pieces += [waveform, np.zeros(round(PAUSE * RATE), np.float32)]
            end += len(waveform) / RATE + PAUSE
        soundfile.write(place / f"{name}.flac", np.concatenate(pieces), RATE)
        if name == "three":
            write_rows(folder / "truth.csv", intervals)
        else:
            write_textgrid(place / f"{name}.TextGrid", intervals, end)
        print(f"{place / name}.flac: {end / 60:.1f} minutes, {len(intervals)} sentences")


def correct(folder: Path, transcript: Path) -> None:
    """Correct the segments of which the model was least certain."""
    truth = [(float(row["start"]), float(row["end"]), row["text"]) for row in read_rows(folder / "truth.csv")]
    segments = json.loads(transcript.read_text(encoding="utf-8"))["segments"]
    corrected: list[Interval] = []
    rest = truth
    for segment in sorted(segments, key=lambda segment: segment["avg_logprob"]):
        said = [one for one in rest if segment["start"] <= (one[0] + one[1]) / 2 <= segment["end"]]
        if said and said[-1][1] - said[0][0] < 30:
            corrected.append((said[0][0], said[-1][1], " ".join(text for _, _, text in said)))
            rest = [one for one in rest if one not in said]
            print(f"{said[0][0]:6.1f} s  {segment['text'].strip()}  ->  {corrected[-1][2]}")
        if len(corrected) == CORRECTED or len(rest) <= len(truth) // 2:  # the rest is for scoring
            break
    write_textgrid(folder / "new" / "three.TextGrid", sorted(corrected), truth[-1][1])
    write_rows(folder / "rest.csv", rest)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a manifest."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, intervals: Iterable[Interval]) -> None:
    """A manifest of the third recording."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "start", "end", "text"])
        writer.writerows(("new/three.flac", f"{start:.3f}", f"{end:.3f}", text) for start, end, text in intervals)


def write_textgrid(path: Path, intervals: Iterable[Interval], duration: float) -> None:
    """One tier, as Praat's short text format has it; the gaps are empty intervals."""
    filled: list[Interval] = []
    end = 0.0
    for interval in intervals:
        filled += [(end, interval[0], "")] if interval[0] > end else []
        filled.append(interval)
        end = interval[1]
    filled += [(end, duration, "")] if duration > end else []
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{duration:.3f}", "<exists>", "1"]
    lines += ['"IntervalTier"', '"words"', "0", f"{duration:.3f}", str(len(filled))]
    for start, end, text in filled:
        doubled = text.replace('"', '""')
        lines += [f"{start:.3f}", f"{end:.3f}", f'"{doubled}"']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "make":
        make(Path(folder), int(rest[1]) if rest[:1] == ["--clips"] else CLIPS)
    else:
        correct(Path(folder), Path(rest[0]))
