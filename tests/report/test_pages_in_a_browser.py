"""Pages as Chromium shows them: nothing asked for, nothing complained of, and what their controls do.

Skipped without playwright and a Chromium of the system's.
"""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import report_samples

from whispertune import cli
from whispertune.data.marked import read_marked
from whispertune.data.readers.manifest import read_manifest
from whispertune.report.comparison import compare
from whispertune.report.run_page import report_on
from whispertune.report.runs import read_run

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run."""
    rows = report_samples.prompts(40)
    rows[3]["text"] += ' disse "sì", poi no'
    run = report_samples.write_run(tmp_path_factory.mktemp("browsed") / "run", rows=rows)
    path = run.path / "report.html"
    path.write_text(report_on(read_run(run.path)).page(), encoding="utf-8")
    return path


def opened(browser: Browser, path: Path, width: int = 1280) -> Page:
    """The page, which must neither complain nor ask for anything."""
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("data:", "file:")) or faults.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("footer")
    assert faults == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    return page


@pytest.mark.parametrize("width", [400, 1280])
def test_both_kinds_of_pages(browser: Browser, file: Path, seeds: list[Path], tmp_path: Path, width: int) -> None:
    opened(browser, file, width)
    compared = tmp_path / "compared.html"
    compared.write_text(compare([read_run(path) for path in seeds]).page(), encoding="utf-8")
    assert opened(browser, compared, width).locator("#clips > li").count() == 15


def test_the_page_of_check(browser: Browser, file: Path, tmp_path: Path) -> None:
    rows = next(file.parent.parent.glob("rows-*.csv"))
    marked = tmp_path / "marked.csv"
    marked.write_text(f"id\n{read_manifest(rows)[0].id}\n", encoding="utf-8")
    assert cli.main(["check", str(rows), "--language=it", f"--exclude={marked}", f"--output={tmp_path}"]) == 2
    for width in (400, 1280):
        page = opened(browser, tmp_path / "check.html", width)
        page.click("a[href='#marked']")
        assert page.locator("#marked").is_visible()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_serious_fault(
    browser: Browser, file: Path, seeds: list[Path], tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    compared = tmp_path / "compared.html"
    compared.write_text(compare([read_run(path) for path in seeds]).page(), encoding="utf-8")
    rows = next(file.parent.parent.glob("rows-*.csv"))
    cli.main(["check", str(rows), "--language=it", f"--output={tmp_path}"])
    for path in (file, compared, tmp_path / "check.html"):
        for width in (400, 1280):
            page = opened(browser, path, width)
            page.emulate_media(color_scheme=scheme)
            found = [
                (fault["impact"], fault["id"], fault["nodes"][0]["html"][:200], fault["nodes"][0]["failureSummary"])
                for fault in axe.run(page).response["violations"]
                if fault["impact"] in ("serious", "critical")
            ]
            assert found == [], path.name


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_20_000_utterances(browser: Browser, tmp_path: Path, width: int) -> None:
    run = report_samples.write_run(tmp_path / "run", rows=report_samples.prompts(20_000), speakers=300, steps=3000)
    path = tmp_path / "report.html"
    path.write_text(report_on(read_run(run.path)).page(), encoding="utf-8")
    began = time.monotonic()
    page = opened(browser, path, width)
    page.select_option("#sort", "worse")
    page.fill("#search", "a")
    page.wait_for_selector("#clips > li")
    assert time.monotonic() - began < 10
    if pictures := os.environ.get("WHISPERTUNE_PICTURES"):
        page.screenshot(path=Path(pictures) / f"report-20000-{width}.png")


def test_search_and_order(browser: Browser, file: Path) -> None:
    page = opened(browser, file)
    page.fill("#search", "disse poi")
    assert page.locator("#clips > li").count() == 1
    page.fill("#search", "")
    page.select_option("#sort", "worse")
    changes = [float(clip.get_attribute("data-worse") or "") for clip in page.locator("#clips > li").all()]
    assert changes == sorted(changes, reverse=True)
    page.click("#more")
    assert page.locator("#clips > li").count() == 40


def test_marked_transcripts_become_a_file_that_is_read(browser: Browser, file: Path, tmp_path: Path) -> None:
    page = opened(browser, file)
    assert page.is_disabled("#save-marks")
    page.fill("#search", "disse poi")
    page.check("#clips .mark input")
    page.fill("#search", "")
    page.check("#clips li:first-child .mark input")
    assert "2 transcripts are marked as wrong." in page.inner_text("#marks")
    with page.expect_download() as download:
        page.click("#save-marks")
    assert download.value.suggested_filename == "marked.csv"
    download.value.save_as(tmp_path / "marked.csv")
    with (tmp_path / "marked.csv").open(encoding="utf-8", newline="") as saved:
        marks = list(csv.DictReader(saved))
    rows = read_manifest(next(file.parent.parent.glob("rows-*.csv")))
    found = read_marked(str(tmp_path / "marked.csv")).reasons(rows)
    assert {rows[index].id for index in found} == {mark["id"] for mark in marks}
    assert len(found) == 2
    assert {rows[index].text for index in found} == {mark["text"] for mark in marks}
    assert set(found.values()) == {"transcript wrong (marked.csv)"}
    page.reload()  # the marks are still there
    page.check("#marked-only")
    assert page.locator("#clips > li").count() == 2
    page.uncheck("#clips li:first-child .mark input")
    assert "1 transcript is marked as wrong." in page.inner_text("#marks")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-marks")
    page.wait_for_function("document.getElementById('marked-count').textContent.startsWith('Copied')")
    assert page.evaluate("navigator.clipboard.readText()").startswith("id,text,reason")
