"""What environment.json says of a run's surroundings."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from whispertune.system import environment


def test_versions_of_extras_are_named_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "EXTRAS", ("pytest", "no-such-package"))
    packages = environment.describe_environment(0, {}, 1, "fp32")["packages"]
    assert packages["pytest"] == version("pytest")
    assert packages["torch"] == version("torch")
    assert "no-such-package" not in packages
