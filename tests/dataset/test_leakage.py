"""The same audio in two splits is found whatever its name and format, and however many rows there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_splits import RATE, load, write

from whispertune.data.audio.waveforms import content_key, load_utterance
from whispertune.dataset import fingerprints
from whispertune.dataset.leakage import require_no_leaks
from whispertune.dataset.splits import Split
from whispertune.dataset.transcripts import TextSettings
from whispertune.errors import DataError


def leak(splits: Sequence[Split]) -> str:
    with pytest.raises(DataError) as caught:
        require_no_leaks(splits, 2)
    return str(caught.value)


def brute_force(splits: Sequence[Split]) -> bool:
    """Whether two splits hold a waveform in common, by decoding everything."""
    keys = [{content_key(load_utterance(window.utterances[0])) for window in split.windows} for split in splits]
    return any(ours & theirs for ours, theirs in combinations(keys, 2))


def recorded(folder: Path, name: str, samples: np.ndarray, rate: int = RATE) -> str:
    soundfile.write(folder / name, samples, rate)
    return name


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(7).integers(-10_000, 10_000, 3 * RATE, dtype=np.int16)


@pytest.mark.parametrize("ours", ["headers", "all"])
@pytest.mark.parametrize("theirs", ["headers", "all"])
def test_the_same_audio_counts_by_content_and_span(
    tmp_path: Path,
    text: TextSettings,
    samples: np.ndarray,
    ours: str,
    theirs: str,
) -> None:
    recorded(tmp_path, "whole.wav", samples)
    recorded(tmp_path, "part.flac", samples[RATE : 2 * RATE])
    rows = ["a3.wav,b,0,0.7", "whole.wav,a,1,2", "a1.wav,b,0,1"]
    train = load(write(tmp_path, "train", rows, "audio,text,start,end"), text, check_audio=ours)
    valid = load(write(tmp_path, "valid", ["a2.wav,c", "part.flac,d"]), text, "valid", check_audio=theirs)
    found = leak([train, valid])
    assert re.match(r".*valid\.csv, row 3, field 'audio': the same audio as row 3 of .*train\.csv \(1 such row", found)
    # The whole recording is another waveform than its part.
    other = load(write(tmp_path, "valid", ["a2.wav,c", "whole.wav,d"]), text, "valid", check_audio=theirs)
    assert not brute_force([train, other])
    require_no_leaks([train, other], 2)


@pytest.mark.parametrize("check", ["headers", "all"])
def test_valid_is_compared_with_test_too(tmp_path: Path, text: TextSettings, samples: np.ndarray, check: str) -> None:
    recorded(tmp_path, "one.wav", samples)
    recorded(tmp_path, "two.flac", samples)
    splits = [
        load(write(tmp_path, name, rows), text, name, check_audio=check)
        for name, rows in (("train", ["a1.wav,a"]), ("valid", ["a2.wav,b", "one.wav,c"]), ("test", ["two.flac,d"]))
    ]
    found = leak(splits)
    assert re.match(r".*test\.csv, row 2, field 'audio': the same audio as row 3 of .*valid\.csv", found)
    assert found.endswith("remove them from valid or test")


def test_one_of_very_many_rows_of_equal_length_is_found(tmp_path: Path, text: TextSettings) -> None:
    """Far more rows of the same length than would fit in a sample; the only copy stands anywhere."""
    count = 300
    noise = np.random.default_rng(0).integers(-9_000, 9_000, (count, RATE), dtype=np.int16)
    rows = [recorded(tmp_path, f"t{n}.wav", noise[n]) + ",a" for n in range(count)]
    train = load(write(tmp_path, "train", rows), text, check_audio="headers")
    for n in (0, 17, 171, count - 1):
        recorded(tmp_path, "copy.flac", noise[n])
        valid = load(write(tmp_path, "valid", ["copy.flac,b"]), text, "valid", check_audio="headers")
        assert f"the same audio as row {n + 2} of" in leak([train, valid])


@pytest.mark.parametrize("how", ["path", "symbolic link", "linked folder"])
def test_the_same_file_is_found_without_decoding(
    tmp_path: Path,
    text: TextSettings,
    samples: np.ndarray,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "real").mkdir()
    recorded(tmp_path / "real", "one.wav", samples)
    (tmp_path / "link.wav").symlink_to("real/one.wav")
    (tmp_path / "linked").symlink_to("real")
    name = {"path": "real/../real/one.wav", "symbolic link": "link.wav", "linked folder": "linked/one.wav"}[how]
    head = "audio,text,start,end"
    train = load(write(tmp_path, "train", ["real/one.wav,a,1,2", "a5.wav,a,,"], head), text, check_audio="headers")
    valid = load(write(tmp_path, "valid", [f"{name},b,1,2"], head), text, "valid", check_audio="headers")
    monkeypatch.setattr(fingerprints, "load_waveform", pytest.fail)
    monkeypatch.setattr(fingerprints, "load_utterance", pytest.fail)
    assert "the same audio as row 2 of" in leak([train, valid])


def test_another_channel_or_span_of_the_same_file_is_no_leak(
    tmp_path: Path, text: TextSettings, samples: np.ndarray
) -> None:
    recorded(tmp_path, "two.wav", np.stack([samples, samples[::-1]], axis=1))
    head = "audio,text,start,end,channel"
    train = load(write(tmp_path, "train", ["two.wav,a,0,1,0"], head), text, check_audio="headers")
    for row, same in (("two.wav,b,0,1,1", False), ("two.wav,b,1,2,0", False), ("two.wav,b,0,1,0", True)):
        valid = load(write(tmp_path, "valid", [row], head), text, "valid", check_audio="headers")
        assert brute_force([train, valid]) == same
        if same:
            leak([train, valid])
        else:
            require_no_leaks([train, valid], 1)


def test_what_was_compared_is_said(tmp_path: Path, text: TextSettings, samples: np.ndarray) -> None:
    rows = ["a1.wav,a", "a2.wav,b", recorded(tmp_path, "b.wav", samples) + ",c"]
    train = load(write(tmp_path, "train", rows), text, check_audio="headers")
    valid = load(write(tmp_path, "valid", ["a4.wav,a"]), text, "valid", check_audio="headers")
    said = require_no_leaks([train, valid], 1)
    assert "the start of 3 rows with a length that occurs in another split, content of the 0 that match" in said
    decoded = [
        load(write(tmp_path, name, rows[:1] if name == "train" else ["a4.wav,a"]), text, name)
        for name in ("train", "valid")
    ]
    assert require_no_leaks(decoded, 1).endswith("compared: file and span of all rows; content of all rows")
    assert "content when the run started" in require_no_leaks([train, valid], 1, contents=False)


def test_a_row_that_cannot_be_decoded_hides_no_other(tmp_path: Path, text: TextSettings, samples: np.ndarray) -> None:
    recorded(tmp_path, "same.wav", samples)
    recorded(tmp_path, "same.flac", samples)
    damaged(tmp_path / recorded(tmp_path, "bad.flac", samples))
    train = load(write(tmp_path, "train", ["bad.flac,a", "same.wav,b"]), text, check_audio="headers")
    valid = load(write(tmp_path, "valid", ["same.flac,a"]), text, "valid", check_audio="headers")
    assert len(train.windows) == 2
    assert "the same audio as row 3 of" in leak([train, valid])


def damaged(path: Path) -> None:
    """Zeros in the place of all but the header of a FLAC."""
    content = bytearray(path.read_bytes())
    content[200:-200] = bytes(len(content) - 400)
    path.write_bytes(content)


def test_no_more_is_opened_than_may_be_equal(
    tmp_path: Path,
    text: TextSettings,
    samples: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    real = fingerprints.load_waveform
    monkeypatch.setattr(
        fingerprints, "load_waveform", lambda path, *a, **k: (opened.append(path.name), real(path, *a, **k))[1]
    )
    recorded(tmp_path, "long.wav", samples)
    recorded(tmp_path, "long2.wav", samples[: 2 * RATE])
    train = load(write(tmp_path, "train", ["a1.wav,a", "long.wav,b"]), text, check_audio="headers")
    valid = load(write(tmp_path, "valid", ["a2.wav,a", "long2.wav,b"]), text, "valid", check_audio="headers")
    require_no_leaks([train, valid], 2)
    assert sorted(opened) == ["a1.wav", "a2.wav"]
