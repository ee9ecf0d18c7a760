"""transformers' Seq2SeqTrainer on a model folder, measured; started by seq2seq_trainer.py.

Its best settings: frozen encoder (`freeze_encoder()`: no graph is built there), autocast, SDPA, fused AdamW, no
checkpoints written, features computed once into files (its users' `dataset.map`), no loader workers (a batch loads
in milliseconds, and each worker would take one of two cores' time), labels with Whisper's own leading space, and
validation as a whole under autocast, which by itself it would leave to float32 in the encoder.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import soxr
import torch
import transformers
from common import report_result
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, WhisperForConditionalGeneration, WhisperProcessor

from whispertune.evaluation.error_rates import score_corpus

warnings.filterwarnings("ignore")
transformers.utils.logging.set_verbosity_error()


def read_waveform(path: Path) -> np.ndarray:
    """(num_samples,) float32, mono, 16 kHz."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    return mono if rate == 16_000 else soxr.resample(mono, rate, 16_000, quality="HQ")


class Clips(torch.utils.data.Dataset):
    """Features in one file a clip, so that they do not count as this process's memory; labels as token ids."""

    def __init__(self, manifest: Path, processor: Any, folder: Path) -> None:
        with manifest.open(encoding="utf-8", newline="") as file:
            self.rows = list(csv.DictReader(file))
        self.files = [folder / f"{manifest.stem}-{i}.npy" for i in range(len(self.rows))]
        for row, saved in zip(self.rows, self.files, strict=True):
            waveform = read_waveform(Path(row["audio"]))
            features = processor.feature_extractor(waveform, sampling_rate=16_000, return_tensors="np")
            np.save(saved, features.input_features[0])
        self.labels = [processor.tokenizer(" " + row["text"].strip()).input_ids for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_features": np.load(self.files[index]), "labels": self.labels[index]}


def collator(start_token: int) -> Any:
    """Batches as in their fine-tuning guide: labels padded with -100, without the start token they begin with."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        labels = [row["labels"][1:] if row["labels"][0] == start_token else row["labels"] for row in rows]
        padded = torch.full((len(rows), max(map(len, labels))), -100)
        for i, ids in enumerate(labels):
            padded[i, : len(ids)] = torch.tensor(ids)
        features = torch.from_numpy(np.stack([row["input_features"] for row in rows]))
        return {"input_features": features, "labels": padded}

    return collate


class Clock(transformers.TrainerCallback):
    """Seconds of the steps, and a validation behind each epoch; stops after `measured_epochs`."""

    def __init__(self, validate: Any, measured_epochs: int) -> None:
        self.validate, self.measured_epochs = validate, measured_epochs
        self.step_ends: list[float] = []
        self.epochs: list[dict[str, Any]] = []
        self.started = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.step_ends.append(time.perf_counter())

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        row = {"training": time.perf_counter() - self.started}
        self.epochs.append(row)
        if self.validate is not None:
            row |= self.validate()
        if len(self.epochs) >= self.measured_epochs:
            control.should_training_stop = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--train", type=Path, required=True, help="CSV with absolute audio paths")
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--language", default="it")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4, help="that the learning rate is laid out for")
    parser.add_argument("--measured-epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="only so many updates, and no validation behind them")
    parser.add_argument("--peak-lr", type=float, default=3e-5)
    parser.add_argument("--warmup-steps", type=int, default=20)
    parser.add_argument("--eval-batch-sizes", type=int, nargs="+", default=[8, 16], help="the quickest is taken")
    parser.add_argument("--eval-clips", type=int, help="validate so many clips only")
    parser.add_argument("--no-validation", action="store_true")
    parser.add_argument("--max-length", type=int, default=225, help="tokens of a hypothesis at most")
    options = parser.parse_args()

    gpu = torch.cuda.is_available()
    half = options.precision == "bf16"
    device = "cuda" if gpu else "cpu"
    model = WhisperForConditionalGeneration.from_pretrained(options.model, attn_implementation="sdpa")
    model.freeze_encoder()
    model.config.use_cache = False
    processor = WhisperProcessor.from_pretrained(options.model)
    multilingual = bool(model.generation_config.to_dict()["is_multilingual"])
    if multilingual:
        processor.tokenizer.set_prefix_tokens(language=options.language, task="transcribe")
        model.generation_config.update(language=options.language, task="transcribe")
    start_seconds = time.time() - psutil.Process().create_time()  # imports included, as ours are
    loaded = time.perf_counter()
    folder = tempfile.TemporaryDirectory()
    train, valid = (Clips(path, processor, Path(folder.name)) for path in (options.train, options.valid))
    prepared = time.perf_counter()

    def autocast() -> Any:
        return torch.autocast(device, torch.bfloat16) if half else contextlib.nullcontext()

    def arguments(eval_batch_size: int) -> Seq2SeqTrainingArguments:
        return Seq2SeqTrainingArguments(
            output_dir=folder.name, per_device_train_batch_size=options.batch_size, gradient_accumulation_steps=1,
            per_device_eval_batch_size=eval_batch_size, num_train_epochs=options.epochs,
            max_steps=options.steps or -1, learning_rate=options.peak_lr, lr_scheduler_type="linear",
            warmup_steps=options.warmup_steps, weight_decay=0.01, max_grad_norm=2.0, optim="adamw_torch_fused",
            bf16=half, use_cpu=not gpu, predict_with_generate=True, generation_max_length=options.max_length,
            eval_strategy="no", save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            dataloader_num_workers=0, remove_unused_columns=False, label_names=["labels"], seed=0,
        )  # fmt: skip

    def trainer_for(eval_batch_size: int) -> Seq2SeqTrainer:
        start = model.config.decoder_start_token_id
        return Seq2SeqTrainer(
            model=model, args=arguments(eval_batch_size), train_dataset=train, data_collator=collator(start)
        )

    def validate(trainer: Seq2SeqTrainer, clips: list[int]) -> dict[str, Any]:
        started = time.perf_counter()
        with autocast():
            found = trainer.predict(torch.utils.data.Subset(valid, clips), max_length=options.max_length)
        seconds = time.perf_counter() - started
        tokens = np.where(found.predictions == -100, processor.tokenizer.pad_token_id, found.predictions)
        texts = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
        rows = [valid.rows[i] for i in clips]
        score = score_corpus(
            [str(i) for i in clips], [row["text"] for row in rows], texts, [options.language] * len(clips)
        )
        return {"validation": seconds, "clips": len(clips), "wer": score.wer, "cer": score.cer}

    # Their encoder alone, as in every training step.
    model.to(device).eval()  # type: ignore[arg-type]
    batches = [list(range(at, min(at + 8, len(train)))) for at in range(0, min(len(train), 24), 8)]
    encoding = []
    for batch in [batches[0], *batches]:  # the first is a warm-up
        features = torch.from_numpy(np.stack([train[i]["input_features"] for i in batch])).to(device)
        started = time.perf_counter()
        with torch.no_grad(), autocast():
            model.model.encoder(features)
        if gpu:
            torch.cuda.synchronize()
        encoding.append((time.perf_counter() - started) / len(batch))

    every = list(range(len(valid)))
    chosen = every if options.eval_clips is None else every[: options.eval_clips]
    sizes = options.eval_batch_sizes
    tried: dict[int, float] = {}
    if not options.no_validation and len(sizes) > 1:
        sample = every[:: max(1, len(every) // max(sizes))][: max(sizes)]
        tried = {size: validate(trainer_for(size), sample)["validation"] / len(sample) for size in sizes}
    trainer = trainer_for(min(tried, key=lambda size: tried[size]) if tried else sizes[0])
    clock = Clock(
        None if options.steps or options.no_validation else lambda: validate(trainer, chosen), options.measured_epochs
    )
    trainer.add_callback(clock)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    per_epoch = -(-len(train) // options.batch_size)
    ends = clock.step_ends
    later = [end - start for start, end in itertools.pairwise(ends)]
    epochs = clock.epochs
    if options.steps:  # too few for an epoch: scaled by what a step took, the first left out
        epochs = [{"training": per_epoch * float(np.mean(later or [float("nan")]))}]
        if not options.no_validation:
            epochs[0] |= validate(trainer, chosen)
    report_result(
        {
            "load": start_seconds,
            "features": prepared - loaded,
            "encode_per_clip": float(np.mean(encoding[1:])),
            "eval_batch_sizes": tried,
            "step": float(np.median(later)) if later else None,
            "epochs": epochs,
            "measured_steps": len(ends),
            "steps_per_epoch": per_epoch,
            "gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if gpu else None,
        }
    )


if __name__ == "__main__":
    main()
