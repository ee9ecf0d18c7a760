"""Decode windows until the result looks like speech: first the likeliest one, then samples at rising temperatures.

A result fails if its text compresses too well (it repeats itself) or its tokens are too unlikely; but a window that
the model takes for silence is not tried again. As in openai-whisper.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from whispertune.decoding.options import FallbackOptions
from whispertune.decoding.prefill import prefill
from whispertune.decoding.rules import Hypothesis, first_loop
from whispertune.decoding.sampling import sample_search
from whispertune.decoding.transcriber import Transcriber
from whispertune.states.computed import EncoderStates


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The result of one window. mean_log_prob: per token (end of text counted), before division by `temperature`."""

    hypothesis: Hypothesis
    text: str
    temperature: float
    mean_log_prob: float
    compression_ratio: float
    no_speech_prob: float

    def failed(self, options: FallbackOptions) -> bool:
        """Whether the next temperature is tried."""
        if self.hypothesis.looped:
            return True
        repeats = options.compression_ratio_threshold is not None and (
            self.compression_ratio > options.compression_ratio_threshold
        )
        unlikely = options.logprob_threshold is not None and self.mean_log_prob < options.logprob_threshold
        silent = options.no_speech_threshold is not None and self.no_speech_prob > options.no_speech_threshold
        return (repeats or unlikely) and not (silent and unlikely)

    def is_silence(self, options: FallbackOptions) -> bool:
        """Whether the window is skipped as silence: it is probably no speech, and the result is unlikely."""
        if options.no_speech_threshold is None or self.no_speech_prob <= options.no_speech_threshold:
            return False
        return options.logprob_threshold is None or self.mean_log_prob <= options.logprob_threshold


def compression_ratio(text: str) -> float:
    """Size of a text over its size compressed by zlib, in bytes: above 2.4 a text repeats itself."""
    content = text.encode("utf-8", errors="surrogatepass")
    return len(content) / len(zlib.compress(content))


def decode_with_fallback(
    transcriber: Transcriber,
    states: EncoderStates,
    prompts: Sequence[Sequence[int]],
    max_tokens: Sequence[int],
    options: FallbackOptions,
    *,
    seeds: Sequence[Sequence[int]],
) -> list[WindowResult]:
    """The result of each of B windows. The transcriber's own search is used at temperature 0.

    prompts: B token lists of any lengths, previous text included, which ask for timestamps if the transcriber has
    their grammar. seeds: B, from which, with `options.seed`, a window's samples are drawn, so that neither the batch
    nor the order of files changes them.
    """
    model, timestamps = transcriber.model, transcriber.timestamps
    decoder, tokenizer = model.whisper.decoder, model.tokenizer
    prefilled = prefill(decoder, states, prompts, sot=tokenizer.sot, no_speech=tokenizer.no_speech)
    if timestamps is None:  # as the thresholds expect; the grammar of timestamps renormalises by itself
        model = replace(model, rules=model.rules.renormalised())
    transcriber = replace(transcriber, model=model, cut_loops=options.repetition_guard)
    results: dict[int, WindowResult] = {}
    pending = list(range(len(prompts)))
    for number, temperature in enumerate(options.temperatures):
        part = prefilled if len(pending) == len(prompts) else prefilled.select(pending)
        bounds = [max_tokens[row] for row in pending]
        if temperature > 0:
            found = sample_search(
                decoder, part, model.rules, tokenizer.eot, bounds, temperature=temperature,
                seeds=[(options.seed, *seeds[row], number) for row in pending], best_of=options.best_of,
                cut_loops=options.repetition_guard, timestamps=timestamps,
            )  # fmt: skip
        else:
            found = transcriber.search_batch(part, bounds)
        for row, hypothesis in zip(pending, found, strict=True):
            if options.repetition_guard:
                hypothesis = _without_loop(hypothesis)
            text = transcriber.text(hypothesis)
            results[row] = WindowResult(
                hypothesis, text, temperature, hypothesis.mean_log_prob, compression_ratio(text),
                prefilled.no_speech_probs[row],
            )  # fmt: skip
        pending = [row for row in pending if results[row].failed(options)]
        if not pending:
            break
    return [results[row] for row in range(len(prompts))]


def _without_loop(hypothesis: Hypothesis) -> Hypothesis:
    """A hypothesis up to where it begins to repeat itself: beam search does not look for loops as it goes."""
    kept = first_loop(hypothesis.tokens)
    if kept is None:
        return hypothesis
    cut = hypothesis.cut + len(hypothesis.tokens) - kept
    return replace(hypothesis, tokens=hypothesis.tokens[:kept], looped=True, cut=cut)
