"""What a model makes of the transcripts: how much likelier its own hypothesis is, how far it is from them, and whether
the audio makes them any likelier than silence does.

The last decides. A model that mishears a single word prefers its own spelling by many nats, and yet the word that was
said is far likelier with the audio than without; another's transcript is not, whatever the model knows of the language.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from whispertune.data.audio.waveforms import SAMPLE_RATE, load_utterance
from whispertune.data.utterances import Utterance
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import GREEDY
from whispertune.decoding.transcriber import Transcriber
from whispertune.evaluation.error_rates import score_corpus
from whispertune.features.options import FrameOptions
from whispertune.states.computed import EncoderStates, encoding_batches
from whispertune.text.targets import IGNORE_INDEX, Target, collate_targets

THINNED = FrameOptions()
Array = npt.NDArray[np.float32]
SPARE_TOKENS, TOKENS_A_SECOND = 10, 12.0
"""A hypothesis is cut there: fast speech has 6 tokens a second in Latin script, twice that in others."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """Of one utterance. nll: nats per target token of the transcript, teacher-forced. own_nll: the same of the model's
    own hypothesis. cer: of the hypothesis against the transcript, normalised. hypothesis: greedy. support: nats per
    target token by which the audio makes the transcript likelier than silence does. unheard: the share of the tokens,
    at the beginning or at the end, that the audio makes no likelier.
    """

    nll: float
    own_nll: float
    cer: float
    hypothesis: str
    support: float = 0.0
    unheard: float = 0.0

    @property
    def gap(self) -> float:
        """How many nats a token the transcript is less likely than the hypothesis: hard audio makes both unlikely."""
        return self.nll - self.own_nll

    def is_weak(self, text: str) -> bool:
        """Whether the model is no judge of this text: a letter that is spelt, or a number, written another way."""
        spoken = [char for char in self.hypothesis if char.isalnum()]
        return sum(char.isalnum() for char in text) <= 2 or all(char.isdigit() for char in spoken)

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
    transcriber = Transcriber(ready, GREEDY, THINNED, cut_loops=True, workers=workers)
    silence = transcriber.encode([transcriber.features(np.zeros(SAMPLE_RATE, np.float32))])
    states_of = transcriber.states(lambda index: transcriber.features(load_utterance(utterances[index])))
    nlls, own, texts = [0.0] * len(utterances), [0.0] * len(utterances), [""] * len(utterances)
    support, unheard = [0.0] * len(utterances), [0.0] * len(utterances)
    batches = encoding_batches([round(16_000 * s) for s in seconds], THINNED)
    states_of.prepare(batches)
    for batch in batches:
        states = states_of.fetch(batch)
        with_audio = _token_nlls(ready, states, range(len(batch)), [targets[i] for i in batch])
        without = _token_nlls(ready, silence, [0] * len(batch), [targets[i] for i in batch])
        for index, informed, guessed in zip(batch, with_audio, without, strict=True):
            nlls[index], support[index] = float(informed.mean()), float((guessed - informed).mean())
            unheard[index] = inaudible_share((guessed - informed)[:-1])  # but for the end of text
        prompts = [targets[i].input_ids[: targets[i].prompt_length] for i in batch]
        bounds = [
            min(transcriber.room(prompt), int(SPARE_TOKENS + TOKENS_A_SECOND * seconds[i]))
            for i, prompt in zip(batch, prompts, strict=True)
        ]
        for index, found in zip(batch, transcriber.decode(states, prompts, bounds), strict=True):
            own[index] = -found.mean_log_prob
            texts[index] = transcriber.text(found)
        advance(len(batch))
    scores = score_corpus([u.id for u in utterances], [u.text for u in utterances], texts, languages).utterances
    return [
        Opinion(nll, ours, score.characters.rate, *others)
        for nll, ours, score, *others in zip(nlls, own, scores, texts, support, unheard, strict=True)
    ]


def _token_nlls(
    ready: ReadyModel, states: EncoderStates, rows: Sequence[int], targets: Sequence[Target]
) -> list[Array]:
    """Negative log-likelihood of each target token, nats. rows: of `states`, those that the targets belong to."""
    found: list[Array] = []
    for begin in range(0, len(targets), 16):
        part = targets[begin : begin + 16]
        input_ids, labels = collate_targets(part, ready.checkpoint.pad_token_id)
        chosen = states.select(rows[begin : begin + 16])
        hidden = ready.whisper.decoder(input_ids.to(chosen.states.device), chosen.states, chosen.log_weights)
        scored = labels != IGNORE_INDEX
        logits = ready.whisper.decoder.logits(hidden[scored.to(hidden.device)]).float()
        losses = F.cross_entropy(logits, labels[scored].to(logits.device), reduction="none").cpu()
        found += [row.numpy() for row in torch.split(losses, scored.sum(dim=1).tolist())]
    return found


def inaudible_share(support: Array) -> float:
    """The share of the tokens, at the beginning or at the end, that have no support; 0 below `FEWEST_TOKENS`.

    support (num_tokens,): nats by which the audio makes each likelier. The longest run from an end whose mean is below
    `UNSUPPORTED`: supported tokens end it. One token that the model mishears says no more than any other.
    """
    excess = np.maximum(support, MISHEARD) - UNSUPPORTED
    below = [np.flatnonzero(np.cumsum(values) < 0) for values in (excess, excess[::-1])]
    longest = max((int(ends[-1]) + 1 for ends in below if len(ends)), default=0)
    return longest / len(support) if longest >= FEWEST_TOKENS else 0.0


DOUBTFUL = 1.2
"""Of `Opinion.suspicion`."""
SUPPORTED = 0.75
"""Nats a token, of `Opinion.support`. In theory 0 tells a transcript from another's; any speech of the language adds a
little. whisper-base, untouched, 280 Italian and French clips: of their own transcripts 1 % lay below 1.5 and 0.7, of
exchanged ones 1 % above 0.7 and 0.2."""
UNSUPPORTED, MISHEARD, FEWEST_TOKENS, INAUDIBLE = 0.25, -1.0, 3, 1 / 3
"""Of `inaudible_share`. Half of the audio cut: 48 of 57 transcripts of 4 tokens and more; whole: 1 of 57."""
OTHER_CER = 0.2
"""What is not heard must be lacking in the hypothesis too."""


def judge(opinion: Opinion, text: str) -> tuple[str, str] | None:
    """(kind, detail) of what a model's opinion of a transcript amounts to."""
    other = opinion.suspicion(text) >= DOUBTFUL
    cut = opinion.unheard >= INAUDIBLE and opinion.cer >= OTHER_CER
    if not other and not cut:
        return None
    wrong = (cut or opinion.support < SUPPORTED) and not opinion.is_weak(text)
    part = f", {100 * opinion.unheard:.0f} % of the text is not heard" if cut else ""
    detail = (
        f"heard: {opinion.hypothesis[:80]!r} (CER {100 * opinion.cer:.0f} %, {opinion.gap:.1f} nats a token likelier"
        f"{part})"
    )
    return "wrong_transcript" if wrong else "doubtful_transcript", detail
