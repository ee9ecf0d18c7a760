"""Targets with timestamps: what openai-whisper's grammar allows, and transformers reads back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whispertune.data.utterances import Utterance
from whispertune.dataset.options import WindowOptions
from whispertune.dataset.stitching import stitched_windows
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import Window
from whispertune.decoding.loading import ReadyModel

TEXTS = ("Il numero chiamato non è raggiungibile.", "ventuno", "Premere cancelletto", "sì", "attendere, prego!")


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    """Stitched windows with timestamps, of clips of 0.3 to 4 s."""
    generator = np.random.default_rng(0)
    utterances = [Utterance(id=f"u{n}", audio=Path("a.wav"), text=TEXTS[n % len(TEXTS)]) for n in range(40)]
    lengths = generator.integers(4_800, 64_000, size=40).tolist()
    options = WindowOptions(stitched_share=0.3, timestamps=1.0, min_pause=0.0)
    return stitched_windows(utterances, lengths, [10] * 40, options, 0, max_tokens=400)


def test_their_grammar_allows_every_token(base: ReadyModel, windows: list[Window]) -> None:
    theirs = pytest.importorskip("whisper.decoding")
    tokenizer, text = base.tokenizer, TextSettings(base.tokenizer, "it", "transcribe")
    named = SimpleNamespace(
        eot=tokenizer.eot, no_timestamps=tokenizer.no_timestamps, timestamp_begin=tokenizer.timestamp_begin
    )
    rules = theirs.ApplyTimestampRules(named, sample_begin=0, max_initial_timestamp_index=50)
    for window in windows:
        target = text.target(window)
        said = torch.tensor([*target.input_ids[target.prompt_length :], tokenizer.eot])
        for place, token in enumerate(said.tolist()):
            logits = torch.zeros(1, tokenizer.vocab_size)
            logits[0, token] = 20.0  # the model is sure of it
            rules.apply(logits, said[None, :place])
            assert logits[0, token] == 20.0, (window.id, place)


def test_transformers_reads_the_same_segments(base: ReadyModel, base_folder: Path, windows: list[Window]) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.WhisperTokenizer.from_pretrained(base_folder)
    text = TextSettings(base.tokenizer, "it", "transcribe")
    for window in windows:
        read = theirs.decode(list(text.target(window).input_ids), output_offsets=True)["offsets"]
        ours = window.segments()
        assert [offset["text"].strip() for offset in read] == [segment.text for segment in ours]
        times = [time for offset in read for time in offset["timestamp"]]
        assert times == pytest.approx([time for segment in ours for time in segment[:2]], abs=0.0101)
