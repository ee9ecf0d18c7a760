"""Which language's token a language without one had best borrow: the one under which its transcripts are likeliest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from whispertune.check.model_based import THINNED, token_nlls
from whispertune.data.audio.waveforms import load_utterance
from whispertune.data.utterances import Utterance
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import single_windows
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import GREEDY
from whispertune.decoding.transcriber import Transcriber

MOST_CLIPS = 16
LONGEST_CLIP = 15.0
"""Seconds; longer clips say no more about a token, which the text soon outweighs."""
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """The loss of transcripts under each language's token.

    language: code of the language that lacks one. codes: (L) languages. losses: (L, C), nats of the transcript of each
    of C clips, teacher-forced. num_tokens: (C,) of the transcripts. characters_a_token: of the same transcripts.
    """

    language: str
    codes: Sequence[str]
    losses: npt.NDArray[np.float64]
    num_tokens: npt.NDArray[np.int64]
    characters_a_token: float

    @property
    def best(self) -> str:
        """Code of the language whose token gives the lowest loss."""
        return self.codes[int(self.losses.sum(axis=1).argmin())]

    def ranking(self) -> list[tuple[str, float, float, float]]:
        """(code, nats a token, and a 95 % interval for how much more that is than for the best) by increasing loss.

        The interval is a bootstrap over clips.
        """
        total = self.losses.sum(axis=1) / self.num_tokens.sum()
        clips = self.losses.shape[1]
        drawn = np.random.default_rng(0).integers(clips, size=(DRAWS, clips))
        excess = self.losses - self.losses[self.codes.index(self.best)]
        tokens = self.num_tokens[drawn].sum(axis=1)
        rows = []
        for place in np.argsort(total, kind="stable").tolist():
            low, high = np.quantile(excess[place][drawn].sum(axis=1) / tokens, (0.025, 0.975)).tolist()
            rows.append((self.codes[place], float(total[place]), low, high))
        return rows

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "language": self.language,
            "suggested": self.best,
            "clips": len(self.num_tokens),
            "characters_a_token": round(self.characters_a_token, 3),
            "losses": [[code, *(round(number, 4) for number in numbers)] for code, *numbers in self.ranking()],
        }


def clips_to_measure(seconds: npt.NDArray[np.floating[Any]], usable: Sequence[int]) -> list[int]:
    """Up to 16 of the usable rows, evenly spread, of at most 15 s if there are as many."""
    short = [row for row in usable if seconds[row] <= LONGEST_CLIP]
    rows = short if len(short) >= MOST_CLIPS else list(usable)
    places = np.linspace(0, len(rows) - 1, min(MOST_CLIPS, len(rows))).round().astype(int).tolist()
    return [rows[place] for place in dict.fromkeys(places)]


@torch.inference_mode()
def measure_tokens(
    ready: ReadyModel,
    rows: Sequence[Utterance],
    text: TextSettings,
    *,
    workers: int,
    advance: Callable[[int], None],
) -> TokenLosses:
    """The untouched model's loss of these transcripts under the token of each of its languages.

    Each clip is encoded once, thinned. text: of the language that has no token. advance: called with 1 for each clip.
    """
    codes = list(ready.tokenizer.languages)
    transcriber = Transcriber(ready, GREEDY, THINNED, cut_loops=True, workers=workers)
    windows = single_windows(rows)
    settings = [replace(text, language_token=code) for code in codes]
    losses, tokens, characters = np.zeros((len(codes), len(rows))), np.zeros(len(rows), np.int64), 0
    for clip, window in enumerate(windows):
        states = transcriber.encode([transcriber.features(load_utterance(rows[clip]))])
        targets = [setting.target(window) for setting in settings]
        found = token_nlls(ready, states, [0] * len(targets), targets)
        losses[:, clip] = [float(nlls.sum()) for nlls in found]
        tokens[clip] = targets[0].num_target_tokens
        characters += len(window.text)
        advance(1)
    return TokenLosses(text.language_code_of(None), codes, losses, tokens, characters / int((tokens - 1).sum()))
