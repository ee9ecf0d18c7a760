"""How the transcripts of an export are scored."""

from __future__ import annotations

import numpy as np
import pytest

from whispertune.evaluation.verification import Clip, scored


@pytest.mark.parametrize(("task", "wer"), [("translate", 0.0), ("transcribe", 2 / 4)])
def test_transcripts_are_normalised_as_the_language_they_are_written_in(task: str, wer: float) -> None:
    """A translation is English, where "don't" is "do not"; in Italian the apostrophe parts two words, "don" and "t"."""
    clip = Clip("a", np.zeros(1, np.float32), "it", "I don't know")
    assert scored([clip], ["I do not know"], task).wer == wer
