"""Validation: caps, loops, what is measured, and which checkpoint is kept."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoint_samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_whisper import ready_to_search
from training_samples import (
    CONFIG,
    PAD_ID,
    GivenStates,
    Samples,
    fabricated,
    make_trainer,
    metrics,
    progress_of,
    random_states,
    step_rows,
    tiny_targets,
    tiny_whisper,
    valid_rows,
    weights_of,
)

from whispertune.data.utterances import Utterance
from whispertune.dataset.splits import Split
from whispertune.dataset.windows import single_windows
from whispertune.decoding.options import GREEDY, SearchOptions
from whispertune.decoding.rules import LogitRules
from whispertune.decoding.transcriber import Transcriber
from whispertune.errors import RecipeError
from whispertune.evaluation import decode
from whispertune.evaluation.decode import SharedStates, System
from whispertune.evaluation.error_rates import score_corpus
from whispertune.evaluation.evaluate import Evaluation, evaluate_split, token_caps
from whispertune.evaluation.options import ValidationOptions
from whispertune.features.options import FrameOptions
from whispertune.model.cache import DecoderCache
from whispertune.run import outcome, stages
from whispertune.run.run_folder import RunFolder
from whispertune.states.computed import Batch, EncoderStates, LookAhead
from whispertune.system.files import write_jsonl
from whispertune.text.targets import make_target
from whispertune.text.tokenizer import Tokenizer
from whispertune.training import trainer as trainer_module
from whispertune.training.freeze import apply_freeze
from whispertune.training.options import CheckpointOptions
from whispertune.training.plan import BatchPlan
from whispertune.training.resume import Progress

TOKENIZER = Tokenizer.from_json(checkpoint_samples.sample().tokenizer_json, CONFIG.vocab_size)
PROMPT = [TOKENIZER.sot, TOKENIZER.no_timestamps]
RULES = LogitRules(CONFIG.vocab_size, [], [], torch.device("cpu"))


def split_of(texts: Sequence[str], seconds: Sequence[float], previous: Sequence[int] = ()) -> Split:
    """A split without audio."""
    utterances = [
        Utterance(id=f"u{n}", audio=Path("none.wav"), text=text, source="none.csv", row=n)
        for n, text in enumerate(texts)
    ]
    prompt = [*previous, *PROMPT]
    targets = [make_target(prompt, TOKENIZER.text_ids(text), TOKENIZER.eot, sot=TOKENIZER.sot) for text in texts]
    samples = [round(16_000 * s) for s in seconds]
    return Split("valid", single_windows(utterances), samples, targets, ["it"] * len(texts), {}, [], len(texts))


# Caps.


def test_whispers_own_bound_without_options() -> None:
    split = split_of(["ciao", "uno due"], [1, 2], previous=[TOKENIZER.sot_prev, 1, 2, 3])
    assert token_caps(split, None) == [448 - 6, 448 - 6]
    assert token_caps(split, ValidationOptions(max_tokens_per_second="none")) == [442, 442]


def test_a_cap_by_rate() -> None:
    split = split_of(["ciao", "uno due", "tre"], [1.0, 2.5, 30.0])
    caps = token_caps(split, ValidationOptions(max_tokens_per_second=20.0))
    assert caps == [10 + 20, 10 + 50, 448 - 2]


@given(
    texts=st.lists(st.text("abcdefgh ", min_size=1, max_size=60), min_size=1, max_size=8),
    seconds=st.lists(st.floats(0.5, 29), min_size=8, max_size=8),
)
def test_automatic_caps_leave_every_transcript_room(texts: list[str], seconds: list[float]) -> None:
    split = split_of(texts, seconds[: len(texts)])
    caps = token_caps(split, ValidationOptions())
    for cap, target in zip(caps, split.targets, strict=True):
        assert cap >= len(target.input_ids) - target.prompt_length
        assert cap <= 448 - 2


def test_the_automatic_rate_is_twice_the_splits_highest() -> None:
    split = split_of(["a" * 19, "b" * 9], [9.5, 9.5])  # 20 and 10 tokens with the leading space, over 9.5 + 0.5 s
    assert token_caps(split, ValidationOptions()) == [10 + math.ceil(2 * 2 * 9.5)] * 2


@pytest.mark.parametrize("options", [{"every_steps": 0}, {"max_tokens_per_second": 0.0}])
def test_bad_values_name_their_field(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"^{next(iter(options))} is"):
        ValidationOptions(**options)


# What is measured. The fake decoder sees the last token only: what follows what is a table.


class Chain:
    """A decoder for which token `a` is followed by `following[a]`, whatever the audio."""

    def __init__(self, following: dict[int, int]) -> None:
        self.table = torch.full((CONFIG.vocab_size,), TOKENIZER.eot)
        for token, after in following.items():
            self.table[token] = after
        self.embed_tokens = SimpleNamespace(weight=10 * torch.eye(CONFIG.vocab_size))

    def read(self, input_ids: torch.Tensor, cache: DecoderCache) -> torch.Tensor:
        cache.num_tokens += input_ids.shape[1]
        cache.reserve(cache.num_tokens)
        return self._after(input_ids)

    def read_at(self, input_ids: Sequence[Sequence[int]], lengths: Sequence[int], cache: DecoderCache) -> torch.Tensor:
        return torch.cat([self._after(torch.tensor(ids)) for ids in input_ids])

    def _after(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(self.table[input_ids], CONFIG.vocab_size).float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return 10 * hidden

    def start(self, states: torch.Tensor, log_weights: Any) -> DecoderCache:
        empty = torch.zeros(0, len(states), 1, 0, 1)
        return DecoderCache(empty, empty, cross_keys=[], cross_values=[], cross_bias=None)

    def step(self, input_ids: torch.Tensor, cache: Any) -> torch.Tensor:
        return self.read(input_ids[:, -1:], cache)[:, 0]


class NoStates:
    def prepare(self, batches: Iterable[Sequence[int]], view: int) -> None: ...

    def fetch(self, indices: Sequence[int], view: int) -> EncoderStates:
        return EncoderStates(torch.zeros(len(indices), 5, CONFIG.d_model), None)


def evaluate(split: Split, decoder: Any, *, cut_loops: bool = True, caps: Sequence[int] | None = None) -> Evaluation:
    (found,) = evaluate_split(
        split, shared(NoStates(), decoder, GREEDY), frames=FrameOptions(),
        max_tokens=caps or token_caps(split, None), cut_loops=cut_loops, advance=lambda amount: None,
    )  # fmt: skip
    return found


def shared(source: Any, decoder: Any, *searches: SearchOptions) -> list[SharedStates]:
    model = ready_to_search(decoder, RULES, TOKENIZER, pad_token_id=PAD_ID)
    return [SharedStates(source, [System("valid", model, searches)])]


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def test_the_error_rate_is_that_of_a_real_search() -> None:
    """The fault of others: "WER" computed from the argmax of the teacher-forced forward pass.

    This model errs on the first letter only. Fed the transcript it gets all words but the first right; left to
    itself it goes on from its own error, and ends.
    """
    text = " b c d e"
    (space,) = set(ids_of(" "))
    a, b, c, d, e = (ids_of(letter)[0] for letter in "abcde")
    # After a space the table alone would have to choose: letters follow letters, spaces are kept out.
    split = split_of(["bcde"], [1.0])
    assert split.targets[0].input_ids[2:] == (space, b, c, d, e)
    chain = Chain({PROMPT[-1]: space, space: a, b: c, c: d, d: e})
    found = evaluate(split, chain)
    assert found.score.utterances[0].hypothesis == "a"
    assert found.score.wer == 1.0
    assert found.score.cer == 1.0
    # Teacher-forced it errs once in six: the argmax there would read "acde".
    log_probs = torch.log_softmax(torch.tensor([10.0] + [0.0] * (CONFIG.vocab_size - 1)), 0)
    assert found.loss == pytest.approx(-(5 * log_probs[0].item() + log_probs[1].item()) / 6, rel=1e-5)
    assert text.strip()[0] == "b"


def test_a_right_search_scores_zero() -> None:
    space, b, c = (ids_of(letter)[0] for letter in (" ", "b", "c"))
    found = evaluate(split_of(["bc", "bc"], [1.0, 2.0]), Chain({PROMPT[-1]: space, space: b, b: c}))
    assert (found.score.wer, found.score.cer, found.loops, found.capped) == (0.0, 0.0, 0, 0)
    assert [h.ended for h in found.hypotheses] == [True, True]


def test_translations_are_scored_as_english() -> None:
    """English loses its fillers; what is spoken in it would keep them."""
    space, b, c = (ids_of(letter)[0] for letter in (" ", "b", "c"))
    split = split_of(["bc uh"], [1.0])
    split.languages[:] = ["ja"]
    search = Chain({PROMPT[-1]: space, space: b, b: c})
    assert evaluate(split, search).score.wer > 0
    split.task = "translate"
    assert evaluate(split, search).score.wer == 0


def test_loops_are_cut_and_counted() -> None:
    space, b = ids_of(" ")[0], ids_of("b")[0]
    split = split_of(["bb", "bbb"], [1.0, 2.0])
    looping = Chain({PROMPT[-1]: space, space: b, b: b})
    found = evaluate(split, looping)
    assert (found.loops, found.capped) == (2, 0)
    assert found.summary()["loops"] == 2
    # The first round is kept: one b.
    assert [u.hypothesis for u in found.score.utterances] == ["b", "b"]
    assert all(row["looped"] and not row["ended"] for row in found.rows())

    found = evaluate(split, looping, cut_loops=False, caps=[20, 30])
    assert (found.loops, found.capped) == (0, 2)
    assert found.summary()["capped"] == 2
    assert [len(h.tokens) for h in found.hypotheses] == [20, 30]


def test_rows_keep_the_manifests_order_whatever_the_chunks() -> None:
    space = ids_of(" ")[0]
    texts = [letter * 2 for letter in "abcdefgh" * 20]
    split = split_of(texts, [((7 * n) % 11) + 1.0 for n in range(len(texts))])
    found = evaluate(split, Chain({PROMPT[-1]: space, space: ids_of("a")[0]}))
    assert [row["id"] for row in found.rows()] == [f"u{n}" for n in range(len(texts))]
    assert [row["reference"] for row in found.rows()] == texts
    assert len(found.hypotheses) == len(texts) > 64


def test_the_loss_is_per_target_token_of_the_whole_split() -> None:
    """Not a mean of means over utterances or batches."""
    whisper = tiny_whisper()
    split = split_of(["b", "una frase molto più lunga di quella", "ciao a tutti"], [1.0, 4.0, 2.0])
    states = random_states([20, 90, 40])

    found, = evaluate_split(
        split, shared(states, whisper.decoder, GREEDY),
        frames=FrameOptions(), max_tokens=[5, 5, 5], cut_loops=True, advance=lambda amount: None,
    )  # fmt: skip
    total, count = 0.0, 0
    for index, target in enumerate(split.targets):
        fetched = GivenStates([states.states[index]]).fetch([0])
        with torch.no_grad():
            hidden = whisper.decoder(torch.tensor([target.input_ids]), fetched.states, fetched.log_weights)
            log_probs = whisper.decoder.logits(hidden)[0].log_softmax(-1)
        text = (*target.input_ids[target.prompt_length :], TOKENIZER.eot)
        total -= sum(log_probs[target.prompt_length - 1 + n, token].item() for n, token in enumerate(text))
        count += len(text)
    assert found.loss == pytest.approx(total / count, rel=1e-5)


def test_searches_with_one_decoder_share_its_keys_and_values() -> None:
    """Worked out once for greedy search, beam search and the loss, which find what each finds alone."""
    decoder = tiny_whisper().decoder
    split = split_of([f"una frase {'molto ' * (n % 5)}lunga" for n in range(20)], [0.5 + n % 3 / 4 for n in range(20)])
    states = random_states([20 + n for n in range(20)])
    started: list[int] = []

    def evaluated(searches: Sequence[SearchOptions]) -> list[Evaluation]:
        return evaluate_split(
            split, shared(states, decoder, *searches),
            frames=FrameOptions(), max_tokens=[12] * 20, cut_loops=True, advance=lambda amount: None,
        )  # fmt: skip

    searches = [GREEDY, SearchOptions(beam_size=5)]
    alone = [evaluated([search])[0] for search in searches]
    start = decoder.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "start", lambda s, w: started.append(len(s)) or start(s, w))
        together = evaluated(searches)
    assert started == [20]
    for ours, own in zip(together, alone, strict=True):
        assert ours.loss == pytest.approx(own.loss, rel=1e-6)
        assert [h.tokens for h in ours.hypotheses] == [h.tokens for h in own.hypotheses]
        assert [h.log_prob for h in ours.hypotheses] == pytest.approx([h.log_prob for h in own.hypotheses], rel=1e-5)


@pytest.mark.parametrize("failing", ["prefill", "search_windows"])
def test_when_memory_runs_out_half_as_many_windows_are_decoded_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    """For a chunk of 20, with searches that are done and others that are not; the same is found, and nothing twice."""
    decoder = tiny_whisper().decoder
    split = split_of([f"una frase {'molto ' * (n % 5)}lunga" for n in range(20)], [0.5 + n % 3 / 4 for n in range(20)])
    states = random_states([20 + n for n in range(20)])
    advanced: list[int] = []

    def evaluated() -> list[Evaluation]:
        advanced.clear()
        return evaluate_split(
            split, shared(states, decoder, GREEDY, SearchOptions(beam_size=3)),
            frames=FrameOptions(), max_tokens=[12] * 20, cut_loops=True, advance=advanced.append,
        )  # fmt: skip

    roomy = evaluated()
    original = getattr(Transcriber, failing)

    def cramped(self: Transcriber, windows: Any, *arguments: Any, **named: Any) -> Any:
        num_windows = len(arguments[0])
        if num_windows > 6 and (failing == "prefill" or self.search.beam_size > 1):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, windows, *arguments, **named)

    monkeypatch.setattr(Transcriber, failing, cramped)
    capsys.readouterr()
    tight = evaluated()
    assert sum(advanced) == 40
    assert capsys.readouterr().err.count("20 windows at once take more memory than there is; 10 from here on") == 1
    for ours, theirs in zip(tight, roomy, strict=True):
        assert [h.tokens for h in ours.hypotheses] == [h.tokens for h in theirs.hypotheses]
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    monkeypatch.setattr(Transcriber, failing, lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(torch.OutOfMemoryError):
        evaluated()


def test_windows_are_announced_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that audio is decoded while the model computes: each batch once, also when memory runs out."""
    decoder = tiny_whisper().decoder
    split = split_of(["una frase"] * 20, [1.0 + n % 3 for n in range(20)])
    monkeypatch.setattr(decode, "MOST_WINDOWS", 4)
    begun: list[tuple[int, ...]] = []
    before: list[int] = []

    class Source(GivenStates):
        def begin(self, batch: Batch) -> list[Future[Any]]:
            begun.append(batch[0])
            return []

        def prepare(self, batches: Iterable[Sequence[int]], view: int = 0) -> None:
            self.ahead = LookAhead(self.begin)
            self.ahead.announce((tuple(batch), view) for batch in batches)

        def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
            before.append(len(begun))
            self.ahead.take((tuple(indices), view))
            return super().fetch(indices, view)

    source = Source(random_states([20] * 20).states)

    def evaluated() -> list[Evaluation]:
        begun.clear()
        before.clear()
        return evaluate_split(
            split, shared(source, decoder, GREEDY), frames=FrameOptions(), max_tokens=[5] * 20, cut_loops=True,
            advance=lambda amount: None,
        )  # fmt: skip

    (roomy,) = evaluated()
    longest_first = sorted(range(20), key=lambda n: -split.num_samples[n])
    assert begun == [tuple(longest_first[first : first + 4]) for first in range(0, 20, 4)]
    assert before == [2, 3, 4, 5, 5]
    original = Transcriber.prefill

    def cramped(self: Transcriber, states: EncoderStates, prompts: Any) -> Any:
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, states, prompts)

    with monkeypatch.context() as patch:
        patch.setattr(Transcriber, "prefill", cramped)
        (tight,) = evaluated()
    assert [len(batch) for batch in begun] == [4, 4, 4, 2, 2, 2, 2]  # the first ones before the memory ran out
    assert [h.tokens for h in tight.hypotheses] == [h.tokens for h in roomy.hypotheses]


