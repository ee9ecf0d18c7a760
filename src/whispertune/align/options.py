"""How sure the alignment of a text must be, as flags."""

from __future__ import annotations

from dataclasses import dataclass

from whispertune.system.fields import Options, Share


@dataclass(frozen=True, kw_only=True)
class ConfidenceOptions(Options):
    """What is left out."""

    min_confidence: Share = 0.3
    """Leave out pieces with a lower confidence: the probability per token of the text, divided by that of the model's
    own transcript of the piece (at most 1)."""

    min_share: Share = 0.5
    """Leave out sentences of whose letters a smaller share was recognised."""
