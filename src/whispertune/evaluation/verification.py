"""Does an exported model transcribe as its source does: in the same computation, and with its program's defaults?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from whispertune.checkpoints.checkpoint import Checkpoint
from whispertune.checkpoints.runtimes import BY_DEFAULT, PACKAGES, Task, open_runtime
from whispertune.decoding.loading import ready_model, ready_to_decode
from whispertune.decoding.options import GREEDY
from whispertune.decoding.transcriber import Transcriber
from whispertune.errors import ExportError
from whispertune.evaluation.error_rates import CorpusScore, compare, score_corpus
from whispertune.evaluation.significance import FEWEST_UTTERANCES
from whispertune.features.options import DENSE
from whispertune.system.console import console, progress_bar, results
from whispertune.system.counts import counted

MOST_SHOWN = 3
"""Differing transcripts that are shown of each comparison."""
MOST_CHARACTERS = 120
"""Shorter texts are shown whole; of longer ones the stretch that differs, cut to as much."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording to verify with, and the code of the language whose token it has (None: English-only model).

    text: its transcript, where that is known.
    """

    name: str
    waveform: np.ndarray
    language: str | None
    text: str | None = None


def our_transcripts(checkpoint: Checkpoint, clips: Sequence[Clip], task: str) -> list[str]:
    """Dense and greedy, in float32, one clip at a time."""
    transcriber = Transcriber(ready_to_decode(ready_model(checkpoint, torch.device("cpu"))), GREEDY, DENSE)
    prompts = [transcriber.model.tokenizer.prompt_tokens(clip.language, task) for clip in clips]
    with progress_bar("source", len(clips)) as advance:
        found = transcriber.transcribe(lambda index: clips[index].waveform, prompts, advance=advance, at_once=1)
    return [transcriber.text(hypothesis) for hypothesis in found]


def their_transcripts(
    kind: str, folder: Path, checkpoint: Checkpoint, clips: Sequence[Clip], task: str, *, by_default: bool = False
) -> list[str]:
    """By the program that the export in `folder` is for: in the same computation as ours, or with its own defaults.

    Raises:
        UserError: as `open_runtime`.
    """
    generation = checkpoint.generation
    found: dict[int, str] = {}
    with progress_bar(f"{PACKAGES[kind][1]}{', by default' if by_default else ''}", len(clips)) as advance:
        for language in dict.fromkeys(clip.language for clip in clips):
            asked = Task(language, task, generation["suppress_tokens"], generation["begin_suppress_tokens"])
            transcribe = open_runtime(kind, folder, asked, by_default=by_default)
            for index, clip in enumerate(clips):
                if clip.language == language:
                    found[index] = transcribe(clip.waveform)
                    advance(1)
    return [found[index] for index in range(len(clips))]


def scored(clips: Sequence[Clip], transcripts: Sequence[str], task: str) -> CorpusScore:
    """Score transcripts of clips whose texts are known against these texts."""
    return score_corpus(
        [clip.name for clip in clips],
        [clip.text or "" for clip in clips],
        transcripts,
        ["en" if task == "translate" else clip.language or "en" for clip in clips],
    )


def difference(source: CorpusScore, exported: CorpusScore) -> str:
    """By how many points the export's leading error rate exceeds its source's, and the 95 % interval."""
    found = compare(source, exported)
    return f"{100 * found.difference:+.2f} ({found.bounds(digits=2)})"


def verify(
    kind: str, folder: Path, checkpoint: Checkpoint, clips: Sequence[Clip], task: str, max_different: float
) -> None:
    """Compare the exported model's transcripts with the source's; the same computation decides.

    Raises:
        ExportError: if more of them differ than this share.
    """
    program = PACKAGES[kind][1]
    ours = our_transcripts(checkpoint, clips, task)
    theirs = their_transcripts(kind, folder, checkpoint, clips, task)
    different = _different(ours, theirs)
    _show(clips, different, ours, theirs, "red")
    results.print(f"the same in {program}: {len(clips) - len(different)} of {counted(len(clips), 'transcript')}")
    if len(different) > max_different * len(clips):
        raise ExportError(
            f"the {kind} export transcribes {len(different)} of {counted(len(clips), 'clip')} differently; nothing was "
            "written (--max_different allows a share of them)"
        )
    usual = their_transcripts(kind, folder, checkpoint, clips, task, by_default=True)
    different = _different(ours, usual)
    _show(clips, different, ours, usual, "yellow")
    results.print(
        f"{len(clips) - len(different)} of {len(clips)} are the same as {program} is run by default "
        f"({BY_DEFAULT[kind]}); this does not decide the export, and docs/exports.md says how to get the same"
    )
    if all(clip.text is not None for clip in clips):
        _report_rates(program, clips, task, {"source": ours, "the same computation": theirs, "by default": usual})


def _different(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    return [index for index, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]


def _show(
    clips: Sequence[Clip], different: Sequence[int], ours: Sequence[str], theirs: Sequence[str], style: str
) -> None:
    """The first of the differing transcripts, where they differ."""
    for index in different[:MOST_SHOWN]:
        source, exported = differing_stretches(ours[index], theirs[index])
        console.print(f"differs   {clips[index].name}", style=style)
        console.print(f"  source    {source!r}\n  exported  {exported!r}")
    if len(different) > MOST_SHOWN:
        console.print(f"  and {len(different) - MOST_SHOWN} more differ")


def differing_stretches(one: str, other: str) -> tuple[str, str]:
    """Two texts from the first word in which they differ to the last, with two words on either side; bounded."""
    first, second = one.split(" "), other.split(" ")
    if len(one) <= MOST_CHARACTERS and len(other) <= MOST_CHARACTERS:
        return one, other
    shorter = min(len(first), len(second))
    same = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    behind = next((i for i in range(shorter - same) if first[-1 - i] != second[-1 - i]), shorter - same)
    begin, left = max(0, same - 2), max(0, behind - 2)

    def stretch(words: list[str]) -> str:
        shown = " ".join(words[begin : len(words) - left])
        if len(shown) > MOST_CHARACTERS:
            shown = f"{shown[: MOST_CHARACTERS // 2]} … {shown[-MOST_CHARACTERS // 2 :]}"
        return f"{'… ' if begin else ''}{shown}{' …' if left else ''}"

    return stretch(first), stretch(second)


def _report_rates(program: str, clips: Sequence[Clip], task: str, transcripts: dict[str, list[str]]) -> None:
    scores = {name: scored(clips, found, task) for name, found in transcripts.items()}
    source = scores["source"]
    results.print(
        f"{source.leading_name} of {counted(len(clips), 'clip')}, normalised, with 95 % intervals over clips:"
    )
    for name, score in scores.items():
        where = "source, greedy" if score is source else f"{program}, {name}"
        against = "" if score is source else f"; against the source {difference(source, score)} points"
        results.print(f"  {where}: {score.rate_with_interval()}{against}")
    if len(clips) < FEWEST_UTTERANCES:
        results.print(
            f"  {counted(len(clips), 'clip')}: too few to compare error rates; take --clips {FEWEST_UTTERANCES} or more"
        )
