"""Long form: recordings of minutes, the data's own or its clips joined, transcribed from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from whispertune.data.audio.waveforms import load_utterance, probe_audio
from whispertune.data.utterances import Utterance
from whispertune.dataset.splits import Split
from whispertune.dataset.transcripts import TextSettings
from whispertune.decoding.long_form import LongForm, batches_of
from whispertune.decoding.options import FallbackOptions, LongFormOptions
from whispertune.decoding.transcriber import Transcriber
from whispertune.errors import AudioError
from whispertune.evaluation.error_rates import CorpusScore, score_corpus
from whispertune.features.log_mel import SAMPLE_RATE
from whispertune.system.processes import ALONE, Pace, Processes
from whispertune.text.languages import WRITTEN_WITHOUT_SPACES

SILENCES = (0.5, 4.0)
"""Seconds before each clip: shortest, longest."""
LEAST_COVERED = 0.5
"""Share of one of the data's own recordings that rows must cover: what lies between them is then taken for pauses."""
LONGEST_SECONDS = 600.0
"""Of a recording that is made of clips."""


@dataclass(frozen=True, slots=True)
class LongRecording:
    """One long recording: a file of its own (`audio`), or clips with a silence (seconds) before each."""

    id: str
    language: str
    task: str | None
    utterances: tuple[Utterance, ...]
    seconds: float
    audio: Path | None = None
    silences: tuple[float, ...] = ()

    @property
    def text_language(self) -> str:
        """The language that its text is in."""
        return "en" if self.task == "translate" else self.language

    @property
    def reference(self) -> str:
        """The text of all its utterances."""
        return " ".join(utterance.text for utterance in self.utterances if utterance.text)


Transcribe = Callable[[Sequence[Path], str, str | None, Callable[[int], None]], Sequence[str]]
"""(files, language, task, advance) -> the text of each; advance is called with the seconds of audio done."""


def long_form_of(transcriber: Transcriber, text: TextSettings) -> Transcribe:
    """Transcription as `whispertune transcribe` does it, temperature fallback and previous text included."""

    def transcribe(
        files: Sequence[Path], language: str, task: str | None, advance: Callable[[int], None]
    ) -> Sequence[str]:
        search, wanted = FallbackOptions(**asdict(transcriber.search)), task or text.task
        long_form = LongForm(
            transcriber.model, search=search, options=LongFormOptions(), language=language,
            token=text.token_for(language), task="translate" if wanted == "translate" else "transcribe",
            frames=transcriber.frames,
        )  # fmt: skip
        texts = [""] * len(files)
        for number, found in long_form.transcribe(files, advance):
            if isinstance(found, AudioError):
                raise found
            # Segments stay separate words, even if the model was not trained to begin them with a space.
            gap = "" if text.written_in(language, task) in WRITTEN_WITHOUT_SPACES else " "
            texts[number] = gap.join(segment.text.strip() for segment in found.segments)
        return texts

    return transcribe


@dataclass(frozen=True, slots=True)
class LongFormResult:
    """Recordings and their scores. own: whether they are the data's own recordings."""

    recordings: list[LongRecording]
    score: CorpusScore

    @property
    def own(self) -> bool:
        return self.recordings[0].audio is not None

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "recordings": len(self.recordings),
            "own_recordings": self.own,
            "seconds": sum(recording.seconds for recording in self.recordings),
            "wer": self.score.wer,
            "cer": self.score.cer,
            "texts": [
                {"id": one.id, "reference": one.reference, "hypothesis": one.hypothesis, "wer": one.words.rate}
                for one in self.score.utterances
            ],
        }


def long_recordings(split: Split, seed: int) -> list[LongRecording]:
    """The recordings that a split's rows are segments of, if all rows are and if they cover most of each recording;
    else its clips, joined in random order.

    Raises:
        AudioError: if the length of an own recording cannot be read.
    """
    return _own_recordings(split) or _joined_clips(split, seed)


