"""`export --to hub:USER/NAME`, through huggingface_hub's client, against a stand-in for the Hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from cli_samples import Command
from hub_stand_in import TOKEN, Repository, StandIn, serving
from huggingface_hub import ModelCard
from standard_samples import standard

import whispertune
from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.export_mark import MARK
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.commands import export_hub
from whispertune.errors import RecipeError
from whispertune.run.model_card import _usage

# huggingface_hub's own, from its HTTP library
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
Refused = Callable[..., str]
CARD = f"""---
language: it
license: mit
model-index:
- name: mine
  results:
  - task:
      type: automatic-speech-recognition
    dataset:
      name: test (test.csv)
      type: custom
      split: test
    metrics:
    - type: wer
      value: 10.8
      name: WER, normalised, beam 8, dense
---

# mine

A MODEL of mine.

{_usage("it", "transcribe")}
## Licence

Licence of the model: mit
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best/ of a run on Italian."""
    folder = tmp_path_factory.mktemp("run") / "best"
    checkpoint = standard()
    save_huggingface(folder, checkpoint, checkpoint.weights, language="it", model_card=CARD)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    constants = huggingface_hub.constants
    with serving() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        address = stand_in.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield stand_in


def flags(model: Path | str, *more: str) -> list[str]:
    return ["export", f"--model={model}", "--to=hub:me/mine", *more]


def test_a_run_arrives_private_in_one_commit(
    model: Path, hub: StandIn, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    outcome = command(flags(model.parent))
    assert outcome.status == 0, outcome.err
    repository = hub.repositories["me/mine"]
    assert repository.private
    assert repository.commits == 1
    mark = json.loads(repository.files[MARK])
    assert {name: hashlib.sha256(repository.files[name]).hexdigest() for name in mark["files"]} == mark["files"]
    assert set(repository.files) == {*mark["files"], MARK, ".gitattributes"} >= {"README.md", "model.safetensors"}
    assert f"{hub.address}/me/mine" in outcome.out
    assert "private" in outcome.out
    for content in repository.files.values():
        assert str(model.parent).encode() not in content
    assert not list(tmp_path.glob("whispertune-*"))

    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.license == "mit"
    assert [one.metric_value for one in card.data.eval_results or []] == [10.8]
    assert 'model="me/mine"' in card.text
    assert "--model me/mine --to ctranslate2 --output mine-ct2" in card.text
    assert "whisper-cli --model mine-ggml/ggml-model.bin --language it" in card.text
    assert "A MODEL of mine" in card.text
    assert card.text.count("MODEL") == 1

    loaded = load_checkpoint("me/mine").weights  # downloaded
    assert all(torch.equal(loaded[name], tensor) for name, tensor in standard().weights.items())


def test_public_with_a_licence(model: Path, hub: StandIn, command: Command) -> None:
    outcome = command(flags(model, "--public", "--license=cc-by-4.0"))
    assert outcome.status == 0, outcome.err
    repository = hub.repositories["me/mine"]
    assert not repository.private
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert "Licence of the model: cc-by-4.0\n" in card.text
    assert [one.metric_value for one in card.data.eval_results or []] == [10.8]
    assert "licence" not in outcome.err


def test_a_model_without_a_card_gets_one(model: Path, hub: StandIn, command: Command, tmp_path: Path) -> None:
    openai = tmp_path / "out"
    assert command(["export", f"--model={model}", "--to=openai", f"--output={openai}"]).status == 0
    (openai / "README.md").unlink()
    outcome = command(flags(openai / "model.pt"))
    assert outcome.status == 0, outcome.err
    files = hub.repositories["me/mine"].files
    card = ModelCard(files["README.md"].decode())
    assert (card.data.pipeline_tag, card.data.library_name) == ("automatic-speech-recognition", "transformers")
    assert 'model="me/mine"' in card.text
    assert "MODEL" not in card.text
    assert "--license" in outcome.err  # which it lacks
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)


def test_a_dry_run_needs_no_hub(
    model: Path, hub: StandIn, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    outcome = command(flags(model, "--dry_run", "--license=apache-2.0"))
    assert outcome.status == 0, outcome.err
    assert not hub.requests
    assert "model.safetensors" in outcome.out
    assert "private" in outcome.out
    assert "license: apache-2.0" in outcome.out
    assert "nothing was uploaded" in outcome.out


def test_an_earlier_export_is_replaced_and_an_interrupted_one_goes_on(
    model: Path, hub: StandIn, command: Command
) -> None:
    small = "--max_shard_gb=0.001"
    shards = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in _shards(model, command))
    hub.refuse[f"PUT /lfs/{shards[0]}"] = 507
    outcome = command(flags(model, small))
    assert outcome.status == 1
    assert "uploading failed" in outcome.error
    assert "the same command tries again" in outcome.error
    assert hub.repositories["me/mine"].files == {".gitattributes": b""}  # all or nothing

    hub.refuse.clear()
    hub.requests.clear()
    assert command(flags(model, small)).status == 0
    assert [request for request in hub.requests if request.startswith("PUT")] == [f"PUT /lfs/{shards[0]}"]
    repository = hub.repositories["me/mine"]
    assert sum(name.startswith("model-") for name in repository.files) == len(shards)

    repository.files["sample.wav"] = b"theirs"
    assert command(flags(model)).status == 0
    assert [name for name in repository.files if "safetensors" in name] == ["model.safetensors"]
    assert repository.files["sample.wav"] == b"theirs"
    assert repository.commits == 2


def test_a_commit_of_somebody_else_in_between_is_not_overwritten(
    model: Path, hub: StandIn, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(flags(model)).status == 0
    repository = hub.repositories["me/mine"]
    checked = export_hub.check_repository

    def check(*given: Any) -> Any:
        found = checked(*given)
        repository.files["README.md"], repository.sha = b"theirs", "f" * 40
        return found

    monkeypatch.setattr(export_hub, "check_repository", check)
    outcome = command(flags(model))
    assert outcome.status == 1
    assert "uploading failed" in outcome.error
    assert (repository.files["README.md"], repository.commits) == (b"theirs", 1)
    monkeypatch.undo()


def _shards(model: Path, command: Command) -> list[Path]:
    output = model.parent / "sharded"
    assert command(["export", f"--model={model}", "--to=huggingface", f"--output={output}", "--max_shard_gb=0.001"])
    shards = list(output.glob("model-*.safetensors"))
    assert len(shards) > 1
    return shards


def test_one_line_for_each_failure(
    model: Path, hub: StandIn, refused: Refused, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        refused(flags(model), "--to hub:me/mine: there is no token", "hf auth login", "HF_TOKEN")
        patch.setenv("HF_TOKEN", "hf_expired")
        refused(flags(model), "the Hub does not accept the token")
    hub.role = "read"
    refused(flags(model), "the token may only read")
    hub.role = "fineGrained"
    hub.refuse = {"POST /api/repos/create": 403}
    refused(flags(model), "the token may not write to me")
    hub.refuse = {"POST /api/models/me/mine/commit": 403}
    refused(flags(model), "the token may not write to me")
    hub.refuse = {}
    refused(flags(model, "--license=nonsense"), "the Hub does not accept the card", '"license" must be one of')
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        refused(flags(model), "HF_HUB_OFFLINE is set")
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        outcome = command(flags(model))
        assert outcome.status == 1
        assert "uploading failed" in outcome.error
    assert hub.repositories["me/mine"].commits == 0


def test_what_others_own_is_kept(model: Path, hub: StandIn, refused: Refused) -> None:
    hub.repositories["me/mine"] = Repository(private=False)
    refused(flags(model), "exists and is public; add --public")
    hub.repositories["me/mine"] = Repository(private=True)
    refused(flags(model, "--public"), "exists and is private; leave out --public")
    theirs = {".gitattributes": b"", "README.md": b"", "pytorch_model.bin": b"theirs"}
    hub.repositories["me/mine"] = Repository(private=True, files=dict(theirs))
    refused(flags(model), "holds something other than an export (pytorch_model.bin)")
    assert hub.repositories["me/mine"].files == theirs


@pytest.mark.parametrize("name", ["mine", "me/mi/ne", "me/", "me/-x", "me/a b", "", "me/" + "x" * 97])
def test_bad_names(model: Path, refused: Refused, name: str) -> None:
    refused(["export", f"--model={model}", f"--to=hub:{name}"], f"to is hub:{name}; it takes hub:USER/NAME")


def test_fields_that_do_not_go_together(model: Path, refused: Refused, tmp_path: Path) -> None:
    refused(flags(model, f"--output={tmp_path / 'x'}"), "output is for the other formats")
    refused(flags(model, "--quantization=float16"), "quantization is float16; hub:me/mine takes float32")
    refused(flags(model, "--license=All rights"), "license is 'All rights'")
    for flag in ("--public", "--dry_run", "--license=mit"):
        refused(["export", f"--model={model}", "--to=ggml", f"--output={tmp_path / 'x'}", flag], "only for --to hub:")
    refused(["export", f"--model={model}", "--to=ggml"], "--output is missing")


def test_a_card_with_faulty_metadata(model: Path, hub: StandIn, refused: Refused, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "README.md").write_text("---\na: [\n---\n# mine\n")
    refused(flags(copy, "--license=mit", "--dry_run"), "README.md cannot be read")


def test_the_command_in_a_process_of_its_own(model: Path, hub: StandIn, tmp_path: Path) -> None:
    """Nothing is patched: addresses and token come from the environment."""
    environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    code = "import os, sys; os.environ |= eval(sys.argv[1]); os.environ.pop('HF_HUB_OFFLINE', None)\n"
    code += "from whispertune.cli import main; sys.exit(main(sys.argv[2:]))"
    line = [sys.executable, "-c", code, repr(environment), *flags(model)]
    outcome = subprocess.run(line, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "model.safetensors" in hub.repositories["me/mine"].files


def test_from_python(model: Path, hub: StandIn) -> None:
    mine = whispertune.load(model)
    assert mine.push_to_hub("me/mine", license="mit") == f"{hub.address}/me/mine"
    assert hub.repositories["me/mine"].private
    with pytest.raises(RecipeError, match="it takes hub:USER/NAME"):
        mine.push_to_hub("mine")
