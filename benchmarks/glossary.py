"""Whether beam search that favours the words of a glossary finds more of them, and what it costs elsewhere.

    python benchmarks/glossary.py                                    # the pretrained whisper-base
    python benchmarks/glossary.py --model it=runs/it --model fr=runs/fr --boosts 0 1 2

The glossary of each language holds the words of its test that its training text lacks (--letters or longer), as a user
would list the names that calls are about, and as many words of valid that the test does not contain. Decoded with beam
search, thinned. An utterance's errors count up to its number of words, as one loop would otherwise decide.
Intervals are bootstraps over utterances; differences are tested by matched pairs.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import ROOT, add_common, cut_manifest, markdown, percent, publish

from whispertune.api import load
from whispertune.evaluation.error_rates import CorpusScore
from whispertune.evaluation.glossary import GlossaryRecall, count_terms
from whispertune.evaluation.significance import matched_pairs

FOLDERS = {"it": "italian-prompts", "fr": "french-prompts"}


def texts(manifest: Path) -> list[str]:
    with manifest.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def words_of(lines: Sequence[str], letters: int) -> list[str]:
    """The words of so many letters, as they are written, in their order."""
    return list(dict.fromkeys(word for line in lines for word in re.findall(r"\w+", line) if len(word) >= letters))


def glossary_of(folder: Path, test: Path, letters: int) -> list[str]:
    """Words of the test that training never saw, and as many that are not said."""
    seen = {word.lower() for word in words_of(texts(folder / "train.csv"), 1)}
    said = {word.lower() for word in words_of(texts(folder / "test.csv"), 1)}
    wanted = [word for word in words_of(texts(test), letters) if word.lower() not in seen]
    others = [word for word in words_of(texts(folder / "valid.csv"), letters) if word.lower() not in said]
    return [*wanted, *others[: len(wanted)]]


def bounded(score: CorpusScore) -> list[int]:
    """Errors of each utterance, at most its words."""
    return [min(utterance.words.errors, utterance.words.num_reference) for utterance in score.utterances]


def shown(recall: GlossaryRecall) -> str:
    low, high = recall.interval
    return f"{percent(recall.recall)} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "glossary")
    parser.add_argument(
        "--model", action="append", default=[], help="LANGUAGE=MODEL, in place of packaged:whisper-base"
    )
    parser.add_argument("--languages", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--boosts", nargs="+", type=float, default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--beam_size", type=int, default=5)
    parser.add_argument("--letters", type=int, default=5, help="the fewest letters of a word in the glossary")
    parser.add_argument("--clips", type=int, help="only so many clips of the test (a smoke test)")
    options = parser.parse_args()
    models = dict(entry.split("=", 1) for entry in options.model)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for language in options.languages:
            folder = ROOT / "examples" / FOLDERS[language]
            test = folder / "test.csv"
            if options.clips is not None:
                test = cut_manifest([test], Path(temporary) / f"{language}.csv", options.clips)
            terms = glossary_of(folder, test, options.letters)
            file = Path(temporary) / f"{language}.txt"
            file.write_text("\n".join(terms) + "\n", encoding="utf-8")
            model, plain = load(models.get(language, "packaged:whisper-base")), None
            for boost in options.boosts:
                given = {"glossary": str(file), "glossary_boost": boost} if boost else {}
                found = model.evaluate(
                    test, language=language, beam_size=options.beam_size, frames__selection="thinned", **given
                )
                plain = found if plain is None else plain
                recall = count_terms(terms, found.score, [language] * len(found.score.utterances))
                lengths = [utterance.words.num_reference for utterance in found.score.utterances]
                errors = bounded(found.score)
                difference = matched_pairs(bounded(plain.score), errors, lengths)
                rows.append(
                    (language, f"{boost:g}", shown(recall), recall.occurrences, recall.false,
                     percent(sum(errors) / sum(lengths)), f"{100 * difference.difference:+.1f} ({difference.bounds()})")
                )  # fmt: skip
                print(*rows[-1], sep="  ", flush=True)
    headings = ("language", "boost", "recall", "occurrences", "written where not said", "WER", "change, points")
    publish(options.table, "words of a glossary favoured by beam search", [markdown(headings, rows)])


if __name__ == "__main__":
    main()
