"""What the benchmarks share: the machine in one line, manifests cut down, a command measured, a table written."""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "italian-prompts"
RESULTS = ROOT / "benchmarks" / "results"
RESULT_MARK = "BENCHMARK-RESULT "
"""A measured child process prints this and one JSON object in its last line."""


def machine_line() -> str:
    """CPU, cores, threads, GPU if any, torch, commit: what a figure is worth nothing without."""
    import torch  # here: a parent that only starts others stays small

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "src"], capture_output=True, text=True).stdout.strip()
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}, "
        f"commit {commit or 'unknown'}{' with changes' if changed else ''}"
    )


def add_common(parser: argparse.ArgumentParser, name: str) -> None:
    """The options that every benchmark has."""
    today = datetime.date.today().isoformat()
    parser.add_argument(
        "--table", type=Path, default=RESULTS / f"{today}-{name}.md", help="Markdown file to write (%(default)s)"
    )


def command_line() -> str:
    """The command as it was typed, for the result file."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script
    return " ".join(["python", str(shown), *sys.argv[1:]])


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(path: Path, title: str, parts: Sequence[str]) -> None:
    """Print the parts and write them under title, command and machine."""
    today = datetime.date.today().isoformat()
    text = "\n\n".join([f"# {today}: {title}", f"`{command_line()}`", machine_line(), *parts]) + "\n"
    print("\n" + text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"written to {path}")


def cut_manifest(sources: Sequence[Path], target: Path, clips: int | None = None) -> Path:
    """Rows of CSV manifests with an `audio` column in one file, audio paths absolute; `clips` spread over them."""
    rows = []
    for source in sources:
        with source.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows.append(row | {"audio": str((source.parent / row["audio"]).resolve())})
    if clips is not None and clips < len(rows):
        rows = [rows[i * len(rows) // clips] for i in range(clips)]
    return write_rows(target, rows)


def write_rows(target: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A CSV manifest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return target


@dataclass(frozen=True)
class Measured:
    """A finished child process: wall seconds, peak resident memory (GB), and what it reported."""

    seconds: float
    peak_gb: float
    report: dict[str, Any]


def measure(command: Sequence[str], *, cache: Path) -> Measured:
    """Run a command whose last line is a report; XDG_CACHE_HOME is `cache`, so nothing kept earlier helps it.

    Raises:
        SystemExit: if it fails.
    """
    started = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    report: dict[str, Any] = {}
    for line in process.stdout:
        if line.startswith(RESULT_MARK):
            report = json.loads(line.removeprefix(RESULT_MARK))
        else:
            print("  " + line, end="", flush=True)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command[:4])} … failed with status {process.returncode}")
    return Measured(time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9, report)


def report_result(content: dict[str, Any]) -> None:
    """Print a child's report for `measure`."""
    print("\n" + RESULT_MARK + json.dumps(content), flush=True)


def percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.1f} %"


def ratio(theirs: float | None, ours: float | None) -> str:
    """How many times less ours takes."""
    return f"{theirs / ours:.1f} x" if theirs and ours else "–"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
