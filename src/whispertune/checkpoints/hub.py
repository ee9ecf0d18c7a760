"""Download a model folder from the Hugging Face Hub into its cache."""

from __future__ import annotations

import re
from pathlib import Path

from whispertune.errors import CheckpointError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL_FILES = (
    *("config.json", "adapter_config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json"),
)
SAFETENSORS = ("model.safetensors", "model-0*.safetensors", "model.safetensors.index.json")
# In order of preference, as a repository often has the same weights in several formats.
_WEIGHTS = (
    SAFETENSORS,
    ("pytorch_model.bin", "pytorch_model-0*.bin", "pytorch_model.bin.index.json", "model.bin"),
    ("adapter_model.safetensors", "adapter_model.bin"),
)


def looks_like_id(model: str) -> bool:
    """Whether `model` has the form `owner/name`."""
    return _ID.fullmatch(model) is not None


def fetch(model: str) -> Path:
    """The folder with the files of the Hub repository `model`, downloaded unless they are in the cache.

    Raises CheckpointError if it does not exist, is not accessible, or the Hub can't be reached.
    """
    import huggingface_hub  # here, as it is slow to import and most runs don't need it

    try:
        for weights in _WEIGHTS:
            folder = Path(huggingface_hub.snapshot_download(model, allow_patterns=[*_SMALL_FILES, *weights]))
            if any(path for pattern in weights for path in folder.glob(pattern)):
                return folder
    # The client raises its own errors, OSError, ValueError, and those of its HTTP library, which varies.
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise CheckpointError(
            f"{model}: there is no such folder, and fetching it from the Hugging Face Hub failed ({reason})"
        ) from error
    raise CheckpointError(f"{model}: the Hub repository holds no model.safetensors, pytorch_model.bin or model.bin")
