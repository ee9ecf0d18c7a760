"""How many injected faults `whispertune check` finds: 10 clips of each kind, put into the Italian prompts.

    python benchmarks/check_faults.py --output /tmp/faults [--model packaged:whisper-base] [--seed 0]

Prints a Markdown table. All faults stand in the data together (most of train's rows stay sound). A fault counts as
found if its row has an error; of clipped and quiet clips a note will do. With --model a second table follows: 33 of the
327 training texts exchanged, and how many of them lead the ranking.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from whispertune.cli import main as whispertune
from whispertune.data.audio import load_waveform

EXAMPLE = Path(__file__).parents[1] / "examples" / "italian-prompts"
RATE = 16_000
Row = dict[str, str]
Samples = np.ndarray


def header_cut(path: Path, samples: Samples) -> None:
    soundfile.write(path, samples, RATE)
    path.write_bytes(path.read_bytes()[:20])


def bytes_cut(path: Path, samples: Samples) -> None:
    soundfile.write(path, samples, RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def noise(path: Path, samples: Samples) -> None:
    generator = np.random.default_rng(len(samples))
    spectrum = np.fft.rfft(generator.standard_normal(len(samples)))
    colour = generator.choice([0.0, 0.5, 1.0])  # white, pink, brown
    shaped = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 1) ** -colour, len(samples))
    soundfile.write(path, 0.05 * shaped / shaped.std(), RATE)


def not_a_number(path: Path, samples: Samples) -> None:
    damaged = samples.copy()
    damaged[len(damaged) // 2] = np.nan
    soundfile.write(path, damaged, RATE, subtype="FLOAT")


def wrong_rate(path: Path, samples: Samples) -> None:
    soundfile.write(path, samples, [8_000, 24_000, 32_000, 44_100, 48_000][len(samples) % 5])


AUDIO: dict[str, Callable[[Path, Samples], None]] = {
    "truncated header": header_cut,
    "half the bytes": bytes_cut,
    "empty": lambda path, samples: path.write_bytes(b"") and None,
    "missing": lambda path, samples: None,
    "silence": lambda path, samples: soundfile.write(path, 0 * samples, RATE),
    "noise only": noise,
    "clipped": lambda path, samples: soundfile.write(path, (6 * samples).clip(-1, 1), RATE),
    "very quiet": lambda path, samples: soundfile.write(path, 0.005 * samples, RATE),
    "NaN samples": not_a_number,
    "first half cut": lambda path, samples: soundfile.write(path, samples[len(samples) // 2 :], RATE),
    "wrong rate in the header": wrong_rate,
    "over 30 s": lambda path, samples: soundfile.write(path, np.resize(samples, 31 * RATE), RATE),
}
TEXT: dict[str, Callable[[str], str]] = {
    "empty text": lambda text: "",
    "punctuation only": lambda text: "… ?!",
    "mojibake": lambda text: f"{text} perché è così".encode().decode("cp1252"),
    "markup": lambda text: f"<b>{text}</b>" if len(text) % 2 else f"[musica] {text}",
    "another script": lambda text: "Пожалуйста, наберите номер абонента",
    "over 448 tokens": lambda text: " ".join([text] * (4000 // len(text) + 1)),
}
NOTE_WILL_DO = ("clipped", "very quiet")


def example_rows(split: str) -> list[Row]:
    with (EXAMPLE / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return [{**row, "audio": str(EXAMPLE / row["audio"])} for row in csv.DictReader(file)]


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "audio", "text"])
        writer.writeheader()
        writer.writerows(rows)


def inject(folder: Path, seed: int, count: int, *, with_model: bool) -> dict[str, list[str]]:
    """Write train.csv, valid.csv and test.csv with faults; fault -> ids of its rows."""
    generator = random.Random(seed)
    splits = {name: example_rows(name) for name in ("train", "valid", "test")}
    train = splits["train"]
    order = generator.sample(range(len(train)), len(train))
    faulty: dict[str, list[str]] = {}
    for fault in (*AUDIO, *TEXT):
        chosen, order = order[:count], order[count:]
        faulty[fault] = [train[i]["id"] for i in chosen]
        for i in chosen:
            if fault in TEXT:
                train[i]["text"] = TEXT[fault](train[i]["text"])
                continue
            path = folder / f"{fault.replace(' ', '-')}-{i}.wav"
            AUDIO[fault](path, load_waveform(Path(train[i]["audio"])))
            train[i]["audio"] = str(path)
    if with_model:
        chosen, order = order[:count], order[count:]
        faulty["wrong transcript"] = [train[i]["id"] for i in chosen]
        texts = [train[i]["text"] for i in chosen]
        for i, text in zip(chosen, texts[1:] + texts[:1], strict=True):
            train[i]["text"] = text
    leaked = []
    for i in order[:count]:  # under another name, decoded
        path = folder / f"leaked-{i}.flac"
        soundfile.write(path, load_waveform(Path(train[i]["audio"])), RATE)
        leaked.append({"id": f"leaked-{i}", "audio": str(path), "text": train[i]["text"]})
    splits["test"] += leaked
    faulty["leaked into test"] = [row["id"] for row in leaked]
    for name, rows in splits.items():
        write(folder / f"{name}.csv", rows)
    return faulty


def check(folder: Path, output: Path, model: str | None) -> list[dict[str, str]]:
    flags = [f"--{name}={folder / name}.csv" for name in ("train", "valid", "test")]
    whispertune(["check", *flags, "--language=it", f"--output={output}", *([f"--model={model}"] if model else [])])
    return [json.loads(line) for line in (output / "check.jsonl").read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the data with faults; emptied first")
    parser.add_argument("--model", help="judge transcripts by this model too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10, help="clips of each fault")
    parser.add_argument("--exchanged-only", action="store_true", help="with --model: the second table alone")
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    if options.exchanged_only:
        options.output.mkdir(parents=True)
        shuffle(options.output / "shuffled", options.seed, options.model)
        return
    data = options.output / "data"
    data.mkdir(parents=True)
    faulty = inject(data, options.seed, options.count, with_model=options.model is not None)
    found = check(data, options.output / "check", options.model)
    errors = {row["id"]: row["kind"] for row in reversed(found) if row["severity"] == "error"}
    notes = {row["id"] for row in found}
    print("\n| fault | clips | found | as |\n|---|---|---|---|")
    total = hits = 0
    for fault, ids in faulty.items():
        got = [id_ for id_ in ids if id_ in errors or (fault in NOTE_WILL_DO and id_ in notes)]
        kinds = sorted({errors.get(id_, "note") for id_ in got})
        missed = f" (missed: {', '.join(sorted(set(ids) - set(got)))})" if len(got) < len(ids) else ""
        print(f"| {fault} | {len(ids)} | {len(got)} | {', '.join(kinds)}{missed} |")
        total, hits = total + len(ids), hits + len(got)
    touched = {id_ for ids in faulty.values() for id_ in ids}
    num_sound = sum(
        1 for split in ("train", "valid", "test") for row in example_rows(split) if row["id"] not in touched
    )
    wrong = {id_: kind for id_, kind in errors.items() if id_ not in touched}
    print(f"| all | {total} | {hits} ({100 * hits / total:.1f} %) | |")
    print(f"\nsound clips given an error: {len(wrong)} of {num_sound} ({100 * len(wrong) / num_sound:.1f} %): {wrong}")
    if options.model:
        shuffle(options.output / "shuffled", options.seed, options.model)


def shuffle(folder: Path, seed: int, model: str, count: int = 33, first: int = 45) -> None:
    """Exchange the texts of `count` training rows, and print how many of them lead the ranking."""
    folder.mkdir()
    rows = example_rows("train")
    chosen = random.Random(seed).sample(range(len(rows)), count)
    texts = [rows[i]["text"] for i in chosen]
    for i, text in zip(chosen, texts[1:] + texts[:1], strict=True):
        rows[i]["text"] = text
    write(folder / "train.csv", rows)
    whispertune(
        ["check", str(folder / "train.csv"), "--language=it", f"--model={model}", f"--output={folder / 'check'}"]
    )
    ranking = [
        json.loads(line) for line in (folder / "check" / "ranking.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    wrong = {rows[i]["id"] for i in chosen}
    leading = sum(row["id"] in wrong for row in ranking[:first])
    print(
        f"\nexchanged texts among the first {first} of {len(ranking)}: {leading} of {count} "
        f"({100 * leading / count:.0f} %)"
    )


if __name__ == "__main__":
    main()
