"""Decode a split and score it: validation, the final test and `evaluate` all come through here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from whispertune.dataset.splits import Split
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.prefill import Prefill
from whispertune.decoding.rules import Hypothesis, LogitRules
from whispertune.decoding.search import PrefilledWindows, prefill_windows, rows_at_once, search_windows
from whispertune.evaluation.error_rates import CorpusScore, ErrorCounts, UtteranceScore, score_corpus
from whispertune.evaluation.options import ValidationOptions
from whispertune.evaluation.significance import bootstrap_interval
from whispertune.features.frames import select_frames
from whispertune.features.options import FrameOptions
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates
from whispertune.system.console import percent
from whispertune.system.precision import send
from whispertune.system.processes import Pace, Processes, balance
from whispertune.text.targets import MAX_TOKENS, Target, collate_targets
from whispertune.text.tokenizer import Tokenizer

CHUNK_FRAMES = 8_000
"""Kept frames, and at most `CHUNK_WINDOWS` windows, whose states are held at once while decoding."""
CHUNK_WINDOWS = 32
LOSS_ROWS = 8
"""Windows whose transcripts are read at once, for the loss."""
SPARE_TOKENS = 10
SAMPLES_A_WINDOW = 24_000
"""What decoding a window costs beside its own length, in samples."""


def token_caps(split: Split, options: ValidationOptions | None, max_tokens: int | None = None) -> list[int]:
    """Tokens after which each window's hypothesis is stopped; without options only the model's own bound.

    max_tokens: that its decoder takes, where these are fewer than Whisper's 448.
    """
    most = min(MAX_TOKENS, max_tokens or MAX_TOKENS)
    room = [most - target.prompt_length for target in split.targets]
    rate = "none" if options is None else options.max_tokens_per_second
    if rate == "none":
        return room
    seconds = [samples / 16_000 for samples in split.num_samples]
    if rate == "auto":
        lengths = [len(t.input_ids) - t.prompt_length for t in split.targets]
        # Half a second is added so that a one-word clip does not set the rate for all.
        rate = 2 * max(n / (s + 0.5) for n, s in zip(lengths, seconds, strict=True))
    return [min(limit, SPARE_TOKENS + math.ceil(rate * s)) for limit, s in zip(room, seconds, strict=True)]


@dataclass(frozen=True, slots=True)
class System:
    """One model with one search. `fetch` yields states of windows in the decoder's type, on its device."""

    name: str
    decoder: Decoder
    fetch: Callable[[Sequence[int]], EncoderStates]
    search: SearchOptions


