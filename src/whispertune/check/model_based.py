"""A model's opinion of transcripts: how much more likely its own hypothesis is, how different it is, and whether the
audio makes the transcript more likely than silence does.

The last is decisive. A model that misrecognises a single word prefers its own spelling by many nats, but the correct
word is still far more likely with the audio than without; the transcript of another clip is not, however well the model
knows the language.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

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
from whispertune.system.processes import ALONE, Pace, Processes
from whispertune.text.targets import IGNORE_INDEX, Target, collate_targets

THINNED = FrameOptions()
Array = npt.NDArray[np.float32]
SPARE_TOKENS, TOKENS_A_SECOND = 10, 12.0
"""Longest hypothesis: fast speech has 6 tokens per second in Latin script, twice that in others."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """A model's opinion of one utterance.

    nll: nats per target token of the transcript, teacher-forced. own_nll: the same for the model's hypothesis. cer: of
    the hypothesis against the transcript, normalised. hypothesis: greedy. support: nats per target token by which the
    audio makes the transcript more likely than silence does. unsupported: share of the tokens, at the beginning or at
    the end, that the audio does not make more likely. contradiction: nats by which the audio makes one token, the end
    of text too, less likely than silence does; the largest of all tokens.
    """

    nll: float
    own_nll: float
    cer: float
    hypothesis: str
    support: float = 0.0
    unsupported: float = 0.0
    contradiction: float = 0.0

    @property
    def gap(self) -> float:
        """Nats per token by which the transcript is less likely than the hypothesis; difficult audio affects both."""
        return self.nll - self.own_nll

    def is_weak(self, text: str) -> bool:
        """Whether the opinion is weak: for a spelled letter, or a number that may be written in another way."""
        spoken = [char for char in self.hypothesis if char.isalnum()]
        return sum(char.isalnum() for char in text) <= 2 or all(char.isdigit() for char in spoken)

    def suspicion(self, text: str) -> float:
        """The score for ranking transcripts: gap times CER (at most 1), halved if the opinion is weak."""
        return max(0.0, self.gap) * min(self.cer, 1.0) * (0.5 if self.is_weak(text) else 1.0)

    def sure(self, text: str) -> float:
        """The suspicion as a rough probability: 0.5 at 1.7, 0.95 at 2.7 (fitted by eye to swapped transcripts)."""
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
    processes: Processes = ALONE,
) -> list[Opinion]:
    """The model's opinion of each utterance, on thinned windows; several processes share the batches."""
    transcriber = Transcriber(ready, GREEDY, THINNED, cut_loops=True, workers=workers)
    silence = transcriber.encode([transcriber.features(np.zeros(SAMPLE_RATE, np.float32))])
    states_of = transcriber.states(lambda index: transcriber.features(load_utterance(utterances[index])))
    batches = encoding_batches([round(16_000 * s) for s in seconds], THINNED)

    def ask(own: Sequence[int]) -> Iterator[list[Opinion]]:
        """Opinions of the windows of these batches, with no CER yet."""
        mine = [batches[number] for number in own]
        pace = Pace(advance, sum(map(len, mine)), len(utterances))
        states_of.prepare(mine)
        for batch in mine:
            states = states_of.fetch(batch)
            with_audio = token_nlls(ready, states, range(len(batch)), [targets[i] for i in batch])
            without = token_nlls(ready, silence, [0] * len(batch), [targets[i] for i in batch])
            prompts = [targets[i].input_ids[: targets[i].prompt_length] for i in batch]
            bounds = [
                min(transcriber.room(prompt), int(SPARE_TOKENS + TOKENS_A_SECOND * seconds[i]))
                for i, prompt in zip(batch, prompts, strict=True)
            ]
            decoded = transcriber.decode(states, prompts, bounds)
            yield [
                Opinion(
                    float(informed.mean()), -found.mean_log_prob, 0.0, transcriber.text(found),
                    float((guessed - informed).mean()),
                    unsupported_share((guessed - informed)[:-1]),  # without the end of text
                    float((informed - guessed).max()),
                )
                for informed, guessed, found in zip(with_audio, without, decoded, strict=True)
            ]  # fmt: skip
            pace(len(batch))

    found = processes.divide([sum(seconds[i] for i in batch) for batch in batches], ask)
    opinions = dict(zip(chain.from_iterable(batches), chain.from_iterable(found), strict=True))
    texts = [opinions[i].hypothesis for i in range(len(utterances))]
    scores = score_corpus([u.id for u in utterances], [u.text for u in utterances], texts, languages).utterances
    return [replace(opinions[i], cer=score.characters.rate) for i, score in enumerate(scores)]


