"""Write whisper.cpp's ggml file: sizes, mel filters, vocabulary and tensors in one `ggml-model.bin`.

Little-endian: the int32 magic "ggml"; eleven int32 sizes (vocabulary, encoder positions, width, heads and
layers, decoder positions, width, heads and layers, mel bins, and 0 for float32 or 1 for float16 weights);
int32 rows and columns of the mel filters, then these as float32; int32 number of text tokens, each: int32
number of bytes, then these; then tensors up to the file's end, each: int32 rank, length of its name, and 0 or
1 for its dtype, int32 per dimension with the innermost first, the name, the data.

In a file of float32 weights the convolutions are float32 too, as whisper.cpp allocates them by the file's dtype. Since
version 1.5 it unfolds their input to float16 and aborts on such kernels (github.com/ggml-org/whisper.cpp/issues/2557).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import torch

from whispertune.checkpoints.layout import Checkpoint, expected_shapes
from whispertune.checkpoints.openai_layout import openai_name, require_openai
from whispertune.checkpoints.side_files import not_written, write_side_files
from whispertune.checkpoints.tokenizer_files import END_OF_TEXT, text_tokens
from whispertune.errors import CheckpointError
from whispertune.features.log_mel import mel_filters

FILE = "ggml-model.bin"
MAGIC = 0x67676D6C
ONLY_WRITTEN = "ggml files can only be written, not read; use the model it was made from"
_ALWAYS_FLOAT32 = ("positional_embedding", "conv1.bias", "conv2.bias")
"""Float32 like all one-dimensional tensors, as whisper.cpp only adds them."""


def is_ggml(path: Path) -> bool:
    """Whether the file starts with ggml's magic number."""
    try:
        with path.open("rb") as file:
            return file.read(4) == struct.pack("<i", MAGIC)
    except OSError:
        return False


def save_ggml(
    folder: Path, checkpoint: Checkpoint, dtype: torch.dtype, advance: Callable[[int], None] = lambda amount: None
) -> None:
    """Write `checkpoint` with float32 or float16 weights into `folder`.

    advance: called with 1 after each tensor. Raises CheckpointError if whisper.cpp does not support the model, or it
    can't be written; StorageError if the disk is full.
    """
    config, weights = checkpoint.config, checkpoint.weights
    ids = require_openai(config, checkpoint.tokenizer_json, checkpoint.source)
    tokens = text_tokens(checkpoint.tokenizer_json, ids[END_OF_TEXT], checkpoint.source)
    filters = mel_filters(config.num_mel_bins)
    sizes = (
        *(config.vocab_size, config.max_source_positions, config.d_model, config.encoder_attention_heads),
        *(config.encoder_layers, config.max_target_positions, config.d_model, config.decoder_attention_heads),
        *(config.decoder_layers, config.num_mel_bins, int(dtype == torch.float16)),
    )
    try:
        with (folder / FILE).open("wb") as file:
            file.write(struct.pack("<12i", MAGIC, *sizes))
            file.write(struct.pack("<2i", *filters.shape) + filters.numpy().astype("<f4").tobytes())
            file.write(struct.pack("<i", len(tokens)))
            for token in tokens:
                file.write(struct.pack("<i", len(token)) + token)
            for ours in expected_shapes(config):
                name, tensor = openai_name(ours), weights[ours]
                if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                    tensor = tensor[:, None]  # one value per channel, added to all frames
                half = dtype == torch.float16 and tensor.ndim > 1 and not name.endswith(_ALWAYS_FLOAT32)
                encoded = name.encode()
                file.write(struct.pack("<3i", tensor.ndim, len(encoded), int(half)))
                file.write(struct.pack(f"<{tensor.ndim}i", *reversed(tensor.shape)) + encoded)
                stored = tensor.to(torch.float16 if half else torch.float32)
                if not torch.isfinite(stored).all():
                    raise CheckpointError(f"{checkpoint.source}: {ours} does not fit into float16; use float32")
                file.write(stored.contiguous().numpy().astype("<f2" if half else "<f4", copy=False).data)
                advance(1)
        write_side_files(folder, checkpoint)
    except OSError as error:
        raise not_written(folder, error) from error
