"""Whisper's timestamp grammar: which timestamps, or which text, a row may emit next.

With timestamps a window's output is `<|0.00|> text<|2.40|><|2.90|> more text<|5.00|>`: each stretch of speech between
the times at which it begins and ends. The rules are those of openai-whisper's decoding (Radford et al. 2022, section
4.5), applied to all rows of a batch at once:

- the first token is a timestamp, of at most `max_initial` seconds;
- timestamps come in pairs: text follows two of them, and after text and one timestamp only a second one or the end;
- they never decrease, and a stretch of speech is never of length 0;
- where all timestamps together are likelier than the likeliest other token, the next token is a timestamp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from whispertune.decoding.options import MAX_INITIAL
from whispertune.system.precision import send
from whispertune.text.tokenizer import NUM_TIMESTAMPS, SECONDS_PER_TIMESTAMP, Tokenizer


class TimestampRules:
    """The grammar of a tokenizer's timestamps; `start` begins a search under it.

    Prompts must then end without `<|notimestamps|>` (`Tokenizer.prompt_tokens(..., timestamps=True)`). Ids are
    arithmetic, so the tokenizer need not list them. max_initial: seconds; None allows any first timestamp. Raises
    RecipeError if the model has no timestamps.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_initial: float | None = MAX_INITIAL) -> None:
        tokenizer.require_timestamps()
        self.eot = tokenizer.eot
        self.no_timestamps = tokenizer.no_timestamps
        self.begin = tokenizer.timestamp_begin
        self.end = tokenizer.timestamp_begin + NUM_TIMESTAMPS
        # Text tokens that users added have ids above those of the timestamps.
        self.added_text = [token for token in tokenizer.added_text if token >= self.end]
        initial = NUM_TIMESTAMPS - 1 if max_initial is None else round(max_initial / SECONDS_PER_TIMESTAMP)
        self.last_initial = self.begin + min(initial, NUM_TIMESTAMPS - 1)

    def start(self, num_rows: int, device: torch.device) -> TimestampHistory:
        """The history of a search whose rows have emitted nothing yet."""
        return TimestampHistory(self, num_rows, device)


class TimestampHistory:
    """What the rows of a running search have emitted, as far as the grammar needs it.

    At each step: `restrict` the log-probabilities, then, as with the cache, `select` the rows that stay, and `append`
    the tokens that they continue with. All rows have emitted equally many tokens.
    """

    def __init__(self, rules: TimestampRules, num_rows: int, device: torch.device) -> None:
        self._rules = rules
        self._num_tokens = 0
        # Whether the last token was a timestamp, and the one before it; a first token has a timestamp before it.
        self._last = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._before = torch.ones_like(self._last)
        # The latest timestamp so far.
        self._latest = torch.full((num_rows,), rules.begin - 1, device=device)
        self._stamps = torch.arange(rules.begin, rules.end, device=device)

    def select(self, rows: Tensor) -> None:
        """Keep these rows (indices on the CPU), in this order; a row may be taken several times."""
        rows = send(rows, self._last.device)
        self._last, self._before, self._latest = self._last[rows], self._before[rows], self._latest[rows]

    def append(self, tokens: Tensor) -> None:
        """One more token (B,) for each row."""
        if self._num_tokens:
            self._before = self._last
        self._last = (tokens >= self._rules.begin) & (tokens < self._rules.end)
        self._latest = torch.where(self._last, tokens, self._latest)
        self._num_tokens += 1

    def restrict(self, log_probs: Tensor) -> Tensor:
        """The log-probabilities (B, V), float32, with -inf where the grammar forbids a token; each row sums to 1.

        Works in place. The probability of forbidden tokens (those of rules applied before, too) is given to the
        others, as in openai-whisper: its thresholds on the mean log-probability are meant for such values.
        """
        rules = self._rules
        text, stamps = log_probs[:, : rules.begin], log_probs[:, rules.begin : rules.end]
        log_probs[:, rules.no_timestamps] = -torch.inf
        added = log_probs[:, rules.added_text] if rules.added_text else None  # a copy
        log_probs[:, rules.end :] = -torch.inf  # ids of a padded or extended vocabulary, which have no meaning
        if self._num_tokens == 0:
            text.fill_(-torch.inf)
            stamps[:, rules.last_initial + 1 - rules.begin :] = -torch.inf
            return log_probs.sub_(log_probs.logsumexp(-1, keepdim=True))
        closing = self._last & ~self._before  # text and one timestamp: the second of the pair may be the same
        earliest = torch.where(closing, self._latest, self._latest + 1)
        earliest = earliest.masked_fill(self._last & self._before, rules.end)  # a pair: text must follow
        stamps.masked_fill_(self._stamps < earliest[:, None], -torch.inf)
        text[:, : rules.eot].masked_fill_(closing[:, None], -torch.inf)
        likeliest = text.amax(-1)
        if added is not None:
            added.masked_fill_(closing[:, None], -torch.inf)
            likeliest = torch.maximum(likeliest, added.amax(-1))
        timestamp_wins = stamps.logsumexp(-1) > likeliest
        text.masked_fill_(timestamp_wins[:, None], -torch.inf)
        if added is not None:
            log_probs[:, rules.added_text] = added.masked_fill_(timestamp_wins[:, None], -torch.inf)
        return log_probs.sub_(log_probs.logsumexp(-1, keepdim=True))
