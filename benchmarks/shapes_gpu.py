"""whisper-large-v3 and large-v3-turbo by their shapes, weights random, on a GPU: against Seq2SeqTrainer in one run.

    python benchmarks/shapes_gpu.py                      # on a GPU: both shapes, clips of 6 s and of 30 s
    python benchmarks/shapes_gpu.py --tiny               # anywhere: tiny shapes, to test the script

`whispertune train` (encoder frozen, states stored) and Seq2SeqTrainer read the same random model and synthetic
clips. Audio-hours per hour: of a training epoch by the median step; and of a whole run of --epochs, ours with its one
encoding. Utilisation: needed products by the formulas in flops.py over seconds and over the rate of the quickest
large square product measured here; theirs with the dense encoder that each of its steps computes. Word error rates
mean nothing here; validation is left out on their side and tiny on ours. The vocabulary is whisper-base's 51865.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from common import add_common, markdown, number, publish, ratio
from flops import decoder_training, encoder_forward
from profile_step import square_rate
from seq2seq_trainer import run_ours, run_theirs

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.checkpoints.layout import expected_shapes
from whispertune.features.frames import select_frames
from whispertune.features.log_mel import SAMPLE_RATE, log_mel_speech
from whispertune.features.options import WINDOW_FRAMES, FrameOptions
from whispertune.model.config import WhisperConfig

LARGE = {
    "vocab_size": 51865, "num_mel_bins": 128, "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120, "decoder_layers": 32, "decoder_attention_heads": 20, "decoder_ffn_dim": 5120,
}  # fmt: skip
TINY = {
    "vocab_size": 51865, "num_mel_bins": 80, "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 128,
}  # fmt: skip
SHAPES = {"large-v3": LARGE, "large-v3-turbo": LARGE | {"decoder_layers": 4}, "tiny": TINY}
PROMPT_TOKENS = 4
WORDS = ("prego", "digitare", "il", "proprio", "numero", "seguito", "dal", "tasto", "cancelletto")  # 2 tokens or so
WORDS_PER_SECOND = 1.7


def write_random_model(folder: Path, config: WhisperConfig) -> None:
    """A Hugging Face folder of these shapes: normal weights of 0.02, gains of 1, biases of 0."""
    base = load_checkpoint("packaged:whisper-base")
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in expected_shapes(config).items():
        if len(shape) > 1:
            weights[name] = torch.empty(shape).normal_(0, 0.02, generator=generator)
        else:
            weights[name] = torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)
    random = dataclasses.replace(
        base,
        config=config,
        weights=weights,
        generation={key: value for key, value in base.generation.items() if key != "alignment_heads"},
        preprocessor=base.preprocessor | {"feature_size": config.num_mel_bins},
    )
    save_huggingface(folder, random, weights, language="it", model_card=None)


def write_clips(folder: Path, name: str, num_clips: int, seconds: float, seed: int) -> Path:
    """Clips of coloured noise with a rhythm, each its own, and texts of a speaker's usual pace."""
    generator = np.random.default_rng(seed)
    lines = ["audio,text"]
    (folder / name).mkdir(parents=True)
    for i in range(num_clips):
        noise = generator.standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32)
        rhythm = 0.6 + 0.4 * np.sin(np.arange(len(noise)) * 2 * np.pi * 4 / SAMPLE_RATE)
        path = folder / name / f"{i}.wav"
        soundfile.write(path, 0.1 * np.cumsum(noise) / np.sqrt(len(noise)) * rhythm, SAMPLE_RATE)
        words = [WORDS[j] for j in generator.integers(len(WORDS), size=round(seconds * WORDS_PER_SECOND))]
        lines.append(f"{path},{' '.join(words)}")
    manifest = folder / f"{name}.csv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def figures(
    config: WhisperConfig, side: dict[str, Any], metrics: list[dict[str, Any]], seconds: float, dense: bool
) -> tuple[float, float, float]:
    """(FLOPs a training step, FLOPs a clip encoded, audio-hours per hour of a training step)."""
    steps = [row for row in metrics if "split" not in row]
    utterances = steps[0]["utterances"]
    scored = round(statistics.mean(row["tokens"] / row["utterances"] for row in steps))
    samples = round(seconds * SAMPLE_RATE)
    frames = WINDOW_FRAMES if dense else len(select_frames(samples, FrameOptions()).positions)
    mel_frames = 2 * WINDOW_FRAMES if dense else log_mel_speech(np.zeros(samples, np.float32), 80).shape[1]
    decoder = decoder_training(config, frames, scored + PROMPT_TOKENS - 1, scored)
    encoder = encoder_forward(config, frames, mel_frames)
    step = utterances * (decoder + (encoder if dense else 0))
    return step, encoder, utterances * seconds / side["step"]


