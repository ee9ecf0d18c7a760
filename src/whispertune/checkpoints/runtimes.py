"""Run exported models in the programs that they are exported for.

By default some programs use beam search, timestamps or a temperature fallback, or pad the spectrogram with zeros. To
compare models they are run alike: greedy, temperature 0, no fallback, no thresholds, no timestamps, the model's own
suppressed tokens, on waveforms padded with silence to Whisper's 30 s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from whispertune.errors import ExportError, RecipeError
from whispertune.features.log_mel import WINDOW_SAMPLES

Transcribe = Callable[[np.ndarray], str]
"""From a mono waveform (num_samples,) float32 at 16 kHz, at most 30 s, to its transcript."""

PACKAGES = {
    "huggingface": ("transformers", "transformers"),
    "ctranslate2": ("faster_whisper", "faster-whisper"),
    "ggml": ("pywhispercpp", "pywhispercpp"),
    "openai": ("whisper", "openai-whisper"),
}
"""For each format, the module that runs it and the package to install."""
BY_DEFAULT = {
    "huggingface": "pipeline(): greedy, clip padded with silence",
    "ctranslate2": "transcribe(): 5 beams, timestamps, temperature fallback, spectrogram padded with zeros",
    "ggml": "transcribe(): greedy, timestamps, temperature fallback, clip padded with silence",
    "openai": "transcribe(): greedy, timestamps, temperature fallback, spectrogram padded with zeros",
}
"""For each format, what its program does by default with a short clip, given language and task."""


@dataclass(frozen=True, slots=True)
class Task:
    """Settings for every program. `language` is a code, None for an English-only model."""

    language: str | None
    task: str
    suppress: Sequence[int]
    begin_suppress: Sequence[int]


def require_runtime(kind: str) -> None:
    """Raise RecipeError, with the package to install, if the program for this format is missing."""
    module, package = PACKAGES[kind]
    if find_spec(module) is None:
        raise RecipeError(f"--verify runs the export in {package}, which is not installed: pip install {package}")


def open_runtime(kind: str, folder: Path, task: Task, *, by_default: bool = False) -> Transcribe:
    """Load the model in `folder` with the program for this format; returns its transcribe function.

    by_default: run with its own defaults, on the clip as it is; otherwise all programs compute the same.

    Raises RecipeError if it is not installed, and ExportError, also when transcribing, if it fails.
    """
    require_runtime(kind)
    openers = {
        "huggingface": _transformers,
        "ctranslate2": _faster_whisper,
        "ggml": _whisper_cpp,
        "openai": _openai_whisper,
    }
    with _its_errors(kind):
        run = openers[kind](folder, task, by_default)

    def transcribe(waveform: np.ndarray) -> str:
        with _its_errors(kind):
            return run(waveform)

    return transcribe


@contextmanager
def _its_errors(kind: str) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise ExportError(
            f"{PACKAGES[kind][1]} crashed with the exported model; whisper.cpp since 1.5 does so with float32 weights: "
            "use --quantization float16"
        ) from error
    except Exception as error:  # each program raises its own errors
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
        raise ExportError(f"{PACKAGES[kind][1]} cannot use the exported model ({reason})") from error


def padded(waveform: np.ndarray) -> np.ndarray:
    """The waveform padded with silence to 30 s."""
    return np.pad(waveform, (0, WINDOW_SAMPLES - len(waveform))).astype(np.float32)


def _transformers(folder: Path, task: Task, by_default: bool) -> Transcribe:
    import torch

    transformers = import_module("transformers")
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    options = {} if task.language is None else {"language": task.language, "task": task.task}
    if by_default:
        parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
        recognize = transformers.pipeline("automatic-speech-recognition", model=model, device="cpu", **parts)
        return lambda waveform: str(recognize(waveform.copy(), generate_kwargs=dict(options))["text"]).strip()

    @torch.inference_mode()
    def transcribe(waveform: np.ndarray) -> str:
        features = processor(waveform, sampling_rate=16_000, return_tensors="pt").input_features
        tokens = model.generate(features, num_beams=1, do_sample=False, return_timestamps=False, **options)
        return str(processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip()

    return transcribe


def _faster_whisper(folder: Path, task: Task, by_default: bool) -> Transcribe:
    model = import_module("faster_whisper").WhisperModel(
        str(folder), device="cpu", cpu_threads=_threads(), local_files_only=True
    )

    def transcribe(waveform: np.ndarray) -> str:
        if by_default:
            import_module("ctranslate2").set_random_seed(0)  # of the temperature fallback
            segments, _ = model.transcribe(waveform, language=task.language or "en", task=task.task)
            return "".join(segment.text for segment in segments).strip()
        segments, _ = model.transcribe(
            padded(waveform), language=task.language or "en", task=task.task,
            beam_size=1, best_of=1, temperature=0.0, without_timestamps=True, condition_on_previous_text=False,
            compression_ratio_threshold=None, log_prob_threshold=None, no_speech_threshold=None,
            suppress_tokens=list(task.suppress), suppress_blank=bool(task.begin_suppress),
        )  # fmt: skip
        return "".join(segment.text for segment in segments).strip()

    return transcribe


def _openai_whisper(folder: Path, task: Task, by_default: bool) -> Transcribe:
    import torch

    whisper = import_module("whisper")
    model = whisper.load_model(str(folder / "model.pt"), device="cpu")
    options = whisper.DecodingOptions(
        language=task.language or "en", task=task.task, temperature=0.0, without_timestamps=True, fp16=False,
        sample_len=model.dims.n_text_ctx, suppress_tokens=list(task.suppress), suppress_blank=bool(task.begin_suppress),
    )  # fmt: skip

    def transcribe(waveform: np.ndarray) -> str:
        if by_default:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # of the temperature fallback
                found = model.transcribe(waveform, language=task.language or "en", task=task.task, fp16=False)
            return str(found["text"]).strip()
        log_mel = whisper.log_mel_spectrogram(padded(waveform), n_mels=model.dims.n_mels)
        return str(whisper.decode(model, log_mel, options).text).strip()

    return transcribe


def _whisper_cpp(folder: Path, task: Task, by_default: bool) -> Transcribe:
    # In a separate process, as whisper.cpp aborts its process if something is wrong with a model.
    pool = ProcessPoolExecutor(1, get_context("spawn"), _open_whisper_cpp, (folder, task, _threads(), by_default))
    return lambda waveform: pool.submit(_run_whisper_cpp, waveform if by_default else padded(waveform)).result()


def _open_whisper_cpp(folder: Path, task: Task, threads: int, by_default: bool) -> None:
    global _cpp
    os.environ["GGML_NO_BACKTRACE"] = "1"
    alike = {} if by_default else {
        "no_timestamps": True, "single_segment": True, "no_context": True, "greedy": {"best_of": 1},
        "temperature": 0.0, "temperature_inc": 0.0,
        "entropy_thold": 0.0, "logprob_thold": -1e9, "no_speech_thold": 1e9,
        "suppress_blank": bool(task.begin_suppress), "suppress_nst": bool(task.suppress),
    }  # fmt: skip
    _cpp = import_module("pywhispercpp.model").Model(
        str(folder / "ggml-model.bin"), redirect_whispercpp_logs_to=None, n_threads=threads,
        context_params={"use_gpu": False, "flash_attn": False},
        language=task.language or "en", translate=task.task == "translate",
        print_progress=False, print_timestamps=False, **alike,
    )  # fmt: skip


def _run_whisper_cpp(waveform: np.ndarray) -> str:
    return "".join(segment.text for segment in _cpp.transcribe(waveform)).strip()


_cpp: Any = None


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
