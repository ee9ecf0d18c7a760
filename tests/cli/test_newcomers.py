"""Three first days, each with its own corpus: what is printed is typed, and leads to a model and its transcripts.

Nothing is known but the README and what the commands say. A refusal may stand in the way once, and then says what to
type.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_samples import Command, Outcome, example_rows
from safetensors.torch import load_file, save_file

RATE = 16_000
TINY = ("--max_steps=3", "--precision=fp32", "--search.beam_size=1")
"""What a test adds to a printed `train`, and below to others, so that it takes seconds."""
QUICK = ("--beam_size=1", "--precision=fp32")

Clip = tuple[np.ndarray, str]


def clips(count: int, split: str = "train") -> list[Clip]:
    """Waveforms at 16 kHz and their texts, of one to three words."""
    found = []
    for row in example_rows(split, 80)[20:]:
        samples, rate = soundfile.read(row["audio"], dtype="float32")
        if rate == RATE and samples.ndim == 1 and len(samples) < 2.5 * RATE:
            found.append((samples, row["text"]))
    assert len(found) >= count
    return found[:count]


def pause(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


@dataclass
class Newcomer:
    """Types commands and counts the refusals."""

    command: Command
    model: Path
    refusals: list[str] = field(default_factory=list)

    def types(self, line: str, *quick: str) -> Outcome:
        """Run a line as it is printed; its model, which is not on this machine, is replaced by a tiny one."""
        program, *arguments = shlex.split(line)
        assert program == "whispertune"
        arguments = [str(self.model) if part == "openai/whisper-base" else part for part in arguments]
        outcome = self.command([*arguments, *quick])
        if outcome.status:
            assert outcome.status == 2, outcome.err
            self.refusals.append(outcome.error)
        return outcome

    def follows(self, checked: Outcome) -> None:
        """From a check to a trained and scored model, as printed."""
        (train,) = printed(checked)
        if train.startswith("whispertune split "):
            divided = self.types(train)
            assert divided.status == 0, divided.err
            (train,) = printed(divided)
        trained = self.types(train, *TINY)
        assert trained.status == 0, trained.err
        assert Path("runs/first/best/model.safetensors").is_file()
        scores = printed(trained)
        assert len(scores) == 2
        for score in scores:
            assert "WER" in self.types(score, *QUICK).out

    def transcribes(self, audio: str, *flags: str) -> dict[str, str]:
        """The files that a recording's transcript is written to, by ending."""
        line = shlex.join(["whispertune", "transcribe", "--model", "runs/first", audio, *flags])
        outcome = self.types(f"{line} --format srt,json --output transcripts", "--temperature=0", *QUICK)
        assert outcome.status == 0, outcome.err
        return {path.suffix: path.read_text(encoding="utf-8") for path in Path("transcripts").glob("[!.]*")}

    def exports(self, to: str) -> None:
        outcome = self.types(f"whispertune export --model runs/first --to {to} --output out")
        assert outcome.status == 0, outcome.err
        assert {"huggingface": "model.safetensors", "ctranslate2": "model.bin"}[to] in {
            path.name for path in Path("out").iterdir()
        }


def printed(outcome: Outcome) -> list[str]:
    """The commands that are printed as the next ones."""
    return [line.removeprefix("next:").strip() for line in outcome.out.splitlines() if line.startswith("next:")]


