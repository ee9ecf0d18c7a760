"""Long recordings and timestamps: whispertune's transcribe against openai-whisper's, with the same weights.

    python benchmarks/long_form.py
    python benchmarks/long_form.py --beam-size 5                 # as both command lines search by themselves
    python benchmarks/long_form.py --recordings 5 --clips 20     # shorter recordings, sooner done
    python benchmarks/long_form.py --timestamps                  # the segments of single clips instead

Each recording is all test clips in an order of its own with random silences between (seeded), some minutes long. Both
sides: greedy or beam search at temperature 0, falling back to samples at 0.2 to 1.0 (one, or five with beams) by the
same thresholds, timestamps, previous text as prompt, language given. Ours works on all recordings side by side, from
files; theirs on one after the other (it knows no other way), from waveforms in memory. With --timestamps: each clip
alone, temperature 0 only, float32; a clip counts as the same if all its segments have the same times and text. Needs
`openai-whisper`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from common import DATA, add_common, markdown, publish

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.openai import save_openai
from whispertune.data.audio.waveforms import load_utterance, load_waveform
from whispertune.data.readers.manifest import read_manifest
from whispertune.data.utterances import Utterance
from whispertune.decoding.loading import ready_model, ready_to_decode
from whispertune.decoding.long_form import LongForm, Transcript
from whispertune.decoding.options import TEMPERATURES, FallbackOptions, LongFormOptions
from whispertune.evaluation.error_rates import score_corpus
from whispertune.features.log_mel import SAMPLE_RATE
from whispertune.system.options import PrecisionName
from whispertune.system.precision import resolve_device, resolve_precision

SHORTEST_SILENCE, LONGEST_SILENCE = 0.2, 4.0  # seconds


def recording(utterances: list[Utterance], number: int) -> tuple[np.ndarray, str]:
    """All clips in an order of its own with silences between, and what is said."""
    draws = np.random.default_rng(number)
    parts, texts = [], []
    for index in draws.permutation(len(utterances)):
        silence = draws.uniform(SHORTEST_SILENCE, LONGEST_SILENCE)
        parts += [load_utterance(utterances[index]), np.zeros(round(silence * SAMPLE_RATE), np.float32)]
        texts.append(utterances[index].text)
    return np.concatenate(parts), " ".join(texts)


def our_side(
    model: str, precision: PrecisionName, temperature: tuple[float, ...], beam_size: int = 1
) -> tuple[LongForm, str]:
    device = resolve_device("cpu")
    resolved = resolve_precision(precision, device)
    ready = ready_to_decode(ready_model(load_checkpoint(model), device, resolved.dtype))
    search = FallbackOptions(beam_size=beam_size, best_of=beam_size, temperature=temperature)
    options = LongFormOptions()
    long_form = LongForm(ready, search=search, options=options, language="it")
    return long_form, resolved.name


def their_side(model: str) -> Any:
    import whisper

    with tempfile.TemporaryDirectory() as folder:
        save_openai(Path(folder), load_checkpoint(model), torch.float32)
        return whisper.load_model(str(Path(folder) / "model.pt"), device="cpu")


def our_transcripts(long_form: LongForm, paths: list[Path]) -> list[Transcript]:
    found = dict(long_form.transcribe(paths))
    transcripts = [found[number] for number in range(len(paths))]
    read = [transcript for transcript in transcripts if isinstance(transcript, Transcript)]
    assert len(read) == len(paths)
    return read


def compare_long(given: argparse.Namespace, utterances: list[Utterance]) -> tuple[list[str], list[list[object]]]:
    with tempfile.TemporaryDirectory() as folder:
        paths, references, waveforms = [], [], []
        for number in range(given.recordings):
            waveform, reference = recording(utterances, number)
            paths.append(Path(folder) / f"{number}.flac")
            soundfile.write(paths[-1], waveform, SAMPLE_RATE)
            waveforms.append(load_waveform(paths[-1]))  # as the file holds it, in 16 bits
            references.append(reference)
        minutes = sum(map(len, waveforms)) / SAMPLE_RATE / 60
        long_form, precision = our_side(given.model, given.precision, TEMPERATURES, given.beam_size)
        started = time.perf_counter()
        ours = [transcript.text for transcript in our_transcripts(long_form, paths)]
        our_seconds = time.perf_counter() - started
    print(f"ours: {our_seconds:.1f} s for {minutes:.1f} minutes", flush=True)
    model, theirs, their_seconds = their_side(given.model), [], 0.0
    search = {} if given.beam_size == 1 else {"beam_size": given.beam_size, "best_of": given.beam_size}
    for waveform in waveforms:
        started = time.perf_counter()
        found = model.transcribe(waveform, language="it", fp16=False, temperature=TEMPERATURES, **search)
        their_seconds += time.perf_counter() - started
        theirs.append(found["text"])
        print(f"theirs: {their_seconds:.1f} s", flush=True)
    names = [str(number) for number in range(given.recordings)]
    rows: list[list[object]] = []
    for side, texts, seconds in (
        (f"whispertune ({precision})", ours, our_seconds),
        ("openai-whisper (fp32)", theirs, their_seconds),
    ):
        score = score_corpus(names, references, texts, ["it"] * len(names))
        speed = f"{60 * minutes / seconds:.1f} x"
        ratio = f"{their_seconds / seconds:.2f}"
        rows.append([side, f"{100 * score.wer:.1f} %", f"{100 * score.cer:.1f} %", f"{seconds:.1f}", speed, ratio])
    how = "greedy" if given.beam_size == 1 else f"beam {given.beam_size}"
    title = f"{given.recordings} recordings of {len(utterances)} clips, {minutes:.1f} minutes, {how}"
    return [title, "WER", "CER", "seconds", "real time", "times theirs"], rows


def compare_timestamps(given: argparse.Namespace, utterances: list[Utterance]) -> tuple[list[str], list[list[object]]]:
    long_form, precision = our_side(given.model, "fp32", (0.0,))
    started = time.perf_counter()
    ours = our_transcripts(long_form, [utterance.audio for utterance in utterances])
    our_seconds = time.perf_counter() - started
    model = their_side(given.model)
    same, their_seconds = 0, 0.0
    for utterance, transcript in zip(utterances, ours, strict=True):
        waveform = load_utterance(utterance)
        started = time.perf_counter()
        found = model.transcribe(waveform, language="it", fp16=False, temperature=0.0)
        their_seconds += time.perf_counter() - started
        theirs = [(round(s["start"], 2), round(s["end"], 2), s["text"]) for s in found["segments"] if s["text"]]
        own = [(round(s.start, 2), round(s.end, 2), s.text) for s in transcript.segments]
        same += own == theirs
        if own != theirs:
            print(f"{utterance.id}: ours {own}, theirs {theirs}", flush=True)
    share = f"{same} of {len(utterances)} ({100 * same / len(utterances):.1f} %)"
    seconds = [f"{our_seconds:.1f}", f"{their_seconds:.1f}", f"{their_seconds / our_seconds:.2f}"]
    return ["clips with the same segments", f"our seconds ({precision})", "their seconds", "ratio"], [[share, *seconds]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--recordings", type=int, default=5)
    parser.add_argument("--beam-size", type=int, default=1, help="at temperature 0, and samples above it (%(default)s)")
    parser.add_argument("--timestamps", action="store_true", help="compare the segments of single clips")
    parser.add_argument("--clips", type=int, help="only so many, spread over the split")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of our side")
    add_common(parser, "long-form")
    given = parser.parse_args()
    utterances = list(read_manifest(DATA / "test.csv"))
    if given.clips is not None:
        chosen = np.linspace(0, len(utterances) - 1, min(given.clips, len(utterances))).round().astype(int)
        utterances = [utterances[index] for index in chosen]
    header, rows = (compare_timestamps if given.timestamps else compare_long)(given, utterances)
    title = "timestamps of single clips" if given.timestamps else "long recordings"
    publish(given.table, f"{title}, against openai-whisper", [markdown(header, rows)])


if __name__ == "__main__":
    main()
