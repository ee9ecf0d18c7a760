"""whispertune against transformers' Seq2SeqTrainer: same data, weights, precision, batch and machine, in one run.

    python benchmarks/seq2seq_trainer.py                        # about 10 minutes on two CPU cores
    python benchmarks/seq2seq_trainer.py --their-epochs 4       # their WER after every epoch: about 25
    python benchmarks/seq2seq_trainer.py --their-steps 12       # their epoch scaled from 12 steps
    python benchmarks/seq2seq_trainer.py --clips 16 --epochs 1  # a smoke test

Encoder frozen, AdamW, batch 8, no accumulation. Each side runs in a process of its own, from raw files, with an
empty store. Ours: `whispertune train` for all epochs, untouched model and every epoch validated (thinned frames, as
it does by itself). Theirs: `--their-epochs` are measured, each validated (dense: they know nothing else), and their
run is taken as start, features, and epochs x the mean of those; the untouched model is not validated there, nor
is a checkpoint written, nor is the choice of their validation's batch size counted. See hf_trainer.py for the
settings.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import DATA, ROOT, Measured, add_common, cut_manifest, markdown, measure, number, percent, publish, ratio

SCRIPTS = ROOT / "benchmarks"


def write_model(source: str, folder: Path, language: str) -> None:
    """The packaged (or any other) model as a Hugging Face folder, which both sides read."""
    code = (
        "import sys; from pathlib import Path; from whispertune.checkpoints.checkpoint import load_checkpoint; "
        "from whispertune.checkpoints.huggingface import save_huggingface; "
        "c = load_checkpoint(sys.argv[1]); many = c.generation['is_multilingual']; "
        "save_huggingface(Path(sys.argv[2]), c, c.weights, language=sys.argv[3] if many else None, model_card=None); "
        "print('BENCHMARK-RESULT {}')"
    )
    measure([sys.executable, "-c", code, source, str(folder), language], cache=folder.parent / "cache-convert")


def run_ours(
    options: argparse.Namespace, model: Path, train: Path, valid: Path, work: Path, *more: str
) -> tuple[Measured, dict[str, Any]]:
    """`whispertune train`, and its figures."""
    for old in (work / "ours", work / "cache-ours"):  # nothing of an earlier run may help this one
        shutil.rmtree(old, ignore_errors=True)
    command = [
        sys.executable, str(SCRIPTS / "timed_train.py"), "--model", str(model), "--train", str(train),
        "--valid", str(valid), "--language", options.language, "--output", str(work / "ours"),
        "--batch_size", str(options.batch_size), "--accumulation", "1", "--epochs", str(options.epochs),
        "--precision", options.precision, *more,
    ]  # fmt: skip
    measured = measure(command, cache=work / "cache-ours")
    rows = measured.report["metrics"]
    steps = [row for row in rows if "split" not in row]
    valid_rows = [row for row in rows if row.get("split") == "valid"]
    inside = sum(row["seconds"] for row in rows)
    clock, points = measured.seconds - inside, []
    for row in rows:  # time outside of rows is before the first: start, check, encoding
        clock += row["seconds"]
        if row.get("split") == "valid":
            points.append((row["epoch"], row["wer"], clock))
    epochs = sorted({row["epoch"] for row in steps})
    encoding = {name: s for name, s in measured.report["stages"].items() if name.startswith("encoding")}
    clips = sum(row["utterances"] for row in steps if row["epoch"] == 1) + valid_rows[0]["utterances"]
    return measured, {
        "run": measured.seconds,
        "epoch": statistics.mean(sum(r["seconds"] for r in steps if r["epoch"] == e) for e in epochs),
        "step": statistics.median(row["seconds"] for row in steps),
        "validation": statistics.mean(row["seconds"] for row in valid_rows),
        "validation_per_clip": statistics.mean(row["seconds"] / row["utterances"] for row in valid_rows),
        "encode_per_clip": sum(encoding.values()) / clips if encoding else None,
        "encoding": sum(encoding.values()) if encoding else None,
        "outside": measured.seconds - inside,
        "peak_gb": measured.peak_gb,
        "gpu_gb": measured.report["gpu_gb"],
        "points": points,
    }


def run_theirs(
    options: argparse.Namespace, model: Path, train: Path, valid: Path, work: Path, *more: str
) -> tuple[Measured, dict[str, Any]]:
    """hf_trainer.py, and its figures."""
    command = [
        sys.executable, str(SCRIPTS / "hf_trainer.py"), "--model", str(model), "--train", str(train),
        "--valid", str(valid), "--language", options.language, "--precision", options.precision,
        "--batch-size", str(options.batch_size), "--epochs", str(options.epochs),
        "--measured-epochs", str(min(options.their_epochs, options.epochs)),
        "--peak-lr", str(options.their_peak_lr), *more,
    ]  # fmt: skip
    if options.their_steps:
        command += ["--steps", str(options.their_steps)]
    if options.their_eval_clips:
        command += ["--eval-clips", str(options.their_eval_clips)]
    measured = measure(command, cache=work / "cache-theirs")
    report = measured.report
    num_valid = len(valid.read_text(encoding="utf-8").splitlines()) - 1
    epoch = statistics.mean(row["training"] for row in report["epochs"])
    validated = [row for row in report["epochs"] if "validation" in row]
    per_clip = statistics.mean(row["validation"] / row["clips"] for row in validated) if validated else None
    start = report["load"] + report["features"]
    clock, points = start, []
    for number_, row in enumerate(report["epochs"], 1):
        if "validation" in row:
            clock += row["training"] + row["validation"] / row["clips"] * num_valid
            points.append((number_, row["wer"] if row["clips"] == num_valid else None, clock))
    return measured, {
        "run": None if per_clip is None else start + options.epochs * (epoch + per_clip * num_valid),
        "epoch": epoch,
        "step": report["step"],
        "validation": None if per_clip is None else per_clip * num_valid,
        "validation_per_clip": per_clip,
        "encode_per_clip": report["encode_per_clip"],
        "features": report["features"],
        "start": start,
        "peak_gb": measured.peak_gb,
        "gpu_gb": report["gpu_gb"],
        "points": points,
        "eval_batch_sizes": report["eval_batch_sizes"],
        "measured_steps": report["measured_steps"],
        "steps_per_epoch": report["steps_per_epoch"],
    }


def comparison_table(ours: dict[str, Any] | None, theirs: dict[str, Any] | None, epochs: int) -> str:
    """Both sides and how many times less ours takes."""
    lines = [
        (f"whole run, {epochs} epochs, each validated, s", "run", 0),
        ("training epoch, s", "epoch", 1),
        ("training step, median, s", "step", 3),
        ("validation of the valid split, s", "validation", 1),
        ("validation, s a clip", "validation_per_clip", 3),
        ("encoding, s a clip (ours once, from the file; theirs in every step, from features)", "encode_per_clip", 3),
        ("peak memory of the process, GB", "peak_gb", 2),
        ("peak memory on the GPU, GB", "gpu_gb", 2),
    ]
    rows = []
    for name, key, digits in lines:
        a, b = (ours or {}).get(key), (theirs or {}).get(key)
        if a is not None or b is not None:
            rows.append((name, number(a, digits), number(b, digits), ratio(b, a)))
    return markdown(("", "whispertune", "Seq2SeqTrainer", "ratio"), rows)


def wer_table(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> str:
    """Valid WER against seconds since the start, side by side."""
    sides = [{e: (w, s) for e, w, s in (side or {"points": []})["points"]} for side in (ours, theirs)]
    rows = []
    for epoch in sorted(set(sides[0]) | set(sides[1])):
        cells = [side.get(epoch, (None, None)) for side in sides]
        rows.append([epoch] + [text for wer, s in cells for text in (percent(wer), number(s, 0))])
    return markdown(("epoch", "ours: valid WER", "s since start", "theirs: valid WER", "s since start"), rows)


def seconds_to(points: list[tuple[int, float | None, float]], target: float) -> float | None:
    return next((seconds for epoch, wer, seconds in points if epoch and wer is not None and wer <= target), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "seq2seq-trainer")
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--train", type=Path, default=DATA / "train.csv")
    parser.add_argument("--valid", type=Path, default=DATA / "valid.csv")
    parser.add_argument("--language", default="it")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--clips", type=int, help="only so many of train and of valid (a smoke test)")
    parser.add_argument("--their-epochs", type=int, default=1, help="epochs of theirs that are measured")
    parser.add_argument("--their-steps", type=int, help="measure so many of their steps, scaled to an epoch")
    parser.add_argument("--their-eval-clips", type=int, help="validate so many clips there, scaled; no WER then")
    parser.add_argument("--their-peak-lr", type=float, default=3e-5, help="as ours by `auto` for whisper-base")
    parser.add_argument("--only", choices=["ours", "theirs"])
    parser.add_argument("--target-wer", type=float, help="time until valid WER is at most this (default: their best)")
    parser.add_argument("--work", type=Path, help="folder for what is written on the way (a temporary one)")
    options, more = parser.parse_known_args()

    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        train = cut_manifest([options.train], work / "train.csv", options.clips)
        valid = cut_manifest([options.valid], work / "valid.csv", options.clips)
        model = work / "model"
        write_model(options.model, model, options.language)
        theirs = run_theirs(options, model, train, valid, work)[1] if options.only != "ours" else None
        ours = run_ours(options, model, train, valid, work, *more)[1] if options.only != "theirs" else None

    notes = []
    if ours:
        notes.append(
            f"Ours: {number(ours['outside'], 1)} s are outside of steps and validations (start, check of the data, "
            f"check of thinning, encoding {number(ours['encoding'], 1)} s, saving)."
        )
    if theirs:
        scaled = f"{theirs['measured_steps']} of {theirs['steps_per_epoch']} steps an epoch were measured"
        sizes = ", ".join(f"{size}: {seconds:.2f} s a clip" for size, seconds in theirs["eval_batch_sizes"].items())
        notes.append(
            f"Theirs: {scaled}; the run is {number(theirs['start'], 1)} s of start and features "
            f"(features {number(theirs['features'], 1)} s, once) and {options.epochs} x one epoch and validation. "
            f"Validation by batch size: {sizes or 'one size'}."
        )
    if ours and theirs:
        known = [wer for _, wer, _ in theirs["points"] if wer is not None]
        target = options.target_wer or (min(known) if known else None)
        if target is not None:
            a, b = seconds_to(ours["points"], target), seconds_to(theirs["points"], target)
            notes.append(
                f"Seconds until valid WER is at most {percent(target)}: ours {number(a, 0)}, theirs {number(b, 0)} "
                f"({ratio(b, a)}; `–`: not within what was measured)."
            )
    if options.clips:
        notes.append(f"Cut down to {options.clips} clips of each split: no figure of this table counts.")
    publish(
        options.table,
        f"whispertune against Seq2SeqTrainer, {options.model}, {options.precision}",
        [comparison_table(ours, theirs, options.epochs), wer_table(ours, theirs), *notes],
    )


if __name__ == "__main__":
    main()
