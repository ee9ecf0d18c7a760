"""python -m whispertune: what launchers start (torchrun -m whispertune train …)."""

from __future__ import annotations

from whispertune.cli import entry_point

if __name__ == "__main__":
    entry_point()
