"""Manifests become windows and targets; what can't be used is told row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from whispertune.data import index
from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.options import DataOptions, TrainingDataOptions
from whispertune.data.readers.manifest import read_manifest
from whispertune.data.sources import read_rows
from whispertune.dataset import inspection
from whispertune.dataset.exclusions import Exclusion, excluded_summary
from whispertune.dataset.options import WindowOptions
from whispertune.dataset.splits import Arranged, Split, load_split, merged_rows, require_usable
from whispertune.dataset.transcripts import TextSettings, leaves_something
from whispertune.dataset.windows import single_windows, window_waveform
from whispertune.errors import DataError, ManifestError, RecipeError
from whispertune.text.normalizer import normalizer_for
from whispertune.text.options import TextOptions
from whispertune.text.rules import TextRules
from whispertune.text.targets import IGNORE_INDEX
from whispertune.text.tokenizer import Tokenizer

RATE = 16_000


def write(folder: Path, name: str, rows: Sequence[str], header: str = "audio,text") -> Path:
    """A manifest; every audio file that it names and is not there is made: 1 s of noise of its own."""
    path = folder / f"{name}.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for row in rows:
        audio = folder / row.split(",")[0]
        if audio.name.startswith("a") and not audio.exists():
            seed = int(re.sub(r"\D", "", audio.name) or 0)
            soundfile.write(audio, np.random.default_rng(seed).uniform(-0.3, 0.3, RATE), RATE)
    return path


def load(path: Path, text: TextSettings, name: str = "train", **options: Any) -> Split:
    counted: list[int] = []
    split = load_split(name, read_rows(name, path), text, DataOptions(**options), advance=counted.append)
    assert sum(counted) == split.num_rows
    return split


def test_a_split_is_parallel_lists(tmp_path: Path, text: TextSettings, tokenizer: Tokenizer) -> None:
    path = write(tmp_path, "train", ["a1.wav,Uno.", "missing.wav,Due.", "a3.wav,Tre tre."])
    split = load(path, text)
    assert (split.name, split.num_rows) == ("train", 3)
    assert [window.text for window in split.windows] == ["Uno.", "Tre tre."]
    assert list(split.num_samples) == [RATE, RATE]
    assert split.languages == ["it", "it"]
    assert split.hours == pytest.approx(2 / 3600)
    assert [exclusion.row for exclusion in split.excluded] == [3]
    for target, said in zip(split.targets, ["Uno.", "Tre tre."], strict=True):
        prompt = tokenizer.prompt_tokens("it", "transcribe")
        assert list(target.input_ids[: target.prompt_length]) == prompt
        assert tokenizer.decode(list(target.input_ids[target.prompt_length :])).strip() == said
        assert target.labels[-1] == tokenizer.eot


def test_threads_change_nothing(tmp_path: Path, text: TextSettings) -> None:
    rows = [f"a{n}.wav,testo {n}" if n % 3 else f"missing{n}.wav,testo" for n in range(12)]
    path = write(tmp_path, "train", rows)
    one, many = load(path, text, workers=1), load(path, text, workers=5)
    assert one == many


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows under the header; at least one"):
        read_rows("valid", write(tmp_path, "valid", []))
    with pytest.raises(ManifestError, match="no such file"):
        read_rows("valid", tmp_path / "absent.csv")


def test_prompt_column_is_previous_text_without_loss(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """<|startofprev|> prompt <|startoftranscript|> …: it stands before the start and carries no loss, ever."""
    path = write(tmp_path, "train", ["a1.wav,Uno.,Prima di.", "a2.wav,Due.,"], "audio,text,prompt")
    for prompt_loss in (False, True):
        split = load(path, TextSettings(tokenizer, "it", "transcribe", prompt_loss))
        with_prompt, without = split.targets
        plain = tokenizer.prompt_tokens("it", "transcribe")
        prompt = list(with_prompt.input_ids[: with_prompt.prompt_length])
        assert prompt[-len(plain) :] == plain
        assert prompt.count(tokenizer.sot) == 1
        assert prompt[0] not in plain
        assert tokenizer.decode(prompt[1 : -len(plain)]).strip() == "Prima di."
        assert without.input_ids[: without.prompt_length] == tuple(plain)
        start = len(prompt) - len(plain)  # where <|startoftranscript|> stands
        assert set(with_prompt.labels[:start]) == {IGNORE_INDEX}
        scored = [label for label in with_prompt.labels if label != IGNORE_INDEX]
        expected = [*plain[1:]] if prompt_loss else []
        assert scored[: len(expected)] == expected
        assert with_prompt.num_target_tokens == without.num_target_tokens == len(expected) + len("Uno.") + 2


def test_row_before_run(tmp_path: Path, text: TextSettings, tokenizer: Tokenizer) -> None:
    rows = ["a1.wav,Uno.,,", "a2.wav,Two.,en,", "a3.wav,Drei.,German,translate"]
    split = load(write(tmp_path, "train", rows, "audio,text,language,task"), text)
    assert split.languages == ["it", "en", "de"]
    asked = [("it", "transcribe"), ("en", "transcribe"), ("de", "translate")]
    for target, (language, task) in zip(split.targets, asked, strict=True):
        assert list(target.input_ids[: target.prompt_length]) == tokenizer.prompt_tokens(language, task)


@pytest.mark.parametrize("check_audio", ["all", "headers"])
@pytest.mark.parametrize("by_row", [True, False])
def test_translations_are_english_texts(tmp_path: Path, tokenizer: Tokenizer, by_row: bool, check_audio: str) -> None:
    """Judged, encoded and scored as English, under the token of the language that is spoken."""
    rows = ["a1.wav,Hello there,translate", "a2.wav,uh,translate"]  # of the second nothing is left in English
    path = write(tmp_path, "train", rows if by_row else [row.rpartition(",")[0] for row in rows],
                 "audio,text,task" if by_row else "audio,text")  # fmt: skip
    text = TextSettings(tokenizer, "ja", "transcribe" if by_row else "translate")
    split = load(path, text, check_audio=check_audio)
    (row,) = split.excluded
    assert "empty after normalisation" in row.reason
    assert split.languages == ["ja"]
    assert split.text_languages == split.part([0]).text_languages == ["en"]
    target = split.targets[0]
    assert list(target.input_ids[: target.prompt_length]) == tokenizer.prompt_tokens("ja", "translate")
    assert tokenizer.decode(target.input_ids[target.prompt_length :]) == " Hello there"
    # What is only written down is Japanese: no space before it.
    spoken = load(write(tmp_path, "valid", ["a3.wav,こんにちは"]), TextSettings(tokenizer, "ja", "transcribe"))
    assert spoken.text_languages == ["ja"]
    assert tokenizer.decode(spoken.targets[0].input_ids[spoken.targets[0].prompt_length :]) == "こんにちは"


def test_previous_texts_of_translations_are_english(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.prompt_tokens("ja", "translate", previous_text="Hello")
    assert tokenizer.decode(prompt[1 : prompt.index(tokenizer.sot)]) == " Hello"


def test_no_language_at_all(tmp_path: Path, tokenizer: Tokenizer) -> None:
    split = load(write(tmp_path, "train", ["a1.wav,Uno."]), TextSettings(tokenizer, None, "transcribe"))
    assert "no language given: add --language" in split.excluded[0].reason


@pytest.mark.parametrize(("letters", "fits"), [(443, True), (444, False)])
def test_exactly_448_tokens(tmp_path: Path, text: TextSettings, letters: int, fits: bool) -> None:
    """Four prompt tokens, the space that text begins with, and the letters: the end is a label only."""
    split = load(write(tmp_path, "train", [f"a1.wav,{'a' * letters}"]), text)
    assert (len(split.windows) == 1) == fits
    if fits:
        assert len(split.targets[0].input_ids) == 448
    else:
        assert split.excluded[0].reason == "text and prompt are 449 tokens; Whisper takes 448"


@pytest.mark.parametrize(("samples", "fits"), [(480_000, True), (480_001, False)])
def test_exactly_30_seconds(tmp_path: Path, text: TextSettings, samples: int, fits: bool) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(samples), RATE)
    split = load(write(tmp_path, "train", ["long.wav,Uno."]), text)
    assert list(split.num_samples) == ([480_000] if fits else [])
    assert fits or "a window holds 30 s" in split.excluded[0].reason


@pytest.mark.parametrize("said", ["", "  ", "...", "!?", "«»", "[musica]"])
def test_text_of_which_nothing_is_left(tmp_path: Path, text: TextSettings, said: str) -> None:
    split = load(write(tmp_path, "train", [f"a1.wav,{said}"]), text)
    assert "empty" in split.excluded[0].reason


def test_share_of_exclusions(tmp_path: Path, text: TextSettings) -> None:
    rows = [f"a{n}.wav,testo" for n in range(19)]
    one, two = [*rows, "missing.wav,testo"], [*rows[:-1], "missing.wav,testo", "missing2.wav,testo"]
    require_usable([load(write(tmp_path, "train", one), text)], DataOptions())  # 1 of 20 is 5 %
    split = load(write(tmp_path, "train", two), text)
    with pytest.raises(DataError, match=r"2 of 20 rows cannot be used, more than 5%; the first is row 20: .*missing"):
        require_usable([split], DataOptions())
    require_usable([split], DataOptions(max_excluded=0.1))
    with pytest.raises(DataError, match="allow more with --max_excluded"):
        require_usable([split], DataOptions(), flag="--max_excluded")


def test_stitched_windows_join_a_split(tmp_path: Path, text: TextSettings, tokenizer: Tokenizer) -> None:
    rows = [f"a{n}.wav,{'parola ' * 8}{n},{'detto prima' if n == 3 else ''}" for n in range(30)]
    split = load(write(tmp_path, "train", rows, "audio,text,prompt"), text)
    options = WindowOptions(stitched_share=0.25, timestamps=0)
    assert split.arrange(options, text, seed=0) == (10, 0, 0)
    lists = (split.windows, split.num_samples, split.targets, split.languages)
    assert [len(entries) for entries in lists] == [40] * 4
    for window, samples, target in list(zip(split.windows, split.num_samples, split.targets, strict=True))[30:]:
        assert samples == len(window.utterances) * RATE + sum(round(pause * RATE) for pause in window.pauses)
        assert len(target.input_ids) <= 448
        plain = tokenizer.prompt_tokens("it", "transcribe")
        assert list(target.input_ids[: target.prompt_length]) == plain  # no previous text: it belongs to one of them
        assert tokenizer.decode(list(target.input_ids[target.prompt_length :])).strip() == window.text
    assert max(len(window.utterances) for window in split.windows) in (6, 7)  # 59 tokens each
    assert len(split.audio_keys) == 30
    order = split.longest_first()
    assert sorted(order) == list(range(40))
    assert all(split.num_samples[a] >= split.num_samples[b] for a, b in pairwise(order))


@pytest.mark.parametrize("size", [43, 44, 60])
def test_stitched_windows_fit_with_the_spaces_between_their_texts(
    tmp_path: Path, tokenizer: Tokenizer, size: int
) -> None:
    """In a language without spaces, of which each text alone has none, they are tokens of their own."""
    text = TextSettings(tokenizer, "th", "transcribe")
    split = load(write(tmp_path, "train", [f"a{n}.wav,{'x' * size}" for n in range(30)]), text)
    arranged = split.arrange(WindowOptions(stitched_share=0.5, min_utterances=7, timestamps=0), text, seed=0)
    assert arranged.stitched > 5
    most = max(len(target.input_ids) for target in split.targets)
    assert 448 - size <= most + 4 <= 448 + 4


def test_stitched_windows_are_as_likely_as_what_they_are_made_of(tmp_path: Path, text: TextSettings) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    sources = [
        write(folder, "train", [f"a{n}.wav,{said}" for n in range(4)])
        for folder, said in ((few, "Uno."), (many, "Due."))
    ]
    rows = read_rows("train", f"{sources[0]} [weight=20] + {sources[1]}")
    split = load_split("train", rows, text, DataOptions(), advance=len_of)
    split.arrange(WindowOptions(stitched_share=0.9, min_utterances=2, timestamps=0), text, seed=0)
    weights = [(w.utterances[0].text, weight) for w, weight in zip(split.windows, split.weights, strict=True)]
    assert set(weights[8:]) == {("Uno.", 20.0), ("Due.", 1.0)} == set(weights[:8])
    assert all(len({utterance.weight for utterance in window.utterances}) == 1 for window in split.windows)


def talk(folder: Path, cues: Sequence[tuple[float, float, str]], seconds: float = 40) -> Path:
    """A recording of noise with these subtitles beside it."""
    folder.mkdir()
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * RATE))
    soundfile.write(folder / "talk.wav", noise, RATE, subtype="FLOAT")
    blocks = [f"00:{start:06.3f} --> 00:{end:06.3f}\n{said}\n" for start, end, said in cues]
    (folder / "talk.vtt").write_text("WEBVTT\n\n" + "\n".join(blocks), encoding="utf-8")
    return folder


CUES = [
    (1, 3, "uno"),
    (3.5, 6.04, "due"),
    (7.5, 9, "tre"),
    (20, 22, "quattro"),
    (22.5, 24, "cinque"),
    (39, 39.9, "sei"),
]


def test_subtitles_become_windows_of_the_real_recording(
    tmp_path: Path, text: TextSettings, tokenizer: Tokenizer
) -> None:
    folder = talk(tmp_path / "talks", CUES)
    reading = DataOptions(merge_segments=30)
    for check_audio in ("all", "headers"):
        options = replace(reading, check_audio=check_audio)
        rows = merged_rows(read_rows("train", folder), text, options)
        split = load_split("train", rows, text, options, advance=lambda _: None)
        found = split.arrange(WindowOptions(timestamps=1.0, previous_text=1.0), text, seed=0)
        assert found == (0, 2, 2)
        first, _, third = split.windows
        assert np.array_equal(window_waveform(first), load_waveform(folder / "talk.wav", 1, 9))  # pauses too
        assert [(s.start, s.end, s.text) for s in first.segments()] == [
            (0, 2, "uno"), (2.5, pytest.approx(5.04), "due"), (6.5, 8, "tre")
        ]  # fmt: skip
        assert [window.previous_text for window in split.windows] == [None, "uno due tre", "quattro cinque"]
        assert not third.timestamps  # a single one
        ids = list(split.targets[1].input_ids)
        start = ids.index(tokenizer.sot)
        assert tokenizer.decode(ids[:start]) == " uno due tre"
        stamps = [(token - tokenizer.timestamp_begin) * 0.02 for token in ids if token >= tokenizer.timestamp_begin]
        assert stamps == pytest.approx([0, 2, 2.5, 4])
        assert list(split.num_samples) == [8 * RATE, 4 * RATE, round(0.9 * RATE)]
    rows = merged_rows(read_rows("train", folder), text, reading)
    without = load_split("train", rows, text, reading, advance=lambda _: None)
    assert without.arrange(WindowOptions(timestamps=0.0), text, seed=0) == (0, 0, 0)
    assert all(tokenizer.no_timestamps in target.input_ids for target in without.targets)


def test_segments_train_timestamps_by_default_and_clips_do_not(
    tmp_path: Path, text: TextSettings, tokenizer: Tokenizer
) -> None:
    """By themselves: subtitles, and a manifest with start and end. Clips alone stay as they are, window by window."""
    cues = [(n, n + 0.8, f"frase {n}") for n in range(0, 36, 2)]
    subtitles = read_rows("train", talk(tmp_path / "talks", cues))
    spans = [f"a0.wav,parola,{n / 20},{n / 20 + 0.05}" for n in range(18)]
    manifest = read_rows("train", write(tmp_path, "spans", spans, "audio,text,start,end"))

    def arranged(rows: Any, **options: Any) -> tuple[Split, Arranged]:
        split = load_split("train", rows, text, DataOptions(), advance=lambda _: None)
        return split, split.arrange(WindowOptions(**options), text, seed=0)

    for rows in (subtitles, manifest):
        split, counts = arranged(rows, timestamps=1.0)
        assert counts == (round(len(rows) * 0.15 / 0.85), 3, 0)
        stamped = [any(t >= tokenizer.timestamp_begin for t in target.input_ids) for target in split.targets]
        assert sum(stamped) == 3
        assert arranged(rows, stitched_share=0.5)[1].stitched == len(rows)  # a number of one's own wins
        assert arranged(rows, timestamps=0)[1] == arranged(rows, stitched_share=0)[1] == (0, 0, 0)
    shuffled = [spans[n * 7 % 18] for n in range(18)]  # neighbours in the manifest are none in the recording
    assert arranged(read_rows("train", write(tmp_path, "mixed", shuffled, "audio,text,start,end")))[1].stitched == 3
    clips = load(write(tmp_path, "clips", [f"a{n}.wav,testo {n},0,1" for n in range(20)], "audio,text,start,end"), text)
    before = list(clips.windows)
    assert clips.arrange(WindowOptions(), text, seed=0) == (0, 0, 0)
    assert list(clips.windows) == before


def test_joined_segments_take_part_in_stitching(tmp_path: Path, text: TextSettings, tokenizer: Tokenizer) -> None:
    cues = [(n, n + 0.8, f"frase {n}") for n in range(0, 36, 2)]
    options = DataOptions(merge_segments=5)
    rows = merged_rows(read_rows("train", talk(tmp_path / "talks", cues)), text, options)
    split = load_split("train", rows, text, options, advance=lambda _: None)
    counts = split.arrange(WindowOptions(stitched_share=0.5, timestamps=1.0, max_utterances=4), text, seed=0)
    assert counts.stitched > 3
    assert counts.timestamps == len(split.windows)
    for window, samples, target in zip(split.windows, split.num_samples, split.targets, strict=True):
        assert len(window_waveform(window)) == samples
        stamps = [token for token in target.input_ids if token >= tokenizer.timestamp_begin]
        assert len(stamps) == 2 * sum(len(u.segments) for u in window.utterances)
        assert stamps == sorted(stamps)


def test_the_text_before_is_of_the_same_recording(tmp_path: Path, text: TextSettings) -> None:
    rows = ["a1.wav,a,0,0.3", "a1.wav,b,0.3,0.6", "a2.wav,c,0.3,0.6", "a2.wav,d,0,0.3", "a3.wav,e,,", "a3.wav,f,0.1,"]
    path = write(tmp_path, "train", [f"{row},{n}" for n, row in enumerate(rows)], "audio,text,start,end,id")
    split = load(path, text)
    assert split.arrange(WindowOptions(stitched_share=0, previous_text=1.0), text, seed=0) == (0, 0, 1)
    assert [window.previous_text for window in split.windows] == [None, "a", None, None, None, None]


def test_summary_counts_kinds() -> None:
    rows = [Exclusion("train", "a", "f", row, f"text is empty after normalisation: '{row}!'") for row in range(3)]
    rows.append(Exclusion("valid", "b", "f", 9, "a.wav: no such file"))
    assert excluded_summary(rows) == [
        "train: 3 left out: text is empty after normalisation",
        "valid: 1 left out: a.wav: no such file",
    ]
    assert excluded_summary([]) == []


def test_options_are_checked() -> None:
    for options in (
        {"max_excluded": 1.1},
        {"max_excluded": float("nan")},
        {"workers": 0},
        {"merge_segments": 31},
        {"temperature": 0.5},
    ):
        with pytest.raises(RecipeError, match=f"^{next(iter(options))} is"):
            TrainingDataOptions(**options)  # type: ignore[arg-type]


def test_every_row_of_the_example_can_be_used(text: TextSettings) -> None:
    folder = Path(__file__).parents[2] / "examples" / "italian-prompts"
    rows = read_manifest(folder / "valid.csv")[::20]
    split = load_split("valid", rows, text, DataOptions(), advance=lambda amount: None)
    assert split.excluded == []


def test_a_borrowed_token_heads_the_rows_of_the_runs_language_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = ["a1.wav,una,", "a2.wav,duas,sc", "a3.wav,three,en"]
    utterances = read_rows("train", write(tmp_path, "train", rows, "audio,text,language"))
    settings = TextSettings(tokenizer, "sc", "transcribe", language_token="it")
    assert [settings.token_language(row) for row in utterances] == ["it", "it", "en"]
    assert [settings.language_of(row) for row in utterances] == ["sc", "sc", "en"]
    heads = [settings.target(window).input_ids[1] for window in single_windows(utterances)]
    assert heads == [tokenizer.languages[code] for code in ("it", "it", "en")]
    split = load_split("train", utterances, settings, DataOptions(workers=1), advance=lambda _: None)
    assert split.languages == ["sc", "sc", "en"]
    assert not split.excluded


# Headers only.


def test_headers_tell_what_decoding_would(tmp_path: Path, text: TextSettings) -> None:
    """The same windows, lengths and targets; the same rows left out, save what only decoding can find."""
    soundfile.write(tmp_path / "long.flac", np.random.default_rng(9).uniform(-0.3, 0.3, 40 * 44_100), 44_100)
    rows = ["a1.wav,Uno.,,", "missing.wav,Due.,,", "long.flac,Tre.,0.1234,7.7", "long.flac,Tre.,,", "long.flac,!?,1,2"]
    rows += ["long.flac,Fuori.,39,45", f"a1.wav,{'a' * 500},0,0.5", "long.flac,Fine.,31.5,"]
    path = write(tmp_path, "train", rows, "audio,text,start,end")
    decoded = load(path, text, check_audio="all")
    skimmed = load_split("train", read_rows("train", path), text, DataOptions(check_audio="headers"), advance=len_of)
    assert (decoded.decoded, skimmed.decoded) == (True, False)
    assert skimmed.num_samples == decoded.num_samples
    assert len(decoded.num_samples) == 3
    assert skimmed.excluded == decoded.excluded
    for name in ("windows", "targets", "languages", "weights", "tasks", "fingerprint"):
        assert getattr(skimmed, name) == getattr(decoded, name), name
    assert skimmed.audio_keys == {}


def test_indexed_headers_change_no_split_and_a_changed_file_is_opened_again(
    tmp_path: Path, text: TextSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "FEWEST_ROWS", 1)
    for name in "bc":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(2 * RATE, np.int16), RATE)
    rows = ["b.wav,Uno.,,", "c.wav,Due.,,", "missing.wav,Tre.,,", "b.wav,Quattro.,0.5,1.5"]
    path = write(tmp_path, "train", rows, "audio,text,start,end")
    opened: list[str] = []
    real = inspection.probe_audio
    monkeypatch.setattr(inspection, "probe_audio", lambda audio, **k: (opened.append(audio.name), real(audio, **k))[1])

    def skimmed() -> Split:
        opened.clear()
        return load_split("train", read_rows("train", path), text, DataOptions(check_audio="headers"), advance=len_of)

    first = skimmed()
    assert sorted(opened) == ["b.wav", "c.wav", "missing.wav"]
    with monkeypatch.context() as patched:
        patched.setattr(TextSettings, "surely_usable_rows", None)  # what was found of texts is known, too
        second = skimmed()
    assert opened == ["missing.wav"]
    for name in ("windows", "targets", "languages", "weights", "tasks", "fingerprint", "num_samples", "excluded"):
        assert getattr(second, name) == getattr(first, name), name
    soundfile.write(tmp_path / "c.wav", np.zeros(3 * RATE, np.int16), RATE)
    soundfile.write(tmp_path / "missing.wav", np.zeros(RATE, np.int16), RATE)
    assert list(skimmed().num_samples) == [2 * RATE, 3 * RATE, RATE, RATE]
    assert sorted(opened) == ["c.wav", "missing.wav"]


def test_headers_tell_that_a_channel_is_not_there(
    tmp_path: Path, text: TextSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "FEWEST_ROWS", 1)
    soundfile.write(tmp_path / "b.wav", np.random.default_rng(9).uniform(-0.3, 0.3, (RATE, 2)), RATE)
    rows = ["a1.wav,Uno.,", "a1.wav,Due.,0", "a1.wav,Tre.,1", "b.wav,Quattro.,1", "b.wav,Cinque.,2", "b.wav,Sei.,0"]
    rows = [f"{row},{number}" for number, row in enumerate([*rows, "no.wav,Sette.,1", "b.wav,[rumore],3"])]
    path = write(tmp_path, "train", rows, "audio,text,channel,id")
    decoded = load(path, text, check_audio="all")
    assert [exclusion.row for exclusion in decoded.excluded] == [4, 6, 8, 9]
    assert "a1.wav: has no channel 1; it has 1, numbered from 0" in decoded.excluded[0].reason
    asked: list[tuple[str, int]] = []
    real = inspection.load_waveform
    monkeypatch.setattr(
        inspection, "load_waveform", lambda a, *s, **k: (asked.append((a.name, k["channel"])), real(a, *s, **k))[1]
    )
    for known in ([], [("b.wav", 1)]):  # what is there is kept in the index
        asked.clear()
        skimmed = load(path, text, check_audio="headers")
        assert skimmed.excluded == decoded.excluded
        assert skimmed.num_samples == decoded.num_samples
        assert sorted([*asked, *known]) == [("a1.wav", 1), ("b.wav", 1), ("b.wav", 2), ("b.wav", 3)]
    soundfile.write(tmp_path / "b.wav", np.zeros(RATE + 1), RATE)
    assert [exclusion.row for exclusion in load(path, text, check_audio="headers").excluded] == [4, 5, 6, 8, 9]


@given(
    st.lists(
        st.one_of(
            st.text(max_size=12), st.sampled_from(["", "?", "[rumore]", "\u00bd", "ﬁ", "Ciao.", "x" * 111, "è" * 444])
        ),
        max_size=150,
    ),
    st.sampled_from(["it", "en", None]),
)
def test_texts_are_judged_together_as_one_by_one(text: TextSettings, words: list[str], rare: str | None) -> None:
    languages = [rare if place % 70 == 69 else "it" for place in range(len(words))]
    expected = [
        code is not None and text.surely_usable(said, code) for said, code in zip(words, languages, strict=True)
    ]
    assert text.surely_usable_rows(words, languages) == expected


class Together:
    """Processes of one run as threads."""

    def __init__(self, rank: int, world_size: int, barrier: Barrier, results: list[Any]) -> None:
        self.rank, self.world_size, self._barrier, self._results = rank, world_size, barrier, results

    def share(self, work: Callable[[], Any]) -> list[Any]:
        self._results[self.rank] = work()
        self._barrier.wait(60)
        return self._results


@pytest.mark.parametrize("check", ["all", "headers"])
@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_each_process_looks_at_its_share(tmp_path: Path, text: TextSettings, check: str, world_size: int) -> None:
    said = ["a1.wav,Uno.", "a2.wav,", "a3.wav,Tre.", "missing.wav,Due.", "a1.wav,Ancora.", "a2.wav,Due.", "a3.wav,!"]
    rows = [f"{number},{row}" for number, row in enumerate(said)]
    path = write(tmp_path, "train", rows, "id,audio,text")
    alone = load(path, text, check_audio=check)
    barrier, results, looked = Barrier(world_size), [None] * world_size, [0] * world_size

    def split_of(rank: int) -> Split:
        def advance(amount: int) -> None:
            looked[rank] += amount

        options = DataOptions(check_audio=check, workers=1)  # type: ignore[arg-type]
        processes: Any = Together(rank, world_size, barrier, results)
        return load_split("train", read_rows("train", path), text, options, advance=advance, processes=processes)

    with ThreadPoolExecutor(world_size) as pool:
        splits = list(pool.map(split_of, range(world_size)))
    assert looked == [len(rows[rank::world_size]) for rank in range(world_size)]
    for split in splits:
        for name in ("windows", "targets", "num_samples", "languages", "audio_keys", "excluded", "num_rows", "decoded"):
            assert getattr(split, name) == getattr(alone, name), name


def len_of(amount: int) -> None:
    assert amount > 0


# Silence on purpose.


def test_empty_texts_are_kept_if_asked_for(tmp_path: Path, text: TextSettings, tokenizer: Tokenizer) -> None:
    """The target is the end of text alone; text that is lost in normalisation stays left out."""
    path = write(tmp_path, "train", ["a1.wav,Uno.", "a2.wav,", "a3.wav,..."])
    for check in ("all", "headers"):
        options = DataOptions(empty_text="keep", check_audio=check)  # type: ignore[arg-type]
        split = load_split("train", read_rows("train", path), text, options, advance=len_of)
        assert [window.text for window in split.windows] == ["Uno.", ""]
        assert [exclusion.row for exclusion in split.excluded] == [4]
        silent = split.targets[1]
        assert list(silent.input_ids) == tokenizer.prompt_tokens("it", "transcribe")
        assert [label for label in silent.labels if label != IGNORE_INDEX] == [tokenizer.eot]


SAID = (
    st.text(max_size=30)
    | st.text("um hm.,!?[]()<> a1", max_size=60)
    | st.just("okay thirty-five dollars, um, hm, right")
)


@pytest.mark.parametrize("language", ["it", "en", "hi", "ja"])
@given(said=SAID)
@example(said="\uff9e")
def test_the_quick_look_agrees_with_the_normaliser(language: str, said: str) -> None:
    assert leaves_something(said, language) == bool(normalizer_for(language)(said).strip())


def test_segments_are_merged_if_asked_for(tmp_path: Path, text: TextSettings) -> None:
    read = read_rows(
        "train", write(tmp_path, "train", ["a1.wav,Uno,0,0.4", "a1.wav,due.,0.5,0.9"], "audio,text,start,end")
    )
    (row,) = merged_rows(read, text, DataOptions(merge_segments=10))
    assert (row.text, row.start, row.end) == ("Uno due.", 0.0, 0.9)
    assert merged_rows(read, text, DataOptions()) is read


@pytest.mark.parametrize("check", ["all", "headers"])
def test_a_segment_with_unusable_text_is_left_out_alone(tmp_path: Path, text: TextSettings, check: Any) -> None:
    said = ["Uno", "due", "[inaudible]", "tre", "", "quattro", "cinque", "...", "a" * 500, "sei"]
    rows = [f"a1.wav,{words},{n / 10:.1f},{n / 10 + 0.1:.1f}" for n, words in enumerate(said)]
    read = read_rows("train", write(tmp_path, "train", rows, "audio,text,start,end"))
    for empty, texts, excluded in (
        ("exclude", ["Uno due", "tre", "quattro cinque", "sei"], [4, 6, 9, 10]),
        ("keep", ["Uno due", "tre quattro cinque", "sei"], [4, 9, 10]),
    ):
        options = DataOptions(merge_segments=10, check_audio=check, empty_text=empty)  # type: ignore[arg-type]
        split = load_split("train", merged_rows(read, text, options), text, options, advance=len_of)
        assert [window.text for window in split.windows] == texts
        assert [exclusion.row for exclusion in split.excluded] == excluded


def test_rules_rewrite_texts_before_they_are_judged(tmp_path: Path, text: TextSettings, tokenizer: Tokenizer) -> None:
    """Targets hold the rewritten text, tokens that enclose times are kept, and the transcript is still there."""
    times = "<|0.00|>Uno!<|0.40|><|0.50|>DUE.<|0.90|>"
    path = write(tmp_path, "train", ["a1.wav,Tre TRE.", "a2.wav,!!!", f"a3.wav,{times}"])
    ruled = replace(text, rules=TextRules(TextOptions(case="lower", punctuation="drop")))
    for check in ("all", "headers"):
        split = load(path, ruled, check_audio=check)
        assert [window.text for window in split.windows] == ["tre tre", "uno due"]
        assert [window.utterances[0].transcript for window in split.windows] == ["Tre TRE.", "Uno! DUE."]
        assert [segment.text for segment in split.windows[1].utterances[0].segments] == ["uno", "due"]
        assert [exclusion.row for exclusion in split.excluded] == [3]
        target = split.targets[0]
        assert tokenizer.decode(list(target.input_ids[target.prompt_length :])) == " tre tre"


def test_tokens_that_a_user_added_are_not_rewritten(text: TextSettings) -> None:
    ruled = replace(text, rules=TextRules(TextOptions(case="lower", punctuation="drop")))
    assert ruled.rewrite("Ma <|RIDE|>, dai! <|RIDE|>", "it") == "ma <|RIDE|> dai <|RIDE|>"
