"""How sure the alignment of a text must be, as flags."""

from __future__ import annotations

from dataclasses import dataclass

from whispertune.system.fields import Options, Share


@dataclass(frozen=True, kw_only=True)
class ConfidenceOptions(Options):
    """What is left out."""

    min_confidence: Share = 0.3
    """Leave out pieces with a lower confidence. It is how likely the text is, per token, beside what the model itself
    heard there (1: at least as likely)."""

    min_share: Share = 0.5
    """Leave out sentences of which a smaller share of letters was heard."""
