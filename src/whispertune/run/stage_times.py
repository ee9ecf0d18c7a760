"""The time and memory of each stage of a run: RUN/stages.jsonl, which a resumed run continues."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from whispertune.training.pace import peak_memory_gb


class StageTimes:
    """Rows are held back until the file is opened."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._held: list[dict[str, Any]] = []

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Add a row with what the block took, also if it was interrupted: seconds, and peak memory so far."""
        began = time.perf_counter()
        try:
            yield
        finally:
            memory = peak_memory_gb(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            seconds = round(time.perf_counter() - began, 1)
            self._held.append({"stage": stage, "seconds": seconds, "memory_gb": memory})
            self._write()

    def open(self, path: Path) -> None:
        """Append all rows to this file."""
        self._path = path
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:  # no result depends on it
            file.writelines(json.dumps(row) + "\n" for row in self._held)
        self._held = []
