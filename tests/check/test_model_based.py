"""What a model's opinion amounts to."""

from __future__ import annotations

import numpy as np
import pytest

from whispertune.check.model_based import Opinion, judge, unsupported_share


def kind(text: str, **values: float | str) -> str | None:
    opinion = Opinion(**{"nll": 5.0, "own_nll": 0.5, "cer": 0.9, "hypothesis": "tutt'altra cosa", **values})  # type: ignore[arg-type]
    judged = judge(opinion, text)
    return None if judged is None else judged[0]


def test_the_audio_must_speak_against_a_transcript() -> None:
    assert kind("il gatto dorme", support=-0.3) == "wrong_transcript"
    # Misheard: another spelling is far likelier, but so is the transcript with the audio than without.
    assert kind("hotel", hypothesis="accacomeo telle", support=3.2) == "doubtful_transcript"
    assert kind("il gatto dorme", support=-0.3, nll=0.6) is None  # as likely as what is heard


def test_a_part_that_is_not_heard() -> None:
    assert kind("una frase di cui manca la prima metà", cer=0.5, support=1.5, unsupported=0.5) == "wrong_transcript"
    assert kind("una frase di cui manca la prima parola", cer=0.1, support=1.5, unsupported=0.1) is None


@pytest.mark.parametrize(
    ("support", "share"),
    [
        ([3.0] * 10, 0.0),
        ([-1.0] * 10, 1.0),
        ([-1.0] * 4 + [3.0] * 6, 0.5),  # one of the others is needed to see it
        ([3.0] * 7 + [-1.0] * 3, 0.4),
        ([3.0] * 9 + [-9.0, 2.0], 0.0),  # one token that the model mishears
        ([3.0] * 4 + [-1.0] * 2 + [3.0] * 4, 0.0),  # in the middle: a word misheard
        ([], 0.0),
    ],
)
def test_the_share_that_is_not_heard(support: list[float], share: float) -> None:
    assert unsupported_share(np.array(support, np.float32)) == pytest.approx(share, abs=0.11)
