"""From format to format and back: every weight bit-equal, nothing of the model's behaviour lost."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import checkpoint_samples as samples
import numpy as np
import pytest
import torch
from standard_samples import CONFIG, large, openai_state, standard

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.ctranslate2_write import save_ctranslate2
from whispertune.checkpoints.ggml import save_ggml
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.checkpoints.layout import Checkpoint
from whispertune.checkpoints.openai import save_openai
from whispertune.checkpoints.packaged import MODELS
from whispertune.commands.export_options import Quantization
from whispertune.decoding.loading import ready_model
from whispertune.decoding.options import GREEDY
from whispertune.decoding.transcriber import Transcriber
from whispertune.errors import CheckpointError
from whispertune.features.log_mel import mel_filters
from whispertune.features.options import DENSE
from whispertune.states.computed import encode, window_features

Save = Callable[[Path, Checkpoint], None]


def to_huggingface(folder: Path, checkpoint: Checkpoint) -> None:
    save_huggingface(folder, checkpoint, checkpoint.weights, language="it", model_card=None)


def to_openai(folder: Path, checkpoint: Checkpoint) -> None:
    save_openai(folder, checkpoint, torch.float32)


def to_ctranslate2(folder: Path, checkpoint: Checkpoint) -> None:
    pytest.importorskip("ctranslate2")
    save_ctranslate2(folder, checkpoint, "float32")


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "path",
    [
        (to_openai, to_huggingface, to_openai, to_ctranslate2),
        (to_ctranslate2, to_openai, to_ctranslate2, to_huggingface),
        (to_huggingface, to_ctranslate2, to_huggingface, to_openai),
    ],
)
def test_round_trips(tmp_path: Path, source: torch.dtype, path: tuple[Save, ...]) -> None:
    original = standard(source)
    checkpoint = original
    for number, save in enumerate(path):
        folder = tmp_path / str(number)
        folder.mkdir()
        save(folder, checkpoint)
        checkpoint = load_checkpoint(str(folder))
    assert checkpoint.config == original.config
    assert checkpoint.tokenizer_json == original.tokenizer_json
    assert checkpoint.generation == original.generation
    assert checkpoint.preprocessor == original.preprocessor
    assert checkpoint.weights.keys() == original.weights.keys()
    for name, tensor in original.weights.items():
        assert torch.equal(checkpoint.weights[name].float(), tensor.float()), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_stay_the_same_halves(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("ctranslate2")
    original = standard(getattr(torch, dtype))
    save_ctranslate2(tmp_path, original, dtype)
    for name, tensor in load_checkpoint(str(tmp_path)).weights.items():
        assert tensor.dtype == original.weights[name].dtype
        assert torch.equal(tensor, original.weights[name])


@pytest.mark.parametrize("save", [to_openai, to_ctranslate2])
def test_128_mel_bins_and_one_language_more(tmp_path: Path, save: Save) -> None:
    """large-v3: what a program that opens the folder must find is there, and comes back."""
    original = large()
    save(tmp_path, original)
    again = load_checkpoint(str(tmp_path))
    assert again.config == original.config
    assert again.generation == original.generation
    assert again.generation["lang_to_id"]["<|yue|>"] == 50_358
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["feature_size"] == 128
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in original.weights.items())


def test_transformers_opens_a_model_of_128_mel_bins(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_huggingface(tmp_path, large(), large().weights, language="yue", model_card=None)
    processor = transformers.WhisperProcessor.from_pretrained(tmp_path)
    features = processor(np.zeros(16_000), sampling_rate=16_000, return_tensors="np").input_features
    assert features.shape == (1, 128, 3000)
    ids = processor.get_decoder_prompt_ids(language="yue", task="transcribe")
    assert ids == [(1, 50_358), (2, 50_360), (3, 50_364)]


@pytest.mark.filterwarnings("ignore")  # theirs
def test_faster_whisper_opens_a_model_of_128_mel_bins(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    faster_whisper = pytest.importorskip("faster_whisper")
    save_ctranslate2(tmp_path, large(), "float32")
    theirs = faster_whisper.WhisperModel(str(tmp_path), device="cpu", cpu_threads=1, local_files_only=True)
    assert theirs.feature_extractor.mel_filters.shape == (128, 201)
    assert theirs.hf_tokenizer.token_to_id("<|yue|>") == 50_358
    list(theirs.transcribe(np.zeros(3200, np.float32), language="en", max_new_tokens=2)[0])  # its shapes fit


# CTranslate2.


def test_ctranslate2_side_files(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    checkpoint = standard()
    save_ctranslate2(tmp_path, checkpoint, "float32")
    settings = json.loads((tmp_path / "config.json").read_text())
    ids = {token["content"]: token["id"] for token in json.loads(checkpoint.tokenizer_json)["added_tokens"]}
    assert settings["suppress_ids"] == [1, 2, 7]
    assert settings["suppress_ids_begin"] == [220, ids["<|endoftext|>"]]
    assert settings["alignment_heads"] == [[1, 0]]
    assert len(settings["lang_ids"]) == 99
    assert {ids["<|en|>"], ids["<|it|>"]} < set(settings["lang_ids"])
    vocabulary = json.loads((tmp_path / "vocabulary.json").read_text())
    assert len(vocabulary) == CONFIG.vocab_size
    assert vocabulary[ids["<|it|>"]] == "<|it|>"
    assert vocabulary[-1] == "<|30.00|>"
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["feature_size"] == 80
    checkpoint.generation["alignment_heads"] = []
    save_ctranslate2(tmp_path, checkpoint, "float32")
    assert json.loads((tmp_path / "config.json").read_text())["alignment_heads"] == [[1, 0], [1, 1]]


@pytest.mark.parametrize("quantization", [name for name in get_args(Quantization) if name.startswith("int")])
def test_quantising_leaves_the_source_alone(tmp_path: Path, quantization: str) -> None:
    pytest.importorskip("ctranslate2")
    checkpoint, untouched = standard(), standard().weights
    save_ctranslate2(tmp_path, checkpoint, quantization)
    assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in untouched.items())
    with pytest.raises(CheckpointError, match=r"quantised weights .* can't be trained"):
        load_checkpoint(str(tmp_path))


def test_ctranslate2_computes_the_same(tmp_path: Path) -> None:
    """Encoder states and greedy tokens of CTranslate2 itself."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    checkpoint = standard()
    save_ctranslate2(tmp_path, checkpoint, "float32")
    theirs = ctranslate2.models.Whisper(str(tmp_path), device="cpu", compute_type="float32", intra_threads=1)
    waveform = np.random.default_rng(0).normal(0, 0.1, 480_000).astype(np.float32)
    ours = ready_model(checkpoint, torch.device("cpu"))
    features = window_features(waveform, 80, DENSE)
    with torch.inference_mode():
        states = encode(ours.whisper.encoder, [features])
    log_mel = ctranslate2.StorageView.from_array(features.log_mel[None].numpy())
    their_states = theirs.encode(log_mel)
    np.testing.assert_allclose(np.array(their_states), states.states.numpy(), atol=1e-4)
    prompt = ours.tokenizer.prompt_tokens("it")
    (hypothesis,) = Transcriber(ours, GREEDY).decode(states, [prompt], [12])
    (found,) = theirs.generate(
        their_states, [prompt], beam_size=1, max_length=32, suppress_tokens=[1, 2, 7]
    )  # fmt: skip
    assert len(hypothesis.tokens) == 12
    assert tuple(found.sequences_ids[0][:12]) == hypothesis.tokens


