"""Compare rows with each other: duplicates, and leakage between splits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from whispertune.check.audio import AudioFacts
from whispertune.check.findings import Finding, Source
from whispertune.check.sketches import NUM_HASHES, Hashes
from whispertune.check.text import TextFacts
from whispertune.data.readers.manifest import repeated_id
from whispertune.data.timed_text import plain_text
from whispertune.data.utterances import Utterance
from whispertune.dataset.transcripts import remedy_of, special_token
from whispertune.evaluation.error_rates import count_characters
from whispertune.system.counts import counted
from whispertune.text.normalizer import basic_normalize
from whispertune.text.tokenizer import Tokenizer

SAME_BITS = 40
"""Of 256. Re-encoding as MP3 at another sample rate and level changed 0 to 26 bits; different clips of the same length
differed in 74 or more."""
BUCKET = 50
"""Most rows sharing a part of their fingerprint that are compared pairwise; larger groups are not informative."""
SIMILAR_SKETCHES = 7
"""Of 12 equal hashes, from which the texts themselves are compared."""
SAME_TEXT_CER = 0.15
CANDIDATES = 8


def locate(sources: Sequence[Source]) -> npt.NDArray[np.int32]:
    """(n,) index of each row's source."""
    return np.repeat(np.arange(len(sources), dtype=np.int32), [len(source.rows) for source in sources])


def source_of(sources: Sequence[Source], row: int) -> Source:
    """The source of a row."""
    return sources[bisect_right(sources, row, key=lambda source: source.first) - 1]


def repeated_ids(sources: Sequence[Source]) -> Iterator[Finding]:
    """Ids that occur twice in a source."""
    for source in sources:
        for earlier, row in source.rows.repeated_ids():
            fault = repeated_id(source.rows[earlier], source.rows[row])
            yield Finding(source.first + row, "repeated_id", fault.problem)


def special_tokens(sources: Sequence[Source], tokenizer: Tokenizer | None) -> Iterator[Finding]:
    """Texts and prompts that contain a special token other than valid timestamps."""
    for source in sources:
        prompts = {
            number: token
            for number, kind in enumerate(source.rows.kinds)
            if kind.prompt and (token := special_token(plain_text(kind.prompt), tokenizer)) is not None
        }
        numbers = source.rows.kind_numbers.tolist() if prompts else []
        for row, number in enumerate(numbers):
            if number in prompts:
                token = prompts[number]
                yield Finding(source.first + row, "special_token", f"{token} in the prompt; {remedy_of(token)}")
        if source.rows.has_segments:
            _, _, texts = source.rows.strings(range(len(source.rows)))
            for row, text in enumerate(texts):
                if (found := special_token(text, tokenizer)) is not None:
                    yield Finding(source.first + row, "special_token", f"{found}; {remedy_of(found)}")


def same_audio(sources: Sequence[Source], texts: TextFacts, audio: AudioFacts | None) -> Iterator[Finding]:
    """Recordings that occur twice: by samples or fingerprints, or by file and span if audio was not checked."""
    if audio is None:
        _, places = np.unique(texts.places, return_inverse=True)
        yield from _repeated(sources, np.arange(len(places)), places, "audio", "the same file and span as")
        return
    rows = np.flatnonzero(audio.readable)
    _, numbers_of = np.unique(audio.keys[rows], axis=0, return_inverse=True)
    reported = set()
    for finding in _repeated(sources, rows, numbers_of.reshape(-1), "audio", "the same samples as"):
        reported.add(finding.row)
        yield finding
    groups = _near_groups(audio, rows)
    for finding in _repeated(sources, rows, groups, "audio", "the same recording, encoded differently, as"):
        if finding.row not in reported:
            yield finding


def same_text(sources: Sequence[Source], texts: TextFacts) -> Iterator[Finding]:
    """Texts that occur twice in a split, or (also if only nearly the same) in train and another split."""
    rows = np.flatnonzero(texts.letters > 0)
    _, numbers = np.unique(texts.keys[rows], return_inverse=True)
    reported = set()
    for finding in _repeated(sources, rows, numbers, "text", "the same as"):
        reported.add(finding.row)
        yield finding
    if not len(texts.sketches):
        return
    roles = _roles(sources)
    train = rows[roles[rows] == "train"]
    others = [row for row in rows[np.isin(roles[rows], ["valid", "test"])].tolist() if row not in reported]
    for row, twin in _near_texts(texts.sketches, train, np.array(others, np.int64)):
        ours, theirs = (basic_normalize(_row(sources, at).text).strip() for at in (row, twin))
        if ours and count_characters(theirs, ours).rate <= SAME_TEXT_CER:
            yield Finding(row, "leaked_text", f"nearly the same as {_describe(sources, twin)}")


