"""Word times from alignment heads that were found on training data, against those from a model's own list.

    python benchmarks/alignment_heads.py
    python benchmarks/alignment_heads.py --windows 8 16 32 --draws 5

The transcripts of test clips are aligned with their audio (dense, float32) with the model's own list of heads, with all
heads of the upper half of the decoder (the default for a model without a list), and with heads found on random clips of
train.csv. A token's beginning is near if it is at most 0.06 s from that by the model's own heads.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from common import ROOT, add_common, markdown, publish

from whispertune.checkpoints.generation import upper_heads
from whispertune.data.audio.waveforms import load_utterance
from whispertune.data.readers.manifest import read_manifest
from whispertune.data.utterances import Utterance
from whispertune.decoding.alignment import Floats, SpokenTexts, align_tokens
from whispertune.decoding.alignment_heads import best_heads, head_scores
from whispertune.decoding.loading import ReadyModel, load_model
from whispertune.features.frames import FRAME_SAMPLES
from whispertune.features.options import DENSE
from whispertune.states.computed import encode_frozen, window_features

FOLDERS = {"it": "italian-prompts", "fr": "french-prompts"}
NEAR = 0.06
"""Seconds."""


class Clips:
    """Utterances with their encoder states and tokens, one by one."""

    def __init__(self, ready: ReadyModel, utterances: list[Utterance], language: str) -> None:
        self.ready = ready
        prompt = ready.tokenizer.prompt_tokens(language)
        waveforms = [load_utterance(utterance) for utterance in utterances]
        self.spoken = [
            SpokenTexts(
                encode_frozen(ready.whisper.encoder, [window_features(waveform, ready.n_mels, DENSE)]),
                [ready.tokenizer.text_ids(utterance.text, language)], [prompt], [len(waveform) // FRAME_SAMPLES],
            )
            for utterance, waveform in zip(utterances, waveforms, strict=True)
        ]  # fmt: skip

    def scores(self) -> list[Floats]:
        """Of each clip, how well each head aligns it."""
        decoder, tokenizer = self.ready.whisper.decoder, self.ready.tokenizer
        return [head_scores(decoder, tokenizer, spoken) for spoken in self.spoken]

    def begins(self, heads: list[list[int]]) -> Floats:
        """Where each token of each clip begins, in seconds, by these heads."""
        decoder, tokenizer = self.ready.whisper.decoder, self.ready.tokenizer
        times = [align_tokens(decoder, tokenizer, spoken, heads) for spoken in self.spoken]
        return np.concatenate([one.bounds for (one,) in times])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:whisper-base", help="one that names its alignment heads")
    parser.add_argument("--windows", nargs="+", type=int, default=[8, 16, 32], help="clips that heads are found on")
    parser.add_argument("--draws", type=int, default=5, help="times that these are drawn anew")
    parser.add_argument("--clips", type=int, default=60, help="of each test, to compare times on")
    add_common(parser, "alignment-heads")
    given = parser.parse_args()
    ready = load_model(given.model, torch.device("cpu"))
    own = ready.alignment_heads
    rows = []
    for language, folder in FOLDERS.items():
        print(language, flush=True)
        train, test = (read_manifest(ROOT / "examples" / folder / f"{part}.csv") for part in ("train", "test"))
        order = np.random.default_rng(0).permutation(len(train))[: 3 * max(given.windows)]
        scores = np.stack(Clips(ready, [train[i] for i in order], language).scores())
        clips = Clips(ready, test[: given.clips], language)
        reference = clips.begins(own)

        def near(heads: list[list[int]], clips: Clips = clips, reference: Floats = reference) -> tuple[float, float]:
            apart = np.abs(clips.begins(heads) - reference)
            return 100 * float(np.mean(apart <= NEAR + 1e-6)), float(apart.mean())

        share, mean = near(upper_heads(ready.whisper.config))
        rows.append(
            [language, "upper half", len(upper_heads(ready.whisper.config)), "", f"{share:.1f} %", f"{mean:.3f}"]
        )
        for number in given.windows:
            drawn = [
                np.random.default_rng(draw).choice(len(scores), number, replace=False) for draw in range(given.draws)
            ]
            found = [best_heads(scores[places].mean(0)) for places in drawn]
            shares, means = zip(*map(near, found), strict=True)
            shared = statistics.mean(sum(head in own for head in heads) for heads in found)
            rows.append(
                [language, f"found on {number}", len(found[0]), f"{shared:.1f} of {len(own)}",
                 f"{statistics.median(shares):.1f} % ({min(shares):.1f} to {max(shares):.1f})",
                 f"{statistics.median(means):.3f}"]
            )  # fmt: skip
    header = ["language", "heads", "number", "of the model's own", f"beginnings within {NEAR} s", "mean difference, s"]
    explained = f"Model {given.model}; medians (and ranges) of {given.draws} draws of training clips."
    publish(given.table, "word times by alignment heads that were found", [explained, markdown(header, rows)])


if __name__ == "__main__":
    main()
