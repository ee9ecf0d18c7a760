"""Checks of texts, vectorised over arrays of code points, so that a million rows take seconds."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from whispertune.check.encoding import encoding_damage, looks_misread
from whispertune.check.findings import Finding
from whispertune.check.question_marks import SUSPECT, VOCABULARY_ROWS, lost_letters, vocabulary
from whispertune.check.scripts import BRACKET, DAMAGE, DIGIT, LAST, NAMES, OTHER, SYMBOL, classes, lower, scripts_of
from whispertune.check.sketches import NUM_HASHES, Hashes, Ints, is_spoken, row_hashes, sketches_of
from whispertune.data.utterances import Utterance, Utterances
from whispertune.errors import RecipeError
from whispertune.text.normalizer import basic_normalize
from whispertune.text.targets import MAX_TOKENS

CHUNK_ROWS = 4_000
"""Rows per chunk, so that the characters fit in the CPU's cache."""
FOREIGN_SHARE = 0.5
"""Share of letters of another script from which a text counts as another language; below, it may have foreign names."""
MAJORITY = 0.9
"""If the language is unknown: the share of one script among a source's letters from which others count as foreign."""

MARKUP = re.compile(
    r"<(?!\|)[^<>]{1,80}>|\[[^\[\]]{1,80}\]|\{[^{}]{1,80}\}|&(?:[a-zA-Z]{2,8}|#x?[0-9a-fA-F]{1,6});|\bhttps?://\S"
)


@dataclass(frozen=True, slots=True)
class TextFacts:
    """Facts about the texts of n rows.

    letters: (n,) spoken characters (letters, marks, digits). keys: (n,), equal for texts that differ only in case,
    punctuation and spaces. sketches: (n, 12) MinHash of 5-letter shingles, or (0, 12) if not requested. scripts: (n,)
    class number of the most frequent script, 0 without letters. places: (n,), equal for the same span of the same file.
    speakers: (n,) indices into `speaker_names`. usage: count of each code point.
    """

    letters: Ints
    digits: Ints
    scripts: npt.NDArray[np.uint8]
    keys: Hashes
    sketches: Hashes
    places: Ints
    speakers: npt.NDArray[np.int32]
    speaker_names: list[str | None]
    usage: Ints


def check_texts(
    sources: Sequence[Sequence[Utterance]],
    language_of: Callable[[str | None], str | None],
    count_tokens: Callable[[Utterance], int] | None,
    *,
    max_tokens: int = MAX_TOKENS,
    sketches: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[Finding], TextFacts]:
    """Findings and facts about the texts of all sources.

    language_of: a row's language -> code, or None if unknown; raises RecipeError if it has no token. count_tokens:
    number of decoder input tokens of a row; only called for long texts, as a text has no more tokens than bytes.
    max_tokens: their limit.
    """
    findings: list[Finding] = []
    chunks: list[_Chunk] = []
    usage = np.zeros(LAST, np.int64)
    languages, speakers = _Names(), _Names()
    first = 0
    for source in sources:
        rows = source if isinstance(source, Utterances) else Utterances(source)
        suspects: list[tuple[int, str, str | None]] = []
        begin_of_source = first
        for part in _chunks(range(len(rows))):  # an empty source is one empty chunk
            begin = part.start
            _, paths, texts = rows.strings(part)
            kinds = list(map(rows.kinds.__getitem__, rows.kind_numbers[begin : part.stop].tolist()))
            spans = (column.tolist() for column in rows.spans(part))
            chunk = _scan(texts, usage, sketches=sketches)
            chunk.places = np.fromiter(
                map(hash, zip(paths, rows.withins(part), [kind.channel for kind in kinds], *spans, strict=True)),
                np.int64,
            )
            chunk.languages = languages.numbers_of([kind.language for kind in kinds])
            chunk.speakers = speakers.numbers_of([kind.speaker for kind in kinds])
            findings += _chunk_findings(rows, begin, texts, chunk, first, count_tokens, max_tokens)
            suspects += (
                (begin + i, texts[i], kinds[i].language)
                for i in np.flatnonzero(chunk.asking).tolist()
                if SUSPECT.search(texts[i])
            )
            chunks.append(chunk)
            first += len(part)
            advance(len(part))
        findings += _question_mark_findings(rows, suspects, language_of, begin_of_source)

    def joined(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(chunk, name) for chunk in chunks])

    letters, numbers = joined("by_script"), joined("languages")
    first = 0
    for source in sources:
        own = slice(first, first + len(source))
        findings += _script_findings(letters[own], numbers[own], languages.names, language_of, first)
        first = own.stop
    facts = TextFacts(
        letters=joined("letters"), digits=joined("digits"),
        scripts=np.where(letters.any(axis=1), letters.argmax(axis=1), 0).astype(np.uint8),
        keys=joined("keys"), sketches=joined("sketches"), places=joined("places"), speakers=joined("speakers"),
        speaker_names=speakers.names, usage=usage,
    )  # fmt: skip
    return findings, facts


