"""The help of `whispertune resume`."""

from __future__ import annotations

from whispertune.run.help_text import columns, paragraphs
from whispertune.run.recipe import FREE_TO_CHANGE

FLAGS = [f"--{name}" for name in FREE_TO_CHANGE if name != "output"]

USAGE = "whispertune resume RUN [--epochs N] [--data.workers N] [--field value …]"

DESCRIPTION = f"""Continue a run where it stopped.

RUN is the --output of `whispertune train`. The run ends with the same weights and metrics as if it had never been
interrupted (on a GPU up to rounding). The files that it reads are compared with their checksums first. A finished run
is left alone.

--epochs N trains for more epochs than before, even after the run has finished, and then tests again. It needs a
schedule whose learning rate does not depend on the length of the run: schedule.name noam or constant, and
schedule.warmup_steps a number, or auto in a run long enough for its maximum of 500. --model, --train, --valid and
--test may be given if the same files now lie elsewhere.

These fields do not affect the results and may have other values than before: {", ".join(FLAGS)}"""


def usage() -> str:
    """The text of --help."""
    return "\n".join([f"usage: {USAGE}", "", *paragraphs(DESCRIPTION, columns())])
