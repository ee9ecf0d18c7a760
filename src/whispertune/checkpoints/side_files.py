"""The text files beside the weights in every exported folder, which preserve the model's behaviour."""

from __future__ import annotations

from pathlib import Path

from whispertune.checkpoints.layout import Checkpoint
from whispertune.checkpoints.tokenizer_files import as_json
from whispertune.errors import CheckpointError, StorageError, WhispertuneError, is_disk_failure

NAMES = ("tokenizer.json", "generation_config.json", "preprocessor_config.json")


def not_written(folder: Path, error: OSError) -> WhispertuneError:
    """The error for a failed write into `folder`: StorageError for a full or failing disk, else CheckpointError."""
    problem = f"{folder}: the model can't be written ({error.strerror or error})"
    if is_disk_failure(error):
        return StorageError(f"{problem}; free some disk space, then run the same command again")
    return CheckpointError(problem)


def write_side_files(folder: Path, checkpoint: Checkpoint) -> None:
    """Write tokenizer, generation settings (language, task, suppressed tokens, alignment heads) and preprocessor."""
    texts = (checkpoint.tokenizer_json, as_json(checkpoint.generation), as_json(checkpoint.preprocessor))
    for name, text in zip(NAMES, texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
