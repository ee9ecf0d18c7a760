"""The attention shapes of the demo's run as a GPU would meet them: real lengths, plan and search, a model of no size.

python demo_shapes.py        # prints {"training": […], "steps": […], "validation": […]} on standard output
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pretend_gpu
import soundfile
import torch

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.dataset.splits import Split
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.prefill import prefill
from whispertune.decoding.rules import LogitRules
from whispertune.evaluation.decode import Room, chunks_of, teacher_forced_nll
from whispertune.features.frames import select_frames
from whispertune.features.options import FrameOptions
from whispertune.model.config import WhisperConfig
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Whisper
from whispertune.states.computed import EncoderStates, padded_log_weights
from whispertune.system.precision import send
from whispertune.text.targets import Target, collate_targets, make_target
from whispertune.text.tokenizer import Tokenizer
from whispertune.training.plan import BatchPlan, epoch_plan

CLIPS = Path(__file__).parents[2] / "examples" / "italian-prompts"
VOCABULARY, WIDTH, EOT = 51_865, 8, 50_257
FRAMES = FrameOptions()


def split(name: str, tokenizer: Tokenizer) -> Split:
    """Lengths and targets of one of the demo's splits."""
    prompt = tokenizer.prompt_tokens("it", "transcribe")
    lengths, targets = [], []
    with (CLIPS / f"{name}.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found = soundfile.info(CLIPS / row["audio"])
            lengths.append(round(found.frames * 16_000 / found.samplerate))
            targets.append(make_target(prompt, tokenizer.encode(" " + row["text"]), EOT, sot=prompt[0]))
    return Split(name, [None] * len(lengths), lengths, targets, [], {}, [], len(targets))


def states(lengths: list[int], device: torch.device) -> EncoderStates:
    chosen = [select_frames(length, FRAMES) for length in lengths]
    sizes = tuple(len(selection.positions) for selection in chosen)
    weights = padded_log_weights([selection.counts for selection in chosen])
    return EncoderStates(torch.randn(len(sizes), max(sizes), WIDTH), weights, sizes).to(device, torch.float32)


def train(model: Whisper, data: Split, device: torch.device, epochs: int) -> None:
    for epoch in range(1, epochs + 1):
        for step in epoch_plan(data.num_samples, BatchPlan(8, 2), seed=0, epoch=epoch):
            for batch in step:
                targets: list[Target] = [data.targets[i] for i in batch]
                ids, labels = collate_targets(targets, EOT)
                given = states([data.num_samples[i] for i in batch], device)
                tokens = [len(target.input_ids) for target in targets]
                hidden = model.decoder(send(ids, device), given.states, given.log_weights, tokens, given.num_frames)
                assert summed_nll(model.decoder, hidden, labels).ndim == 0


def validate(model: Whisper, data: Split, device: torch.device) -> set[tuple[int, int, int]]:
    """Hypotheses as long as the transcripts; the shapes of decoding steps alone."""
    steps: set[tuple[int, int, int]] = set()
    met = pretend_gpu.shapes["inference"]
    for chunk in chunks_of(data, FRAMES, model.decoder, Room()):
        targets = [data.targets[i] for i in chunk]
        prompts = [target.input_ids[: target.prompt_length] for target in targets]
        with torch.no_grad():
            prefilled = prefill(model.decoder, states([data.num_samples[i] for i in chunk], device), prompts)
            teacher_forced_nll(model.decoder, prefilled, targets, EOT)
            before = met.copy()
            most = [target.num_target_tokens - 1 for target in targets]
            greedy_search(model.decoder, prefilled, LogitRules(VOCABULARY, [EOT], [], device), EOT, most)
            steps |= set(met - before)
    return steps


def main() -> None:
    checkpoint = load_checkpoint("packaged:whisper-base")
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json, VOCABULARY)
    config = WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=80, d_model=WIDTH, encoder_layers=1, encoder_attention_heads=1,
        encoder_ffn_dim=WIDTH, decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=WIDTH,
    )  # fmt: skip
    torch.manual_seed(0)
    with pretend_gpu.pretended() as device:
        model = Whisper(config).to(device)
        train(model, split("train", tokenizer), device, epochs=4)
        steps = validate(model, split("valid", tokenizer), device)
    met = {name: sorted(found) for name, found in pretend_gpu.shapes.items()}
    json.dump({"training": met["training"], "steps": sorted(steps), "validation": met["inference"]}, sys.stdout)


if __name__ == "__main__":
    main()
