"""OpenAI's `.pt`: read, written, and refused where it is damaged, dangerous or another model's."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoint_samples as samples
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standard_samples import CONFIG, DIMS, openai_state, standard, tokenizer

from whispertune.checkpoints import openai_tokenizer
from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.openai import save_openai
from whispertune.checkpoints.openai_layout import special_ids
from whispertune.checkpoints.openai_tokenizer import default_suppressed, installed_tokenizer
from whispertune.errors import CheckpointError
from whispertune.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer that the files written here need."""
    folder = tmp_path_factory.mktemp("openai")
    (folder / "tokenizer.json").write_text(tokenizer()[0], encoding="utf-8")
    return folder


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_tensor_is_found_under_openais_name(beside: Path, dtype: torch.dtype) -> None:
    weights = standard(dtype).weights
    torch.save({"dims": DIMS, "model_state_dict": openai_state(weights)}, beside / "mine.pt")
    loaded = load_checkpoint(str(beside / "mine.pt"))
    assert loaded.config == CONFIG
    assert loaded.weights.keys() == weights.keys()
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in weights.items())
    assert all(loaded.weights[name].dtype == dtype for name in weights)


def test_written_file_is_openais(tmp_path: Path) -> None:
    checkpoint = standard()
    joined = torch.cat([checkpoint.weights[f"model.encoder.conv{n}.bias"] for n in (1, 2)])
    for n, part in enumerate(joined.split(64), start=1):  # as parts of a larger tensor, which must not be stored
        checkpoint.weights[f"model.encoder.conv{n}.bias"] = part
    save_openai(tmp_path, checkpoint, torch.float32)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["dims"] == DIMS
    expected = openai_state(checkpoint.weights)
    assert content["model_state_dict"].keys() == expected.keys()
    assert all(torch.equal(content["model_state_dict"][name], tensor) for name, tensor in expected.items())
    assert content["model_state_dict"]["encoder.conv1.bias"].untyped_storage().nbytes() == 64 * 4


def test_settings_travel_beside_the_file(tmp_path: Path) -> None:
    save_openai(tmp_path, standard(), torch.float32)
    for named in (tmp_path, tmp_path / "model.pt"):
        loaded = load_checkpoint(str(named))
        assert loaded.generation == standard().generation
        assert loaded.tokenizer_json == standard().tokenizer_json
    (tmp_path / "generation_config.json").unlink()
    alone = load_checkpoint(str(tmp_path)).generation
    blank = samples.byte_alphabet().index("Ġ")
    assert alone["begin_suppress_tokens"] == [blank, tokenizer()[1]["<|endoftext|>"]]
    assert tokenizer()[1]["<|startoftranscript|>"] in alone["suppress_tokens"]
    assert "language" not in alone


def test_sizes_and_vocabularies_that_openai_cannot_express(tmp_path: Path) -> None:
    narrow = standard()
    narrow.config = replace(CONFIG, decoder_ffn_dim=128)
    with pytest.raises(CheckpointError, match=r"`decoder_ffn_dim` is 128; .*4 x d_model"):
        save_openai(tmp_path, narrow, torch.float32)
    small = samples.sample()
    small.config = replace(small.config, encoder_ffn_dim=256, decoder_ffn_dim=256)
    with pytest.raises(CheckpointError, match=f"do not support a vocabulary of {samples.VOCAB_SIZE} tokens"):
        save_openai(tmp_path, small, torch.float32)
    moved = standard()
    content = json.loads(moved.tokenizer_json)
    by_name = {token["content"]: token for token in content["added_tokens"]}
    by_name["<|it|>"]["id"], by_name["<|de|>"]["id"] = by_name["<|de|>"]["id"], by_name["<|it|>"]["id"]
    moved.tokenizer_json = json.dumps(content)
    with pytest.raises(CheckpointError, match=r"<\|de\|> has id 50274, but .* use 50261"):
        save_openai(tmp_path, moved, torch.float32)
    assert not (tmp_path / "model.pt").exists()


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    checkpoint = standard()
    checkpoint.weights["model.encoder.conv1.bias"][0] = 1e6
    with pytest.raises(CheckpointError, match=r"model\.encoder\.conv1\.bias does not fit"):
        save_openai(tmp_path, checkpoint, torch.float16)


# Bad files.


def test_a_pickle_with_code_in_it_is_not_run(beside: Path) -> None:
    victim = beside / "executed"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (victim,))

    state = {"dims": DIMS, "model_state_dict": {}, "extra": Malicious()}
    torch.save(state, beside / "evil.pt")
    assert "no code in it was run" in message(beside / "evil.pt")
    (beside / "plain.pt").write_bytes(pickle.dumps(state))  # the old form, without an archive around it
    message(beside / "plain.pt")
    assert not victim.exists()


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


SMALL = saved({"dims": DIMS, "model_state_dict": {"encoder.conv1.bias": torch.ones(3)}})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, len(SMALL) - 1))
def test_truncated_anywhere(tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.pt").write_bytes(SMALL[:size])
    message(tmp_path / "cut.pt")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=6))
