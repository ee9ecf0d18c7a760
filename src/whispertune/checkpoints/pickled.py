"""Read files written by `torch.save` that hold only tensors, numbers and text; no code in them is ever run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from whispertune.errors import CheckpointError


def load_pickled(path: Path) -> Any:
    """The content of `path`, on the CPU. Raises CheckpointError if it can't be read or contains code."""
    try:
        if not path.stat().st_size:
            raise CheckpointError(f"{path}: is empty; copy or download it again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: is damaged, or holds more than tensors and numbers; it was not loaded, and no code in it was run"
        ) from error
    # torch.load has no error of its own for damaged files; nearly anything may be raised, with long messages.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "").partition(". ")[0]
        raise CheckpointError(
            f"{path}: is damaged or cut short; copy or download it again ({type(error).__name__}: {reason:.120})"
        ) from error
