"""The text files beside the weights in every exported folder: nothing of the model's behaviour is lost with them."""

from __future__ import annotations

from pathlib import Path

from whispertune.checkpoints.layout import Checkpoint
from whispertune.checkpoints.tokenizer_files import as_json

NAMES = ("tokenizer.json", "generation_config.json", "preprocessor_config.json")


def write_side_files(folder: Path, checkpoint: Checkpoint) -> None:
    """Tokenizer, generation settings (language, task, suppressed tokens, alignment heads) and spectrogram."""
    texts = (checkpoint.tokenizer_json, as_json(checkpoint.generation), as_json(checkpoint.preprocessor))
    for name, text in zip(NAMES, texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
