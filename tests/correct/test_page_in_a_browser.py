"""The page as Chromium shows it: open, listen, edit, split, undo, save, reload, the server killed in mid-edit.

Skipped without playwright and a Chromium of the system's. With WHISPERTUNE_PICTURES=DIR the page is saved as pictures.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from correct_samples import TEXTS, Client, served, transcript, write_recording

from whispertune.data.sources import read_rows

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@contextmanager
def opened(browser: Browser, client: Client, width: int = 1280, **options: object) -> Iterator[Page]:
    """The page, which must neither complain nor ask for anything elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: request.url.startswith(client.address) or faults.append(request.url))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.goto(client.address)
    settled(page)
    yield page
    assert faults == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def wait(page: Page, expression: str, arg: object = None) -> None:
    """Until the expression is true; Playwright's own way is forbidden by the page's policy."""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, expression
        time.sleep(0.03)


def settled(page: Page) -> None:
    wait(page, "document.getElementById('saved').textContent === 'Saved'")
    page.evaluate("queue")
    wait(page, "wave !== null && wave.getDuration() > 0")


def pressed(page: Page, keys: str, expression: str, arg: object = None) -> None:
    """Until the expression is true and all is saved."""
    page.keyboard.press(keys)
    wait(page, expression, arg)
    settled(page)


def chosen(page: Page, text: str) -> None:
    page.locator("#items button", has_text=text).click()
    wait(page, "text => document.getElementById('text').value === text", arg=text)
    settled(page)


def caret(page: Page, at: int) -> None:
    page.evaluate("at => { const text = $('text'); text.focus(); text.setSelectionRange(at, at); }", at)


def texts(client: Client) -> list[str]:
    return [item["text"] for item in client.json("items?order=time")["items"]]


