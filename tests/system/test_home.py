"""A user without a home folder, as in a container that runs under an unknown user id."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.data import index
from whispertune.data.sources import read_utterances
from whispertune.errors import UserError
from whispertune.states.options import StateOptions
from whispertune.states.placement import choose_place
from whispertune.system.home import cache_folder, expand_home


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_manifests_are_read_and_states_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FEWEST_ROWS", 1)
    (tmp_path / "train.csv").write_text("audio,text\na.wav,A\n", encoding="utf-8")
    assert len(read_utterances("train", str(tmp_path / "train.csv"))) == 1
    place, reason = choose_place(StateOptions(), 1)
    assert place == "memory"
    assert "set XDG_CACHE_HOME" in reason
    with pytest.raises(UserError, match="set XDG_CACHE_HOME to a folder"):
        choose_place(StateOptions(store="disk"), 1)
    with pytest.raises(UserError, match="set XDG_CACHE_HOME to a folder"):
        cache_folder()


def test_the_home_of_a_user_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"~nosuchuser/model: .* for ~nosuchuser; give the full path"):
        load_checkpoint("~nosuchuser/model")
    with pytest.raises(UserError, match="no home folder is known for ~nosuchuser"):
        choose_place(StateOptions(folder="~nosuchuser"), 1)
    assert expand_home("./~nosuchuser") == Path("~nosuchuser")
