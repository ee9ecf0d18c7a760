"""Greedy search where the transcript is known: the pass that gives its loss also shows how far they agree.

What greedy search emits next depends on what it has emitted, but whether it emits a given text can be seen for the
whole text at once: as long as each token is the likeliest one after those before it (Stern et al. 2018; speculative
decoding, Leviathan et al. 2023, with the transcript as the draft). Nothing of the transcript gets into the hypothesis
that the model would not have said by itself. Where the two part, search goes on behind the likeliest token, several
tokens in one pass, with the transcript from where they may meet again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from whispertune.decoding.greedy import Row
from whispertune.decoding.prefill import Prefill
from whispertune.decoding.rules import Hypothesis, LogitRules, to_lists
from whispertune.model.attention import FEWEST_TOKENS
from whispertune.model.cache import DecoderCache, rows_to_keep
from whispertune.model.loss import ROWS_AT_ONCE, summed_nll
from whispertune.model.packed_lengths import few_lengths
from whispertune.model.whisper import Decoder
from whispertune.system.precision import send
from whispertune.text.targets import Target, collate_targets

LOSS_ROWS = 8
LOSS_ROWS_ON_GPU = 64
"""Windows whose transcripts the decoder reads at once."""
AT_ONCE = 4
"""Tokens of a transcript that are checked in one pass of the search."""
FARTHEST = 8
"""Tokens between the place in a transcript where a search left it and that where it may meet it again."""

Likeliest = list[tuple[float, int]]
"""The likeliest token at some positions, with its log-probability before it."""


@torch.inference_mode()
def teacher_forced_nll(decoder: Decoder, prefilled: Prefill, targets: Sequence[Target], pad_id: int) -> float:
    """Summed negative log-likelihood of the target tokens of these B windows; quickest in order of length."""
    parts = _read(decoder, prefilled, targets, pad_id)
    return sum(float(summed_nll(decoder, hidden, labels)) for _, hidden, labels, _ in parts)


def _read(
    decoder: Decoder, prefilled: Prefill, targets: Sequence[Target], pad_id: int
) -> Iterator[tuple[Sequence[Target], Tensor, Tensor, DecoderCache]]:
    """Read the targets of B windows, a few at a time: those, hidden states (b, T, D), labels (b, T), the cache."""
    device = prefilled.hidden.device
    at_once = LOSS_ROWS if device.type == "cpu" else LOSS_ROWS_ON_GPU
    for first in range(0, len(targets), at_once):
        part = targets[first : first + at_once]
        num_tokens = max(len(target.input_ids) for target in part)
        if device.type != "cpu":
            num_tokens = min(few_lengths(num_tokens, FEWEST_TOKENS), decoder.embed_positions.num_embeddings)
        input_ids, labels = collate_targets(part, pad_id, num_tokens)
        cache = prefilled.empty_cache(slice(first, first + at_once))
        yield part, decoder.read(send(input_ids, device), cache), labels, cache


@dataclass(slots=True)
class _Row(Row):
    """A hypothesis, what it may be (at first the transcript and end of text), and the place of the next token there."""

    draft: list[int] = field(default_factory=list)
    place: int = 0
    hypothesis: Hypothesis | None = None
    """Once it has ended."""
    length: int = 0
    """Of what is in the cache."""

    def take(self, likeliest: Likeliest, eot: int) -> None:
        """Emit the first of these tokens, and the others as long as those before them are the draft's."""
        for number, (log_prob, token) in enumerate(likeliest):
            self.length += number > 0
            self.hypothesis = self.add(token, log_prob, eot)
            if self.hypothesis is not None:
                return
            if self.place < len(self.draft) and self.draft[self.place] == token:
                self.place += 1
                continue
            near = range(max(0, self.place - FARTHEST), min(len(self.draft), self.place + FARTHEST))
            same = [place for place in near if self.draft[place] == token]
            # Else one token stands for another.
            self.place = 1 + (min(same, key=lambda place: abs(place - self.place)) if same else self.place)
            return

    def next_inputs(self) -> list[int]:
        """The last token, and those of the draft that may follow it."""
        return [self.tokens[-1], *self.draft[self.place : self.place + AT_ONCE]]


