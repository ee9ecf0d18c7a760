"""Whisper's encoder and decoder (Radford et al. 2022), with the parameter names of Hugging Face's.

So a checkpoint loads without a key map and a saved model opens in `transformers`. There is one addition: the
encoder takes *kept* frames, each with its true position and the logarithm of the number of frames it
represents, which is added to the attention logits (proportional attention, Bolya et al. 2022). All 1500 frames
with weight 1 are exactly Whisper.

Shapes: B rows, U utterances (B = U x beams in beam search), T decoder positions, K kept frames, M log-mel
frames, D model width, H heads, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whispertune.model.attention import (
    FEWEST_FRAMES,
    FEWEST_TOKENS,
    TOKENS_MULTIPLE,
    Attention,
    attention_bias,
    frame_rows,
)
from whispertune.model.cache import CACHE_TOKENS, DecoderCache, causal_mask
from whispertune.model.config import WhisperConfig
from whispertune.model.layers import DecoderLayer, EncoderLayer, call_layer
from whispertune.model.packed_lengths import MASKED_LOGIT, PackedLengths, packed_index, padded_length
from whispertune.model.padded_attention import row_attention
from whispertune.model.states_attention import is_cheaper, share_states
from whispertune.model.step_graphs import StepGraphs
from whispertune.model.step_memory import StepMemory
from whispertune.system.precision import LIMITED, send

_ALL = slice(None)
ModuleT = TypeVar("ModuleT", bound=nn.Module)
Watch = Callable[[int, Tensor], None]
"""Called with the number of each layer and the input (B, T, D) of its cross-attention."""


def empty_embedding(size: int, width: int) -> nn.Embedding:
    """An embedding of zeros to load weights into; drawing on `meta`, torch would import 800 modules (1.7 s, 70 MB)."""
    zeros = torch.zeros(size, width)
    return nn.Embedding.from_pretrained(zeros, freeze=False)  # type: ignore[no-untyped-call, no-any-return]


class Encoder(nn.Module):
    """Log-mel of the speech and its kept frames -> encoder states."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = empty_embedding(config.max_source_positions, width)
        self.embed_positions.requires_grad_(False)  # sinusoids: never trained
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.encoder_attention_heads, config.encoder_ffn_dim)
            for _ in range(config.encoder_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        self.num_heads = config.encoder_attention_heads
        self.recompute = False
        """Activation checkpointing: save only the inputs of the layers."""

    def forward(
        self,
        log_mel: Tensor,
        frame_index: Tensor,
        positions: Tensor,
        log_weights: Tensor | None,
        num_frames: Sequence[int] | None = None,
    ) -> Tensor:
        """Encoder states (B, K, D) of the kept frames.

        log_mel: (B, n_mels, M), each row zero after its own end.
        frame_index: (B, K) index of each kept frame among the M / 2 convolved frames.
        positions: (B, K) its true position among the 1500 of the window.
        log_weights: (B, K), or None if each frame represents only itself.
        num_frames: kept frames of each row without its padding; None if no row is padded.
        """
        x = F.gelu(self.conv1(log_mel.to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        frames = frame_rows(frame_index, num_frames)
        x = x.flatten(0, 1)[frames.pack(frame_index + frames.starts(x.shape[1], x.device))]
        x = x + self.embed_positions(frames.pack(positions))
        return frames.pad(self._through_layers(x, frames, log_weights), frame_index.shape[1])

    def _through_layers(self, x: Tensor, frames: PackedLengths, log_weights: Tensor | None, first: int = 0) -> Tensor:
        """Packed rows (N, D) through the layers from `first` on and the final norm; (N, D)."""
        attend = row_attention(x, log_weights, frames, frames, self.num_heads)
        for layer in self.layers[first:]:
            x = call_layer(layer, x, attend, recompute=self.recompute)
        return cast(Tensor, self.layer_norm(x))

    def lower(self, num_layers: int) -> Encoder:
        """An encoder of the convolutions and the first layers alone, without the final norm. Shares all parameters."""
        part = copy.copy(self)
        part._modules = {**self._modules, "layers": self.layers[:num_layers], "layer_norm": nn.Identity()}
        return part

    def upper(
        self, num_layers: int, states: Tensor, log_weights: Tensor | None, num_frames: Sequence[int] | None
    ) -> Tensor:
        """What `lower` leaves out: its output (B, K, D) through the other layers and the final norm; (B, K, D)."""
        frames = frame_rows(states, num_frames)
        return frames.pad(self._through_layers(frames.pack(states), frames, log_weights, num_layers), states.shape[1])


class Decoder(nn.Module):
    """Token ids and encoder states -> hidden states, and those -> logits."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.embed_tokens = empty_embedding(config.vocab_size, width)
        self.embed_positions = empty_embedding(config.max_target_positions, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.decoder_attention_heads, config.decoder_ffn_dim)
            for _ in range(config.decoder_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        self.num_heads = config.decoder_attention_heads
        self.recompute = False
        """As the encoder's."""
        self.step_memory = StepMemory()
        self.lookup_table: Tensor | None = None
        """The table for token lookup, if it needs a gradient of its own; else the embedding is used."""
        self.output: nn.Module | None = None
        """The output projection, if it is separate from the embedding (`model/prepacked.py`)."""
        self.graphs: StepGraphs | None = None
        """Captured decoding steps, if steps are to be captured."""

    def blocks(self) -> list[DecoderLayer]:
        """The layers, with their type."""
        return cast("list[DecoderLayer]", list(self.layers))

    def forward(
        self,
        input_ids: Tensor,
        states: Tensor,
        log_weights: Tensor | None,
        num_tokens: Sequence[int] | None = None,
        num_frames: Sequence[int] | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of the whole input (B, T) at once, as in training.

        states: (B, K, D); log_weights: (B, K) or None.
        num_tokens, num_frames: the lengths of the rows, None if none is padded. Padding is at the end of a row, where
        the causal mask hides it from every real token; it is not computed, and zero.
        """
        length = input_ids.shape[1]
        sizes = tuple(num_tokens) if num_tokens is not None else (length,) * len(input_ids)
        tokens = PackedLengths(sizes, TOKENS_MULTIPLE, FEWEST_TOKENS)
        frames = frame_rows(states, num_frames)
        positions = tokens.pack(torch.arange(length, device=input_ids.device).expand_as(input_ids))
        table = self.embed_tokens.weight if self.lookup_table is None else self.lookup_table
        x = F.embedding(
            tokens.pack(input_ids), table, sparse=self.lookup_table is not None and table.device.type not in LIMITED
        )
        x = x + self.embed_positions(positions)
        to_self = row_attention(x, None, tokens, tokens, self.num_heads, causal=True)
        to_states = self._cross_attention(states, log_weights, tokens, frames)
        for layer in self.layers:
            x = call_layer(layer, x, to_self, to_states, recompute=self.recompute)
        return tokens.pad(self.layer_norm(x), length)

    def _cross_attention(
        self, states: Tensor, log_weights: Tensor | None, tokens: PackedLengths, frames: PackedLengths
    ) -> Callable[[Attention, Tensor], Tensor]:
        """Each layer's attention from its packed tokens to their own rows of states (B, K, D)."""
        if is_cheaper(states, tokens, frames, self.num_heads):
            shared = share_states(states, log_weights, tokens, frames, self.num_heads)
            return partial(Attention.to_states, states=shared)
        attend = row_attention(states, log_weights, tokens, frames, self.num_heads)
        return partial(Attention.by_row, context=frames.pack(states), rows=attend)

    def start(self, states: Tensor, log_weights: Tensor | None) -> DecoderCache:
        """An empty cache; cross-attention keys and values are computed here, once."""
        if log_weights is not None:  # dense windows all have one length
            more = padded_length(states.shape[1], FEWEST_FRAMES, states.device) - states.shape[1]
            states, log_weights = F.pad(states, (0, 0, 0, more)), F.pad(log_weights, (0, more), value=MASKED_LOGIT)
        shape = (len(self.layers), states.shape[0], self.num_heads, 0, states.shape[-1] // self.num_heads)
        cross_keys: list[Tensor] = []
        cross_values: list[Tensor] = []
        for layer in self.blocks():
            keys, values = layer.encoder_attn.keys_values(states)
            cross_keys.append(keys.contiguous())
            cross_values.append(values.contiguous())
        return DecoderCache(
            self_keys=states.new_empty(shape),
            self_values=states.new_empty(shape),
            cross_keys=cross_keys,
            cross_values=cross_values,
            cross_bias=attention_bias(log_weights, states.dtype),
            whole=states.device.type != "cpu" or self.graphs is not None,
        )

    def step(self, input_ids: Tensor, cache: DecoderCache) -> Tensor:
        """Hidden state (B, D) of the last of the new tokens (B, T), which are added to the cache.

        The first call takes the whole prompt, later ones one token per row.
        """
        if self.graphs is not None and input_ids.shape[1] == 1:
            return self.graphs.step(self.step_at, input_ids, cache)
        return cast(Tensor, self.layer_norm(self._extend(input_ids, cache)[:, -1]))

    def step_at(self, input_ids: Tensor, place: Tensor, cache: DecoderCache, visible: int) -> Tensor:
        """As `step` with one token per row (B, 1), written to `place` (1,) of a cache that has room for it.

        Only values of tensors change from one call to the next, so that a GPU can capture it. visible: tokens of the
        cache that attention looks at, those after `place` masked. `cache.num_tokens` is neither read nor changed.
        """
        bias = causal_mask(place, cache.padding, visible)
        x = self._through_layers(input_ids, place, (_ALL, _ALL, place), cache, visible, bias)
        return cast(Tensor, self.layer_norm(x[:, -1]))

    def read(self, input_ids: Tensor, cache: DecoderCache, watch: Watch | None = None) -> Tensor:
        """Hidden states (B, T, D) of the new tokens (B, T), which are added to the cache.

        With whole inputs and an empty cache this equals `forward`.
        """
        return cast(Tensor, self.layer_norm(self._extend(input_ids, cache, watch)))

    def read_at(self, input_ids: Sequence[Sequence[int]], lengths: Sequence[int], cache: DecoderCache) -> Tensor:
        """Hidden states (N, D) of new tokens, each row's own behind the `lengths` tokens of it that are in the cache.

        input_ids: B rows of any lengths, N tokens in all. What lies behind a row's length in the cache does not count;
        `cache.num_tokens` is neither read nor changed, but `cache.whole` must be set.
        """
        device = cache.self_keys.device
        sizes = tuple(map(len, input_ids))
        longest, visible = max(sizes), max(lengths) + max(sizes)
        cache.reserve(visible)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in input_ids])
        places = send(torch.tensor(lengths)[:, None] + torch.arange(longest), device)
        rows = torch.arange(len(sizes), device=device)[:, None]
        bias = causal_mask(places, cache.padding, visible)
        x = self._through_layers(send(ids, device), places, (rows, _ALL, places), cache, visible, bias)
        return cast(Tensor, self.layer_norm(x.flatten(0, 1)[packed_index(sizes, longest, device)]))

    def _extend(self, input_ids: Tensor, cache: DecoderCache, watch: Watch | None = None) -> Tensor:
        """As `read`, before the final normalisation."""
        begin, end = cache.num_tokens, cache.num_tokens + input_ids.shape[1]
        cache.reserve(end)
        num_new = end - begin
        capacity = cache.self_keys.shape[3]
        visible = min(padded_length(end, CACHE_TOKENS, input_ids.device), capacity) if num_new == 1 else end
        places = torch.arange(begin, end, device=input_ids.device)
        bias = None
        # Else the kernel's own causal mask suffices.
        if cache.padding is not None or visible > end or (begin and num_new > 1):
            bias = causal_mask(places, cache.padding, visible)
        x = self._through_layers(input_ids, places, (_ALL, _ALL, slice(begin, end)), cache, visible, bias, watch)
        cache.num_tokens = end
        return x

    def _through_layers(
        self, input_ids: Tensor, places: Tensor, written: tuple[slice | Tensor, ...], cache: DecoderCache, visible: int,
        bias: Tensor | None, watch: Watch | None = None,
    ) -> Tensor:  # fmt: skip
        """New tokens (B, T), at `places` (T,) or (B, T) of the cache, through all layers; (B, T, D).

        written: index of these places in a layer's keys or values (B, H, T, D / H), with which indices of rows and
        tokens give (B, T, H, D / H).
        """
        num_new, ragged = input_ids.shape[1], places.ndim == 2
        positions = places if cache.padding is None else places - cache.padding[:, None]
        if ragged or cache.padding is not None:
            # A finished row continues as long as others do; its position does not matter then.
            positions = positions.clamp(0, self.embed_positions.num_embeddings - 1)
        bias = None if bias is None else bias.to(cache.self_keys.dtype)
        x = self.embed_tokens(input_ids) + self.embed_positions(positions)
        for index, layer in enumerate(self.blocks()):
            normed = layer.self_attn_layer_norm(x)
            keys, values = layer.self_attn.keys_values(normed)
            cache.self_keys[index][written] = keys.transpose(1, 2) if ragged else keys
            cache.self_values[index][written] = values.transpose(1, 2) if ragged else values
            x = x + layer.self_attn(
                normed,
                cache.self_keys[index, :, :, :visible],
                cache.self_values[index, :, :, :visible],
                bias,
                causal=bias is None and num_new > 1,
            )
            normed = layer.encoder_attn_layer_norm(x)
            if watch is not None:
                watch(index, normed)
            keys, values = cache.cross_keys[index], cache.cross_values[index]
            x = x + layer.encoder_attn(normed, keys, values, cache.cross_bias)
            x = layer.feed_forward(x)
        return cast(Tensor, x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V); the output projection is tied to the token embedding."""
        if self.output is not None:
            return cast(Tensor, self.output(hidden))
        return F.linear(hidden, self.embed_tokens.weight)


class EncoderDecoder(nn.Module):
    """Encoder and decoder, with the parameter prefix that checkpoints use."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)


class Whisper(nn.Module):
    """The whole model; `model` is the prefix of the parameter names."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.model = EncoderDecoder(config)

    @property
    def encoder(self) -> Encoder:
        return self.model.encoder

    @property
    def decoder(self) -> Decoder:
        return self.model.decoder


def build_whisper(config: WhisperConfig, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Whisper:
    """A Whisper with copies of these weights (names and shapes must be checked before)."""
    with torch.device("meta"):
        whisper = Whisper(config)
    laid_out = torch.contiguous_format
    copies = {name: weight.to(dtype, copy=True, memory_format=laid_out) for name, weight in weights.items()}
    whisper.load_state_dict(copies, assign=True)
    whisper.encoder.embed_positions.requires_grad_(False)
    return whisper.eval()


def inference_copy(module: ModuleT, dtype: torch.dtype) -> ModuleT:
    """The module with its parameters in `dtype` and without gradients; unchanged parameters share storage."""
    replaced = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in module.parameters()}
    for part in module.modules():
        if isinstance(part, Decoder) and part.lookup_table is not None:  # for training only
            replaced[id(part.lookup_table)] = replaced[id(part.embed_tokens.weight)]
    return copy.deepcopy(module, memo=replaced).eval()