def compare(
    options: argparse.Namespace, shape: str, seconds: float, work: Path, ceiling: float
) -> list[tuple[str, ...]]:
    """Two rows, ours and theirs, and their ratio."""
    config = WhisperConfig(**SHAPES[shape])
    train = write_clips(work, "train", options.clips, seconds, 0)
    valid = write_clips(work, "valid", 2, seconds, 1)
    more = ["--frames.stride", str(FrameOptions().stride)]
    measured, ours = run_ours(options, work.parent / shape, train, valid, work, *more)
    sides = [("whispertune", ours, False)]
    if options.only != "ours":
        sides.append(
            ("Seq2SeqTrainer", run_theirs(options, work.parent / shape, train, valid, work, "--no-validation")[1], True)
        )
    rows, rates = [], []
    for name, side, dense in sides:
        step, encoder, rate = figures(config, side, measured.report["metrics"], seconds, dense)
        audio = options.clips * seconds
        epoch = audio / rate
        encoding = options.clips * side["encode_per_clip"] if not dense and side["encode_per_clip"] else 0.0
        whole = options.epochs * audio / (options.epochs * epoch + encoding)
        rates.append((rate, whole))
        encoding_use = encoder / side["encode_per_clip"] / ceiling if side["encode_per_clip"] else None
        rows.append(
            (
                f"{shape}, {seconds:g} s", name, f"{rate:.0f}", f"{whole:.0f}",
                f"{100 * step / side['step'] / ceiling:.1f} %",
                "–" if encoding_use is None else f"{100 * encoding_use:.1f} %",
                number(side["encode_per_clip"], 4), f"{side['step']:.3f}",
                number(side["gpu_gb"] or side["peak_gb"], 1),
            )
        )  # fmt: skip
    if len(rates) == 2:
        (a, whole_a), (b, whole_b) = rates
        rows.append((f"{shape}, {seconds:g} s", "ratio", ratio(a, b), ratio(whole_a, whole_b), "", "", "", "", ""))
    for row in rows:
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "shapes-gpu")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["large-v3", "large-v3-turbo"])
    parser.add_argument("--seconds", type=float, nargs="+", default=[6.0, 30.0], help="of a clip")
    parser.add_argument("--clips", type=int, default=320, help="training clips of each length")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2, help="of ours; and what a whole run is reckoned with")
    parser.add_argument("--their-steps", type=int, default=12, help="that are measured")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--only", choices=["ours"], help="leave Seq2SeqTrainer out")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on whatever there is, to test this script")
    options = parser.parse_args()
    if options.tiny:
        options.shapes, options.clips, options.batch_size, options.epochs, options.their_steps = ["tiny"], 8, 4, 1, 2
    elif not torch.cuda.is_available():
        sys.exit("shapes_gpu.py: no GPU here; --tiny runs the script on tiny shapes")
    options.language, options.their_epochs, options.their_eval_clips, options.their_peak_lr = "it", 1, None, 1e-5
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    ceiling = square_rate(dtype, device, 3, [512] if options.tiny else [4096, 8192])
    if device.type == "cuda":
        torch.cuda.empty_cache()
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for shape in options.shapes:
            write_random_model(Path(temporary) / shape, WhisperConfig(**SHAPES[shape]))
            for seconds in options.seconds:
                rows += compare(options, shape, seconds, Path(temporary) / f"{shape}-{seconds:g}", ceiling)
    publish(
        options.table,
        f"large shapes with random weights, {options.precision}",
        [
            f"{options.clips} clips, batch {options.batch_size}, encoder frozen; ceiling {ceiling / 1e12:.2f} TFLOP/s. "
            f"Whole run: {options.epochs} epochs and ours' encoding. Peak memory: on the GPU where there is one.",
            markdown(
                (
                    "", "", "audio-hours per hour, epoch", "whole run", "training utilisation", "encoding utilisation",
                    "encode, s a clip", "s a step", "peak GB",
                ),
                rows,
            ),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
