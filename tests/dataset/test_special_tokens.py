"""Transcripts with special tokens in them: times become timestamps, others are told and never trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from whispertune.cli import main
from whispertune.data.options import DataOptions
from whispertune.data.readers.manifest import read_manifest
from whispertune.data.sources import read_rows
from whispertune.dataset.options import WindowOptions
from whispertune.dataset.splits import load_split
from whispertune.dataset.transcripts import TextSettings, special_token
from whispertune.text.tokenizer import Tokenizer

RATE = 16_000
TIMED = "<|0.00|>Uno due.<|0.40|><|0.50|>Tre.<|0.90|>"
ROWS = [
    {"id": "timed", "text": TIMED},
    {"id": "plain", "text": "Uno due tre."},
    {"id": "end", "text": "Uno due tre.<|endoftext|>"},
    {"id": "language", "text": "<|it|>Uno due tre."},
    {"id": "open", "text": "<|0.00|>Uno due tre."},
    {"id": "prompted", "text": "Uno due tre quattro.", "prompt": "<|startofprev|> zero"},
    {"id": "timed prompt", "text": "Uno due tre cinque.", "prompt": "<|0.00|>zero<|1.00|>"},
    {"id": "empty", "text": "<|0.00|><|1.00|>"},
]
FAULTY = {
    "end": "special token '<|endoftext|>' in the text", "language": "special token '<|it|>' in the text",
    "open": "special token '<|0.00|>' in the text", "prompted": "special token '<|startofprev|>' in the prompt",
    "empty": "empty text",
}  # fmt: skip


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for number in range(len(ROWS)):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, RATE)
        soundfile.write(tmp_path / f"{number}.wav", noise, RATE)
    rows = [{**row, "audio": f"{number}.wav"} for number, row in enumerate(ROWS)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "train.jsonl"


@pytest.mark.parametrize("check_audio", ["all", "headers"])
def test_times_become_timestamps_and_other_tokens_are_excluded(
    check_audio: Any, manifest: Path, text: TextSettings, tokenizer: Tokenizer
) -> None:
    options = DataOptions(check_audio=check_audio)
    rows = read_rows("train", manifest)
    split = load_split("train", rows, text, options, advance=lambda _: None)
    assert {row.id: row.reason.split(";")[0].split(":")[0] for row in split.excluded} == FAULTY
    assert [window.text for window in split.windows] == ["Uno due. Tre.", "Uno due tre.", "Uno due tre cinque."]
    plain = split.targets[0]  # as it is scored and validated: no timestamps
    assert tokenizer.no_timestamps in plain.input_ids
    assert tokenizer.decode(plain.input_ids[plain.prompt_length :]) == " Uno due. Tre."
    prompted = split.targets[2]
    assert tokenizer.decode(prompted.input_ids[: prompted.prompt_length]) == " zero"

    assert split.arrange(WindowOptions(timestamps=1.0), text, seed=0).timestamps == 1
    timed = split.targets[0].input_ids
    assert tokenizer.no_timestamps not in timed
    stamps = [(token - tokenizer.timestamp_begin) / 50 for token in timed if token >= tokenizer.timestamp_begin]
    assert stamps == [0, 0.4, 0.5, 0.9]
    again = load_split("train", rows, text, options, advance=lambda _: None)
    assert again.arrange(WindowOptions(timestamps=0.0), text, seed=0).timestamps == 0  # on request they go
    assert again.targets[0] == plain


def test_check_finds_them_and_fix_keeps_the_times(manifest: Path, tmp_path: Path) -> None:
    given = ["check", str(manifest), "--no-audio", "--language=it"]
    assert main([*given, f"--output={tmp_path / 'out'}", f"--fix={tmp_path / 'fix'}"]) == 2
    found = [json.loads(line) for line in (tmp_path / "out" / "check.jsonl").read_text(encoding="utf-8").splitlines()]
    errors = {row["id"]: row["kind"] for row in found if row["severity"] == "error"}
    assert errors == {**dict.fromkeys(FAULTY, "special_token"), "empty": "empty_text"}
    kept = read_manifest(tmp_path / "fix" / "train.jsonl")
    assert [row.id for row in kept] == ["timed", "plain", "timed prompt"]
    assert kept[0].segments == read_manifest(manifest)[0].segments


def test_a_token_that_a_user_gave_the_model_is_text(tokenizer: Tokenizer) -> None:
    assert special_token("ride <|laugh|> forte", tokenizer) == "<|laugh|>"
    content = json.loads(tokenizer.json)
    size = max(token["id"] for token in content["added_tokens"]) + 2000
    content["added_tokens"].append(
        {"id": size, "content": "<|laugh|>", "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": False}
    )
    own = Tokenizer(json.dumps(content), size + 1)
    assert special_token("ride <|laugh|> forte", own) is None
    assert special_token("ride <|laugh|> <|it|>", own) == "<|it|>"
