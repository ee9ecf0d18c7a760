"""A tiny model, a few real clips, and whole runs on them: in this process, or in one that dies on purpose."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from whispertune import cli
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.dataset.splits import Split
from whispertune.decoding.rules import Hypothesis
from whispertune.evaluation import evaluate as validate
from whispertune.evaluation.error_rates import score_corpus
from whispertune.evaluation.evaluate import Evaluation
from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.model.config import WhisperConfig
from whispertune.model.whisper import Whisper, build_whisper
from whispertune.run import stages
from whispertune.run.recipe import Recipe
from whispertune.run.run_folder import RunFolder
from whispertune.states import cache
from whispertune.states.computed import EncoderStates, StateSource
from whispertune.text.targets import Target, make_target
from whispertune.training.averaging import Averaging
from whispertune.training.learner import Learner, TrainingData
from whispertune.training.metrics import MetricsFile, RunLog
from whispertune.training.optimiser import build_optimizer
from whispertune.training.options import OptimizerOptions, ScheduleOptions
from whispertune.training.pace import Pace
from whispertune.training.plan import BatchPlan
from whispertune.training.resume import Progress, StopSignal
from whispertune.training.schedule import build_schedule
from whispertune.training.trainer import Trainer
from whispertune.training.working_copy import WorkingCopy

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))
import checkpoint_samples

TIMES = ("seconds", "audio_rate", "memory_gb", "seconds_left")
"""Fields of the rows of metrics.jsonl that no two runs have in common."""
CLIPS = Path(__file__).parents[2] / "examples" / "italian-prompts"
CONFIG = checkpoint_samples.CONFIG
PAD_ID = checkpoint_samples.VOCAB["<|endoftext|>"]


def tiny_whisper(seed: int = 0, config: WhisperConfig = CONFIG, scale: float = 0.05) -> Whisper:
    """A random Whisper in float32 whose LayerNorm gains lie near 1, as in a trained one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Whisper(config).state_dict().items()}
    weights = {name: torch.randn(shape, generator=generator) * scale for name, shape in shapes.items()}
    for name, weight in weights.items():
        if "norm.weight" in name:
            weight += 1
    return build_whisper(config, weights)


