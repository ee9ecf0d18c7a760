"""`whispertune train ARGUMENTS` with the seconds of each stage reported at the end; started by other benchmarks.

    python benchmarks/timed_train.py ARGUMENTS-OF-TRAIN

The stages are the progress bars (`checking train`, `encoding train`, `epoch 1/4: training`, …), wherever in the
code they are shown. On a GPU the peak of allocated memory is reported too.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import report_result

from whispertune.commands import train
from whispertune.run.run_folder import RunFolder
from whispertune.system import console
from whispertune.system.files import read_jsonl


def time_progress_bars() -> dict[str, float]:
    """Make every progress bar add its seconds to the mapping that is returned, under its label."""
    seconds: dict[str, float] = defaultdict(float)
    original: Callable[..., Any] = console.progress_bar

    @contextmanager
    def timed(label: str, *others: Any, **named: Any) -> Iterator[Any]:
        started = time.perf_counter()
        try:
            with original(label, *others, **named) as advance:
                yield advance
        finally:
            seconds[label] += time.perf_counter() - started

    for name, module in list(sys.modules.items()):
        if name.startswith("whispertune") and getattr(module, "progress_bar", None) is original:
            vars(module)["progress_bar"] = timed
    return seconds


def main() -> int:
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0
    stages = time_progress_bars()
    status = train.main(sys.argv[1:])
    if status == 0:
        output = Path(sys.argv[sys.argv.index("--output") + 1])
        gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
        rows = read_jsonl(RunFolder(output).metrics)
        report_result({"stages": dict(stages), "metrics": rows, "gpu_gb": gpu})
    return status


if __name__ == "__main__":
    sys.exit(main())
