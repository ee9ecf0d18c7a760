"""The command line: runs the command that is named. What it computes with is imported only then, for a quick --help."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from whispertune import __version__
from whispertune.errors import WhispertuneError, one_line

COMMANDS = {
    "init": "look at a folder of recordings and suggest the next commands",
    "train": "fine-tune a Whisper model on your own speech",
    "resume": "continue a run where it stopped",
    "evaluate": "decode data and score the output: WER and CER",
    "transcribe": "transcribe recordings of any length: text, subtitles, JSON",
    "correct": "correct transcripts on a page, those most likely wrong first",
    "report": "show a run, or compare several: a page, plots, tables",
    "check": "check data before you spend compute on it",
    "align": "cut long recordings and their plain text into pieces to train on",
    "tune": "search for the settings that give the best model",
    "split": "divide a corpus into train, valid and test, without leakage",
    "export": "convert a model for other programs, or upload it to the Hub",
}

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
NO_MEMORY = (
    "out of memory: close other programs, use a smaller model, batch_size or beam_size or, in training, "
    "--batch.auto or --recompute true; whispertune resume continues a run that had started"
)

HELP = f"""whispertune {__version__}: fine-tune Whisper on your own speech

usage: whispertune COMMAND …     (whispertune COMMAND --help lists its flags)

{chr(10).join(f"  {name:<10} {what}" for name, what in COMMANDS.items())}

first steps:
  whispertune init recordings/
  whispertune check train.csv valid.csv --language it --output check
  whispertune train --model openai/whisper-base --train train.csv \\
      --valid valid.csv --language it --output runs/first
  whispertune evaluate --model runs/first --data test.csv --language it
  whispertune transcribe --model runs/first talk.mp3 recordings/ \\
      --format srt,json --output transcripts

train.csv and the like are manifests: a CSV, TSV or JSONL file with the columns
`audio` and `text`, one row per utterance. In flags, - and _ are the same:
--beam-size is --beam_size."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 2 the input is at fault, 1 anything else."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        import difflib  # here, as --help must be instant

        near = difflib.get_close_matches(name, COMMANDS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
        print(f"error: {one_line(f'unknown command {name!r}; {remedy}')}", file=sys.stderr)
        return 2
    try:
        if "-h" in rest or "--help" in rest:
            print(importlib.import_module(f"whispertune.commands.{name}_options").usage())
            return 0
        command = importlib.import_module(f"whispertune.commands.{name}")
        status: int = command.main(rest)
        return status
    except WhispertuneError as error:
        return _print_error(error, error.exit_status)
    except OSError as error:  # a full disk, a deleted file, a closed pipe: a traceback would not help
        too_long = error.errno == errno.ENAMETOOLONG
        return _print_error(error, 2, f"{error}; give a shorter path") if too_long else _print_error(error, 1)
    except (MemoryError, RuntimeError) as error:
        # PyTorch raises RuntimeErrors of its own for GPU memory and for CPU memory.
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        return _print_error(error, 1, f"{NO_MEMORY} ({str(error).partition(chr(10))[0][:120] or 'MemoryError'})")
    except KeyboardInterrupt as error:
        return _print_error(error, 1, "interrupted")


def _print_error(error: BaseException, status: int, message: str = "") -> int:
    """Print one line on standard error and return the status; with WHISPERTUNE_TRACEBACK set, raise the error."""
    if os.environ.get("WHISPERTUNE_TRACEBACK"):
        raise error
    from whispertune.system.console import printable  # here, as it imports rich, which --help does not need

    print(f"error: {printable(one_line(message or str(error)))}", file=sys.stderr)
    return status


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def entry_point() -> NoReturn:
    """The console script: run the command line and exit with its status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on standard error, escape characters that the terminal's or pipe's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # by default nothing would be cleared up
        signal.signal(signal.SIGTERM, _interrupt)
    status = main()
    processes = sys.modules.get("whispertune.system.processes")
    if processes is not None:
        processes.end(status)
    sys.exit(status)


if __name__ == "__main__":
    entry_point()
