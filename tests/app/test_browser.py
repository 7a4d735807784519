"""A whole session in a real browser, by mouse and keyboard, against the real server and networks.

Needs Chromium and its driver (Debian: apt-get install chromium chromium-driver):

    pytest -m slow tests/app/test_browser.py -s
    python -m tests.app.test_browser FOLDER      # the same, and pictures of the screen in FOLDER
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.app.browser import Browser

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "brushjax/assets/photos/temple.jpg"
SEEN, PAINTED = 0.5, 45.0  # seconds after the click: the server's first word, and the picture
BUSY = "document.body.classList.contains('busy')"
TURNS = "document.querySelectorAll('#tree button').length"
PROGRESS = """
window.seen = { done: 1 };
const paint = document.getElementById('paint');
const watch = () => {
  if (document.body.classList.contains('busy')) return;
  const seen = window.seen = {}, start = performance.now();
  const look = () => {
    const now = performance.now() - start, on = document.body.classList.contains('busy');
    if (on && !seen.busy) seen.busy = now;
    if (on && !seen.told && !/^(Paint|waiting)/.test(paint.textContent.trim())) seen.told = now;
    if (on && !seen.step && /\\d+ \\/ \\d+/.test(paint.textContent)) seen.step = now;
    if (seen.busy && !on) seen.done = now;
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
};
for (const id of ['paint', 'again']) {
  document.getElementById(id).addEventListener('click', watch, true);
}
"""
AT = "Number(document.querySelector('#tree .at').dataset.turn)"


class Session:
    """A page that a person works with."""

    def __init__(self, browser, shots, prefix):
        self.browser, self._shots, self._prefix = browser, shots, prefix

    def shot(self, name):
        time.sleep(0.5)
        if self._shots is not None:
            self.browser.picture(self._shots / f"{self._prefix}-{name}.png")

    def at(self, x, y):
        """The place in the window of a place of the picture, both from 0 to 1."""
        board = "const r = document.getElementById('board').getBoundingClientRect();"
        left, top, width, height = self.browser.run(f"{board} return [r.x, r.y, r.width, r.height]")
        return left + x * width, top + y * height

    def draw(self, places, touch=False):
        self.browser.run("scrollTo(0, 0)")
        self.browser.drag([self.at(*place) for place in places], touch)

    def done(self, seconds=PAINTED):
        self.browser.wait("window.seen.done", seconds)
        return {
            name: found / 1000 for name, found in self.browser.run("return window.seen").items()
        }


def session(address, downloads, shots=None, mobile=False):
    """Does all that a person would; returns the times in seconds."""
    size = (390, 844) if mobile else (1280, 800)
    browser = Browser(*size, downloads, mobile)
    page = Session(browser, shots, "phone" if mobile else "desktop")
    try:
        browser.go(address)
        browser.wait("document.querySelectorAll('#samples img[src]').length == 4")
        page.shot("welcome")
        browser.wait("document.getElementById('warm').hidden", 300)
        return _session(page, browser, downloads, mobile)
    finally:
        errors = [line for line in browser.said() if "favicon" not in line]
        browser.close()
        assert errors == []


def _session(page, browser, downloads, mobile):
    browser.run(PROGRESS)
    browser.type("#file", str(PHOTO))
    browser.wait("!document.body.classList.contains('empty')")
    browser.type("#instruction", "replace the sky with a flower\ue007")
    browser.wait("document.getElementById('target').value")
    _mask(page, browser, mobile)
    stopped = _cancel(page, browser)
    made = browser.run(f"return {TURNS}")
    browser.click("[data-count='1']")
    browser.click("#paint")
    times = page.done()
    browser.wait(f"{TURNS} == {made + 1}")
    page.shot("result")
    _compare(page, browser, mobile)
    browser.press("u")
    browser.wait(f"{AT} == 0")
    browser.click("[data-count='1']")
    browser.run("document.getElementById('seed').value = 77")
    browser.click("#paint")  # a branch of the first picture
    page.done()
    browser.wait(f"{TURNS} == {made + 6}")
    _downloads(browser, downloads)
    page.shot("end")
    return {"stop": stopped, **times}


def _mask(page, browser, mobile):
    """Brush, ellipse, eraser, dilation."""
    page.draw([(0.62 + 0.02 * i, 0.2 + 0.06 * (i % 2)) for i in range(12)], mobile)
    browser.wait("document.getElementById('cover').textContent.includes('%')")
    wide = browser.run("return document.getElementById('cover').textContent")
    browser.click("[data-tool=ellipse]")
    page.draw([(0.6, 0.12), (0.7, 0.3), (0.9, 0.45)], mobile)
    browser.click("[data-tool=eraser]")
    page.draw([(0.58, 0.1), (0.62, 0.5)], mobile)
    browser.click("[data-do=grow]")
    browser.click("[data-tool=brush]")
    browser.wait(f"document.getElementById('cover').textContent != '{wide}'")
    page.shot("mask")


def _cancel(page, browser):
    """Begins four pictures and stops in the first of them; returns how long that takes."""
    browser.click("[data-count='4']")
    browser.click("#paint")
    browser.wait("/[1-9]\\d* \\/ 20/.test(document.getElementById('paint').textContent)")
    page.shot("progress")
    start = time.monotonic()
    browser.press("escape")
    page.done()
    stopped = time.monotonic() - start
    browser.wait("document.getElementById('toast').textContent == 'cancelled'")
    if browser.run(f"return {TURNS}") > 1:  # some were there already
        browser.press("u")
        browser.wait(f"{AT} == 0")
    if not browser.run("return document.getElementById('results').hidden"):
        browser.press("g")
    assert browser.run(f"return {TURNS}") < 5
    return stopped


def _compare(page, browser, mobile):
    """Four results of the picture before, one of them chosen, and held against it."""
    browser.click("[data-count='4']")
    browser.click("#again")
    page.done(4 * PAINTED)
    browser.wait("document.querySelectorAll('#results canvas').length == 4")
    page.shot("candidates")
    first = browser.run(f"return {AT}")
    browser.click("#results button:nth-child(3)")
    browser.wait("document.getElementById('results').hidden")
    browser.wait(f"{AT} != {first}")
    browser.press("c")
    browser.wait("!document.getElementById('slider').hidden")
    page.draw([(0.5, 0.5), (0.6, 0.5), (0.76, 0.5)], mobile)
    page.shot("compare")
    browser.press("c")


def _downloads(browser, downloads):
    for name, file in (("picture", "picture.png"), ("mask", "*.mask-*.png"), ("plan", "plan.json")):
        browser.click("#save summary")
        browser.click(f"[data-save={name}]")
        browser.until(lambda file=file: list(downloads.glob(file)), 20)
    (mask,) = [path for path in downloads.glob("*.png") if ".mask-" in path.name]
    with Image.open(downloads / "picture.png") as made, Image.open(mask) as hole:
        made, hole = np.asarray(made), np.asarray(hole) >= 128
    with Image.open(PHOTO) as photo:
        before = np.asarray(photo.convert("RGB"))
    assert np.array_equal(made[~hole], before[~hole])
    assert not np.array_equal(made[hole], before[hole])
    plan = json.loads((downloads / "plan.json").read_text())
    assert (plan["category"], plan["mask"]["file"]) == ("local", mask.name)
    for path in downloads.iterdir():
        path.unlink()


class Server:
    """`python -m brushjax app` in a process of its own."""

    def __enter__(self):
        words = [sys.executable, "-m", "brushjax", "app", "--port", "0"]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        line = self._process.stdout.readline()
        return re.search(r"http://\S+", line)[0]

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("mobile", [False, True], ids=["desktop", "phone"])
def test_browser_does_a_whole_session(tmp_path, mobile):
    assert shutil.which("chromedriver"), "expected Chromium and chromedriver on the PATH"
    with Server() as address:
        times = session(address, tmp_path, mobile=mobile)
    print({name: round(seconds, 2) for name, seconds in times.items()})
    assert times["told"] <= SEEN
    assert times["done"] <= PAINTED


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with Server() as address:
        for mobile in (False, True):
            found = session(address, Path(tempfile.mkdtemp()), folder, mobile)
            print("phone" if mobile else "desktop", {k: round(v, 3) for k, v in found.items()})