# ggml, by a reader of this test's own.


def read_ggml(path: Path) -> tuple[dict[str, int], np.ndarray, list[bytes], dict[str, np.ndarray]]:
    content = path.read_bytes()
    at = 0

    def take(code: str) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{code}", content, at)
        at += struct.calcsize(f"<{code}")
        return values

    def array(dtype: str, count: int) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(content, dtype, count, at)
        at += values.nbytes
        return values

    assert take("I") == (int.from_bytes(b"ggml", "big"),)
    names = "vocab audio_ctx audio_state audio_head audio_layer text_ctx text_state text_head text_layer mels f16"
    sizes = dict(zip(names.split(), take("11i"), strict=True))
    rows, columns = take("2i")
    filters = array("<f4", rows * columns).reshape(rows, columns)
    tokens = []
    for _ in range(*take("i")):
        (size,) = take("i")
        tokens.append(array("u1", size).tobytes())
    tensors = {}
    while at < len(content):
        rank, name_size, half = take("3i")
        shape = take(f"{rank}i")[::-1]
        name = array("u1", name_size).tobytes().decode()
        tensors[name] = array("<f2" if half else "<f4", int(np.prod(shape))).reshape(shape)
    return sizes, filters, tokens, tensors


def same_tensors(found: dict[str, np.ndarray], expected: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
            tensor = tensor[:, None]
        small = tensor.ndim == 1 or "positional" in name or name in ("encoder.conv1.bias", "encoder.conv2.bias")
        stored = tensor.to(torch.float32 if small else dtype).numpy()
        assert found[name].dtype == stored.dtype, name
        np.testing.assert_array_equal(found[name], stored, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ggml(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = standard(seed=3)
    advanced: list[int] = []
    save_ggml(tmp_path, checkpoint, dtype, advanced.append)
    sizes, filters, tokens, tensors = read_ggml(tmp_path / "ggml-model.bin")
    assert sizes == {
        "vocab": 51_865, "audio_ctx": 1500, "audio_state": 64, "audio_head": 2, "audio_layer": 2,
        "text_ctx": 448, "text_state": 64, "text_head": 2, "text_layer": 2, "mels": 80, "f16": dtype == torch.float16,
    }  # fmt: skip
    np.testing.assert_array_equal(filters, mel_filters(80).numpy())
    assert len(tokens) == 50_257  # whisper.cpp counts the special ones on from here
    alphabet = samples.byte_alphabet()
    assert sorted(tokens[:256]) == [bytes([byte]) for byte in range(256)]
    assert tokens[alphabet.index("Ġ")] == b" "
    assert tokens[256] == b"ci"
    same_tensors(tensors, openai_state(checkpoint.weights), dtype)
    assert sum(advanced) == len(tensors)
    assert json.loads((tmp_path / "generation_config.json").read_text())["language"] == "<|it|>"


def test_ggml_of_128_mel_bins(tmp_path: Path) -> None:
    save_ggml(tmp_path, large(), torch.float16)
    sizes, filters, tokens, tensors = read_ggml(tmp_path / "ggml-model.bin")
    assert (sizes["vocab"], sizes["mels"], len(tokens)) == (51_866, 128, 50_257)
    assert filters.shape == (128, 201)
    assert tensors["encoder.conv1.weight"].shape == (64, 128, 3)


def test_ggml_is_only_written(tmp_path: Path) -> None:
    save_ggml(tmp_path, standard(), torch.float16)
    for name in (tmp_path, tmp_path / "ggml-model.bin"):
        with pytest.raises(CheckpointError, match=r"ggml-model\.bin: ggml files can only be written"):
            load_checkpoint(str(name))
    weights = standard()
    weights.weights["model.decoder.layers.0.fc1.weight"][0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"layers\.0\.fc1\.weight does not fit into float16"):
        save_ggml(tmp_path, weights, torch.float16)


# Real weights.


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_real_weights_through_every_format(tmp_path: Path, name: str) -> None:
    pytest.importorskip(MODELS[name].parts[0][0])
    original = load_checkpoint(f"packaged:{name}")
    checkpoint = original
    language = "it" if original.generation["is_multilingual"] else None
    for number, to in enumerate(("huggingface", "openai", "ctranslate2", "openai", "huggingface", "ctranslate2")):
        folder = tmp_path / str(number)
        folder.mkdir()
        if to == "huggingface":
            save_huggingface(folder, checkpoint, checkpoint.weights, language=language, model_card=None)
        else:
            {"openai": to_openai, "ctranslate2": to_ctranslate2}[to](folder, checkpoint)
        checkpoint = load_checkpoint(str(folder))
        assert checkpoint.config == original.config
        assert checkpoint.tokenizer_json == original.tokenizer_json
        assert checkpoint.generation["alignment_heads"] == original.generation["alignment_heads"]
        assert checkpoint.generation["suppress_tokens"] == original.generation["suppress_tokens"]
        assert checkpoint.weights.keys() == original.weights.keys()
        for tensor_name, tensor in original.weights.items():
            assert torch.equal(checkpoint.weights[tensor_name].float(), tensor.float()), (to, tensor_name)
    for dtype in (torch.float32, torch.float16):
        save_ggml(tmp_path, checkpoint, dtype)
        sizes, _, tokens, tensors = read_ggml(tmp_path / "ggml-model.bin")
        assert sizes["vocab"] == original.config.vocab_size
        assert b" the" in tokens
        same_tensors(tensors, openai_state(original.weights, original.config), dtype)
