"""Windows decoded until the result looks like speech: first the likeliest, then samples at rising temperatures.

A result fails if its text compresses too well (it repeats itself) or its tokens are too unlikely; but a window that
the model takes for silence is left as it is. As openai-whisper does.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from whispertune.decoding.beam import beam_search
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.options import FallbackOptions
from whispertune.decoding.prefill import prefill
from whispertune.decoding.rules import Hypothesis, LogitRules, first_loop
from whispertune.decoding.sampling import sample_search
from whispertune.decoding.timestamps import TimestampRules
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates
from whispertune.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What one window came to. mean_log_prob: per token, end of text counted, at `temperature` 1."""

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
        """Whether the window is passed over: probably no speech, and the result is not likely either."""
        if options.no_speech_threshold is None or self.no_speech_prob <= options.no_speech_threshold:
            return False
        return options.logprob_threshold is None or self.mean_log_prob <= options.logprob_threshold


def compression_ratio(text: str) -> float:
    """Bytes of a text over those that zlib makes of it: above 2.4 it repeats itself."""
    content = text.encode("utf-8", errors="surrogatepass")
    return len(content) / len(zlib.compress(content))


def decode_with_fallback(
    decoder: Decoder,
    states: EncoderStates,
    prompts: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    rules: LogitRules,
    max_tokens: Sequence[int],
    options: FallbackOptions,
    *,
    seeds: Sequence[Sequence[int]],
    timestamps: TimestampRules | None,
) -> list[WindowResult]:
    """The result of each of B windows.

    prompts: B token lists of any lengths, previous text included, for text with or without timestamps as `timestamps`
    says. seeds: B, what a window's samples follow from beside `options.seed`, so that neither the batch nor the
    order of files changes them.
    """
    prefilled = prefill(decoder, states, prompts, sot=tokenizer.sot, no_speech=tokenizer.no_speech)
    if timestamps is None:  # with them, their own rules see to it: the thresholds are for these log-probabilities
        rules = rules.renormalised()
    results: dict[int, WindowResult] = {}
    pending = list(range(len(prompts)))
    for number, temperature in enumerate(options.temperature):
        part = prefilled if len(pending) == len(prompts) else prefilled.select(pending)
        arguments = (decoder, part, rules, tokenizer.eot, [max_tokens[row] for row in pending])
        if temperature > 0:
            draws = [(options.seed, *seeds[row], number) for row in pending]
            found = sample_search(
                *arguments, temperature=temperature, seeds=draws, best_of=options.best_of,
                cut_loops=options.repetition_guard, timestamps=timestamps,
            )  # fmt: skip
        elif options.beam_size == 1:
            found = greedy_search(*arguments, cut_loops=options.repetition_guard, timestamps=timestamps)
        else:
            found = beam_search(
                *arguments, beam_size=options.beam_size, length_penalty=options.length_penalty,
                patience=options.patience, timestamps=timestamps,
            )  # fmt: skip
        for row, hypothesis in zip(pending, found, strict=True):
            results[row] = _result(hypothesis, tokenizer, temperature, prefilled.no_speech_probs[row], options)
        pending = [row for row in pending if results[row].failed(options)]
        if not pending:
            break
    return [results[row] for row in range(len(prompts))]


def _result(
    hypothesis: Hypothesis, tokenizer: Tokenizer, temperature: float, no_speech_prob: float, options: FallbackOptions
) -> WindowResult:
    # Beam search does not look for loops as it goes.
    if options.repetition_guard and (kept := first_loop(hypothesis.tokens)) is not None:
        cut = hypothesis.cut + len(hypothesis.tokens) - kept
        hypothesis = replace(hypothesis, tokens=hypothesis.tokens[:kept], looped=True, cut=cut)
    text = tokenizer.decode(hypothesis.tokens).strip()
    return WindowResult(
        hypothesis=hypothesis,
        text=text,
        temperature=temperature,
        mean_log_prob=hypothesis.mean_log_prob,
        compression_ratio=compression_ratio(text),
        no_speech_prob=no_speech_prob,
    )
