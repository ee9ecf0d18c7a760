"""Where a run keeps the encoder states that stay the same, and how many augmented views it stores."""

from __future__ import annotations

from typing import Literal

from whispertune.errors import RecipeError
from whispertune.model.config import WhisperConfig
from whispertune.states.cache import free_bytes, room_for, unused_bytes
from whispertune.states.options import StateOptions
from whispertune.system.environment import free_memory

FRESH_EPOCHS = 4
"""Runs of so many epochs draw fresh views: stored ones would hardly be used twice."""
FEWEST_VIEWS = 4
ENCODING_SHARE = 0.5
"""Encoding stored views may cost so much of what training costs."""

Storage = Literal["memory", "disk", "off"]


def choose_place(options: StateOptions, num_bytes: int, processes: int = 1) -> tuple[Storage, str]:
    """Where states of this size are kept, and why, in words; in memory each process has its own.

    Raises:
        RecipeError: if the disk is asked for, and states.max_gb or the disk itself has no room for them.
    """
    megabytes = f"{num_bytes / 1e6:.0f} MB"
    if options.store == "disk":
        _require_room(options, num_bytes)
        return "disk", f"{megabytes} in {options.path}, as asked"
    if options.store != "auto":
        return options.store, f"{megabytes}, as asked"
    try:
        disk, memory = free_bytes(options.path), free_memory()
        if room_for(options.path, num_bytes, options.max_bytes):
            return "disk", f"{megabytes} in {options.path} ({disk / 1e9:.1f} GB free): later runs read them there"
        reason = f"{disk / 1e9:.1f} GB free in {options.path}, of which stores may take {options.max_gb:g} GB"
    except OSError as error:
        memory, reason = free_memory(), f"{options.path} cannot be read: {error.strerror}"
    except RecipeError as error:  # no home folder
        if options.folder is not None:
            raise
        memory, reason = free_memory(), str(error)
    if num_bytes * processes <= memory // 2:
        return "memory", f"{megabytes}, and no room on disk ({reason})"
    return "off", f"{megabytes} fit neither on disk ({reason}) nor in memory ({memory / 1e9:.1f} GB free)"


def _require_room(options: StateOptions, num_bytes: int) -> None:
    size = f"states.store is disk, but the states take {num_bytes / 1e9:.3g} GB"
    if num_bytes > options.max_bytes:
        raise RecipeError(
            f"{size}, more than states.max_gb allows ({options.max_gb:g}); raise it, or take states.store auto or off"
        )
    try:
        free = free_bytes(options.path) + unused_bytes(options.path)
    except OSError:
        return  # who makes the folder says why not
    if num_bytes > free:
        raise RecipeError(
            f"{size}, and {options.path} has room for {free / 1e9:.3g} GB; name a --states.folder on another disk, or "
            "take states.store auto or off"
        )


def stored_views(config: WhisperConfig, num_frames: float, num_tokens: float, epochs: int) -> int:
    """How many augmented views pay in a run of so many epochs; at least `FEWEST_VIEWS`, at most one an epoch.

    num_frames, num_tokens: of a window, on average. Two operations a weight and position, twice as many for a
    gradient, and none for those of the frozen states.
    """
    width = config.d_model
    encoding = config.encoder_layers * num_frames * 2 * (4 * width**2 + 2 * width * config.encoder_ffn_dim)
    keys_and_values = config.decoder_layers * num_frames * 4 * width**2
    token = config.decoder_layers * (6 * width**2 + 2 * width * config.decoder_ffn_dim) + config.vocab_size * width
    training = 2 * keys_and_values + 3 * 2 * num_tokens * token
    return min(epochs, max(FEWEST_VIEWS, int(ENCODING_SHARE * epochs * training / encoding)))
