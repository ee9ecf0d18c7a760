"""evaluate, transcribe and check in several processes: the files of one process, whatever dies on the way."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from process_samples import Launcher
from training_samples import Moment, Samples

CLIPS = Path(__file__).parents[2] / "examples" / "italian-prompts" / "audio"
LONG_FORM = "whispertune.decoding.long_form", "LongForm._move_on"
SEARCH = "whispertune.evaluation.transcript_search", "TranscriptSearch.search"


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, without the times in summary.json."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in [name for name in found if name.endswith("summary.json")]:
        found[name] = re.sub(rb'"seconds": [0-9.]+', b'"seconds": 0', found[name])
    return found


def equal_files(launch: Launcher, folder: Path, arguments: list[str], status: int = 0) -> dict[str, bytes]:
    """The files that a command writes, which must be the same with one and with two processes."""
    found = []
    for world_size in (1, 2):
        output = folder / str(world_size) / "output"
        ended = launch([*arguments, f"--output={output}"], world_size=world_size)
        assert ended.statuses == [status] * world_size, ended.logs
        found.append(files_of(output))
    assert found[1] == found[0]
    return found[0]


@pytest.fixture
def rows(samples: Samples, tmp_path: Path) -> Path:
    """The training clips, and one whose audio is missing."""
    lines = samples.train.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([*lines[:4], "absent,absent.wav,Uno", *lines[4:]]) + "\n", encoding="utf-8")
    return path


def test_evaluate(samples: Samples, launch: Launcher, rows: Path, tmp_path: Path) -> None:
    flags = [
        f"--model={samples.model}", f"--baseline={samples.model}", f"--data={rows}", "--language=en",
        "--precision=fp32", "--beam_size=2", "--max_excluded=0.5",
    ]  # fmt: skip
    found = equal_files(launch, tmp_path, ["evaluate", *flags])
    assert {"hypotheses.jsonl", "summary.json", "excluded.jsonl", "baseline/hypotheses.jsonl"} <= found.keys()
    assert len(found["hypotheses.jsonl"].splitlines()) == 11


@pytest.mark.slow
def test_evaluate_with_probes(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    flags = [
        f"--model={samples.model}", f"--data={samples.train}", "--language=en", "--precision=fp32", "--beam_size=1",
        "--timestamps=true", "--long_form=true", "--hallucination=true",
    ]  # fmt: skip
    found = equal_files(launch, tmp_path, ["evaluate", *flags])
    assert {"timestamps", "long_form", "hallucination"} <= json.loads(found["summary.json"]).keys()


def transcribe_flags(samples: Samples, rows: Path) -> list[str]:
    audio = [line.split(",")[1] for line in rows.read_text(encoding="utf-8").splitlines()[1:]]
    flags = ["--precision=fp32", "--beam_size=1", "--temperature=0", "--batch_size=2", "--format=txt,json"]
    return ["transcribe", *audio, f"--model={samples.model}", *flags]


def test_transcribe(samples: Samples, launch: Launcher, rows: Path, tmp_path: Path) -> None:
    """One recording is missing: told once, and the status is 2 in all."""
    arguments = transcribe_flags(samples, rows)
    found = equal_files(launch, tmp_path, arguments, status=2)
    assert sum(name.endswith(".json") for name in found) == 11
    ended = launch([*arguments, f"--output={tmp_path / '2' / 'output'}"])
    assert "11 of 12 are there already" in ended.logs[0]
    assert [sum("absent.wav" in line for line in log.splitlines()) for log in ended.logs] == [1, 0]
    assert launch([flag for flag in arguments if not flag.startswith("--format")]).errors == [
        "error: output is missing; several processes write their transcripts into a folder"
    ]


def test_check(samples: Samples, launch: Launcher, rows: Path, tmp_path: Path) -> None:
    flags = [str(rows), str(samples.valid), "--language=en", f"--model={samples.model}", "--precision=fp32"]
    found = equal_files(launch, tmp_path, ["check", *flags], status=2)
    assert {"check.jsonl", "summary.json", "check.html", "ranking.jsonl"} <= found.keys()


def test_a_dead_process_is_named_and_what_is_written_is_kept(
    samples: Samples, launch: Launcher, rows: Path, tmp_path: Path
) -> None:
    """The same command, by one process, then does the rest."""
    arguments = [*transcribe_flags(samples, rows), f"--output={tmp_path / 'output'}"]
    ended = launch(arguments, moment=Moment(*LONG_FORM, 2))
    assert ended.statuses == [1, -signal.SIGKILL], ended.logs
    (line,) = ended.errors
    assert line.startswith("error: rank 1 of 2 is gone or stuck")
    assert line.endswith("what is written is kept; give the same command again for the others")
    kept = files_of(tmp_path / "output")
    assert 6 <= sum(name.endswith(".json") for name in kept) < 11
    ended = launch(arguments, world_size=1)
    assert ended.statuses == [2], ended.logs
    assert "are there already and kept" in ended.logs[0]
    found = files_of(tmp_path / "output")
    assert sum(name.endswith(".json") for name in found) == 11
    assert {name: found[name] for name in kept if name.endswith((".json", ".txt"))}.items() <= kept.items()


def test_evaluate_names_a_dead_process(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    flags = [f"--model={samples.model}", f"--data={samples.train}", "--language=en", "--beam_size=1"]
    ended = launch(["evaluate", *flags, f"--output={tmp_path}"], moment=Moment(*SEARCH, 1))
    assert ended.statuses == [1, -signal.SIGKILL], ended.logs
    (line,) = ended.errors
    assert line.startswith("error: rank 1 of 2 is gone or stuck")
    assert (tmp_path / "excluded.jsonl").exists()


def test_a_mistake_is_told_once(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in (["evaluate", "--data=nowhere.csv"], ["transcribe", "nowhere/*.wav"], ["check", "nowhere.csv"]):
        ended = launch([*command, f"--model={samples.model}", f"--output={tmp_path / 'output'}"])
        assert ended.statuses == [2, 2], ended.logs
        assert len(ended.errors) == 1
        ended = launch([*command, f"--model={samples.model}", f"--output={tmp_path / 'file'}"])
        assert ended.statuses == [2, 2], ended.logs
        assert len(ended.errors) == 1