def token_nlls(ready: ReadyModel, states: EncoderStates, rows: Sequence[int], targets: Sequence[Target]) -> list[Array]:
    """Negative log-likelihood of each target token in nats. rows: row of `states` for each target."""
    found: list[Array] = []
    for begin in range(0, len(targets), 16):
        part = targets[begin : begin + 16]
        input_ids, labels = collate_targets(part, ready.checkpoint.pad_token_id)
        chosen = states.select(rows[begin : begin + 16])
        hidden = ready.whisper.decoder(
            input_ids.to(chosen.states.device), chosen.states, chosen.log_weights, None, chosen.num_frames
        )
        scored = labels != IGNORE_INDEX
        logits = ready.whisper.decoder.logits(hidden[scored.to(hidden.device)]).float()
        losses = F.cross_entropy(logits, labels[scored].to(logits.device), reduction="none").cpu()
        found += [row.numpy() for row in torch.split(losses, scored.sum(dim=1).tolist())]
    return found


def unsupported_share(support: Array) -> float:
    """The share of the tokens, at the beginning or at the end, without support; 0 for fewer than `FEWEST_TOKENS`.

    support: (num_tokens,) nats by which the audio makes each token more likely. Counts the longest run from either end
    whose mean is below `UNSUPPORTED`. Very negative values, of misrecognised tokens, are clipped.
    """
    excess = np.maximum(support, MISHEARD) - UNSUPPORTED
    below = [np.flatnonzero(np.cumsum(values) < 0) for values in (excess, excess[::-1])]
    longest = max((int(ends[-1]) + 1 for ends in below if len(ends)), default=0)
    return longest / len(support) if longest >= FEWEST_TOKENS else 0.0


DOUBTFUL = 1.2
"""Threshold of `Opinion.suspicion`."""
SUPPORTED = 0.75
"""Threshold of `Opinion.support`, nats per token. In theory 0 separates right from wrong transcripts, but any speech of
the language adds a little. Pretrained whisper-base, 280 Italian and French clips: 1 % of the right transcripts were
below 1.5 and 0.7, 1 % of swapped ones above 0.7 and 0.2."""
UNSUPPORTED, MISHEARD, FEWEST_TOKENS, MOST_UNSUPPORTED = 0.25, -1.0, 3, 1 / 3
"""Thresholds of `unsupported_share`. With half of the audio cut off, 48 of 57 transcripts of 4 or more tokens were
found, with all of it 1 of 57."""
OTHER_CER = 0.2
"""Words without support must be missing from the hypothesis too."""


def judge(opinion: Opinion, text: str) -> tuple[str, str] | None:
    """(kind, detail) of the finding that follows from a model's opinion, if any."""
    other = opinion.suspicion(text) >= DOUBTFUL
    cut = opinion.unsupported >= MOST_UNSUPPORTED and opinion.cer >= OTHER_CER
    if not other and not cut:
        return None
    wrong = (cut or opinion.support < SUPPORTED) and not opinion.is_weak(text)
    part = f", {100 * opinion.unsupported:.0f} % of the text is not in the audio" if cut else ""
    detail = (
        f"the model transcribes {opinion.hypothesis[:80]!r} (CER {100 * opinion.cer:.0f} %, {opinion.gap:.1f} nats per "
        f"token more likely{part})"
    )
    return "wrong_transcript" if wrong else "doubtful_transcript", detail
