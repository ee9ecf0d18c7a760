"""Whatever states depend on is in their key."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import grimp
import pytest
import torch
from store_samples import ENCODER, LENGTHS

from whispertune.augment.options import AugmentOptions, DropChunkOptions
from whispertune.data.utterances import Utterance
from whispertune.dataset.windows import Window
from whispertune.features.log_mel import WINDOW_SAMPLES
from whispertune.features.options import FrameOptions
from whispertune.model.whisper import inference_copy
from whispertune.states import key as module
from whispertune.states.key import encoder_digest, store_key
from whispertune.states.stored import StateLayout
from whispertune.system.precision import Precision


class Given:
    """Everything that a key is made of; `key` takes changes."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / f"{number}.wav" for number in range(len(LENGTHS))]
        for number, path in enumerate(self.files):
            path.write_bytes(bytes([number]) * 10)
        utterances = [
            Utterance(id=f"u{n}", audio=path, text="ciao", start=0.5, end=2.0) for n, path in enumerate(self.files)
        ]
        self.windows = [Window(u.id, (u,)) for u in utterances[:-2]]
        self.windows.append(Window("stitched-0", tuple(utterances[-2:]), (0.3,)))
        self.samples = LENGTHS[:-1]
        self.noise = folder / "noise.wav"
        self.noise.write_bytes(b"noise")
        self.options = AugmentOptions(drop_chunk=DropChunkOptions(probability=0.5))

    def key(self, **changes: Any) -> str:
        shape = StateLayout(
            changes.pop("samples", self.samples), changes.pop("frames", FrameOptions()), changes.pop("width", 32),
            changes.pop("precision", Precision("bf16")),
        )  # fmt: skip
        given: dict[str, Any] = {"n_mels": 80, "device": torch.device("cpu"), **changes}
        encoder, chosen = given.pop("encoder", "abc"), given.pop("windows", self.windows)
        return store_key(encoder, chosen, shape, **given)

    def augmented(self, **changes: Any) -> str:
        return self.key(**{"augment": self.options, "noises": [self.noise], "seed": 1, "view": 2, **changes})


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


def changed(windows: list[Window], **changes: Any) -> list[Window]:
    first = windows[0].utterances[0]
    return [Window(windows[0].id, (dataclasses.replace(first, **changes),)), *windows[1:]]


