"""Python API for notebooks and scripts: the commands' own functions.

    import whispertune

    run = whispertune.train(
        model="openai/whisper-base", train="train.csv", valid="valid.csv", language="it", output="runs/first",
        schedule__peak_lr=1e-5,
    )
    print(run.summary())
    rows = run.metrics()
    model = whispertune.load("runs/first")
    print(model.transcribe("talk.mp3").text)
    print(model.evaluate("test.csv").summary()["wer"])
    model.export("ctranslate2", "runs/first-ct2")

Fields have the names of the commands' flags, with two underscores in place of a dot. A mistake raises
`whispertune.errors.UserError` with the line that the command would print.
"""

from __future__ import annotations

from whispertune.api.model import Model, load
from whispertune.api.training import Run, split_corpus, train

__all__ = ["Model", "Run", "load", "split_corpus", "train"]
