"""Words that beam search favours: names, places, products that the model has hardly ever seen.

A trie over token ids with failure links (Aho and Corasick 1975, "Efficient string matching") follows what a hypothesis
has written of any word. Each token of a word adds `boost` to the hypothesis's log-probability for ranking; a word that
is not finished loses it again, as in shallow fusion with a contextual model (Zhao et al. 2019, "Shallow-fusion
end-to-end contextual biasing"). What a hypothesis reports as its log-probability is the model's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from whispertune.data.glossary import read_glossary
from whispertune.text.tokenizer import Tokenizer


@dataclass(slots=True)
class _Node:
    """What is written of a word. finished: of its depth, the tokens that no longer can be lost."""

    depth: int = 0
    finished: int = 0
    failure: int = 0
    children: dict[int, int] = field(default_factory=dict)


class GlossaryBoost:
    """The words as states: 0 is where no word is being written.

    words: token ids of each, in all its forms. boost: nats a token.
    """

    def __init__(self, words: Sequence[Sequence[int]], boost: float) -> None:
        self.boost = boost
        self._nodes = [_Node()]
        self._follow: dict[int, tuple[Tensor, Tensor]] = {}
        for word in words:
            self._add(word)
        self._link()

    def _add(self, word: Sequence[int]) -> None:
        at = 0
        for token in word:
            node = self._nodes[at]
            if token not in node.children:
                node.children[token] = len(self._nodes)
                self._nodes.append(_Node(node.depth + 1))
            at = node.children[token]
        self._nodes[at].finished = self._nodes[at].depth

    def _link(self) -> None:
        """Failure links, nearest to the root first, and how much of each state is safe."""
        waiting = deque(self._nodes[0].children.values())
        while waiting:
            node = self._nodes[waiting.popleft()]
            for token, number in node.children.items():
                child = self._nodes[number]
                child.failure = self._next(node.failure, token)
                child.finished = max(child.finished, node.finished, self._nodes[child.failure].finished)
                waiting.append(number)

    def _next(self, state: int, token: int) -> int:
        while token not in self._nodes[state].children and state:
            state = self._nodes[state].failure
        return self._nodes[state].children.get(token, 0)

    def after(self, state: int, token: int) -> tuple[int, float]:
        """The state behind a token, and what the token adds to the score."""
        node, reached = self._nodes[state], self._next(state, token)
        if token in node.children:
            return reached, self.boost
        return reached, self.boost * (self._nodes[reached].depth - (node.depth - node.finished))

    def boosted(self, log_probs: Tensor, states: Sequence[int]) -> Tensor:
        """log_probs (N, V) of rows in these states, with what each token adds to the score."""
        nodes = [self._nodes[state] for state in states]
        lost = torch.tensor([self.boost * (node.depth - node.finished) for node in nodes], device=log_probs.device)
        changed = log_probs - lost[:, None]
        for row, state in enumerate(states):
            tokens, gains = self._gains(state, log_probs.device)
            changed[row, tokens] += gains
        return changed

    def _gains(self, state: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The tokens (W,) that begin or continue a word in a state, and what each adds more (W,) than any other."""
        if state not in self._follow:
            tokens, node, at = set(self._nodes[0].children), self._nodes[state], state
            while at:
                tokens |= self._nodes[at].children.keys()
                at = self._nodes[at].failure
            lost = self.boost * (node.depth - node.finished)
            gains = [self.after(state, token)[1] + lost for token in sorted(tokens)]
            self._follow[state] = (torch.tensor(sorted(tokens)).to(device), torch.tensor(gains).to(device))
        return self._follow[state]


@lru_cache(maxsize=8)
def load_glossary(path: str, boost: float, tokenizer: Tokenizer) -> GlossaryBoost:
    """The words of a file, each at the beginning of a text and within one.

    Raises:
        UserError: if it cannot be read, or has no words.
    """
    forms = [form for word in read_glossary(path) for form in (word, f" {word}")]
    return GlossaryBoost([tokenizer.encode(form) for form in forms], boost)
