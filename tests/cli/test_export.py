"""`whispertune export`: what it writes, what it refuses, and that --verify fails where transcripts differ."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from cli_samples import Command, example_rows, write_manifest
from standard_samples import standard

from whispertune.checkpoints import ctranslate2_write, runtimes
from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.checksums import read_checksums, write_checksums
from whispertune.checkpoints.export_mark import MARK
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.checkpoints.packaged import MODELS
from whispertune.checkpoints.peft import save_adapter
from whispertune.commands import export
from whispertune.commands.export_options import ExportOptions
from whispertune.data.audio.waveforms import load_utterance
from whispertune.data.utterances import Utterance
from whispertune.errors import CheckpointError, ExportError
from whispertune.evaluation import verification
from whispertune.model.lora import Adapter, adapted_weights
from whispertune.model.options import LoraOptions
from whispertune.model.whisper import build_whisper
from whispertune.run.flags import parse_fields

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best/ of a run on Italian."""
    folder = tmp_path_factory.mktemp("run") / "best"
    checkpoint = standard()
    save_huggingface(folder, checkpoint, checkpoint.weights, language="it", model_card=None)
    return folder


def flags(model: Path, to: str, output: Path, *more: str) -> list[str]:
    return ["export", f"--model={model}", f"--to={to}", f"--output={output}", *more]


@pytest.mark.parametrize(
    ("to", "file"),
    [
        ("huggingface", "model.safetensors"),
        ("openai", "model.pt"),
        ("ctranslate2", "model.bin"),
        ("ggml", "ggml-model.bin"),
    ],
)
def test_each_format_from_a_run(model: Path, tmp_path: Path, command: Command, to: str, file: str) -> None:
    if to == "ctranslate2":
        pytest.importorskip("ctranslate2")
    output = tmp_path / "out" / "model"
    for _ in range(2):  # the second replaces the first
        outcome = command(flags(model.parent, to, output))
        assert outcome.status == 0, outcome.err
        assert str(output) in outcome.out
    names = {path.name for path in output.iterdir()}
    assert {file, "tokenizer.json", "generation_config.json", "preprocessor_config.json"} <= names
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    generation = json.loads((output / "generation_config.json").read_text())
    assert generation["language"] == "<|it|>"
    assert generation["task"] == "transcribe"
    assert generation["alignment_heads"] == [[1, 0]]
    assert generation["suppress_tokens"] == [1, 2, 7]
    assert ("float16" in outcome.out) == (to == "ggml")
    if to != "ggml":
        loaded = load_checkpoint(str(output)).weights
        assert all(torch.equal(loaded[name], tensor) for name, tensor in standard().weights.items())


