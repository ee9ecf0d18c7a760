"""Operations of an update, of encoding and of decoding, counted: the same on every machine, where seconds differ.

    python tests/golden/operations.py            # what this code needs, beside what is recorded
    python tests/golden/operations.py --record   # after a change that is meant to change them

A small random model with whisper-base's width of head, ragged rows and thinned frames, in float32 and in bf16. Written
bytes are those of all outputs that are no views, which is what memory bandwidth goes to.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whispertune.model.config import WhisperConfig
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Whisper, inference_copy
from whispertune.training.optimiser import build_optimizer
from whispertune.training.options import OptimizerOptions
from whispertune.training.working_copy import WorkingCopy

RECORDED = Path(__file__).parent / "operations.json"
CONFIG = WhisperConfig(
    vocab_size=1000, num_mel_bins=80, d_model=128, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=512,
    decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=512, max_source_positions=1500,
    max_target_positions=448,
)  # fmt: skip
FRAMES, TOKENS = (96, 40, 150, 61), (9, 21, 5, 12)
DECODED = 12
"""Tokens of greedy decoding."""
COPIES = ("copy_", "clone", "index", "index_copy", "index_put", "cat", "constant_pad_nd", "_to_copy", "index_select")


class Counting(TorchDispatchMode):
    """Counts operations that compute or copy something, and the bytes they write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        mine = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        in_place = func._schema.is_mutable
        written = [out for out in outputs if in_place or _storage(out) not in mine]
        if written or in_place:
            self.operations[func.overloadpacket.__name__] += 1
            self.written += sum(out.numel() * out.element_size() for out in written)
        return result

    def figures(self) -> dict[str, int]:
        copies = sum(self.operations[name] for name in COPIES)
        return {"operations": self.operations.total(), "copies": copies, "written_kb": self.written // 1000}


def _storage(tensor: Tensor) -> int:
    """What views of the same memory have in common."""
    return int((tensor._values() if tensor.is_sparse else tensor).untyped_storage()._cdata)


def counted(work: Callable[[], object]) -> dict[str, int]:
    """The figures of the second time: the first one fills caches and makes the optimiser's state."""
    work()
    with Counting() as mode:
        work()
    return mode.figures()


def measure(dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """The figures of each part of a run."""
    torch.manual_seed(0)
    whisper = Whisper(CONFIG)
    for parameter in whisper.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    encoder = inference_copy(whisper.encoder, dtype)
    whisper.encoder.requires_grad_(False)
    longest = max(FRAMES)
    mel = torch.randn(len(FRAMES), 80, 2 * longest, dtype=dtype)
    frames = torch.arange(longest).expand(len(FRAMES), -1)
    weights = torch.zeros(len(FRAMES), longest)
    states = torch.randn(len(FRAMES), longest, CONFIG.d_model, dtype=dtype)
    ids = torch.randint(0, CONFIG.vocab_size, (len(TOKENS), max(TOKENS)))
    labels = ids.clone()
    for row, size in enumerate(TOKENS):
        labels[row, size:] = -100
    working = WorkingCopy(whisper, dtype)
    optimizer = build_optimizer(whisper, OptimizerOptions())

    def update() -> None:
        decoder = working.model.decoder
        hidden = decoder(ids, states, weights, list(TOKENS), list(FRAMES))
        (summed_nll(decoder, hidden, labels, 0.0) / sum(TOKENS)).backward()
        working.clip(1.0)
        working.update(optimizer)
        optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def encode() -> None:
        encoder(mel, frames, frames, weights, list(FRAMES))

    @torch.inference_mode()
    def decode() -> None:
        decoder = working.model.decoder
        cache = decoder.start(states, weights)
        hidden = decoder.step(ids[:, :4], cache)
        for _ in range(DECODED):
            hidden = decoder.step(decoder.logits(hidden).argmax(-1, keepdim=True), cache)

    return {"update": counted(update), "encoding": counted(encode), "decoding": counted(decode)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the figures")
    options = parser.parse_args()
    found = {name: measure(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    if options.record:
        RECORDED.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    for precision, parts in found.items():
        for part, figures in parts.items():
            print(precision, part, figures, "recorded:", recorded[precision][part])


if __name__ == "__main__":
    main()