def test_every_change_makes_another_key(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    last = given.windows[-1]
    keys = [
        given.key(),
        given.key(encoder="abd"),
        given.key(n_mels=128),
        given.key(device=torch.device("cuda")),
        given.key(precision=Precision("fp32")),
        given.key(precision=Precision("tf32")),
        *(given.key(frames=FrameOptions(**{name: 7})) for name in ("stride", "margin", "edge")),
        given.key(frames=FrameOptions(selection="dense")),
        given.key(samples=[n + 1 for n in given.samples]),
        given.key(windows=changed(given.windows, start=0.6)),
        given.key(windows=changed(given.windows, end=None)),
        given.key(windows=changed(given.windows, audio=given.files[1])),
        given.key(windows=changed(given.windows, channel=0)),
        given.key(windows=changed(given.windows, channel=1)),
        given.key(windows=changed(given.windows, within=(0, 10))),
        given.key(windows=changed(given.windows, within=(1, 9))),
        given.key(windows=[given.windows[1], given.windows[0], *given.windows[2:]]),
        given.key(windows=[*given.windows[:-1], dataclasses.replace(last, pauses=(0.4,))]),
        given.key(windows=[*given.windows[:-1], dataclasses.replace(last, lead=0.4)]),
        given.augmented(),
        given.augmented(seed=2),
        given.augmented(view=3),
        given.augmented(augment=AugmentOptions(drop_chunk=DropChunkOptions(probability=0.6))),
        given.augmented(noises=[]),
        given.augmented(windows=changed(given.windows, id="other")),
        given.augmented(windows=[*given.windows[:-1], dataclasses.replace(last, id="stitched-1")]),
    ]
    monkeypatch.setattr("whispertune.states.computed.BATCH_FRAMES", 1000)
    keys.append(given.key())
    monkeypatch.setattr(module, "COMPUTING", module.COMPUTING[:-1])
    keys.append(given.key())
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.append(given.key())
    monkeypatch.setattr(module, "FORMAT", 99)
    keys.append(given.key())
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


def test_all_code_that_states_come_out_of_is_in_it() -> None:
    """Whatever `states`, `windows` and the augmentation import of ours, but for what decides no value."""
    graph = grimp.build_graph("whispertune")
    used = {f"whispertune.{name}" for name in ("states.computed", "dataset.windows", "augment.pipeline")}
    used |= {upstream for name in set(used) for upstream in graph.find_upstream_modules(name)}
    decides_nothing = {"errors", "system.fields", "system.home", "system.lazy", "data.reading", "data.remote",
                       "data.timed_text",
                       "data.utterances", "model.config", "model.cache", "model.states_attention", "model.step_graphs",
                       "model.step_memory",
                       "system.precision", "system.options", "system.console", "system.files", "system.locks",
                       "system.counts",
                       # the values of these are in the key
                       "augment.options", "features.options"}  # fmt: skip
    counted = {each.__name__ for each in (*module.COMPUTING, *module.AUGMENTING)}
    assert used - counted == {f"whispertune.{name}" for name in decides_nothing}


def test_the_source_is_that_of_the_start(given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade while a run goes on replaces the files, but not what encodes."""
    before = given.key()
    monkeypatch.setattr(module.states, "__file__", str(tmp_path / "gone.py"))
    assert given.key() == before


def test_what_states_do_not_depend_on_is_not_in_it(given: Given) -> None:
    """Transcripts and names of clean windows; how views are used; the length of nothing else."""
    last = dataclasses.replace(given.windows[-1], timestamps=True, previous_text="ciao", num_samples=(1, 2))
    assert given.key(windows=[*given.windows[:-1], last]) == given.key()
    assert given.key(windows=changed(given.windows, text="addio", id="other", language="it", row=9)) == given.key()
    used_otherwise = dataclasses.replace(given.options, keep_original=True, views=9)
    assert given.augmented(augment=used_otherwise) == given.augmented()
    assert given.augmented(windows=changed(given.windows, text="addio")) == given.augmented()


@pytest.mark.parametrize("which", ["audio", "noise"])
def test_files_by_time_size_and_path_or_by_content(given: Given, which: str) -> None:
    path = given.files[3] if which == "audio" else given.noise
    found = path.stat()
    trusting, comparing = given.augmented(), given.augmented(content=True)

    path.write_bytes(path.read_bytes()[::-1][:-1] + b"!")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert given.augmented() == trusting  # nothing shows from outside
    assert given.augmented(content=True) != comparing

    os.utime(path, ns=(0, found.st_mtime_ns + 1))
    assert given.augmented() != trusting
    os.utime(path, ns=(0, found.st_mtime_ns))
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(0, found.st_mtime_ns))
    assert given.augmented() != trusting


def test_files_that_moved_keep_their_key_by_content(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here, there = Given(tmp_path / "here"), Given(tmp_path / "there")
    assert here.key() != there.key()
    assert here.key(content=True) == there.key(content=True)


def test_ids_that_are_no_utf8(given: Given) -> None:
    windows = changed(given.windows, id="caff\udce8")
    assert given.augmented(windows=windows) != given.augmented()


def test_digest_of_the_encoder() -> None:
    before = encoder_digest(ENCODER)
    copy = inference_copy(ENCODER, torch.bfloat16)
    assert encoder_digest(copy) != before
    copy = inference_copy(ENCODER, torch.float32)
    assert encoder_digest(copy) == before
    with torch.no_grad():
        weight = copy.layers[1].fc2.bias
        kept = weight[3].clone()
        weight[3] += 1e-6
        assert encoder_digest(copy) != before
        weight[3] = kept
    assert encoder_digest(copy) == before
    copy.num_heads *= 2  # shows in no tensor
    assert encoder_digest(copy) != before


def test_layouts_of_the_longest_window() -> None:
    shape = StateLayout([WINDOW_SAMPLES], FrameOptions(), 8, Precision("fp32"))
    assert shape.num_bytes == 1500 * 8 * 4 == sum(shape.batch_bytes)
