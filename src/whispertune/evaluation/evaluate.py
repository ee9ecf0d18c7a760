"""Decode a split and score it, for validation, the final test and `evaluate`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from whispertune.dataset.splits import Split
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.prefill import Prefill
from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.transcriber import Transcriber
from whispertune.evaluation.error_rates import CorpusScore, score_corpus
from whispertune.evaluation.options import ValidationOptions
from whispertune.features.frames import select_frames
from whispertune.features.options import FrameOptions
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates
from whispertune.system.console import percent
from whispertune.system.precision import send
from whispertune.system.processes import ALONE, Pace, Processes, balance
from whispertune.text.targets import MAX_TOKENS, Target, collate_targets

CHUNK_FRAMES = 8_000
"""Kept frames, and at most `CHUNK_WINDOWS` windows, whose states are held at once while decoding."""
CHUNK_WINDOWS = 32
LOSS_ROWS = 8
"""Windows whose transcripts the decoder reads at once, for the loss."""
SPARE_TOKENS = 10
"""Tokens that a hypothesis may have beyond its rate."""
SAMPLES_A_WINDOW = 24_000
"""Cost of decoding a window in addition to its own length, in samples."""


def token_caps(split: Split, options: ValidationOptions | None, max_tokens: int = MAX_TOKENS) -> list[int]:
    """Tokens after which each window's hypothesis is stopped; without options only the decoder's own bound.

    max_tokens: that bound, prompt included, where it is below Whisper's 448.
    """
    most = min(MAX_TOKENS, max_tokens)
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
    """A model and the searches that it is scored with: they share what its decoder makes of a window, and its loss."""

    name: str
    model: ReadyModel
    searches: Sequence[SearchOptions]


@dataclass(frozen=True, slots=True)
class SharedStates:
    """The source of the encoder states of a split's windows, and the systems that decode them.

    fetch: yields the states of windows (their indices in the split), in the decoders' type and on their device.
    """

    fetch: Callable[[Sequence[int]], EncoderStates]
    systems: Sequence[System]


@dataclass(frozen=True)
class Evaluation:
    """The result of one search of a system on a split.

    loss: teacher-forced negative log-likelihood per target token (nats). seconds: its own share of the time; of several
    processes, that of the slowest. windows: those of the split that could be decoded, one hypothesis each.
    clips: what `Split.clip` knows about each of them.
    """

    name: str
    beam_size: int
    score: CorpusScore = field(default_factory=lambda: CorpusScore(utterances=[]))
    hypotheses: Sequence[Hypothesis] = ()
    loss: float = 0.0
    seconds: float = 0.0
    windows: Sequence[int] = ()
    clips: Sequence[dict[str, Any]] = ()

    @property
    def loops(self) -> int:
        """Hypotheses that the search stopped because they repeated themselves."""
        return sum(hypothesis.looped for hypothesis in self.hypotheses)

    @property
    def capped(self) -> int:
        """Hypotheses that were stopped by the bound on their tokens."""
        return sum(hypothesis.capped for hypothesis in self.hypotheses)

    @cached_property
    def repeating(self) -> list[int]:
        """Places of the hypotheses that repeat themselves, cut there or not; those with most errors first."""
        places = [place for place, hypothesis in enumerate(self.hypotheses) if hypothesis.repeats]
        return sorted(places, key=lambda place: -self.score.utterances[place].leading.errors)

    def rates(self) -> str:
        """The leading rate with its interval, and the other ones, for people."""
        score, leading = self.score, self.score.leading_name
        low, high = score.interval()
        others = [
            f"{name} {percent(rate)}" for name, rate in (("WER", score.wer), ("CER", score.cer)) if name != leading
        ]
        over = "" if score.groups is None else " over speakers"
        interval = f"normalised, 95 %{over}: {100 * low:.1f} to {100 * high:.1f}"
        return f"{leading} {percent(score.leading)} ({interval}), {', '.join(others)}"

    def summary(self) -> dict[str, Any]:
        """The figures of metrics.jsonl and summary.json; fractions."""
        return {
            "wer": self.score.wer,
            "cer": self.score.cer,
            "wer_raw": self.score.wer_raw,
            "cer_raw": self.score.cer_raw,
            "wer_interval": list(self.score.interval("words")),
            "cer_interval": list(self.score.interval("characters")),
            "intervals_over": self.score.intervals_over,
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
        """One row for each utterance, as in hypotheses.jsonl."""
        return [
            {
                "id": score.id,
                "reference": score.reference,
                "hypothesis": score.hypothesis,
                "reference_normalized": score.reference_normalized,
                "hypothesis_normalized": score.hypothesis_normalized,
                "wer": score.words.rate,
                "cer": score.characters.rate,
                "word_errors": score.words.errors,
                "words": score.words.num_reference,
                "character_errors": score.characters.errors,
                "characters": score.characters.num_reference,
                "leads_with_cer": score.leads_with_cer,
                "log_prob": round(hypothesis.log_prob, 4),
                "confidence": round(math.exp(hypothesis.mean_log_prob), 4),
                "ended": hypothesis.ended,
                "looped": hypothesis.looped,
                "repeats": hypothesis.repeats,
                **clip,
            }
            for score, hypothesis, clip in zip(
                self.score.utterances, self.hypotheses, self.clips or [{}] * len(self.hypotheses), strict=True
            )
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
    """Yield the windows whose states are held at once, the longest windows first."""
    order = split.longest_first()
    begin = 0
    while begin < len(order):
        most_frames = len(select_frames(split.num_samples[order[begin]], frames).positions)
        end = begin + max(1, min(CHUNK_WINDOWS, CHUNK_FRAMES // most_frames))
        yield order[begin:end]
        begin = end


def evaluate_split(
    split: Split,
    shared: Sequence[SharedStates],
    *,
    frames: FrameOptions,
    max_tokens: Sequence[int],
    cut_loops: bool,
    advance: Callable[[int], None],
    processes: Processes = ALONE,
) -> list[Evaluation]:
    """Decode and score a split with each search of each system, in their order.

    Windows whose audio cannot be decoded are left out for all. Several processes share the windows by their length, the
    main one scores them all, and every process returns the same. frames: of the states. max_tokens: for each window.
    cut_loops: whether greedy search stops a hypothesis that repeats itself. advance: called with 1 for each window and
    search.
    """
    costs = [samples + SAMPLES_A_WINDOW for samples in split.num_samples]
    shares = [sorted(share) for share in balance(costs, processes.world_size)]
    mine = shares[processes.rank]
    part = split if processes.world_size == 1 else split.part(mine)
    here = [replace(source, fetch=partial(_fetch_part, source.fetch, mine)) for source in shared]
    searched = [(system, search) for source in shared for system in source.systems for search in system.searches]
    pace = Pace(advance, len(mine) * len(searched), len(split.windows) * len(searched))
    caps = [max_tokens[i] for i in mine]
    decoded = processes.share(partial(_decode, part, here, frames, caps, cut_loops, pace))

    def score() -> list[Evaluation]:
        return [
            _score(split, system, search, shares, results)
            for (system, search), *results in zip(searched, *decoded, strict=True)
        ]

    return processes.from_main(score)


def _fetch_part(
    fetch: Callable[[Sequence[int]], EncoderStates], part: Sequence[int], indices: Sequence[int]
) -> EncoderStates:
    return fetch([part[index] for index in indices])


@dataclass(slots=True)
class _Decoded:
    """The outputs of one search for some windows of a split. hypotheses: by window; loss: their sum (nats)."""

    hypotheses: dict[int, Hypothesis] = field(default_factory=dict)
    loss: float = 0.0
    seconds: float = 0.0


def _decode(
    split: Split,
    shared: Sequence[SharedStates],
    frames: FrameOptions,
    max_tokens: Sequence[int],
    cut_loops: bool,
    advance: Callable[[int], None],
) -> list[_Decoded]:
    """Decode all windows of a split with each search of each system."""
    nested = [[[_Decoded() for _ in system.searches] for system in source.systems] for source in shared]
    every = [decoded for systems in nested for searches in systems for decoded in searches]
    for chunk in _chunks(split, frames):
        fetched: list[EncoderStates] = []
        for source, systems in zip(shared, nested, strict=True):
            started = time.perf_counter()
            fetched.append(source.fetch(chunk))
            systems[0][0].seconds += time.perf_counter() - started
        missing = {row for states in fetched for row in states.unreadable}
        if missing:
            advance(len(missing) * len(every))
            readable = [row for row in range(len(chunk)) if row not in missing]
            if not readable:
                continue
            chunk = [chunk[row] for row in readable]
            fetched = [states.select(readable) for states in fetched]
        for source, systems, states in zip(shared, nested, fetched, strict=True):
            for system, decoded in zip(source.systems, systems, strict=True):
                _decode_chunk(split, chunk, states, system, decoded, max_tokens, cut_loops, advance)
    return every


def _decode_chunk(
    split: Split,
    chunk: Sequence[int],
    states: EncoderStates,
    system: System,
    decoded: Sequence[_Decoded],
    max_tokens: Sequence[int],
    cut_loops: bool,
    advance: Callable[[int], None],
) -> None:
    """Decode these windows with each search of one system; its prefilled prompts take much memory until it returns."""
    started = time.perf_counter()
    targets = [split.targets[i] for i in chunk]
    prompts = [target.input_ids[: target.prompt_length] for target in targets]
    transcribers = [Transcriber(system.model, search, cut_loops=cut_loops) for search in system.searches]
    widest = min(transcribers, key=lambda transcriber: transcriber.search.beam_size)
    prefilled = widest.prefill(states, prompts)
    decoder, pad_id = system.model.whisper.decoder, system.model.checkpoint.pad_token_id
    loss = sum(teacher_forced_nll(decoder, batch, [targets[i] for i in rows], pad_id) for rows, batch in prefilled)
    for transcriber, found in zip(transcribers, decoded, strict=True):
        hypotheses = transcriber.search_windows(
            prefilled, [max_tokens[i] for i in chunk], last=transcriber is transcribers[-1]
        )
        found.hypotheses.update(zip(chunk, hypotheses, strict=True))
        found.loss += loss
        found.seconds += time.perf_counter() - started
        advance(len(chunk))
        started = time.perf_counter()


def _score(
    split: Split, system: System, search: SearchOptions, shares: Sequence[Sequence[int]], decoded: Sequence[_Decoded]
) -> Evaluation:
    """One search's evaluation of the whole split, from what it found in each process's share."""
    hypotheses = {
        share[place]: hypothesis
        for share, part in zip(shares, decoded, strict=True)
        for place, hypothesis in part.hypotheses.items()
    }
    windows, languages = sorted(hypotheses), split.text_languages
    text = Transcriber(system.model, search).text
    clips = [split.clip(i, languages[i]) for i in windows]
    score = score_corpus(
        [split.windows[i].id for i in windows],
        [split.windows[i].text for i in windows],
        [text(hypotheses[i]) for i in windows],
        [languages[i] for i in windows],
        [clip.get("speaker") for clip in clips],
    )
    num_tokens = sum(split.targets[i].num_target_tokens for i in windows)
    return Evaluation(
        name=system.name,
        beam_size=search.beam_size,
        score=score,
        hypotheses=[hypotheses[i] for i in windows],
        loss=sum(part.loss for part in decoded) / max(1, num_tokens),
        seconds=max(part.seconds for part in decoded),
        windows=windows,
        clips=clips,
    )
