"""whispertune export: write a model for the programs that run Whisper, and see that they transcribe alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from whispertune.checkpoints.checkpoint import Checkpoint, load_checkpoint
from whispertune.checkpoints.ctranslate2_write import require_ctranslate2, save_ctranslate2
from whispertune.checkpoints.export_mark import contents, held_source, not_exported, write_mark
from whispertune.checkpoints.generation import own_language
from whispertune.checkpoints.ggml import save_ggml
from whispertune.checkpoints.huggingface import MAX_SHARD_BYTES, save_huggingface
from whispertune.checkpoints.layout import expected_shapes
from whispertune.checkpoints.openai import save_openai
from whispertune.checkpoints.peft import copy_adapter, find_adapter
from whispertune.checkpoints.runtimes import PACKAGES, require_runtime
from whispertune.commands.export_hub import CARD, share
from whispertune.commands.export_options import ExportOptions
from whispertune.data.audio.recording import TooLongError
from whispertune.data.audio.waveforms import SAMPLE_RATE, load_utterance
from whispertune.data.sources import read_rows
from whispertune.data.utterances import Utterance
from whispertune.dataset.transcripts import TextSettings
from whispertune.decoding.loading import require_whispers_vocabulary, tokenizer_of
from whispertune.errors import AudioError, DataError, RecipeError, RunFolderError
from whispertune.evaluation.verification import Clip, verify
from whispertune.features.log_mel import WINDOW_SAMPLES
from whispertune.run.flags import parse_fields
from whispertune.system.console import console, progress_bar, results
from whispertune.system.files import make_writable, recover_folder, replacing_folder
from whispertune.system.home import expand_home

_OPENS = {
    "huggingface": "transformers: pipeline('automatic-speech-recognition', model='{}')",
    "ctranslate2": "faster-whisper: WhisperModel('{}')",
    "ggml": "whisper.cpp: whisper-cli --model {}/ggml-model.bin",
    "openai": "openai-whisper: whisper.load_model('{}/model.pt')",
    "peft": "peft: PeftModel.from_pretrained(BASE, '{}')",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune export ARGUMENTS`."""
    flags, audio = take_verify(arguments)
    options = parse_fields(ExportOptions, {}, flags, command="export")
    check_verify(options, audio)
    if options.repository is not None:
        share(options, partial(prepared, options, audio), card_of(options.model))
        return 0
    assert options.output is not None  # required for every format
    output = Path(options.output).resolve()  # `.` has no name that a folder beside it could be called after
    is_here = output == Path.cwd()
    recover_folder(output)  # so that what a killed export left is checked, too
    check_output(output, options)
    before = contents(output)
    fill: Callable[[Path], None]
    if options.to == "peft":
        fill = partial(copy_adapter, find_adapter(options.model), base=options.base)
    else:
        _, fill = prepared(options, audio)
    with replacing_folder(output) as folder:
        fill(folder)
        if options.to != "peft" and (card := card_of(options.model)) is not None:
            (folder / CARD).write_bytes(card)
        write_mark(folder, model=options.model, to=options.to, quantization=options.stored)
        if contents(output) != before:
            raise RunFolderError(
                f"--output: {output} was written to during the export; nothing was replaced: choose another folder"
            )
    size = sum(file.stat().st_size for file in output.iterdir())
    results.print(f"{options.to}, {options.stored}, {size / 1e6:.0f} MB: {output}")
    results.print(_OPENS[options.to].format(output))
    if is_here:
        console.print("note      the folder you are in was replaced by a new one: cd into it again", style="yellow")
    return 0


def prepared(options: ExportOptions, audio: list[str] | None) -> tuple[Checkpoint, Callable[[Path], None]]:
    """Read model and clips; the model, and what writes it into an empty folder and verifies it there."""
    if options.format == "ctranslate2":
        require_ctranslate2()
    if audio is not None:
        require_runtime(options.format)
    console.print(f"reading   {options.model}")
    tokenizer = None if options.tokenizer is None else expand_home(options.tokenizer)
    checkpoint = load_checkpoint(options.model, tokenizer, options.base)
    if options.format != "huggingface":
        require_whispers_vocabulary(checkpoint, PACKAGES[options.format][1])
    clips = [] if audio is None else read_clips(options, audio, checkpoint)

    def fill(folder: Path) -> None:
        write(folder, checkpoint, options)
        if clips:
            verify(options.format, folder, checkpoint, clips, options.task, options.max_different)

    return checkpoint, fill