# Which checkpoint is kept.


def best_of(tmp_path: Path, errors: Sequence[int], **options: Any) -> tuple[list[int], Progress]:
    """Validate with so many word errors each time (the baseline first); the updates at which best/ was written."""
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    saved: list[int] = []
    trainer = make_trainer(
        tmp_path, whisper, random_states([20, 30, 40, 50]), tiny_targets([3, 4, 5, 6]), batch_size=2,
        evaluations=[fabricated([n, 1]) for n in errors],
        save_best=lambda weights, model: saved.append(trainer.progress.step), **options,
    )  # fmt: skip
    trainer.run()
    return saved, trainer.progress


@pytest.mark.parametrize(
    ("errors", "saved"),
    [
        ([0, 3, 2, 1], [2, 4, 6]),  # better and better; the baseline's 0 does not count here
        ([4, 1, 2, 3], [2]),
        ([4, 2, 3, 1], [2, 6]),
        ([4, 2, 2, 3], [2, 4]),  # a tie goes to the newer
        ([1, 1, 1, 1], [2, 4, 6]),
        ([0, 4, 4, 3], [2, 4, 6]),
    ],
)
def test_the_lowest_rate_is_kept_and_ties_go_to_the_newer(tmp_path: Path, errors: list[int], saved: list[int]) -> None:
    found, progress = best_of(tmp_path, errors, epochs=3)
    assert found == saved
    assert (progress.best_step, progress.best_epoch) == (saved[-1], saved[-1] // 2)
    assert progress.best_rate == (errors[saved[-1] // 2] + 1) / 8
    rows = metrics(tmp_path)
    assert [row["model"] for row in rows if "split" in row] == ["baseline", "epoch", "epoch", "epoch"]
    assert [row["epoch"] for row in rows if "split" in row] == [0, 1, 2, 3]
    assert [row["step"] for row in rows if "split" in row] == [0, 2, 4, 6]


def test_validation_within_an_epoch(tmp_path: Path) -> None:
    """Every update and each epoch's end, never twice at the same weights."""
    found, progress = best_of(tmp_path, [4, 4, 1, 2, 3], epochs=2, validation=ValidationOptions(every_steps=1))
    assert [row["step"] for row in valid_rows(tmp_path)] == [0, 1, 2, 3, 4]
    assert [row["epoch"] for row in valid_rows(tmp_path)] == [0, 1, 1, 2, 2]
    assert found == [1, 2]
    assert (progress.best_step, progress.best_epoch) == (2, 1)


def test_the_last_update_of_max_steps_is_validated(tmp_path: Path) -> None:
    found, progress = best_of(tmp_path, [4, 3, 2], epochs=5, max_steps=3)
    assert [row["step"] for row in valid_rows(tmp_path)] == [0, 2, 3]
    assert [row["step"] for row in step_rows(tmp_path)] == [1, 2, 3]
    assert found == [2, 3]
    assert progress.trained


@pytest.mark.parametrize(
    ("errors", "patience", "validated"),
    [
        ([9, 3, 3, 4, 4, 1], 2, 5),  # a tie is the newer best
        ([9, 4, 5, 3, 4, 4], 2, 6),
        ([9, 4, 5, 3, 4, 4], 1, 3),
        ([9, 4, 5, 6, 7, 8], None, 6),
        ([1, 4, 5, 6, 7, 8], 3, 5),  # the untouched model is no epoch
    ],
)
def test_early_stopping(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], errors: list[int], patience: int | None, validated: int
) -> None:
    _, progress = best_of(tmp_path, errors, epochs=5, validation=ValidationOptions(patience=patience))
    assert [row["epoch"] for row in valid_rows(tmp_path)] == list(range(validated))
    assert progress.trained
    assert progress.epoch == validated
    told = (
        f"stopped early in epoch {validated - 1}: {patience} validation{'' if patience == 1 else 's'} without a lower"
    )
    assert (told in capsys.readouterr().err) == (validated < 6)


def test_early_stopping_within_an_epoch(tmp_path: Path) -> None:
    options = ValidationOptions(every_steps=1, patience=2)
    _, progress = best_of(tmp_path, [9, 3, 4, 5, 6], epochs=4, validation=options)
    assert [row["step"] for row in valid_rows(tmp_path)] == [0, 1, 2, 3]
    assert (progress.step, progress.best_step, progress.trained) == (3, 1, True)


def test_the_state_follows_each_new_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, whatever checkpoint.every_minutes says: best/ and what a killed run resumes from are of one update."""
    states: list[Progress] = []
    monkeypatch.setattr(trainer_module, "save_state", lambda *arguments: states.append(copy(arguments[3])))
    best, progress = best_of(tmp_path, [4, 2, 3, 1], epochs=3, checkpoint=CheckpointOptions(every_minutes=1000))
    assert best == [2, 6]
    assert [(state.step, state.best_step, state.validated, state.trained) for state in states] == [
        (2, 2, True, False), (6, 6, True, False), (6, 6, True, True)
    ]  # fmt: skip
    assert states[1].best_rate == progress.best_rate
    assert states[-1].metrics_size == (tmp_path / "metrics.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("before", "after", "replaced"),
    [
        ([0] * 40, [2] * 40, True),
        ([1, 0] * 20, [1, 1] * 20, True),
        ([1] * 40, [0] * 40, False),  # better
        ([1] * 40, [1] * 40, False),
        ([0] * 40, [0] * 39 + [1], False),  # worse by chance
        ([0, 2] * 20, [2, 0] * 19 + [2, 1], False),  # worse by chance, though many differ
    ],
)
@pytest.mark.parametrize("leads_with_cer", [False, True])
def test_the_baseline_is_best_only_beyond_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[int], after: list[int], replaced: bool,
    leads_with_cer: bool,
) -> None:  # fmt: skip
    def errors_of(wrong: int) -> dict[str, int]:
        """As many wrong of what counts; all wrong of what does not."""
        words, characters = (4, wrong) if leads_with_cer else (wrong, 4)
        return {"word_errors": words, "words": 4, "character_errors": characters, "characters": 4,
                "leads_with_cer": leads_with_cer}  # fmt: skip

    folder = RunFolder(tmp_path)
    folder.create()
    saved: list[Any] = []
    monkeypatch.setattr(outcome, "save_best", lambda session, weights, model, step: saved.append(weights))
    for step, errors in ((0, before), (7, after)):
        write_jsonl(folder.validation(step), [{"id": str(n), **errors_of(wrong)} for n, wrong in enumerate(errors)])
    monkeypatch.setattr(outcome, "load_checkpoint", lambda model, base: SimpleNamespace(weights=f"{model} as it was"))
    progress = Progress(BatchPlan(2, 1), step=9, best_step=7, best_epoch=2)
    session: Any = SimpleNamespace(folder=folder, recipe=SimpleNamespace(model="base", base=None), progress=progress)
    comparison = outcome.choose_best(session)
    assert comparison.difference == pytest.approx((sum(after) - sum(before)) / 160)
    assert saved == (["base as it was"] if replaced else [])
    assert (progress.best_step, progress.best_epoch) == ((0, 0) if replaced else (7, 2))


def test_the_choice_is_by_speaker_where_six_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One speaker with many utterances got worse: chance by speaker, not by utterance."""
    folder = RunFolder(tmp_path)
    folder.create()
    saved: list[int] = []
    monkeypatch.setattr(outcome, "save_best", lambda session, weights, model, step: saved.append(step))
    monkeypatch.setattr(outcome, "load_checkpoint", lambda model, base: SimpleNamespace(weights=None))
    for named, expected in ((True, []), (False, [0])):
        for step in (0, 7):
            rows = [
                {"id": str(n), "word_errors": int(step == 7 and n >= 7), "words": 4, "leads_with_cer": False,
                 **({"speaker": f"voice {min(n, 7)}"} if named else {})}
                for n in range(40)
            ]  # fmt: skip
            write_jsonl(folder.validation(step), rows)
        progress = Progress(BatchPlan(2, 1), step=9, best_step=7, best_epoch=2)
        recipe = SimpleNamespace(model="base", base=None)
        session: Any = SimpleNamespace(folder=folder, recipe=recipe, progress=progress)
        assert outcome.choose_best(session).num_groups == (8 if named else 40)
        assert saved == expected


def test_without_spaces_the_characters_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence is a single word there, wrong as soon as one character is."""
    evaluations = []
    for text in ("今天天气", "今天天冷", "今天好冷", "今天天冷"):
        score = score_corpus(["a", "b"], ["今天天气"] * 2, [text, "今天天冷"], ["zh", "zh"])
        evaluations.append(dataclasses.replace(fabricated([0, 0]), score=score))
    saved: list[int] = []
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    trainer = make_trainer(
        tmp_path, whisper, random_states([20, 30]), tiny_targets([3, 4]), batch_size=2, epochs=3,
        evaluations=evaluations, save_best=lambda weights, model: saved.append(trainer.progress.step),
    )  # fmt: skip
    trainer.run()
    assert [row["wer"] for row in valid_rows(tmp_path)] == [0.5, 1, 1, 1]
    assert [row["leading_rate"] for row in valid_rows(tmp_path)] == [1 / 8, 2 / 8, 3 / 8, 2 / 8]
    assert saved == [1, 3]  # by word error rate the second, worse one would have been
    assert "valid CER 25.0 % (normalised, 95 %: " in capsys.readouterr().err


@pytest.mark.parametrize(("errors", "untouched"), [([0, 4, 3], True), ([4, 1, 2], False)])
def test_best_of_a_real_run(
    samples: Samples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    errors: list[int],
    untouched: bool,
) -> None:
    """Fine-tuning that made it worse beyond chance leaves the untouched model in best/, and says so."""
    evaluations = iter([fabricated([n] * 20) for n in errors])
    monkeypatch.setattr(stages, "evaluate_split", lambda *arguments, **named: [next(evaluations)])
    run = tmp_path / "run"
    assert samples.train_run(run) == 0
    before, best = weights_of(samples.model), weights_of(run / "best")
    assert all(torch.equal(best[name], weight) for name, weight in before.items()) == untouched
    shown = capsys.readouterr()
    assert ("fine-tuning made it worse" in shown.err) == untouched
    assert progress_of(run)["best_step"] == (0 if untouched else 3)
    if not untouched:
        state = {n: w for n, w in weights_of(run / "best").items() if not torch.equal(w, before[n])}
        assert state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("errors", "epoch"), [([4, 1, 2], 1), ([0, 4, 3], 0)])
def test_the_test_takes_the_untouched_and_the_best_weights(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: list[int], epoch: int, precision: str
) -> None:
    """Not those of the last step, though it is the run's own model that decodes."""
    found = iter([fabricated([n] * 20) for n in errors])
    after_epochs: list[dict[str, torch.Tensor]] = []
    tested: list[dict[str, torch.Tensor]] = []

    def evaluate(split: Any, shared: Any, **named: Any) -> list[Evaluation]:
        systems = [system for source in shared for system in source.systems]
        weights = [{n: w.detach().clone() for n, w in c.model.whisper.decoder.state_dict().items()} for c in systems]
        if split.name == "valid":
            after_epochs.extend(weights)
            return [next(found)]
        tested.extend(weights)
        return [dataclasses.replace(fabricated([1] * len(split.windows)), name=c.name) for c in systems]

    monkeypatch.setattr(stages, "evaluate_split", evaluate)
    monkeypatch.setattr(stages, "for_decoding", lambda decoder, layers: decoder)
    samples.train_run(tmp_path / "run", test=samples.test, search__beam_size=1, precision=precision)
    assert [len(after_epochs), len(tested)] == [3, 2]
    for ours, expected in zip(tested, (after_epochs[0], after_epochs[epoch]), strict=True):
        assert ours.keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in ours.items())
    assert any(not torch.equal(weight, after_epochs[2][name]) for name, weight in tested[1].items())


def test_what_validation_writes(samples: Samples, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=1, validation__every_steps=2) == 0
    rows = valid_rows(run)
    assert [row["step"] for row in rows] == [0, 2, 3]
    for row in rows:
        assert {"step", "epoch", "split", "model", "frames", "wer", "cer", "wer_raw", "loss", "seconds"} <= set(row)
        hypotheses = [
            json.loads(line) for line in (run / "valid" / f"step-{row['step']:07d}.jsonl").read_text().splitlines()
        ]
        assert len(hypotheses) == 4
        words = sum(h["words"] for h in hypotheses)
        assert row["wer"] == pytest.approx(sum(h["word_errors"] for h in hypotheses) / words)
        assert row["loops"] == sum(h["looped"] for h in hypotheses)
