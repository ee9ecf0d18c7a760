"""Recordings of any length: windows of 30 s that advance by their timestamps, several recordings side by side.

Each recording is processed exactly as by openai-whisper's `transcribe`: a window's segments end where the model says
that speech ends, the next window begins there with the previous text as its prompt, and silence is skipped. The windows
of one recording depend on each other; those of different recordings are encoded and decoded as a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch

from whispertune.decoding.alignment import SpokenTexts, TokenTimes, align_tokens
from whispertune.decoding.fallback import WindowResult, decode_with_fallback
from whispertune.decoding.language import detect_languages
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import FallbackOptions, LongFormOptions
from whispertune.decoding.segmentation import (
    MEL_FRAMES_PER_SECOND,
    MEL_FRAMES_PER_TIMESTAMP,
    Cut,
    split_window,
)
from whispertune.decoding.spectrogram import Spectrogram, padded_features
from whispertune.decoding.timestamps import TimestampRules
from whispertune.decoding.transcriber import Transcriber
from whispertune.decoding.words import Word, words_of_spans
from whispertune.errors import AudioError
from whispertune.features.log_mel import WINDOW_MEL_FRAMES
from whispertune.features.options import DENSE, FrameOptions
from whispertune.states.computed import EncoderStates, WindowFeatures

FORGET_ABOVE = 0.5
"""Text sampled at a higher temperature does not serve as a prompt for the next window."""
LEAST_BATCHES = 64
"""Batches that recordings are divided into before one has more of them than run side by side."""
OPEN_AHEAD = 2
"""Recordings that are opened ahead, while the model computes."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech. start, end: seconds; tokens: timestamps included; text: as emitted, with its leading space.

    window: where its 30 s window begins, in seconds; result: of that window. channel, speaker: the number (from 0) and
    the name of its channel, where channels are transcribed separately. words: with their times, if they were asked for;
    joined, they are the text.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    window: float
    result: WindowResult
    channel: int | None = None
    speaker: str | None = None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """One recording. duration: seconds; language_prob: None where the language was given.

    alternatives: for each window, where it begins (seconds), and text, score and log-probability of all hypotheses
    of its search, best first. channels: name and transcript of each, where they were transcribed separately.
    """

    segments: list[Segment]
    language: str
    language_prob: float | None
    duration: float
    alternatives: list[tuple[float, list[tuple[str, float | None, float]]]]
    channels: tuple[tuple[str, Transcript], ...] = ()

    @property
    def text(self) -> str:
        """The whole text in one line; with channels, one line for each turn."""
        if self.channels:
            turns = groupby(self.segments, lambda segment: segment.speaker)
            return "\n".join(f"{speaker}: {''.join(s.text for s in segments).strip()}" for speaker, segments in turns)
        return "".join(segment.text for segment in self.segments).strip()


