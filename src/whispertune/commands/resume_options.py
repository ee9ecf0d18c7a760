"""The help of `whispertune resume`."""

from __future__ import annotations

from textwrap import fill

from whispertune.run.recipe import FREE_TO_CHANGE

FLAGS = [f"--{name}" for name in FREE_TO_CHANGE if name != "output"]

DESCRIPTION = f"""Take a run up where it stopped.

whispertune resume RUN [--data.workers N] [--field value …]

RUN is the --output of `whispertune train`. The run ends with the same weights and metrics as if it had never
stopped (on a GPU up to rounding). What it will read is compared with its checksums first. A finished run is left
alone.

--epochs N trains on to more epochs than before, a finished run too, which is then tested again: with schedule.name noam
or constant, and schedule.warmup_steps a number or at its bound. --model, --train, --valid and --test may name another
place of the same content.

These fields decide no result and may have other values than before:
{fill(", ".join(FLAGS), 110, break_on_hyphens=False)}"""


def usage() -> str:
    """What --help prints."""
    return DESCRIPTION