def test_open_listen_edit_split_undo_save_reload(browser: Browser, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with served(str(transcript(tmp_path)), "--output", str(out), "--language", "it") as client:
        with opened(browser, client) as page:
            assert page.locator("#items > li").count() == 5
            chosen(page, TEXTS[0][0])
            assert page.locator("#words span").all_inner_texts() == TEXTS[0][0].split()
            # Listen: to the end of the segment, and no further.
            caret(page, 0)
            page.keyboard.press("Alt+Enter")
            wait(page, "wave.isPlaying() && playedTime() > 0.6")
            wait(page, "!wave.isPlaying()")
            assert page.evaluate("playedTime()") == pytest.approx(2.0, abs=0.25)
            # Edit: saved while it is typed.
            caret(page, len(TEXTS[0][0]))
            page.keyboard.type(" Benvenuti")
            settled(page)
            assert client.json("items?order=time")["items"][0]["text"] == "Buongiorno a tutti. Benvenuti"
            # Split at the caret, then undo both.
            caret(page, len("Buongiorno "))
            page.keyboard.press("Alt+s")
            wait(page, "$('text').value === 'a tutti. Benvenuti'")
            assert page.locator("#items > li").count() == 6
            settled(page)
            first = client.json("items?order=time")["items"]
            assert [item["text"] for item in first[:2]] == ["Buongiorno", "a tutti. Benvenuti"]
            assert first[0]["seconds"] == pytest.approx(0.5, abs=0.01)  # between the words
            pressed(page, "Control+z", "$('items').children.length === 5")
            assert texts(client)[0] == "Buongiorno a tutti. Benvenuti"
            pressed(page, "Control+Shift+z", "$('items').children.length === 6")
            pressed(page, "Control+z", "$('items').children.length === 5")
            # Boundaries, a note, done.
            pressed(page, "Alt+Shift+4", "$('end').value === '2.500'")
            page.keyboard.press("Alt+n")
            page.keyboard.type("rumore")
            page.keyboard.press("Alt+x")
            settled(page)
            pressed(page, "Control+Enter", "$('counts').textContent.startsWith('1 of 5')")
            page.keyboard.press("Control+s")
            page.wait_for_selector("#files[open]")
            assert f"whispertune split {out}/corrected.jsonl --language it" in page.inner_text("#command")
            page.keyboard.press("Escape")
            page.reload()
            settled(page)
            chosen(page, "Buongiorno a tutti. Benvenuti")
            assert page.input_value("#note") == "rumore"
            assert page.input_value("#end") == "2.500"
        rows = read_rows("data", out / "corrected.jsonl")
        assert [(row.text, row.start, row.end) for row in rows] == [("Buongiorno a tutti. Benvenuti", 0.5, 2.5)]
        assert "Benvenuti" in (out / "transcripts" / "talk.TextGrid").read_text(encoding="utf-8")


def test_the_server_is_killed_in_mid_edit(browser: Browser, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with served(str(transcript(tmp_path)), "--output", str(out), "--port", "0") as client:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(client.address)
        settled(page)
        chosen(page, TEXTS[0][0])
        caret(page, 0)
        page.keyboard.type("Allora. ")
        settled(page)
        page.keyboard.type("Questo ")  # typed, and not saved yet
        client.process.send_signal(signal.SIGKILL)
        page.wait_for_selector("#fault:not([hidden])")
        assert "start the command again" in page.inner_text("#fault")
        assert page.inner_text("#saved") == "Not saved"
        assert page.input_value("#text").startswith("Allora. Questo ")
        context.close()
    with served("--output", str(out)) as client:
        assert texts(client)[0].startswith("Allora. ")
        assert texts(client)[0].endswith(TEXTS[0][0])
        with opened(browser, client) as page:
            page.keyboard.press("Control+z")
            settled(page)
        while client.json("items")["undo"]:
            client.edit("undo")
        assert texts(client) == [text for text, _ in TEXTS]


def test_scripts(browser: Browser, tmp_path: Path) -> None:
    """Right to left, without spaces, with marks; and markup that stays text."""
    pictures = os.environ.get("WHISPERTUNE_PICTURES")
    with served(str(transcript(tmp_path)), "--output", str(tmp_path / "out")) as client:
        for width in (1280, 600):
            with opened(browser, client, width) as page:
                for number, (text, _) in enumerate(TEXTS):
                    chosen(page, text)
                    assert page.inner_text("#words") == text
                    direction = page.evaluate("getComputedStyle($('text')).direction")
                    assert direction == ("rtl" if number == 1 else "ltr")
                    if pictures:
                        page.screenshot(path=Path(pictures) / f"{width}-{number}.png", full_page=True)
                assert page.locator("#items [onmouseover]").count() == 0
                if pictures:
                    page.keyboard.press("F1")
                    page.screenshot(path=Path(pictures) / f"{width}-keys.png")
        with opened(browser, client, color_scheme="dark") as page:
            chosen(page, TEXTS[2][0])
            caret(page, len("สวัสดีครับ"))
            pressed(page, "Alt+s", "$('text').value === 'ยินดีต้อนรับ'")
            if pictures:
                page.screenshot(path=Path(pictures) / "dark.png")
            pressed(page, "Alt+ArrowUp", "$('text').value === 'สวัสดีครับ'")
            pressed(page, "Alt+j", "text => $('text').value === text", arg=TEXTS[2][0])
            chosen(page, TEXTS[1][0])
            caret(page, len(TEXTS[1][0]))
            page.keyboard.type(" اليوم")
            settled(page)
        assert sorted(texts(client)) == sorted(
            [*(text for text, _ in TEXTS if text != TEXTS[1][0]), TEXTS[1][0] + " اليوم"]
        )


def test_everything_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    with (
        served(str(transcript(tmp_path)), "--output", str(tmp_path / "out")) as client,
        opened(browser, client) as page,
    ):
        page.keyboard.press("F1")
        page.wait_for_selector("#keys[open]")
        assert page.locator("#key-table tr").count() == page.evaluate("KEYS.length")
        page.keyboard.press("Escape")
        pressed(page, "Alt+u", "$('counts').textContent.includes('1 unusable')")
        pressed(page, "Alt+k", "$('counts').textContent.includes('1 skipped')")
        page.keyboard.press("Alt+ArrowUp")
        settled(page)
        pressed(page, "Alt+t", "$('counts').textContent.includes('0 skipped')")
        page.keyboard.press("Alt+f")
        page.keyboard.type("arriv")
        wait(page, "$('items').children.length === 1")
        page.keyboard.press("Alt+ArrowDown")
        pressed(page, "Alt+a", "state.segment.id.endsWith('~2')")
        assert client.json("items")["total"] == 6
        pressed(page, "Control+z", "!state.segment.id.endsWith('~2')")
        assert client.json("items")["total"] == 5
        assert page.inner_text("#fault") == ""


def test_what_going_on_is_expected_to_bring(browser: Browser, tmp_path: Path) -> None:
    write_recording(tmp_path / "a.wav")
    rows = [f"r{n},a.wav,{n},{n + 1},testo {n}" for n in range(11)]
    (tmp_path / "m.csv").write_text("\n".join(["id,audio,start,end,text", *rows]), encoding="utf-8")
    with served(str(tmp_path / "m.csv"), "--output", str(tmp_path / "out"), "--language", "it") as client:
        for n, item in enumerate(client.json("items?order=time")["items"][:5]):
            client.edit("edit", item["id"], status="done", text=item["text"] if n % 2 else "altro")
        with opened(browser, client) as page:
            assert page.inner_text("#counts") == (
                "5 of 11 looked at: 5 done, 0 skipped, 0 unusable; changed of the last 5 done: 3; "
                "at that rate 4 of the 6 left"
            )
            assert page.inner_text("#fault") == ""
        with opened(browser, client, 600) as page:  # the list lies below the waveform
            assert page.evaluate("state.segment.id") == "r5"
            assert page.evaluate("scrollY") == 0
            page.locator("#items button").last.click()
            wait(page, "state.segment.id === 'r10'")
            assert page.evaluate("scrollY") == 0