@dataclass(slots=True)
class _RecordingState:
    """A recording in progress. seek: the frame at which its next window begins; tokens: all so far, prompt included;
    spoken: the end of the last word so far, in seconds."""

    number: int
    spectrogram: Spectrogram
    language: str | None
    language_prob: float | None = None
    seek: int = 0
    tokens: list[int] = field(default_factory=list)
    forgotten: int = 0
    spoken: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    alternatives: list[tuple[float, list[tuple[str, float | None, float]]]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.seek >= self.spectrogram.num_frames

    @property
    def seconds(self) -> int:
        """How much of it is done."""
        return int(min(self.seek, self.spectrogram.num_frames) / MEL_FRAMES_PER_SECOND)

    @property
    def num_frames(self) -> int:
        """Of the window, in the recording."""
        return min(WINDOW_MEL_FRAMES, self.spectrogram.num_frames - self.seek)

    def take(
        self,
        result: WindowResult,
        cut: Cut | None,
        times: TokenTimes | None,
        transcriber: Transcriber,
        options: LongFormOptions,
        written: str | None,
    ) -> None:
        """Add a window's segments and advance to the next window.

        cut: its spans and frames, None if it is silent. times: of its text tokens; written: its language.
        """
        if cut is None:
            self.seek += self.num_frames
            return
        begin = self.seek / MEL_FRAMES_PER_SECOND
        ranked = (result.hypothesis, *result.hypothesis.alternatives)
        self.alternatives.append((begin, [(transcriber.text(h), h.score, h.log_prob) for h in ranked]))
        tokenizer = transcriber.model.tokenizer
        spans, done = cut
        timed: list[tuple[float, float, tuple[Word, ...]]]
        timed = [(begin + span.start, begin + span.end, ()) for span in spans]
        if times is not None:
            timed = words_of_spans(spans, times, tokenizer, written, begin=begin, spoken=self.spoken)
        for span, (start, end, words) in zip(spans, timed, strict=True):
            text = tokenizer.decode(span.tokens)
            self.spoken = words[-1].end if words else self.spoken
            if text.strip() and span.start != span.end:
                if start == end:  # a single word without a duration
                    start, end = begin + span.start, begin + span.end
                self.segments.append(Segment(start, end, text, span.tokens, begin, result, words=words))
                self.tokens += span.tokens
        self.seek += done
        if not options.condition_on_previous_text or result.temperature > FORGET_ABOVE:
            self.forgotten = len(self.tokens)

    def transcript(self) -> Transcript:
        duration = self.spectrogram.duration
        return Transcript(self.segments, self.language or "", self.language_prob, duration, self.alternatives)


def batches_of(audios: Sequence[Path], seconds: Sequence[float], batch_size: int) -> list[list[int]]:
    """Recordings (their indices) that run side by side, the longest ones first; a file's channels stay together.

    A batch is what several processes share, so it does not depend on their number. Lengths within one are similar, so
    that few recordings wait for a longer one; with very many recordings a batch is longer, and refilled as they end.
    """
    order = sorted(range(len(audios)), key=lambda index: (-seconds[index], index))
    size = batch_size * max(1, len(order) // (LEAST_BATCHES * batch_size))
    batches: list[list[int]] = []
    for place, index in enumerate(order):
        if not batches or (len(batches[-1]) >= size and audios[index] != audios[order[place - 1]]):
            batches.append([])
        batches[-1].append(index)
    return [sorted(batch) for batch in batches]


class LongForm:
    """Transcribes recordings of any length with a model, on its device and in its type.

    search: of each window. language: the one spoken; None detects it in each recording's first window. token: the
    language whose token the decoder is given, if that is another one.
    """

    def __init__(
        self,
        model: ReadyModel,
        *,
        search: FallbackOptions,
        options: LongFormOptions,
        language: str | None = None,
        token: str | None = None,
        task: Literal["transcribe", "translate"] = "transcribe",
        frames: FrameOptions = DENSE,
    ) -> None:
        tokenizer = model.tokenizer
        timestamps = (
            TimestampRules(tokenizer, max_initial=options.max_initial_timestamp) if options.timestamps else None
        )
        self._transcriber = Transcriber(model, search, frames, timestamps)
        self._tokenizer, self._search, self._options = tokenizer, search, options
        self._language, self._token, self._task = language, token, task
        prompt = (options.prompt or "").strip()
        self._prompt = tokenizer.encode(f" {prompt}") if prompt else []

    def transcribe(
        self,
        audios: Sequence[Path],
        advance: Callable[[int], None] = lambda seconds: None,
        *,
        channels: Sequence[int | None] | None = None,
        batches: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[tuple[int, Transcript | AudioError]]:
        """Yield (its index in `audios`, its transcript) for each recording as it is finished, or the error if it cannot
        be read.

        channels: the channel to transcribe of each; None (the default) takes the mean of all. advance: called with the
        seconds of audio done. batches: indices of the recordings to transcribe (default: all, as one batch). Which
        recordings run side by side depends on their batch and the options alone.
        """
        n_mels = self._transcriber.model.n_mels
        batches = [range(len(audios))] if batches is None else batches
        upcoming = iter([(number, index) for number, batch in enumerate(batches) for index in batch])
        opening: deque[tuple[int, int, Future[Spectrogram]]] = deque()
        active: list[_RecordingState] = []
        current = 0
        with ThreadPoolExecutor(OPEN_AHEAD, "audio") as pool:
            while True:
                while len(active) < self._options.batch_size:
                    while len(opening) < OPEN_AHEAD and (entry := next(upcoming, None)) is not None:
                        channel = None if channels is None else channels[entry[1]]
                        opening.append((*entry, pool.submit(Spectrogram, audios[entry[1]], n_mels, channel)))
                    if not opening or (active and opening[0][0] != current):
                        break
                    current, number, future = opening.popleft()
                    try:
                        active.append(
                            _RecordingState(number, future.result(), self._language, tokens=list(self._prompt))
                        )
                    except AudioError as error:
                        yield number, error
                if not active:
                    return
                failed = self._move_on([progress for progress in active if not progress.finished], advance)
                for progress in active:
                    if progress.number in failed:
                        yield progress.number, failed[progress.number]
                    elif progress.finished:
                        yield progress.number, progress.transcript()
                active = [p for p in active if p.number not in failed and not p.finished]

    @torch.inference_mode()
    def _move_on(self, recordings: list[_RecordingState], advance: Callable[[int], None]) -> dict[int, AudioError]:
        """Decode the next window of each; returns the errors of those that cannot be read any further, by number."""
        failed: dict[int, AudioError] = {}
        features: list[WindowFeatures] = []
        working: list[_RecordingState] = []
        for progress in recordings:
            try:
                features.append(padded_features(progress.spectrogram.window(progress.seek), self._transcriber.frames))
                working.append(progress)
            except AudioError as error:
                failed[progress.number] = error
        if not working:
            return failed
        states = self._transcriber.encode(features)
        self._detect(working, states)
        prompts = [self._prompt_of(progress) for progress in working]
        results = decode_with_fallback(
            self._transcriber, states, prompts,
            [min(self._tokenizer.max_tokens // 2, self._transcriber.room(prompt)) for prompt in prompts],
            self._search, seeds=[(progress.spectrogram.num_frames, progress.seek) for progress in working],
        )  # fmt: skip
        cuts = [
            None
            if result.is_silence(self._search)
            else split_window(result.hypothesis.tokens, self._tokenizer.timestamp_begin, progress.num_frames)
            for progress, result in zip(working, results, strict=True)
        ]
        times = self._times(working, states, cuts) if self._options.word_timestamps else {}
        for row, (progress, result, cut) in enumerate(zip(working, results, cuts, strict=True)):
            before = progress.seconds
            written = "en" if self._task == "translate" else progress.language
            progress.take(result, cut, times.get(row), self._transcriber, self._options, written)
            advance(progress.seconds - before)
        return failed

    def _times(
        self, working: list[_RecordingState], states: EncoderStates, cuts: Sequence[Cut | None]
    ) -> dict[int, TokenTimes]:
        """Times of the text tokens of all segments of each window that has any, by the window's place."""
        tokenizer, texts = self._tokenizer, {}
        for row, cut in enumerate(cuts):
            spans, _ = cut or ([], 0)
            if text := [token for span in spans for token in tokenizer.text_of(span.tokens)]:
                texts[row] = text
        if not texts:
            return {}
        model, rows = self._transcriber.model, list(texts)
        spoken = SpokenTexts(
            states.select(rows), list(texts.values()),
            [tokenizer.prompt_tokens(self._token or working[row].language, self._task) for row in rows],
            [working[row].num_frames // MEL_FRAMES_PER_TIMESTAMP for row in rows],
        )  # fmt: skip
        found = align_tokens(model.whisper.decoder, tokenizer, spoken, model.alignment_heads)
        return dict(zip(rows, found, strict=True))

    def _detect(self, working: list[_RecordingState], states: EncoderStates) -> None:
        """Set the language of recordings that begin without one, as openai-whisper does.

        Here, unlike for decoding, a window that the recording does not fill is padded with silence, not with zeros.
        """
        unknown = [row for row, progress in enumerate(working) if progress.language is None]
        for row in unknown:
            progress = working[row]
            spectrogram, own = progress.spectrogram, states.select([row])
            if spectrogram.num_frames < WINDOW_MEL_FRAMES and self._tokenizer.multilingual:
                log_mel = spectrogram.window(0, beyond=True)
                features = padded_features(log_mel, self._transcriber.frames, padding=spectrogram.silence)
                own = self._transcriber.encode([features])
            decoder = self._transcriber.model.whisper.decoder
            ((progress.language, prob),) = detect_languages(decoder, own, self._tokenizer)
            progress.language_prob = prob if self._tokenizer.multilingual else None

    def _prompt_of(self, progress: _RecordingState) -> list[int]:
        """The previous text, as far as there is room, and the task's own prompt."""
        own = self._tokenizer.prompt_tokens(
            self._token or progress.language, self._task, timestamps=self._transcriber.timestamps is not None
        )
        previous = progress.tokens[progress.forgotten :][-self._tokenizer.max_previous :]
        return [self._tokenizer.sot_prev, *previous, *own] if previous else own
