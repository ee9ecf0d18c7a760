"""Random corpora divided: nothing on two sides, shares kept, the order of rows without effect, sides that stay."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from whispertune.data.utterances import Utterances
from whispertune.errors import AudioError, DataError
from whispertune.split.division import Division, Plan, divide
from whispertune.split.wishes import SIDES, TEST, TRAIN, VALID, Texts, Wish, parse_wish

Row = tuple[int, int, int, int, str]
"""Number, recording, speaker (0: none), text, language."""


def a_text(number: int) -> str:
    """A text that resembles no other; odd numbers are the even ones before them, spelled otherwise."""
    letters = sha256(str(number // 2).encode()).hexdigest()[:30]
    text = " ".join(letters[begin : begin + 5] for begin in range(0, 30, 5))
    return text if number % 2 == 0 else f"{text.upper()}!"


def corpus(rows: Iterable[Row]) -> Utterances:
    found = Utterances()
    for number, recording, speaker, text, language in rows:
        found.add(
            id=f"u{number}", audio=f"/corpus/{recording}.wav", text=a_text(text), start=number * 10.0,
            end=number * 10.0 + 5, speaker=f"s{speaker}" if speaker else None, language=language, source="corpus.csv",
            row=number + 1,
        )  # fmt: skip
    return found


def plan(
    by: str = "recording", valid: str = "0.1", test: str = "0.1", texts: Texts = "together", seed: int = 0
) -> Plan:
    wishes = {side: parse_wish(text, SIDES[side]) for side, text in ((VALID, valid), (TEST, test)) if text != "0"}
    return Plan(by, texts, seed, wishes)  # type: ignore[arg-type]


def divided(rows: Sequence[Row], how: Plan, earlier: Sequence[tuple[int, Utterances]] = ()) -> Division:
    return divide(corpus(rows), how, lambda kind: kind.source, earlier=earlier)


def sides_of(found: Division) -> dict[str, int]:
    return {row.id: side for row, side in zip(found.rows, found.sides.tolist(), strict=True)}


def as_earlier(found: Division) -> list[tuple[int, Utterances]]:
    rows = list(zip(found.rows, found.sides.tolist(), strict=True))
    return [(side, Utterances(row for row, its in rows if its == side)) for side in (TEST, VALID, TRAIN)]


def require_apart(found: Division, by: str) -> None:
    """No speaker, recording or text on two sides, as far as `by` asks for it."""
    sides: dict[object, set[int]] = defaultdict(set)
    for row, side in zip(found.rows, found.sides.tolist(), strict=True):
        if side < 0:
            continue
        sides["text", "".join(char for char in row.text.lower() if char.isalnum())].add(side)
        if by != "text":
            sides["recording", row.audio].add(side)
        if by == "speaker" and row.speaker:
            sides["speaker", row.speaker].add(side)
    assert all(len(there) == 1 for there in sides.values())


@st.composite
def corpora(draw: st.DrawFn, most: int = 120) -> list[Row]:
    number = draw(st.integers(3, most))
    pools = [draw(st.integers(1, 2 * number)) for _ in range(3)]
    drawn = random.Random(draw(st.integers(0, 2**32)))
    return [
        (row, drawn.randrange(pools[0]), drawn.randrange(pools[1] + 1), drawn.randrange(2 * pools[2]),
         drawn.choice(["it", "it", "sc"])) for row in range(number)
    ]  # fmt: skip


def groups_by_hand(rows: Sequence[Row], by: str) -> dict[int, int]:
    """The group of each row, by joining until nothing changes."""
    groups = {row[0]: row[0] for row in rows}
    changed = True
    while changed:
        changed = False
        for one in rows:
            for other in rows:
                shared = one[1] == other[1] or one[3] // 2 == other[3] // 2
                shared |= by == "speaker" and one[2] == other[2] > 0
                if shared and groups[one[0]] != groups[other[0]]:
                    groups[one[0]] = groups[other[0]] = min(groups[one[0]], groups[other[0]])
                    changed = True
    return groups


BY = st.sampled_from(["speaker", "recording", "text"])
SHARES = st.sampled_from(["0.1", "0.3", "0.02", "25%"])


@given(corpora(), BY, SHARES, SHARES, st.integers(0, 5))
def test_nothing_on_two_sides_and_shares_within_a_group(
    rows: list[Row], by: str, valid: str, test: str, seed: int
) -> None:
    how = plan(by, valid, test, seed=seed)
    try:
        found = divided(rows, how)
    except DataError:
        # Only where there are too few groups.
        if by != "text" and not (by == "speaker" and not any(row[2] for row in rows)):
            assert len(set(groups_by_hand(rows, by).values())) < 3
        return
    assert not found.reasons
    require_apart(found, by)
    sizes = Counter(found.groups.tolist())
    held = Counter(found.sides.tolist())
    for side, wish in how.wishes.items():
        assert abs(held[side] - wish.share * len(rows)) <= max(sizes.values())


@given(corpora(), BY, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_has_no_effect(rows: list[Row], by: str, shuffler: random.Random) -> None:
    how = plan(by, texts="together" if by == "text" else "auto")
    try:
        expected = sides_of(divided(rows, how))
    except DataError:
        return
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    assert sides_of(divided(shuffled, how)) == expected


@given(corpora(), BY, st.sampled_from(["auto", "together"]), st.data())
def test_an_utterance_keeps_its_side_when_rows_are_added(
    rows: list[Row], by: str, texts: Texts, data: st.DataObject
) -> None:
    first = data.draw(st.integers(2, len(rows) - 1))
    gone = data.draw(st.integers(0, first // 3))
    how = plan(by, "0.2", "0.2", texts="together" if by == "text" else texts)
    try:
        before = divided(rows[:first], how)
    except DataError:
        return
    earlier = as_earlier(before)
    try:
        after = divide(corpus(rows[gone:]), how, lambda kind: kind.source, earlier=earlier, earlier_texts=before.texts)
    except DataError:  # all rows of a side are gone, or repeat what is in another
        return
    old, new = sides_of(before), sides_of(after)
    kept = {id_ for id_ in old.keys() & new.keys() if old[id_] >= 0}
    if after.texts == "together":
        assert all(new[id_] == old[id_] for id_ in kept)
        require_apart(after, by)
    else:  # train gives up what valid and test came to hold
        assert all(new[id_] in (old[id_], -1) for id_ in kept)
    assert set(after.reasons) == {row for row, side in enumerate(after.sides.tolist()) if side < 0}
    if gone:
        return
    again = sides_of(divide(corpus(rows[gone:]), how, lambda kind: kind.source, earlier=as_earlier(after),
                            earlier_texts=after.texts))  # fmt: skip
    assert again == new


def test_new_rows_make_up_for_what_is_missing() -> None:
    rows = [(row, row, 0, 2 * row, "it") for row in range(1000)]
    found = divided(rows[:100], plan())
    for number in (150, 400, 1000):
        found = divided(rows[:number], plan(), as_earlier(found))
        assert Counter(found.sides.tolist()) == {TEST: number // 10, VALID: number // 10, TRAIN: number * 8 // 10}
    assert found.num_kept == 400


def test_each_language_and_source_gets_its_share() -> None:
    rows = [(row, row, 0, 2 * row, "it" if row % 10 else "sc") for row in range(1000)]
    found = divided(rows, plan(test="0.2"))
    for language, number in (("it", 900), ("sc", 100)):
        held = Counter(
            side for row, side in zip(found.rows, found.sides.tolist(), strict=True) if row.language == language
        )
        assert held[TEST] == number // 5
        assert held[VALID] == number // 10


def test_a_row_that_joins_two_sides_is_left_out() -> None:
    before = divided([(0, 0, 1, 0, "it"), (1, 1, 2, 2, "it"), (2, 2, 3, 4, "it"), (3, 3, 4, 6, "it")], plan("speaker"))
    sides = [int(side) for side in before.sides]
    trained, tested = sides.index(TRAIN), sides.index(TEST)
    both = (9, 9, trained + 1, 2 * tested, "it")
    after = divided([*((n, n, n + 1, 2 * n, "it") for n in range(4)), both], plan("speaker"), as_earlier(before))
    assert after.reasons == {4: "its speaker is in train and its text is in test"}
    assert after.sides.tolist() == [*sides, -1]


def test_texts_that_tie_everything_together() -> None:
    """As in conversations: each recording has the same greeting and a yes, and one sentence is in two of them."""
    rows = Utterances()
    for recording in range(20):
        texts = [
            "Sì.",
            "Buongiorno a tutti e benvenuti a questa nuova puntata.",
            *map(a_text, range(recording * 40, recording * 40 + 20, 2)),
        ]
        for number, text in enumerate(texts):
            rows.add(id=f"{recording}-{number}", audio=f"/{recording}.wav", text=text, source="a.csv", row=1)
    found = divide(rows, plan(texts="auto"), lambda kind: kind.source)
    assert found.texts == "apart"
    assert Counter(found.sides.tolist()) == {TEST: 24, VALID: 22 + 1 - 1, TRAIN: 16 * 11, -1: 18} or found.reasons
    held: dict[str, set[int]] = defaultdict(set)
    for row, side in zip(rows, found.sides.tolist(), strict=True):
        if side >= 0:
            held[row.text].add(side)
    assert held.pop("Sì.") == {TRAIN, VALID, TEST}
    assert all(len(sides) == 1 for sides in held.values())
    assert {reason.partition(":")[0] for reason in found.reasons.values()} == {"of train", "of valid"}
    with pytest.raises(DataError, match=r"--by recording: there are 20 recordings, tied together .* into 1, too few"):
        divide(rows, plan(texts="together"), lambda kind: kind.source)


def test_nearly_the_same_texts_stay_on_one_side() -> None:
    draw = random.Random(1)
    rows = Utterances()
    for number in range(300):
        text = a_text(2 * number)
        other = list(text)
        for place in draw.sample(range(len(text)), 2):
            other[place] = "z"
        for copy, spelled in enumerate((text, "".join(other))):
            rows.add(id=f"{number}-{copy}", audio=f"/{number}-{copy}.wav", text=spelled, source="a.csv", row=1)
    found = divide(rows, plan(), lambda kind: kind.source)
    apart = sum(found.sides[n] != found.sides[n + 1] for n in range(0, 600, 2))
    assert apart <= 12  # MinHash misses a few in a hundred; two letters of 30 changed hit a third of its shingles
    assert Counter(found.sides.tolist())[TEST] in range(59, 62)


def test_utterances_of_one_recording_by_text() -> None:
    rows = Utterances()
    for number in range(100):  # pairs that overlap
        start = number // 2 * 10 + number % 2
        rows.add(id=str(number), audio="/long.wav", text=a_text(2 * number), start=start, end=start + 5.0,
                 source="a.csv", row=number)  # fmt: skip
    with pytest.raises(DataError, match="only one recording, too few for train and valid and test; --by text"):
        divide(rows, plan(), lambda kind: kind.source)
    found = divide(rows, plan("text"), lambda kind: kind.source)
    assert Counter(found.sides.tolist()) == {TEST: 10, VALID: 10, TRAIN: 80}
    assert all(found.sides[n] == found.sides[n + 1] for n in range(0, 100, 2))


def test_copies_of_a_recording_stay_on_one_side(tmp_path: Path) -> None:
    rows = Utterances()
    for number in range(100):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(bytes([number // 2]) * 200_000)
        rows.add(id=str(number), audio=str(path), text=a_text(2 * number), source="a.csv", row=number)
    found = divide(rows, plan(), lambda kind: kind.source)
    assert all(found.sides[n] == found.sides[n + 1] for n in range(0, 100, 2))
    assert Counter(found.sides.tolist()) == {TEST: 10, VALID: 10, TRAIN: 80}


def test_why_a_wish_cannot_be_met() -> None:
    with pytest.raises(DataError, match="no row names its speaker"):
        divided([(row, row, 0, 2 * row, "it") for row in range(10)], plan("speaker"))
    with pytest.raises(DataError, match="there is only one speaker, too few for train and test; --by recording"):
        divided([(row, row, 1, 2 * row, "it") for row in range(10)], plan("speaker", valid="0"))
    rows = Utterances()
    rows.add(id="a", audio="/nowhere.wav", text="x", source="c.csv", row=1)
    with pytest.raises(AudioError, match=r"c\.csv, row 1: /nowhere\.wav cannot be read"):
        divide(rows, plan(test="0.5h"), lambda kind: kind.source)


@given(st.lists(st.integers(1, 200), min_size=10, max_size=60), st.integers(30, 300))
def test_hours(lengths: list[int], wished: int) -> None:
    assume(wished < sum(lengths) * 0.8)
    rows = Utterances()
    for number, seconds in enumerate(lengths):
        rows.add(id=str(number), audio=f"/{number}.wav", text=a_text(2 * number), end=float(seconds), source="a", row=1)
    how = plan(valid="0", test=f"{wished}s")
    found = divide(rows, how, lambda kind: kind.source)
    held = sum(seconds for seconds, side in zip(lengths, found.sides.tolist(), strict=True) if side == TEST)
    assert abs(held - wished) <= max(lengths) / 2


@pytest.mark.parametrize(
    ("given", "share", "seconds"),
    [("0.1", 0.1, None), ("10%", 0.1, None), (".5", 0.5, None), ("0", 0, None), ("0.5h", 0, 1800), ("30min", 0, 1800)],
)
def test_wishes(given: str, share: float, seconds: float | None) -> None:
    assert parse_wish(given, "test") == Wish(given, share, seconds)


@pytest.mark.parametrize("given", ["1", "2.5", "-0.1", "100%", "h", "1 day", "nan", "", "1e3"])
def test_wishes_that_are_none(given: str) -> None:
    with pytest.raises(Exception, match="it takes a share below 1"):
        parse_wish(given, "test")
