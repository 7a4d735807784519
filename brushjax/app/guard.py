"""Who may ask, and how much: names of hosts, a password, sizes, times, and headers of answers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

import h11
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

MARK = "x-brushjax"  # a header that other sites' pages can't send: theirs are refused
HEADERS_SECONDS = 15.0
GUESSES = 4  # passwords that are looked at at once
WRONG_SECONDS = 1.0
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class TooLarge(ValueError):
    """A request is larger than it may be."""


class TooSlow(ValueError):
    """A request did not come in time."""


class Guard:
    """Lets only requests through to an application that are addressed to us, and know the password.

    What is asked under /api/ has to carry the header MARK, so that no other site's page can ask it
    in a visitor's name.
    """

    def __init__(self, app: Any, hosts: Sequence[str], password: str = ""):
        """Args:
        hosts: names under which the server is reached, without port; "*" is any.
        password: empty for none.
        """
        self._app, self._hosts, self._password = app, {*hosts}, password
        self._looking = asyncio.Semaphore(GUESSES)
        self._known: set[bytes] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers, or has the application answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = await self._refused(Request(scope))

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await (refused or self._app)(scope, receive, answer)

    async def _refused(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if "*" not in self._hosts and name.strip("[]").lower() not in self._hosts:
            return refusal(421, "this server is not reached under that name (--domain)")
        if self._password and not await self._allowed(request.headers.get("authorization", "")):
            challenge = {"www-authenticate": 'Basic realm="brushjax", charset="UTF-8"'}
            return refusal(401, "a password is needed", challenge)
        if request.url.path.startswith("/api/") and MARK not in request.headers:
            return refusal(403, f"expected the header {MARK}")
        return None

    async def _allowed(self, given: str) -> bool:
        """Whether a header holds the password; wrong ones take a while, and few at a time."""
        if not given:
            return False
        key = hashlib.sha256(given.encode()).digest()
        if key in self._known:
            return True
        async with self._looking:
            if secrets.compare_digest(_password(given).encode(), self._password.encode()):
                if len(self._known) < 256:  # users' names may be anything
                    self._known.add(key)
                return True
            await asyncio.sleep(WRONG_SECONDS)
        return False


def _password(header: str) -> str:
    kind, _, coded = header.partition(" ")
    try:
        text = base64.b64decode(coded, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    return text.partition(":")[2] if kind.lower() == "basic" else ""


def refusal(status: int, said: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says why there is none."""
    return JSONResponse({"error": said}, status, {"cache-control": "no-store", **(headers or {})})


async def body(request: Request, most: int, seconds: float | int) -> bytes:
    """Reads a request's content, and no more than may be.

    Raises:
        TooLarge, TooSlow; ClientDisconnect: it is gone.
    """
    stated = request.headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > most:
        raise TooLarge(f"expected at most {most >> 20} MB")
    parts, size = [], 0
    try:
        async with asyncio.timeout(float(seconds)):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise TooLarge(f"expected at most {most >> 20} MB")
                parts.append(part)
    except TimeoutError as error:
        raise TooSlow(f"expected all of it within {seconds} seconds") from error
    return b"".join(parts)


class Patient(H11Protocol):
    """HTTP/1.1 that doesn't wait for ever for a request's head."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._waiting is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEADERS_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = None


__all__ = ["MARK", "ClientDisconnect", "Guard", "Patient", "TooLarge", "TooSlow", "body", "refusal"]
