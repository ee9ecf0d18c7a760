"""Checks of each clip's audio, which is decoded once and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from whispertune.check.findings import Finding
from whispertune.check.measures import Measures, log_frequencies, measure
from whispertune.data.audio.recording import TooLongError
from whispertune.data.audio.waveforms import content_key, load_utterance
from whispertune.data.utterances import Utterance
from whispertune.errors import AudioError
from whispertune.features.log_mel import SAMPLE_RATE, WINDOW_SAMPLES
from whispertune.system.processes import ALONE, Pace, Processes

SILENT_DB = -60.0
"""Peak in dB of full scale below which a clip is silent: 33 steps of 16 bits."""
QUIET_DB = -30.0
CLIPPED_SHARE = 0.003
"""Share of samples at the peak. 542 good clips had at most 0.001; clipped at two thirds of their peak, 0.002 to
0.09."""
NOISE_SPREAD_DB = 2.45
NOISY_SPREAD_DB = 2.9
"""Thresholds of `Measures.shape_spread`. White, pink and brown noise, hum and pulsating noise measured 1.6 to 2.4, 542
clips of speech 4.9 to 11.1, speech in white noise of equal level 2.3 to 2.9. Music, babble and knocks vary like
speech and are not detected."""
SHORTEST = 0.1
"""Seconds; about the length of the shortest words."""
CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """Measures of n rows; rows whose audio could not be read have zeros, and False in `readable`.

    keys: (n, 2), equal for equal samples. spectra: (n, F) dB. fingerprints: (n, 32) bytes. The others as in `Measures`.
    """

    readable: npt.NDArray[np.bool_]
    seconds: npt.NDArray[np.float32]
    speech: npt.NDArray[np.float32]
    pitch: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]
    spectra: npt.NDArray[np.float16]
    fingerprints: npt.NDArray[np.uint8]


def check_audio(
    rows: Sequence[Utterance],
    *,
    workers: int = 2,
    advance: Callable[[int], None] = lambda _: None,
    processes: Processes = ALONE,
) -> tuple[list[Finding], AudioFacts]:
    """Findings and facts about the audio of these rows; each of several processes decodes its share of them."""
    world_size, own = processes.world_size, rows[processes.rank :: processes.world_size]
    parts = processes.share(lambda: _check_share(own, workers, Pace(advance, len(own), len(rows))))
    if world_size == 1:
        return parts[0]
    arrays = []
    for name in (field.name for field in fields(AudioFacts)):
        of_parts = [getattr(facts, name) for _, facts in parts]
        whole = np.zeros((len(rows), *of_parts[0].shape[1:]), of_parts[0].dtype)
        for rank, part in enumerate(of_parts):
            whole[rank::world_size] = part
        arrays.append(whole)
    findings = [
        replace(finding, row=rank + world_size * finding.row)
        for rank, (found, _) in enumerate(parts)
        for finding in found
    ]
    return sorted(findings, key=lambda finding: finding.row), AudioFacts(*arrays)


def _check_share(
    rows: Sequence[Utterance], workers: int, advance: Callable[[int], None]
) -> tuple[list[Finding], AudioFacts]:
    size = len(rows)
    facts = AudioFacts(
        np.zeros(size, bool), np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32),
        np.zeros((size, 2), np.uint64), np.zeros((size, len(log_frequencies())), np.float16),
        np.zeros((size, 32), np.uint8),
    )  # fmt: skip
    findings: list[Finding] = []
    with ThreadPoolExecutor(workers, "audio") as pool:
        for begin in range(0, size, CHUNK_ROWS):  # in chunks, so that not all results wait in the queue
            for row, found in enumerate(pool.map(_inspect, rows[begin : begin + CHUNK_ROWS]), start=begin):
                advance(1)
                if isinstance(found, str):
                    findings.append(Finding(row, "unreadable_audio", found))
                    continue
                measures, key = found
                facts.readable[row] = True
                facts.seconds[row], facts.speech[row] = measures.seconds, measures.speech
                facts.pitch[row], facts.keys[row] = measures.pitch, key
                facts.spectra[row] = measures.spectrum
                facts.fingerprints[row] = np.frombuffer(measures.fingerprint, np.uint8)
                findings += (Finding(row, kind, detail) for kind, detail in judge(measures))
    return findings, facts


def _inspect(utterance: Utterance) -> str | tuple[Measures, npt.NDArray[np.uint64]]:
    """Measures and key of the samples, or why the audio can't be read."""
    seconds, longer = None, 0
    try:
        try:
            waveform = load_utterance(utterance, max_samples=WINDOW_SAMPLES)
        except TooLongError as error:  # measure only the first 30 s
            seconds, longer = error.num_samples / SAMPLE_RATE, error.num_samples
            waveform = load_utterance(replace(utterance, end=utterance.start + WINDOW_SAMPLES / SAMPLE_RATE))
    except AudioError as error:
        return str(error)
    measures = measure(waveform)
    if seconds is not None:
        measures.seconds = seconds
    key = np.frombuffer(bytes.fromhex(content_key(waveform)), np.uint64)
    return measures, key + np.uint64(longer)  # recordings of equal length and start count as the same


def judge(measures: Measures) -> Iterator[tuple[str, str]]:
    """Yield (kind, detail) of the findings about a single clip."""
    if measures.seconds > WINDOW_SAMPLES / SAMPLE_RATE:
        yield "too_long", f"lasts {measures.seconds:.1f} s; cut it, with start and end columns"
    if measures.seconds < SHORTEST:
        yield "too_short", f"lasts {measures.seconds:.2f} s"
        return
    if measures.peak < SILENT_DB:
        yield "silence", f"its peak is {measures.peak:.0f} dB of full scale"
        return
    if measures.shape_spread < NOISE_SPREAD_DB:
        yield "noise", f"its spectrum does not change ({measures.shape_spread:.1f} dB; speech: 5 or more)"
        return
    if measures.shape_spread < NOISY_SPREAD_DB:
        yield "noisy", f"its spectrum hardly changes ({measures.shape_spread:.1f} dB; clean speech: 5 or more)"
    if measures.peak < QUIET_DB:
        yield "quiet", f"its peak is {measures.peak:.0f} dB of full scale"
    elif measures.clipped > CLIPPED_SHARE:
        yield "clipped", f"{100 * measures.clipped:.1f} % of its samples are at the peak"
