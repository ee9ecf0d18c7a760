"""What docs/parts.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "src" / "whispertune", ROOT / "tests", ROOT)
NAMED = re.compile(r"`([\w/]+(?:/|\.py))(?:::(\w+))?[\w.]*`")


def test_every_file_and_test_is_there() -> None:
    text = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")
    named = NAMED.findall(text)
    assert len(named) > 100
    for path, name in named:
        found = [place / path for place in PLACES if (place / path).exists()]
        assert found, path
        texts = [place.read_text(encoding="utf-8") for place in found] if name else []
        assert not name or any(re.search(rf"\b(def|class) {name}\b", text) for text in texts), name
