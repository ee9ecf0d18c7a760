"""For the tests of reports: runs that are made up once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
import report_samples
from page_reader import Page

from whispertune import cli
from whispertune.report import clips
from whispertune.report.run_page import RunReport, report_on
from whispertune.report.runs import read_run


@pytest.fixture(scope="session", autouse=True)
def _few_players() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "MOST_PLAYERS", report_samples.PLAYERS)
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 40 utterances of eight speakers."""
    return report_samples.write_run(tmp_path_factory.mktemp("runs") / "one", speakers=8).path


@pytest.fixture(scope="session")
def made(run: Path) -> RunReport:
    """Its report."""
    return report_on(read_run(run))


@pytest.fixture(scope="session")
def page(made: RunReport) -> Page:
    """Its page."""
    return Page(made.page())


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of one recipe, and two of a better one."""
    folder, several = tmp_path_factory.mktemp("seeds"), {"rows": report_samples.prompts(60), "speakers": 8}
    return [
        *(report_samples.write_run(folder / f"a{seed}", seed=seed, **several).path for seed in range(3)),
        *(
            report_samples.write_run(
                folder / f"b{seed}", seed=seed, test_shares=(0.3, 0.08), batch_size=16, **several
            ).path
            for seed in range(2)
        ),
    ]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> report_samples.Report:
    """`whispertune report ARGUMENTS`: what is printed."""

    def report_on(arguments: Sequence[Any]) -> str:
        capsys.readouterr()
        status = cli.main(["report", *map(str, arguments)])
        said = capsys.readouterr()
        assert status == 0, said.err
        return said.out

    return report_on
