"""A real browser, driven over the WebDriver protocol: Chromium with its chromedriver."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name of a reference
KEYS = {"enter": "\ue007", "escape": "\ue00c", "control": "\ue009", "shift": "\ue008"}


class Browser:
    """One window."""

    def __init__(self, width, height, downloads, mobile=False):
        self.port = _free_port()
        self._driver = subprocess.Popen(
            [shutil.which("chromedriver"), f"--port={self.port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.base = f"http://127.0.0.1:{self.port}"
        self.until(lambda: self._call("GET", "/status")["ready"], 30)
        arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage"]
        arguments += [f"--window-size={width},{height}", "--hide-scrollbars", "--no-first-run"]
        arguments += ["--no-sandbox"] if os.getuid() == 0 else []
        several = "profile.default_content_setting_values.automatic_downloads"
        prefs = {"download.default_directory": str(downloads), several: 1}
        options = {"args": arguments, "prefs": prefs}
        if mobile:
            metrics = {"width": width, "height": height, "pixelRatio": 2, "touch": True}
            options["mobileEmulation"] = {"deviceMetrics": metrics}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        wanted["goog:loggingPrefs"] = {"browser": "ALL"}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{made['sessionId']}"
        rect = {"width": width, "height": height}
        if not mobile:
            self._call("POST", "/window/rect", rect)
            inner = self.run("return innerHeight")
            self._call("POST", "/window/rect", {**rect, "height": height + height - inner})

    def close(self):
        with contextlib.suppress(OSError):
            self._call("DELETE", "")
        self._driver.terminate()
        self._driver.wait(10)

    def go(self, address):
        self._call("POST", "/url", {"url": address})

    def run(self, script, *arguments):
        """What a script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def later(self, script):
        """What a script hands to its last argument, once it does."""
        return self._call("POST", "/execute/async", {"script": script, "args": []})

    def element(self, css):
        (found,) = self._call("POST", "/element", {"using": "css selector", "value": css}).values()
        return found

    def type(self, css, text):
        self._call("POST", f"/element/{self.element(css)}/value", {"text": text})

    def click(self, css):
        self.run(f"document.querySelector({css!r}).scrollIntoView({{block: 'center'}})")
        self._call("POST", f"/element/{self.element(css)}/click", {})

    def press(self, *keys):
        """Presses keys together."""
        keys = [KEYS.get(key, key) for key in keys]
        steps = [{"type": "keyDown", "value": key} for key in keys]
        steps += [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self._act({"type": "key", "id": "keys", "actions": steps})

    def drag(self, points, touch=False):
        """Moves the pressed mouse, or a finger, over points of the window."""
        points = [(round(x), round(y)) for x, y in points]
        move = lambda p, ms: {"type": "pointerMove", "duration": ms, "x": p[0], "y": p[1]}  # noqa: E731
        steps = [move(points[0], 0), {"type": "pointerDown", "button": 0}]
        steps += [move(point, 40) for point in points[1:]] + [{"type": "pointerUp", "button": 0}]
        kind = {"pointerType": "touch" if touch else "mouse"}
        name = "finger" if touch else "mouse"
        self._act({"type": "pointer", "id": name, "parameters": kind, "actions": steps})

    def until(self, ready, seconds=60, every=0.05):
        """What `ready` returns once that is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if found := ready():
                    return found
            time.sleep(every)
        raise TimeoutError(f"not within {seconds} s")

    def wait(self, script, seconds=60):
        return self.until(lambda: self.run(f"return {script}"), seconds)

    def picture(self, path):
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def said(self):
        """What the page wrote to the console, errors among it."""
        return [row["message"] for row in self._call("POST", "/se/log", {"type": "browser"})]

    def _act(self, source):
        self._call("POST", "/actions", {"actions": [source]})

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, method=method)
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            said = json.load(error)["value"]
            raise RuntimeError(f"{said['error']}: {said['message'].splitlines()[0]}") from None


def _free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]
