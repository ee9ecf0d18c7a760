"""Write tensors to a safetensors file one after the other.

The library's own writer first makes one copy of all of them in memory, which for a training state is as much as the
state itself. The format (github.com/huggingface/safetensors): 8 bytes with the size of the header, the header as
JSON (name -> dtype, shape, offsets), then the bytes of the tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
ALIGNMENT = 8
COPIED_AT_ONCE = 2**22
"""Bytes."""


def _write_header(file: BinaryIO, header: Mapping[str, object]) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)


def replace_metadata(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Copy a file of tensors under new metadata, a block at a time.

    Raises:
        OSError: `source` can't be read or `target` can't be written.
    """
    with source.open("rb") as old, target.open("wb") as new:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        _write_header(new, header | {"__metadata__": dict(metadata)})
        shutil.copyfileobj(old, new, COPIED_AT_ONCE)


def writing_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names in the order in which `save_file` writes: widest types first, so that every tensor starts at a multiple
    of its own size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def save_file(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str] | None = None,
    fetch: Callable[[str], Tensor] | None = None,
) -> None:
    """Write tensors under their names; metadata: text that goes into the header.

    fetch(name): the tensor itself, called for each in `writing_order`, where `tensors` only tells type and shape.

    Raises:
        OSError: the disk is full or gone.
    """
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    names = writing_order(tensors)
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    path.unlink(missing_ok=True)  # not overwritten: the tensors may be mapped from it
    with path.open("wb") as file:
        _write_header(file, header)
        for name in names:
            tensor = tensors[name] if fetch is None else fetch(name)
            flat = tensor.detach().cpu().contiguous().view(-1)
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)
