"""What a model makes of the transcripts: how much likelier its own hypothesis is, and how far from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from whispertune.data.audio import load_utterance
from whispertune.data.utterances import Utterance
from whispertune.decoding.windows import GREEDY, decode_windows
from whispertune.frames import FrameOptions
from whispertune.loading import ReadyModel
from whispertune.scoring.error_rates import score_corpus
from whispertune.states import EncoderStates, WindowFeatures, encode, encoding_batches, window_features
from whispertune.targets import IGNORE_INDEX, Target, collate_targets

THINNED = FrameOptions()
SPARE_TOKENS, TOKENS_A_SECOND = 10, 12.0
"""A hypothesis is cut there: fast speech has 6 tokens a second in Latin script, twice that in others."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """Of one utterance. nll: nats per target token of the transcript, teacher-forced. own_nll: the same of the model's
    own hypothesis. cer: of the hypothesis against the transcript, normalised. hypothesis: greedy.
    """

    nll: float
    own_nll: float
    cer: float
    hypothesis: str

    @property
    def gap(self) -> float:
        """How many nats a token the transcript is less likely than the hypothesis: hard audio makes both unlikely."""
        return self.nll - self.own_nll

    def is_weak(self, text: str) -> bool:
        """Whether the model is no judge of this text: a letter that is spelt, or a number, written another way."""
        heard = [char for char in self.hypothesis if char.isalnum()]
        return sum(char.isalnum() for char in text) <= 2 or all(char.isdigit() for char in heard)

    def suspicion(self, text: str) -> float:
        """By which transcripts are ranked: gap times CER (at most 1); half of it where the model is no judge."""
        return max(0.0, self.gap) * min(self.cer, 1.0) * (0.5 if self.is_weak(text) else 1.0)

    def sure(self, text: str) -> float:
        """The same as a probability, roughly: 0.5 at 1.7, 0.95 at 2.7 (fitted by eye to exchanged transcripts)."""
        return 1 / (1 + math.exp(-3 * (self.suspicion(text) - 1.7)))


@torch.inference_mode()
def ask_model(
    ready: ReadyModel,
    utterances: Sequence[Utterance],
    targets: Sequence[Target],
    languages: Sequence[str],
    seconds: Sequence[float],
    *,
    workers: int,
    advance: Callable[[int], None],
) -> list[Opinion]:
    """The model's opinion of each utterance, on thinned windows."""
    whisper, tokenizer = ready.whisper, ready.tokenizer
    nlls, own, texts = [0.0] * len(utterances), [0.0] * len(utterances), [""] * len(utterances)

    def features(index: int) -> WindowFeatures:
        row = utterances[index]
        return window_features(load_utterance(row), ready.n_mels, THINNED)

    with ThreadPoolExecutor(workers, "features") as pool:
        for batch in encoding_batches([round(16_000 * s) for s in seconds], THINNED):
            states = encode(whisper.encoder, list(pool.map(features, batch)))
            for index, nll in zip(batch, _nll_rows(ready, states, [targets[i] for i in batch]), strict=True):
                nlls[index] = nll
            hypotheses = decode_windows(
                whisper.decoder,
                states,
                [targets[i].input_ids[: targets[i].prompt_length] for i in batch],
                ready.rules,
                tokenizer.eot,
                [_most_tokens(targets[i], seconds[i], tokenizer.max_tokens) for i in batch],
                GREEDY,
                cut_loops=True,
            )
            for index, found in zip(batch, hypotheses, strict=True):
                own[index] = -found.mean_log_prob
                texts[index] = tokenizer.decode(found.tokens).strip()
            advance(len(batch))
    scores = score_corpus([u.id for u in utterances], [u.text for u in utterances], texts, languages).utterances
    return [
        Opinion(nll, ours, score.characters.rate, text)
        for nll, ours, score, text in zip(nlls, own, scores, texts, strict=True)
    ]


def _most_tokens(target: Target, seconds: float, max_tokens: int) -> int:
    return min(max_tokens - target.prompt_length, int(SPARE_TOKENS + TOKENS_A_SECOND * seconds))


def _nll_rows(ready: ReadyModel, states: EncoderStates, targets: Sequence[Target]) -> list[float]:
    """Mean negative log-likelihood of each row's target tokens, nats."""
    means: list[float] = []
    for begin in range(0, len(targets), 16):
        part = range(begin, min(begin + 16, len(targets)))
        input_ids, labels = collate_targets([targets[i] for i in part], ready.checkpoint.pad_token_id)
        chosen = states.select(part)
        hidden = ready.whisper.decoder(input_ids.to(chosen.states.device), chosen.states, chosen.log_weights)
        scored = labels != IGNORE_INDEX
        logits = ready.whisper.decoder.logits(hidden[scored.to(hidden.device)]).float()
        losses = F.cross_entropy(logits, labels[scored].to(logits.device), reduction="none").cpu()
        means += [float(row.mean()) for row in torch.split(losses, scored.sum(dim=1).tolist())]
    return means


WRONG, DOUBTFUL = 2.2, 1.2
"""Of `Opinion.suspicion`. With 33 of 327 Italian transcripts exchanged: 97 % of them and 0.7 % of the others (two, of
which one is indeed wrong) lay above the first, for the untouched whisper-base."""


def judge(opinion: Opinion, text: str) -> tuple[str, str] | None:
    """(kind, detail) of what a model's opinion of a transcript amounts to."""
    weak = opinion.is_weak(text)
    if opinion.suspicion(text) < DOUBTFUL:
        return None
    kind = "wrong_transcript" if opinion.suspicion(text) >= WRONG and not weak else "doubtful_transcript"
    detail = (
        f"heard: {opinion.hypothesis[:80]!r} (CER {100 * opinion.cer:.0f} %, {opinion.gap:.1f} nats a token likelier)"
    )
    return kind, detail
