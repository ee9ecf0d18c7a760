"""The arithmetic of memory against what PyTorch keeps for the backward pass, counted on a device that holds nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from whispertune.checkpoints.layout import expected_shapes
from whispertune.model import loss as loss_module
from whispertune.model import packed_lengths, padded_attention
from whispertune.model.config import WhisperConfig
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Whisper
from whispertune.training import memory_use
from whispertune.training.adamw8bit import SMALLEST
from whispertune.training.memory_use import MemoryUse, MicroBatch, described, training_memory


def shape(d_model: int, heads: int, encoder: int, decoder: int, mels: int, vocabulary: int) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=vocabulary, num_mel_bins=mels, d_model=d_model, encoder_layers=encoder,
        encoder_attention_heads=heads, encoder_ffn_dim=4 * d_model, decoder_layers=decoder,
        decoder_attention_heads=heads, decoder_ffn_dim=4 * d_model,
    )  # fmt: skip


BASE, LARGE = shape(512, 8, 6, 6, 80, 51_865), shape(1280, 20, 32, 32, 128, 51_866)
TURBO = shape(1280, 20, 32, 4, 128, 51_866)


class _Kernel(torch.autograd.Function):
    """What a fused kernel keeps: its inputs, its output and a sum for each query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.empty_like(q)
        sums = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, k, v, out, sums, *([] if bias is None else [bias]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise AssertionError


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packed_lengths, padded_attention, loss_module):
        monkeypatch.setattr(module, "send", lambda tensor, device: tensor.to(device))

    def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        out: Tensor = _Kernel.apply(q, k, v, attn_mask)  # type: ignore[no-untyped-call]
        return out

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    packed_lengths.packed_index.cache_clear()
    padded_attention._pad_index.cache_clear()


def kept_bytes(config: WhisperConfig, batch: MicroBatch, dtype: torch.dtype, encoder_learns: bool) -> int:
    """Of the tensors that autograd saves, each storage once; of those in whole layers and the loss."""
    with torch.device("meta"):
        model = Whisper(config).to(dtype)
    model.requires_grad_(True)
    model.encoder.requires_grad_(encoder_learns)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Numbers of positions are shared by all layers, and not of the type that computes.
        if tensor.device.type == "meta" and tensor.is_floating_point():
            saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    rows, frames, tokens = batch.rows, batch.frames, batch.tokens
    log_weights = torch.zeros(rows, frames, device="meta")
    ids = torch.zeros(rows, tokens, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if encoder_learns:
            places = torch.zeros(rows, frames, dtype=torch.long, device="meta")
            mel = torch.zeros(rows, config.num_mel_bins, 2 * frames, dtype=dtype, device="meta")
            states = model.encoder(mel, places, places, log_weights, (frames,) * rows)
        else:
            states = torch.zeros(rows, frames, config.d_model, dtype=dtype, device="meta")
        hidden = model.decoder(ids, states, log_weights, (tokens,) * rows, (frames,) * rows)
        summed_nll(model.decoder, hidden, torch.zeros(rows, tokens, dtype=torch.long))
    return sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in weights)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("encoder_learns", [False, True])
