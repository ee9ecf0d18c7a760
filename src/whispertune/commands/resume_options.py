"""The help of `whispertune resume`."""

from __future__ import annotations

from textwrap import fill

from whispertune.run.recipe import FREE_TO_CHANGE

FLAGS = [f"--{name}" for name in FREE_TO_CHANGE if name != "output"]

DESCRIPTION = f"""Continue a run where it stopped.

whispertune resume RUN [--data.workers N] [--field value …]

RUN is the --output of `whispertune train`. The run ends with the same weights and metrics as if it had never been
interrupted (on a GPU up to rounding). The files that it reads are compared with their checksums first. A finished run
is left alone.

--epochs N trains for more epochs than before, even after the run has finished, and then tests again. This takes
schedule.name noam or constant, and schedule.warmup_steps as a number or at its limit. --model, --train, --valid and
--test may name another place of the same content.

These fields do not affect the results and may have other values than before:
{fill(", ".join(FLAGS), 110, break_on_hyphens=False)}"""


def usage() -> str:
    """The text of --help."""
    return DESCRIPTION
