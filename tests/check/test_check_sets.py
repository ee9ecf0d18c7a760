"""Rows against each other: duplicates and leakage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whispertune.check.audio import AudioFacts
from whispertune.check.findings import Role, Source
from whispertune.check.sets import same_audio, same_text, shared_speakers
from whispertune.check.text import TextFacts, check_texts
from whispertune.data.utterances import Utterance, Utterances


def sources_of(**texts: Sequence[str]) -> tuple[list[Source], TextFacts]:
    """A source for each name (train, valid, test or other), and the facts of all rows."""
    sources: list[Source] = []
    first = 0
    for name, part in texts.items():
        rows = [Utterance(id=f"{name}{i}", audio=Path(f"{name}{i}.wav"), text=text) for i, text in enumerate(part)]
        role: Role = name if name in ("train", "valid", "test") else ""  # type: ignore[assignment]
        sources.append(Source(Path(f"{name}.csv"), role, Utterances(rows), first))
        first += len(rows)
    _, facts = check_texts([source.rows for source in sources], lambda _: None, None, sketches=True)
    return sources, facts


def audio_of(keys: Sequence[int], fingerprints: np.ndarray | None = None) -> AudioFacts:
    size = len(keys)
    ones = np.ones(size, np.float32)
    if fingerprints is None:
        fingerprints = np.random.default_rng(0).integers(0, 256, (size, 32), np.uint8)
    column = np.array(keys, np.uint64)
    return AudioFacts(
        ones > 0, ones, ones, ones, np.stack([column, column], axis=1), np.zeros((size, 2), np.float16), fingerprints
    )


def test_the_same_samples_leak_into_the_later_set_and_repeat_within_one() -> None:
    sources, texts = sources_of(train=["a", "b", "c"], valid=["d", "e"], test=["f", "g"], other=["h"])
    found = {(f.row, f.kind) for f in same_audio(sources, texts, audio_of([1, 2, 1, 2, 3, 2, 3, 9]))}
    assert found == {(2, "duplicate_audio"), (3, "leaked_audio"), (5, "leaked_audio"), (6, "leaked_audio")}


@pytest.mark.parametrize(("changed", "alike"), [(0, True), (20, True), (60, False)])
def test_nearly_the_same_fingerprint(changed: int, alike: bool) -> None:
    generator = np.random.default_rng(1)
    bits = generator.integers(0, 2, (300, 256), np.uint8)
    bits[299] = bits[0]
    bits[299, generator.permutation(256)[:changed]] ^= 1
    sources, texts = sources_of(train=["a"] * 299, test=["b"])
    found = list(same_audio(sources, texts, audio_of(range(300), np.packbits(bits, axis=1))))
    assert [(f.row, f.kind) for f in found] == ([(299, "leaked_audio")] if alike else [])


@pytest.mark.parametrize(("seconds", "alike"), [(10.0, True), (10.4, True), (11.0, False), (20.0, False)])
def test_the_same_fingerprint_of_another_length(seconds: float, alike: bool) -> None:
    """A fingerprint is of the whole recording, however long: what only sounds alike throughout is another one."""
    prints = np.repeat(np.random.default_rng(1).integers(0, 256, (1, 32), np.uint8), 2, axis=0)
    sources, texts = sources_of(train=["a"], test=["b"])
    audio = replace(audio_of([1, 2], prints), seconds=np.array([10.0, seconds], np.float32))
    assert [f.kind for f in same_audio(sources, texts, audio)] == (["leaked_audio"] if alike else [])


def test_texts() -> None:
    long = "prego digitare il numero dell'interno desiderato"
    sources, facts = sources_of(
        train=["Ciao a tutti!", "ciao, a tutti", long, "la conferenza è terminata"],
        valid=["un saluto", "CIAO A TUTTI"],
        test=["un saluto", long.replace("numero", "numero2"), "la conferenza sta per cominciare adesso"],
    )
    found = {(f.row, f.kind) for f in same_text(sources, facts)}
    # The same sentence in valid and test gives nothing away.
    assert found == {(1, "duplicate_text"), (5, "leaked_text"), (7, "leaked_text")}


def test_speakers() -> None:
    rows = {
        name: Utterances(
            Utterance(id=f"{name}{i}", audio=Path("a"), text="a", speaker=speaker) for i, speaker in enumerate(part)
        )
        for name, part in {"train": ["a", "b", None], "test": ["c", None, "b", "b"]}.items()
    }
    sources = [Source(Path("x"), "train", rows["train"], 0), Source(Path("y"), "test", rows["test"], 3)]
    _, facts = check_texts([source.rows for source in sources], lambda _: None, None)
    (found,) = shared_speakers(sources, facts)
    assert (found.row, found.kind) == (5, "leaked_speaker")
    assert "2 rows" in found.detail
