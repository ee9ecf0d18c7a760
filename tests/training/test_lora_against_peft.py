"""A run with LoRA against peft on transformers' Whisper: the same data, order, initial values and optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_samples import PAD_ID, Samples, step_rows, weights_of

from whispertune.decoding.loading import load_model
from whispertune.features.log_mel import WINDOW_SAMPLES
from whispertune.model.options import LoraOptions
from whispertune.text.targets import IGNORE_INDEX, Target, collate_targets
from whispertune.training.adapted_copy import build_adapter
from whispertune.training.trainer import Trainer

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

RANK, ALPHA, UPDATES, PEAK, WARMUP = 4, 12, 20, 5e-3, 4


@dataclass
class MicroBatch:
    """What the run trained on: waveforms, targets, and the number of tokens of the whole update."""

    waveforms: list[np.ndarray[Any, Any]]
    targets: Sequence[Target]
    num_tokens: int


@dataclass
class Run:
    folder: Path
    samples: Samples
    batches: list[MicroBatch]


@pytest.fixture(scope="module", params=["decoder", "both"])
def run(request: pytest.FixtureRequest, samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Run:
    batches: list[MicroBatch] = []
    original = Trainer.backward

    def recorded(self: Trainer, batch: Sequence[int], targets: Sequence[Target], num_tokens: int) -> torch.Tensor:
        waveforms = [np.asarray(self.data.split.waveform(index)[0]) for index in batch]
        batches.append(MicroBatch(waveforms, targets, num_tokens))
        return original(self, batch, targets, num_tokens)

    folder = tmp_path_factory.mktemp("against") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "backward", recorded)
        status = samples.train_run(
            folder, lora__rank=RANK, lora__alpha=ALPHA, lora__where=request.param, frames__selection="dense",
            epochs=9, max_steps=UPDATES, schedule__peak_lr=PEAK, schedule__warmup_steps=WARMUP,
        )  # fmt: skip
    assert status == 0
    return Run(folder, samples, batches)


def test_losses_of_twenty_updates(run: Run) -> None:
    model = transformers.WhisperForConditionalGeneration.from_pretrained(run.samples.model)
    where: Any = run.folder.name
    # The layers as one would name them by hand, not by what we write.
    half = "decoder" if where == "decoder" else "(en|de)coder"
    layers = rf"model\.{half}\.layers\.\d+\.((self|encoder)_attn\.(q_proj|k_proj|v_proj|out_proj)|fc1|fc2)"
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers)).train()
    ours = build_adapter(
        load_model(str(run.samples.model), torch.device("cpu")).whisper, LoraOptions(rank=RANK, where=where), seed=0
    )
    learn = {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    assert len(learn) == 2 * len(ours.factors)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            learn[f"base_model.model.{name}.default.weight"].copy_(parameter)
    optimizer = torch.optim.AdamW(learn.values(), lr=0, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    rows, remaining = step_rows(run.folder), iter(run.batches)
    assert len(rows) == UPDATES
    for number, row in enumerate(rows, 1):
        loss, done = 0.0, 0
        while done < row["tokens"]:
            batch = next(remaining)
            padded = [np.pad(waveform, (0, WINDOW_SAMPLES - len(waveform))) for waveform in batch.waveforms]
            log_mel = extractor(padded, sampling_rate=16000, return_tensors="pt").input_features
            input_ids, labels = collate_targets(batch.targets, PAD_ID)
            logits = tuned(input_features=log_mel, decoder_input_ids=input_ids).logits
            nll = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
            )
            (nll / batch.num_tokens).backward()
            loss += float(nll) / batch.num_tokens
            done += sum(target.num_target_tokens for target in batch.targets)
        torch.nn.utils.clip_grad_norm_(learn.values(), 2.0)
        optimizer.param_groups[0]["lr"] = PEAK * WARMUP**0.5 * min(number**-0.5, number * WARMUP**-1.5)
        optimizer.step()
        optimizer.zero_grad()
        assert row["loss"] == pytest.approx(loss, abs=1e-4), number
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5  # it has moved far


def test_its_folder_loads_in_peft_and_merges_to_best(run: Run) -> None:
    untouched = transformers.WhisperForConditionalGeneration.from_pretrained(run.samples.model)
    tuned = peft.PeftModel.from_pretrained(untouched, str(run.folder / "adapter")).eval()
    best = load_model(str(run.folder), torch.device("cpu")).whisper
    generator = torch.Generator().manual_seed(0)
    log_mel = torch.randn(2, 80, 3000, generator=generator)
    ids = torch.randint(0, 250, (2, 7), generator=generator)
    frames = torch.arange(1500).expand(2, 1500)
    with torch.no_grad():
        theirs = tuned(input_features=log_mel, decoder_input_ids=ids).logits
        ours = best.decoder.logits(best.decoder(ids, best.encoder(log_mel, frames, frames, None), None))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    merged = dict(tuned.merge_and_unload().named_parameters())
    weights, before = weights_of(run.folder / "best"), weights_of(run.samples.model)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, merged[name].detach(), rtol=0, atol=1e-6)
    assert max(float((weight - before[name]).abs().max()) for name, weight in weights.items()) > 0.01
    # Read by us, it is best/ to the bit.
    adapter = load_model(str(run.folder / "adapter"), torch.device("cpu"))
    assert all(torch.equal(weight, weights[name]) for name, weight in adapter.whisper.state_dict().items())
