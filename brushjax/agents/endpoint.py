"""The instructor "endpoint": any server of OpenAI's chat protocol, such as vLLM or Ollama."""

from __future__ import annotations

import base64
import email.utils
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from brushjax import files
from brushjax.agents import replies
from brushjax.agents.plan import EditPlan, NotUnderstood
from brushjax.identity import digest
from brushjax.inference.images import read_image

URL = "https://api.openai.com/v1"
MODEL = "gpt-4o-2024-08-06"  # the reference's
KEY = "OPENAI_API_KEY"
VERSION = "1"  # of the question; part of the cache's key
LONGEST_SIDE = 1024  # pixels of the picture that is sent
LONGEST_WAIT = 60.0  # seconds that a server may ask for
MOST_BYTES = 1 << 20  # of a reply
MOST_TOKENS = 500  # of a plan
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)


class EndpointError(OSError):
    """An endpoint that could not be asked; one line, without the key."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another host must not get the key."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Endpoint:
    """Asks a model for category, object, captions and box in one request.

    Source: BrushEdit, section IV-A; one question instead of three.
    Differs: docs/deviations.md, agent-endpoint.
    """

    def __init__(
        self,
        model: str = MODEL,
        url: str = URL,
        key: str | None = None,
        cache: str | Path | None = None,
        timeout: float | int = 60.0,
        tries: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Sets an endpoint up; nothing is sent yet.

        Args:
            url: up to and with /v1.
            key: sent as bearer token, and nowhere else; None reads the environment's KEY.
            cache: folder of replies, by picture, question, model and url; None keeps none.
            timeout: seconds for one try, from the request to the reply's last byte.
            tries: how often in all, where a server is busy, slow or broken.
            sleep: waits between tries.

        Raises:
            ValueError: a url that is not http or https.
        """
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"expected an endpoint's url such as {URL}, got {url!r}")
        if tries < 1 or timeout <= 0:
            raise ValueError(f"expected tries >= 1 and timeout > 0, got {tries} and {timeout}")
        self.model, self.url, self.timeout, self.tries = model, url.rstrip("/"), timeout, tries
        self._key = os.environ.get(KEY, "") if key is None else key
        self._cache = Path(cache) if cache else None
        self._sleep = sleep
        self._open = urllib.request.build_opener(_NoRedirects).open

    def __call__(self, instruction: str, image: Any = None, source_caption: str = "") -> EditPlan:
        """Returns the plan, without mask.

        Raises:
            NotUnderstood: a reply that is no plan, is cut, or refuses.
            EndpointError: no reply, after all tries.
        """
        picture = None if image is None else read_image(image)
        sent, scale = (None, (1.0, 1.0)) if picture is None else _shrunk(picture)
        size = None if sent is None else sent.size
        system, user = replies.question(instruction, source_caption, size)
        place = self._place(picture, system, user)
        known = _cached(place)
        text = self.ask(system, user, sent) if known is None else known
        plan = replies.read_plan(text, instruction, picture, source_caption, scale)
        if place is not None and known is None:
            files.write_json(place, {"model": self.model, "reply": text})
        return plan

    def _place(self, picture: np.ndarray | None, system: str, user: str) -> Path | None:
        if self._cache is None:
            return None
        seen = b"" if picture is None else str(picture.shape).encode() + picture.tobytes()
        name = digest(VERSION, seen, system, user, self.model, self.url)
        return self._cache / f"{name}.json"

    def ask(
        self,
        system: str,
        user: str,
        picture: Image.Image | None = None,
        schema: Mapping[str, Any] = replies.SCHEMA,
    ) -> str:
        """Returns the reply to a question, which should be a JSON object of the schema.

        Raises:
            NotUnderstood: a reply that is cut, refuses, or is no text.
            EndpointError: no reply, after all tries.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": user}]
        if picture is not None:
            content.append({"type": "image_url", "image_url": {"url": _data_url(picture)}})
        form = {"name": "reply", "strict": True, "schema": schema}
        messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
        limit, wanted = MOST_TOKENS, {"type": "json_schema", "json_schema": form}
        try:
            return self.say(messages, limit, response_format=wanted)
        except _Refused as error:
            if "response_format" not in str(error) and "json_schema" not in str(error):
                raise
        # A server without structured output; the question says it too.
        return self.say(messages, limit)

    def say(self, messages: Sequence[Mapping[str, Any]], max_tokens: int, **more: Any) -> str:
        """Returns the text with which the model goes on, whatever it is.

        Args:
            messages: in the protocol's form.
            more: further fields of the request.

        Raises:
            NotUnderstood: a reply that is cut, refuses, or is no text.
            EndpointError: no reply, after all tries.
        """
        body = {"model": self.model, "messages": messages, "temperature": 0}
        return _text_of(self._sent({**body, "max_tokens": max_tokens, **more}))

    def _sent(self, body: Mapping[str, Any]) -> Any:
        """The reply's JSON, after as many tries as it takes."""
        reason = ""
        for attempt in range(self.tries):
            try:
                return self._once(body)
            except _Busy as busy:
                reason = str(busy)
                wait = 2.0**attempt if busy.wait is None else busy.wait
            if wait > LONGEST_WAIT:
                raise EndpointError(self._clean(f"{reason}; it asks to wait for {wait:.0f} s"))
            if attempt + 1 < self.tries:
                self._sleep(wait)
        raise EndpointError(self._clean(f"{reason}, {self.tries} times; try again later"))

    def _once(self, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        end = time.monotonic() + self.timeout
        try:
            with self._open(request, timeout=self.timeout) as reply:
                data = self._clean(_read(reply, end).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            with error:
                said = replies.shown(_said(error))
            if error.code in AGAIN:
                wait = _wait(error.headers.get("Retry-After"))
                raise _Busy(f"{self.url} answers {error.code}: {said}", wait) from None
            raise _Refused(self._clean(f"{self.url} answers {error.code}: {said}")) from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            raise _Busy(f"{self.url} gives no reply: {cause or type(error).__name__}") from None
        try:
            return json.loads(data)
        except ValueError:
            raise _Busy(f"{self.url} answers no JSON: {replies.shown(data)}") from None

    def _clean(self, message: str) -> str:
        return message.replace(self._key, "[key]") if self._key else message


class _Refused(EndpointError):
    """An answer that another try would not change."""


class _Busy(Exception):
    """An answer that another try may change."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


def _cached(place: Path | None) -> str | None:
    if place is None or not place.is_file():
        return None
    try:
        text = json.loads(place.read_text(encoding="utf-8"))["reply"]
    except (ValueError, KeyError, TypeError):
        return None  # damaged by others: asked anew and written over
    return text if isinstance(text, str) else None


def _text_of(reply: Any) -> str:
    """The text of a chat completion.

    Raises: NotUnderstood where it refuses, is cut, or is no chat completion.
    """
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content = message.get("content")
        if isinstance(content, list):  # parts, as some servers have it
            content = "".join(part.get("text", "") for part in content)
        refusal, cut = message.get("refusal"), choice.get("finish_reason") == "length"
    except (KeyError, IndexError, TypeError, AttributeError):
        raise NotUnderstood(f"expected a chat completion, got {replies.shown(reply)!r}") from None
    if refusal:
        raise NotUnderstood(f"the model refuses: {replies.shown(refusal)}")
    if cut:
        raise NotUnderstood(f"the reply is cut: {replies.shown(content)!r}")
    if not isinstance(content, str) or not content.strip():
        raise NotUnderstood(f"expected a text in the reply, got {replies.shown(content)!r}")
    return content


def _read(reply: Any, end: float) -> bytes:
    """All of a reply, unless it takes too long or never ends."""
    data = b""
    while piece := reply.read1(65536):
        data += piece
        if time.monotonic() > end:
            raise TimeoutError("timed out")
        if len(data) > MOST_BYTES:
            raise OSError(f"more than {MOST_BYTES} bytes")
    wanted = reply.headers.get("Content-Length", "")
    if wanted.isdigit() and len(data) < int(wanted):
        raise OSError(f"cut after {len(data)} of {wanted} bytes")
    return data


def _said(error: urllib.error.HTTPError) -> str:
    """What a server says of an error: OpenAI's field, or the beginning of its text."""
    try:
        data = error.read(2000)
    except (OSError, http.client.HTTPException):
        return str(error.reason)
    try:
        return str(json.loads(data)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode("utf-8", "replace") or str(error.reason)


def _wait(header: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _shrunk(picture: np.ndarray) -> tuple[Image.Image, tuple[float, float]]:
    """The picture as it is sent, and how many of its pixels one of those is."""
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image, (picture.shape[1] / image.width, picture.shape[0] / image.height)


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
