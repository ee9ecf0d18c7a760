"""What a run ran on, and the fingerprints of what it ran with."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import soundfile
import torch

import whispertune

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "soundfile", "soxr", "jiwer", "whisper-normalizer")


def sha256_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_environment(seed: int, model_sha256: str, manifests: dict[str, Path]) -> dict[str, Any]:
    """The content of environment.json."""
    return {
        "whispertune": whispertune.__version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "libsndfile": soundfile.__libsndfile_version__,
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "seed": seed,
        "sha256": {"model": model_sha256, **{name: sha256_of(path) for name, path in manifests.items()}},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