@pytest.mark.parametrize("output", [".", "../out", "deep/.."])
def test_into_the_folder_one_is_in(
    model: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    outcome = command([*flags(model, "openai", folder)[:-1], f"--output={output}"])
    assert outcome.status == 0, outcome.err
    assert (folder / "model.pt").exists()
    assert f"load_model('{folder}/model.pt')" in outcome.out
    assert "cd into it again" in outcome.err
    assert list(tmp_path.iterdir()) == [folder]


def test_sharded_and_whole_again(model: Path, tmp_path: Path, command: Command) -> None:
    output = tmp_path / "out"
    outcome = command(flags(model, "huggingface", output, "--max-shard-gb=0.001"))
    assert outcome.status == 0, outcome.err
    assert len(list(output.glob("model-*.safetensors"))) > 1
    assert (output / "model.safetensors.index.json").exists()
    loaded = load_checkpoint(str(output)).weights
    assert all(torch.equal(loaded[name], tensor) for name, tensor in standard().weights.items())
    assert command(flags(model, "huggingface", output)).status == 0  # the shards were an export, too
    assert [path.name for path in output.glob("*.safetensors*")] == ["model.safetensors"]


def test_help(command: Command) -> None:
    outcome = command(["export", "--help"])
    assert outcome.status == 0
    for part in ("--verify [AUDIO …]", "--quantization", "--tokenizer", "huggingface|ctranslate2|ggml|openai"):
        assert part in outcome.out
    assert "  export " in command(["--help"]).out


def test_refusals(model: Path, tmp_path: Path, refused: Refused) -> None:
    output = tmp_path / "out"
    refused(["export", "--to=ggml", f"--output={output}"], "--model is missing")
    refused(
        flags(model, "onnx", output),
        "to is 'onnx'; it takes huggingface, ctranslate2, ggml, openai, peft or hub:USER/NAME",
    )
    refused(flags(model, "ggml", output, "--quantization=int8"), "quantization is int8; ggml takes float32 or float16")
    refused(flags(model, "huggingface", output, "--quantization=float16"), "huggingface takes float32")
    refused(flags(tmp_path / "absent", "ggml", output), "absent")
    refused(flags(model, "ggml", output, f"--tokenizer={model}"), "has its own tokenizer")
    refused(flags(model, "ggml", output, "--clips=3"), "--clips only says how to --verify")
    refused(flags(model, "ggml", output, "--max-shard-gb=1"), "ggml keeps its weights in one file")
    refused(flags(model, "huggingface", output, "--max-shard-gb=0"), "max_shard_gb is 0.0; it must be above 0")
    refused(flags(model, "huggingface", output, "--max-shard-gb=nan"), "max_shard_gb")
    refused(flags(model, "ggml", output, "--verify", "--max-different=2"), "max_different is 2.0")
    refused(flags(model, "openai", output, "--verify"), "--verify needs something to transcribe", "--data MANIFEST")
    refused(flags(model, "openai", output, "--verify", "a.wav", "--data=x.csv"), "give only one of them")
    assert not output.exists()


def test_output_that_would_be_lost(model: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    refused(flags(model, "ggml", tmp_path), "something other than an export (thesis.txt")
    refused(flags(model, "huggingface", model), "holds the model to be exported")
    refused(flags(model.parent, "huggingface", model), "holds the model to be exported")
    (tmp_path / "file").write_text("mine")
    refused(flags(model, "ggml", tmp_path / "file"), "--output: cannot write")
    assert (tmp_path / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert (model / "model.safetensors").exists()


@pytest.mark.parametrize("card", ["# Another", None])
def test_another_model_is_not_replaced(model: Path, tmp_path: Path, refused: Refused, card: str | None) -> None:
    """The best/ of another run, a model from the Hub, or one that `save_pretrained` wrote: files as of an export."""
    other, checkpoint = tmp_path / "other" / "best", standard()
    save_huggingface(other, checkpoint, checkpoint.weights, language="it", model_card=card)
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    refused(flags(model, "ggml", other), "something other than an export", "choose another folder")
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "change",
    [
        lambda out: (out / "notes.txt").write_text("mine"),  # added
        lambda out: (out / "model.pt").write_bytes(b"trained for a week"),  # another model put in its place
        lambda out: (out / "sub").mkdir(),
        lambda out: (out / ".writable").write_text("mine"),
        lambda out: ((out / "tokenizer.json").rename(out.parent / "t"), (out / "tokenizer.json").symlink_to("../t")),
        lambda out: (out / MARK).write_text("{"),
        lambda out: (out / MARK).write_text("[1]"),
        lambda out: (out / MARK).write_text('{"files": [1, 2]}'),
        lambda out: (out / MARK).unlink(),
    ],
)
def test_an_export_that_was_changed_is_not_replaced(
    model: Path, tmp_path: Path, command: Command, refused: Refused, change: Callable[[Path], object]
) -> None:
    out = tmp_path / "out"
    assert command(flags(model, "openai", out)).status == 0
    change(out)
    before = everything(tmp_path)
    refused(flags(model, "ggml", out), "something other than an export")
    assert everything(tmp_path) == before


def test_a_source_inside_the_output_is_kept(model: Path, tmp_path: Path, command: Command, refused: Refused) -> None:
    """By whatever links it is named: the folder would be replaced, the weights in it with it."""
    out = tmp_path / "out"
    assert command(flags(model, "openai", out)).status == 0
    link, folder, tokenizer = tmp_path / "mine.pt", tmp_path / "linked", tmp_path / "text"
    link.symlink_to(out / "model.pt")
    folder.symlink_to(out)
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").symlink_to(out / "tokenizer.json")
    shutil.copy(out / "model.pt", tmp_path / "free.pt")
    parts = tmp_path / "parts"  # a folder of links, as the Hub's cache is
    parts.mkdir()
    for file in out.iterdir():
        (parts / file.name).symlink_to(file)
    before = everything(tmp_path)
    for source, more in (
        (link, [f"--tokenizer={out}"]),
        (folder, []),
        (out / "model.pt", []),
        (parts, []),
        (tmp_path / "free.pt", [f"--tokenizer={tokenizer}"]),
    ):
        refused(flags(source, "ggml", out, *more), "holds the model to be exported")
    refused(flags(out / "model.pt", "ggml", folder), "holds the model to be exported")
    refused(flags(out, "ggml", tmp_path), "holds the model to be exported")
    assert everything(tmp_path) == before


def test_what_is_put_there_meanwhile_is_kept(
    model: Path, tmp_path: Path, refused: Refused, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert command(flags(model, "openai", out)).status == 0

    def write(folder: Path, *arguments: object) -> None:
        (out / "notes.txt").write_text("mine")

    monkeypatch.setattr(export, "write", write)
    before = everything(tmp_path) | {"out/notes.txt": b"mine"}
    refused(flags(model, "ggml", out), "was written to during", "nothing was replaced")
    assert everything(tmp_path) == before


def test_what_a_killed_replacement_left_is_looked_at(model: Path, tmp_path: Path, refused: Refused) -> None:
    """The best/ of a run that was killed between two renames lies under another name; it is no export."""
    best, checkpoint = tmp_path / "best", standard()
    save_huggingface(best, checkpoint, checkpoint.weights, language="it", model_card=None)
    before = everything(best)
    best.rename(tmp_path / ".best.whispertune-old")
    refused(flags(model, "ggml", best), "something other than an export")
    assert everything(best) == before


def test_without_the_package_to_write_with(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2_write, "find_spec", lambda name: None)
    error = refused(flags(tmp_path / "absent", "ctranslate2", tmp_path / "out"), "whispertune[ctranslate2]")
    assert "absent" not in error  # said before a large model is read
    with pytest.raises(CheckpointError, match="pip install"):
        ctranslate2_write.save_ctranslate2(tmp_path, standard(), "float32")


def test_without_the_program_to_verify_in(
    model: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    for to, package in (("ctranslate2", "faster-whisper"), ("openai", "openai-whisper"), ("ggml", "pywhispercpp")):
        refused(flags(model, to, tmp_path / "out", "--verify", "a.wav"), f"pip install {package}")


@pytest.fixture
def echoing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Transcripts of the source, without running it; the exported model says them in another case from the third."""
    said = ["uno", "due", "tre"]
    monkeypatch.setattr(verification, "our_transcripts", lambda checkpoint, clips, task: said[: len(clips)])
    monkeypatch.setattr(export, "require_runtime", lambda to: None)
    heard: list[np.ndarray] = []

    def open_runtime(to: str, folder: Path, task: runtimes.Task, *, by_default: bool) -> runtimes.Transcribe:
        assert (folder / "model.pt").exists()
        assert (task.language, list(task.suppress)) == ("it", [1, 2, 7])

        def transcribe(waveform: np.ndarray) -> str:
            if by_default:
                return "uno due"
            heard.append(waveform)
            return said[len(heard) - 1] if len(heard) < 3 else "TRE"

        return transcribe

    monkeypatch.setattr(verification, "open_runtime", open_runtime)
    return said


@pytest.mark.parametrize("stored", ["italian", "Italian", "it", "<|it|>"])
def test_a_language_that_is_stored_by_name(tmp_path: Path, command: Command, echoing: list[str], stored: str) -> None:
    """As the guides to fine-tuning have it: the programs are told its code, and so is the exported model."""
    checkpoint = standard()
    save_huggingface(tmp_path / "model", checkpoint, checkpoint.weights, language="it", model_card=None)
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "language": stored}))
    audio = example_rows("test", 1)[0]["audio"]
    outcome = command([*flags(tmp_path / "model", "openai", tmp_path / "out"), "--verify", audio])
    assert outcome.status == 0, outcome.err  # `echoing` looks at what the program is told
    outcome = command(flags(tmp_path / "model", "huggingface", tmp_path / "again"))
    assert outcome.status == 0, outcome.err
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text())["language"] == "<|it|>"


def test_a_stored_language_that_is_none(tmp_path: Path, refused: Refused) -> None:
    checkpoint = standard()
    save_huggingface(tmp_path / "model", checkpoint, checkpoint.weights, language="it", model_card=None)
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "language": "Italien"}))
    given = flags(tmp_path / "model", "huggingface", tmp_path / "out")
    refused(given, "generation_config.json: unknown language 'Italien': did you mean 'it' (Italian)")


def test_verify_fails_where_a_transcript_differs(
    model: Path, tmp_path: Path, command: Command, echoing: list[str]
) -> None:
    rows = example_rows("test", 3)
    output = tmp_path / "out"
    audio = [row["audio"] for row in rows]
    outcome = command([*flags(model, "openai", output), "--verify", *audio])
    assert outcome.status == 1
    assert "1 of 3 clips differently; nothing was written" in outcome.error
    assert f"differs   {audio[2]}" in outcome.err
    assert "source    'tre'" in outcome.err
    assert "exported  'TRE'" in outcome.err
    assert not output.exists()
    assert not list(tmp_path.iterdir())


def test_verify_allows_a_share(model: Path, tmp_path: Path, command: Command, echoing: list[str]) -> None:
    manifest = write_manifest(tmp_path / "data.csv", example_rows("test", 6))
    more = ["--verify", f"--data={manifest}", "--clips=3", "--max-different=0.4"]
    outcome = command(flags(model, "openai", tmp_path / "out", *more))
    assert outcome.status == 0, outcome.err
    assert "the same in openai-whisper: 2 of 3 transcripts" in outcome.out
    assert (tmp_path / "out" / "model.pt").exists()


def test_verify_tells_what_the_program_says_by_default(
    model: Path, tmp_path: Path, command: Command, echoing: list[str]
) -> None:
    """Its own defaults decide nothing; with the texts at hand, error rates say whether they do any harm."""
    rows = [{**row, "text": text} for row, text in zip(example_rows("test", 2), echoing, strict=False)]
    manifest = write_manifest(tmp_path / "data.csv", rows)
    outcome = command([*flags(model, "openai", tmp_path / "out"), "--verify", f"--data={manifest}"])
    assert outcome.status == 0, outcome.err
    shown = " ".join(outcome.out.split())
    assert "the same in openai-whisper: 2 of 2 transcripts" in shown
    assert "0 of 2 are the same as openai-whisper is run by default (transcribe(): greedy, timestamps" in shown
    assert "source, greedy: 0.0 % (0.0 to 0.0)" in shown
    assert "the same computation: 0.0 % (0.0 to 0.0); against the source +0.00 (+0.00 to +0.00) points" in shown
    # `uno due` for `uno` and for `due`: a word too many each, in every draw of the bootstrap; two clips prove nothing.
    assert (
        "by default: 100.0 % (100.0 to 100.0); against the source +100.00 (no bounds, too little data) points" in shown
    )
    assert "2 clips: too few to compare error rates" in shown
    assert "exported 'uno due'" in " ".join(outcome.err.split())


def test_verify_without_texts_tells_no_error_rates(
    model: Path, tmp_path: Path, command: Command, echoing: list[str]
) -> None:
    audio = [row["audio"] for row in example_rows("test", 2)]
    outcome = command([*flags(model, "openai", tmp_path / "out"), "--verify", *audio])
    assert outcome.status == 0, outcome.err
    assert "0 of 2 are the same as openai-whisper is run by default" in " ".join(outcome.out.split())
    assert "WER" not in outcome.out


def test_defaults_are_the_programs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same computation is asked for in full and padded; by default only language and task are told."""
    given: list[tuple[int, dict[str, Any]]] = []

    class WhisperModel:
        def __init__(self, folder: str, **options: Any) -> None:
            pass

        def transcribe(self, waveform: np.ndarray, **options: Any) -> tuple[list[Any], None]:
            given.append((len(waveform), options))
            return [], None

    modules = {"faster_whisper": SimpleNamespace(WhisperModel=WhisperModel)}
    modules["ctranslate2"] = SimpleNamespace(set_random_seed=lambda seed: None)
    monkeypatch.setattr(runtimes, "import_module", modules.__getitem__)
    monkeypatch.setattr(runtimes, "find_spec", lambda name: object())
    for by_default in (False, True):
        task = runtimes.Task("it", "transcribe", [1], [2])
        runtimes.open_runtime("ctranslate2", tmp_path, task, by_default=by_default)(np.zeros(1000, np.float32))
    (padded, alike), (as_it_is, usual) = given
    assert (padded, as_it_is) == (480_000, 1000)
    assert usual == {"language": "it", "task": "transcribe"}
    assert (alike["beam_size"], alike["without_timestamps"], alike["temperature"]) == (1, True, 0.0)


def test_verify_needs_a_language(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = standard()
    del checkpoint.generation["language"]
    save_huggingface(tmp_path / "model", checkpoint, checkpoint.weights, language=None, model_card=None)
    monkeypatch.setattr(export, "require_runtime", lambda to: None)
    audio = example_rows("test", 1)[0]["audio"]
    refused([*flags(tmp_path / "model", "openai", tmp_path / "out"), "--verify", audio], "add --language")
    refused(
        [*flags(tmp_path / "model", "openai", tmp_path / "out"), "--verify", "absent.wav", "--language=it"],
        "--verify absent.wav: no such file; check the path",
    )


def test_only_clips_in_the_language_that_was_given_borrow_its_token(tmp_path: Path) -> None:
    rows = [
        {**row, "language": name} for row, name in zip(example_rows("test", 3), ("sc", "fr", "French"), strict=True)
    ]
    manifest = write_manifest(tmp_path / "clips.csv", rows)
    _, *given = flags(tmp_path / "model", "openai", tmp_path / "out", f"--data={manifest}")
    for borrowed in ("it", "Italian"):
        borrowing = [*given, "--language=sc", f"--language_token={borrowed}"]
        options = parse_fields(ExportOptions, {}, borrowing, command="export")
        assert [clip.language for clip in export.read_clips(options, [], standard())] == ["it", "fr", "fr"]


def test_a_program_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda name: object())

    def broken(folder: Path, task: runtimes.Task, by_default: bool) -> runtimes.Transcribe:
        raise RuntimeError("bad magic\nat byte 0")

    monkeypatch.setattr(runtimes, "_openai_whisper", broken)
    with pytest.raises(ExportError, match=r"openai-whisper cannot use .* \(RuntimeError: bad magic at byte 0\)"):
        runtimes.open_runtime("openai", tmp_path, runtimes.Task("it", "transcribe", [], []))


def test_a_program_that_ends_its_process_is_one_line(
    model: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whisper.cpp does on float32 weights; what then is to be done is said before it, too."""

    def dead(folder: Path, task: runtimes.Task, by_default: bool) -> runtimes.Transcribe:
        return lambda waveform: ProcessPoolExecutor(1, get_context("spawn")).submit(os._exit, 3).result()

    monkeypatch.setattr(runtimes, "find_spec", lambda name: object())
    monkeypatch.setattr(runtimes, "_whisper_cpp", dead)
    monkeypatch.setattr(verification, "our_transcripts", lambda checkpoint, clips, task: ["uno"])
    audio = example_rows("test", 1)[0]["audio"]
    given = flags(model, "ggml", tmp_path / "out", "--quantization=float32")
    outcome = command([*given, "--verify", audio])
    assert outcome.status == 1
    assert "pywhispercpp crashed" in outcome.error
    assert "--quantization float16" in outcome.error
    assert "aborts on float32 convolutions" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("to", list(runtimes.PACKAGES))
@pytest.mark.parametrize("name", list(MODELS))
def test_real_models_in_their_programs(tmp_path: Path, command: Command, to: str, name: str) -> None:
    pytest.importorskip(runtimes.PACKAGES[to][0])
    pytest.importorskip(MODELS[name].parts[0][0])
    manifest = Path(__file__).parents[2] / "examples" / "italian-prompts" / "test.csv"
    language = [] if name.endswith(".en") else ["--language=it"]
    if not language:  # rows may name Italian
        rows = example_rows("test", 3)
        manifest = write_manifest(tmp_path / "en.csv", [{"audio": r["audio"], "text": r["text"]} for r in rows])
    given = flags(Path(f"packaged:{name}"), to, tmp_path / "out", *language)
    outcome = command([*given, "--verify", f"--data={manifest}", "--clips=3"])
    assert outcome.status == 0, outcome.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("to", list(runtimes.PACKAGES))
def test_the_code_in_the_documents_transcribes_as_evaluate_does(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    module = runtimes.PACKAGES[to][0]
    pytest.importorskip(module)
    pytest.importorskip(MODELS["whisper-base"].parts[0][0])
    text = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f" {module}" in block)
    monkeypatch.chdir(tmp_path)
    assert command(["export", "--model=packaged:whisper-base", f"--to={to}", "--output=out"]).status == 0
    (audio,) = (row["audio"] for row in example_rows("test", 12)[-1:])
    soundfile.write("clip.wav", load_utterance(Utterance(id="clip", audio=Path(audio), text="")), 16_000)
    waveform = load_utterance(Utterance(id="clip", audio=Path("clip.wav"), text=""))
    if to == "openai":  # these two ask for the program ffmpeg
        monkeypatch.setattr("whisper.load_audio", lambda name: waveform)
    if to == "huggingface":
        monkeypatch.setattr("transformers.pipelines.automatic_speech_recognition.ffmpeg_read", lambda *_: waveform)
    clip = verification.Clip("clip", waveform, "it")
    (ours,) = verification.our_transcripts(load_checkpoint("packaged:whisper-base"), [clip], "transcribe")
    with redirect_stdout(StringIO()) as shown:
        exec(code, {})
    assert shown.getvalue().strip().splitlines()[-1].strip() == ours


@pytest.mark.parametrize("to", ["huggingface", "ctranslate2", "openai", "ggml"])
def test_a_full_disk_is_no_fault_of_the_input(
    model: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_to_torch(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    if to == "ctranslate2":
        pytest.importorskip("ctranslate2")
    for module in ("ctranslate2_write", "ggml"):
        monkeypatch.setattr(f"whispertune.checkpoints.{module}.write_side_files", full)
    monkeypatch.setattr("whispertune.checkpoints.huggingface.save_file", full)
    monkeypatch.setattr("torch.save", full_to_torch)
    output = tmp_path / "out"
    outcome = command(flags(model, to, output))
    assert outcome.status == 1
    assert "the model can't be written (No space left on device); free some disk space" in outcome.error
    assert not list(tmp_path.iterdir())


# An adapter alone.


@pytest.fixture(scope="module")
def adapted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with LoRA: its best/ and its adapter/."""
    run, checkpoint, options = tmp_path_factory.mktemp("adapted") / "run", standard(), LoraOptions(rank=2)
    whisper = build_whisper(checkpoint.config, checkpoint.weights)
    adapter = Adapter(adapted_weights(whisper, options), options, seed=0)
    for factors in adapter.factors.values():
        factors.lora_B.data.normal_()
    weights = checkpoint.weights | dict(adapter.merged(checkpoint.weights))
    digests = save_huggingface(run / "best", checkpoint, weights, language="it", model_card=None)
    write_checksums(run / "best", digests, step=7, run="x")
    generation = load_checkpoint(str(run)).generation
    write_checksums(
        run / "adapter", save_adapter(run / "adapter", adapter, str(model), generation=generation), step=7, run="x"
    )
    return run


def test_an_adapter_alone(adapted: Path, tmp_path: Path, command: Command) -> None:
    output = tmp_path / "peft"
    for _ in range(2):
        outcome = command(flags(adapted, "peft", output))
        assert outcome.status == 0, outcome.err
    assert "PeftModel.from_pretrained(BASE, " in outcome.out
    names = {"adapter_config.json", "adapter_model.safetensors", "generation_config.json", MARK}
    assert {path.name for path in output.iterdir()} == names
    best, ours = load_checkpoint(str(adapted)), load_checkpoint(str(output))
    assert all(torch.equal(weight, best.weights[name]) for name, weight in ours.weights.items())
    assert ours.generation == best.generation
    # From the adapter itself, and with another name for its base.
    outcome = command(flags(adapted / "adapter", "peft", output, "--base=openai/whisper-base"))
    assert outcome.status == 0, outcome.err
    config = json.loads((output / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == ("openai/whisper-base", 2)


def test_an_adapter_is_exported_merged_as_any_model(
    adapted: Path, model: Path, tmp_path: Path, command: Command
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    outcome = command(flags(adapted / "adapter", "openai", tmp_path / "out", f"--base={moved}"))
    assert outcome.status == 0, outcome.err
    best, ours = load_checkpoint(str(adapted)).weights, load_checkpoint(str(tmp_path / "out")).weights
    assert all(torch.equal(weight, best[name]) for name, weight in ours.items())


def test_no_adapter_to_export(adapted: Path, model: Path, tmp_path: Path, refused: Refused) -> None:
    output = tmp_path / "peft"
    assert "has no LoRA adapter" in refused(flags(model.parent, "peft", output))
    assert "has no LoRA adapter" in refused(flags(Path("openai/whisper-base"), "peft", output))
    assert "--verify is for whole models" in refused(flags(adapted, "peft", output, "--verify", "a.wav"))
    assert "holds the model to be exported" in refused(flags(adapted, "peft", adapted / "adapter"))
    torn = Path(shutil.copytree(adapted, tmp_path / "torn"))
    write_checksums(torn / "best", read_checksums(torn / "best"), step=9, run="x")
    assert "of different updates" in refused(flags(torn, "peft", output))
    assert not output.exists()