def tiny_targets(lengths: Sequence[int], seed: int = 0, *, prompt_loss: bool = False) -> list[Target]:
    """Targets of `[sot, it, transcribe, no timestamps, lengths[i] random characters, eot]`."""
    generator = torch.Generator().manual_seed(seed)
    names = ("<|startoftranscript|>", "<|it|>", "<|transcribe|>", "<|notimestamps|>")
    prompt = [checkpoint_samples.SPECIALS[name] for name in names]
    return [
        make_target(
            prompt,
            torch.randint(0, 256, (length,), generator=generator).tolist(),
            PAD_ID,
            sot=prompt[0],
            prompt_loss=prompt_loss,
        )
        for length in lengths
    ]


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A Hugging Face folder with a random tiny English-only model (multilingual ones have 51865 tokens)."""
    folder.mkdir(parents=True)
    checkpoint = checkpoint_samples.sample(multilingual=False)
    # This vocabulary has no " a": a text begins with a space of its own, which Whisper suppresses as blank.
    checkpoint.generation["begin_suppress_tokens"] = [PAD_ID]
    checkpoint.generation["alignment_heads"] = [[0, 1]]  # else each run looks for some
    save_huggingface(folder, checkpoint, tiny_whisper(seed).state_dict(), language=None, model_card=None)
    return folder


def write_manifest(path: Path, split: str, ids: Sequence[str], times: int = 1) -> Path:
    """A manifest of these clips of the Italian prompts, each so many times."""
    with (CLIPS / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "audio", "text"])
        for number in range(times):
            suffix = f"-{number}" if times > 1 else ""
            writer.writerows([name + suffix, CLIPS / rows[name]["audio"], rows[name]["text"]] for name in ids)
    return path


class GivenStates:
    """Encoder states (K, D) of each window, given; each frame stands for itself."""

    def __init__(self, states: Sequence[torch.Tensor]) -> None:
        self.states = states

    def prepare(self, batches: Sequence[Sequence[int]], view: int = 0) -> None:
        pass

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        rows = [self.states[index] for index in indices]
        weights = torch.full((len(rows), max(map(len, rows))), PADDING_LOG_WEIGHT)
        for row, states in enumerate(rows):
            weights[row, : len(states)] = 0
        return EncoderStates(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), weights, tuple(map(len, rows)))


def random_states(num_frames: Sequence[int], d_model: int = CONFIG.d_model) -> GivenStates:
    generator = torch.Generator().manual_seed(1)
    return GivenStates([torch.randn(n, d_model, generator=generator) for n in num_frames])


def fabricated(errors: Sequence[int], words: int = 4) -> Evaluation:
    """An evaluation whose i-th utterance has so many of its words wrong."""
    references = [" ".join(f"w{n}" for n in range(words)) for _ in errors]
    hypotheses = [" ".join(["x"] * wrong + [f"w{n}" for n in range(wrong, words)]) for wrong in errors]
    ids = [f"u{n}" for n in range(len(errors))]
    score = score_corpus(ids, references, hypotheses, ["it"] * len(ids))
    return Evaluation("valid", 1, score, [Hypothesis((), 0.0)] * len(ids), loss=1.0)


def make_trainer(
    folder: Path,
    whisper: Whisper,
    states: StateSource | Callable[[Whisper], StateSource],
    targets: Sequence[Target],
    **options: Any,
) -> Trainer:
    """A trainer over these targets; validation is fabricated (`evaluations`, the baseline's first).

    states: given, or made from the model that computes. options: dtype, copies, progress, save_best, and fields of a
    recipe.
    """
    run = RunFolder(folder)
    run.create()
    evaluations, copies = iter(options.pop("evaluations", [fabricated([1])] * 100)), options.pop("copies", 1)
    schedule = build_schedule(ScheduleOptions(peak_lr=1e-3, warmup_steps=4), d_model=64, total_steps=100)
    progress = options.pop("progress", None)
    save_best = options.pop("save_best", lambda weights, model: None)
    is_worse = options.pop("is_worse", lambda model: False)
    untouched = {name: tensor.clone() for name, tensor in whisper.state_dict().items()}
    settings = options.pop("optimizer_options", OptimizerOptions())
    dtype, usual = options.pop("dtype", torch.float32), settings.name == "adamw"
    working = WorkingCopy(whisper, dtype, narrow_gradients=usual)
    fields = {"epochs": 1, "batch_size": 2, "accumulation": 1, "optimizer": settings, **options}
    recipe = Recipe(model="", train="", valid="", output=str(folder), **fields)
    progress = progress or Progress(BatchPlan(recipe.batch_size, recipe.accumulation))
    lengths = [len(target.input_ids) for target in targets]
    source = states(working.model) if callable(states) else states
    log = RunLog(MetricsFile(run.metrics))
    return Trainer(
        options=recipe,
        learner=Learner(
            whisper, working, build_optimizer(whisper, settings), schedule
        ),
        data=TrainingData(
            Split("train", [], lengths, list(targets), [], {}, [], len(targets)), source,
            lambda index, epoch: [targets[index]] * copies, copies, PAD_ID,
        ),
        progress=progress, state=run.state, resume_command=run.resume_command,
        log=log, stop=StopSignal(),
        validate=lambda name, model: next(evaluations), save_best=save_best, note_unreadable=lambda: None,
        averaging=Averaging(
            recipe.average, {n: p for n, p in whisper.named_parameters() if p.requires_grad},
            lambda: untouched,
        ),
        is_worse=is_worse, pace=Pace(recipe, progress, log, lengths, torch.device("cpu")),
    )  # fmt: skip


TRAIN_IDS = (
    "letters_q", "vm-for", "hello", "digits_9", "vm-press", "digits_7", "digits_30", "agent-incorrect",
    "vm-from", "spy-sip", "digits_un",
)  # fmt: skip
VALID_IDS = ("digits_h-1", "vm-first", "letters_zed", "conf-hasleft")
TEST_IDS = ("vm-and", "letters_l", "added")


@dataclass(frozen=True)
class Samples:
    """What runs need. `train`: 11 clips, so 3 updates an epoch at batch 2 and accumulation 2 (the last smaller)."""

    model: Path
    train: Path
    valid: Path
    test: Path

    def arguments(self, output: Path, **fields: object) -> list[str]:
        """A train command; fields as `schedule__peak_lr=1e-3`, None drops one."""
        given: dict[str, object] = {
            "model": self.model, "train": self.train, "valid": self.valid, "language": "en", "output": output,
            "precision": "fp32", "batch_size": 2, "accumulation": 2, "epochs": 2, "schedule__peak_lr": 1e-3,
            "schedule__warmup_steps": 4, "report": "false",
            **fields,
        }  # fmt: skip
        flags = {name.replace("__", "."): value for name, value in given.items() if value is not None}
        return ["train", *(f"--{name}={value}" for name, value in flags.items())]

    def train_run(self, output: Path, **fields: object) -> int:
        """Train in this process; the exit status."""
        return cli.main(self.arguments(output, **fields))


def make_samples(folder: Path) -> Samples:
    return Samples(
        save_tiny_model(folder / "model"),
        write_manifest(folder / "train.csv", "train", TRAIN_IDS),
        write_manifest(folder / "valid.csv", "valid", VALID_IDS),
        write_manifest(folder / "test.csv", "test", TEST_IDS),
    )


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def step_rows(run: Path) -> list[dict[str, Any]]:
    """Rows of optimiser steps, skipped ones too."""
    return [row for row in metrics(run) if "split" not in row]


def valid_rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(run) if row.get("split") == "valid"]


def progress_of(run: Path) -> dict[str, Any]:
    with safe_open(run / "last" / "state.safetensors", framework="pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
    return progress


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def outcome(run: Path) -> dict[str, Any]:
    """All that a run leaves behind and that must not depend on how often it was stopped; bits, not values."""
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in metrics(run)]
    state = load_file(run / "last" / "state.safetensors")
    # metrics_size counts the digits of `seconds` as well, which the test's summary has too; the recipe names folders.
    progress = {key: value for key, value in progress_of(run).items() if not key.startswith("metrics_")}
    for name in ("recipe", "run"):  # its digest
        progress["began"].pop(name)
    for name in ("test/summary.json", "best/checksums.json"):
        progress["kept"].pop(name, None)
    files = [*run.glob("best/*"), *run.glob("adapter/*"), *run.glob("valid/*"), *run.glob("test/hypotheses.jsonl")]
    digests = {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    # The model card names the run folder.
    digests.pop("best/README.md")
    for checksums in run.glob("*/checksums.json"):
        about = json.loads(checksums.read_text())
        about.pop("run")  # names the recipe's digest
        about["sha256"].pop("README.md", None)
        digests[str(checksums.relative_to(run))] = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return {
        "metrics": rows,
        "progress": progress,
        "state": {
            name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for name, tensor in state.items()
        },
        "files": digests,
        "litter": sorted(str(path.relative_to(run)) for path in run.rglob("*") if ".whispertune-" in path.name),
    }


# Runs in a process of their own, which a hook can kill at an exact moment.


@dataclass(frozen=True)
class Moment:
    """Send `sent` to the run at the `nth` call of `module.name` ("Class.method" works too).

    `before` it, `after` it, or `amid`: when it has written the first kilobyte of the file it is given.
    """

    module: str
    name: str
    nth: int
    when: str = "before"
    sent: int = signal.SIGKILL
    times: int = 1


def strike(moment: Moment) -> None:
    """Make the moment happen in this process."""
    owner: Any = importlib.import_module(moment.module)
    *parents, name = moment.name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def hooked(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != moment.nth:
            return original(*arguments, **named)
        if moment.when == "before":
            for _ in range(moment.times):
                os.kill(os.getpid(), moment.sent)
        result = original(*arguments, **named)
        if moment.when == "amid":
            path = next(argument for argument in arguments if isinstance(argument, Path))
            os.truncate(path / "model.safetensors" if path.is_dir() else path, 1000)
        if moment.when != "before":
            os.kill(os.getpid(), moment.sent)
        return result

    setattr(owner, name, hooked)


class Runner:
    """Runs whispertune commands, each in a process of its own.

    They are forked from one process that has imported everything and computed nothing: seconds less for each.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._server = subprocess.Popen(
            [sys.executable, "-c", "import training_samples; training_samples.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def __call__(self, arguments: list[str], moment: Moment | None = None) -> int:
        """The exit status of a command, or the negative number of the signal that ended it."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self.log.write_text("")
        passed_on = ("XDG_CACHE_HOME", "WANDB_", "MLFLOW_")  # of this test
        environment = {name: value for name, value in os.environ.items() if name.startswith(passed_on)}
        job = {
            "arguments": arguments,
            "moment": moment and asdict(moment),
            "log": str(self.log),
            "environment": environment,
        }
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.communicate(timeout=60)


def prepare_server() -> None:
    """Import everything, and make runs small."""
    for command in ("train", "resume"):
        importlib.import_module(f"whispertune.commands.{command}")
    stages.CHECKED_WINDOWS = 2  # as in conftest.py
    cache.SPARE_BYTES = 0  # states are stored however full the disk is
    validate.MAX_TOKENS = 40  # a random model does not end by itself, and the final test has no other bound
    # PyTorch imports a second's worth of modules when the first optimiser is made.
    build_optimizer(torch.nn.Linear(1, 1), OptimizerOptions()).zero_grad()


def serve() -> None:
    """The other end of `Runner`."""
    prepare_server()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            with Path(job["log"]).open("a", encoding="utf-8") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                os.environ.update(job["environment"])
                try:
                    if job["moment"] is not None:
                        strike(Moment(**job["moment"]))
                    status = cli.main(job["arguments"])
                except BaseException:
                    traceback.print_exc()
                    status = 99
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