def _own_recordings(split: Split) -> list[LongRecording]:
    groups: dict[tuple[Path, str, str | None], list[Utterance]] = {}
    for window, language in zip(split.windows, split.languages, strict=True):
        utterance = window.utterances[0]
        if utterance.end is None or utterance.within is not None or utterance.channel is not None:
            return []
        groups.setdefault((utterance.audio, language, utterance.task or split.task), []).append(utterance)
    if len(groups) == len(split.windows) or len({audio for audio, *_ in groups}) < len(groups):
        return []  # one clip per file; or several languages in one file
    found = []
    for (audio, language, task), members in groups.items():
        num_frames, rate = probe_audio(audio)
        ordered = tuple(sorted(members, key=lambda utterance: utterance.start))
        if sum((u.end or 0.0) - u.start for u in ordered) < LEAST_COVERED * num_frames / rate:
            return []  # what is said elsewhere in it would count as insertions
        found.append(LongRecording(str(audio), language, task, ordered, num_frames / rate, audio))
    return found


def _joined_clips(split: Split, seed: int) -> list[LongRecording]:
    generator = np.random.Generator(np.random.PCG64(seed))
    groups: dict[tuple[str, str | None], list[int]] = {}
    for index in generator.permutation(len(split.windows)).tolist():
        kind = split.languages[index], split.windows[index].utterances[0].task or split.task
        groups.setdefault(kind, []).append(index)
    found: list[LongRecording] = []

    def finish(kind: tuple[str, str | None], members: list[tuple[int, float]], seconds: float) -> None:
        utterances = tuple(split.windows[index].utterances[0] for index, _ in members)
        silences = tuple(silence for _, silence in members)
        found.append(LongRecording(f"joined-{len(found)}", *kind, utterances, seconds, None, silences))

    for kind, indices in groups.items():
        members: list[tuple[int, float]] = []
        seconds = 0.0
        for index in indices:
            silence = float(generator.uniform(*SILENCES))
            more = silence + split.num_samples[index] / SAMPLE_RATE
            if members and seconds + more > LONGEST_SECONDS:
                finish(kind, members, seconds)
                members, seconds = [], 0.0
            members.append((index, silence))
            seconds += more
        finish(kind, members, seconds)
    return found


def measure_long_form(
    recordings: Sequence[LongRecording],
    transcribe: Transcribe,
    advance: Callable[[int], None],
    processes: Processes = ALONE,
) -> LongFormResult:
    """Transcribe recordings and score each as one text; joined clips are written to a temporary folder meanwhile.

    Several processes share the recordings, and all get the result.

    Raises:
        AudioError: if a clip cannot be read.
    """
    batches: list[list[LongRecording]] = []
    for kind in dict.fromkeys((recording.language, recording.task) for recording in recordings):
        members = [recording for recording in recordings if (recording.language, recording.task) == kind]
        audios, seconds = [Path(one.id) for one in members], [one.seconds for one in members]
        found = batches_of(audios, seconds, LongFormOptions().batch_size)
        batches += [[members[place] for place in batch] for batch in found]
    costs = [sum(recording.seconds for recording in batch) for batch in batches]
    with TemporaryDirectory(prefix="whispertune-") as folder:

        def work(own: Sequence[int]) -> Iterator[Sequence[str]]:
            pace = Pace(advance, int(sum(costs[number] for number in own)), int(sum(costs)))
            for batch in (batches[number] for number in own):
                files = [_file(recording, Path(folder)) for recording in batch]
                yield transcribe(files, batch[0].language, batch[0].task, pace)

        said = chain.from_iterable(processes.divide(costs, work))
    texts = {recording.id: text for recording, text in zip(chain.from_iterable(batches), said, strict=True)}
    score = score_corpus(
        [recording.id for recording in recordings],
        [recording.reference for recording in recordings],
        [texts[recording.id] for recording in recordings],
        [recording.text_language for recording in recordings],
    )
    return LongFormResult(list(recordings), score)


def _file(recording: LongRecording, folder: Path) -> Path:
    if recording.audio is not None:
        return recording.audio
    path = folder / f"{recording.id}.wav"
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, channels=1, subtype="FLOAT") as file:
        for part in joined_waveform(recording):
            file.write(part)
    return path


def joined_waveform(recording: LongRecording) -> Iterator[np.ndarray]:
    """The waveform of joined clips in parts (num_samples,), float32 at 16 kHz: a silence and a clip in turn."""
    for utterance, silence in zip(recording.utterances, recording.silences, strict=True):
        yield np.zeros(round(silence * SAMPLE_RATE), np.float32)
        yield load_utterance(utterance)
