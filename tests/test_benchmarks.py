"""The benchmarks: their FLOP formulas against PyTorch's own counter, their tables' statistics."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from whispertune.model import attention, loss
from whispertune.model import whisper as model
from whispertune.model.config import WhisperConfig
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Whisper

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "hf_trainer")  # that one loads transformers
CONFIG = WhisperConfig(
    vocab_size=96, num_mel_bins=20, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64,
    decoder_layers=3, decoder_attention_heads=2, decoder_ffn_dim=128,
)  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_imports(script, name):
    assert script(name).__doc__


def test_help_comes_from_the_docstring():
    command = [sys.executable, str(FOLDER / "seq2seq_trainer.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--their-epochs" in shown
    assert "python benchmarks/seq2seq_trainer.py" in shown


def counted(work) -> int:
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the CPU's fused kernel is not known to the counter
        work()
    return counter.get_total_flops()


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> Whisper:
    """Without the filler that batches end with, which the formulas do not count."""
    monkeypatch.setattr(attention, "FRAMES_MULTIPLE", 1)
    monkeypatch.setattr(model, "TOKENS_MULTIPLE", 1)
    monkeypatch.setattr(loss, "POSITIONS_MULTIPLE", 1)
    torch.manual_seed(0)
    return Whisper(CONFIG)


def encoder_inputs(frames: int, mel_frames: int) -> tuple[torch.Tensor, ...]:
    index = torch.arange(frames)[None]
    return torch.randn(1, CONFIG.num_mel_bins, mel_frames), index, index, torch.zeros(1, frames)


@pytest.mark.parametrize("trained", [False, True])
def test_encoder_formula_is_what_pytorch_counts(script, whisper, trained):
    flops = script("flops")
    inputs = encoder_inputs(30, 70)
    if trained:
        assert counted(lambda: whisper.encoder(*inputs).sum().backward()) == flops.encoder_training(CONFIG, 30, 70)
    else:
        with torch.no_grad():
            assert counted(lambda: whisper.encoder(*inputs)) == flops.encoder_forward(CONFIG, 30, 70)


@pytest.mark.parametrize("states_need_gradient", [False, True])
def test_decoder_formula_is_what_pytorch_counts(script, whisper, states_need_gradient):
    flops = script("flops")
    frames, tokens, scored = 30, 11, 7
    states = torch.randn(1, frames, CONFIG.d_model, requires_grad=states_need_gradient)
    labels = torch.full((1, tokens), -100)
    labels[:, -scored:] = 5

    def work() -> None:
        hidden = whisper.decoder(torch.ones(1, tokens, dtype=torch.long), states, None)
        summed_nll(whisper.decoder, hidden, labels).backward()

    formula = flops.decoder_training(CONFIG, frames, tokens, scored, states_need_gradient=states_need_gradient)
    # The plain kernel computes the masked upper triangle of self-attention too; the formula counts the lower alone.
    upper = 3 * CONFIG.decoder_layers * 2 * 2 * CONFIG.d_model * (tokens * (tokens - 1) // 2)
    assert counted(work) == formula + upper


def test_weight_products_add_up_to_the_formulas(script):
    flops = script("flops")
    frames, tokens, scored = 40, 9, 6
    both, weights_only = flops.decoder_products(CONFIG, frames, tokens, scored)
    everything = [*both, *weights_only, *flops.backward_products(both)]
    everything += flops.backward_products(weights_only, input_gradient=False)
    attention = 3 * CONFIG.decoder_layers * 4 * CONFIG.d_model * (tokens * frames + tokens * (tokens + 1) // 2)
    assert sum(p.flops for p in everything) + attention == flops.decoder_training(CONFIG, frames, tokens, scored)


def results_file(folder: Path, gain: float) -> Path:
    """Two seeds whose thinned arm errs `gain` of 100 words more in every epoch; decoding thinned adds nothing."""
    rows = [{"seed": 0, "arm": "untouched", "epoch": 0, "decoded": "dense", "wer": 0.2, "loss": 1.0}]
    for seed in (0, 1):
        for arm in ("thinned", "dense"):
            errors = [10 + (gain if arm == "thinned" else 0) + seed, 5]
            row = {"seed": seed, "arm": arm, "wer": sum(errors) / 200, "loss": 1.0, "errors": errors}
            rows += [row | {"epoch": e, "decoded": "dense", "training_seconds": 1.0} for e in (1, 2)]
            rows.append(row | {"epoch": 2, "decoded": "thinned"})
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(row | {"words": [100, 100]}) + "\n" for row in rows))
    return path


def test_paired_differences(script, tmp_path):
    module = script("thinned_training")
    results = module.Results(results_file(tmp_path, 4))
    assert results.done(0, "dense", 2)
    assert not results.done(2, "dense", 2)
    options = type("Options", (), {"seeds": [0, 1], "epochs": 2})
    text = "\n".join(module.tables(results, options))
    assert "| mean of epochs 2 to 2 | 7.8 % | 9.8 % | +2.00 | +2.00 to +2.00 |" in text
    assert "| all models | 8.8 % | 8.8 % | +0.00 | +0.00 to +0.00 |" in text


def test_interval_over_seeds_is_students(script):
    low, high = script("thinned_training").interval_over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low + high) / 2 == pytest.approx(3.0)
    assert (high - low) / 2 == pytest.approx(2.776 * np.std([1, 2, 3, 4, 5], ddof=1) / 5**0.5, rel=1e-3)


def stitched_result(wer: float, *, valid: float, error: float | None, words: int, errors: list[int]) -> dict:
    sounds = {"hum": {"words": words}, "clicks": {"words": 0}}
    return {
        "wer": wer, "cer": wer / 2, "long_form": {"wer": wer}, "repetition_rate": 0.0, "capped_rate": 0.0,
        "timestamps": {
            "wer": wer, "valid": valid, "boundary_error_mean": error, "boundary_error_median": error,
            "boundaries_found": valid,
        },
        "hallucination": {"insertions_per_hour": 30 * words, "sounds": sounds},
        "errors": errors, "words": [100, 100], "training_seconds": 1.0,
    }  # fmt: skip


def test_stitched_table_and_bars(script):
    module = script("stitched")
    untouched = stitched_result(0.2, valid=0.9, error=0.3, words=4, errors=[20, 20])
    plain = [stitched_result(0.1, valid=0.5, error=0.9, words=6, errors=[10, 10])] * 2
    stitched = [stitched_result(w, valid=0.95, error=0.2, words=5, errors=[e, 10]) for w, e in ((0.1, 10), (0.11, 12))]
    text = "\n".join(module.tables(untouched, plain, stitched))
    assert "| short-clip WER | 20.0 % | 10.0 % (10.0 % to 10.0 %) | 10.5 % (10.0 % to 11.0 %) |" in text
    assert "| hum | 4.0 | 6.0 | 5.0 |" in text
    assert "| valid timestamps: no worse than untouched | 90.0 % → 95.0 % | yes |" in text
    assert "| boundary error, mean: no worse than untouched | 0.300 s → 0.200 s | yes |" in text
    assert "+0.50 points (over seeds +0.00 to +1.00, over clips" in text
    assert "| words an hour on silence and noise: no worse than untouched | 120 → 150 | NO |" in text
    nothing = [stitched_result(0.1, valid=1.0, error=None, words=0, errors=[10, 10])]
    assert "| boundary error, mean: no worse than untouched | – | unknown |" in "\n".join(
        module.tables(untouched, plain[:1], nothing)
    )


def test_stitched_results_are_kept(script, tmp_path, monkeypatch):
    """Timestamps and long form of some clips, error rates of all, each made once."""
    module = script("stitched")
    done = []

    def evaluated(model, data, folder, frames, *more):
        done.append((data.name, bool(more)))
        wer = 0.25 if data.name == "all.csv" else 0.5
        return {"wer": wer, "cer": wer, "long_form": {"wer": wer}, "errors": [1], "words": [4]}

    monkeypatch.setattr(module, "run", lambda *arguments: done.append(arguments[0]))
    monkeypatch.setattr(module, "evaluated", evaluated)
    options = type("Options", (), {"model": "tiny", "frames": "dense"})
    for _ in range(2):
        found = module.result_of("plain", 1, tmp_path, options, ["--epochs=1"])
    assert done == ["train", ("clips.csv", True), ("all.csv", False)]
    assert (found["wer"], found["long_form"]["wer"]) == (0.25, 0.5)
    assert module.result_of("untouched", 0, tmp_path, options, [])["training_seconds"] < 1
    assert done.count("train") == 1
    module.require_same_settings(tmp_path, {"a": 1})
    module.require_same_settings(tmp_path, {"a": 1})
    with pytest.raises(SystemExit, match="other settings"):
        module.require_same_settings(tmp_path, {"a": 2})


def test_clean_corpora_get_no_errors_from_a_folder_named_relatively(
    script: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(FOLDER.parent)
    data = "it=examples/italian-prompts"
    flags = ["--data", data, "--output", str(tmp_path / "out"), "--only", "clean", "--clean-count", "3"]
    monkeypatch.setattr(sys, "argv", ["check_faults.py", *flags])
    script("check_faults").main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("| the same | 0  |")]
    assert len(rows) == 5
    assert all("| 0  |" in row for row in rows)


def test_the_script_for_a_gpu_runs_without_one(tmp_path: Path) -> None:
    """Every part of it, on a model of no size; nothing is written but the table that was asked for."""
    command = [sys.executable, str(FOLDER / "gpu.py"), "--tiny", f"--table={tmp_path / 'gpu.md'}"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, timeout=600)
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.md"]
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    for what in (
        "weights as a bias", "weights as features", "encode 2 x 6 s", "a token, dense", "a token, thinned",
        "frozen, states stored", "frozen, states fresh", "LoRA", "full", "transformers, frozen", "transformers, full",
        "ours is quicker",
    ):  # fmt: skip
        assert what in table
    assert "out of memory" not in table
    assert "no time left" not in table


def test_the_script_for_a_gpu_keeps_its_budget(script: Callable[[str], ModuleType]) -> None:
    bench = script("gpu").Bench(torch.device("cpu"), torch.float32, budget=-1.0, repeats=1)
    bench.case("small", "encoding", lambda: pytest.fail("no time is left"))
    bench.budget = 100.0
    bench.case("small", "training", lambda: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    assert [row[2] for row in bench.rows] == ["no time left", "out of memory"]


def test_weights_as_features_are_exact(script: Callable[[str], ModuleType]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 2, n, 64, generator=generator) for n in (5, 9))
    weights = torch.rand(2, 9, generator=generator) * 6
    for dtype, most in ((torch.float32, 1e-6), (torch.bfloat16, 0.03), (torch.float16, 3e-3)):
        exact = torch.nn.functional.scaled_dot_product_attention(
            *(x.to(dtype).double() for x in (q, k, k)), attn_mask=weights.double()[:, None, None]
        )
        found = script("gpu").folded(*(x.to(dtype) for x in (q, k, k)), weights)
        assert float((found.double() - exact).abs().max()) < most


def test_accuracy_counts_a_loop_once_and_compares_runs(script):
    accuracy = script("accuracy")
    looped = {"errors": [144, 1, 0], "words": [1, 4, 5]}
    assert accuracy.wer(looped) == 0.2
    assert accuracy.raw_wer(looped) == 14.5
    assert accuracy.loops(looped) == 1
    theirs = [{"it": {"errors": [2] * 40, "words": [10] * 40}}] * 2
    ours = [{"it": {"errors": [1] * 40, "words": [10] * 40}}] * 2
    assert accuracy.relative_change(ours, theirs, ["it", "it"]) == "-50.0 % (-50.0 to -50.0); -50.0 to -50.0"
    halves = [{"it": {"errors": [1] * 40, "words": [10] * 40}}, {"it": {"errors": [2] * 40, "words": [10] * 40}}]
    shown = accuracy.relative_change(halves, theirs, ["it", "it"])
    assert shown.startswith("-25.0 % (-342.6 to +292.6)")  # Student's t with one degree of freedom


def test_accuracy_runs_follow_each_other_on_one_curve(script, tmp_path):
    accuracy = script("accuracy")
    assert accuracy.parse_variant("a").runs == [[]]
    two = accuracy.parse_variant("two: --epochs 2 then --freeze none")
    assert (two.name, two.runs) == ("two", [["--epochs", "2"], ["--freeze", "none"]])
    assert accuracy.parse_variant("defaults first: then --freeze none").runs == [[], ["--freeze", "none"]]
    rows = [
        {"split": "valid", "wer": 0.2, "seconds": 5}, {"seconds": 15}, {"split": "valid", "wer": 0.1, "seconds": 5},
        {"split": "test", "wer": 0.3, "seconds": 5},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = accuracy.curve(tmp_path, 0, 40)  # 10 seconds of a start, which no row tells of
    assert first == [(15, 0.2), (35, 0.1)]
    assert accuracy.curve(tmp_path, 40, 15) == [(42.5, 0.2), (52.5, 0.1)]  # half of the time the processor was others'
    assert accuracy.mean_curve([{"curve": first}, {"curve": [(25, 0.4), (45, 0.3)]}]) == [
        (20, pytest.approx(0.3)), (40, pytest.approx(0.2)),
    ]  # fmt: skip
    assert accuracy.mean_curve([{"curve": first}, {"curve": [(25, 0.4)]}]) == [(20, pytest.approx(0.3))]
    accuracy.plot({("it", "a"): first, ("fr", "a"): first}, tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
