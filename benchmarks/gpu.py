"""What a GPU does with this: new attention shapes, encoding, decoding steps, training steps, beside transformers.

    python benchmarks/gpu.py                        # on a GPU: turbo, large-v3, small, in ten minutes or less
    python benchmarks/gpu.py --budget 300 --models turbo
    python benchmarks/gpu.py --tiny                 # anywhere, a model of no size, to test the script

Weights are random and made on the device, lengths are ragged as in a run; nothing is read and, without --table, nothing
written. What does not fit in memory or in the budget (seconds) is left out and named. It needs torch >= 2.11, numpy and
rich, and for the comparison transformers; no network and no installed package of weights (`PYTHONPATH=src` will do for
this one). The tests on a GPU (`pytest -m gpu`) also need soundfile (cffi, pycparser), soxr, jiwer (rapidfuzz, click),
whisper-normalizer (more-itertools, regex, indic-numtowords), tokenizers, safetensors, huggingface_hub, PyYAML,
hypothesis and pytest: bring these wheels. With bitsandbytes there, AdamW in 8 bits is measured as well.

Audio-hours per hour are those of the clips' own length. Utilisation: needed products by the formulas in flops.py over
seconds and over the rate of the quickest large square product measured here; theirs with the dense encoder.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import machine_line, markdown, number, publish
from flops import decoder_training, encoder_forward, encoder_training
from torch import Tensor

from whispertune.decoding.prefill import prefill
from whispertune.decoding.rules import LogitRules, to_lists
from whispertune.features.frames import select_frames
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.cache import DecoderCache
from whispertune.model.config import WhisperConfig
from whispertune.model.loss import summed_nll
from whispertune.model.options import LoraOptions
from whispertune.model.step_graphs import CAPTURES, FEWEST_STEPS, StepGraphs, python_capture
from whispertune.model.whisper import Decoder, Whisper
from whispertune.states.computed import EncoderStates, encode, encode_frozen, padded_log_weights, window_features
from whispertune.system.precision import send
from whispertune.training.adapted_copy import AdaptedCopy, build_adapter
from whispertune.training.optimiser import build_optimizer, clip_gradients
from whispertune.training.options import OptimizerOptions
from whispertune.training.working_copy import WorkingCopy

SAMPLE_RATE, PROMPT = 16_000, [1, 2, 3, 4]
TOKENS_PER_SECOND = 4


def shape(d_model: int, heads: int, encoder: int, decoder: int, mels: int, vocabulary: int = 51_866) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=vocabulary, num_mel_bins=mels, d_model=d_model, encoder_layers=encoder,
        encoder_attention_heads=heads, encoder_ffn_dim=4 * d_model, decoder_layers=decoder,
        decoder_attention_heads=heads, decoder_ffn_dim=4 * d_model,
    )  # fmt: skip


SHAPES = {
    "turbo": shape(1280, 20, 32, 4, 128), "large-v3": shape(1280, 20, 32, 32, 128), "small": shape(768, 12, 12, 12, 80),
    "tiny shape": shape(32, 2, 1, 1, 80, 1000),
}  # fmt: skip
EIGHT_BITS = "full, moments in 8 bits"
MODES: tuple[str, ...] = ("frozen, states stored", "frozen, states fresh", "LoRA", "full")
if importlib.util.find_spec("bitsandbytes") is not None:
    MODES = (*MODES, EIGHT_BITS)
LORA = LoraOptions(rank=32)


@dataclass
class Bench:
    """Where and for how long it measures, and what it found."""

    device: torch.device
    dtype: torch.dtype
    budget: float
    repeats: int
    started: float = field(default_factory=time.perf_counter)
    rate: float | None = None
    rows: list[list[str]] = field(default_factory=list)
    seconds_of: dict[tuple[str, ...], float] = field(default_factory=dict)

    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.started)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], warm: int = 2) -> float:
        """The median of several times, each with everything that the device was asked to do."""
        for _ in range(warm):
            work()
        taken = []
        for _ in range(self.repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def add(self, model: str, what: str, seconds: float, rate: str = "", flops: float | None = None) -> None:
        used = None if flops is None or self.rate is None else 100 * flops / seconds / self.rate
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else None
        self.rows.append([model, what, f"{1000 * seconds:.2f}", rate, number(peak, 1), number(used, 0)])
        print(f"[{time.perf_counter() - self.started:4.0f} s]", *self.rows[-1], sep="  ", flush=True)

    def case(self, model: str, what: str, measure: Callable[[], None]) -> None:
        """Measure, if there is time and memory for it."""
        if self.left() < 0:
            self.rows.append([model, what, "no time left", "", "", ""])
            return
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            measure()
        except torch.OutOfMemoryError:
            self.rows.append([model, what, "out of memory", "", "", ""])
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


# (a) Attention.


def folded(q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor) -> Tensor:
    """Attention with weights (B, K) as two more features of queries and keys, which kernels without a bias can take.

    In two parts, rounded to the type and the rest, so that they keep their precision; 8 features for alignment.
    """
    width = q.shape[-1]
    scaled = (log_weights * width**0.5)[:, None, :, None].expand(-1, k.shape[1], -1, 1)
    high = scaled.to(k.dtype)
    more_q = F.pad(torch.ones(*q.shape[:-1], 2, dtype=q.dtype, device=q.device), (0, 6))
    more_k = F.pad(torch.cat((high, (scaled - high.to(scaled.dtype)).to(k.dtype)), -1), (0, 6))
    q, k, v = torch.cat((q, more_q), -1), torch.cat((k, more_k), -1), F.pad(v, (0, 8))
    return F.scaled_dot_product_attention(q, k, v, scale=width**-0.5)[..., :width]


def attention(bench: Bench, heads: int, rows: int) -> None:
    """What a new shape costs with and without cuDNN, and weights as a bias against weights as features."""

    def tensors(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k = (torch.randn(rows, heads, n, 64, device=bench.device, dtype=bench.dtype) for n in (queries, keys))
        return q.requires_grad_(), k.requires_grad_(), torch.rand(rows, keys, device=bench.device) * 4

    if bench.device.type == "cuda":
        for cudnn in (True, False):
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
            new: list[float] = []
            again: list[float] = []
            for queries in (24, 25, 26, 27):
                q, k, weights = tensors(queries, 360 + queries)
                for into in (new, again):
                    bench.wait()
                    start = time.perf_counter()
                    bias = weights[:, None, None].to(bench.dtype)
                    F.scaled_dot_product_attention(q, k, k, attn_mask=bias).sum().backward()
                    bench.wait()
                    into.append(time.perf_counter() - start)
            for name, taken in (("new", new), ("the same again", again)):
                bench.add("attention", f"a shape, {name}, cuDNN {'on' if cudnn else 'off'}", statistics.median(taken))
    for queries, keys in ((32, 512), (512, 512)):
        q, k, weights = tensors(queries, keys)
        bias = weights[:, None, None].to(bench.dtype)
        by_bias = lambda q=q, k=k, bias=bias: F.scaled_dot_product_attention(q, k, k, attn_mask=bias)  # noqa: E731
        by_features = lambda q=q, k=k, weights=weights: folded(q, k, k, weights)  # noqa: E731
        with torch.no_grad():
            error = float((by_bias() - by_features()).abs().max())
        for name, attend in (("a bias", by_bias), ("features", by_features)):
            seconds = bench.seconds(lambda attend=attend: attend().sum().backward())  # type: ignore[misc]
            bench.add("attention", f"{queries} x {keys}, weights as {name}", seconds, f"differ by {error:.1e}")


# Models and batches.


def random_model(config: WhisperConfig, device: torch.device) -> Whisper:
    with torch.device("meta"):
        model = Whisper(config)
    model = model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02)
            else:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    return model.eval()


@dataclass(frozen=True)
class Clips:
    """A batch of clips of about so many seconds, with as many tokens as speech has."""

    waveforms: list[np.ndarray]
    tokens: list[int]
    frames: FrameOptions

    @classmethod
    def drawn(cls, rows: int, seconds: float, frames: FrameOptions, seed: int) -> Clips:
        generator = np.random.default_rng(seed)
        lengths = generator.uniform(0.75 * seconds, seconds, rows)
        waves = [0.1 * generator.standard_normal(int(SAMPLE_RATE * s)).astype(np.float32) for s in lengths]
        return cls(waves, [len(PROMPT) + max(2, int(TOKENS_PER_SECOND * s)) for s in lengths], frames)

    @property
    def seconds(self) -> float:
        return sum(map(len, self.waveforms)) / SAMPLE_RATE

    def kept(self) -> list[int]:
        return [len(select_frames(len(wave), self.frames).positions) for wave in self.waveforms]

    def stored(self, width: int, dtype: torch.dtype) -> EncoderStates:
        """Random states on the CPU, as a store holds them."""
        counts = [select_frames(len(wave), self.frames).counts for wave in self.waveforms]
        sizes = self.kept()
        return EncoderStates(
            torch.randn(len(sizes), max(sizes), width, dtype=dtype), padded_log_weights(counts), tuple(sizes)
        )

    def flops(self, config: WhisperConfig, mode: str) -> float:
        """Of a training step."""
        total, full = 0.0, mode.startswith("full")
        for wave, kept, tokens in zip(self.waveforms, self.kept(), self.tokens, strict=True):
            mel = min(3000, len(wave) // 160 + 20)
            total += decoder_training(config, kept, tokens, tokens - len(PROMPT), states_need_gradient=full)
            if mode != MODES[0]:
                total += (encoder_training if full else encoder_forward)(config, kept, mel)
        return total


# (b) to (d): ours.


def encoding(bench: Bench, name: str, model: Whisper, sizes: Sequence[tuple[int, float]]) -> None:
    for rows, seconds in sizes:
        frames = FrameOptions() if seconds < 30 else DENSE
        clips = Clips.drawn(rows, seconds, frames, 0)
        features = [window_features(wave, model.config.num_mel_bins, frames) for wave in clips.waveforms]
        taken = bench.seconds(lambda features=features: encode_frozen(model.encoder, features))  # type: ignore[misc]
        flops = sum(
            encoder_forward(model.config, len(window.positions), window.log_mel.shape[1]) for window in features
        )
        bench.add(name, f"encode {rows} x {seconds:g} s", taken, f"{clips.seconds / taken:.0f} h/h", flops)


@torch.inference_mode()
def decoding(bench: Bench, name: str, model: Whisper, sizes: Sequence[int]) -> None:
    config, rules = model.config, LogitRules(model.config.vocab_size, [5], [6], bench.device)
    capturing = copy.copy(model.decoder)
    for (what, kept), rows, decoder in itertools.product(
        (("dense", 1500), ("thinned", 380)), sizes, (model.decoder, capturing)
    ):
        capturing.graphs = StepGraphs(
            CAPTURES.get(bench.device.type, python_capture)(bench.device)
        )  # their memory anew
        weights = None if what == "dense" else torch.zeros(rows, kept, device=bench.device)
        states = torch.randn(rows, kept, config.d_model, device=bench.device, dtype=bench.dtype)
        cache, hidden = prefill(decoder, EncoderStates(states, weights), [PROMPT] * rows).fork()

        def token(cache: DecoderCache = cache, decoder: Decoder = decoder) -> None:
            nonlocal hidden
            best, chosen = rules.log_probs(decoder.logits(hidden), first=False).max(-1)
            to_lists(best, chosen)
            hidden = decoder.step(chosen[:, None], cache)

        taken = bench.seconds(token, warm=FEWEST_STEPS + 3)
        how = "" if decoder is model.decoder else ", CUDA graph"
        bench.add(name, f"decode a token, {what}, {rows} rows{how}", taken, f"{rows / taken:.0f} tokens/s")


def training(bench: Bench, name: str, config: WhisperConfig, mode: str, rows: int, seconds: float) -> None:
    """One update of one micro-batch, every one with its own lengths."""
    model = random_model(config, bench.device)
    model.requires_grad_(mode != "LoRA")
    model.encoder.requires_grad_(mode.startswith("full"))
    working: WorkingCopy
    if mode == "LoRA":
        working = AdaptedCopy(model, build_adapter(model, LORA, 0), bench.dtype)
    else:
        working = WorkingCopy(model, bench.dtype, narrow_gradients=mode != EIGHT_BITS)
    name_of = "adamw8bit" if mode == EIGHT_BITS else "adamw"
    optimizer = build_optimizer(working.learns, OptimizerOptions(name=name_of))  # type: ignore[arg-type]
    frames = FrameOptions() if seconds < 30 else DENSE
    batches = []
    for seed in range(4):
        clips = Clips.drawn(rows, seconds, frames, seed)
        features = [window_features(wave, config.num_mel_bins, frames) for wave in clips.waveforms]
        ids = torch.randint(5, config.vocab_size, (rows, max(clips.tokens)))
        stored = clips.stored(config.d_model, bench.dtype) if mode == MODES[0] else None
        batches.append((clips, features, stored, ids))
    turn = itertools.cycle(batches)

    def step() -> None:
        clips, features, stored, ids = next(turn)
        if stored is not None:
            states = stored.to(bench.device, bench.dtype)
        else:
            states = (encode_frozen if mode == MODES[1] else encode)(working.model.encoder, features)
        hidden = working.model.decoder(
            send(ids, bench.device), states.states, states.log_weights, clips.tokens, states.num_frames
        )
        labels = torch.full_like(ids, -100)
        for row, count in enumerate(clips.tokens):
            labels[row, len(PROMPT) : count] = ids[row, len(PROMPT) : count]
        (summed_nll(working.model.decoder, hidden, labels) / sum(clips.tokens)).backward()  # type: ignore[no-untyped-call]
        clip_gradients(working.master_params, 2.0)
        optimizer.step()
        working.refresh()
        optimizer.zero_grad(set_to_none=True)

    taken = bench.seconds(step, warm=len(batches))
    audio = statistics.mean(clips.seconds for clips, *_ in batches)
    flops = statistics.mean(clips.flops(config, mode) for clips, *_ in batches)
    bench.seconds_of[name, f"{rows} x {seconds:g} s", mode] = taken
    bench.add(name, f"train {rows} x {seconds:g} s, {mode}", taken, f"{audio / taken:.0f} h/h", flops)


# (e) transformers.


def transformers_step(bench: Bench, name: str, config: WhisperConfig, mode: str, rows: int, seconds: float) -> None:
    """The same update as users of transformers make it: float32 weights, autocast, padded windows of 30 s."""
    from transformers import WhisperConfig as TheirConfig
    from transformers import WhisperForConditionalGeneration

    fields: dict[str, Any] = dataclasses.asdict(config)
    special: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    with torch.device(bench.device):
        model = WhisperForConditionalGeneration(TheirConfig(**fields, **special)).train()
    for parameter in model.model.encoder.parameters():
        parameter.requires_grad_(mode == "full")
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=True)
    clips = Clips.drawn(rows, seconds, DENSE, 0)
    mel = torch.randn(rows, config.num_mel_bins, 3000).to(bench.device)
    ids = torch.randint(5, config.vocab_size, (rows, max(clips.tokens)), device=bench.device)

    def step() -> None:
        with torch.autocast(bench.device.type, bench.dtype, enabled=bench.dtype != torch.float32):
            loss = model(input_features=mel, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    taken = bench.seconds(step)
    bench.seconds_of[name, f"{rows} x {seconds:g} s", f"transformers, {mode}"] = taken
    flops = clips.flops(config, mode if mode == "full" else MODES[1])
    what = f"train {rows} x {seconds:g} s, transformers, {mode}"
    bench.add(name, what, taken, f"{clips.seconds / taken:.0f} h/h", flops)


def ratios(bench: Bench) -> str:
    """Each of our steps against theirs that trains the same."""
    rows = []
    for (name, batch, mode), ours in bench.seconds_of.items():
        if not mode.startswith("transformers"):
            for against in ("frozen", "full"):
                theirs = bench.seconds_of.get((name, batch, f"transformers, {against}"))
                if theirs is not None and mode.startswith(against):
                    rows.append([name, batch, mode, against, f"{theirs / ours:.1f} x"])
    return markdown(["model", "batch", "ours", "transformers", "ours is quicker"], rows)


def square_rate(bench: Bench, size: int) -> float:
    """FLOP/s of a large square product in the type of training."""
    a = torch.randn(size, size, device=bench.device, dtype=bench.dtype)
    return 2 * size**3 / bench.seconds(lambda: a @ a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a model of no size, on a CPU")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=["turbo", "large-v3", "small"])
    parser.add_argument("--budget", type=float, default=540, help="seconds (%(default)s)")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if not (options.tiny or torch.cuda.is_available()):
        sys.exit("gpu.py: no GPU here; --tiny runs the script on a model of no size")
    device = torch.device("cpu" if options.tiny else "cuda")
    bench = Bench(device, torch.float32 if options.tiny else torch.bfloat16, options.budget, 2 if options.tiny else 10)
    print(machine_line())
    bench.rate = square_rate(bench, 256 if options.tiny else 8192)
    tiny = options.tiny
    bench.case("attention", "shapes", lambda: attention(bench, 2 if tiny else 20, 2 if tiny else 16))
    torch.backends.cuda.enable_cudnn_sdp(False)  # as `resolve_precision` does
    for name in ["tiny shape"] if tiny else options.models:
        config = SHAPES[name]

        def inference(name: str = name, config: WhisperConfig = config) -> None:
            model = random_model(config, device).to(bench.dtype)
            encoding(
                bench, name, model, [(2, 6.0)] if tiny else [(5, 6.0), (40, 6.0), (1, 30.0), (8, 30.0), (64, 30.0)]
            )
            decoding(bench, name, model, [2] if tiny else [5, 32, 64])

        bench.case(name, "encoding and decoding", inference)
        for rows, seconds in [(2, 2.0)] if tiny else [(64, 6.0), (16, 6.0), (16, 30.0)]:
            for mode in MODES:
                run = lambda *given: training(bench, *given)  # noqa: E731
                given = (name, config, mode, rows, seconds)
                bench.case(name, f"train {rows} x {seconds:g} s, {mode}", lambda run=run, given=given: run(*given))  # type: ignore[misc]
            for mode in ("frozen", "full"):
                theirs = (name, config, mode, rows, seconds)
                bench.case(
                    name, f"train {rows} x {seconds:g} s, transformers, {mode}",
                    lambda theirs=theirs: transformers_step(bench, *theirs),  # type: ignore[misc]
                )  # fmt: skip
    rate = f"Quickest square product: {bench.rate / 1e12:.3g} TFLOP/s."
    table = markdown(["", "what", "ms", "rate", "peak, GB", "utilisation, %"], bench.rows)
    if options.table is not None:
        publish(options.table, "what a GPU does with this", [rate, table, ratios(bench)])
    else:
        print("\n\n".join(["", rate, table, ratios(bench)]))


if __name__ == "__main__":
    main()
