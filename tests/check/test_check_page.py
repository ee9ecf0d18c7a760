"""What the data is, in summary.json, on the terminal and on the page; and every finding within reach."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

sys.path.append(str(Path(__file__).parents[1] / "cli"))
from cli_samples import example_rows, write_manifest

from whispertune.check.figures import _histogram, as_duration, as_rate
from whispertune.cli import main
from whispertune.data.audio.waveforms import load_waveform
from whispertune.report import check_page as page
from whispertune.system.counts import counted


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (187, "3 min 07 s"), (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"), (43500, "12 h 05 min"), (3.6e6, "1,000 h 00 min"),
    ],
)  # fmt: skip
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text


def test_numbers_and_what_they_count() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 1234)] == ["0 rows", "1 row", "2 rows", "1,234 rows"]
    assert [as_rate(rate) for rate in (8000, 16000, 22050)] == ["8 kHz", "16 kHz", "22.05 kHz"]


@pytest.mark.parametrize("longest", [1.0, 7.0, 30.0, 20_000.0])
def test_every_clip_is_in_one_bar(longest: float) -> None:
    seconds = np.random.default_rng(0).uniform(0.05, 4.0, 500)
    seconds[7] = longest
    bars = _histogram(seconds)
    assert sum(count for *_, count in bars) == 500
    assert len(bars) <= 17
    assert [low for low, *_ in bars[1:]] == [high for _, high, _ in bars[:-1]]
    for low, high, count in bars:
        assert count == np.sum((seconds >= low) & (seconds < high)) or high == longest
    assert sum(count > 10 for *_, count in bars) > 5  # one long clip does not hide the others


def test_speakers_rates_and_the_rest_of_the_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "SHOWN_ERRORS", 2)
    monkeypatch.setattr(page, "MOST_LISTED", 5)
    rows = [{**row, "id": f"clip-{n:02d}", "speaker": "ab"[n % 2]} for n, row in enumerate(example_rows("train", 9))]
    call = load_waveform(Path(rows[0]["audio"]))
    soundfile.write(tmp_path / "call.wav", soxr.resample(call, 16_000, 8_000), 8_000)
    rows[0]["audio"] = "call.wav"
    for row in rows[1:8]:
        row["text"] = "[risata] " + row["text"]
    manifest = write_manifest(tmp_path / "train.csv", rows)
    assert main(["check", str(manifest), "--language=it", f"--output={tmp_path / 'out'}"]) == 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["sample_rates"] == {"16000": 8, "8000": 1}
    assert [speaker[:2] for speaker in summary["speakers"]] == [["a", 5], ["b", 4]]
    assert summary["seconds"] == pytest.approx(3600 * summary["sources"][0]["hours"], rel=1e-5)
    printed = capsys.readouterr().out
    assert "16 kHz: 8, 8 kHz: 1" in printed
    assert "2 speakers" in printed
    assert "7 of 9 rows have errors" in printed
    html = (tmp_path / "out" / "check.html").read_text(encoding="utf-8")
    assert ">8 kHz<" in html
    assert "above 4 kHz" in html
    markup = html[html.index('id="markup"') :]
    assert "7 findings" in markup
    assert "<summary>3 more</summary>" in markup  # behind the two with players
    assert re.findall(r"<li>train.csv, row (\d+), (clip-\d\d):", markup) == [
        ("5", "clip-03"), ("6", "clip-04"), ("7", "clip-05"),
    ]  # fmt: skip
    assert '2 more are in <a href="check.jsonl">' in markup
    assert "0.00 hours" not in html