class TranscriptSearch:
    """Greedy search of B windows whose transcripts are known, and their loss.

    nll: summed negative log-likelihood of all target tokens, as `teacher_forced_nll`. The prompts must be of one
    length.
    """

    @torch.inference_mode()
    def __init__(
        self, decoder: Decoder, prefilled: Prefill, rules: LogitRules, targets: Sequence[Target], pad_id: int
    ) -> None:
        self.nll = 0.0
        self._decoder, self._prefilled, self._rules, self._targets = decoder, prefilled, rules, targets
        self._likeliest: list[Likeliest] = []
        """Of each window, after its prompt and after each token of its transcript."""
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        """Of each window, (layers, H, T, D / H) of prompt and transcript."""
        for part, hidden, labels, cache in _read(decoder, prefilled, targets, pad_id):
            texts = [len(target.input_ids) - target.prompt_length + 1 for target in part]
            ends = list(accumulate(target.num_target_tokens for target in part))  # the last are the text and its end
            first = torch.zeros(ends[-1], dtype=torch.bool)
            first[torch.tensor(ends) - torch.tensor(texts)] = True
            every: Likeliest = []

            def watch(logits: Tensor, log_normalisers: Tensor, first: Tensor = first, every: Likeliest = every) -> None:
                best, chosen = rules.likeliest(logits, first=False, log_normalisers=log_normalisers)
                begins = first[len(every) : len(every) + len(logits)]
                if begins.any():
                    best[begins], chosen[begins] = rules.likeliest(logits[begins], first=True)
                every += zip(*to_lists(best, chosen), strict=True)

            self.nll += float(summed_nll(decoder, hidden, labels, watch=watch))
            self._likeliest += [every[end - text : end] for end, text in zip(ends, texts, strict=True)]
            self._keys += cache.self_keys.unbind(1)
            self._values += cache.self_values.unbind(1)

    @torch.inference_mode()
    def search(
        self, eot: int, max_tokens: Sequence[int], *, cut_loops: bool = False, last: bool = False
    ) -> list[Hypothesis]:
        """What `greedy_search` returns, but for rounding; the closer it is to the transcripts, the sooner.

        last: whether no other search of these windows follows: this one then uses up their memory.
        """
        rows = []
        for target, most, likeliest in zip(self._targets, max_tokens, self._likeliest, strict=True):
            draft = [*target.input_ids[target.prompt_length :], eot]
            rows.append(_Row(most, cut_loops, draft=draft, length=target.prompt_length))
            rows[-1].take(likeliest, eot)
        running = list(range(len(rows)))
        staying = [number for number in running if rows[number].hypothesis is None]
        cache, _ = replace(self._prefilled, last=last).fork()
        cache.whole = True  # rows are of different lengths
        if staying:
            cache.reserve(max(rows[number].length for number in staying))
        for number in staying:
            known = slice(cache.num_tokens, rows[number].length)  # prompts are there, and other searches follow them
            cache.self_keys[:, number, :, known] = self._keys[number][:, :, known]
            cache.self_values[:, number, :, known] = self._values[number][:, :, known]
        while staying:
            going_on = rows_to_keep(staying, len(running), self._prefilled.hidden.device)
            if going_on is not None:
                kept = torch.tensor(going_on)
                cache.select(kept, kept)
                running = [running[place] for place in going_on]
            batch = [rows[number] for number in running]
            inputs = [row.next_inputs() if row.hypothesis is None else [eot] for row in batch]
            hidden = self._decoder.read_at(inputs, [row.length for row in batch], cache)
            likeliest = _likeliest(self._decoder, self._rules, hidden)
            for row, given, end in zip(batch, inputs, accumulate(map(len, inputs)), strict=True):
                if row.hypothesis is None:
                    row.length += 1
                    row.take(likeliest[end - len(given) : end], eot)
            staying = [place for place, row in enumerate(batch) if row.hypothesis is None]
        return [row.hypothesis for row in rows if row.hypothesis is not None]


def _likeliest(decoder: Decoder, rules: LogitRules, hidden: Tensor) -> Likeliest:
    """After each of (N, D) hidden states."""
    found: Likeliest = []
    for part in torch.split(hidden, ROWS_AT_ONCE):
        found += zip(*to_lists(*rules.likeliest(decoder.logits(part), first=False)), strict=True)
    return found
