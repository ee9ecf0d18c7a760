"""Options of transformers, openai-whisper and other tools, and what they are called here."""

from __future__ import annotations

from collections.abc import Container

SAME = {
    "accelerator": "device",
    "adam_beta1": "optimizer.beta1",
    "adam_beta2": "optimizer.beta2",
    "batch_size_per_device": "batch_size",
    "beam": "search.beam_size beam_size",
    "beams": "search.beam_size beam_size",
    "checkpoint": "model",
    "compute_type": "precision",
    "dataloader_num_workers": "data.workers workers",
    "dataset": "train data",
    "dataset_name": "train data",
    "dev": "valid",
    "device_map": "device",
    "dtype": "precision",
    "eval_data": "valid data",
    "eval_dataset": "valid data",
    "eval_file": "valid data",
    "eval_steps": "validation.every_steps",
    "generation_num_beams": "search.beam_size beam_size",
    "grad_accum": "accumulation",
    "grad_clip": "optimizer.max_grad_norm",
    "gradient_accumulation": "accumulation",
    "gradient_accumulation_steps": "accumulation",
    "gradient_checkpointing": "recompute",
    "gradient_clip_val": "optimizer.max_grad_norm",
    "initial_prompt": "prompt",
    "input": "data train",
    "label_smoothing_factor": "loss.label_smoothing",
    "lang": "language",
    "learning_rate": "schedule.peak_lr",
    "lora_alpha": "lora.alpha",
    "lora_r": "lora.rank",
    "lora_rank": "lora.rank",
    "lr_scheduler": "schedule.name",
    "lr_scheduler_type": "schedule.name",
    "manifest": "train data",
    "max_epochs": "epochs",
    "max_words_per_line": "max_words",
    "max_train_steps": "max_steps",
    "mixed_precision": "precision",
    "model_id": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "model_path": "model",
    "model_size": "model",
    "num_beams": "search.beam_size beam_size",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "num_workers": "data.workers workers",
    "out": "output",
    "output_format": "format",
    "output_dir": "output",
    "output_folder": "output",
    "per_device_train_batch_size": "batch_size",
    "preprocessing_num_workers": "data.workers workers",
    "save_steps": "checkpoint.every_steps",
    "scheduler": "schedule.name",
    "test_file": "test data",
    "torch_dtype": "precision",
    "train_batch_size": "batch_size",
    "train_data": "train",
    "train_dataset": "train",
    "train_file": "train",
    "train_manifest": "train",
    "val": "valid",
    "val_data": "valid",
    "validation_file": "valid",
    "validation_set": "valid",
}
"""Another tool's name -> ours; of several, the first that the command has."""

ADVICE: tuple[tuple[str, str, str], ...] = (
    ("bf16", "precision", "write --precision bf16"),
    ("fp16 fp16_full_eval", "precision", "write --precision fp16"),
    ("fp32", "precision", "write --precision fp32"),
    ("tf32", "precision", "write --precision tf32"),
    ("cpu no_cuda use_cpu", "device", "write --device cpu"),
    ("cuda", "device", "write --device cuda"),
    (
        "optim optimizer_type",
        "optimizer.weight_decay",
        "the optimizer is AdamW (--optimizer.name adamw8bit keeps its moments in 8 bits); set its --optimizer.… fields",
    ),
    (
        "eval_batch_size per_device_eval_batch_size",
        "",
        "there is nothing to set: the batch size for decoding follows from the memory",
    ),
    ("do_eval", "valid", "there is nothing to set: every epoch is validated"),
    ("do_train", "train", "leave it out: `train` trains"),
    ("early_stopping_patience", "epochs", "leave it out: the best epoch is kept, and `epochs` sets how many there are"),
    (
        "eval_strategy evaluation_strategy",
        "validation.every_steps",
        "every epoch is validated; set validation.every_steps to do it more often",
    ),
    ("freeze_encoder freeze_feature_encoder", "freeze", "write --freeze encoder, which is the default"),
    ("freeze_decoder", "freeze", "the decoder is always trained; --freeze decoder:N freezes its lower layers"),
    ("load_best_model_at_end", "epochs", "leave it out: best/ is the best epoch"),
    ("metric_for_best_model", "epochs", "leave it out: the lowest validation WER (or CER) chooses best/"),
    ("predict_with_generate", "validation.every_steps", "leave it out: validation always decodes"),
    (
        "report_to logging_dir logging_steps wandb tensorboard",
        "epochs",
        "metrics.jsonl in the run folder has every figure, one row per update",
    ),
    (
        "tune",
        "epochs",
        "the section `tune` is for `whispertune tune`; leave it out, or train the best.yaml of a search",
    ),
    ("use_lora use_peft peft", "lora.rank", "write --lora.rank 32"),
    (
        "load_in_8bit load_in_4bit",
        "precision",
        "weights are not quantized in training; use `export --quantization int8` after it",
    ),
    ("overwrite_output_dir", "output", "a run folder is never overwritten; name another --output"),
    ("push_to_hub", "output", "upload best/ with `hf upload NAME RUN/best`"),
    ("resume resume_from_checkpoint", "output", "write `whispertune resume RUN`, or give the same command again"),
    ("save_total_limit", "output", "leave it out: the best model and the newest state are kept"),
    (
        "apply_spec_augment mask_time_prob",
        "augment.spec_augment.probability",
        "write --augment.spec_augment.probability 0.5",
    ),
    ("warmup_ratio", "schedule.warmup_steps", "schedule.warmup_steps takes updates, or auto"),
    (
        "vad_filter",
        "no_speech_threshold",
        "there is no voice activity detection; no_speech_threshold decides what is silence",
    ),
)
"""Options without an exact counterpart here: their names, a field that the command must have, and what to do."""
PHRASES = {name: (needed, advice) for names, needed, advice in ADVICE for name in names.split()}


def of_another_tool(name: str, known: Container[str]) -> str | None:
    """The field that replaces another tool's option, if `name` is one. known: the fields of the command."""
    own = next((field for field in SAME.get(name, "").split() if field in known), None)
    if own is not None:
        return f"here that is '{own}'"
    needed, advice = PHRASES.get(name) or PHRASES.get(name.split(".")[0], ("", ""))  # wandb.project
    return advice if advice and (not needed or needed in known) else None
