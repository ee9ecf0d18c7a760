"""What thinned windows cost and save: divergence from dense ones, and encoding time, over stride, margin and edge.

    python benchmarks/thinning.py --model packaged:whisper-base --language it \\
        --manifest examples/italian-prompts/valid.csv examples/italian-prompts/test.csv

Prints a Markdown table. Nothing is trained: the model is teacher-forced on the transcripts. `frames` is kept
frames a clip; KL (of dense from thinned) is nats per target token; `encode` is seconds for all clips, features
not counted. Each point is a stride, a margin and an edge (frames of 20 ms): the n-th of each list together, or
with --grid all combinations.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from whispertune.data.audio import load_waveform
from whispertune.data.manifest import read_manifest
from whispertune.frames import DENSE, FrameOptions
from whispertune.loading import ReadyModel, load_model
from whispertune.model.whisper import Encoder, inference_copy
from whispertune.precision import precision_name, resolve_device, resolve_precision
from whispertune.states import WindowFeatures, encode, encoding_batches, window_features
from whispertune.targets import Target, make_target
from whispertune.training.thinning import divergence


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


@torch.inference_mode()
def encode_seconds(encoder: Encoder, waveforms: list[np.ndarray], n_mels: int, frames: FrameOptions) -> float:
    """Seconds to encode all, in the batches that a run makes."""
    seconds = 0.0
    for batch in encoding_batches([len(w) for w in waveforms], frames):
        features = [window_features(waveforms[i], n_mels, frames) for i in batch]
        started = time.perf_counter()
        encode(encoder, features).states.cpu()
        seconds += time.perf_counter() - started
    return seconds


class DenseOnce(torch.nn.Module):
    """An encoder that keeps its dense states (clips x 1500 x width): they are compared with at every point."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.conv1 = encoder, encoder.conv1
        self.known: dict[bytes, torch.Tensor] = {}

    def forward(self, log_mel: torch.Tensor, *others: torch.Tensor | None) -> torch.Tensor:
        if others[-1] is not None:  # weights: thinned
            return self.encoder(log_mel, *others)
        key = hashlib.sha256(log_mel.float().cpu().numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.encoder(log_mel, *others)
        return self.known[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--manifest", type=Path, nargs="+", required=True)
    parser.add_argument("--language")
    parser.add_argument("--strides", type=int, nargs="+", default=[30])
    parser.add_argument("--margins", type=int, nargs="+", default=[25])
    parser.add_argument("--edges", type=int, nargs="+", default=[50])
    parser.add_argument("--grid", action="store_true", help="all combinations of strides, margins and edges")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="only so many clips, spread over the lengths")
    parser.add_argument("--no-dense-time", action="store_true", help="don't time the dense encoding")
    options = parser.parse_args()
    device = resolve_device(options.device)
    dtype = resolve_precision(options.precision, device)
    ready = load_model(options.model, device)
    waveforms, targets = read(options.manifest, ready, options.language)
    if options.limit:
        chosen = np.linspace(0, len(waveforms) - 1, min(options.limit, len(waveforms))).round().astype(int)
        waveforms, targets = [waveforms[i] for i in chosen], [targets[i] for i in chosen]
    encoder, decoder = (inference_copy(half, dtype) for half in (ready.whisper.encoder, ready.whisper.decoder))
    axes = (options.strides, options.margins, options.edges)
    if not options.grid and len({len(axis) for axis in axes}) > 1:
        parser.error("without --grid, give as many --strides as --margins and --edges")
    points = list(itertools.product(*axes) if options.grid else zip(*axes, strict=True))

    def features(index: int, frames: FrameOptions) -> WindowFeatures:
        return window_features(waveforms[index], ready.n_mels, frames)

    print(
        f"{options.model}, {precision_name(dtype)}, {device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; {len(waveforms)} clips, mean {np.mean([len(w) for w in waveforms]) / 16_000:.1f} s\n"
    )
    print("| stride | margin | edge | frames | encode, s | KL | same argmax | NLL / dense |")
    print("|---|---|---|---|---|---|---|---|")
    dense_once = DenseOnce(encoder)
    time_encoding = partial(encode_seconds, encoder, waveforms, ready.n_mels)
    if not options.no_dense_time:
        print(f"| dense | | | 1500 | {time_encoding(DENSE):.1f} | 0 | 100 % | 1 |", flush=True)
    for stride, margin, edge in points:
        frames = FrameOptions(stride=stride, margin=margin, edge=edge)
        found = divergence(
            dense_once, decoder, features, range(len(waveforms)), targets, frames, pad_id=ready.checkpoint.pad_token_id
        )  # fmt: skip
        ratio = found.nll_thinned / found.nll_dense
        print(
            f"| {stride} | {margin} | {edge} | {found.frames:.0f} | {time_encoding(frames):.1f} | {found.kl:.4f} "
            f"| {100 * found.same_argmax:.1f} % | {ratio:.4f} |",
            flush=True,
        )
    print(f"\n{found.num_tokens} target tokens")


if __name__ == "__main__":
    main()