def take_verify(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The other flags, and the files after `--verify`: the only flag that takes any number of values."""
    if "--verify" not in arguments:
        return list(arguments), None
    at = arguments.index("--verify")
    end = next((i for i in range(at + 1, len(arguments)) if arguments[i].startswith("--")), len(arguments))
    return [*arguments[:at], *arguments[end:]], list(arguments[at + 1 : end])


def check_verify(options: ExportOptions, audio: list[str] | None) -> None:
    """Refuse --verify without clips, and its fields without --verify."""
    if audio is None:
        for name in ("data", "clips", "language", "language_token", "task", "max_different"):
            if getattr(options, name) != getattr(ExportOptions, name):
                raise RecipeError(f"--{name} only says how to --verify; add --verify, or leave it out")
    elif options.to == "peft":
        raise RecipeError("--verify is for whole models; verify the same model with --to huggingface")
    elif not audio and options.data is None:
        raise RecipeError("--verify needs something to transcribe: name audio files after it, or --data MANIFEST")
    elif audio and options.data is not None:
        raise RecipeError("--verify has audio files and --data; give only one of them")


def check_output(output: Path, options: ExportOptions) -> None:
    """Refuse a folder whose replacement would lose something, and one that cannot be written."""
    sources = [expand_home(given) for given in (options.model, options.base, options.tokenizer) if given]
    if (held := held_source(output, sources)) is not None:
        raise RunFolderError(f"--output: {output} holds the model to be exported ({held}); choose another folder")
    if output.is_dir() and (strange := not_exported(output)) is not None:
        raise RunFolderError(
            f"--output: {output} holds something other than an export ({strange} is not as `whispertune export` left "
            "it); choose another folder, or move this one away"
        )
    created = not output.exists()
    make_writable(output)
    if created:
        output.rmdir()


def card_of(model: str) -> bytes | None:
    """The README of a model's folder, or of a run's best/, which goes with each export."""
    folder = expand_home(model)
    folder = folder / "best" if (folder / "best").is_dir() and not (folder / "config.json").exists() else folder
    try:
        return (folder / CARD).read_bytes()
    except OSError:
        return None


def write(folder: Path, checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Write the model into an empty folder."""
    console.print(f"writing   {options.format}, {options.stored}")
    dtype = {"float16": torch.float16}.get(options.stored, torch.float32)
    match options.format:
        case "huggingface":
            language = own_language(checkpoint.generation)
            task = checkpoint.generation.get("task") or "transcribe"
            limit = MAX_SHARD_BYTES if options.max_shard_gb is None else int(options.max_shard_gb * 1e9)
            save_huggingface(
                folder, checkpoint, checkpoint.weights,
                language=language, task=task, model_card=None, max_shard_bytes=limit,
            )  # fmt: skip
        case "ctranslate2":
            save_ctranslate2(folder, checkpoint, options.stored)
        case "ggml":
            if options.stored == "float32":
                console.print(
                    "note      whisper.cpp since 1.5 aborts on float32 convolutions; float16 runs in every version",
                    style="yellow",
                )
            with progress_bar("writing tensors", len(expected_shapes(checkpoint.config))) as advance:
                save_ggml(folder, checkpoint, dtype, advance)
        case "openai":
            save_openai(folder, checkpoint, dtype)


def read_clips(options: ExportOptions, audio: list[str], checkpoint: Checkpoint) -> list[Clip]:
    """The clips to transcribe.

    Raises:
        UserError: if a file or row cannot be used, or a multilingual model is given no language.
    """
    multilingual, tokenizer = checkpoint.generation["is_multilingual"], tokenizer_of(checkpoint)
    spoken = options.language or own_language(checkpoint.generation)
    settings = TextSettings(tokenizer, spoken, options.task, language_token=options.language_token)
    if options.data is None:
        for name in audio:
            if not Path(name).is_file():
                raise AudioError(f"--verify {name}: no such file; check the path")
        found = [Utterance(id=name, audio=Path(name), text="") for name in audio]
    else:
        rows = read_rows("data", options.data)
        chosen = np.linspace(0, len(rows) - 1, min(options.clips, len(rows))).round().astype(int)
        found = [rows[i] for i in chosen.tolist()]
    clips = []
    for utterance in found:
        if multilingual and not (utterance.language or spoken):
            raise RecipeError("--verify needs the language spoken in the clips: add --language")
        try:
            waveform = load_utterance(utterance, max_samples=WINDOW_SAMPLES)
        except TooLongError as error:
            seconds = error.num_samples / SAMPLE_RATE
            raise DataError(f"{utterance.id}: lasts {seconds:.1f} s; --verify takes clips of at most 30 s") from None
        text = None if options.data is None else utterance.text
        token = settings.token_language(utterance) if multilingual else None
        clips.append(Clip(utterance.id, waveform, token, text))
    return clips
