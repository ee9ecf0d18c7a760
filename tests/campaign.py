"""Random kills and random damages, seeded: python tests/campaign.py --kills 100 --damages 1000 --seed 0

Kills: tiny runs, of one process and of two, get SIGKILL at random times, are resumed and compared bit for bit with runs
that nobody disturbed: no differing bit, no temporary file left, nothing lost but what came after the last state.

Damages: a file of a run, a store, a manifest, a model or a recording is damaged, then a command runs that a user would
type: no traceback, no success that hides the damage, no file of the user's touched.

`--seconds` bounds each of the two; the exit status is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Two processes of two threads each on two cores can take longer than a run is given before it counts as hanging.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path += [str(Path(__file__).parent / "training"), str(Path(__file__).parent / "checkpoints")]

import process_samples
from safetensors import SafetensorError
from training_samples import CLIPS, Samples, make_samples, outcome, prepare_server, progress_of

from whispertune import cli

SMALL_BATCHES = 700
"""Frames encoded together: several files of states, of which each process encodes some."""
CONFIGURATIONS: dict[str, dict[str, object]] = {
    "stored": {"checkpoint__every_steps": 1, "search__beam_size": 2},
    "augmented": {"checkpoint__every_steps": 2, "augment__speed__probability": 0.9, "validation__every_steps": 2},
    "encoder learns": {"checkpoint__every_steps": 1, "freeze": "none"},
}
"""Of runs that are killed, each with one process and with two."""


@dataclass
class Found:
    """What went wrong, and how much was tried."""

    tried: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        self.faults.append(text)
        print(f"FAULT {text}", file=sys.__stdout__, flush=True)  # not to what is caught of a command


# Kills.


def start(arguments: list[str], world_size: int, logs: Path) -> list[int]:
    """Fork the processes of a command; their ids by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {
        "arguments": arguments, "world": world_size, "rank": -2, "moment": None, "fault": "",
        "cache": os.environ["XDG_CACHE_HOME"], "logs": [str(logs / str(rank)) for rank in range(world_size)],
    }  # fmt: skip
    return [process_samples._start(job, rank, port) for rank in range(world_size)]


def finish(children: list[int]) -> list[int | None]:
    """Wait for them: exit statuses, None for one that hung."""
    return process_samples._wait(children)