@pytest.fixture(scope="module")
def brief_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, its last bias so large along the end of text that it writes a word and stops."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("brief") / "model")
    weights = load_file(folder / "model.safetensors")
    end = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    weights["model.decoder.layer_norm.bias"] = 50 * weights["model.decoder.embed_tokens.weight"][end]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def newcomer(command: Command, brief_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Newcomer:
    monkeypatch.chdir(tmp_path)
    return Newcomer(command, brief_model)


def stamp(samples: int) -> str:
    milliseconds = samples * 1000 // RATE
    return f"00:{milliseconds // 60_000:02}:{milliseconds // 1000 % 60:02},{milliseconds % 1000:03}"


def write_interviews(folder: Path, recordings: int = 3, each: int = 3) -> None:
    """Recordings of several sentences with pauses, each beside subtitles as a Windows program writes them."""
    folder.mkdir()
    spoken = iter(clips(recordings * each))
    for number in range(1, recordings + 1):
        parts: list[np.ndarray] = []
        cues: list[str] = []
        for index, (samples, text) in zip(range(each), spoken, strict=False):
            start = sum(map(len, parts)) + len(silence := pause(0.5 + index / 4))
            parts += [silence, samples]
            cues.append(f"{index + 1}\r\n{stamp(start)} --> {stamp(start + len(samples))}\r\n{text}\r\n")
        soundfile.write(folder / f"Intervista {number}.wav", np.concatenate(parts), RATE)
        (folder / f"Intervista {number}.srt").write_bytes("\r\n".join(cues).encode("utf-8-sig"))


def write_calls(folder: Path, table: str, spoken: Sequence[Clip], prefix: str = "") -> Path:
    """Stereo calls, a speaker a channel, and Excel's table of what is said in them."""
    (folder / "Anrufe").mkdir(exist_ok=True)
    lines = ["Aufnahme;Kanal;Beginn;Ende;Gesagtes"]
    for call in range(0, len(spoken), 4):
        name, parts, at = f"{table} {call}.wav", [], 0.25
        for index, (samples, text) in enumerate(spoken[call : call + 4]):
            stereo = np.zeros((len(samples) + RATE // 4, 2), np.float32)
            stereo[RATE // 4 :, index % 2] = samples
            end = at + len(samples) / RATE
            times = f"{at:.2f};{end:.2f}".replace(".", ",")
            lines.append(f'{prefix}Anrufe\\{name};{index % 2};{times};"{text}"')
            parts.append(stereo)
            at = end + 0.25
        soundfile.write(folder / "Anrufe" / name, np.concatenate(parts), RATE)
    path = folder / f"{table}.csv"
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode("utf-8-sig"))
    return path


def write_common_voice(folder: Path) -> None:
    """A release as it is unpacked, with the tables that serve no run."""
    (folder / "clips").mkdir(parents=True)
    columns = (
        "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale"
    )
    header = "\t".join([*columns.split(), "segment"])
    durations, validated, number = ["clip\tduration[ms]"], [header], 17_000_000
    spoken: Iterator[Clip] = iter([*clips(12), *clips(6, "valid")])
    for name, count in (("train", 8), ("invalidated", 2), ("other", 2), ("dev", 3), ("test", 3)):
        rows = []
        for samples, text in (next(spoken) for _ in range(count)):
            number += 1
            clip = f"common_voice_it_{number}.mp3"
            soundfile.write(folder / "clips" / clip, samples, RATE, format="MP3")
            durations.append(f"{clip}\t{len(samples) * 1000 // RATE}")
            rows.append(f"{name}{number:x}\t{clip}\t{number:064x}\t{text}\t\t2\t0\t\t\t\t\tit\t")
        (folder / f"{name}.tsv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
        validated += rows if name in ("train", "dev", "test") else []
    (folder / "validated.tsv").write_text("\n".join([*validated, ""]), encoding="utf-8")
    (folder / "clip_durations.tsv").write_text("\n".join([*durations, ""]), encoding="utf-8")
    (folder / "reported.tsv").write_text("sentence_id\tsentence\tlocale\treason\nx\ty\tit\tz\n", encoding="utf-8")
    (folder / "validated_sentences.tsv").write_text("sentence_id\tsentence\nx\ty\n", encoding="utf-8")


def test_a_linguist_with_recordings_beside_subtitles(newcomer: Newcomer) -> None:
    """No split is made by hand: recordings are held out by the command that `check` prints."""
    write_interviews(Path("interviste"))
    checked = newcomer.types("whispertune check interviste")
    assert printed(checked) == []
    assert checked.out.splitlines()[-1].endswith("the same with --language L")
    newcomer.follows(newcomer.types("whispertune check interviste --language it"))
    recipe = Path("runs/first/recipe.yaml").read_text(encoding="utf-8")
    assert "train: splits/train.jsonl" in recipe
    assert "valid: splits/valid.jsonl" in recipe
    transcript = newcomer.transcribes("interviste/Intervista 3.wav")
    assert transcript.keys() == {".srt", ".json"}
    newcomer.exports("huggingface")
    assert newcomer.refusals == []


def test_a_company_with_excel_tables_of_stereo_calls(newcomer: Newcomer) -> None:
    """Columns with names of their own are refused once, by a line that holds the flag to fill in."""
    spoken = clips(16)
    write_calls(Path(), "Training", spoken[:12])
    write_calls(Path(), "Kontrolle", spoken[12:])
    check = "whispertune check --train Training.csv --valid Kontrolle.csv --language it"
    newcomer.types(check)
    (refusal,) = newcomer.refusals
    (flag,) = re.findall(r"--columns \S+", refusal)
    names = {"audio": "Aufnahme", "text": "Gesagtes", "start": "Beginn", "end": "Ende", "channel": "Kanal"}
    for kind, name in names.items():
        assert f"{kind}=NAME" in flag
        flag = flag.replace(f"{kind}=NAME", f"{kind}={name}")
    checked = newcomer.types(f"{check} {flag}")
    assert checked.status == 0, checked.out
    newcomer.follows(checked)
    transcript = newcomer.transcribes(
        "Anrufe/Kontrolle 0.wav", "--channels", "separate", "--channel_names", "agent,caller"
    )
    assert [channel["speaker"] for channel in json.loads(transcript[".json"])["channels"]] == ["agent", "caller"]
    newcomer.exports("ctranslate2")
    assert newcomer.refusals == [refusal]


def test_a_researcher_with_a_common_voice_release(newcomer: Newcomer) -> None:
    """The folder that the archive holds is no corpus, but names the one inside; its splits are found."""
    write_common_voice(Path("cv-corpus-21.0-2025-03-14/it"))
    newcomer.types("whispertune check cv-corpus-21.0-2025-03-14")
    (refusal,) = newcomer.refusals
    corpus = refusal.rpartition(": ")[2]
    checked = newcomer.types(f"whispertune check {corpus}")
    assert checked.status == 0, checked.out
    newcomer.follows(checked)
    newcomer.transcribes(f"{corpus}/clips/common_voice_it_17000018.mp3")
    newcomer.exports("huggingface")
    assert newcomer.refusals == [refusal]


def test_drives_of_windows_are_told_to_the_end(newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal is, the remedy is not cut off; with it the same table is read."""
    monkeypatch.setenv("COLUMNS", "60")
    table = write_calls(Path(), "Anrufe", clips(4), prefix="D:\\Daten\\")
    names = "--columns audio=Aufnahme,text=Gesagtes,start=Beginn,end=Ende,channel=Kanal"
    check = f"whispertune check Anrufe.csv --language it {names}"
    refused = newcomer.command(shlex.split(check)[1:])
    assert refused.status == 2
    assert "(such as 'Anrufe 0.wav'), and give it: --audio_root DIR\n" in refused.out
    assert printed(refused) == []
    table.write_bytes(table.read_bytes().replace(b"D:\\Daten\\Anrufe\\", b""))
    read = newcomer.types(f"{check} --audio_root Anrufe")
    assert read.status == 0, read.out
    (split,) = printed(read)
    assert newcomer.types(split).status == 0


def test_a_table_of_windows_is_refused_once(newcomer: Newcomer) -> None:
    """Unknown columns and paths on a drive at once: one line names both that is to be typed."""
    table = write_calls(Path(), "Anrufe", clips(4), prefix="D:\\Daten\\")
    newcomer.types("whispertune evaluate --model openai/whisper-base --data Anrufe.csv --language it")
    (refusal,) = newcomer.refusals
    (flag,) = re.findall(r"--columns \S+", refusal)
    assert "'D:\\\\Daten\\\\Anrufe\\\\Anrufe 0.wav' is on a Windows drive" in refusal
    assert refusal.endswith("(such as 'Anrufe 0.wav'), and give it: --audio_root DIR")
    for kind, name in (
        ("audio", "Aufnahme"), ("text", "Gesagtes"), ("start", "Beginn"), ("end", "Ende"), ("channel", "Kanal")
    ):  # fmt: skip
        flag = flag.replace(f"{kind}=NAME", f"{kind}={name}")
    table.write_bytes(table.read_bytes().replace(b"D:\\Daten\\Anrufe\\", b""))
    read = newcomer.types(f"whispertune check Anrufe.csv --language it {flag} --audio_root Anrufe")
    assert read.status == 0, read.out
    assert newcomer.refusals == [refusal]


def test_segments_without_their_times_are_told_which_columns_to_name(newcomer: Newcomer) -> None:
    write_calls(Path(), "Anrufe", clips(4))
    newcomer.types("whispertune evaluate --model openai/whisper-base --data Anrufe.csv --language it "
                   "--columns audio=Aufnahme,text=Gesagtes")  # fmt: skip
    assert "is repeated; row 2 already has it" in newcomer.refusals[0]
    assert newcomer.refusals[0].endswith("their times (--columns start=NAME,end=NAME)")


def test_missing_flags_are_named_on_one_short_line(newcomer: Newcomer) -> None:
    newcomer.types("whispertune train --model openai/whisper-base --train train.csv --output runs/first")
    assert newcomer.refusals == ["error: --valid is missing; see whispertune train --help"]
    newcomer.types("whispertune train --language it")
    assert newcomer.refusals[1] == (
        "error: --model, --train, --valid and --output are missing; see whispertune train --help"
    )


@pytest.mark.parametrize(("count", "each"), [(1, 12), (2, 6), (12, 1)])
def test_few_recordings_are_divided(newcomer: Newcomer, count: int, each: int) -> None:
    """By recording or, if there are only one or two, by text."""
    write_interviews(Path("talks"), count, each)
    (line,) = printed(newcomer.types("whispertune check talks --language it --no-audio"))
    assert ("--by text" in line) == (count < 3)
    (train,) = printed(newcomer.types(line))
    arguments = shlex.split(train)
    sides = [arguments[arguments.index(flag) + 1] for flag in ("--train", "--valid", "--test")]
    assert sum(len(Path(side).read_text(encoding="utf-8").splitlines()) for side in sides) == 12
