"""Are float32 ggml files right, although whisper.cpp since 1.5 aborts on them? An older libwhisper.so computes them.

    pip download --no-deps pywhispercpp==1.1.3 && unzip pywhispercpp-1.1.3-*.whl -d old
    python benchmarks/whisper_cpp_float32.py --library old/libwhisper.so --model runs/demo --clips 91

That release knows no search without timestamps, and its transcripts are OpenAI's only when it is given OpenAI's
spectrogram, so only its encoder and decoder are used: log-mel is whispertune's, and the search is greedy here, with the
model's own suppressed tokens. Prints how many transcripts are whispertune's own (greedy, dense, float32).
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from pathlib import Path

import numpy as np
import torch

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.ggml import FILE, save_ggml
from whispertune.commands.export import ExportOptions, read_clips
from whispertune.frames import DENSE
from whispertune.states import window_features
from whispertune.text.tokenizer import Tokenizer
from whispertune.verification import our_transcripts


class WhisperCpp:
    """The part of whisper.h that a search needs; threads: of its computation."""

    def __init__(self, library: Path, model: Path, threads: int) -> None:
        self.c = ctypes.CDLL(str(library.resolve()))
        self.threads = ctypes.c_int(threads)
        self.c.whisper_init_from_file.restype = ctypes.c_void_p
        self.c.whisper_get_logits.restype = ctypes.POINTER(ctypes.c_float)
        self.context = ctypes.c_void_p(self.c.whisper_init_from_file(str(model).encode()))
        self.vocab_size = self.c.whisper_n_vocab(self.context)

    def encode(self, log_mel: np.ndarray) -> None:
        """log_mel: (mel bins, 3000)."""
        values = np.ascontiguousarray(log_mel, np.float32)
        pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        bins, frames = values.shape
        assert self.c.whisper_set_mel(self.context, pointer, frames, bins) == 0
        assert self.c.whisper_encode(self.context, 0, self.threads) == 0

    def decode(self, tokens: list[int], past: int) -> np.ndarray:
        """Logits (vocab_size,) behind `tokens`, which follow `past` others."""
        array = (ctypes.c_int * len(tokens))(*tokens)
        assert self.c.whisper_decode(self.context, array, len(tokens), past, self.threads) == 0
        # This release keeps the last token's alone.
        return np.array(np.ctypeslib.as_array(self.c.whisper_get_logits(self.context), (self.vocab_size,)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True, help="libwhisper.so older than whisper.cpp 1.5")
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--manifest", default="examples/italian-prompts/test.csv")
    parser.add_argument("--language", default="it")
    parser.add_argument("--clips", type=int, default=8)
    given = parser.parse_args()
    checkpoint = load_checkpoint(given.model)
    options = ExportOptions(
        model=given.model, to="ggml", output="", data=given.manifest, clips=given.clips, language=given.language
    )
    clips = read_clips(options, [], checkpoint)
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.config.vocab_size)
    bins = checkpoint.config.num_mel_bins
    never = checkpoint.generation["suppress_tokens"]
    not_first = checkpoint.generation["begin_suppress_tokens"]
    theirs: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        save_ggml(Path(folder), checkpoint, torch.float32)
        whisper = WhisperCpp(given.library, Path(folder) / FILE, torch.get_num_threads())
        for clip in clips:
            whisper.encode(window_features(clip.waveform, bins, DENSE).log_mel.numpy())
            tokens = list(tokenizer.prompt_tokens(clip.language, "transcribe"))
            start, past = len(tokens), 0
            while len(tokens) < 224:
                logits = whisper.decode(tokens[past:], past)
                past = len(tokens)
                logits[never] = -np.inf
                logits[tokenizer.timestamp_begin :] = -np.inf
                if past == start:
                    logits[not_first] = -np.inf
                if (token := int(logits.argmax())) == tokenizer.eot:
                    break
                tokens.append(token)
            theirs.append(tokenizer.decode(tokens[start:]).strip())
    ours = our_transcripts(checkpoint, clips, "transcribe")
    for clip, our, their in zip(clips, ours, theirs, strict=True):
        if our != their:
            print(f"{clip.name}\n  whispertune  {our!r}\n  whisper.cpp  {their!r}")
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"{given.model}: {same} of {len(clips)} transcripts are the same in whisper.cpp, float32")


if __name__ == "__main__":
    main()
