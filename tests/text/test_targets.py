from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whispertune.text.targets import IGNORE_INDEX, collate_targets, make_target

SOT, LANGUAGE, TASK, NO_TIMESTAMPS, EOT, PREV = 100, 101, 102, 103, 99, 104
PROMPT = (SOT, LANGUAGE, TASK, NO_TIMESTAMPS)
TEXTS = st.lists(st.integers(0, 98), max_size=30)


@given(TEXTS, st.booleans())
def test_labels_are_the_input_shifted_left(text: list[int], prompt_loss: bool) -> None:
    target = make_target(PROMPT, text, EOT, sot=SOT, prompt_loss=prompt_loss)
    assert target.input_ids == (*PROMPT, *text)
    assert target.input_ids.count(SOT) == 1  # never doubled
    assert len(target.labels) == len(target.input_ids)
    expected = (*PROMPT[1:], *text, EOT) if prompt_loss else (*[IGNORE_INDEX] * 3, *text, EOT)
    assert target.labels == expected
    assert target.labels[-1] == EOT
    assert target.prompt_length == 4
    assert target.num_target_tokens == len(text) + 1 + 3 * prompt_loss


@pytest.mark.parametrize("prompt", [(SOT, NO_TIMESTAMPS), (SOT,)])
def test_english_only_prompts(prompt: tuple[int, ...]) -> None:
    target = make_target(prompt, [5], EOT, sot=SOT)
    assert target.labels == (*[IGNORE_INDEX] * (len(prompt) - 1), 5, EOT)


def test_previous_text_never_carries_loss() -> None:
    prompt = (PREV, 7, 8, *PROMPT)
    ignored = [IGNORE_INDEX] * 3
    assert make_target(prompt, [5], EOT, sot=SOT).labels == (*ignored, *ignored, 5, EOT)
    assert make_target(prompt, [5], EOT, sot=SOT, prompt_loss=True).labels == (*ignored, *PROMPT[1:], 5, EOT)


@given(st.lists(TEXTS, min_size=1, max_size=6), st.sampled_from([EOT, 0, 50]))
def test_collate_pads_behind_and_masks_padding_alone(texts: list[list[int]], pad_id: int) -> None:
    """With pad id and end of text equal, a mask made from ids would hide the end, and the model never stop."""
    targets = [make_target(PROMPT, text, EOT, sot=SOT) for text in texts]
    input_ids, labels = collate_targets(targets, pad_id)
    longest = max(map(len, texts)) + 4
    assert input_ids.shape == labels.shape == (len(texts), longest)
    assert input_ids.dtype == labels.dtype == torch.long
    for text, ids, row in zip(texts, input_ids.tolist(), labels.tolist(), strict=True):
        num_tokens = len(text) + 4
        assert ids == [*PROMPT, *text] + [pad_id] * (longest - num_tokens)  # the last token is there, too
        assert row == [IGNORE_INDEX] * 3 + [*text, EOT] + [IGNORE_INDEX] * (longest - num_tokens)
    assert int((labels == EOT).sum()) == len(texts)