@pytest.mark.filterwarnings("ignore")
def test_garbage_anywhere(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    garbled = bytearray(SMALL)
    for position, value in changes:
        garbled[position] = value
    (tmp_path / "garbled.pt").write_bytes(garbled)
    message(tmp_path / "garbled.pt")


@pytest.mark.parametrize(
    ("dims", "complaint"),
    [
        ({"n_mels": None}, "`n_mels` in `dims` is None"),
        ({"n_text_layer": 0}, "`n_text_layer` in `dims` is 0"),
        ({"n_text_layer": True}, "`n_text_layer` in `dims` is True"),
        ({"n_audio_layer": 10**9}, "not a number from 1 to 1000"),
        ({"n_experts": 8}, "`n_experts` in `dims` is not a size of Whisper"),
        ({"n_audio_head": 7}, "`n_audio_state` in `dims` is not a multiple of `n_audio_head`"),
        ({"n_text_state": 128}, "differ"),
    ],
)
def test_sizes_that_are_wrong(tmp_path: Path, dims: dict[str, Any], complaint: str) -> None:
    (tmp_path / "x.pt").write_bytes(saved({"dims": {**DIMS, **dims}, "model_state_dict": {}}))
    assert complaint in message(tmp_path / "x.pt")


def test_tensors_that_are_wrong(tmp_path: Path) -> None:
    state = openai_state(standard().weights)
    path = tmp_path / "x.pt"
    name = "decoder.blocks.1.cross_attn.key.weight"

    def complaint(**changes: object) -> str:
        changed = {key: value for key, value in {**state, **changes}.items() if value is not None}
        torch.save({"dims": DIMS, "model_state_dict": changed}, path)
        return message(path)

    assert f"missing tensors: 1 ({name})" in complaint(**{name: None})
    assert f"{name} (64, 32) instead of (64, 64)" in complaint(**{name: torch.zeros(64, 32)})
    assert "Whisper does not have: 1 (encoder.adapter)" in complaint(**{"encoder.adapter": torch.zeros(2)})
    assert f"not finite: 1 ({name})" in complaint(**{name: torch.full((64, 64), torch.nan)})
    assert f"{name} (torch.int8)" in complaint(**{name: torch.zeros(64, 64, dtype=torch.int8)})
    assert f"'{name}' in `model_state_dict` is not a plain tensor" in complaint(
        **{name: torch.zeros(64, 64).to_sparse()}
    )
    assert "is not a plain tensor" in complaint(**{name: [1, 2]})


@pytest.mark.parametrize("content", [[], {}, {"dims": DIMS}, {"model_state_dict": {}, "dims": 3}, torch.ones(2)])
def test_files_of_something_else(tmp_path: Path, content: object) -> None:
    (tmp_path / "x.pt").write_bytes(saved(content))
    assert "not a checkpoint of OpenAI's Whisper" in message(tmp_path / "x.pt")


# The tokenizer, which is not in the file.


def test_without_a_tokenizer(tmp_path: Path, beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_tokenizer, "find_spec", lambda name: None)
    path = tmp_path / "x.pt"
    torch.save({"dims": DIMS, "model_state_dict": openai_state(standard().weights)}, path)
    complaint = message(path)
    assert "has no tokenizer" in complaint
    assert "pip install openai-whisper" in complaint
    assert load_checkpoint(str(path), beside).tokenizer_json == tokenizer()[0]
    with pytest.raises(CheckpointError, match="has its own tokenizer"):
        load_checkpoint("packaged:whisper-base", beside)
    (tmp_path / "tokenizer.json").write_text(samples.TOKENIZER, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: <\|endoftext\|> has id"):
        load_checkpoint(str(path))


def test_ids_of_special_tokens() -> None:
    """As they are published: base, base.en and large-v3."""
    for size, end, language, no_timestamps in ((51865, 50257, 50274, 50363), (51864, 50256, 50273, 50362)):
        ids = special_ids(size)
        assert (ids["<|endoftext|>"], ids["<|it|>"], ids["<|notimestamps|>"]) == (end, language, no_timestamps)
    assert special_ids(51866)["<|yue|>"] == 50358
    assert special_ids(51866)["<|notimestamps|>"] == 50364
    assert special_ids(51867) == special_ids(1000) == {}


@pytest.mark.parametrize("model", ["packaged:whisper-base", "packaged:whisper-tiny.en"])
def test_suppressed_tokens_are_those_of_released_models(model: str) -> None:
    try:
        released = load_checkpoint(model)
    except CheckpointError as error:
        pytest.skip(str(error))
    derived = default_suppressed(released.tokenizer_json)
    assert derived["suppress_tokens"] == released.generation["suppress_tokens"]
    assert derived["begin_suppress_tokens"] == released.generation["begin_suppress_tokens"]


@pytest.mark.filterwarnings("ignore")  # it leaves its own file open
@pytest.mark.parametrize("vocab_size", [51864, 51865])
def test_openai_whispers_own_tokenizer(vocab_size: int) -> None:
    theirs_module = pytest.importorskip("whisper.tokenizer")
    multilingual = vocab_size >= 51865
    theirs = theirs_module.get_tokenizer(multilingual, num_languages=vocab_size - 51765 - multilingual)
    text = installed_tokenizer(vocab_size)
    assert text is not None
    ours = Tokenizer(text, vocab_size)
    for sentence in (" Tutti gli operatori sono occupati.", " the time, 12:30!", " 東京は雨 ñandú \n\n  x"):
        assert ours.encode(sentence) == theirs.encode(sentence)
    assert (ours.eot, ours.timestamp_begin) == (theirs.eot, theirs.timestamp_begin)
    assert set(theirs.non_speech_tokens) < set(default_suppressed(text)["suppress_tokens"])
