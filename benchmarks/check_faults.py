"""How many injected faults `whispertune check` finds: 10 clips of each kind, put into prompts of one voice.

    python benchmarks/check_faults.py --output /tmp/faults [--data it=examples/italian-prompts --data fr=DIR]
        [--model packaged:whisper-base] [--seed 0] [--only faults|clean|exchanged]

Prints Markdown tables. All faults are put into the data together (a third of train's rows keep none). A fault counts as
found if its row has an error; of clipped and quiet clips a note will do. Then, of the first data, five clean corpora of
another shape (few voices, fast children, slow speech, single words, song), made by resampling and stretching: how many
of their clips get an error, and whether it is the same whatever is checked beside them. With --model a last part: 33 of
the training texts exchanged, and how many of them lead the ranking.
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
import soxr

from whispertune.cli import main as whispertune
from whispertune.data.audio.waveforms import load_waveform

EXAMPLE = Path(__file__).parents[1] / "examples" / "italian-prompts"
KNOWN_WRONG = {
    "it": {
        "confbridge-mute-extended": "its last sentences are not said", "vm-tempremoved": "holds a second prompt's text",
        # The two rows above hold what these really say.
        "confbridge-mute-in": "says voce, not audio", "confbridge-mute-out": "says voce, not audio",
        "confbridge-only-one": "says C'è attualmente solo", "vm-then-pound": "says poi premere cancelletto",
        **dict.fromkeys(
            ("conf-full", "feature-not-avail-line", "num-was-successfully", "something-terribly-wrong",
             "pm-invalid-option"), "? for è",
        ),
    },
    "fr": {"vm-mismatch": "its second sentence is not said"},
}  # fmt: skip
"""Rows of the prompts whose transcripts are wrong: faults of the data themselves."""
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


def opposite_phase(path: Path, samples: Samples) -> None:
    soundfile.write(path, np.stack([samples, -samples], axis=1), RATE)


AUDIO: dict[str, Callable[[Path, Samples], object]] = {
    "truncated header": header_cut,
    "half the bytes": bytes_cut,
    "empty": lambda path, samples: path.write_bytes(b""),
    "missing": lambda path, samples: None,
    "silence": lambda path, samples: soundfile.write(path, 0 * samples, RATE),
    "noise only": noise,
    "clipped": lambda path, samples: soundfile.write(path, (6 * samples).clip(-1, 1), RATE),
    "very quiet": lambda path, samples: soundfile.write(path, 0.005 * samples, RATE),
    "NaN samples": not_a_number,
    "first half cut": lambda path, samples: soundfile.write(path, samples[len(samples) // 2 :], RATE),
    "wrong rate in the header": wrong_rate,
    "floats at integer scale": lambda path, samples: soundfile.write(path, 32_768 * samples, RATE, subtype="FLOAT"),
    "channels in opposite phase": opposite_phase,
    "over 30 s": lambda path, samples: soundfile.write(path, np.resize(samples, 31 * RATE), RATE),
}
TEXT: dict[str, Callable[[str], str]] = {
    "empty text": lambda text: "",
    "punctuation only": lambda text: "… ?!",
    "mojibake": lambda text: f"{text} perché è così".encode().decode("cp1252"),
    "question marks for letters": lambda text: (
        (text if not text.isascii() else f"{text} perché è così").encode("ascii", "replace").decode()
    ),
    "markup": lambda text: f"<b>{text}</b>" if len(text) % 2 else f"[musica] {text}",
    "another script": lambda text: "Пожалуйста, наберите номер абонента",
    "over 448 tokens": lambda text: " ".join([text] * (4000 // len(text) + 1)),
}
NOTE_WILL_DO = ("clipped", "very quiet")


def example_rows(folder: Path, split: str) -> list[Row]:
    with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return [{**row, "audio": str(folder / row["audio"])} for row in csv.DictReader(file)]


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "audio", "text"])
        writer.writeheader()
        writer.writerows(rows)


def inject(
    corpus: Path, known: set[str], folder: Path, seed: int, count: int, *, with_model: bool
) -> dict[str, list[str]]:
    """Write train.csv, valid.csv and test.csv with faults; fault -> ids of its rows."""
    generator = random.Random(seed)
    splits = {name: example_rows(corpus, name) for name in ("train", "valid", "test")}
    train = splits["train"]
    order = [i for i in generator.sample(range(len(train)), len(train)) if train[i]["id"] not in known]
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


def check(files: list[str], output: Path, language: str, model: str | None = None) -> list[dict[str, str]]:
    whispertune(
        ["check", *files, f"--language={language}", f"--output={output}", *([f"--model={model}"] if model else [])]
    )
    return [json.loads(line) for line in (output / "check.jsonl").read_text(encoding="utf-8").splitlines()]


def faults(corpus: Path, language: str, output: Path, options: argparse.Namespace) -> None:
    """Put faults in, and print the table of one voice."""
    data = output / f"data-{language}"
    data.mkdir(parents=True)
    known = set(KNOWN_WRONG.get(language, {}))
    faulty = inject(corpus, known, data, options.seed, options.count, with_model=options.model is not None)
    files = [f"--{name}={data / name}.csv" for name in ("train", "valid", "test")]
    found = check(files, output / f"check-{language}", language, options.model)
    errors = {row["id"]: row["kind"] for row in reversed(found) if row["severity"] == "error"}
    notes = {row["id"] for row in found}
    print(f"\n{language}, seed {options.seed}, model: {options.model or 'none'}")
    print("\n| fault | clips | found | as |\n|---|---|---|---|")
    total = hits = 0
    for fault, ids in faulty.items():
        got = [id_ for id_ in ids if id_ in errors or (fault in NOTE_WILL_DO and id_ in notes)]
        kinds = sorted({errors.get(id_, "note") for id_ in got})
        missed = f" (missed: {', '.join(sorted(set(ids) - set(got)))})" if len(got) < len(ids) else ""
        print(f"| {fault} | {len(ids)} | {len(got)} | {', '.join(kinds)}{missed} |")
        total, hits = total + len(ids), hits + len(got)
    touched = {id_ for ids in faulty.values() for id_ in ids} | known
    num_sound = sum(
        1 for split in ("train", "valid", "test") for row in example_rows(corpus, split) if row["id"] not in touched
    )
    wrong = {id_: kind for id_, kind in errors.items() if id_ not in touched}
    print(f"| all | {total} | {hits} ({100 * hits / total:.1f} %) | |")
    print(f"\nsound clips given an error: {len(wrong)} of {num_sound} ({100 * len(wrong) / num_sound:.1f} %): {wrong}")


def stretched(samples: Samples, factor: float) -> Samples:
    """`factor` times as long at the same pitch: overlapping pieces, each laid where it continues the one before."""
    size, hop, reach = 640, 320, 160
    samples = np.pad(samples, size)
    window = np.hanning(size).astype(np.float32)
    result = np.zeros(round(factor * len(samples)), np.float32)
    last: int | None = None
    for at in range(0, len(result) - size, hop):
        place = min(int(at / factor), len(samples) - size - reach)
        if last is not None and last + hop + size <= len(samples):
            first = max(0, place - reach)
            likeness = np.correlate(samples[first : place + reach + size], samples[last + hop :][:size], "valid")
            place = first + int(np.argmax(likeness))
        result[at : at + size] += window * samples[place : place + size]
        last = place
    return result


def vibrato(samples: Samples) -> Samples:
    """Pitch that wavers by 3 % at 5.5 Hz, as a singer's does."""
    time = np.arange(len(samples)) / RATE
    places = (time + 0.03 / (2 * np.pi * 5.5) * np.sin(2 * np.pi * 5.5 * time)) * RATE
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def higher(samples: Samples, factor: float) -> Samples:
    """Pitch, formants and tempo together: another body."""
    return soxr.resample(samples, factor * RATE, RATE)


