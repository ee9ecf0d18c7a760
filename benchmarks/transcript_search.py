"""Greedy search that starts from what the transcripts' pass has shown, against plain greedy search after that pass.

    python benchmarks/transcript_search.py                             # the untouched whisper-base, 3 minutes
    python benchmarks/transcript_search.py --model runs/demo --language it
    python benchmarks/transcript_search.py --clips 6 --rounds 1        # a smoke test

Both sides of a validation on its stored states, in turn: prompts, the loss of the transcripts, the search; on thinned
and on dense frames. A pass is one of the decoder over several rows, prompts and transcripts not counted.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from common import ROOT, add_common, markdown, publish

from whispertune.data.audio.waveforms import load_waveform
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.loading import load_model
from whispertune.decoding.prefill import prefill
from whispertune.decoding.rules import Hypothesis
from whispertune.evaluation.decode import windows_on_cpu
from whispertune.evaluation.transcript_search import TranscriptSearch, teacher_forced_nll
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.prepacked import for_decoding
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates, encode_frozen, window_features
from whispertune.system.precision import resolve_precision
from whispertune.text.targets import Target, make_target

FOLDERS = {"it": "italian-prompts", "fr": "french-prompts", "en": "english-prompts"}
MAX_TOKENS = 100
Chunk = tuple[EncoderStates, list[Target]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:whisper-base", help="as whispertune reads it (%(default)s)")
    parser.add_argument("--language", default="it", choices=list(FOLDERS))
    parser.add_argument("--part", default="valid", help="manifest of examples/ (%(default)s)")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--clips", type=int, help="the first so many")
    parser.add_argument("--rounds", type=int, default=5, help="of both sides in turn (%(default)s)")
    add_common(parser, "transcript-search")
    given = parser.parse_args()
    precision = resolve_precision(given.precision, torch.device("cpu"))
    ready = load_model(given.model, torch.device("cpu"), precision.dtype)
    decoder = for_decoding(ready.whisper.decoder, layers=False)
    tokenizer, rules, pad_id = ready.tokenizer, ready.rules, ready.checkpoint.pad_token_id
    prompt = tokenizer.prompt_tokens(given.language, "transcribe")
    folder = ROOT / "examples" / FOLDERS[given.language]
    with (folder / f"{given.part}.csv").open(encoding="utf-8", newline="") as file:
        clips = [
            (load_waveform(folder / row["audio"]), tokenizer.encode(" " + row["text"]))
            for row in list(csv.DictReader(file))[: given.clips]
        ]
    clips.sort(key=lambda clip: -len(clip[0]))

    def chunks_of(frames: FrameOptions) -> list[Chunk]:
        """As a validation takes them: the longest first."""
        chunks: list[Chunk] = []
        left = [
            (
                window_features(samples, ready.n_mels, frames),
                make_target(prompt, text, tokenizer.eot, sot=tokenizer.sot),
            )
            for samples, text in clips
        ]
        while left:
            fit = windows_on_cpu(len(left[0][0].positions))
            part = sorted(left[:fit], key=lambda clip: -len(clip[1].input_ids))
            chunks.append((encode_frozen(ready.whisper.encoder, [each for each, _ in part]), [t for _, t in part]))
            left = left[fit:]
        return chunks

    def plain(states: EncoderStates, targets: Sequence[Target]) -> list[Hypothesis]:
        prefilled = prefill(decoder, states, [prompt] * len(targets))
        teacher_forced_nll(decoder, prefilled, targets, pad_id)
        return greedy_search(decoder, prefilled, rules, tokenizer.eot, [MAX_TOKENS] * len(targets), cut_loops=True)

    def from_transcripts(states: EncoderStates, targets: Sequence[Target]) -> list[Hypothesis]:
        prefilled = prefill(decoder, states, [prompt] * len(targets))
        known = TranscriptSearch(decoder, prefilled, rules, targets, pad_id)
        return known.search(tokenizer.eot, [MAX_TOKENS] * len(targets), cut_loops=True)

    rows = []
    for name, frames in (("thinned", FrameOptions()), ("dense", DENSE)):
        chunks = chunks_of(frames)
        found = {side: measured(side, chunks) for side in (plain, from_transcripts)}  # and warm
        seconds: list[list[float]] = []
        for _ in range(given.rounds):
            seconds.append([measured(side, chunks)[0] for side in (plain, from_transcripts)])
        same = sum(a.tokens == b.tokens for a, b in zip(found[plain][2], found[from_transcripts][2], strict=True))
        ours, theirs = (statistics.median(pair[side] for pair in seconds) for side in (1, 0))
        ratio = statistics.median(pair[0] / pair[1] for pair in seconds)
        passes = [found[side][1] for side in (plain, from_transcripts)]
        rows.append(
            [name, f"{theirs:.2f}", f"{ours:.2f}", f"{ratio:.2f} x", passes[0], passes[1], f"{same} of {len(clips)}"]
        )
    header = [
        "frames", "plain, s", "from the transcripts, s", "median ratio", "passes, plain", "passes", "same hypotheses"
    ]  # fmt: skip
    what = f"{len(clips)} clips ({given.language}, {given.part}), {precision.name}, {given.rounds} rounds."
    publish(given.table, f"search from the transcripts, {given.model}", [what, markdown(header, rows)])


def measured(
    search: Callable[[EncoderStates, Sequence[Target]], list[Hypothesis]], chunks: Sequence[Chunk]
) -> tuple[float, int, list[Hypothesis]]:
    """Seconds, passes of the decoder, hypotheses."""
    passes = 0
    originals = {name: getattr(Decoder, name) for name in ("step", "read_at")}

    def counted(name: str) -> Callable[..., torch.Tensor]:
        def work(*arguments: object) -> torch.Tensor:
            nonlocal passes
            passes += 1
            found: torch.Tensor = originals[name](*arguments)
            return found

        return work

    for name in originals:
        setattr(Decoder, name, counted(name))
    started = time.perf_counter()
    try:
        hypotheses = [found for chunk in chunks for found in search(*chunk)]
    finally:
        for name, original in originals.items():
            setattr(Decoder, name, original)
    return time.perf_counter() - started, passes - len(chunks), hypotheses


if __name__ == "__main__":
    main()
