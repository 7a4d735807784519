"""What people try who mean no good: the server answers, stays up, and keeps to its folder."""

import base64
import gc
import io
import json
import os
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brushjax.app import guard
from brushjax.app.rooms import Limits
from tests.app.serving import Page, Stepping, png, serving

LIMITS = Limits(
    upload_bytes=4 << 20, upload_pixels=4_000_000, upload_seconds=1, away=0.2, rooms=300
)
WRITES = {"open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink"}
touched, watching = [], threading.Event()


def note(event, arguments):
    if not (watching.is_set() and event in WRITES and isinstance(arguments[0], (str, bytes))):
        return
    path = os.fsdecode(arguments[0])
    if "/" in path:  # bare names are those that rmtree takes within a folder that it has opened
        touched.append(os.path.abspath(path))


sys.addaudithook(note)  # can't be taken away again; it does nothing while nobody watches


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width, height, rows=b""):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(kind, size=(64, 48), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind, **options)
    return buffer.getvalue()


def long_text():
    buffer = io.BytesIO()
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(40 << 20)))
    picture = png(np.zeros((48, 64, 3), np.uint8))
    buffer.write(picture[:33] + text + picture[33:])
    return buffer.getvalue()


PATHS = [
    *(
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/..\\..\\etc\\passwd",
    ),
    *("/static/app.js", "/index.html/../server.py", "/app.js%00.png", "/api", "/api/"),
    *("/api/turn/0/../../../../etc/passwd", "/api/turn/0/..%2f..%2fsession.json"),
    *("/api/turn/-1/picture", "/api/turn/99999999999999999999/picture", "/api/turn/0/picture%00"),
    *("/api/turn/0/plan", "/api/sample/..%2f..%2fphotos.json", "/api/sample/temple.jpg"),
    "/api/turn/0x0/picture",
]
UPLOADS = {
    "nothing": b"",
    "text": b"GET me out",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "html": b"<script>alert(1)</script>",
    "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "icon": saved("ICO"),
    "ppm": saved("PPM"),
    "bomb": png_of_size(60_000, 60_000),
    "bomb of true rows": png_of_size(20_000, 20_000, bytes(20_001 * 2000)),
    "bomb in a bmp": b"BM"
    + bytes(12)
    + struct.pack("<IiiHHI", 40, 1 << 30, 1 << 30, 1, 24, 0)
    + bytes(64),
    "one pixel": png_of_size(1, 1, b"\0\0"),
    "long and thin": png_of_size(60_000, 16, bytes(60_001 * 16)),
    "cut": saved("PNG", (640, 480))[:-400],
    "cut jpeg": saved("JPEG", (640, 480))[:900],
    "a text of 40 MB": long_text(),
    "tiff of nonsense": b"II*\0" + bytes(range(256)) * 4,
    "webp of nonsense": b"RIFF\xff\xff\xff\x7fWEBPVP8 " + bytes(64),
    "too many bytes": bytes((4 << 20) + 1),
}
TEXTS = {
    "no json": b"{",
    "a list": b"[]",
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "bytes": b"\xff\xfe\x00",
    "a number": b"1e999",
    "many": b'{"turn": ' + b"9" * 5000 + b"}",
}
PAINTS = [
    *({"turn": 10**6}, {"turn": -1}, {"turn": True}, {"turn": "0"}, {"turn": 1e3}, {"turn": None}),
    *({"base": "/etc"}, {"branch": "../../x"}, {"base": {"a": 1}}, {"method": "fireedit"}),
    *({"count": 1000}, {"count": 0}, {"steps": 10**9}, {"seed": -1}, {"seed": 2**80}),
    *({"guidance": float("nan")}, {"guidance": float("inf")}, {"scale": -5}, {"scheduler": "x"}),
    *({"mask": "/etc/passwd"}, {"mask": "%%%"}, {"mask": ""}, {"blend": "__class__"}),
    {"mask": base64.b64encode(png_of_size(60_000, 60_000)).decode()},
    {"mask": base64.b64encode(png_of_size(8, 8, bytes(72))).decode()},
    *({"instruction": "x" * 1001}, {"object": "a\0b"}, {"target_caption": "\ud800"}),
    *({"category": "../local"}, {"image": "/etc/passwd"}, {"__proto__": {}}),
]
RAW = [
    *(b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 4000, b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"),
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    b"PUT /api/picture HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"PUT /api/picture HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST /api/room HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
]


def raw(port, data):
    """The status of an answer to bytes; 0 where the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as made:
        try:
            made.sendall(data)
            answer = made.recv(200)
        except ConnectionError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def attack(app, picture, mask):
    """Asks all that is above; returns {name: status} of what was asked."""
    page, status = Page(app.port), {}
    page.open(picture)
    for path in PATHS:
        status[f"GET {path}"] = page.ask("GET", path).status
    for name, data in UPLOADS.items():
        status[f"upload {name}"] = page.ask("PUT", "/api/picture", data).status
    for name, data in TEXTS.items():
        status[f"json {name}"] = page.ask("POST", "/api/plan", data).status
    for changes in PAINTS:
        status[f"paint {str(changes)[:60]}"] = _painted(page, mask, changes)
    for data in RAW:
        code = raw(app.port, data)
        status[f"raw {data[:60]}"] = 400 if code in (0, 200) else code  # closed, or the page itself
    for headers in ({"X-Room": ""}, {"X-Room": "a" * 9000}, {"X-Room": "../../etc"}):
        status[f"room {str(headers)[:40]}"] = page.ask("POST", "/api/undo", {}, **headers).status
    for method in ("DELETE", "PATCH", "TRACE", "OPTIONS"):
        status[method] = page.ask(method, "/api/picture").status
    return status


def _painted(page, mask, changes):
    body = {"turn": 0, "base": "tiny", "branch": "its own", "steps": 1}
    body |= {"mask": base64.b64encode(png(mask)).decode()} | changes
    return page.ask("POST", "/api/paint", json.dumps(body).encode()).status


def crowd(app, picture, mask):
    """Two hundred at once, closed tabs, two users who paint, a slow upload."""
    pages = [Page(app.port) for _ in range(4)]
    for page in pages:
        page.open(picture)

    def one(i):
        page = pages[i % 4]
        if i % 5 == 0:
            return page.post("plan", turn=0, instruction="remove the dog").status
        if i % 5 == 1:
            return page.paint(mask, steps=2).status
        if i % 5 == 2:
            return page.ask("PUT", "/api/picture", png(picture)).status
        return page.ask("GET", "/api/turn/0/thumb").status

    with ThreadPoolExecutor(200) as pool:
        statuses = list(pool.map(one, range(200)))
    for page in pages:
        page.post("cancel")
    for _ in range(20):
        closed = Page(app.port)
        closed.open(picture)
        next(closed.news())
        closed.paint(mask, steps=100)
        closed.left()
    head = "PUT /api/picture HTTP/1.1\r\nHost: localhost\r\nX-Brushjax: 1\r\nX-Room: "
    head += f"{pages[0].headers['X-Room']}\r\nContent-Length: 999\r\n\r\nx"
    statuses.append(raw(app.port, head.encode()))
    return statuses


def names_do_no_harm(page, mask):
    script = '<script>alert(1)</script>"/../../x\r\nSet-Cookie: a=b'
    state = page.painted(mask, instruction=script, object=script, target_caption=script)
    answer = page.ask("GET", f"/api/turn/{state['at']}/mask")
    assert "set-cookie" not in answer.headers
    assert ".." not in answer.headers["content-disposition"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    return state["at"]


def memory():
    """Bytes of memory that this process takes."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def check_refused(status):
    """Each request was answered by a refusal."""
    assert len(status) >= 60
    assert {name: code for name, code in status.items() if not 400 <= code < 500} == {}


def check_touched(folder):
    """No file outside the server's folder was opened or changed, but for the program's own."""
    installed = (str(folder), "/proc/", "/dev/", str(Path(sys.prefix)), str(Path(sys.base_prefix)))
    foreign = {path for path in touched if not path.startswith(installed)}
    ours = str(Path(__file__).parents[2])
    code = {path for path in foreign if path.startswith(ours) and path.endswith((".py", ".pyc"))}
    assert foreign - code == set()


def test_hostile_requests_are_refused_and_touch_no_file(tmp_path, picture, mask, monkeypatch):
    monkeypatch.setattr(guard, "HEADERS_SECONDS", 2.0)
    with serving(tmp_path, Stepping(), limits=LIMITS) as app:
        touched.clear()
        watching.set()
        check_refused(attack(app, picture, mask))
        page = Page(app.port)
        page.open(picture)
        assert names_do_no_harm(page, mask) == 1
        watching.clear()
        check_touched(tmp_path)


@pytest.mark.slow
def test_hostile_crowds_leave_the_server_as_it_was(tmp_path, picture, mask, monkeypatch):
    monkeypatch.setattr(guard, "HEADERS_SECONDS", 2.0)
    with serving(tmp_path, Stepping(), limits=LIMITS) as app:
        attack(app, picture, mask)  # what is loaded on first use is loaded
        crowd(app, picture, mask)
        before = memory()
        touched.clear()
        watching.set()
        check_refused(attack(app, picture, mask))
        statuses = crowd(app, picture, mask)
        watching.clear()
        assert {*statuses} <= {200, 202, 400, 408, 409, 429, 503}
        assert 408 in statuses
        end = time.monotonic() + 10
        while app.painting._jobs() and time.monotonic() < end:
            time.sleep(0.05)
        assert app.painting._jobs() == []
        page = Page(app.port)
        page.open(picture)
        assert page.painted(mask)["job"]["state"] == "done"
        after = memory()
        print(f"memory {before >> 20} MB, then {after >> 20} MB; {Counter(statuses)}")
        assert after <= 1.1 * before
        check_touched(tmp_path)
