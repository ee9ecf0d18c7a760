from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import checkpoint_samples as samples
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.ctranslate2 import read_variables, to_huggingface
from whispertune.errors import CheckpointError


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_fused_projections_are_split_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = samples.random_weights(dtype=dtype)
    content = samples.ctranslate2_bytes(samples.ctranslate2_variables(weights), samples.ALIASES)
    samples.write_ctranslate2(tmp_path, content)
    loaded = load_checkpoint(str(tmp_path))
    assert loaded.config == samples.CONFIG
    assert loaded.weights.keys() == weights.keys()
    for name, tensor in weights.items():
        assert loaded.weights[name].dtype == dtype
        assert torch.equal(loaded.weights[name], tensor), name


def test_generation_config_comes_from_config_json_and_names(tmp_path: Path) -> None:
    content = samples.ctranslate2_bytes(samples.ctranslate2_variables(samples.random_weights()), samples.ALIASES)
    samples.write_ctranslate2(tmp_path, content)
    generation = load_checkpoint(str(tmp_path)).generation
    assert generation["suppress_tokens"] == [1, 2]
    assert generation["begin_suppress_tokens"] == [3]
    assert generation["alignment_heads"] == [[0, 1]]
    assert generation["is_multilingual"] is False  # by the size of its vocabulary
    assert generation["lang_to_id"] == generation["task_to_id"] == {}
    assert generation["eos_token_id"] == samples.VOCAB["<|endoftext|>"]
    assert generation["decoder_start_token_id"] == samples.SPECIALS["<|startoftranscript|>"]
    assert generation["no_timestamps_token_id"] == samples.SPECIALS["<|notimestamps|>"]


def test_heads_are_64_wide_unless_stored() -> None:
    variables = dict(samples.ctranslate2_variables(samples.random_weights()))
    assert to_huggingface(variables, "x")[0].encoder_attention_heads == 2
    del variables["encoder/num_heads"]
    assert to_huggingface(variables, "x")[0].encoder_attention_heads == 1


@pytest.mark.parametrize("version", [4, 5])
def test_older_versions_of_the_format(version: int) -> None:
    variables = [("a", torch.arange(6, dtype=torch.float32).reshape(2, 3))]
    content = samples.ctranslate2_bytes(variables, {"b": "a"}, version=version)
    read, _ = read_variables(io.BytesIO(content), where="x")
    assert torch.equal(read["a"], variables[0][1])
    assert read["b"] is read["a"]


def refused(content: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        to_huggingface(read_variables(io.BytesIO(content), where="model.bin")[0], "model.bin")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_quantised_weights_are_refused_and_the_remedy_named() -> None:
    variables = [("decoder/embeddings/weight", torch.zeros(4, 2, dtype=torch.int8))]
    message = refused(samples.ctranslate2_bytes(variables, {}))
    assert "int8" in message
    assert "float16" in message


def test_other_models_versions_and_dtypes_are_refused() -> None:
    assert "damaged, or not a CTranslate2 model" in refused(b"%PDF-1.7 of something else")
    assert "version 2" in refused(samples.ctranslate2_bytes([], {}, version=2))
    assert "TransformerSpec" in refused(samples.ctranslate2_bytes([], {}, kind="TransformerSpec"))
    assert "alias" in refused(samples.ctranslate2_bytes([], {"a": "b"}))
    unknown = bytearray(samples.ctranslate2_bytes([("a", torch.zeros(1))], {}))
    unknown[-4 - 4 - 4 - 1] = 77
    assert "dtype 77" in refused(bytes(unknown))


def test_missing_surplus_and_untied_tensors_are_refused() -> None:
    variables = dict(samples.ctranslate2_variables(samples.random_weights()))

    def change(**tensors: torch.Tensor) -> str:
        changed = {**variables, **{name.replace("__", "/"): tensor for name, tensor in tensors.items()}}
        return refused(samples.ctranslate2_bytes(list(changed.items()), {}))

    assert "decoder/adapter" in change(decoder__adapter=torch.zeros(2))
    assert "differs" in change(decoder__projection__weight=torch.zeros(samples.VOCAB_SIZE, 64))
    assert "bias on its keys" in change(encoder__layer_0__self_attention__linear_0__bias=torch.ones(192))
    assert "num_heads" in change(encoder__num_heads=torch.tensor(float("nan")))
    without = [item for item in variables.items() if item[0] != "encoder/conv2/bias"]
    assert "encoder/conv2/bias is missing" in refused(samples.ctranslate2_bytes(without, {}))


SMALL = samples.ctranslate2_bytes(
    [("encoder/conv1/weight", torch.ones(2, 3, 3)), ("decoder/pre_norm", torch.tensor(1, dtype=torch.int8))],
    {"decoder/projection/weight": "encoder/conv1/weight"},
)


@given(st.integers(0, len(SMALL) - 1))
def test_truncated_anywhere(size: int) -> None:
    refused(SMALL[:size])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_garbage_anywhere_is_a_checkpoint_error(changes: list[tuple[int, int]]) -> None:
    garbled = bytearray(SMALL)
    for position, value in changes:
        garbled[position] = value
    refused(bytes(garbled))


@given(st.binary(max_size=200))
def test_garbage_behind_a_good_header(tail: bytes) -> None:
    refused(samples.ctranslate2_bytes([], {})[:-8] + tail)


def test_huge_claims_allocate_nothing() -> None:
    header = samples.ctranslate2_bytes([], {})[:-8]
    name = struct.pack("<H", 2) + b"a\0"
    claim = struct.pack("<I", 1) + name + struct.pack("<BIIBI", 2, 2**16, 2**14 - 1, 0, (2**16) * (2**14 - 1) * 4)
    assert "bytes early" in refused(header + claim)


def test_folder_without_its_tokenizer_or_with_another_models(tmp_path: Path) -> None:
    content = samples.ctranslate2_bytes(samples.ctranslate2_variables(samples.random_weights()), samples.ALIASES)
    samples.write_ctranslate2(tmp_path, content)
    tokenizer = json.loads(samples.TOKENIZER)
    tokenizer["added_tokens"][-1]["id"] = 99_999
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is missing"):
        load_checkpoint(str(tmp_path))
