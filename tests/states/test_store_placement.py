"""Where states go, by their size; how many views pay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_samples import KEY

from whispertune.errors import RecipeError
from whispertune.model.config import WhisperConfig
from whispertune.states import cache, placement
from whispertune.states.computed import EncoderStates, one_behind_the_other
from whispertune.states.files import StateFolder
from whispertune.states.options import StateOptions
from whispertune.states.placement import ENCODING_SHARE, FEWEST_VIEWS, choose_place, stored_views
from whispertune.system.environment import free_memory

GB = 10**9


@pytest.mark.parametrize(
    ("gigabytes", "disk", "memory", "max_gb", "place"),
    [
        (1, 100, 8, 20, "disk"),
        (19, 100, 8, 20, "disk"),
        (21, 100, 64, 20, "memory"),
        (21, 100, 64, 30, "disk"),
        (1, 2.5, 8, 20, "memory"),
        (5, 4, 8, 20, "off"),
        (4, 4, 8, 20, "memory"),
    ],
)
def test_auto_takes_the_disk_then_memory_then_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: float, disk: float, memory: float, max_gb: float,
    place: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(placement, "free_memory", lambda: int(memory * GB))
    for module in (placement, cache):
        monkeypatch.setattr(module, "free_bytes", lambda folder: int(disk * GB))
    chosen, reason = choose_place(StateOptions(folder=str(tmp_path), max_gb=max_gb), int(gigabytes * GB))
    assert chosen == place
    assert f"{1000 * gigabytes:.0f} MB" in reason
    assert f"{disk:.1f} GB free" in reason


def test_in_memory_each_process_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda: 8 * GB)
    for module in (placement, cache):
        monkeypatch.setattr(module, "free_bytes", lambda folder: 1 * GB)
    places = [choose_place(StateOptions(folder=str(tmp_path)), 2 * GB, processes)[0] for processes in (1, 2, 3)]
    assert places == ["memory", "memory", "off"]


def test_a_store_in_use_takes_of_the_room(tmp_path: Path) -> None:
    files = StateFolder(tmp_path / KEY, KEY, [600_000])
    files.write(0, memoryview(bytes(600_000)))
    assert choose_place(StateOptions(folder=str(tmp_path), max_gb=1e-3), 500_000)[0] == "memory"
    del files
    assert choose_place(StateOptions(folder=str(tmp_path), max_gb=1e-3), 500_000)[0] == "disk"


@pytest.mark.parametrize("store", ["memory", "disk", "off"])
def test_what_is_asked_for_is_done(tmp_path: Path, store: str) -> None:
    options = StateOptions(store=store, folder=str(tmp_path))  # type: ignore[arg-type]
    place, reason = choose_place(options, 10**9 if store == "disk" else 10**18)
    assert place == store
    assert "as asked" in reason


def test_the_disk_as_asked_has_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 TB went "as asked" into 1 MB."""
    small = StateOptions(store="disk", folder=str(tmp_path), max_gb=1e-3)
    with pytest.raises(RecipeError, match=r"take 1e\+04 GB, more than states.max_gb allows \(0.001\); raise it"):
        choose_place(small, 10**13)
    monkeypatch.setattr(placement, "free_bytes", lambda folder: 3 * GB)
    with pytest.raises(RecipeError, match=r"take 5 GB, and .* has room for 3 GB; name a --states.folder on another"):
        choose_place(StateOptions(store="disk", folder=str(tmp_path)), 5 * GB)


def test_bounds_of_the_folder() -> None:
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(RecipeError, match=r"^max_gb is .*above 0"):
            StateOptions(max_gb=value)
    assert StateOptions(max_gb=1.5).max_bytes == 1_500_000_000
    assert StateOptions(max_gb=1e300).max_bytes > 10**17


def test_free_memory_is_what_the_kernel_says() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    assert 10**7 < free_memory() <= total


BASE = WhisperConfig(
    vocab_size=51865, num_mel_bins=80, d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048,
    decoder_layers=6, decoder_attention_heads=8, decoder_ffn_dim=2048,
)  # fmt: skip


@given(st.integers(1, 200), st.floats(50, 1500), st.floats(5, 200))
def test_stored_views_keep_encoding_to_its_share(epochs: int, frames: float, tokens: float) -> None:
    views = stored_views(BASE, frames, tokens, epochs)
    assert min(epochs, FEWEST_VIEWS) <= views <= epochs
    # whisper-base by hand: 18.9 M weights in the encoder's layers; 0.52 M to keys and values of each decoder layer.
    encoding = 2 * frames * 18.87e6
    training = 2 * 2 * frames * 6 * 2 * 512**2 + 3 * 2 * tokens * (6 * 14 * 512**2 + 51865 * 512)
    if views > FEWEST_VIEWS:
        assert views * encoding <= 1.01 * ENCODING_SHARE * epochs * training
    if FEWEST_VIEWS <= views < epochs:
        assert (views + 1) * encoding >= 0.99 * ENCODING_SHARE * epochs * training


def test_rows_one_behind_the_other() -> None:
    short = EncoderStates(torch.randn(2, 3, 4), torch.zeros(2, 3))
    long = EncoderStates(torch.randn(2, 5, 4, dtype=torch.bfloat16), torch.ones(2, 5))
    joined = one_behind_the_other([short, long])
    assert joined.states.dtype == torch.bfloat16
    assert torch.equal(joined.states[:2, :3], short.states.bfloat16())
    assert not joined.states[:2, 3:].any()
    assert torch.equal(joined.states[2:], long.states)
    assert joined.log_weights is not None
    assert (joined.log_weights[:2, 3:].exp() == 0).all()
    assert joined.log_weights[:2, :3].eq(0).all()
    assert joined.log_weights[2:].eq(1).all()
    dense = EncoderStates(torch.randn(2, 5, 4), None)
    assert one_behind_the_other([dense, dense]).log_weights is None
    mixed = one_behind_the_other([dense, short])
    assert mixed.log_weights is not None
    assert mixed.log_weights[:2].eq(0).all()
