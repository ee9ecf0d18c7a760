"""Beam search: the best of several hypotheses kept side by side, all utterances of a batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from whispertune.decoding.glossary import GlossaryBoost
from whispertune.decoding.prefill import Prefill
from whispertune.decoding.rules import Hypothesis, LogitRules, repeated_tail, to_lists
from whispertune.decoding.timestamps import TimestampRules
from whispertune.model.cache import rows_to_keep
from whispertune.model.whisper import Decoder
from whispertune.system.precision import send

LOOPS_SOUGHT_EVERY = 8
"""Tokens after which running beams are searched for loops."""


@dataclass(slots=True)
class _Beams:
    """One utterance's search: running token lists with their log-probabilities, and the best finished ones.

    log_probs: with what the words of a glossary add to them, which is `boosts`; states: what is written of such words.
    finished: whether it repeats itself, its score, and the hypothesis; the best first.
    """

    row: int
    tokens: list[list[int]]
    log_probs: list[float]
    boosts: list[float]
    states: list[int]
    finished: list[tuple[bool, float, Hypothesis]] = field(default_factory=list)

    def finish(
        self, hypothesis: Hypothesis, boost: float, num_tokens: int, length_penalty: float, num_finished: int
    ) -> None:
        score = (hypothesis.log_prob + boost) / num_tokens**length_penalty
        self.finished.append((hypothesis.repeats, score, replace(hypothesis, score=score)))
        self.finished.sort(key=lambda entry: (entry[0], -entry[1]))
        del self.finished[num_finished:]

    def drop_loops(self) -> None:
        """Let running beams that repeat themselves go no further, once there is something to return."""
        if self.finished and len(self.tokens[0]) % LOOPS_SOUGHT_EVERY == 0:
            for beam, tokens in enumerate(self.tokens):
                if repeated_tail(tokens):
                    self.log_probs[beam] = -math.inf

    def can_improve(self, num_tokens: int, length_penalty: float, num_finished: int) -> bool:
        if not self.finished:
            return True
        best_running: float = max(self.log_probs) / num_tokens**length_penalty
        repeats, worst, _ = self.finished[-1]  # whatever does not repeat itself outranks what does
        full = len(self.finished) >= num_finished and not repeats
        return best_running > (worst if full else -math.inf)


def _going_on(staying: Sequence[int], num_searches: int, device: torch.device) -> Sequence[int]:
    """The searches that are computed further: on a CPU those that run on, on a GPU as with `rows_to_keep`."""
    if device.type == "cpu":
        return staying
    return rows_to_keep(staying, num_searches, device) or range(num_searches)


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    prefilled: Prefill,
    rules: LogitRules,
    eot: int,
    max_tokens: Sequence[int],
    *,
    beam_size: int,
    length_penalty: float = 1.0,
    patience: float = 1.0,
    timestamps: TimestampRules | None = None,
    glossary: GlossaryBoost | None = None,
) -> list[Hypothesis]:
    """The best hypothesis of each of U windows, with the others that ended as its `alternatives`.

    Ranked by log-probability over (tokens, end of text counted) ** length_penalty. At each step the 2 x beam_size
    best continuations are taken; those among the first beam_size that end are kept as finished, the best
    others run on, until none can pass the worst of beam_size finished ones: as `transformers` does without
    early stopping. But what is caught in a loop, whose length-normalised score beats any real hypothesis, is returned
    only if nothing else ended: a hypothesis that was cut at `max_tokens`, or that ended and `repeats`; beams that
    repeat themselves are dropped as soon as any hypothesis has ended. A glossary's words are ranked higher;
    log-probabilities of hypotheses are without that.
    Arguments otherwise as in `greedy_search`.
    """
    device = prefilled.hidden.device
    num_candidates = 2 * beam_size
    num_finished = max(1, round(beam_size * patience))
    cache, hidden = prefilled.fork()
    log_probs = rules.log_probs(decoder.logits(hidden), first=True)
    history = None if timestamps is None else timestamps.start(len(max_tokens), device)
    if history is not None:
        log_probs = history.restrict(log_probs)
    searches = [_Beams(row, [[]], [0.0], [0.0], [0]) for row in range(len(max_tokens))]
    results: dict[int, Hypothesis] = {}
    vocab_size = log_probs.shape[-1]
    beams_of: dict[int, list[tuple[int, int]]] = {}  # by row: beam and next token of those that run on
    while True:
        running = send(torch.tensor([search.log_probs for search in searches]), device)
        beams = running.shape[1]
        if glossary is not None:
            log_probs = glossary.boosted(log_probs, [state for search in searches for state in search.states])
        totals = (running.flatten()[:, None] + log_probs).view(len(searches), beams * vocab_size)
        top, flat = totals.topk(num_candidates, dim=-1)
        staying: list[int] = []
        for position, (search, scores, choices) in enumerate(zip(searches, *to_lists(top, flat), strict=True)):
            if search.row in results:  # one that only fills up a GPU's batch, its beams as they are
                beams_of[search.row] = [(beam, token) for beam, (_, token) in enumerate(beams_of[search.row])]
                continue
            num_tokens = len(search.tokens[0]) + 1
            next_beams: list[tuple[int, int, float, float, int]] = []
            for rank, (score, choice) in enumerate(zip(scores, choices, strict=True)):
                beam, token = divmod(choice, vocab_size)
                boost, state = search.boosts[beam], 0
                if glossary is not None:
                    state, added = glossary.after(search.states[beam], token)
                    boost += added
                if token == eot:
                    if rank < beam_size and score > -math.inf:
                        ended = Hypothesis(tuple(search.tokens[beam]), score - boost)
                        search.finish(ended, boost, num_tokens, length_penalty, num_finished)
                elif len(next_beams) < beam_size:
                    next_beams.append((beam, token, score, boost, state))
            at_limit = num_tokens > max_tokens[search.row]
            # A beam that never ends is usually caught in a loop. So the beams as they are, without the token that no
            # longer fits, count only if none has ended.
            if at_limit and not search.finished:
                for tokens, log_prob, boost in zip(search.tokens, search.log_probs, search.boosts, strict=True):
                    cut = Hypothesis(tuple(tokens), log_prob - boost, ended=False)
                    search.finish(cut, boost, max(1, len(tokens)), length_penalty, num_finished)
            search.tokens = [[*search.tokens[beam], token] for beam, token, *_ in next_beams]
            search.log_probs = [score for _, _, score, _, _ in next_beams]
            search.boosts = [boost for *_, boost, _ in next_beams]
            search.states = [state for *_, state in next_beams]
            search.drop_loops()
            beams_of[search.row] = [(beam, token) for beam, token, *_ in next_beams]
            if at_limit or not search.can_improve(num_tokens, length_penalty, num_finished):
                best, *others = (hypothesis for *_, hypothesis in search.finished)
                results[search.row] = replace(best, alternatives=tuple(others))
                continue
            staying.append(position)
        if not staying:
            return [results[row] for row in range(len(max_tokens))]
        places = _going_on(staying, len(searches), device)
        kept = torch.tensor(places) if len(places) < len(searches) else None
        chosen = [(place * beams + beam, token) for place in places for beam, token in beams_of[searches[place].row]]
        sources = torch.tensor([source for source, _ in chosen])
        cache.select(sources, kept)
        searches = [searches[place] for place in places]
        inputs = send(torch.tensor([token for _, token in chosen]), device)[:, None]
        log_probs = rules.log_probs(decoder.logits(decoder.step(inputs, cache)), first=False)
        if history is not None:
            history.select(sources)
            history.append(inputs[:, 0])
            log_probs = history.restrict(log_probs)
