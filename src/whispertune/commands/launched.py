"""A command in each of the processes that a launcher has started, or in the only one."""

from __future__ import annotations

from collections.abc import Callable

from whispertune.errors import ProcessLost, WhispertuneError
from whispertune.system.console import console, results
from whispertune.system.options import SharingOptions
from whispertune.system.processes import ALONE, Processes, init_processes


def share_out(command: Callable[[Processes], int], device: str, options: SharingOptions, remedy: str) -> int:
    """The exit status of `command`, which all processes run together; only the main one prints.

    device: as in the options. remedy: what to do if a process was lost.
    """
    processes = ALONE
    try:
        processes = init_processes(device, options)
        if processes.world_size == 1:
            return command(processes)
        console.quiet = results.quiet = not processes.is_main
        status = command(processes)
        processes.barrier()  # the store goes with the main process, so none leaves before the others
        return status
    except (Exception, KeyboardInterrupt) as error:
        if processes.world_size == 1:
            raise
        return raise_once(error, processes, remedy)


def raise_once(error: BaseException, processes: Processes, remedy: str) -> int:
    """Raise the error in the one process that reports it; in the others return the exit status."""
    if not processes.should_report():
        return error.exit_status if isinstance(error, WhispertuneError) else 1
    if isinstance(error, ProcessLost):
        raise ProcessLost(f"{error}; {remedy}") from None
    if isinstance(error, WhispertuneError) and not processes.is_main:
        raise type(error)(f"{processes.name}: {error}") from None
    raise error