class _Names:
    """Recurring names as numbers."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self._numbers: dict[str | None, int] = {}

    def numbers_of(self, names: list[str | None]) -> npt.NDArray[np.int32]:
        for name in names:
            if name not in self._numbers:
                self._numbers[name] = len(self.names)
                self.names.append(name)
        return np.fromiter(map(self._numbers.__getitem__, names), np.int32, len(names))


@dataclass(slots=True)
class _Chunk:
    letters: Ints
    by_script: npt.NDArray[np.int16]
    digits: Ints
    symbols: Ints
    marked: npt.NDArray[np.bool_]
    damaged: npt.NDArray[np.bool_]
    asking: npt.NDArray[np.bool_]
    num_bytes: Ints
    keys: Hashes
    sketches: Hashes
    places: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    languages: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    speakers: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))


def _scan(texts: list[str], usage: Ints, *, sketches: bool) -> _Chunk:
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = np.minimum(codes, LAST - 1)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    kinds = classes()[codes]
    usage += np.bincount(codes, minlength=LAST)

    def count(mask: npt.NDArray[np.bool_]) -> Ints:
        return np.diff(np.searchsorted(np.flatnonzero(mask), bounds)).astype(np.int64)

    by_script = np.zeros((len(texts), OTHER + 1), np.int16)
    for script in np.flatnonzero(np.bincount(kinds)[1 : OTHER + 1]) + 1:
        by_script[:, script] = count(kinds == script)
    spoken = is_spoken(kinds)
    kept = lower()[codes[spoken]].astype(np.uint64)
    kept_counts = count(spoken)
    return _Chunk(
        letters=kept_counts,
        by_script=by_script,
        digits=count(kinds == DIGIT),
        symbols=count(kinds == SYMBOL),
        marked=count((kinds == BRACKET) | (codes == ord("&")) | (codes == ord("/"))) > 0,
        damaged=count((kinds == DAMAGE) | looks_misread(codes)) > 0,
        asking=count(codes == ord("?")) > 0,
        num_bytes=lengths + count(codes > 0x7F) + count(codes > 0x7FF) + count(codes > 0xFFFF),
        keys=row_hashes(kept, kept_counts),
        sketches=sketches_of(kept, kept_counts) if sketches else np.zeros((0, NUM_HASHES), np.uint64),
    )


def _chunk_findings(
    rows: Sequence[Utterance],
    begin: int,
    texts: list[str],
    chunk: _Chunk,
    first: int,
    count_tokens: Callable[[Utterance], int] | None,
    max_tokens: int,
) -> Iterator[Finding]:
    """Findings about the rows from `begin` on, with these texts. first: index of the first among all rows."""
    for i in np.flatnonzero(chunk.letters == 0).tolist():
        text = texts[i]
        kind, detail = ("unspoken_text", f"{text[:40]!r} has no spoken characters") if text else ("empty_text", "")
        yield Finding(first + i, kind, detail or "the row has no text")
    for i in np.flatnonzero(chunk.marked & (chunk.letters > 0)).tolist():
        found = MARKUP.search(texts[i])
        if found:
            yield Finding(first + i, "markup", f"holds {found.group()[:40]!r}")
            if not basic_normalize(texts[i]).strip():
                yield Finding(first + i, "unspoken_text", f"{texts[i][:40]!r} has no spoken characters")
    for i in np.flatnonzero(chunk.damaged).tolist():
        damage = encoding_damage(texts[i])
        if damage:
            yield Finding(first + i, "encoding_damage", damage)
    for kind, counts in (("digits", chunk.digits), ("symbols", chunk.symbols)):
        yield from (
            Finding(first + i, kind, sys.intern(f"{counts[i]} {kind.removesuffix('s') if counts[i] == 1 else kind}"))
            for i in np.flatnonzero(counts).tolist()
        )
    if count_tokens is not None:
        for i in np.flatnonzero(chunk.num_bytes > max_tokens - 8).tolist():  # 8: more than any prompt without text
            tokens = count_tokens(rows[begin + i])
            if tokens > max_tokens:
                detail = f"{tokens} tokens with the prompt; the limit is {max_tokens}"
                yield Finding(first + i, "too_many_tokens", detail)


def _script_findings(
    letters: npt.NDArray[np.int16],
    languages: npt.NDArray[np.int32],
    names: list[str | None],
    language_of: Callable[[str | None], str | None],
    first: int,
) -> Iterator[Finding]:
    """Findings about letters outside the scripts of a row's language or, if it is unknown, the source's main script.

    letters: (n, scripts) counts. first: index of the source's first row among all rows.
    """
    overall = letters.sum(axis=0, dtype=np.int64)
    majority = int(overall.argmax()) if overall.max(initial=0) > MAJORITY * overall.sum() else 0
    for number, name in enumerate(names):
        members = np.flatnonzero(languages == number)
        try:
            code = language_of(name)
        except RecipeError as error:
            yield from (Finding(first + int(row), "unknown_language", str(error)) for row in members)
            continue
        own = scripts_of(code) if code else frozenset({majority})
        if own == {0}:
            continue
        counts = letters[members].sum(axis=1) - letters[members][:, sorted(own)].sum(axis=1)
        for at in np.flatnonzero(counts):
            row = letters[members[at]].copy()
            total = int(row.sum())
            row[sorted(own)] = 0
            kind = "other_script" if counts[at] >= FOREIGN_SHARE * total else "foreign_letters"
            detail = f"{counts[at]} of {total} letters are {NAMES[int(row.argmax())]}"
            yield Finding(first + int(members[at]), kind, detail)


def _question_mark_findings(
    rows: Utterances,
    suspects: Sequence[tuple[int, str, str | None]],
    language_of: Callable[[str | None], str | None],
    first: int,
) -> Iterator[Finding]:
    """suspects: (row, text, the row's language). first: index of the source's first row among all rows."""
    if not suspects:
        return
    sample = (rows.strings(part)[2] for part in _chunks(range(min(len(rows), VOCABULARY_ROWS))))
    known = vocabulary(text for texts in sample for text in texts)
    for row, text, named in suspects:
        try:
            found = lost_letters(text, language_of(named), known)
        except RecipeError:  # reported as unknown_language
            continue
        if found is not None:
            verdict, detail = found
            yield Finding(first + row, "encoding_damage" if verdict == "lost" else "question_mark", detail)


def _chunks(rows: range) -> Iterator[range]:
    return (rows[begin : begin + CHUNK_ROWS] for begin in range(0, max(len(rows), 1), CHUNK_ROWS))
