"""Whether torch.compile pays on this machine: what lies between two attentions, compiled against as it is.

    python benchmarks/torch_compile.py
    python benchmarks/torch_compile.py --rows 64 --repeats 2    # a smoke test

Attention by row has other shapes in every batch, so that a whole layer would be compiled anew for each. What lies
between two attentions (output projection, residual, LayerNorm, feed-forward with exact GELU, LayerNorm, the next
projections) sees rows laid end to end, and compiles once with a dynamic number of them. whisper-base's shapes, random
weights; forward alone as in encoding, forward and backward as in training. Both sides alternate; medians. Needs a C++
compiler.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from common import add_common, markdown, publish
from torch import Tensor, nn

WIDTH = 512
ENCODER_ROWS, DECODER_ROWS = 1536, 128
"""Frames of a batch that is encoded; tokens of a step, at 8 clips."""


class Between(nn.Module):
    """From an attention's output to the next one's queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(width, width)
        self.norm, self.next_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.projections = nn.Linear(width, 3 * width)

    def forward(self, attended: Tensor, x: Tensor) -> Tensor:
        """(N, D), (N, D) -> (N, 3 D)."""
        x = x + self.out_proj(attended)
        x = x + self.fc2(F.gelu(self.fc1(self.norm(x))))
        return cast(Tensor, self.projections(self.next_norm(x)))


def forward_only(module: Callable[[Tensor, Tensor], Tensor], rows: int) -> None:
    with torch.inference_mode():
        module(torch.randn(rows, WIDTH), torch.randn(rows, WIDTH))


def forward_backward(module: Callable[[Tensor, Tensor], Tensor], rows: int) -> None:
    x = torch.randn(rows, WIDTH, requires_grad=True)
    module(torch.randn(rows, WIDTH), x).sum().backward()  # type: ignore[no-untyped-call]


def compared(work: Callable[..., None], rows: int, dtype: torch.dtype, repeats: int) -> tuple[float, float, float]:
    """Milliseconds as it is, and compiled; seconds until the compiled one has run with two sizes."""
    torch.set_default_dtype(dtype)
    plain = Between(WIDTH)
    torch.compiler.reset()
    compiled = torch.compile(plain, dynamic=True)
    started = time.perf_counter()
    for size in (rows, rows + 32):
        work(compiled, size)
    compiling = time.perf_counter() - started
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(2 * repeats):
        which = repeat % 2
        started = time.perf_counter()
        work((plain, compiled)[which], rows + 16 * (repeat // 2 % 8))
        times[which].append(1000 * (time.perf_counter() - started))
    torch.set_default_dtype(torch.float32)
    return statistics.median(times[0]), statistics.median(times[1]), compiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=None, help="instead of a batch's frames and a step's tokens")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    add_common(parser, "torch-compile")
    options = parser.parse_args()
    dtype = torch.float32 if options.precision == "fp32" else torch.bfloat16
    rows = []
    for name, work, size in (
        ("encoding, forward", forward_only, options.rows or ENCODER_ROWS),
        ("training, forward and backward", forward_backward, options.rows or DECODER_ROWS),
    ):
        plain, compiled, compiling = compared(work, size, dtype, options.repeats)
        rows.append((name, size, f"{plain:.2f}", f"{compiled:.2f}", f"{plain / compiled:.2f} x", f"{compiling:.0f}"))
    header = ("", "rows", "as it is, ms", "compiled, ms", "ratio", "compiling, s")
    publish(options.table, f"torch.compile between two attentions, {options.precision}", [markdown(header, rows)])


if __name__ == "__main__":
    main()
