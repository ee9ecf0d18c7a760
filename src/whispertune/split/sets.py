"""Disjoint sets, each of which may have a label (union-find; Tarjan 1975)."""

from __future__ import annotations

from collections.abc import Iterable


class DisjointSets:
    """n elements, each at first in a set of its own, without a label."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))
        self._labels: dict[int, int] = {}

    def find(self, element: int) -> int:
        """The representative of an element's set."""
        parents = self._parents
        while parents[element] != element:
            parents[element] = element = parents[parents[element]]
        return element

    def join(self, *elements: int) -> int:
        """Join the sets of these elements, whose labels must not differ; returns the representative."""
        roots = sorted({self.find(element) for element in elements})
        labels = {self._labels[root] for root in roots if root in self._labels}
        for root in roots[1:]:
            self._parents[root] = roots[0]
        if labels:
            self._labels[roots[0]] = labels.pop()
        return roots[0]

    def labels(self, elements: Iterable[int]) -> set[int]:
        """The labels of the sets of these elements."""
        return {self._labels[root] for root in map(self.find, elements) if root in self._labels}

    def label(self, element: int, label: int) -> None:
        """Label an element's set."""
        self._labels[self.find(element)] = label
