"""`whispertune split` from the command line: its files, its words, what it refuses; and what trains on it."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cli"))
from cli_samples import EXAMPLE, write_manifest

from whispertune.cli import main
from whispertune.data.readers.manifest import read_manifest

FILES = ("train.jsonl", "valid.jsonl", "test.jsonl", "excluded.jsonl", "split.json")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def invented(folder: Path, number: int, name: str = "all.csv") -> Path:
    """A corpus of spans of recordings that need not exist, with a column of the user's."""
    draw = random.Random(5)
    rows = [
        {
            "id": f"u{row}", "audio": f"clips/{row % 50}.wav", "start": str(row * 10), "end": str(row * 10 + 5),
            "text": " ".join("".join(draw.choices("aeioulnrst", k=6)) for _ in range(6)), "speaker": f"s{row % 50}",
            "dialect": "ligure",
        } for row in range(number)
    ]  # fmt: skip
    return write_manifest(folder / name, rows)


def sides(folder: Path) -> dict[str, str]:
    return {row["id"]: name for name in ("train", "valid", "test") for row in lines(folder / f"{name}.jsonl")}


def test_the_example_is_split_checked_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sides"
    given = [str(EXAMPLE / "train.csv"), str(EXAMPLE / "valid.csv")]
    assert main(["split", *given, "--output", str(folder), "--language", "it"]) == 0
    out = capsys.readouterr().out
    assert "451 utterances, divided by recording" in out
    for name in ("train", "valid", "test"):
        read = read_manifest(folder / f"{name}.jsonl")
        assert all(row.audio.is_file() for row in read)
    figures = json.loads((folder / "split.json").read_text())
    assert figures["sides"]["test"]["utterances"] in range(44, 47)
    assert figures["sides"]["train"]["seconds"] > 600
    following = shlex.split(out.splitlines()[-1].removeprefix("next:"))
    assert following[:2] == ["whispertune", "train"]
    assert following[-6:-2] == ["--freeze", "auto", "--epochs", "2"]
    assert main(["check", *following[4:-6], "--no-audio"]) in (0, 2)
    checked = capsys.readouterr().out
    assert "leaked_text" not in checked
    assert "leaked_audio" not in checked


