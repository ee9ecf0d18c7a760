"""Fields from YAML and flags, and what is said about those that can't be used."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whispertune import cli
from whispertune.commands.evaluate_options import EvaluateOptions
from whispertune.commands.transcribe_options import TranscribeOptions
from whispertune.errors import RecipeError
from whispertune.run.flags import all_fields, parse_fields, takes
from whispertune.run.other_tools import PHRASES, SAME
from whispertune.run.recipe import Recipe, to_yaml
from whispertune.run.yaml_fields import flatten, load_yaml

REQUIRED = {"model": "m", "train": "train.csv", "valid": "valid.csv", "output": "run"}
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def parse(*flags: str, **fields: object) -> Recipe:
    return parse_fields(Recipe, {**REQUIRED, **fields}, flags, command="train", where="r.yaml")


def refusal(*flags: str, **fields: object) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(*flags, **fields)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    assert not re.search(r"typing|<class|Traceback|NoneType", message)
    return message


# Flags.


@pytest.mark.parametrize("name", ["batch_size", "batch-size"])
def test_dashes_and_underscores(name: str) -> None:
    assert parse(f"--{name}", "3").batch_size == 3
    assert parse(f"--{name}=3").batch_size == 3
    assert parse(**{name: 3}).batch_size == 3
    assert parse("--schedule.peak-lr", "1e-4").schedule.peak_lr == 1e-4
    assert parse("--augment.drop-frequency.max_bands", "2").augment.drop_frequency.max_bands == 2


def test_values_keep_their_dashes_and_equals_signs() -> None:
    recipe = parse("--model", "my-model=2", "--output=a-b=c", "--test", "-", "--augment.noise.min_snr", "-5.5")
    assert (recipe.model, recipe.output, recipe.test) == ("my-model=2", "a-b=c", "-")
    assert recipe.augment.noise.min_snr == -5.5
    assert parse("--model=--odd").model == "--odd"


def test_a_flag_alone_means_true() -> None:
    assert parse("--loss.prompt_tokens").loss.prompt_tokens
    assert parse("--loss.prompt_tokens", "--seed=2").loss.prompt_tokens
    assert not parse("--loss.prompt_tokens", "false").loss.prompt_tokens


@pytest.mark.parametrize("again", [["--language=de"], ["--language", "it"]])
def test_a_flag_is_given_once(again: list[str]) -> None:
    """Taking one of two in silence would train with the other than somebody meant."""
    assert refusal("--language", "it", *again) == "--language is given twice; leave one out"
    assert "--schedule.peak_lr is given twice" in refusal("--schedule.peak-lr=1", "--schedule.peak_lr=1")


def test_flags_win_over_the_file() -> None:
    recipe = parse("--seed=2", "--schedule.name=linear", **{"seed": 1, "epochs": 9, "schedule.name": "wsd"})
    assert (recipe.seed, recipe.epochs, recipe.schedule.name) == (2, 9, "linear")


@pytest.mark.parametrize("nothing", ["null", "None", "none", "~"])
def test_optional_fields_take_null(nothing: str) -> None:
    recipe = parse(f"--max_steps={nothing}", "--language", nothing, f"--augment.noise.folder={nothing}", max_steps=3)
    assert recipe.max_steps is recipe.language is recipe.augment.noise.folder is None


def test_none_can_be_a_value() -> None:
    assert parse("--validation.max_tokens_per_second=none").validation.max_tokens_per_second == "none"
    assert parse("--freeze", "none").freeze == "none"


@pytest.mark.parametrize("text", ["[0.9,1.0,1.1]", "[0.9, 1, 1.1]"])
def test_lists(text: str) -> None:
    assert parse("--augment.speed.factors", text).augment.speed.factors == (0.9, 1.0, 1.1)
    assert parse(**{"augment.speed.factors": [0.9, 1, 1.1]}).augment.speed.factors == (0.9, 1.0, 1.1)


def test_text_stays_text() -> None:
    for text in ("1", "1e5", "true", "[a", "{", "a: b", "a # b", "no", "2024-01-01", "'quoted'", "ü ï", " x"):
        assert parse("--model", text, "--language", text).model == text
        assert parse("--model", text, "--language", text).language == text


def test_numbers_and_autos() -> None:
    recipe = parse("--schedule.peak_lr=1e-5", "--schedule.warmup_steps=500", "--optimizer.eps=0.1")
    assert (recipe.schedule.peak_lr, recipe.schedule.warmup_steps) == (1e-5, 500)
    assert parse("--schedule.peak_lr=auto", **{"schedule.peak_lr": 1e-3}).schedule.peak_lr == "auto"
    assert isinstance(parse("--windows.max_pause=2").windows.max_pause, float)


# Refusals.


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--batch_sise", "4"], ["unknown flag --batch_sise", "did you mean 'batch_size'"]),
        (["--warmup-steps=4"], ["unknown flag --warmup_steps", "'schedule.warmup_steps'"]),
        (["--lr=1"], ["'schedule.peak_lr'"]),
        (["--zzz=1"], ["unknown flag --zzz", "whispertune train --help"]),
        (["--schedule=noam"], ["it is a section", "schedule.name"]),
        (["--augment.speed=1.1"], ["it is a section", "augment.speed.probability"]),
        (["--schedule.class_path=os.system"], ["unknown flag"]),
        (["--config=x.yaml"], ["unknown flag --config"]),
        (["--language"], ["--language needs a value"]),
        (["--language", "--epochs=3"], ["--language needs a value"]),
        (["extra"], ["unexpected argument 'extra'"]),
        (["-e", "3"], ["unexpected argument '-e'"]),
        (["--"], ["unexpected argument '--'"]),
        (["--model="], ["model is empty"]),
        (["--freeze=encodr"], ["freeze is 'encodr' (did you mean encoder?)", "decoder:N"]),
        (["--freeze=encoder:"], ["freeze is 'encoder:'"]),
    ],
)
def test_refused_flags(flags: list[str], parts: list[str]) -> None:
    message = refusal(*flags)
    for part in parts:
        assert part in message


BAD_VALUES = {
    "average.epochs": ["0", "x", "1.5"],
    "average.mix": ["[0]", "[1]", "[0.5,2]", "0.5", "[x]"],
    "epochs": ["x", "1.5", "null", "0", "-1", "[1]", "{}", "", "true", "1e30", "10000000000000000000000"],
    "max_steps": ["0", "x"],
    "seed": ["-1", "x"],
    "precision": ["fp8", "", "null"],
    "task": ["sing"],
    "batch_size": ["0", "x"],
    "accumulation": ["0", "1.5"],
    "recompute": ["x", "2"],
    "batch.auto": ["x", "2"],
    "lora.rank": ["-1", "x", "1.5"],
    "lora.alpha": ["0", "x", ".inf"],
    "lora.targets": ["fc1", "q"],
    "lora.where": ["encoder"],
    "schedule.name": ["x", ""],
    "schedule.peak_lr": ["0", "-1", "x", ".nan", "nan", "1e309", "null"],
    "schedule.warmup_steps": ["0", "1.5", "x"],
    "schedule.scale": ["x"],
    "schedule.factor": ["0", "x", ".inf"],
    "schedule.decay_share": ["0", "1.5"],
    "optimizer.weight_decay": ["-1", ".nan", ".inf"],
    "optimizer.beta1": ["1", "-0.1"],
    "optimizer.beta2": ["1"],
    "optimizer.eps": ["0", ".nan"],
    "optimizer.max_grad_norm": ["-1", ".nan", ".inf"],
    "optimizer.max_skipped_in_a_row": ["0"],
    "loss.label_smoothing": ["1", "-0.1", "x"],
    "loss.prompt_tokens": ["2", "perhaps", "null"],
    "frames.selection": ["sparse"],
    "frames.stride": ["0", "10000000000000000000000"],
    "frames.margin": ["-1", "1501"],
    "frames.edge": ["-1", "1501"],
    "windows.stitched_share": ["1", "-0.1", "x"],
    "windows.min_utterances": ["1", "11"],
    "windows.max_utterances": ["2", "101"],
    "windows.min_pause": ["-1", "2"],
    "windows.max_pause": ["0", "31", ".inf"],
    "windows.timestamps": ["1.1", "-0.1", "x"],
    "windows.previous_text": ["1.1", "-0.1", "x"],
    "states.store": ["tape"],
    "states.max_gb": ["0", "x"],
    "states.verify": ["x"],
    "augment.keep_original": ["x"],
    "augment.views": ["0", "-1", "x", "1.5"],
    "augment.speed.probability": ["-0.1", "1.1"],
    "augment.speed.factors": ["fast", "[]", "0.9", "[0.9,fast]", "[0]", "[-1]"],
    "augment.drop_frequency.max_bands": ["0"],
    "augment.drop_chunk.max_share": ["2"],
    "augment.noise.min_snr": ["x", "21"],
    "augment.spec_augment.time_masks": ["-1"],
    "validation.every_steps": ["0", "x"],
    "validation.max_tokens_per_second": ["0", "x", ".inf"],
    "validation.cut_loops": ["x"],
    "search.beam_size": ["0", "65"],
    "search.length_penalty": ["x", ".nan", ".inf"],
    "search.glossary": ["names.txt"],
    "search.glossary_boost": ["-1", "21", "x"],
    "text.case": ["upper"],
    "text.unicode": ["NFX"],
    "text.references": ["true"],
    "checkpoint.every_minutes": ["-1", ".nan"],
    "checkpoint.every_steps": ["0"],
    "data.max_excluded": ["-0.1", "1.1", "x"],
    "data.workers": ["0"],
    "data.empty_text": ["drop"],
    "data.merge_segments": ["-1", "31", "x"],
    "data.temperature": ["0.9", "101", ".nan"],
    "data.check_audio": ["none"],
    "card.license": ["My own", "''"],
    "processes.timeout_minutes": ["0", "1441", "x"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values])
def test_bad_values_name_field_value_and_remedy(name: str, value: str) -> None:
    message = refusal(f"--{name}={value}")
    assert re.match(r"\w+(\.\w+)* is ", message)
    assert message.startswith(name.rpartition(".")[0])  # the section
    assert name.rpartition(".")[2] in message  # of a pair such as min_pause and max_pause both are named
    assert re.search(r"it takes|must|they|give|goes with", message)
    # The same from a file: it names the file too.
    assert refusal(**{name: value}).startswith("r.yaml: ")


def test_every_section_has_bad_values_here() -> None:
    tried = {name.rpartition(".")[0] for name in BAD_VALUES}
    assert tried == {name.rpartition(".")[0] for name in all_fields(Recipe)}


@pytest.mark.parametrize("name", list(REQUIRED))
def test_missing_required_field(name: str) -> None:
    fields = {key: value for key, value in REQUIRED.items() if key != name}
    with pytest.raises(RecipeError, match=f"^--{name} is missing; see whispertune train --help$"):
        parse_fields(Recipe, fields, [], command="train")


def test_columns_are_checked_before_any_data_is_read() -> None:
    for given, problem in (("txt=a", "there are audio, text, id"), ("text", "write it as"), ("text=a,text=b", "twice")):
        assert refusal(f"--data.columns={given}").startswith(f"data.columns is '{given}'")
        assert problem in refusal(f"--data.columns={given}")
        assert refusal(**{"data.columns": given}).startswith("r.yaml: data.columns is ")
        with pytest.raises(RecipeError, match=f"^columns is '{given}'"):
            parse_fields(EvaluateOptions, {"model": "m", "data": "d"}, [f"--columns={given}"], command="evaluate")


def test_fields_that_exclude_each_other() -> None:
    for store in ("memory", "disk"):
        message = refusal(f"--states.store={store}", "--augment.spec_augment.probability=0.1", "--augment.views=fresh")
        assert message.startswith(f"states.store is {store}, but augment.views is fresh")
    assert "schedule.name noam" in refusal("--schedule.scale=d_model", "--schedule.name=linear")


# Files.


def from_yaml(tmp_path: Path, content: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(content, encoding="utf-8")
    return parse_fields(Recipe, {**REQUIRED, **load_yaml(path)}, [], command="train", where=str(path))


def test_yaml_types(tmp_path: Path) -> None:
    recipe = from_yaml(
        tmp_path,
        "language: no\noutput: 2024-01-01\ntest: 12\nmodel: on\nepochs: 3\nprecision: 'bf16'\n"
        "schedule:\n  peak_lr: 1e-5\n  warmup-steps: 20\nloss:\n  prompt_tokens: true\n"
        "augment:\n  speed:\n    factors: [0.9, 1, 1.1]\noptimizer.beta1: .5\nvalidation:\nwindows: {}\nmax_steps:\n",
    )
    assert (recipe.language, recipe.output, recipe.test, recipe.model) == ("no", "2024-01-01", "12", "on")
    assert (recipe.schedule.peak_lr, recipe.schedule.warmup_steps) == (1e-5, 20)
    assert (recipe.epochs, recipe.precision, recipe.loss.prompt_tokens) == (3, "bf16", True)
    assert recipe.augment.speed.factors == (0.9, 1.0, 1.1)
    assert (recipe.optimizer.beta1, recipe.max_steps) == (0.5, None)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("shedule:\n  name: noam", ["unknown field 'shedule.name'", "'schedule.name'"]),
        ("batch_sise: 3", ["unknown field 'batch_sise'", "did you mean 'batch_size'"]),
        ("schedule: noam", ["it is a section", "schedule.name"]),
        ("train: [a.csv, b.csv]", ["train is ['a.csv', 'b.csv']; it takes text"]),
        ("train:\n  a: b", ["unknown field 'train.a'"]),
        ("epochs: [1]", ["epochs is [1]; it takes a whole number"]),
        ("epochs: 1\nepochs: 2", ["not YAML", "'epochs' is given twice", "line 2"]),
        ("schedule:\n  name: noam\n  name: wsd", ["'name' is given twice"]),
        ("schedule.name: noam\nschedule:\n  name: wsd", ["'schedule.name' is given twice"]),
        ("batch-size: 4\nbatch_size: 5", ["batch_size is given twice"]),
        ("epochs: {}", ["epochs is {}; it takes a whole number"]),
        ("lora: {}\npeft: {}", ["unknown field 'peft'; write --lora.rank"]),
        ("lora: 8", ["it is a section", "lora.rank"]),
        ("model: !!binary aGVsbG8=", ["model is b'hello'", "it takes text"]),
        ("model: !!set {a}", ["model"]),
        ("model: &a [*a]", ["*a stands for what is written elsewhere", "line 1"]),
        ("a: &x {epochs: 3}\n<<: *x", ["*x stands for"]),
        ("a: " + "{a: " * 1000 + "}" * 1000, ["nested without end"]),
        ("a: " + "[" * 100_000, ["nested without end"]),
        (f"seed: 0x{'f' * 5000}", ["seed is a number out of all bounds"]),
        ("seed: !!int ''", ["not YAML"]),
        ("seed: !!bool maybe", ["not YAML"]),
        (f"schedule.peak_lr: 1{':59' * 20_000}.0", ["not YAML"]),
        ("#" * 1_000_001, ["no recipe", "megabyte"]),
        ("- model", ["a recipe is a mapping"]),
        ("model", ["a recipe is a mapping"]),
        ("a: [", ["not YAML"]),
        ("a: b: c", ["not YAML"]),
        ("\ta: b", ["not YAML"]),
        ("epochs: 1\n---\nepochs: 2", ["not YAML"]),
        ("1: 2", ["unknown field '1'"]),
        ("? [a, b]\n: c", ["not YAML"]),
    ],
)
def test_refused_yaml(tmp_path: Path, content: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        from_yaml(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "recipe.yaml") in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "tagged",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/new:pathlib.PosixPath ['{}']",
        "!!python/name:os.system ''",
        "!!python/tuple [a]",
    ],
)
def test_yaml_runs_no_code(tmp_path: Path, tagged: str) -> None:
    with pytest.raises(RecipeError, match="not YAML"):
        from_yaml(tmp_path, "model: " + tagged.replace("{}", str(tmp_path / "touched")))
    assert not (tmp_path / "touched").exists()


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    """Ten names of ten each of the one before, in 537 bytes: 10 ** 10 entries."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    began = time.perf_counter()
    with pytest.raises(RecipeError, match=r"not YAML .*stands for"):
        from_yaml(tmp_path, "\n".join(levels))
    assert time.perf_counter() - began < 1


