"""A GPU that is none: whispertune runs on it as on a real one, takes the same branches, and the CPU does the work.

Tensors on it are wrappers around tensors of the CPU. As with CUDA, no operation may mix them with tensors of the CPU
(but for copies and numbers): that is an error here, too. PyTorch's backend in Python (`backend_registration`)
lets autograd and optimisers take the device for one. It shows no speed and no rounding of a GPU's; how often the CPU
would wait for it (`.item()`, `.tolist()`) is counted.

    python pretend_gpu.py train --model … --output …       # any whispertune command with --device auto; then the waits

With PRETEND_LIMITED in the environment it is one like Apple's, without float64 and sparse tensors.

What it cannot do: `--recompute` (its wrappers don't go through `torch.utils.checkpoint`).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
MOVES = ("to", "_to_copy", "copy_", "_foreach_copy_", "_local_scalar_dense")
"""Operations that may see tensors of both devices."""

limited = bool(os.environ.get("PRETEND_LIMITED"))
waits: Counter[str] = Counter()
"""How often the CPU waited for the device, by what for and where."""


shapes: dict[str, Counter[tuple[int, int, int]]] = {"training": Counter(), "inference": Counter()}
"""How often attention ran on each (rows, queries, keys) on the device, with and without gradients."""


def _wait(what: str) -> None:
    frame = sys._getframe()
    while frame.f_back is not None and "/whispertune/" not in frame.f_code.co_filename:
        frame = frame.f_back
    waits[f"{what} {frame.f_code.co_filename.rpartition('/whispertune/')[2]}:{frame.f_lineno}"] += 1


class FarTensor(torch.Tensor):
    """A tensor on the device; `near` holds its values."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> FarTensor:
        far = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            layout=near.layout, device=torch.device(NAME, 0),
        )  # fmt: skip
        far.near = near
        return far  # type: ignore[no-any-return]

    def __init__(self, near: torch.Tensor) -> None: ...

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _is_far(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _near(leaf: Any) -> Any:
    """What the CPU is to compute with instead."""
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.near if isinstance(leaf, FarTensor) else leaf


def _is_asynchronous(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a copy was asked for with `non_blocking`, which `send` only does from pinned memory."""
    return bool(kwargs.get("non_blocking")) or any(argument is True for argument in args)


def _has_mask(indices: Sequence[Any]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    is_far = any(isinstance(tensor, FarTensor) for tensor in tensors)
    name = func.__name__.partition(".")[0]
    if is_far and name not in MOVES and any(t.ndim for t in tensors if not isinstance(t, FarTensor)):
        raise RuntimeError(f"tensors of the CPU and of the device in {func}")
    for device in [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]:
        if is_far and not _is_far(device):
            _wait("copy to the CPU")
        if tensors and not is_far and _is_far(device) and not _is_asynchronous(args, kwargs):
            _wait("copy to the device")
        is_far = _is_far(device)
    if is_far and (name in ("nonzero", "masked_select") or (name == "index" and _has_mask(args[1]))):
        _wait("a size")
    if name == "copy_":
        is_far = isinstance(args[0], FarTensor)
    if name == "_local_scalar_dense":
        _wait("one number")
    with _disable_current_modes():
        out = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    if name == "_local_scalar_dense" or not is_far:
        return out
    made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
    if limited and any(tensor.dtype == torch.float64 or tensor.is_sparse for tensor in made):
        raise TypeError(f"float64 or a sparse tensor in {func}")
    out = tree_map(lambda leaf: FarTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, out)
    return out if name in MOVES[:2] else return_and_correct_aliasing(func, args, kwargs, out)


def _set_item(target: FarTensor, key: Any, value: Any) -> None:
    """target[key] = value, which PyTorch takes apart before it comes to dispatch."""
    parts = key if isinstance(key, tuple) else (key,)
    for part in (*parts, value):
        if isinstance(part, torch.Tensor) and not isinstance(part, FarTensor) and part.ndim:
            raise RuntimeError("tensors of the CPU and of the device in an assignment")
    assert not target.requires_grad
    with _disable_current_modes():
        target.near[tuple(map(_near, parts))] = _near(value)


class _Dispatch(TorchDispatchMode):
    """For what is made on the device from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """For what never comes to dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_far(kwargs.get("device")):
            device = kwargs.pop("device")  # the copy is counted where it is made
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.tolist and isinstance(args[0], FarTensor):
            _wait("a list")
            return args[0].near.tolist()
        if func is torch.Tensor.__setitem__ and isinstance(args[0], FarTensor):
            return _set_item(*args)
        if func is torch.Tensor.__getitem__ and isinstance(args[0], FarTensor):
            key = args[1] if isinstance(args[1], tuple) else (args[1],)
            sent = (torch.tensor(part).to(args[0].device) if isinstance(part, list) else part for part in key)
            return func(args[0], tuple(sent))
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(args[0], FarTensor):
            kind = "training" if torch.is_grad_enabled() else "inference"
            shapes[kind][args[0].shape[0], args[0].shape[2], args[1].shape[2]] += 1
        if func is torch.Tensor.pin_memory:
            return args[0]
        return func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[torch.device]:
    """The device, while the block runs; whispertune's `auto` finds it. Once a process."""
    from whispertune.model import step_graphs
    from whispertune.system import precision

    step_graphs.CAPTURES[NAME] = step_graphs.python_capture
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    device = torch.device(NAME, 0)
    if limited:
        precision.LIMITED.add(NAME)
    resolve: Callable[[str], torch.device] = lambda wanted: device if wanted == "auto" else torch.device(wanted)  # noqa: E731
    original = precision.resolve_device
    for name, module in list(sys.modules.items()):
        if name.startswith("whispertune") and getattr(module, "resolve_device", None) is original:
            module.resolve_device = resolve  # type: ignore[attr-defined]
    # Modes are of one thread, so the backward pass, which may recompute a layer, has to stay in it.
    with torch.autograd.set_multithreading_enabled(False), _Functions(), _Dispatch():
        yield device


def main(arguments: Sequence[str]) -> int:
    """Run a whispertune command on the device; its exit status."""
    for command in ("check", "evaluate", "train", "transcribe"):
        importlib.import_module(f"whispertune.commands.{command}")
    from whispertune import cli

    with pretended():
        status = cli.main(list(arguments))
    print(json.dumps(waits))
    return status


# Its wrappers know no tensors of inference. Here, before any function of whispertune's is decorated with it.
torch.inference_mode = lambda mode=True: torch.no_grad() if mode else nullcontext()  # type: ignore[assignment, misc]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
