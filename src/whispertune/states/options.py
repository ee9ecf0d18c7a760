"""Where encoder states are kept, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whispertune.errors import RecipeError
from whispertune.system.home import cache_folder, expand_home


def default_folder() -> Path:
    """~/.cache/whispertune/states, or where XDG_CACHE_HOME says."""
    return cache_folder() / "states"


@dataclass(frozen=True, kw_only=True)
class StateOptions:
    """Keeping encoder states that stay the same: of a frozen encoder, for clean audio and stored augmented views."""

    store: Literal["auto", "memory", "disk", "off"] = "auto"
    """`disk` encodes them once and keeps them for later runs with the same model, audio and frames too; `memory`
    keeps them for this run; `off` encodes them at each use. `auto`: disk if they fit there, else memory, else off."""

    folder: str | None = None
    """Where `disk` keeps them (default: whispertune/states in XDG_CACHE_HOME or ~/.cache). Remove it to empty it."""

    max_gb: float = 20.0
    """How large that folder may grow, GB: what was not used for longest is dropped first, what a run uses never."""

    verify: bool = False
    """Recognise audio files by their content; else by path, size and time of last change."""

    def __post_init__(self) -> None:
        if not self.max_gb > 0:
            raise RecipeError(f"is {self.max_gb}; it must be above 0", field="states.max_gb")

    @property
    def path(self) -> Path:
        """The folder."""
        return default_folder() if self.folder is None else expand_home(self.folder)

    @property
    def max_bytes(self) -> int:
        return int(min(self.max_gb, 1e9) * 1e9)
