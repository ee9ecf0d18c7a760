"""whispertune transcribe: what is written where, what is kept, and recordings that cannot be used."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_samples import Command, example_rows
from safetensors.torch import load_file, save_file

from whispertune.commands import transcribe
from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.audio_files import find_audio
from whispertune.data.readers.subtitles import read_cues
from whispertune.decoding import loading
from whispertune.errors import RecipeError

CLIP = Path(example_rows("test", 1)[0]["audio"])
QUICK = ("--language=it", "--beam_size=1", "--temperature=0", "--precision=fp32")


@pytest.fixture(scope="module")
def tiny_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that stops after a few words, as one that has learnt something does."""
    folder = tmp_path_factory.mktemp("brief") / "model"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    (bias,) = [name for name in weights if name.endswith("decoder.layer_norm.bias")]
    (embedding,) = [name for name in weights if name.endswith("decoder.embed_tokens.weight")]
    eot = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    weights[bias] += 10 * weights[embedding][eot]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def talking_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model without what stops it: it writes nonsense that depends on what is said."""
    folder = tmp_path_factory.mktemp("talking") / "model"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    (bias,) = [name for name in weights if name.endswith("decoder.layer_norm.bias")]
    weights[bias] *= 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


TALKS = ("--timestamps=false", "--no_speech_threshold=null", "--repetition_guard=false")


def arguments(model: Path, *others: object) -> list[str]:
    given = {str(other).partition("=")[0] for other in others}
    quick = [flag for flag in QUICK if flag.partition("=")[0] not in given]
    return ["transcribe", "--model", str(model), *map(str, others), *quick]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    (folder / "b").mkdir(parents=True)
    shutil.copy(CLIP, folder / "one.opus")
    shutil.copy(CLIP, folder / "b" / "one.opus")
    return folder


def test_formats_folders_and_names(command: Command, tiny_model: Path, recordings: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    outcome = command(arguments(tiny_model, recordings, "--format", "all", "--output", output, "--n_best=2"))
    assert outcome.status == 0, outcome.err
    found = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    kinds = ("TextGrid", "eaf", "json", "labels.txt", "srt", "tsv", "txt", "vtt")
    assert found == [".recordings.jsonl", *(f"b/one.{kind}" for kind in kinds), *(f"one.{kind}" for kind in kinds)]
    content = json.loads((output / "one.json").read_text(encoding="utf-8"))
    assert content["language"] == "it"
    assert content["language_prob"] is None
    assert content["model"] == str(tiny_model)
    assert content["duration"] == pytest.approx(soundfile.info(CLIP).duration, abs=0.01)
    joined = "".join(segment["text"] for segment in content["segments"])
    assert joined.replace(" ", "") == content["text"].replace(" ", "")
    assert len(content["windows"][0]["hypotheses"]) == 1  # greedy search has no others


def test_files_that_are_there_are_kept(
    command: Command, tiny_model: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command goes on where it was interrupted, and only --overwrite replaces."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "one.txt").write_text("mine", encoding="utf-8")
    both = arguments(tiny_model, recordings, "--output", output)
    outcome = command(both)
    assert outcome.status == 0
    assert "1 of 2 are there already and kept" in outcome.err
    assert (output / "one.txt").read_text(encoding="utf-8") == "mine"
    written = (output / "b" / "one.txt").stat()
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_checkpoint", lambda *_: pytest.fail("nothing is left to do"))
        assert command(both).status == 0
    assert (output / "b" / "one.txt").stat().st_mtime_ns == written.st_mtime_ns
    assert command([*both, "--overwrite", "true"]).status == 0
    assert (output / "one.txt").read_text(encoding="utf-8") != "mine"


def test_another_recording_of_the_same_name_is_refused(
    command: Command, refused: Callable[..., str], tiny_model: Path, recordings: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    first, second = recordings / "one.opus", recordings / "b" / "one.opus"
    assert command(arguments(tiny_model, first, "--output", output)).status == 0
    written = (output / "one.txt").read_bytes()
    said = refused(arguments(tiny_model, second, "--output", output))
    assert all(str(part) in said for part in (output / "one", first.resolve(), second, "--overwrite"))
    assert (output / "one.txt").read_bytes() == written
    # The recording itself, in another place, is known again; and what is asked for is done.
    moved = first.rename(tmp_path / "one.opus")
    outcome = command(arguments(tiny_model, moved, "--output", output))
    assert outcome.status == 0
    assert "1 of 1 are there already" in outcome.err
    assert command(arguments(tiny_model, second, "--output", output, "--overwrite=true")).status == 0
    assert command(arguments(tiny_model, second, "--output", output)).status == 0


def test_bad_recordings_are_reported_and_the_others_finish(
    command: Command, tiny_model: Path, recordings: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    content = CLIP.read_bytes()
    (bad / "empty.wav").write_bytes(b"")
    (bad / "garbage.flac").write_bytes(np.random.default_rng(0).bytes(5000))
    (bad / "text.mp3").write_text("This is not a recording.", encoding="utf-8")
    (bad / "cut.ogg").write_bytes(content[: len(content) // 2])
    tone = np.sin(np.arange(48_000) / 10).astype(np.float32)
    for name in ("cut.wav", "cut.flac", "cut.mp3"):
        soundfile.write(bad / f"whole-{name}", tone, 16_000)
        whole = (bad / f"whole-{name}").read_bytes()
        (bad / f"whole-{name}").unlink()
        (bad / name).write_bytes(whole[: len(whole) // 2])
    (bad / "nan.wav").touch()
    soundfile.write(bad / "nan.wav", np.full(4000, np.nan, np.float32), 16_000, subtype="FLOAT")
    missing = tmp_path / "missing.wav"
    output = tmp_path / "out"
    outcome = command(arguments(tiny_model, bad, missing, recordings / "one.opus", "--output", output))
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    failed = [line for line in outcome.err.splitlines() if line.startswith("not transcribed: ")]
    for path in [*bad.iterdir(), missing]:
        (line,) = [line for line in failed if str(path) in line]
        assert ";" in line  # what to do
    assert "9 of 10 recordings could not be transcribed" in outcome.err
    assert sorted(path.name for path in output.iterdir()) == [".recordings.jsonl", "one.txt"]


def test_a_long_name_fails_alone(command: Command, tiny_model: Path, recordings: Path, tmp_path: Path) -> None:
    """Whatever name a recording may have, those behind it are transcribed, and every rerun says the same."""
    letters = recordings / f"{'क' * 83}.wav"  # 253 bytes
    shutil.copy(CLIP, letters)
    too_long = recordings / f"{'a' * 251}.wav"  # .json behind its name makes 256
    shutil.copy(CLIP, too_long)
    output = tmp_path / "out"
    call = arguments(tiny_model, too_long, letters, recordings / "one.opus", "--format", "txt,json", "--output", output)
    for _ in range(2):
        outcome = command(call)
        assert outcome.status == 2
        (line,) = [line for line in outcome.err.splitlines() if line.startswith("not transcribed: ")]
        assert str(too_long) in line
        assert "shorter name" in line
        assert "1 of 3 recordings could not be transcribed" in outcome.err
        names = {path.name for path in output.iterdir()} - {".recordings.jsonl"}
        assert names == {f"{stem}.{kind}" for stem in (letters.stem, "one") for kind in ("txt", "json")}
    assert command(arguments(tiny_model, "a" * 5000, recordings / "one.opus")).status == 2


def test_a_write_that_fails_is_its_recordings_failure(
    command: Command, tiny_model: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    both = arguments(tiny_model, recordings / "b", recordings / "one.opus", "--output", output)
    real = transcribe.write_text

    def fail_first(fault: int) -> None:
        calls = []

        def write(path: Path, text: str) -> None:
            calls.append(path)
            if len(calls) == 1:
                raise OSError(fault, os.strerror(fault))
            real(path, text)

        monkeypatch.setattr(transcribe, "write_text", write)

    fail_first(errno.EACCES)
    outcome = command(both)
    assert outcome.status == 2
    assert "1 of 2 recordings could not be transcribed" in outcome.err
    assert len(list(output.rglob("*.txt"))) == 1
    fail_first(errno.ENOSPC)  # no other would fare better
    outcome = command(both)
    assert outcome.status == 1
    assert "free some disk space" in outcome.error


def stereo(path: Path, *clips: Path) -> Path:
    waveforms = [load_waveform(clip) for clip in clips]
    length = max(map(len, waveforms))
    samples = np.stack([np.pad(waveform, (0, length - len(waveform))) for waveform in waveforms], axis=1)
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    return path


def test_channels_apart_are_what_each_is_alone(command: Command, talking_model: Path, tmp_path: Path) -> None:
    """One time line, each segment under its channel: the segments that a file of that channel alone has."""
    clips = [Path(row["audio"]) for row in example_rows("test", 2)]
    call = stereo(tmp_path / "call.wav", *clips)
    for number in (0, 1):
        samples = soundfile.read(call, always_2d=True, dtype="float32")[0][:, number]
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000, subtype="FLOAT")
    output = tmp_path / "out"
    formats = [*TALKS, "--format", "all", "--output", output]
    outcome = command(arguments(talking_model, call, "--channels", "separate", "--channel_names=agent,A & B", *formats))
    assert outcome.status == 0, outcome.err
    alone = arguments(talking_model, tmp_path / "0.wav", tmp_path / "1.wav", "--channels=separate", *formats)
    assert command(alone).status == 0
    found, *each = (json.loads((output / f"{name}.json").read_text("utf-8")) for name in ("call", "0", "1"))
    for number, single in enumerate(each):
        assert "channels" not in single
        own = [{**segment, "id": 0} for segment in found["segments"] if segment["channel"] == number]
        name = ["agent", "A & B"][number]
        assert own == [{**segment, "channel": number, "speaker": name, "id": 0} for segment in single["segments"]]
        assert own
        assert found["channels"][number]["text"] == single["text"]
    starts = [segment["start"] for segment in found["segments"]]
    assert starts == sorted(starts)
    text = (output / "call.txt").read_text("utf-8").splitlines()
    assert [line.split(":")[0] for line in text] == [segment["speaker"] for segment in found["segments"]]
    cues = list(read_cues("x.vtt", (output / "call.vtt").read_text("utf-8")))
    assert {cue.speaker for cue in cues} == {"agent", "A & B"}
    assert "agent: " in (output / "call.srt").read_text("utf-8")
    mixed = command(arguments(talking_model, call))
    assert "agent" not in mixed.out
    assert "left: " in command(arguments(talking_model, call, *TALKS, "--channels=separate")).out


def test_channels_that_are_too_many_or_alike(command: Command, talking_model: Path, tmp_path: Path) -> None:
    alike, three = stereo(tmp_path / "alike.wav", CLIP, CLIP), stereo(tmp_path / "three.wav", CLIP, CLIP, CLIP)
    outcome = command(arguments(talking_model, three, alike, *TALKS, "--channels=separate", "--channel_names=a,b"))
    assert outcome.status == 2
    assert "three.wav: has 3 channels" in outcome.err
    assert "its channels hold the same" in outcome.err
    assert "a: " in outcome.out


def test_an_output_that_is_not_utf8_keeps_the_transcript(command: Command, talking_model: Path, tmp_path: Path) -> None:
    shutil.copy(CLIP, tmp_path / "perché.opus")
    given = arguments(talking_model, tmp_path / "perché.opus", CLIP, *TALKS)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    call = [sys.executable, "-m", "whispertune", *given]
    done = subprocess.run(call, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"PYTHONUTF8" in done.stderr
    printed = command(given)
    assert "PYTHONUTF8" not in printed.err
    assert not printed.out.isascii()
    assert done.stdout.decode("ascii") == printed.out.encode("ascii", "backslashreplace").decode()


def test_a_wrong_suffix_does_not_matter(command: Command, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(CLIP, tmp_path / "opus.wav")
    outcome = command(arguments(tiny_model, tmp_path / "opus.wav"))
    assert outcome.status == 0, outcome.err


def test_printed_without_output(command: Command, tiny_model: Path, recordings: Path) -> None:
    outcome = command(arguments(tiny_model, recordings / "one.opus", recordings / "b"))
    assert outcome.status == 0
    assert f"{recordings / 'one.opus'} (it)" in outcome.out
    assert f"{recordings / 'b' / 'one.opus'} (it)" in outcome.out
    assert not list(recordings.rglob("*.txt"))


def test_find_audio(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (recordings / "notes.txt").touch()
    (recordings / "LOUD.WAV").touch()
    one, other = recordings / "one.opus", recordings / "b" / "one.opus"
    assert find_audio([str(recordings)]) == [recordings / "LOUD.WAV", other, one]
    assert find_audio([str(recordings / "*.opus"), str(recordings)]) == [one, recordings / "LOUD.WAV", other]
    assert find_audio([str(recordings / "**" / "*.opus")]) == [other, one]
    monkeypatch.chdir(recordings)
    assert find_audio(["one.opus", str(one), "notes.txt"]) == [Path("one.opus"), Path("notes.txt")]
    (recordings / "odd[1].wav").touch()
    assert find_audio(["odd[1].wav"]) == [Path("odd[1].wav")]
    for given, problem in (([], "nothing to transcribe"), (["*.xyz"], "no file matches"), (["empty"], "no audio")):
        Path("empty").mkdir(exist_ok=True)
        with pytest.raises(RecipeError, match=problem):
            find_audio(given)


def test_words(command: Command, talking_model: Path, recordings: Path, tmp_path: Path) -> None:
    """They change no text, follow one another, and joined are what is said in their segment."""
    found = {}
    for name, flags in (("plain", []), ("words", ["--word_timestamps=true"])):
        output = tmp_path / name
        every = ["--format=json,textgrid,srt", "--max_words=2"] if flags else ["--format=json"]
        outcome = command(arguments(talking_model, recordings, "--output", output, *TALKS, *flags, *every))
        assert outcome.status == 0, outcome.err
        found[name] = json.loads((output / "one.json").read_text(encoding="utf-8"))
    assert found["plain"]["text"] == found["words"]["text"] != ""
    assert "words" not in found["plain"]["segments"][0]
    for segment in found["words"]["segments"]:
        words = segment["words"]
        joined, text = "".join(word["text"] for word in words), segment["text"]
        assert joined.replace("\ufffd", "").strip() == text.replace("\ufffd", "").strip()  # a random model says bytes
        times = [word[key] for word in words for key in ("start", "end")]
        assert times == sorted(times)
        assert times[-1] <= found["words"]["duration"] + 0.02
        assert all(0 <= word["confidence"] <= 1 for word in words)
    assert (tmp_path / "words" / "one.TextGrid").read_text(encoding="utf-8").count('"words"') == 1
    assert len(list(read_cues("x", (tmp_path / "words" / "one.srt").read_text(encoding="utf-8")))) > 1


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--max_words=1"], ["max_words needs the times of words", "--word_timestamps true"]),
        (["--channels=both"], ["channels is 'both'", "mix or separate"]),
        (["--channel_names=a,b"], ["--channels separate"]),
        (["--channels=separate", "--channel_names=a,a"], ["names that differ"]),
        (["--max_line_width=3"], ["max_line_width is 3"]),
        (["--format=doc"], ["format is 'doc'", "txt, srt, vtt, json"]),
        (["--temperature=[0,99]"], ["temperature"]),
        (["--beam_size=0"], ["beam_size is 0"]),
        (["--n_best=0"], ["n_best is 0"]),
        (["--batch_size=0"], ["batch_size is 0"]),
        (["--language=xx"], ["unknown language 'xx'"]),
        (["--language_token=it"], ["language_token is given without language"]),
        (["--tempratur=0"], ["unknown flag", "temperature"]),
        (["--output=/dev/null/x"], ["cannot write"]),
    ],
)
def test_bad_flags(refused: Callable[..., str], tiny_model: Path, flags: list[str], parts: list[str]) -> None:
    refused(["transcribe", f"--model={tiny_model}", str(CLIP), *flags], *parts)


def test_help_names_every_flag(command: Command) -> None:
    outcome = command(["transcribe", "--help"])
    assert outcome.status == 0
    for name in ("--model", "--format", "--beam_size", "--temperature", "--no_speech_threshold", "--frames.selection"):
        assert name in outcome.out


@pytest.mark.slow
def test_three_hours_of_silence(command: Command, tiny_model: Path, tmp_path: Path) -> None:
    """Read, decoded and passed over in memory that does not grow with it."""
    import resource

    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for _ in range(180):
            file.write(np.zeros(60 * 16_000, np.float32))
    command(arguments(tiny_model, CLIP))  # what the program itself takes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = command(
        arguments(tiny_model, path, "--output", tmp_path / "out", "--no_speech_threshold=0", "--logprob_threshold=null")
    )
    assert outcome.status == 0, outcome.err
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # KiB, as for 25 minutes; its samples alone would take 690 MB