def test_what_train_says_without_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same file as train and valid, or a share in place of a file, is answered with the command to type."""
    manifest = invented(tmp_path, 20, "my calls.csv")
    for valid in (str(manifest), "0.1"):
        flags = ["--train", str(manifest), "--valid", valid, "--language", "it", "--output", str(tmp_path / "run")]
        assert main(["train", "--model", "packaged:whisper-base", *flags]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        command = shlex.split(error[error.index("whispertune split") :])
        assert command[2] == str(manifest)
        command[command.index("--output") + 1] = str(tmp_path / f"splits-{len(valid)}")
        assert main(command[1:]) == 0
        capsys.readouterr()


def test_all_columns_are_kept_and_the_split_is_repeatable(tmp_path: Path) -> None:
    manifest = invented(tmp_path, 500)
    for name in ("a", "b"):
        assert main(["split", str(manifest), "--output", str(tmp_path / name)]) == 0
    ours, theirs = (contents(tmp_path / name) for name in "ab")
    assert [ours[name] for name in FILES] == [theirs[name] for name in FILES]
    row = lines(tmp_path / "a" / "train.jsonl")[1]
    assert row.keys() == {"id", "audio", "text", "start", "end", "speaker", "dialect"}
    assert row["audio"].startswith("../clips/")
    assert main(["split", str(manifest), "--output", str(tmp_path / "c"), "--seed", "1"]) == 0
    assert sides(tmp_path / "c") != sides(tmp_path / "a")


def test_an_utterance_keeps_its_side_in_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main(["split", str(invented(tmp_path, 400)), "--output", str(folder), "--by=speaker"]) == 0
    before = sides(folder)
    grown = invented(tmp_path, 800)
    grown.write_text(grown.read_text().replace(",s7,", ",new,"))  # another speaker of recording 7, and new ones
    assert main(["split", str(grown), "--output", str(folder), "--by=speaker"]) == 0
    after = sides(folder)
    assert {id_: after[id_] for id_ in before} == before
    assert "400 utterances kept the side of the split that was there; 400 are new" in capsys.readouterr().out
    # Corrected texts and other ids are still the same utterances; rows that are gone hold their groups' sides.
    rows = [row for row in grown.read_text().splitlines() if not row.startswith("u1")]
    grown.write_text("\n".join(rows).replace("u2", "v2") + "\n")
    assert main(["split", str(grown), "--output", str(folder), "--by=speaker"]) == 0
    assert all(side == after[id_.replace("v", "u")] for id_, side in sides(folder).items())
    capsys.readouterr()
    assert main(["split", str(grown), "--output", str(folder), "--by=speaker", "--seed=3"]) == 0
    assert "had other options, so this one is new" in capsys.readouterr().out


def test_rows_that_are_marked_as_wrong_are_left_out(tmp_path: Path) -> None:
    manifest = invented(tmp_path, 100)
    (tmp_path / "marked.csv").write_text("id,reason\nu3,noise\nu9,\n")
    arguments = ["split", str(manifest), "--output", str(tmp_path / "o"), "--exclude", str(tmp_path / "marked.csv")]
    assert main(arguments) == 0
    left = {row["id"]: row["reason"] for row in lines(tmp_path / "o" / "excluded.jsonl")}
    assert left == {"u3": "noise (marked.csv)", "u9": "marked as wrong (marked.csv)"}
    assert sides(tmp_path / "o").keys() == {f"u{row}" for row in range(100)} - left.keys()


def test_hours_and_one_side_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["split", str(invented(tmp_path, 600)), "--output", str(tmp_path / "o"), "--test=0.1h", "--valid=0"]
    assert main(arguments) == 0
    figures = json.loads((tmp_path / "o" / "split.json").read_text())["sides"]
    assert abs(figures["test"]["seconds"] - 360) <= 30
    assert figures.keys() == {"train", "test"}
    assert not (tmp_path / "o" / "valid.jsonl").exists()
    assert "to train, say which language is spoken" in capsys.readouterr().out


def test_files_of_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = invented(tmp_path, 100, "train.jsonl.csv")
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text("{}")
        assert main(["split", str(manifest), "--output", str(folder)]) == 2
        error = capsys.readouterr().err
        assert f"{folder / name} would be overwritten" in error
        assert "--overwrite true" in error
        assert contents(folder) == {name: b"{}"}
        (folder / name).unlink()
    assert main(["split", str(manifest), "--output", str(folder)]) == 0
    before = sides(folder)
    with (folder / "valid.jsonl").open("a") as file:
        file.write("\n")
    assert main(["split", str(manifest), "--output", str(folder)]) == 2
    assert main(["split", str(manifest), "--output", str(folder), "--overwrite", "true"]) == 0
    assert sides(folder) == before
    for more in ([], ["--overwrite=true"]):
        assert main(["split", str(folder / "train.jsonl"), "--output", str(folder), *more]) == 2
        assert "input" in (error := capsys.readouterr().err) or "is read" in error
    assert sides(folder) == before


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--valid=0", "--test=0"], "nothing to divide"),
        (["--valid=0.5", "--test=50%"], "leaves nothing to train on"),
        (["--valid=1.5"], "it takes a share below 1"),
        (["--by=text", "--texts=free"], "--by text keeps texts together"),
        (["--by=person"], "speaker, recording or text"),
        (["--language=Klingonese"], "Klingonese"),
    ],
)
def test_options_that_make_no_sense(
    flags: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(invented(tmp_path, 10)), "--output", str(tmp_path / "o"), *flags]) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_million_rows_in_a_minute(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("aeioulnrstcdmpv", k=draw.randint(2, 9))) for _ in range(5000)]
    texts = [" ".join(draw.choices(words, k=draw.randint(3, 20))) for _ in range(950_000)]
    with (tmp_path / "all.csv").open("w", encoding="utf-8") as file:
        file.write("id,audio,text,speaker,language\n")
        for row in range(1_000_000):  # one text in twenty is copied
            text = texts[row] if row < len(texts) else draw.choice(texts)
            file.write(f"u{row},clips/{row}.wav,{text}.,s{row % 5000},{'it' if row % 3 else 'sc'}\n")
    command = [sys.executable, "-m", "whispertune", "split", tmp_path / "all.csv", "--output", tmp_path / "out"]
    began = time.perf_counter()
    subprocess.run([*map(str, command)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert time.perf_counter() - began < 60
    assert json.loads((tmp_path / "out" / "split.json").read_text())["sides"]["test"]["utterances"] == 100_000
