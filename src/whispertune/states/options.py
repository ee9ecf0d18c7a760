"""Where encoder states are kept, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from whispertune.system.fields import Bounds, Options
from whispertune.system.home import cache_folder, expand_home


def default_folder() -> Path:
    """~/.cache/whispertune/states, or where XDG_CACHE_HOME says."""
    return cache_folder() / "states"


@dataclass(frozen=True, kw_only=True)
class StateOptions(Options):
    """Caching encoder states that stay the same: those of a frozen encoder, for clean audio and stored views of it."""

    store: Literal["auto", "memory", "disk", "off"] = "auto"
    """Where to keep encoder states. `disk` encodes them once and keeps them for later runs with the same model, audio
    and frames; `memory` keeps them for this run; `off` encodes them at each use. `auto` is disk if they fit there,
    otherwise memory, otherwise off."""

    folder: str | None = None
    """Folder of the cache on disk; by default whispertune/states in XDG_CACHE_HOME or ~/.cache. Delete the folder to
    empty the cache."""

    max_gb: Annotated[float, Bounds(gt=0)] = 20.0
    """Size limit of the cache in GB; least recently used entries are evicted first, never one in use."""

    verify: bool = False
    """Identify audio files by their content, not by path, size and modification time."""

    @property
    def path(self) -> Path:
        """The folder."""
        return default_folder() if self.folder is None else expand_home(self.folder)

    @property
    def max_bytes(self) -> int:
        return int(min(self.max_gb, 1e9) * 1e9)
