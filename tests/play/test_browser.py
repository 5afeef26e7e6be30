"""The page in a real browser: frames arrive, keys and buttons move the world, reset works, a second tab is refused."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.play.making import STARTS, Served
from tests.system.conftest import command, environment

pytestmark = pytest.mark.slow
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
# The bytes of the last panel, the true simulator.
PIXELS = """() => { const all = document.querySelectorAll("canvas"), last = all[all.length - 1];
    return Array.from(last.getContext("2d").getImageData(0, 0, last.width, last.height).data).join() }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, the machine's own or Playwright's."""
    sync = pytest.importorskip("playwright.sync_api", reason="no browser test: pip install playwright")
    own = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync.sync_playwright() as playwright:
        if own is None and not Path(playwright.chromium.executable_path).is_file():
            said = "no browser test: neither chromium on the path nor one of Playwright's"
            assert os.environ.get("WM_BROWSER") != "required", said
            pytest.skip(said)
        chromium = playwright.chromium.launch(executable_path=own, args=ARGUMENTS)
        yield chromium
        chromium.close()


def until(page: Any, expression: str, seconds: float = 30) -> None:
    """Waits from out here: the page's own policy lets nobody evaluate strings in it, as `wait_for_function` does."""
    for _ in range(int(10 * seconds)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not within {seconds} seconds: {expression}")


def test_the_page_plays(browser: Any, served: Served) -> None:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{served.port}/")
    until(page, "page.shown > 5")
    assert page.locator("canvas").count() == 3 and page.locator("#starts button").count() == STARTS
    assert "frames/s" in page.locator("#measured").inner_text()
    ends = []
    for key in ("ArrowRight", "ArrowLeft"):
        page.keyboard.down(key)
        page.wait_for_timeout(1500)
        page.keyboard.up(key)
        page.wait_for_timeout(500)
        ends.append(page.evaluate(PIXELS))
    assert ends[0] != ends[1] and page.evaluate("page.latencies.length") >= 2
    page.locator("#keys button").first.dispatch_event("pointerdown")
    page.wait_for_timeout(1500)
    page.locator("#keys button").first.dispatch_event("pointerup")
    assert page.evaluate("page.latencies.length") >= 3

    second = browser.new_page()
    second.goto(f"http://127.0.0.1:{served.port}/")
    until(second, "document.getElementById('said').innerText.includes('playing already')")
    second.close()

    before = served.game.begun
    page.locator("#starts button").nth(2).click()
    page.locator("#reset").click()
    page.wait_for_timeout(1000)
    assert served.game.begun == before + 2 and served.game.start == 2
    page.locator("#record").click()
    page.wait_for_timeout(500)
    page.close()


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[str]:
    """The address of a page that shows the student of the suite as fast as it can, alone; two threads are its own."""
    words = ["task=play", "task.port=0", "task.fps=100", "task.simulator=false", "task.seconds=300"]
    with (tmp_path / "said").open("w+") as said:
        server = subprocess.Popen(
            command([*words, f"run_dir={tmp_path}/run"]), cwd=tmp_path, env=environment(tmp_path / "cache"),
            stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield address_in(tmp_path / "said", server)
        finally:
            server.terminate()
            server.wait(30)


def address_in(said: Path, server: subprocess.Popen[bytes]) -> str:
    """What the server says of where it listens, once it does."""
    while server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", said.read_text()):
            return found[0]
    raise AssertionError(said.read_text()[-3000:])


@pytest.mark.nightly
def test_the_page_measures_its_speed(browser: Any, shipped: str) -> None:
    """Prints it (`-s`): on a machine that does nothing else it is the number of the documentation."""
    page = browser.new_page()
    page.goto(shipped)
    until(page, "page.shown > 30", seconds=120)
    for press in range(50):
        key = ("ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown")[press % 4]
        page.keyboard.down(key)
        page.wait_for_timeout(300)
        page.keyboard.up(key)
        page.wait_for_timeout(37 * (press % 7))  # at other moments of a chunk
    until(page, "page.latencies.length == 50")
    measured = page.locator("#measured").inner_text()
    print(measured)
    assert re.match(r"[\d.]+ frames/s shown, .* key to frame: median \d+ ms, 95 % \d+ ms", measured)
    page.close()
