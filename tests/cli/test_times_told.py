"""A model that was trained on clips without timestamps: who makes subtitles with it later is told."""

from __future__ import annotations

import json

import pytest
from cli_samples import Command, Workspace

TRAINED = "trained_timestamps"


@pytest.mark.parametrize(
    ("trained", "formats", "told"),
    [
        (False, "srt", True),
        (False, "txt,vtt", True),
        (False, "txt,json", False),
        (True, "srt", False),
        (None, "srt", False),
    ],
)
def test_subtitles_of_a_model_that_was_trained_without_timestamps(
    copied_run: Workspace, command: Command, trained: bool | None, formats: str, told: bool
) -> None:
    path = copied_run.run / "best" / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8"))
    if generation.get(TRAINED) is not None:  # else the untouched model was kept
        assert generation.pop(TRAINED) is False
    changed = generation if trained is None else {**generation, TRAINED: trained}  # None: a run of before
    path.write_text(json.dumps(changed), encoding="utf-8")
    path.with_name("checksums.json").unlink()
    audio, output = copied_run.valid_rows[0]["audio"], copied_run.folder / "out"
    best = copied_run.run / "best"
    outcome = command(["transcribe", f"--model={best}", audio, f"--format={formats}", f"--output={output}"])
    assert outcome.status == 0, outcome.err
    shown = " ".join(outcome.err.split())
    assert ("trained on clips without timestamps" in shown) is told
    assert ("--windows.stitched_share 0.15" in shown) is told
