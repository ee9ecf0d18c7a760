"""Decode a split and score it, for validation, the final test and `evaluate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

from whispertune.dataset.splits import Split
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.transcriber import Transcriber
from whispertune.evaluation.decode import Decoded, Room, SharedStates, System, chunks_of, decode_split
from whispertune.evaluation.error_rates import CorpusScore, score_corpus
from whispertune.evaluation.groups import by_group, source_names
from whispertune.evaluation.options import ValidationOptions
from whispertune.features.options import FrameOptions
from whispertune.states.computed import EncoderStates, StateSource
from whispertune.system.console import percent
from whispertune.system.lazy import Anew
from whispertune.system.processes import ALONE, Pace, Processes, balance
from whispertune.text.targets import MAX_TOKENS

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

    @cached_property
    def groups(self) -> dict[str, dict[str, CorpusScore]]:
        """The scores by source and by language, where there are several."""
        found = {key: by_group(self.score, self.clips, key) for key in ("source", "language")}
        return {key: groups for key, groups in found.items() if groups}

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


def evaluate_split(
    split: Split,
    shared: Sequence[SharedStates],
    *,
    frames: FrameOptions,
    max_tokens: Sequence[int],
    cut_loops: bool,
    advance: Callable[[int], None],
    processes: Processes = ALONE,
    whole_chunks: bool = False,
) -> list[Evaluation]:
    """Decode and score a split with each search of each system, in their order.

    Windows whose audio cannot be decoded are left out for all. Several processes share the windows by their length, the
    main one scores them all, and every process returns the same. frames: of the states. max_tokens: for each window.
    cut_loops: whether greedy search stops a hypothesis that repeats itself. advance: called with 1 for each window and
    search. whole_chunks: whether windows that one process would decode together stay together, so that rounding is the
    same, too; otherwise the shares are more even.
    """
    units: Sequence[Sequence[int]] = [[index] for index in range(len(split.windows))]
    if whole_chunks and processes.world_size > 1:
        decoder = shared[0].systems[0].model.whisper.decoder
        units = processes.from_main(lambda: list(chunks_of(split, frames, decoder, Room())))
    costs = [sum(split.num_samples[index] + SAMPLES_A_WINDOW for index in unit) for unit in units]
    # Each share's windows, sorted again by their length, fall into the same chunks: only the last of all is not full.
    shares = [sorted(chain.from_iterable(units[n] for n in share)) for share in balance(costs, processes.world_size)]
    mine = shares[processes.rank]
    part = split if processes.world_size == 1 else split.part(mine)
    here = [replace(each, source=_Part(each.source, mine)) for each in shared]
    searched = [(system, search) for each in shared for system in each.systems for search in system.searches]
    pace = Pace(advance, len(mine) * len(searched), len(split.windows) * len(searched))
    caps = [max_tokens[i] for i in mine]
    decoded = processes.share(partial(decode_split, part, here, frames, caps, cut_loops, pace))

    def score() -> list[Evaluation]:
        return [
            _score(split, system, search, shares, results)
            for (system, search), *results in zip(searched, *decoded, strict=True)
        ]

    return processes.from_main(score)


@dataclass(frozen=True, slots=True)
class _Part:
    """The states of some of a source's windows."""

    source: StateSource
    windows: Sequence[int]

    def prepare(self, batches: Iterable[Sequence[int]], view: int) -> None:
        self.source.prepare(Anew(lambda: ([self.windows[i] for i in batch] for batch in batches)), view)

    def fetch(self, indices: Sequence[int], view: int) -> EncoderStates:
        return self.source.fetch([self.windows[i] for i in indices], view)


def _score(
    split: Split, system: System, search: SearchOptions, shares: Sequence[Sequence[int]], decoded: Sequence[Decoded]
) -> Evaluation:
    """One search's evaluation of the whole split, from what it found in each process's share."""
    hypotheses = {
        share[place]: hypothesis
        for share, part in zip(shares, decoded, strict=True)
        for place, hypothesis in part.hypotheses.items()
    }
    losses = {
        share[place]: loss for share, part in zip(shares, decoded, strict=True) for place, loss in part.losses.items()
    }
    windows, languages = sorted(hypotheses), split.text_languages
    text = Transcriber(system.model, search).text
    clips = [split.clip(i, languages[i]) for i in windows]
    sources = [split.windows[i].utterances[0].source for i in windows]
    if len(set(sources)) > 1:
        clips = [{**clip, "source": name} for clip, name in zip(clips, source_names(sources), strict=True)]
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
        loss=sum(losses[i] for i in split.longest_first() if i in losses) / max(1, num_tokens),
        seconds=max(part.seconds for part in decoded),
        windows=windows,
        clips=clips,
    )