@dataclass(slots=True)
class Evaluation:
    """What one contender did on a split.

    loss: teacher-forced negative log-likelihood per target token (nats). seconds: this contender's own share.
    windows: those of the split that could be decoded, one hypothesis each.
    """

    name: str
    beam_size: int
    score: CorpusScore = field(default_factory=lambda: CorpusScore(utterances=[]))
    hypotheses: list[Hypothesis] = field(default_factory=list)
    loss: float = 0.0
    seconds: float = 0.0
    windows: list[int] = field(default_factory=list)

    @property
    def loops(self) -> int:
        return sum(hypothesis.looped for hypothesis in self.hypotheses)

    @property
    def capped(self) -> int:
        return sum(not h.ended and not h.looped for h in self.hypotheses)

    def interval(self, counts: Callable[[UtteranceScore], ErrorCounts] = attrgetter("leading")) -> tuple[float, float]:
        """95 % bootstrap interval of the leading rate, or of that of other counts."""
        counted = [counts(utterance) for utterance in self.score.utterances]
        return bootstrap_interval([c.errors for c in counted], [c.num_reference for c in counted])

    def rates(self) -> str:
        """The leading rate with its interval, and the other ones, for people."""
        score, leading = self.score, self.score.leading_name
        low, high = self.interval()
        others = [
            f"{name} {percent(rate)}" for name, rate in (("WER", score.wer), ("CER", score.cer)) if name != leading
        ]
        interval = f"normalised, 95 %: {100 * low:.1f} to {100 * high:.1f}"
        return f"{leading} {percent(score.leading)} ({interval}), {', '.join(others)}"

    def summary(self) -> dict[str, Any]:
        """The figures of metrics.jsonl and summary.json; fractions."""
        return {
            "wer": self.score.wer,
            "cer": self.score.cer,
            "wer_raw": self.score.wer_raw,
            "cer_raw": self.score.cer_raw,
            "wer_interval": list(self.interval(attrgetter("words"))),
            "cer_interval": list(self.interval(attrgetter("characters"))),
            "leading": self.score.leading_name,
            "leading_rate": self.score.leading,
            "loss": self.loss,
            "loops": self.loops,
            "capped": self.capped,
            "utterances": len(self.hypotheses),
            "beam_size": self.beam_size,
            "seconds": round(self.seconds, 3),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row an utterance, as in hypotheses.jsonl."""
        return [
            {
                "id": score.id,
                "reference": score.reference,
                "hypothesis": score.hypothesis,
                "wer": score.words.rate,
                "cer": score.characters.rate,
                "word_errors": score.words.errors,
                "words": score.words.num_reference,
                "character_errors": score.characters.errors,
                "characters": score.characters.num_reference,
                "leads_with_cer": score.leads_with_cer,
                "log_prob": round(hypothesis.log_prob, 4),
                "ended": hypothesis.ended,
                "looped": hypothesis.looped,
            }
            for score, hypothesis in zip(self.score.utterances, self.hypotheses, strict=True)
        ]


@torch.inference_mode()
def teacher_forced_nll(decoder: Decoder, prefilled: Prefill, targets: Sequence[Target], pad_id: int) -> float:
    """Summed negative log-likelihood of the target tokens of these B windows."""
    order = list(range(len(targets)))
    if len(order) > LOSS_ROWS:
        order.sort(key=lambda row: -len(targets[row].input_ids))
    total = 0.0
    for first in range(0, len(order), LOSS_ROWS):
        rows = order[first : first + LOSS_ROWS]
        input_ids, labels = collate_targets([targets[row] for row in rows], pad_id)
        part = prefilled if len(rows) == len(order) else prefilled.select(rows)
        hidden = decoder.read(send(input_ids, prefilled.hidden.device), part.empty_cache())
        total += float(summed_nll(decoder, hidden, labels))
    return total


def _chunks(split: Split, frames: FrameOptions) -> Iterator[list[int]]:
    """Windows whose states are held at once, the longest first."""
    order = split.longest_first()
    begin = 0
    while begin < len(order):
        most_frames = len(select_frames(split.num_samples[order[begin]], frames).positions)
        end = begin + max(1, min(CHUNK_WINDOWS, CHUNK_FRAMES // most_frames))
        yield order[begin:end]
        begin = end


def evaluate_split(
    split: Split,
    systems: Sequence[System],
    tokenizer: Tokenizer,
    rules: LogitRules,
    *,
    pad_id: int,
    frames: FrameOptions,
    max_tokens: Sequence[int],
    cut_loops: bool,
    advance: Callable[[int], None],
) -> list[Evaluation]:
    """Decode and score a split with each contender; windows whose audio can't be decoded are left out for all.

    Contenders that share a `fetch` share its states; those that share a decoder too, what it makes of them and its
    loss. advance: called with 1 for each window and contender.
    """
    evaluations = [Evaluation(c.name, c.search.beam_size) for c in systems]
    found: list[dict[int, Hypothesis]] = [{} for _ in systems]
    for chunk in _chunks(split, frames):
        chunk, fetched, seconds = _fetched(chunk, systems, advance)
        if not chunk:
            continue
        targets = [split.targets[i] for i in chunk]
        prompts = [target.input_ids[: target.prompt_length] for target in targets]
        of_decoder: tuple[Decoder, PrefilledWindows, float] | None = None  # the latest alone: they take much memory
        for number, (system, evaluation, results) in enumerate(zip(systems, evaluations, found, strict=True), 1):
            started = time.perf_counter() - seconds.pop(id(system.fetch), 0.0)
            decoder = system.decoder
            if of_decoder is None or of_decoder[0] is not decoder:
                of_decoder = None
                at_once = max(rows_at_once(c.search) for c in systems if c.decoder is decoder)
                prefilled = prefill_windows(decoder, fetched[id(system.fetch)], prompts, at_once)
                loss = sum(teacher_forced_nll(decoder, b, [targets[i] for i in rows], pad_id) for rows, b in prefilled)
                of_decoder = decoder, prefilled, loss
            _, prefilled, loss = of_decoder
            hypotheses = search_windows(
                decoder, prefilled, rules, tokenizer.eot, [max_tokens[i] for i in chunk], system.search,
                last=all(later.decoder is not decoder for later in systems[number:]), cut_loops=cut_loops,
            )  # fmt: skip
            results.update(zip(chunk, hypotheses, strict=True))
            evaluation.loss += loss
            evaluation.seconds += time.perf_counter() - started
            advance(len(chunk))
    for evaluation, results in zip(evaluations, found, strict=True):
        evaluation.windows = sorted(results)
        evaluation.loss /= max(1, _num_tokens(split, evaluation.windows))
        evaluation.hypotheses = [results[i] for i in evaluation.windows]
        evaluation.score = _score(split, evaluation, tokenizer)
    return evaluations


def _fetched(
    chunk: Sequence[int], systems: Sequence[System], advance: Callable[[int], None]
) -> tuple[list[int], dict[int, EncoderStates], dict[int, float]]:
    """Those windows of a chunk that can be decoded; their states, and the seconds they took, by `id` of the fetch."""
    fetched: dict[int, EncoderStates] = {}
    seconds: dict[int, float] = {}
    for fetch in (system.fetch for system in systems):
        if id(fetch) not in fetched:
            started = time.perf_counter()
            fetched[id(fetch)] = fetch(chunk)
            seconds[id(fetch)] = time.perf_counter() - started
    missing = {row for states in fetched.values() for row in states.unreadable}
    if not missing:
        return list(chunk), fetched, seconds
    advance(len(missing) * len(systems))
    there = [row for row in range(len(chunk)) if row not in missing]
    states = {key: of_all.select(there) for key, of_all in fetched.items()} if there else {}
    return [chunk[row] for row in there], states, seconds


def _num_tokens(split: Split, windows: Sequence[int]) -> int:
    return sum(split.targets[i].num_target_tokens for i in windows)


def _score(split: Split, found: Evaluation, tokenizer: Tokenizer) -> CorpusScore:
    windows, languages = [split.windows[i] for i in found.windows], split.text_languages
    return score_corpus(
        [window.id for window in windows],
        [window.text for window in windows],
        [tokenizer.decode(hypothesis.tokens).strip() for hypothesis in found.hypotheses],
        [languages[i] for i in found.windows],
    )


def evaluate_together(
    processes: Processes,
    split: Split,
    systems: Sequence[System],
    tokenizer: Tokenizer,
    rules: LogitRules,
    *,
    max_tokens: Sequence[int],
    advance: Callable[[int], None],
    **options: Any,
) -> list[Evaluation]:
    """`evaluate_split` with the windows dealt to all processes by their length; the main one scores them all.

    Every process returns the same. seconds: of the process that took the longest.
    """
    if processes.world_size == 1:
        return evaluate_split(split, systems, tokenizer, rules, max_tokens=max_tokens, advance=advance, **options)
    shares = balance([samples + SAMPLES_A_WINDOW for samples in split.num_samples], processes.world_size)
    mine = sorted(shares[processes.rank])
    part = split.part(mine)
    fetches = {id(c.fetch): partial(_fetch_part, c.fetch, mine) for c in systems}
    pace = Pace(advance, len(mine) * len(systems), len(split.windows) * len(systems))

    def decode() -> list[Evaluation]:
        if not mine:
            return [Evaluation(c.name, c.search.beam_size) for c in systems]
        here = [replace(system, fetch=fetches[id(system.fetch)]) for system in systems]
        caps = [max_tokens[i] for i in mine]
        return evaluate_split(part, here, tokenizer, rules, max_tokens=caps, advance=pace, **options)

    found = processes.share(decode)
    return processes.from_main(lambda: [_merged(split, parts, shares, tokenizer) for parts in zip(*found, strict=True)])


def _fetch_part(
    fetch: Callable[[Sequence[int]], EncoderStates], part: Sequence[int], indices: Sequence[int]
) -> EncoderStates:
    return fetch([part[index] for index in indices])


def _merged(
    split: Split, parts: Sequence[Evaluation], shares: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> Evaluation:
    """One contender's evaluation of the whole split from those of its shares."""
    merged = Evaluation(parts[0].name, parts[0].beam_size, seconds=max(part.seconds for part in parts))
    hypotheses: dict[int, Hypothesis] = {}
    num_tokens = []
    for part, share in zip(parts, shares, strict=True):
        mine = sorted(share)
        windows = [mine[place] for place in part.windows]
        hypotheses.update(zip(windows, part.hypotheses, strict=True))
        num_tokens.append(_num_tokens(split, windows))
    merged.loss = sum(part.loss * n for part, n in zip(parts, num_tokens, strict=True)) / max(1, sum(num_tokens))
    merged.windows = sorted(hypotheses)
    merged.hypotheses = [hypotheses[index] for index in merged.windows]
    merged.score = _score(split, merged, tokenizer)
    return merged
