"""What thinned windows cost and save: divergence from dense ones and seconds, over stride, margin and edge.

    python benchmarks/thinning.py                         # whisper-base on the Italian valid and test clips
    python benchmarks/thinning.py --model packaged:whisper-tiny.en --manifest ENGLISH.csv   # its own transcripts
    python benchmarks/thinning.py --strides 30 60 --margins 10 25 --edges 25 40 --grid
    python benchmarks/thinning.py --limit 8 --strides 60 --margins 10 --edges 40     # a smoke test

Nothing is trained: the model is teacher-forced, on the transcripts or on its own dense greedy ones. `frames` is kept
frames a clip; KL (of dense from thinned) is nats per target token; `encode` is seconds a clip without features;
`step` is the decoder forward and backward on 8 clips, states at hand, mean over the clips. Each point is a stride, a
margin and an edge (frames of 20 ms): the n-th of each list together, or with --grid all combinations.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from common import DATA, add_common, markdown, publish

from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.readers.manifest import read_manifest
from whispertune.decoding.loading import ReadyModel, load_model
from whispertune.decoding.options import GREEDY
from whispertune.decoding.transcriber import Transcriber
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Decoder, Encoder, inference_copy
from whispertune.states.computed import EncoderStates, WindowFeatures, encode, window_features
from whispertune.system.memory import keep_freed_memory
from whispertune.system.precision import resolve_device, resolve_precision
from whispertune.text.targets import Target, collate_targets, make_target
from whispertune.training.thinning import divergence

BATCH = 8
BATCH_FRAMES = 4096
"""Kept frames encoded at once."""
Features = Callable[[int], WindowFeatures]

POINTS = {  # stride, margin, edge; the default first
    "strides": [60, 10, 30, 100, 60, 60, 60, 60],
    "margins": [10, 10, 10, 10, 5, 25, 10, 10],
    "edges": [40, 40, 40, 40, 40, 40, 25, 60],
}


def read(paths: list[Path], ready: ReadyModel, language: str | None) -> tuple[list[np.ndarray], list[Target]]:
    """Waveforms and targets, longest first."""
    utterances = [utterance for path in paths for utterance in read_manifest(path)]
    waveforms = [load_waveform(u.audio, u.start, u.end) for u in utterances]
    order = sorted(range(len(utterances)), key=lambda i: -len(waveforms[i]))
    tokenizer = ready.tokenizer
    prompt = tokenizer.prompt_tokens(language)
    targets = [
        make_target(prompt, tokenizer.text_ids(u.text, language), tokenizer.eot, sot=tokenizer.sot) for u in utterances
    ]
    return [waveforms[i] for i in order], [targets[i] for i in order]


class DenseOnce(torch.nn.Module):
    """An encoder that keeps its dense states (clips x 1500 x width): they are compared with at every point."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.conv1 = encoder, encoder.conv1
        self.known: dict[bytes, torch.Tensor] = {}

    def forward(
        self, log_mel: torch.Tensor, index: torch.Tensor, positions: torch.Tensor, log_weights: torch.Tensor | None,
        num_frames: Sequence[int] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        inputs = (log_mel, index, positions, log_weights, num_frames)
        if log_weights is not None:  # thinned
            return self.encoder(*inputs)
        key = hashlib.sha256(log_mel.float().cpu().numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.encoder(*inputs)
        return self.known[key]


@torch.inference_mode()
def greedy_targets(
    encoder: Encoder,
    decoder: Decoder,
    dense: Features,
    waveforms: list[np.ndarray],
    ready: ReadyModel,
    prompt: list[int],
) -> list[Target]:
    """What the model itself transcribes from dense windows, as targets; the same batches as `divergence` takes."""
    tokenizer, targets = ready.tokenizer, []
    transcriber = Transcriber(ready.with_parts(ready.whisper.encoder, decoder), GREEDY, cut_loops=True)
    for begin in range(0, len(waveforms), BATCH):
        batch = range(begin, min(begin + BATCH, len(waveforms)))
        states = encode(encoder, [dense(i) for i in batch])
        caps = [min(440, 10 + math.ceil(len(waveforms[i]) / 16_000 * 12)) for i in batch]
        found = transcriber.decode(states, [prompt] * len(batch), caps)
        targets += [make_target(prompt, h.tokens, tokenizer.eot, sot=tokenizer.sot) for h in found]
    return targets


@torch.inference_mode()
def encode_seconds(encoder: Encoder, features: Features, num_clips: int) -> float:
    """Seconds a clip to encode all, in batches of alike lengths and at most `BATCH_FRAMES` frames."""
    ready = sorted((features(i) for i in range(num_clips)), key=lambda f: -len(f.positions))
    seconds, begin = 0.0, 0
    while begin < num_clips:
        end = begin + max(1, BATCH_FRAMES // len(ready[begin].positions))
        started = time.perf_counter()
        encode(encoder, ready[begin:end]).states.cpu()
        seconds += time.perf_counter() - started
        begin = end
    return seconds / num_clips


def step_seconds(
    encoder: Encoder, decoder: Decoder, features: Features, targets: Sequence[Target], pad_id: int, num_batches: int
) -> float:
    """Decoder forward and backward on 8 clips, seconds: mean over batches spread over the lengths, best of two."""
    trained = inference_copy(decoder, next(decoder.parameters()).dtype).requires_grad_(True)
    starts = list(range(0, max(1, len(targets) - BATCH + 1), BATCH))
    starts = (
        [starts[i * len(starts) // num_batches] for i in range(num_batches)] if num_batches < len(starts) else starts
    )
    total = 0.0
    for begin in starts:
        batch = range(begin, min(begin + BATCH, len(targets)))
        input_ids, labels = collate_targets([targets[i] for i in batch], pad_id)
        with torch.no_grad():
            states: EncoderStates = encode(encoder, [features(i) for i in batch])
        device, best = states.states.device, math.inf
        for _ in range(2):
            started = time.perf_counter()
            hidden = trained(input_ids.to(device), states.states, states.log_weights)
            summed_nll(trained, hidden, labels.to(device)).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
            trained.zero_grad(set_to_none=True)
        total += best
    return total / len(starts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "thinning")
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--manifest", type=Path, nargs="+", help="default: the Italian valid and test clips")
    parser.add_argument("--language", default="it", help="not asked of English-only models")
    parser.add_argument("--targets", choices=["transcripts", "greedy"], help="teacher; greedy: its own, dense")
    parser.add_argument("--strides", type=int, nargs="+")
    parser.add_argument("--margins", type=int, nargs="+")
    parser.add_argument("--edges", type=int, nargs="+")
    parser.add_argument("--grid", action="store_true", help="all combinations of strides, margins and edges")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="only so many clips, spread over the lengths")
    parser.add_argument("--step-batches", type=int, default=6, help="batches that the decoder step is timed on")
    parser.add_argument("--max-kl", type=float, help="bar; default 0.015, English-only 0.025")
    parser.add_argument("--min-argmax", type=float, help="bar, percent; default 95, English-only 93")
    parser.add_argument("--no-times", action="store_true", help="only how far thinned strays; for a busy machine")
    options = parser.parse_args()
    keep_freed_memory()  # as the commands do
    if not any((options.strides, options.margins, options.edges)):
        axes = tuple(POINTS.values())
    else:
        axes = (options.strides or [60], options.margins or [10], options.edges or [40])
    if not options.grid and len({len(axis) for axis in axes}) > 1:
        parser.error("without --grid, give as many --strides as --margins and --edges")
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    ready = load_model(options.model, device)
    english = not ready.tokenizer.multilingual
    language, teacher = (
        None if english else options.language,
        options.targets or ("greedy" if english else "transcripts"),
    )
    max_kl, min_argmax = options.max_kl or (0.025 if english else 0.015), options.min_argmax or (93 if english else 95)
    waveforms, targets = read(options.manifest or [DATA / "valid.csv", DATA / "test.csv"], ready, language)
    if options.limit:
        chosen = np.linspace(0, len(waveforms) - 1, min(options.limit, len(waveforms))).round().astype(int)
        waveforms, targets = [waveforms[i] for i in chosen], [targets[i] for i in chosen]
    encoder = inference_copy(ready.whisper.encoder, precision.dtype)
    decoder = inference_copy(ready.whisper.decoder, precision.dtype)
    dense_once, pad_id = cast(Encoder, DenseOnce(encoder)), ready.checkpoint.pad_token_id
    samples = [len(waveform) for waveform in waveforms]

    def features(index: int, frames: FrameOptions = FrameOptions()) -> WindowFeatures:  # noqa: B008
        return window_features(waveforms[index], ready.n_mels, frames)

    if teacher == "greedy":
        prompt = ready.tokenizer.prompt_tokens(language)
        targets = greedy_targets(dense_once, decoder, partial(features, frames=DENSE), waveforms, ready, prompt)

    points: list[tuple[str, Features]] = []
    for stride, margin, edge in itertools.product(*axes) if options.grid else zip(*axes, strict=True):
        frames = FrameOptions(stride=stride, margin=margin, edge=edge)
        points.append((f"stride {stride}, margin {margin}, edge {edge}", partial(features, frames=frames)))

    def times(point: Features) -> tuple[str, str]:
        if options.no_times:
            return "–", "–"
        step = step_seconds(encoder, decoder, point, targets, pad_id, options.step_batches)
        return f"{encode_seconds(encoder, point, len(waveforms)):.4f}", f"{step:.3f}"

    rows = []
    every = range(len(waveforms))
    if not options.no_times:
        rows.append(("dense", "1500", *times(partial(features, frames=DENSE)), "0", "100 %", "1", ""))
        print(rows[-1], flush=True)
    for name, point in points:

        def either(index: int, frames: FrameOptions, point: Features = point) -> WindowFeatures:
            return features(index, frames) if frames == DENSE else point(index)

        found = divergence(dense_once, decoder, either, every, targets, FrameOptions(), pad_id=pad_id, batch_size=BATCH)
        within = found.kl <= max_kl and 100 * found.same_argmax >= min_argmax
        rows.append(
            (
                name, f"{found.frames:.0f}", *times(point),
                f"{found.kl:.4f}", f"{100 * found.same_argmax:.1f} %", f"{found.nll_thinned / found.nll_dense:.4f}",
                "yes" if within else "no",
            )
        )  # fmt: skip
        print(rows[-1], flush=True)
    publish(
        options.table,
        f"thinned windows, {options.model}, {precision.name}",
        [
            f"{len(waveforms)} clips, mean {np.mean(samples) / 16_000:.1f} s; {found.num_tokens} target tokens, "
            f"{'its own dense greedy transcripts' if teacher == 'greedy' else 'the transcripts'}. "
            f"Bars: KL at most {max_kl}, same argmax at least {min_argmax} %.",
            markdown(
                ("", "frames", "encode, s a clip", "step, s", "KL", "same argmax", "NLL / dense", "within bars"), rows
            ),
        ],
    )


if __name__ == "__main__":
    main()