FAMILIAR = {
    "learning_rate": "schedule.peak_lr",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "warmup_steps": "schedule.warmup_steps",
    "output_dir": "output",
    "max_train_steps": "max_steps",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
    "lr_scheduler_type": "schedule.name",
    "gradient_checkpointing": "recompute",
    "num_beams": "search.beam_size",
    "model_name_or_path": "model",
    "fp16": "--precision fp16",
    "bf16": "--precision bf16",
    "lora_r": "lora.rank",
    "use_peft": "--lora.rank",
    "report_to": "metrics.jsonl",
    "resume_from_checkpoint": "whispertune resume",
    "freeze_encoder": "--freeze encoder",
}


@pytest.mark.parametrize("name", FAMILIAR)
def test_names_of_other_tools_lead_to_ours(name: str) -> None:
    for message in (refusal(f"--{name}=1"), refusal(f"--{name}"), refusal(**{name: 1})):
        assert FAMILIAR[name] in message


def test_suggestions_are_fields_and_shadow_none() -> None:
    """Every name led to is a field of some command, and none that leads there is one itself."""
    commands = [set(all_fields(options)) for options in (Recipe, EvaluateOptions, TranscribeOptions)]
    known = set().union(*commands)
    assert not known & {*SAME, *PHRASES}
    assert {field for fields in SAME.values() for field in fields.split()} <= known
    assert {needed for needed, _ in PHRASES.values() if needed} <= known
    with pytest.raises(RecipeError, match="'beam_size'"):
        parse_fields(EvaluateOptions, {}, ["--num_beams=2"], command="evaluate")


