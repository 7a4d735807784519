"""Who may ask, and how much."""

import base64
import socket
import time

import numpy as np
import pytest

from brushjax import cli
from brushjax.app import command, guard
from brushjax.app.rooms import Limits
from tests.app.serving import Page, Stepping, png, serving


def basic(password, user="me"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_password_is_asked_for_and_guesses_are_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "WRONG_SECONDS", 0.3)
    with serving(tmp_path, Stepping(), password="geheim, ü") as app:
        assert Page(app.port).offered == {}
        page = Page(app.port, Authorization=basic("geheim, ü"))
        assert page.offered["bases"] == ["tiny"]
        for header in ("", basic("wrong"), "Basic %%%", "Bearer geheim, x", "Basic"):
            start = time.monotonic()
            answer = page.ask("GET", "/", Authorization=header)
            assert answer.status == 401, header
            assert answer.headers["www-authenticate"].startswith("Basic")
            assert not header or time.monotonic() - start >= 0.3
        assert page.ask("GET", "/").status == 200


def test_requests_under_other_names_and_of_other_sites_are_refused(app):
    page = Page(app.port)
    assert page.ask("GET", "/", Host="evil.example").status == 421
    assert page.ask("GET", "/", Host=f"localhost:{app.port}").status == 200
    del page.headers["X-Brushjax"]
    answer = page.ask("POST", "/api/room", Origin="http://evil.example")
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers
    assert page.ask("OPTIONS", "/api/room").status in (403, 405)


def test_uploads_are_bounded_in_bytes_pixels_and_time(tmp_path, picture):
    limits = Limits(upload_bytes=100_000, upload_pixels=10_000, upload_seconds=0.5)
    with serving(tmp_path, Stepping(), limits=limits) as app:
        page = Page(app.port)
        page.open(picture)
        assert page.ask("PUT", "/api/picture", bytes(100_001)).status == 413
        many = iter([bytes(50_000)] * 3)  # sent in chunks, without a length
        assert page.ask("PUT", "/api/picture", many).status == 413
        large = page.ask("PUT", "/api/picture", png(np.zeros((101, 100, 3), np.uint8)))
        assert (large.status, "10000 pixels" in large.json["error"]) == (400, True)
        with socket.create_connection(("127.0.0.1", app.port)) as slow:
            head = "PUT /api/picture HTTP/1.1\r\nHost: localhost\r\nX-Brushjax: 1\r\nX-Room: "
            slow.sendall(f"{head}{page.headers['X-Room']}\r\nContent-Length: 900\r\n\r\nx".encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_a_connection_that_says_nothing_is_closed(app, monkeypatch):
    monkeypatch.setattr(guard, "HEADERS_SECONDS", 0.2)
    for said in (b"", b"GET / HTTP/1.1\r\nHost: local"):
        with socket.create_connection(("127.0.0.1", app.port), timeout=5) as silent:
            silent.sendall(said)
            assert silent.recv(100) == b""
    page = Page(app.port)
    assert page.ask("GET", "/").status == 200


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "expected a password in BRUSHJAX_PASSWORD"),
        (["--rooms", "0"], "expected --rooms of at least 1"),
        (["--port", "99999"], "expected --port of 0 to 65535, got 99999"),
        (["--port", "0", "--safety", "nothing"], "expected --safety module:function"),
        (["--port", "0", "--safety", "math:pi"], "expected --safety module:function"),
    ],
)
def test_app_command_refuses_what_it_cannot_serve(words, said, monkeypatch):
    monkeypatch.delenv(command.PASSWORD, raising=False)
    with pytest.raises(SystemExit, match=f"error: {said}"):
        cli.main(["app", *words])


def test_app_command_says_that_its_port_is_taken(app):
    with pytest.raises(SystemExit, match=r"can't listen at 127\.0\.0\.1"):
        cli.main(["app", "--port", str(app.port)])


def test_app_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"expected starlette.*pip install -e '\.\[app\]'"):
        cli.main(["app", "--port", "0"])
