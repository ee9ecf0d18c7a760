"""Fine-tune a pretrained Whisper on your own speech; in Python with `train`, `load`, … of `whispertune.api`."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Model", "Run", "__version__", "load", "split_corpus", "train"]


def __getattr__(name: str) -> Any:
    """The API is imported when it is used: `whispertune --help` needs none of it."""
    if name in ("Model", "Run", "load", "split_corpus", "train"):
        import importlib

        return getattr(importlib.import_module("whispertune.api"), name)
    raise AttributeError(f"module 'whispertune' has no attribute {name!r}")
