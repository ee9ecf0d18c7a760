"""Error rates by source and by language, where several are pooled in one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from whispertune.evaluation.error_rates import CorpusScore
from whispertune.evaluation.significance import speaker_groups


def source_names(sources: Sequence[str]) -> list[str]:
    """A name for each source: that of its file, or its whole path if two files share a name."""
    names = {source: Path(source).name for source in sources}
    unique = len(set(names.values())) == len(names)
    return [names[source] if unique else source for source in sources]


def by_group(score: CorpusScore, clips: Sequence[Mapping[str, Any]], key: str) -> dict[str, CorpusScore]:
    """The scores by what `key` is in each utterance's clip, largest group first; empty if that is the same for all."""
    places: dict[str, list[int]] = {}
    for place, clip in enumerate(clips):
        places.setdefault(str(clip.get(key)), []).append(place)
    if len(places) < 2:
        return {}
    groups = {
        name: CorpusScore(
            utterances=[score.utterances[place] for place in chosen],
            groups=None if score.groups is None else speaker_groups([score.groups[place] for place in chosen]),
        )
        for name, chosen in places.items()
    }
    return dict(sorted(groups.items(), key=lambda group: -len(group[1].utterances)))


def mean_rate(groups: dict[str, CorpusScore]) -> float:
    """The mean of the groups' leading rates, in which a small group counts as much as a large one."""
    return fmean(score.leading for score in groups.values())


def group_summary(groups: dict[str, CorpusScore]) -> dict[str, Any]:
    """For summary.json; fractions."""
    return {
        "mean": mean_rate(groups),
        "groups": {
            name: {
                "utterances": len(score.utterances),
                "leading": score.leading_name,
                "leading_rate": score.leading,
                "interval": list(score.interval()),
            }
            for name, score in groups.items()
        },
    }