def test_unreadable_recipes(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("language: français".encode("latin-1"))
    for path, said in [
        (tmp_path / "absent.yaml", "no such recipe"),
        (tmp_path, "Is a directory"),
        (tmp_path / "latin.yaml", "not YAML"),
        (Path("a\0b"), "not YAML"),
    ]:
        with pytest.raises(RecipeError, match=said) as caught:
            load_yaml(path)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_parse_and_survive_a_round_trip(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--augment.speed.factors=[0.9,1.1]", "--language=no", "--test=null", "--schedule.peak_lr=1e-5"]
    flags += [f"--{name}={value}" for name, value in REQUIRED.items() if name not in load_yaml(path)]
    assert cli.main(["train", str(path), "--print_config", *flags]) == 0
    printed = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(printed, encoding="utf-8")
    first = parse_fields(Recipe, load_yaml(path), flags, command="train")
    assert parse_fields(Recipe, load_yaml(again), [], command="train") == first
    assert first.language == "no"
    assert cli.main(["train", str(again), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("text", ["no", "1e5", "2024-01-01", "[/b]", ":smile:", "a: b", "'", "null", "x" * 300, "ü"])
def test_printed_recipes_keep_text(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--{name}={value}" for name, value in REQUIRED.items() if name != "output"]
    assert cli.main(["train", *given, "--print_config", f"--output={text}"]) == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert parse_fields(Recipe, load_yaml(path), [], command="train").output == text


def test_round_trip_of_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(parse()), encoding="utf-8")
    assert parse_fields(Recipe, load_yaml(path), [], command="train") == parse()


@pytest.mark.parametrize("name", ["true.csv", "Falsetto/run", "TRUE_north", "true"])
def test_names_that_begin_as_a_truth_value_are_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output: {name}\n", encoding="utf-8")
    recipe = parse_fields(Recipe, {**REQUIRED, **load_yaml(path)}, [], command="train")
    assert recipe.output == name
    path.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_yaml(path)["output"] == name


def test_flatten() -> None:
    nested = {"a": {"b": {"c": 1}, "d": []}, "e": None, "f": {"g": {}}}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [], "e": None, "f.g": {}}


def test_evaluate_keeps_dense_frames_unless_asked() -> None:
    given = {"model": "m", "data": "d"}
    options = parse_fields(EvaluateOptions, given, ["--frames.stride=10"], command="evaluate")
    assert (options.frames.selection, options.frames.stride) == ("dense", 10)
    options = parse_fields(EvaluateOptions, given, ["--frames.selection", "thinned"], command="evaluate")
    assert options.frames.selection == "thinned"


# Help.


@pytest.mark.parametrize("options", [Recipe, EvaluateOptions])
def test_every_field_is_explained(options: type, capsys: pytest.CaptureFixture[str]) -> None:
    command = "train" if options is Recipe else "evaluate"
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    for name, field in all_fields(options).items():
        assert len(field.help) >= 10, name
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"  --{name} ")]
        assert re.search(r"\((required|optional|default: .+)\)$", lines[at])
        assert lines[at + 1].strip() in field.help
        assert takes(field.annotation)
    assert max(map(len, lines)) <= 120
    assert not re.search(r"typing|Union|Literal|CONFIG|NoneType|<class", shown)


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_help_is_as_wide_as_the_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that is said is there; lines are filled, but those that are indented keep their breaks."""
    shown = {}
    for columns in (80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.main([name, "-h"] if name else ["-h"]) == 0
        shown[columns] = capsys.readouterr().out
        assert max(map(len, shown[columns].splitlines())) <= min(columns, 100)
    assert not name or len(shown[200].splitlines()) < len(shown[80].splitlines())
    monkeypatch.setenv("COLUMNS", "1")
    assert cli.main([name, "-h"] if name else ["-h"]) == 0
    if name:
        description = importlib.import_module(f"whispertune.commands.{name}_options").DESCRIPTION
        assert " ".join(description.split()) in " ".join(shown[80].split())
        assert all(line in shown[80].splitlines() for line in description.splitlines() if line.startswith(" "))


def test_resume_tells_what_may_change(capsys: pytest.CaptureFixture[str]) -> None:
    from whispertune.run import resuming

    cli.main(["resume", "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    *_, listed = shown.split("\n\n")
    assert set(re.findall(r"--([\w.]+)", listed)) == set(resuming.FREE_TO_CHANGE) - {"output"}


def test_help_tells_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--epochs=3", "--help"])
    shown = capsys.readouterr().out
    for line in (
        "  --model TEXT  (required)",
        "  --schedule.peak_lr NUMBER|auto  (default: auto)",
        "  --precision auto|fp32|tf32|bf16|fp16  (default: auto)",
        "  --max_steps N  (optional)",
        "  --loss.prompt_tokens true|false  (default: false)",
        "  --augment.speed.factors [NUMBER,…]  (default: [0.95, 1.0, 1.05])",
    ):
        assert line in shown.splitlines()
    cli.main(["evaluate", "--help"])
    assert "  --frames.selection thinned|dense  (default: dense)" in capsys.readouterr().out.splitlines()


def timed_help(*arguments: str) -> tuple[float, set[str], str]:
    """Processor seconds from the first import to the end of `whispertune ARGUMENTS` (so that other work on the machine
    counts little), the modules imported, what was printed."""
    code = (
        f"import json, sys, time; began = time.process_time(); from whispertune.cli import main; main({arguments!r});"
        "print(json.dumps([time.process_time() - began, sorted(sys.modules)]), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    seconds, modules = json.loads(found.stderr)
    return seconds, set(modules), found.stdout


def test_help_of_the_program_is_instant() -> None:
    seconds, modules, shown = timed_help("--help")
    assert not {"torch", "numpy", "yaml", "rich"} & modules
    assert seconds < 0.3
    for name in cli.COMMANDS:
        assert name in shown


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_of_a_command_imports_nothing_that_computes(command: str) -> None:
    seconds, modules, shown = timed_help(command, "--help")
    computes = {"torch", "numpy", "soundfile", "tokenizers", "safetensors", "rich", "matplotlib", "jinja2"}
    assert not computes & modules
    assert seconds < 2  # 0.2 on an idle machine; with torch it would be 3
    assert f"whispertune {command} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)
