"""`whispertune check` from end to end, on a few clips with faults put in."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

sys.path.append(str(Path(__file__).parents[1] / "cli"))
from cli_samples import example_rows, write_manifest

from whispertune.check.findings import guessed_role
from whispertune.check.model_based import Opinion, judge
from whispertune.cli import main
from whispertune.commands.check import read_arguments
from whispertune.commands.check_options import CheckOptions
from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.readers.manifest import read_manifest
from whispertune.run.flags import parse_fields


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def found(folder: Path, severity: str = "error") -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for row in lines(folder / "check.jsonl"):
        if row["severity"] == severity:
            kinds.setdefault(row["id"], set()).add(row["kind"])
    return kinds


@pytest.fixture
def faulty(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """train.csv and test.csv with faults; id -> kind."""
    train = [{**row, "speaker": "a"} for row in example_rows("train", 30)]
    test = [{**row, "speaker": "b"} for row in example_rows("test", 8)]
    (tmp_path / "empty.wav").touch()
    samples = load_waveform(Path(train[5]["audio"]))
    soundfile.write(tmp_path / "copy.mp3", samples, 16_000)
    soundfile.write(tmp_path / "same.flac", load_waveform(Path(train[6]["audio"])), 16_000)
    soundfile.write(tmp_path / "long.wav", np.resize(samples, 31 * 16_000), 16_000)
    train[0]["audio"] = "empty.wav"
    train[1]["audio"] = "absent.wav"
    train[2]["audio"] = "long.wav"
    train[3]["text"] = ""
    train[4]["text"] = '<script>alert("x")</script>'
    test += [
        {"id": "copied", "audio": "copy.mp3", "text": "altro", "speaker": "b"},
        {"id": "same", "audio": "same.flac", "text": "ancora", "speaker": "a"},
    ]
    write_manifest(tmp_path / "train.csv", train)
    write_manifest(tmp_path / "test.csv", test)
    kinds = ["unreadable_audio", "unreadable_audio", "too_long", "empty_text", "markup"]
    expected = {row["id"]: kind for row, kind in zip(train, kinds, strict=False)}
    return tmp_path, expected | {"copied": "leaked_audio", "same": "leaked_audio"}


def test_faults_are_found_fixed_and_shown(faulty: tuple[Path, dict[str, str]]) -> None:
    folder, expected = faulty
    report, fixed = folder / "report", folder / "fixed"
    given = [str(folder / "train.csv"), "--test", str(folder / "test.csv"), "--language=it"]
    assert main(["check", *given, f"--output={report}", f"--fix={fixed}"]) == 2
    assert found(report) == {id_: {kind} for id_, kind in expected.items()}
    assert "leaked_speaker" in found(report, "note")["same"]
    rows = lines(report / "check.jsonl")
    assert {"id", "kind", "severity", "detail", "file", "row", "field", "split"} == set(rows[0])
    assert {row["split"] for row in rows} == {"train", "test"}

    excluded = lines(fixed / "excluded.jsonl")
    assert {row["id"] for row in excluded} == set(expected)
    assert all(expected[row["id"]] in row["reason"] for row in excluded)
    kept = [row for name in ("train", "test") for row in read_manifest(fixed / f"{name}.jsonl")]
    assert len(kept) == 40 - len(expected)
    assert not {row.id for row in kept} & set(expected)
    assert all(row.audio.exists() and row.speaker for row in kept)
    again = ["--train", str(fixed / "train.jsonl"), "--test", str(fixed / "test.jsonl")]
    assert main(["check", *again, "--language=it"]) == 0

    html = (report / "check.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("<audio") == html.count('src="data:audio/mpeg;base64,')
    assert html.count("<audio") > 3
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    assert summary["rows"] == 40
    assert summary["rows_with_errors"] == len(expected)


def test_no_audio_opens_no_file(tmp_path: Path) -> None:
    rows = [{"id": str(i), "audio": f"absent-{i}.wav", "text": f"frase numero {'i' * i}"} for i in range(5)]
    write_manifest(tmp_path / "train.csv", rows)
    write_manifest(tmp_path / "test.csv", [{**rows[0], "id": "x"}, {"id": "y", "audio": "b.wav", "text": "ciao"}])
    files = [str(tmp_path / f"{name}.csv") for name in ("train", "test")]
    assert main(["check", files[0], "--no-audio"]) == 0
    assert main(["check", *files, "--no-audio", f"--output={tmp_path / 'out'}"]) == 2
    assert found(tmp_path / "out") == {"x": {"leaked_audio"}}
    assert found(tmp_path / "out", "note") == {"x": {"leaked_text"}}


@pytest.mark.parametrize(
    ("given", "no_audio"),
    [
        (["--no-audio", "a.csv"], True),
        (["a.csv", "--no_audio"], True),
        (["--no_audio", "true", "a.csv"], True),
        (["a.csv", "--no-audio", "False"], False),
        (["--no_audio=false", "a.csv"], False),
        (["--no-audio", "--language", "it", "a.csv"], True),
    ],
)
def test_no_audio_takes_a_value_or_none(given: list[str], no_audio: bool) -> None:
    files, flags = read_arguments(given)
    assert files == ["a.csv"]
    assert parse_fields(CheckOptions, {}, flags, command="check").no_audio is no_audio


def test_cleaned_rows_keep_their_channel(tmp_path: Path) -> None:
    row = {**example_rows("train", 1)[0], "channel": "0"}
    manifest = write_manifest(tmp_path / "train.csv", [row])
    assert main(["check", str(manifest), "--language=it", f"--fix={tmp_path / 'fixed'}"]) == 0
    assert [u.channel for u in read_manifest(tmp_path / "fixed" / "train.jsonl")] == [0]


def test_what_no_manifest_can_name_is_not_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = example_rows("train", 2)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(rows[0]["audio"], f"a{Path(rows[0]['audio']).suffix}")
        (tmp_path / "a.txt").write_text("ciao", encoding="utf-8")
        tar.add(tmp_path / "a.txt", "a.txt")
    first, second = (write_manifest(tmp_path / f"{n}.csv", [row]) for n, row in zip("ab", rows, strict=True))
    for given, part in ((str(tmp_path / "shard.tar"), "archives"), (f"{first} + {second} [weight=2]", "weights")):
        assert main(["check", given, "--language=it", f"--fix={tmp_path / 'fixed'}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--fix" in line
        assert part in line
        assert main(["check", given, "--language=it"]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "nothing to check"),
        (["absent.csv"], "no such file"),
        (["--language", "Klingon"], "unknown language"),
        (["--modl", "x"], "model"),
        (["--no-audio", "--model", "x"], "it needs the audio"),
        (["--workers", "0"], "workers"),
    ],
)
def test_mistakes_are_told_in_one_line(flags: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line


def test_an_unknown_language_with_a_borrowed_token(tmp_path: Path) -> None:
    rows = [{"id": str(i), "audio": f"{i}.wav", "text": f"custa est una frase de proa {'a' * i}"} for i in range(5)]
    manifest = write_manifest(tmp_path / "train.csv", rows)
    assert main(["check", str(manifest), "--no-audio", "--language=sc"]) == 2
    assert main(["check", str(manifest), "--no-audio", "--language=sc", "--language-token=it"]) == 0


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train.csv", "train"), ("cv-dev.tsv", "valid"), ("test_other.jsonl", "test"), ("validated.tsv", ""),
        ("calls.csv", ""), ("2024-eval.csv", "test"),
    ],
)  # fmt: skip
def test_roles_from_names(name: str, role: str) -> None:
    assert guessed_role(Path("trains") / name) == role


def test_judging_an_opinion() -> None:
    decoded = Opinion(nll=5.0, own_nll=0.5, cer=0.9, hypothesis="tutt'altra cosa")
    assert (judged := judge(decoded, "il gatto dorme")) is not None
    assert judged[0] == "wrong_transcript"
    assert decoded.sure("il gatto dorme") > 0.95
    assert judge(Opinion(nll=1.0, own_nll=0.5, cer=0.9, hypothesis="x y z"), "il gatto") is None
    # A number written in figures, or a letter that is spelt, is no proof.
    number = Opinion(nll=5.0, own_nll=0.5, cer=1.0, hypothesis="40.")
    assert (judged := judge(number, "quaranta")) is not None
    assert judged[0] == "doubtful_transcript"