def shared_speakers(sources: Sequence[Source], texts: TextFacts) -> Iterator[Finding]:
    """One finding, at the first row, for each speaker of valid and test who is in train too."""
    roles = _roles(sources)
    trained = np.unique(texts.speakers[roles == "train"])
    for role in ("valid", "test"):
        rows = np.flatnonzero((roles == role) & np.isin(texts.speakers, trained))
        speakers, firsts, counts = np.unique(texts.speakers[rows], return_index=True, return_counts=True)
        for speaker, at, count in zip(speakers.tolist(), firsts.tolist(), counts.tolist(), strict=True):
            if name := texts.speaker_names[speaker]:
                yield Finding(
                    int(rows[at]), "leaked_speaker", f"{name!r} is in train too ({counted(count, 'row')} here)"
                )


def _roles(sources: Sequence[Source]) -> npt.NDArray[np.str_]:
    return np.array([source.role for source in sources])[locate(sources)]


def _row(sources: Sequence[Source], row: int) -> Utterance:
    source = source_of(sources, row)
    return source.rows[row - source.first]


def _describe(sources: Sequence[Source], row: int) -> str:
    source = source_of(sources, row)
    _, manifest, number = source.rows.origin(row - source.first)
    return f"row {number} of {manifest}"


def _repeated(
    sources: Sequence[Source], rows: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], what: str, same: str
) -> Iterator[Finding]:
    """Findings about rows (n,) that share a group (n,) with another: leaked to a later split, or repeated in one."""
    shared = np.flatnonzero(np.bincount(groups)[groups] > 1)
    order = shared[np.argsort(groups[shared], kind="stable")]
    places = locate(sources).tolist()
    for group in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        members = sorted(rows[group].tolist(), key=lambda row: (_ORDER[sources[places[row]].role], row))
        first: dict[str, int] = {}
        for row in members:
            role = sources[places[row]].role
            earlier = next((twin for other, twin in first.items() if other and role and other != role), None)
            # The same sentence in valid and test is not leakage; the same recording is.
            if earlier is not None and (what == "audio" or "train" in first):
                yield Finding(row, f"leaked_{what}", f"{same} {_describe(sources, earlier)}")
            elif role in first or (first and not role):
                yield Finding(row, f"duplicate_{what}", f"{same} {_describe(sources, first.get(role, members[0]))}")
            first.setdefault(role, row)


_ORDER = {"train": 0, "valid": 1, "test": 2, "": 3}


def _near_groups(audio: AudioFacts, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n,) a group number for each of these rows, equal for recordings with nearly equal fingerprints."""
    prints = audio.fingerprints[rows]
    words = prints.view(np.uint16)
    seconds = audio.seconds[rows]
    parents = list(range(len(rows)))

    def group_of(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for column in words.T:
        order = np.argsort(column, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(column[order])) + 1):
            if not 2 <= len(bucket) <= BUCKET:
                continue
            for at, row in enumerate(bucket[:-1]):
                others = bucket[at + 1 :]
                bits = np.bitwise_count(prints[row] ^ prints[others]).sum(axis=1)
                alike = (bits <= SAME_BITS) & (np.abs(seconds[others] - seconds[row]) <= 0.05 * seconds[row] + 0.05)
                for twin in others[alike].tolist():
                    low, high = sorted((group_of(int(row)), group_of(twin)))
                    parents[high] = low
    return np.array([group_of(row) for row in range(len(rows))], np.int64)


def _near_texts(
    sketches: Hashes, train: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """(row, most similar row in train) if two consecutive hashes and most of the others agree."""
    if not len(train) or not len(others):
        return
    most, twins = np.zeros(len(others), np.int64), np.zeros(len(others), np.int64)
    for column in range(0, NUM_HASHES, 2):
        keys = sketches[:, column] ^ (sketches[:, column + 1] << np.uint64(1))
        order = train[np.argsort(keys[train], kind="stable")]
        low = np.searchsorted(keys[order], keys[others], side="left")
        high = np.searchsorted(keys[order], keys[others], side="right")
        for nth in range(CANDIDATES):
            at = np.flatnonzero(low + nth < high)
            candidates = order[low[at] + nth]
            agreeing = (sketches[candidates] == sketches[others[at]]).sum(axis=1)
            better = agreeing > most[at]
            most[at[better]], twins[at[better]] = agreeing[better], candidates[better]
    for likely in np.flatnonzero(most >= SIMILAR_SKETCHES).tolist():
        yield int(others[likely]), int(twins[likely])