def kills(number: int, seed: int, seconds: float, work: Path) -> Found:
    """Kill so many runs."""
    found, chance, until = Found(), random.Random(seed), time.monotonic() + seconds
    samples = make_samples(work / "samples")
    without_heads = shutil.copytree(samples.model, work / "without heads")
    settings = json.loads((without_heads / "generation_config.json").read_text(encoding="utf-8"))
    del settings["alignment_heads"]  # the run looks for some
    (without_heads / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    logs = work / "logs"
    logs.mkdir()
    references: dict[tuple[str, int], tuple[dict[str, Any], float]] = {}
    while found.tried < number and time.monotonic() < until:
        name, world_size = chance.choice(list(CONFIGURATIONS)), chance.choice((1, 2))
        # A store of its own, so that encoding is among what is killed.
        store = work / "states"
        shutil.rmtree(store, ignore_errors=True)
        fields = {"states__folder": store, **CONFIGURATIONS[name]}
        fields |= {"test": samples.test} if name == "stored" else {}
        fields |= {"model": without_heads} if name == "augmented" else {}
        if (name, world_size) not in references:
            whole, began = work / f"whole-{len(references)}", time.monotonic()
            statuses = finish(start(samples.arguments(whole, **fields), world_size, logs))
            if statuses != [0] * world_size:
                found.fault(
                    f"{name}, {world_size} processes: undisturbed it ends with {statuses}: {printed(logs)[-800:]}"
                )
                return found
            references[name, world_size] = outcome(whole), time.monotonic() - began
            shutil.rmtree(store, ignore_errors=True)
        whole_outcome, lasts = references[name, world_size]
        run = work / "run"
        command, times = samples.arguments(run, **fields), []
        for _ in range(chance.choice((1, 1, 2))):
            times.append(chance.uniform(0, lasts))
            children = start(command, world_size, logs)
            time.sleep(times[-1])
            victim = chance.choice(children)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            finish(children)
            found.tried += 1
        label = f"{name}, {world_size} processes, killed after {', '.join(f'{t:.2f}' for t in times)} s of {lasts:.1f}"
        state = run / "last" / "state.safetensors"
        before = progress_of(run) if state.exists() else {"step": 0, "finished": False}
        statuses = finish(start(command, world_size, logs))
        if statuses != [0] * world_size:
            found.fault(f"{label}: the resumed run ends with {statuses}: {printed(logs)[-800:]}")
        elif (now := outcome(run)) != whole_outcome:
            found.fault(f"{label}: differs in {'; '.join(differences(now, whole_outcome))}")
        elif left := [path for path in store.rglob("*") if path.is_file() and path.suffix not in ("", ".states")]:
            found.fault(f"{label}: left in the store: {left}")
        elif before["step"] and not before["finished"] and f"at update {before['step']}" not in printed(logs):
            found.fault(f"{label}: did not go on from update {before['step']}")
        shutil.rmtree(run, ignore_errors=True)
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Which parts of two outcomes differ, and the first entries of each part that do."""
    found = []
    for part in ours:
        one, other = (dict(enumerate(x)) if isinstance(x, list) else x for x in (ours[part], theirs[part]))
        different = [key for key in one | other if one.get(key) != other.get(key)]
        shown = ", ".join(f"{key} ({one.get(key)} instead of {other.get(key)})" for key in different[:2])
        if different:
            found.append(f"{len(different)} of {len(one | other)} in {part}: {shown}")
    return found


def printed(logs: Path) -> str:
    """What the main process of the last command said."""
    return " ".join((logs / "0").read_text(encoding="utf-8", errors="replace").split())


# Damages.


def overwrite(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 8, 64))):
        if content:
            content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def append(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.choice((1, 100, 5000))))


def zero(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    begin = chance.randrange(size + 1)
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(bytes(chance.randrange(size - begin + 1)))


def swap(path: Path, chance: random.Random) -> None:
    """With another file of the same folder."""
    others = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    if others:
        other = chance.choice(others)
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)


DAMAGES: list[Callable[[Path, random.Random], None]] = [overwrite, overwrite, truncate, remove, append, zero, swap]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_world(world_size: Path) -> Samples:
    """A model, manifests with recordings of their own, a run that was stopped, one that ended, and a store."""
    made = make_samples(world_size / "user")
    clips = world_size / "user" / "clips"
    clips.mkdir()
    for manifest in (made.train, made.valid, made.test):
        lines = manifest.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            for cell in line.split(","):
                source = Path(cell) if Path(cell).is_absolute() else CLIPS / cell
                if number and source.is_file():
                    shutil.copy(source, clips)
                    lines[number] = lines[number].replace(cell, f"clips/{source.name}")
        manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


@contextlib.contextmanager
def silent() -> Iterator[io.StringIO]:
    """Standard output and error as text."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        yield shown


def commands(samples: Samples) -> dict[str, list[str]]:
    """What a user would type, relative to the world's folder; `evaluate` and the others take the run's model."""
    clip = next(iter(sorted(Path("user/clips").iterdir())), Path("user/clips/gone.wav"))
    model = ["--model", "finished"]
    return {
        "resume stopped": ["resume", "stopped"],
        "resume finished": ["resume", "finished"],
        "train on the stopped": samples.arguments(Path("stopped"), checkpoint__every_steps=1, states__folder="states"),
        "evaluate": ["evaluate", *model, "--data", "user/test.csv", "--language", "en", "--output", "scores"],
        "transcribe": ["transcribe", *model, str(clip), "--language", "en", "--output", "texts"],
        "check": ["check", "user/train.csv", "user/valid.csv", "--language", "en", "--output", "checked"],
        "export": ["export", *model, "--to", "openai", "--output", "exported"],
    }


NOT_READ = {"README.md", "excluded.jsonl", "lock", "notes.txt"}
"""Files that decide no result."""


def damages(number: int, seed: int, seconds: float, work: Path) -> Found:
    """Damage so many files, each in a fresh copy."""
    found, chance, until = Found(), random.Random(seed), time.monotonic() + seconds
    whole, world = work / "whole", work / "world"
    whole.mkdir(parents=True)
    make_world(whole)
    samples = Samples(Path("user/model"), Path("user/train.csv"), Path("user/valid.csv"), Path("user/test.csv"))
    os.chdir(whole)
    fields: dict[str, object] = {"checkpoint__every_steps": 1, "states__folder": "states"}
    for run in ("stopped", "finished"):
        children = start(samples.arguments(Path(run), **fields), 1, work)
        if run == "stopped":
            while len(list((whole / run / "valid").glob("*.jsonl"))) < 2 and _alive(children[0]):
                time.sleep(0.005)
            os.kill(children[0], signal.SIGKILL)
        finish(children)
        (whole / run / "notes.txt").write_text("the user's own\n", encoding="utf-8")
    reference = outcome(whole / "finished")
    while found.tried < number and time.monotonic() < until:
        os.chdir(work)
        shutil.rmtree(world, ignore_errors=True)
        shutil.copytree(whole, world)
        os.chdir(world)
        kind, command = chance.choice(list(commands(samples).items()))
        where = chance.choice(
            ["finished" if "stopped" not in kind else "stopped"] * 3 + ["user/model", "user/clips", "user", "states"]
        )
        path = chance.choice([p for p in sorted(Path(where).rglob("*")) if p.is_file()])
        damage = chance.choice(DAMAGES)
        before = contents(Path(where))
        damage(path, chance)
        damaged = {name for name, digest in contents(Path(where)).items() if before.get(name) != digest}
        damaged |= before.keys() - contents(Path(where)).keys()
        users = {**contents(Path("user")), "notes": (Path("finished/notes.txt").is_file() and where != "finished")}
        label = f"seed {seed}, {found.tried}: {damage.__name__} {path}, then {kind}"
        found.tried += 1
        with silent() as shown:
            try:
                status = cli.main(command)
            except (Exception, SafetensorError):
                found.fault(f"{label}: {traceback.format_exc(limit=-3)}")
                continue
            except SystemExit as error:
                found.fault(f"{label}: left by {error!r}")
                continue
        text = shown.getvalue()
        # `transcribe` goes on with the next recording.
        errors = [line for line in text.splitlines() if line.startswith(("error:", "not transcribed:"))]
        if status not in (0, 1, 2) or (status and kind != "check" and len(errors) != 1) or "Traceback" in text:
            found.fault(f"{label}: status {status}, {len(errors)} error lines: {text[-300:]}")
        now = {**contents(Path("user")), "notes": (Path("finished/notes.txt").is_file() and where != "finished")}
        if now != users:
            found.fault(f"{label}: files of the user's were touched")
        decisive = {name for name in damaged if Path(name).name not in NOT_READ}
        if status == 0 and decisive and (problem := hidden(kind, where, path, decisive, reference, text)):
            found.fault(f"{label}: {problem}")
    os.chdir(work)
    return found


def _alive(child: int) -> bool:
    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def hidden(kind: str, where: str, path: Path, damaged: set[str], reference: dict[str, Any], text: str) -> str | None:
    """Why a success was wrong, if it was: it must have ended as without the damage, or have told of it.

    Recordings and manifests have no checksums of their own: what a run began with is compared, all else can't be.
    """
    if kind in ("resume stopped", "train on the stopped", "resume finished"):
        run = Path(kind.rpartition(" ")[2])
        if kind == "train on the stopped":
            run = Path("stopped")
        if kind == "resume finished" and where != "finished":
            return None  # nothing of it is read
        restarted = "starts anew" in text or "rewritten" in text or "taken instead" in text
        if "clips" in path.parts:
            return None
        if "left out" in text:
            return None
        try:
            if outcome(run) == reference:
                return None
        except (OSError, ValueError) as error:
            return f"success, but the run cannot be read: {error}"
        return f"success, but the run differs (told: {restarted})"
    if kind != "check" and where == "finished" and any(name.startswith("best/") for name in damaged):
        if damaged == {"best/checksums.json"} and not path.exists():
            return None  # the documented way to use a model unchecked
        return "success with a damaged best/"
    return None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most so long for kills, and for damages")
    options = parser.parse_args()
    prepare_server()
    process_samples.states.BATCH_FRAMES = SMALL_BATCHES
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        for what in (kills, damages):
            number = getattr(options, what.__name__)
            if number:
                work = Path(folder) / what.__name__
                work.mkdir()
                began = time.monotonic()
                found = what(number, options.seed, options.seconds, work)
                faults += len(found.faults)
                print(f"{found.tried} {what.__name__} in {time.monotonic() - began:.0f} s: {len(found.faults)} faults")
        os.chdir("/")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
