"""The environment of a run: versions, machine, digests of its inputs; and free memory."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import soundfile
import torch

import whispertune
from whispertune.system.memory import windows_free_memory

PACKAGES = (
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "soundfile",
    "soxr",
    "jiwer",
    "whisper-normalizer",
)
EXTRAS = ("av", "bitsandbytes")
"""Optional packages that results depend on where they are used."""


def describe_environment(seed: int, digests: dict[str, str], processes: int, precision: str) -> dict[str, Any]:
    """The content of environment.json.

    digests: sha256 of the model and of each split's files. processes: their number at the start of the run.
    precision: `bf16` and the like, after resolving `auto`.
    """
    return {
        "whispertune": whispertune.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": _versions(),
        "libsndfile": soundfile.__libsndfile_version__,
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "processes": processes,
        "precision": precision,
        "seed": seed,
        "sha256": digests,
    }


def _versions() -> dict[str, str]:
    """The versions of `PACKAGES`, and of those `EXTRAS` that are installed."""
    found = {name: version(name) for name in PACKAGES}
    for name in EXTRAS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str | None:
    """The commit of whispertune's source, with `+` if files have changed since; None if it is unknown.

    That of a clone, if it is run from there, otherwise that which pip recorded for an installation from git.
    """
    source = Path(whispertune.__file__).parents[2]
    if (source / ".git").exists():
        try:
            found, changed = (
                subprocess.run(
                    ["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=5, check=True
                ).stdout.strip()
                for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "src"])
            )
            return found + ("+" if changed else "")
        except (OSError, subprocess.SubprocessError):
            return None
    try:
        recorded = json.loads(distribution("whispertune").read_text("direct_url.json") or "{}")
        found = recorded.get("vcs_info", {}).get("commit_id")
    except (PackageNotFoundError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def free_memory() -> int:
    """Bytes of memory available to this process, within the system's and its container's limit (cgroup v2)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        if not hasattr(os, "sysconf"):
            return windows_free_memory()
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # macOS: half of all
    cgroup = Path("/sys/fs/cgroup")
    try:
        cgroup /= next(
            line[3:].lstrip("/")
            for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        )
    except (OSError, StopIteration):
        return free
    for folder in (cgroup, *cgroup.parents):
        try:
            limit, used = ((folder / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        except OSError:
            continue
        if limit.strip() != "max":
            # The page cache counts as used there, although it can be reclaimed.
            free = min(free, max(0, int(limit) - int(used)) + _page_cache(folder))
    return free


def free_memory_on(device: torch.device) -> int:
    """Bytes that this process can still take on a device; on a GPU also what PyTorch holds there and does not use."""
    if device.type != "cuda":
        return free_memory()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def spare_memory_on(device: torch.device) -> int:
    """Bytes of a GPU that were free even when this process held the most there."""
    if device.type != "cuda":
        return free_memory()
    most = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    return max(0, free_memory_on(device) - most)


def _page_cache(cgroup: Path) -> int:
    try:
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("active_file ", "inactive_file ")))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
