"""Which language is spoken in a window: the likeliest first token among the model's languages."""

from __future__ import annotations

import torch

from whispertune.decoding.prefill import prefill
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates
from whispertune.text.tokenizer import Tokenizer


def detect_languages(decoder: Decoder, states: EncoderStates, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """Code of the likeliest language of each of B windows, and its probability among all languages of the model.

    One decoder step after `<|startoftranscript|>`. An English-only model has no other language: ("en", 1.0).
    """
    num_windows = states.states.shape[0]
    if not tokenizer.languages:
        return [("en", 1.0)] * num_windows
    codes = list(tokenizer.languages)
    with torch.inference_mode():
        prefilled = prefill(decoder, states, [[tokenizer.sot]] * num_windows)
        logits = decoder.logits(prefilled.hidden).float()[:, list(tokenizer.languages.values())]
        probs, places = logits.softmax(-1).max(-1)
    return [(codes[place], prob) for place, prob in zip(places.tolist(), probs.tolist(), strict=True)]
