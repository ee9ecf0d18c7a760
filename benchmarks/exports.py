"""Does an exported model transcribe what its source does? Every format in the program that it is written for.

    python benchmarks/exports.py --model runs/demo --manifest examples/italian-prompts/test.csv --language it

Prints a Markdown table with two lines an export. `same computation`: the search is greedy, at temperature 0,
without fallback, thresholds or timestamps, with the model's own suppressed tokens, on clips padded with silence to
30 s, as whispertune's own (greedy, dense, float32). `by default`: the program's own settings, except for the
language, on the clip as it is. Same transcripts are the same letter for letter; word error rates are normalised,
with 95 % intervals over clips; the difference is that of a paired bootstrap over the same clips. `--only
ctranslate2:int8 ggml` picks rows, in this order; `--keep FOLDER` keeps transcripts there as they are made and reads
them instead of making them again, so that a table can be made in several sittings. Needs the `ctranslate2` and
`benchmarks` extras; rows whose program is missing are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from whispertune.checkpoints.checkpoint import Checkpoint, load_checkpoint
from whispertune.checkpoints.runtimes import BY_DEFAULT, PACKAGES, require_runtime
from whispertune.commands.export import read_clips, write
from whispertune.commands.export_options import ExportOptions
from whispertune.data.readers.manifest import read_manifest
from whispertune.errors import WhispertuneError
from whispertune.evaluation.verification import (
    Clip,
    difference,
    our_transcripts,
    scored,
    their_transcripts,
)
from whispertune.system.files import write_text

ROWS = [
    *("huggingface:float32", "openai:float32", "openai:float16"),
    *("ctranslate2:float32", "ctranslate2:float16", "ctranslate2:int8", "ggml:float32", "ggml:float16"),
]
PART = 23
"""Clips that are transcribed, and kept, at a time."""


def kept(file: Path | None, belongs_to: list[str], make: Callable[[], list[str]]) -> tuple[list[str], float]:
    """Transcripts and the seconds they took: those in `file` if they are of the same model and clips."""
    if file is not None and file.exists():
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["of"] == belongs_to:
            return content["transcripts"], content["seconds"]
    started = time.perf_counter()
    transcripts = make()
    seconds = time.perf_counter() - started
    if file is not None:
        content = {"of": belongs_to, "seconds": seconds, "transcripts": transcripts}
        write_text(file, json.dumps(content, ensure_ascii=False, indent=1))
    return transcripts, seconds


def run(folder: Path, kind: str, checkpoint: Checkpoint, by_default: bool, clips: list[Clip]) -> list[str]:
    return their_transcripts(kind, folder, checkpoint, clips, "transcribe", by_default=by_default)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--manifest", default="examples/italian-prompts/test.csv")
    parser.add_argument("--language", default="it")
    parser.add_argument("--clips", type=int, help="only so many, spread over the manifest (default: all)")
    parser.add_argument("--only", nargs="+", metavar="FORMAT[:QUANTIZATION]", help="only these rows")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep and reuse transcripts here")
    given = parser.parse_args()
    rows = [row for wanted in given.only or ROWS for row in ROWS if wanted in (row, row.split(":")[0])]
    if not rows:
        parser.error(f"--only names none of {', '.join(ROWS)}")
    utterances = read_manifest(Path(given.manifest))
    count = min(given.clips or len(utterances), len(utterances))
    checkpoint = load_checkpoint(given.model)
    shared = {"model": given.model, "output": "", "data": given.manifest, "clips": count, "language": given.language}
    clips = read_clips(ExportOptions(to="huggingface", **shared), [], checkpoint)
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)

    def in_parts(row: str, of: list[str], transcribe: Callable[[list[Clip]], list[str]]) -> tuple[list[str], float]:
        transcripts: list[str] = []
        total = 0.0
        for start in range(0, count, PART):
            part = clips[start : start + PART]
            file = None if given.keep is None else given.keep / f"{row.replace(':', '-')}-{start}.json"
            made, seconds = kept(file, [*of, *(clip.name for clip in part)], partial(transcribe, part))
            transcripts += made
            total += seconds
        return transcripts, total

    ours, seconds = in_parts(
        "source", [checkpoint.digest], lambda part: our_transcripts(checkpoint, part, "transcribe")
    )
    source = scored(clips, ours, "transcribe")
    print(
        f"{given.model}, {given.manifest}, {count} clips; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n"
        "| export | program | run | same transcripts | WER, % (95 %) | minus the source's, points (95 %) | seconds |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| (source) | whispertune | | | {source.rate_with_interval()} | | {seconds:.0f} |",
        flush=True,
    )
    for row in rows:
        to, quantization = row.split(":")
        options = ExportOptions(to=to, quantization=quantization, **shared)  # type: ignore[arg-type]
        package = PACKAGES[to][1]
        found = {}
        try:
            require_runtime(to)
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), checkpoint, options)
                for by_default in (False, True):
                    transcribe = partial(run, Path(folder), to, checkpoint, by_default)
                    of = [checkpoint.digest, version(package)]
                    found[by_default] = in_parts(f"{row}{'-by-default' * by_default}", of, transcribe)
        except WhispertuneError as error:
            print(f"| {row} | {error} | | – | – | – | – |", flush=True)
        for by_default, (theirs, seconds) in found.items():
            same = sum(a == b for a, b in zip(ours, theirs, strict=True))
            score = scored(clips, theirs, "transcribe")
            print(
                f"| {row} | {package} {version(package)} | {'by default' if by_default else 'same computation'} "
                f"| {same} of {count} ({100 * same / count:.1f} %) | {score.rate_with_interval()} "
                f"| {difference(source, score)} | {seconds:.0f} |",
                flush=True,
            )
    print("\nBy default:\n")
    for kind in dict.fromkeys(row.split(":")[0] for row in rows):
        print(f"- {PACKAGES[kind][1]}, {BY_DEFAULT[kind]}")


if __name__ == "__main__":
    main()
