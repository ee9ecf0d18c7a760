"""Greedy and beam search against `transformers.generate`, and a saved folder in its pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from clips import Clips

from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import GREEDY, SearchOptions
from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.transcriber import Transcriber
from whispertune.features.frames import select_frames
from whispertune.features.options import FrameOptions
from whispertune.states.computed import EncoderStates

transformers = pytest.importorskip("transformers")
from transformers.modeling_outputs import BaseModelOutput  # noqa: E402

TIE = 1e-3
BEAM = 5


def our_search(ready: ReadyModel, states: EncoderStates, search: SearchOptions) -> list[Hypothesis]:
    prompt = ready.tokenizer.prompt_tokens("it")
    rows = len(states.states)
    return Transcriber(ready, search).decode(states, [prompt] * rows)


def their_search(theirs: Any, states: EncoderStates, **options: Any) -> Any:
    # The encoder's output is the same (test_logits): computing it once is half the work.
    encoder_outputs = BaseModelOutput(last_hidden_state=states.states)
    return theirs.generate(encoder_outputs=encoder_outputs, language="it", task="transcribe", **options)


def without_padding(tokens: list[int], eot: int) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(eot)] if eot in tokens else tokens)


@torch.inference_mode()
def log_probs_behind(ready: ReadyModel, states: torch.Tensor, tokens: tuple[int, ...]) -> torch.Tensor:
    """(T + 1, V): of each of T tokens and of what follows them, under the rules; states (1, K, D)."""
    prompt = ready.tokenizer.prompt_tokens("it")
    hidden = ready.whisper.decoder(torch.tensor([[*prompt, *tokens]]), states, None)[0, len(prompt) - 1 :]
    logits = ready.whisper.decoder.logits(hidden)
    return torch.cat([ready.rules.log_probs(logits[:1], first=True), ready.rules.log_probs(logits[1:], first=False)])


def is_tie(ready: ReadyModel, states: torch.Tensor, ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """Whether two greedy results part at tokens that are equally likely."""
    ours, theirs = (*ours, ready.tokenizer.eot), (*theirs, ready.tokenizer.eot)
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    there = log_probs_behind(ready, states, ours[:at])[-1]
    return abs(float(there[ours[at]] - there[theirs[at]])) < TIE


def compare_greedy(ready: ReadyModel, theirs: Any, states: EncoderStates) -> int:
    """How many results are the same token by token; the others part at a tie."""
    eot = ready.tokenizer.eot
    same = 0
    found = our_search(ready, states, GREEDY)
    expected = their_search(theirs, states, num_beams=1).tolist()
    for row, (hypothesis, tokens) in enumerate(zip(found, expected, strict=True)):
        wanted = without_padding(tokens, eot)
        same += hypothesis.tokens == wanted
        assert hypothesis.tokens == wanted or is_tie(ready, states.states[row : row + 1], hypothesis.tokens, wanted)
        assert hypothesis.ended
        # Its log-probability, teacher-forced.
        log_probs = log_probs_behind(ready, states.states[row : row + 1], hypothesis.tokens)
        chosen = log_probs.gather(1, torch.tensor([*hypothesis.tokens, eot])[:, None])
        assert hypothesis.log_prob == pytest.approx(float(chosen.sum()), abs=1e-3)
    return same


def compare_beam(ready: ReadyModel, theirs: Any, states: EncoderStates) -> int:
    """How many best hypotheses are the same; scores of these are equal, the others ties or counted out."""
    found = our_search(ready, states, SearchOptions(beam_size=BEAM))
    expected = their_search(
        theirs, states, num_beams=BEAM, return_dict_in_generate=True, output_scores=True, length_penalty=1.0
    )  # fmt: skip
    prompt_length = len(ready.tokenizer.prompt_tokens("it"))
    sequences, scores = expected.sequences.tolist(), expected.sequences_scores.tolist()
    same = 0
    for hypothesis, tokens, score in zip(found, sequences, scores, strict=True):
        ours = hypothesis.log_prob / (len(hypothesis.tokens) + 1)  # end of text counted, prompt not
        if hypothesis.tokens == without_padding(tokens[prompt_length:], ready.tokenizer.eot):
            assert ours == pytest.approx(score, abs=1e-3)
            same += 1
    return same


def test_rules_are_theirs(base: ReadyModel, their_base: Any) -> None:
    settings = their_base.generation_config
    always, first = {*settings.suppress_tokens}, {*settings.begin_suppress_tokens}
    assert base.tokenizer.eot in first
    logits = torch.zeros(1, base.checkpoint.config.vocab_size)
    for at_start, expected in ((True, always | first), (False, always)):
        suppressed = base.rules.log_probs(logits, first=at_start)[0].isneginf().nonzero().flatten()
        assert set(suppressed.tolist()) == expected


def test_greedy(base: ReadyModel, their_base: Any, few_states: EncoderStates) -> None:
    assert compare_greedy(base, their_base, few_states) == len(few_states.states)


def test_beam(base: ReadyModel, their_base: Any, few: Clips, few_states: EncoderStates) -> None:
    """On every 60th of the silent states: a search takes any states, and theirs needs half a minute for all."""
    longest = max(map(len, few.waveforms))
    positions = select_frames(longest, FrameOptions(stride=60)).positions.tolist()
    states = EncoderStates(few_states.states[:, positions], None)
    assert compare_beam(base, their_base, states) == len(few)


def longest_first(clips: Clips) -> list[int]:
    return sorted(range(len(clips)), key=lambda i: -len(clips.waveforms[i]))


@pytest.fixture(scope="module")
def valid_states(base: ReadyModel, valid: Clips) -> list[EncoderStates]:
    """Longest first, 8 at a time."""
    order = longest_first(valid)
    return [valid.only(order[begin : begin + 8]).states(base) for begin in range(0, len(order), 8)]


@pytest.mark.slow
def test_greedy_on_all_of_valid(
    base: ReadyModel, their_base: Any, valid: Clips, valid_states: list[EncoderStates]
) -> None:
    same = sum(compare_greedy(base, their_base, states) for states in valid_states)
    print(f"{same} of {len(valid)} greedy results are the same, the others ties")


@pytest.mark.slow
def test_beam_on_all_of_test(base: ReadyModel, their_base: Any, test: Clips) -> None:
    order = longest_first(test)
    same = sum(
        compare_beam(base, their_base, test.only(order[begin : begin + 8]).states(base))
        for begin in range(0, len(order), 8)
    )
    print(f"{same} of {len(order)} best hypotheses are the same")
    assert same >= 0.95 * len(order)


def pipeline_transcripts(folder: Path, clips: Clips) -> list[str]:
    """As someone would use the saved model who knows nothing of how it was trained: no language, no task."""
    transcribe = transformers.pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    inputs = [{"raw": waveform, "sampling_rate": 16_000} for waveform in clips.waveforms]
    return [transcribe(audio, generate_kwargs={"num_beams": 1})["text"] for audio in inputs]


def test_saved_folder_in_a_pipeline(base: ReadyModel, base_folder: Path, few: Clips, few_states: EncoderStates) -> None:
    ours = [base.tokenizer.decode(h.tokens) for h in our_search(base, few_states, GREEDY)]
    assert pipeline_transcripts(base_folder, few) == ours
    assert "ci sono più di" in ours[1]  # in Italian


@pytest.mark.slow
def test_saved_folder_in_a_pipeline_on_all_of_valid(
    base: ReadyModel, base_folder: Path, valid: Clips, valid_states: list[EncoderStates]
) -> None:
    found = [hypothesis for states in valid_states for hypothesis in our_search(base, states, GREEDY)]
    theirs = pipeline_transcripts(base_folder, valid.only(longest_first(valid)))
    assert theirs == [base.tokenizer.decode(hypothesis.tokens) for hypothesis in found]
