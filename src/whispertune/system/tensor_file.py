"""Write tensors to a safetensors file one after the other.

The library's own writer first copies all of them in memory, which doubles the memory of a training state. The format
(github.com/huggingface/safetensors): 8 bytes with the size of the header, the header as JSON (name -> dtype, shape,
offsets), then the bytes of the tensors.

Optionally the metadata holds two checksums, sha256 in hex: `data_sha256` of the bytes of the tensors, `header_sha256`
of the header without this entry. Other readers ignore them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
ALIGNMENT = 8
COPIED_AT_ONCE = 2**22
"""Bytes."""
METADATA, DATA, HEADER = "__metadata__", "data_sha256", "header_sha256"
UNKNOWN = "0" * 64
"""Placeholder for a checksum that is not known yet."""


def _packed(header: Mapping[str, object]) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _header_digest(header: Mapping[str, Any]) -> str:
    metadata = {key: value for key, value in header[METADATA].items() if key != HEADER}
    return hashlib.sha256(json.dumps({**header, METADATA: metadata}, sort_keys=True).encode()).hexdigest()


def _read_header(file: BinaryIO) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header


def replace_metadata(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Copy a file of tensors with new metadata, a block at a time. The checksum of the tensors is kept, not recomputed,
    so that damage is still detected.

    Raises:
        OSError: `source` can't be read or `target` can't be written.
    """
    with source.open("rb") as old, target.open("wb") as new:
        header = _read_header(old)
        known = header.get(METADATA, {}).get(DATA)
        header[METADATA] = dict(metadata)
        if known is not None:
            header[METADATA][DATA] = known
            header[METADATA][HEADER] = _header_digest(header)
        new.write(_packed(header))
        shutil.copyfileobj(old, new, COPIED_AT_ONCE)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file without its checksums.

    Raises:
        OSError: if the file can't be read.
        ValueError: if its header is cut short or damaged.
    """
    with path.open("rb") as file:
        return {key: text for key, text in _checked_header(file)[METADATA].items() if key not in (DATA, HEADER)}


def _checked_header(file: BinaryIO) -> dict[str, Any]:
    size = int.from_bytes(file.read(8), "little")
    file.seek(0, 2)
    if size > file.tell() - 8:
        raise ValueError("it is cut short, or its first bytes are overwritten")
    file.seek(0)
    try:
        header = _read_header(file)
        metadata = header[METADATA]
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("its header is overwritten, or it is another kind of file") from None
    if HEADER in metadata and metadata[HEADER] != _header_digest(header):
        raise ValueError("its header does not match its checksum")
    return header


def require_whole(path: Path) -> None:
    """Verify the checksums of a file; without checksums, only its header is checked.

    Raises:
        OSError: if the file can't be read.
        ValueError: with the part that is damaged.
    """
    with path.open("rb") as file:
        expected = _checked_header(file)[METADATA].get(DATA)
        if expected is not None and hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise ValueError(
                "its tensors do not match their checksum: overwritten, cut short, or followed by other data"
            )


def writing_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names in the order of `save_file`: widest types first, so that tensors are aligned to their element size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def save_file(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str] | None = None,
    fetch: Callable[[str], Tensor] | None = None,
    *,
    checksums: bool = False,
) -> str:
    """Write tensors by name; returns the sha256 of the file or, with `checksums`, of its tensors.

    metadata: strings for the header. fetch(name): returns the tensor itself, called for each in `writing_order`, if
    `tensors` only give type and shape. checksums: store the checksums for `require_whole` in the metadata.

    Raises:
        OSError: if the disk is full or missing.
    """
    about = dict(metadata or {}) | ({DATA: UNKNOWN, HEADER: UNKNOWN} if checksums else {})
    header: dict[str, Any] = {METADATA: about} if about or metadata is not None else {}
    names = writing_order(tensors)
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    path.unlink(missing_ok=True)  # not overwritten, as the tensors may be mapped from it
    digest = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1, "checksum") as pool:
        packed = _packed(header)
        file.write(packed)
        if not checksums:
            digest.update(packed)
        for name in names:
            tensor = tensors[name] if fetch is None else fetch(name)
            flat = tensor.detach().cpu().contiguous().view(-1)
            if flat.numel():
                content = flat.view(torch.uint8).numpy().data
                hashed = pool.submit(digest.update, content)  # while it is written
                file.write(content)
                hashed.result()
        if checksums:
            about[DATA] = digest.hexdigest()
            about[HEADER] = _header_digest(header)
            file.seek(0)
            file.write(_packed(header))  # same length as before
    return digest.hexdigest()