@pytest.mark.parametrize(
    ("config", "batch"),
    [
        (BASE, MicroBatch(rows=8, frames=200, tokens=20)), (BASE, MicroBatch(rows=3, frames=1500, tokens=100)),
        (LARGE, MicroBatch(rows=16, frames=380, tokens=30)), (TURBO, MicroBatch(rows=64, frames=380, tokens=30)),
        (LARGE, MicroBatch(rows=8, frames=1500, tokens=128)),
    ],
)  # fmt: skip
def test_activations_are_those_that_pytorch_keeps(
    config: WhisperConfig, batch: MicroBatch, encoder_learns: bool
) -> None:
    for dtype, element in ((torch.bfloat16, 2), (torch.float32, 4)):
        counted = kept_bytes(config, batch, dtype, encoder_learns)
        # Without the float32 logits of a few positions, which are not kept.
        at_once = min(-(-batch.rows * batch.tokens // 16) * 16, memory_use.ROWS_AT_ONCE_ON_GPU)
        passing = config.vocab_size * 8 * at_once
        found = training_memory(config, batch, total=0, trainable=0, element=element, encoder_learns=encoder_learns)
        assert found.activations - passing == pytest.approx(counted, rel=0.03)


def test_weights_gradients_and_moments() -> None:
    batch = MicroBatch(rows=1, frames=200, tokens=10)
    frozen = training_memory(BASE, batch, total=100, trainable=60)
    assert (frozen.weights, frozen.gradients, frozen.moments) == (60 * 4 + 100 * 2, 60 * 4, 60 * 8)
    exact = training_memory(BASE, batch, total=100, trainable=60, element=4)
    assert exact.weights == 100 * 4
    for element, whole in ((2, 60 * 4 + 70 * 2), (4, 70 * 4)):
        assert training_memory(BASE, batch, total=100, trainable=60, away=30, element=element).weights == whole
    lora = training_memory(BASE, batch, total=100, trainable=0, adapter=7, adapted=50)
    assert (lora.weights, lora.gradients, lora.moments) == (50 * 2 + 100 * 2 + 7 * 4, 7 * 4, 7 * 8)
    # Two codes of a byte, and two scales in float32 for 256 values.
    in_8_bits = training_memory(BASE, batch, total=2000, trainable=1100, quantized=1024)
    assert in_8_bits.moments == 76 * 8 + 1024 * 2 + 4 * 2 * 4
    assert in_8_bits.gradients == 1100 * 4
    assert frozen.total == sum((frozen.weights, frozen.gradients, frozen.moments, frozen.activations))
    less = training_memory(LARGE, MicroBatch(rows=8, frames=1500, tokens=128), total=0, trainable=0, recompute=True)
    more = training_memory(LARGE, MicroBatch(rows=8, frames=1500, tokens=128), total=0, trainable=0)
    assert less.activations < more.activations / 4


def test_what_a_run_says() -> None:
    use = MemoryUse(weights=5 * 10**9, gradients=2 * 10**9, moments=4 * 10**9, activations=3 * 10**9)
    fits, line = described(use, free=10 * 10**9)
    assert fits
    assert line.startswith("14.0 GB: weights 5.0 (loaded), gradients 2.0, AdamW 4.0, activations 3.0; 10.0 GB free")
    fits, line = described(use, free=8 * 10**9)
    assert not fits
    for remedy in ("--lora.rank", "--recompute true", "--optimizer.name adamw8bit", "--batch_size"):
        assert remedy in line


CARDS = (16, 24, 80)
MODELS = {
    "small": shape(768, 12, 12, 12, 80, 51_865), "medium": shape(1024, 16, 24, 24, 80, 51_865),
    "turbo": TURBO, "large-v3": LARGE,
}  # fmt: skip
OVERHEAD = 1.5e9
"""The CUDA context, and what PyTorch's allocator holds and does not use: a guess, as long as no GPU was at hand."""


MODES = (
    "encoder frozen", "encoder frozen, adamw8bit", "LoRA", "full", "full, recompute", "full, recompute, adamw8bit",
)  # fmt: skip


def large(size: int) -> bool:
    """Whether the moments of a tensor of this size can be in 8 bits."""
    return size >= SMALLEST


def largest(config: WhisperConfig, mode: str, gigabytes: int, frames: int, tokens: int) -> str:
    """The largest micro-batch (a power of two up to 64) that fits on a card, in bf16 or fp16."""
    sizes = {name: torch.Size(found).numel() for name, found in expected_shapes(config).items()}
    in_decoder = [size for name, size in sizes.items() if ".decoder." in name]
    total, decoder = sum(sizes.values()), sum(in_decoder)
    adapter, adapted = (n * config.d_model * config.decoder_layers for n in (32 * 26, 16 * config.d_model))
    quantized, quantized_decoder = sum(filter(large, sizes.values())), sum(filter(large, in_decoder))
    options: dict[str, dict[str, Any]] = {
        "encoder frozen": {"trainable": decoder, "away": total - decoder},
        "encoder frozen, adamw8bit": {"trainable": decoder, "away": total - decoder, "quantized": quantized_decoder},
        "LoRA": {"trainable": 0, "adapter": adapter, "adapted": adapted, "away": total - decoder},
        "full": {"trainable": total, "encoder_learns": True},
        "full, recompute": {"trainable": total, "encoder_learns": True, "recompute": True},
        "full, recompute, adamw8bit": {
            "trainable": total, "encoder_learns": True, "recompute": True, "quantized": quantized,
        },
    }  # fmt: skip
    fit = 0
    for rows in (1, 2, 4, 8, 16, 32, 64):
        batch = MicroBatch(rows=rows, frames=frames, tokens=tokens)
        if training_memory(config, batch, total=total, **options[mode]).total + OVERHEAD <= gigabytes * 1e9:
            fit = rows
    return str(fit or "–")


def table() -> str:
    lines = [
        "| model | what learns | " + " | ".join(f"{card} GB" for card in CARDS) + " |",
        "|---|---|" + "---|" * len(CARDS),
    ]
    for name, config in MODELS.items():
        for mode in MODES:
            cells = [
                " / ".join(largest(config, mode, card, *each) for each in ((380, 30), (1500, 110))) for card in CARDS
            ]
            lines.append(f"| {name} | {mode} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_of_the_documents() -> None:
    document = Path(__file__).parents[2] / "docs" / "memory.md"
    assert table() in document.read_text(encoding="utf-8")