CLEAN: dict[str, Callable[[int, Samples], Samples]] = {
    "few voices": lambda i, samples: [
        samples, stretched(higher(samples, 1.2), 1.2), stretched(higher(samples, 0.85), 0.7)
    ][i % 3],
    "fast children": lambda i, samples: higher(samples, 1.3),
    "slow": lambda i, samples: stretched(samples, 1.6),
    "single words": lambda i, samples: samples,
    "song": lambda i, samples: vibrato(stretched(higher(samples, 1.1), 2.0)),
}  # fmt: skip


def clean(corpus: Path, language: str, output: Path, count: int) -> None:
    """Five clean corpora: errors alone, beside all others, and in one manifest with all others."""
    known = set(KNOWN_WRONG.get(language, {}))
    rows = [row for split in ("train", "valid", "test") for row in example_rows(corpus, split)]
    rows = [row for row in rows if row["id"] not in known]
    corpora: dict[str, list[Row]] = {}
    for number, (shape, make) in enumerate(CLEAN.items()):
        folder = output / shape.replace(" ", "-")
        folder.mkdir(parents=True)
        usable = [row for row in rows if len(row["text"].split()) == 1] if shape == "single words" else rows
        corpora[shape] = []
        for i, row in enumerate(random.Random(number).sample(usable, count)):
            samples = make(i, load_waveform(Path(row["audio"]))[: 14 * RATE])
            path = folder / f"{i}.flac"
            soundfile.write(path, (0.9 / max(1.0, np.abs(samples).max()) * samples), RATE)
            corpora[shape].append({"id": f"{folder.name}-{i}", "audio": str(path), "text": row["text"]})
        write(folder / "rows.csv", corpora[shape])
    write(output / "joined.csv", [row for part in corpora.values() for row in part])
    files = [str(output / shape.replace(" ", "-") / "rows.csv") for shape in CLEAN]

    def errors(names: list[str], folder: str) -> set[tuple[str, str]]:
        found = check(names, output / folder, language)
        return {(row["id"], row["kind"]) for row in found if row["severity"] == "error"}

    alone = [errors([file], f"alone-{number}") for number, file in enumerate(files)]
    together, joined = errors(files, "together"), errors([str(output / "joined.csv")], "joined")
    print(f"\n{language}, clean corpora of {count} clips")
    print("\n| corpus | errors alone | beside the others | in one manifest with the others |\n|---|---|---|---|")
    for (shape, part), own in zip(corpora.items(), alone, strict=True):
        ids = {row["id"] for row in part}
        beside, inside = ({finding for finding in found if finding[0] in ids} for found in (together, joined))
        same = "the same" if beside == own else f"{len(beside)}: {sorted(beside ^ own)}"
        print(f"| {shape} | {len(own)} {sorted(own) or ''} | {same} | {len(inside)} {sorted(inside) or ''} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the data with faults; emptied first")
    parser.add_argument("--data", action="append", help="LANGUAGE=FOLDER of train.csv, valid.csv and test.csv")
    parser.add_argument("--model", help="judge transcripts by this model too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10, help="clips of each fault")
    parser.add_argument("--clean-count", type=int, default=120, help="clips of each clean corpus")
    parser.add_argument("--only", choices=("faults", "clean", "exchanged"), help="one part alone")
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    named = [given.split("=", 1) for given in options.data or [f"it={EXAMPLE}"]]
    corpora = [(language, Path(folder).resolve()) for language, folder in named]  # manifests elsewhere name its files
    for language, folder in corpora:
        if options.only in (None, "faults"):
            faults(folder, language, options.output, options)
    language, folder = corpora[0]
    if options.only in (None, "clean"):
        clean(folder, language, options.output / "clean", options.clean_count)
    if options.only in (None, "exchanged") and options.model:
        shuffle(folder, language, options.output / "shuffled", options.seed, options.model)


def shuffle(corpus: Path, language: str, folder: Path, seed: int, model: str, count: int = 33, first: int = 45) -> None:
    """Exchange the texts of `count` training rows, and print how many of them lead the ranking."""
    folder.mkdir()
    rows = example_rows(corpus, "train")
    chosen = random.Random(seed).sample(range(len(rows)), count)
    texts = [rows[i]["text"] for i in chosen]
    for i, text in zip(chosen, texts[1:] + texts[:1], strict=True):
        rows[i]["text"] = text
    write(folder / "train.csv", rows)
    check([str(folder / "train.csv")], folder / "check", language, model)
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
