"""A server of the editor in a thread, and pages that ask it over HTTP; no networks in it."""

import base64
import contextlib
import http.client
import io
import json
import threading
import time

import numpy as np
from PIL import Image

from brushjax.app.arguments import AppArguments
from brushjax.app.command import served
from brushjax.app.models import Models
from brushjax.app.rooms import Limits, Rooms
from brushjax.app.server import App
from tests.agents.noise import Noise


class Stepping(Noise):
    """Paints noise in steps that can be watched, held and counted."""

    def __init__(self):
        super().__init__()
        self.steps, self.free, self.begun = 0, threading.Event(), threading.Event()
        self.free.set()

    def __call__(self, *given, progress, steps, **how):
        for step in range(steps + 1):
            self.begun.set()
            if not self.free.wait(0.02):  # held: goes on slowly
                time.sleep(0.02)
            progress(step, steps)
            self.steps += 1
        how.pop("crop")
        return super().__call__(*given, **how)


@contextlib.contextmanager
def serving(folder, painter, password="", hosts=None, limits=None, safety=None, **arguments):
    """Runs a server; gives its application, which has `port`."""
    given = AppArguments(folder=folder, port=0, safety=safety, **arguments)
    models = Models(given)
    models.painter = lambda base, branch: painter
    limits = limits or Limits()
    app = App(models, limits, Rooms(limits, folder))
    server = served(app, given, password)
    server.config.port = 0
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    app.port = server.servers[0].sockets[0].getsockname()[1]
    painter.begun.clear()
    app.warmth.result.result(30)
    painter.steps = 0
    yield app
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


class Page:
    """What a page does, over HTTP."""

    def __init__(self, port, **headers):
        self.port, self.headers = port, {"X-Brushjax": "1", **headers}
        entered = self.ask("POST", "/api/room")
        self.offered = entered.json if entered.status == 200 else {}
        self.headers["X-Room"] = self.offered.get("room", "")
        self.streams = []

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        connection.request(method, path, body, {**self.headers, **headers})
        answer = connection.getresponse()
        answer.content = answer.read()
        connection.close()
        said = answer.headers.get("content-type", "").startswith("application/json")
        answer.json = json.loads(answer.content) if said else None
        return answer

    def post(self, path, **body):
        return self.ask("POST", f"/api/{path}", body)

    def open(self, picture):
        answer = self.ask("PUT", "/api/picture", png(picture))
        assert answer.status == 200, answer.content
        return answer.json

    def news(self):
        """A stream of states, which ends when `left` is called."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/api/news", headers=self.headers)
        stream = connection.getresponse()
        self.streams.append((connection, stream))
        while line := stream.readline():
            if line.strip():
                yield json.loads(line)

    def left(self):
        """Closes its streams as a closed tab does."""
        for connection, stream in self.streams:
            stream.close()
            connection.close()
        self.streams.clear()

    def until(self, ready):
        """The first state for which `ready` is true."""
        for state in self.news():
            if ready(state):
                self.left()
                return state
        raise AssertionError("the stream ended")

    def paint(self, mask, turn=0, **changes):
        values = {"instruction": "replace the dog with a cat", "category": "local"}
        values |= {"object": "dog", "target_caption": "a cat", "steps": 4, "guidance": 3}
        values |= {"turn": turn, "mask": base64.b64encode(png(mask)).decode(), "base": "tiny"}
        return self.post("paint", **(values | {"branch": "its own"} | changes))

    def painted(self, mask, turn=0, **changes):
        answer = self.paint(mask, turn, **changes)
        assert answer.status == 202, answer.content
        return self.until(lambda state: state["job"]["state"] not in ("waiting", "running"))

    def picture(self, number):
        return pixels(self.ask("GET", f"/api/turn/{number}/picture").content)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
