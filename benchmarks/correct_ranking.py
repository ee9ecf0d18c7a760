"""How many damaged transcripts the first 15 % of the order of `whispertune correct` hold.

    python benchmarks/correct_ranking.py [--model packaged:whisper-base] [--clips 250] [--seeds 0 1 2 3 4]

10 % of the Italian training transcripts are damaged, in equal parts: another clip's text, the second half missing, a
word replaced by another, left out, or put in, two letters changed. Rows whose own transcripts are known to be wrong are
left out. The model is asked once about each transcript, damaged or not.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from check_faults import KNOWN_WRONG
from common import DATA, add_common, markdown, publish

from whispertune.correct.doubts import with_doubts
from whispertune.correct.ranking import ordered
from whispertune.correct.sources import read_segments
from whispertune.data.sources import read_rows
from whispertune.data.utterances import Utterance
from whispertune.dataset.transcripts import TextSettings
from whispertune.decoding.loading import load_model, ready_to_decode

KINDS = ("another text", "half", "replaced", "left out", "put in", "two letters")
DAMAGED, LOOKED_AT = 0.10, 0.15


def damaged(kind: str, text: str, texts: Sequence[str], draw: random.Random) -> str | None:
    """A text with this damage; None if it cannot have it."""
    words, others = text.split(), [word for other in texts for word in other.split()]
    place = draw.randrange(len(words))
    if kind == "another text":
        made = draw.choice(texts)
    elif kind == "half":
        made = " ".join(words[: len(words) // 2])
    elif kind == "replaced":
        made = " ".join([*words[:place], draw.choice(others), *words[place + 1 :]])
    elif kind == "left out":
        made = " ".join([*words[:place], *words[place + 1 :]])
    elif kind == "put in":
        made = " ".join([*words[:place], draw.choice(others), *words[place:]])
    else:
        longest = max(words, key=len)
        letters = list(longest)
        for letter in draw.sample(range(len(letters)), min(2, len(letters))):
            letters[letter] = draw.choice([one for one in "abcdefgilmnoprstuvz" if one != letters[letter].lower()])
        made = text.replace(max(words, key=lambda word: len(word)), "".join(letters), 1)
    return made if made and made.lower() != text.lower() else None


def damage(rows: Sequence[Utterance], seed: int) -> dict[int, tuple[str, str]]:
    """(kind, damaged text) of a tenth of the rows, by their index."""
    draw, texts = random.Random(seed), [row.text for row in rows]
    found: dict[int, tuple[str, str]] = {}
    for number, place in enumerate(draw.sample(range(len(rows)), round(DAMAGED * len(rows)))):
        made = None
        while made is None:
            kind = KINDS[number % len(KINDS)]
            made = damaged(kind, texts[place], texts, draw)
            place = place if made is not None else draw.choice([n for n in range(len(rows)) if n not in found])
        found[place] = (kind, made)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--manifest", type=Path, default=DATA / "train.csv")
    parser.add_argument("--language", default="it")
    parser.add_argument("--clips", type=int, default=250)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add_common(parser, "correct-ranking")
    options = parser.parse_args()
    wrong = KNOWN_WRONG.get(options.language, {})
    rows = [row for row in read_rows("data", options.manifest) if row.audio.stem not in wrong and row.id not in wrong]
    random.Random(0).shuffle(rows)
    rows = rows[: options.clips]
    drawn = {seed: damage(rows, seed) for seed in options.seeds}
    asked = [*rows, *(replace(rows[place], id=f"{place}/{seed}", text=text)
                      for seed, those in drawn.items() for place, (_, text) in those.items())]  # fmt: skip
    _, segments = read_segments(asked, [{}] * len(asked), [{}] * len(asked))
    ready = ready_to_decode(load_model(options.model, torch.device("cpu"), torch.float32))
    text = TextSettings(ready.tokenizer, options.language, "transcribe")
    _, suspicions = with_doubts(ready, asked, segments, text, workers=1)
    table, shares, begin = [], [], len(rows)
    for seed, those in drawn.items():
        scores = list(suspicions[: len(rows)])
        for offset, place in enumerate(those):
            scores[place] = suspicions[begin + offset]
        begin += len(those)
        order = ordered([replace(segments[place], id=str(place)) for place in range(len(rows))], scores)
        first = {int(segment.id) for segment in order[: round(LOOKED_AT * len(rows))]}
        hits = [[place in first for place, (kind, _) in those.items() if kind == one] for one in KINDS]
        shares.append(float(np.mean([hit for one in hits for hit in one])))
        table.append([seed, *(f"{sum(one)} of {len(one)}" for one in hits), f"{100 * shares[-1]:.0f} %"])
    about = (
        f"{len(rows)} clips, {options.model}, {100 * DAMAGED:.0f} % damaged: found in the first {100 * LOOKED_AT:.0f} %"
    )
    mean = f"Mean over {len(shares)} draws: {100 * float(np.mean(shares)):.1f} %."
    publish(options.table, "the order of correct", [about, markdown(["seed", *KINDS, "all"], table), mean])


if __name__ == "__main__":
    main()
