"""Load a model of any readable format by its name."""

from __future__ import annotations

from pathlib import Path

from whispertune.checkpoints import ctranslate2, ggml, hub, huggingface, openai, packaged, peft, unfinished
from whispertune.checkpoints.layout import Checkpoint, expected_shapes
from whispertune.errors import CheckpointError
from whispertune.system.home import expand_home

__all__ = ["Checkpoint", "expected_shapes", "load_checkpoint"]


def load_checkpoint(model: str, tokenizer: Path | None = None, base: str | None = None) -> Checkpoint:
    """The checkpoint that `model` names, with all tensors present, finite and of the right shape.

    `model` is a Hugging Face or CTranslate2 folder, an OpenAI `.pt`, a run folder (its `best/`), a folder with a LoRA
    adapter of peft (merged into its base model), `packaged:whisper-base`, `packaged:whisper-tiny.en`, or a Hub id
    (`openai/whisper-base`). A path takes precedence over a Hub id. `tokenizer` is a folder with the `tokenizer.json`
    for a `.pt`, which has none of its own. `base` is the model that an adapter is for, if not the one that it names.

    Raises CheckpointError if it can't be found or read, or is not a Whisper.
    """
    try:
        found = _load(model, tokenizer, base)
        if base is not None and found.adapted_from is None:
            raise CheckpointError(f"{model}: is a whole model, no adapter; leave --base out")
        return found
    except OSError as error:  # the name is too long, a folder is not accessible, a disk fails
        raise CheckpointError(f"{model}: can't be read ({error.strerror or error})") from error


def _load(model: str, tokenizer: Path | None, base: str | None, *, whole: bool = False) -> Checkpoint:
    """whole: no adapter will do."""
    path = expand_home(model)
    if path.suffix in openai.SUFFIXES and path.is_file():
        return openai.read_file(path, source=model, tokenizer=tokenizer)
    if model and (path / openai.FILE).is_file() and not (path / "config.json").exists():
        return openai.read_file(path / openai.FILE, source=model, tokenizer=tokenizer)
    if tokenizer is not None:
        raise CheckpointError(f"{model}: has its own tokenizer; --tokenizer is only for OpenAI's .pt files")
    if model.startswith(packaged.PREFIX):
        return packaged.read_packaged(model)
    if model and path.is_dir():
        return _read_folder(path, source=model, base=base, whole=whole)
    if path.is_file() and ggml.is_ggml(path):
        raise CheckpointError(f"{model}: {ggml.ONLY_WRITTEN}")
    if model and path.exists():
        raise CheckpointError(f"{model}: is a file; give the model's folder, or an OpenAI checkpoint (.pt)")
    if hub.looks_like_id(model):
        return _read_folder(hub.fetch(model), source=model, base=base, whole=whole)
    raise CheckpointError(
        f"{model!r}: no such folder, and neither a Hub id (openai/whisper-base) nor one of "
        f"{', '.join(packaged.PREFIX + name for name in packaged.MODELS)}"
    )


def _read_folder(folder: Path, *, source: str, base: str | None, whole: bool) -> Checkpoint:
    if (folder / "best").is_dir() and not (folder / "config.json").exists():  # a run folder
        folder = folder / "best"
    if peft.is_adapter(folder):
        if whole:  # peft itself knows no adapters of adapters
            raise CheckpointError(f"{source}: is an adapter itself")
        return _read_adapter(folder, source=source, base=base)
    if (folder / "model.bin").exists():
        return ctranslate2.read_folder(folder, source=source)
    if (folder / "config.json").exists():
        return huggingface.read_folder(folder, source=source)
    if (folder / ggml.FILE).exists():
        raise CheckpointError(f"{folder / ggml.FILE}: {ggml.ONLY_WRITTEN}")
    raise CheckpointError(
        unfinished.explained(folder)
        or (
            f"{folder}: holds no model: neither a config.json (Hugging Face), nor a model.bin (CTranslate2), "
            "nor a model.pt (OpenAI), nor a run's best/"
        )
    )


def _read_adapter(folder: Path, *, source: str, base: str | None) -> Checkpoint:
    """An adapter merged into its base model."""
    name = base or peft.base_name(folder)
    if name is None:
        raise CheckpointError(f"{folder / peft.CONFIG}: does not name the adapter's base model; name it with --base")
    try:
        found = _load(name, None, None, whole=True)
    except CheckpointError as error:
        if base is not None:
            raise
        raise CheckpointError(
            f"{source}: is a LoRA adapter, and the base model that its {peft.CONFIG} names cannot be used "
            f"({error.problem}); name the base model with --base"
        ) from None
    return peft.read_adapter(folder, found, source=source)
