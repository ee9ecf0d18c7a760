"""Every error that whispertune raises on purpose.

    WhispertuneError              exit status 1
    ├── ExportError               an exported model does not transcribe what its source does
    ├── TrainingError             training itself failed (gradients that stay non-finite)
    │   └── ProcessLost           another process of this run has died or is stuck
    ├── StorageError              the disk filled up or failed while a run went on
    ├── Interrupted               a signal asked the run to stop; its state is saved
    ├── Stopped                   a search has seen enough of a run; nothing is saved
    └── UserError                 exit status 2: the input is at fault, and the line says what to do
        ├── ManifestError         a manifest, its columns or its rows
        ├── AudioError            an audio file that cannot be used
        ├── DataError             the data as a whole (empty valid set, leakage, too many exclusions)
        ├── RecipeError           a recipe field or a command-line flag
        ├── CheckpointError       a model that cannot be found, read or written
        └── RunFolderError        the output folder

The message is one line: what is wrong, where (file, row, field), and the remedy.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
"""Operating system errors of a full, failing or missing disk: the user's input is not at fault."""

MOST_CHARACTERS = 1000
"""Longest message; values quoted from a user's files may be of any length."""
TAIL = 300
"""Characters kept from the end of a longer message, where the remedy stands."""


def one_line(message: str) -> str:
    """The message with unprintable characters escaped and, if it is too long, its middle cut."""
    message = _shortened(message)
    if not message.isprintable():
        message = _shortened("".join(char if char.isprintable() else repr(char)[1:-1] for char in message))
    return message


def _shortened(message: str) -> str:
    if len(message) <= MOST_CHARACTERS:
        return message
    return f"{message[: MOST_CHARACTERS - TAIL - 3]} … {message[-TAIL:]}"


class WhispertuneError(Exception):
    """Base of all of them; `exit_status` is what the command line exits with.

    Its message is passed through `one_line`.

    others_lost: whether the run's other processes had died or hung as well when it was raised. met_by_all: whether
    every process raises it at the same point, so that collective operations still work.
    """

    exit_status = 1
    others_lost = False
    met_by_all = False

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class ExportError(WhispertuneError):
    """An exported model does not transcribe what its source does."""


class TrainingError(WhispertuneError):
    """Training cannot go on."""


class ProcessLost(TrainingError):  # noqa: N818 - an event, like Interrupted
    """Another process of this run has died or is stuck."""


class StorageError(WhispertuneError):
    """The disk filled up or failed during a run; files that were complete before still are."""


class Interrupted(WhispertuneError):  # noqa: N818 - not a fault
    """A signal asked the run to stop."""


class Stopped(WhispertuneError):  # noqa: N818 - not a fault
    """A sink of a run's rows ends the run on purpose: it is not to be resumed, and no state is saved."""


class UserError(WhispertuneError):
    """The user's input is at fault.

    problem: what is wrong. remedy: what to do, where it was given apart. The message holds both.
    """

    exit_status = 2

    def __init__(self, problem: str = "", *, remedy: str | None = None) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(problem if remedy is None else f"{problem}; {remedy}")


class ManifestError(UserError):
    """A manifest is missing, lacks a column or has a bad row.

    file, row, field: where the fault is, if known. problem: what is wrong, and the remedy.
    """

    def __init__(self, problem: str, *, file: object = None, row: int | None = None, field: str | None = None) -> None:
        named = "" if row is None else f", row {row}"
        named += "" if field is None else f", field {field!r}"
        super().__init__(problem if file is None else f"{file}{named}: {problem}")
        self.problem, self.row, self.field = problem, row, field
        self.file = None if file is None else str(file)


def refuse(fault: WhispertuneError) -> None:
    """Raise the fault: how readers report one when no list collects them."""
    raise fault


class AudioError(UserError):
    """An audio file cannot be used."""


class DataError(UserError):
    """The data as a whole cannot be used."""


class RecipeError(UserError):
    """A recipe field or a flag is unknown or has a bad value.

    field: its dotted name, such as `schedule.peak_lr`, which the message begins with; None where the fault is not one
    field's. problem: the message without that name, such as `is 0; it must be above 0`. others: the fields that the
    fault lies in as well. file: the recipe that the value stands in.
    """

    def __init__(
        self, problem: str = "", *, field: str | None = None, others: Sequence[str] = (), file: str | None = None
    ) -> None:
        where = "" if file is None else f"{file}: "
        super().__init__(problem if field is None else f"{where}{field} {problem}")
        self.problem, self.field, self.others, self.file = problem, field, tuple(others), file

    def located(self, section: str = "", file: str | None = None) -> RecipeError:
        """The same of a field in a section (`schedule.`), or in a file."""
        if self.field is None:
            return self
        others = [f"{section}{other}" for other in self.others]
        return RecipeError(self.problem, field=f"{section}{self.field}", others=others, file=file)


class CheckpointError(UserError):
    """A model cannot be found, read or written."""


class RunFolderError(UserError):
    """The run folder cannot be used."""


def is_disk_failure(error: OSError) -> bool:
    """Whether the error means a full or failing disk."""
    return error.errno in DISK_FAILURES
