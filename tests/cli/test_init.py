"""`whispertune init` on folders of many shapes: what it says, and its two commands, run as they are printed."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path

import pytest
from cli_samples import EXAMPLE, Command, Outcome, example_rows, write_manifest
from praatio import textgrid as praat
from praatio.utilities.constants import Interval
from test_newcomers import write_interviews

QUICK = {
    "train": ("--max_steps=2", "--precision=fp32", "--search.beam_size=1"),
    "transcribe": ("--beam_size=1", "--precision=fp32", "--temperature=0"),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def follow(outcome: Outcome, command: Command, model: Path) -> list[str]:
    """Run both commands that are printed; returns them."""
    lines = [line.removeprefix("next:").strip() for line in outcome.out.splitlines() if line.startswith("next:")]
    assert len(lines) == 2, outcome.out
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "whispertune"
        arguments = [str(model) if part == "openai/whisper-base" else part for part in arguments]
        done = command([*arguments, *QUICK.get(arguments[0], ())])
        assert done.status == 0, done.err + done.out
    return lines


def copied(row: dict[str, str], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.copy(row["audio"], folder)


def test_subtitles(command: Command, tiny_model: Path) -> None:
    write_interviews(Path("my talks"), 4, 3)
    found = command(["init", "my talks", "--language", "it"])
    assert found.status == 0
    assert "recordings  4 (wav)" in found.out
    assert "16 kHz; mono" in found.out
    assert "transcripts 4 srt" in found.out
    assert "This could be: recordings with transcripts beside them." in found.out
    check, split = follow(found, command, tiny_model)
    assert check == "whispertune check 'my talks' --language it"
    assert split.startswith("whispertune split 'my talks'")
    assert Path("splits/train.jsonl").is_file()


def test_tiers_of_some_recordings(command: Command, tiny_model: Path) -> None:
    """Words and utterances; one recording is still to be transcribed, and comes to no harm."""
    write_interviews(Path("talks"), 5, 2)
    for path in Path("talks").glob("*.srt"):
        text = path.read_text("utf-8-sig").splitlines()[2]
        if "5" not in path.name:
            grid = praat.Textgrid()
            grid.addTier(praat.IntervalTier("words", [Interval(0.5, 0.7, text.split()[0])], 0, 5))
            grid.addTier(praat.IntervalTier("my utterances", [Interval(0.5, 1.5, text)], 0, 5))
            grid.save(str(path.with_suffix(".TextGrid")), "long_textgrid", True)
        path.unlink()
    found = command(["init", "talks"])
    assert "transcripts 4 textgrid; 1 recording without" in found.out
    assert "tiers       words (in 4), my utterances (in 4)" in found.out
    lines = follow(found, command, tiny_model)
    assert all("'talks [tier=my utterances]' --audio_root talks" in line for line in lines)
    rows = sum(len(path.read_text("utf-8").splitlines()) for path in Path("splits").glob("t*.jsonl"))
    assert rows + len(Path("splits/valid.jsonl").read_text("utf-8").splitlines()) == 4


def test_transcripts_in_another_folder(command: Command, tiny_model: Path) -> None:
    write_interviews(Path("corpus"), 4, 1)
    for folder, ending in (("texts", "srt"), ("sound", "wav")):
        Path("corpus", folder, "day 1").mkdir(parents=True)
        for path in list(Path("corpus").glob(f"*.{ending}")):
            path.rename(Path("corpus", folder, "day 1", path.name))
    found = command(["init", "corpus", "--language=it"])
    assert "transcripts 4 (.srt), none beside a recording of its name" in found.out
    assert "recordings, and transcripts in another folder" in found.out
    lines = follow(found, command, tiny_model)
    assert all("--audio_root 'corpus/sound/day 1'" in line for line in lines)


def test_recordings_alone(command: Command, tiny_model: Path) -> None:
    for row in example_rows("test", 2):
        copied(row, Path("field notes/day 1"))
    found = command(["init", "field notes", "--language=it"])
    assert "recordings without any transcript" in found.out
    lines = [line for line in found.out.splitlines() if line.startswith("next:")]
    assert "transcribe --model openai/whisper-base 'field notes' --format textgrid,srt" in lines[0]
    _, *arguments = shlex.split(lines[0].removeprefix("next:"))
    arguments = [str(tiny_model) if part == "openai/whisper-base" else part for part in arguments]
    assert command([*arguments, *QUICK["transcribe"]]).status == 0
    for path in Path("field notes-transcripts").rglob("*.TextGrid"):
        path.unlink()
    assert command(shlex.split(lines[1].removeprefix("next:"))[1:]).status in (0, 2)  # what was transcribed is noise


def test_a_table_whose_recordings_lie_elsewhere(command: Command, tiny_model: Path) -> None:
    rows = []
    for row in example_rows("train", 12):
        copied(row, Path("italian/sound/all"))
        rows.append({"file_name": f"all/{Path(row['audio']).name}", "sentence": row["text"], "dialect": "x"})
    Path("italian/texts").mkdir()
    write_manifest(Path("italian/texts/rows.csv"), rows)
    Path("italian/prices.csv").write_text("what,price\nx,3\n")
    found = command(["init", "italian"])
    assert "texts/rows.csv, 12 rows: file_name, sentence, dialect; its recordings lie in" in found.out
    assert "prices.csv, no audio column" in found.out
    assert "Italian, guessed from names" in found.out
    assert "a manifest that is not divided yet" in found.out
    lines = follow(found, command, tiny_model)
    assert all("--audio_root" in line and "--language it" in line for line in lines)


def test_manifests_that_are_divided(command: Command, tiny_model: Path) -> None:
    shutil.copytree(EXAMPLE / "audio", "italian-prompts/audio")
    for name, count in (("train", 6), ("valid", 2), ("test", 2)):
        rows = [{**row, "audio": f"audio/{Path(row['audio']).name}"} for row in example_rows(name, count)]
        write_manifest(Path(f"italian-prompts/{name}.csv"), rows)
    found = command(["init", "italian-prompts"])
    assert "This could be: manifests that are divided already." in found.out
    check, train = follow(found, command, tiny_model)
    assert "--train italian-prompts/train.csv --valid italian-prompts/valid.csv --test" in check
    assert train.startswith("whispertune train")
    shutil.copytree("italian-prompts", "prompts")
    unknown = command(["init", "prompts"])
    assert "say which language is spoken: whispertune init prompts --language L" in unknown.out


def test_common_voice(command: Command, tiny_model: Path) -> None:
    for split, name, count in (("train", "train", 8), ("valid", "dev", 2), ("test", "test", 2)):
        lines = ["client_id\tpath\tsentence\tlocale"]
        for number, row in enumerate(example_rows(split, count)):
            copied(row, Path("cv/it/clips"))
            lines.append(f"{split}-{number}\t{Path(row['audio']).name}\t{row['text']}\tit")
        Path(f"cv/it/{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = command(["init", "cv/it"])
    assert "a language of Common Voice" in found.out
    check, train = follow(found, command, tiny_model)
    assert "'cv/it [split=train]'" in check
    assert "--language" not in train
    assert "a release of Common Voice" in command(["init", "cv"]).out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [([], "name one folder"), (["a", "b"], "name one folder"), (["nowhere"], "nowhere: no such folder"),
     (["empty"], "neither recordings nor a corpus in it"), (["empty", "--language=Klingonese"], "Klingonese")],
)  # fmt: skip
def test_nothing_there(arguments: list[str], part: str, command: Command) -> None:
    Path("empty").mkdir()
    (Path("empty") / "notes.docx").touch()
    outcome = command(["init", *arguments])
    assert outcome.status == 2
    assert part in outcome.error


def test_damaged_files_are_said(command: Command) -> None:
    Path("talks").mkdir()
    Path("talks/a.wav").write_bytes(b"RIFF")
    Path("talks/a.eaf").write_bytes(b"<x")
    found = command(["init", "talks"])
    assert found.status == 0
    assert "1 of those looked at cannot be read: talks/a.wav" in found.out


def test_a_large_folder_takes_seconds(command: Command) -> None:
    for folder in range(20):
        Path(f"big/{folder}").mkdir(parents=True)
        for number in range(500):
            Path(f"big/{folder}/{number}.wav").touch()
            Path(f"big/{folder}/{number}.txt").touch()
    began = time.process_time()
    assert "recordings  10,000 (wav)" in command(["init", "big"]).out
    assert time.process_time() - began < 10
