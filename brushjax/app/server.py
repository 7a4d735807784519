"""The server: one page, and what it asks for under /api/.

A page gets a room with a secret of its own, which each request carries in a header. Nothing that a
request says is taken for a path; files are named by numbers of turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mimetypes
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from brushjax import __version__
from brushjax.app import edits
from brushjax.app.guard import ClientDisconnect, Guard, TooLarge, TooSlow, body, refusal
from brushjax.app.jobs import Cancelled, Full, Job, Queue
from brushjax.app.models import Models, Withheld
from brushjax.app.requests import JSON_BYTES, Ask, Find, Paint, Turn, read
from brushjax.app.rooms import Limits, Room, Rooms
from brushjax.data.sets.photos import load_photos

ROOM = "x-room"
HEARTBEAT = 15.0  # seconds: a stream says something at least as often
SAMPLES = ("temple", "raccoon", "flower", "coffee")  # photographs of the package
NAMES = {"picture": "picture.png", "plan": "plan.json"}
Answer = Callable[[Request, Room], Awaitable[Response]]


class App:
    """The rooms, the queues and the models of a server, and its answers."""

    def __init__(self, models: Models, limits: Limits, rooms: Rooms):
        self.models, self.limits, self.rooms = models, limits, rooms
        self.painting = Queue(limits.jobs_each, limits.jobs)
        self.thinking = Queue(1, limits.jobs)
        self.warmth = Job("", lambda job: edits.warm_up(models, job), changed=rooms.changed)
        self._files = _static()
        self._decoding = asyncio.Semaphore(2)  # pictures at once: they take memory

    def start(self) -> None:
        """Begins to load and compile."""
        self.painting.put(self.warmth)
        self.warmth.result.add_done_callback(_told_why)

    def close(self) -> None:
        """Ends all work and removes what was kept."""
        self.painting.close()
        self.thinking.close()
        self.rooms.close()

    def asgi(self, hosts: Sequence[str], password: str = "") -> Guard:
        """The application that a server runs."""
        routes = [Route(f"/{name}", self._file, methods=["GET"]) for name in self._files]
        routes += [
            Route("/", self._file, methods=["GET"]),
            Route("/api/room", self._enter, methods=["POST"]),
            *(
                Route(f"/api/{path}", self._in_room(answer), methods=[method])
                for method, path, answer in (
                    ("GET", "news", self._news),
                    ("PUT", "picture", self._picture),
                    ("POST", "sample/{name}", self._sample),
                    ("POST", "anew", self._anew),
                    ("POST", "plan", self._plan),
                    ("POST", "find", self._find),
                    ("POST", "paint", self._paint),
                    ("POST", "cancel", self._cancel),
                    ("POST", "go", self._go),
                    ("POST", "undo", self._undo),
                    ("GET", "turn/{number:int}/{name}", self._turn),
                )
            ),
            Route("/api/sample/{name}", self._shown, methods=["GET"]),
        ]
        app = Starlette(routes=routes, lifespan=self._lifespan)
        return Guard(app, hosts, password)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        self.start()
        try:
            yield
        finally:
            await run_in_threadpool(self.close)

    # --- answers

    async def _file(self, request: Request) -> Response:
        content, kind = self._files[request.url.path.lstrip("/") or "index.html"]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    async def _enter(self, request: Request) -> Response:
        room = self.rooms.get(request.headers.get(ROOM, ""))  # a page that was loaded again
        try:
            room = room or await run_in_threadpool(self.rooms.create)
        except Full as error:
            return refusal(503, str(error))
        offered = await run_in_threadpool(self.models.describe)
        return _json({"room": room.token, "samples": SAMPLES, "version": __version__, **offered})

    async def _shown(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in SAMPLES:
            return refusal(404, "there is no such picture")
        picture = await run_in_threadpool(_sample, name)
        return Response(edits.thumbnail(picture), media_type="image/jpeg")

    async def _news(self, request: Request, room: Room) -> Response:
        del request
        return StreamingResponse(self._told(room), media_type="application/x-ndjson",
                                 headers={"cache-control": "no-store"})  # fmt: skip

    async def _told(self, room: Room) -> AsyncIterator[str]:
        """The room's state now and after each change, one line of JSON each."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def changed() -> None:
            with contextlib.suppress(RuntimeError):  # the server's loop has ended
                loop.call_soon_threadsafe(news.set)

        leave = room.watch(changed)
        try:
            said = ""
            while not room.closed:
                news.clear()
                row = room.describe(self.painting.ahead) | {"warm": not self.warmth.active}
                line = json.dumps(row)
                yield "\n" if line == said else f"{line}\n"
                said = line
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), HEARTBEAT)
        finally:
            leave()
            loop.call_later(float(self.limits.away), self._drop_if_left, room)

    def _drop_if_left(self, room: Room) -> None:
        if not room.watched:
            self.painting.drop(room.name)
            self.thinking.drop(room.name)

    async def _picture(self, request: Request, room: Room) -> Response:
        async with self._decoding:
            data = await body(request, self.limits.upload_bytes, self.limits.upload_seconds)
        async with self._decoding:
            picture = await run_in_threadpool(edits.decoded, data, self.limits)
            del data
        return await self._begun(room, picture)

    async def _sample(self, request: Request, room: Room) -> Response:
        name = request.path_params["name"]
        if name not in SAMPLES:
            return refusal(404, "there is no such picture")
        return await self._begun(room, await run_in_threadpool(_sample, name))

    async def _anew(self, request: Request, room: Room) -> Response:
        asked = await self._json(Turn, request)
        return await self._begun(room, room.opened().picture(asked.turn))

    async def _begun(self, room: Room, picture: Any) -> Response:
        def begin() -> None:
            self.models.check([picture])
            self.painting.drop(room.name)
            room.job = None
            room.begin(picture)

        await run_in_threadpool(begin)
        return _json({"width": picture.shape[1], "height": picture.shape[0]})

    async def _plan(self, request: Request, room: Room) -> Response:
        asked = await self._json(Ask, request)
        return await self._thought(room, lambda job: edits.planned(room, self.models, asked, job))

    async def _find(self, request: Request, room: Room) -> Response:
        asked = await self._json(Find, request)
        return await self._thought(room, lambda job: edits.found(room, self.models, asked, job))

    async def _thought(self, room: Room, work: Callable[[Job], Any]) -> Response:
        job = self.thinking.put(Job(room.name, work))
        try:
            return _json(await asyncio.wrap_future(job.result))
        except Cancelled:
            return refusal(409, "cancelled")

    async def _paint(self, request: Request, room: Room) -> Response:
        asked = await self._json(Paint, request)

        def begin() -> None:
            self.models.check_names(asked)
            picture = room.opened().picture(asked.turn)
            asked.plan(picture)  # what can't be painted is said at once
            room.check_space(asked.count, *picture.shape[:2])
            work = lambda job: edits.paint(room, self.models, asked, job)  # noqa: E731
            job = Job(room.name, work, asked.count, room.changed)
            self.painting.put(job)
            room.job = job

        await run_in_threadpool(begin)
        room.changed()
        return _json({}, 202)

    async def _cancel(self, request: Request, room: Room) -> Response:
        del request
        self.painting.drop(room.name)
        self.thinking.drop(room.name)
        return _json({})

    async def _go(self, request: Request, room: Room) -> Response:
        asked = await self._json(Turn, request)
        return await self._moved(room, lambda: room.opened().go(asked.turn))

    async def _undo(self, request: Request, room: Room) -> Response:
        del request
        return await self._moved(room, lambda: room.opened().undo())

    async def _moved(self, room: Room, move: Callable[[], int]) -> Response:
        def locked() -> int:
            with room.lock:
                return move()

        at = await run_in_threadpool(locked)
        room.changed()
        return _json({"at": at})

    async def _turn(self, request: Request, room: Room) -> Response:
        number, name = request.path_params["number"], request.path_params["name"]
        session = room.opened()
        if name == "thumb":
            picture = await run_in_threadpool(session.picture, number)
            return _kept(edits.thumbnail(picture), "image/jpeg")
        path = session.files(number).get(name)
        if path is None:
            return refusal(404, f"turn {number} has no {name}")
        content = await run_in_threadpool(path.read_bytes)
        kind = "application/json" if name == "plan" else "image/png"
        return _kept(content, kind, NAMES.get(name, path.name))

    # --- what answers share

    def _in_room(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            room = self.rooms.get(request.headers.get(ROOM, ""))
            if room is None:
                return refusal(410, "this room is closed")
            try:
                return await answer(request, room)
            except Full as error:
                return refusal(429, str(error))
            except TooLarge as error:
                return refusal(413, str(error))
            except TooSlow as error:
                return refusal(408, str(error))
            except Withheld as error:
                return refusal(451, str(error))
            except ClientDisconnect:
                return refusal(400, "gone")
            except (ValueError, TypeError, FloatingPointError) as error:
                return refusal(400, " ".join(str(error).split()))
            except FileNotFoundError:  # the room's page opened another picture meanwhile
                return refusal(409, "this picture is no longer here")

        return answered

    async def _json(self, kind: type[Any], request: Request) -> Any:
        return read(kind, await body(request, JSON_BYTES, self.limits.upload_seconds))


def _told_why(warmth: Any) -> None:
    """Says on the console why the first models can't be used; pages are told when they paint."""
    error = warmth.exception()
    if isinstance(error, ValueError):
        print(f"error: {error}", file=sys.stderr, flush=True)


def _json(row: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(row, status, {"cache-control": "no-store"})


def _kept(content: bytes, kind: str, name: str = "") -> Response:
    """A turn's file: it never changes, and is private to its room."""
    headers = {"cache-control": "private, no-store"}
    if name:
        headers["content-disposition"] = f'attachment; filename="{name}"'
    return Response(content, media_type=kind, headers=headers)


def _sample(name: str) -> Any:
    (found,) = [photo for photo in load_photos() if photo.name == name]
    return found.pixels


def _static() -> dict[str, tuple[bytes, str]]:
    """The page's files by name, read once: requests open none."""
    files = (file for file in resources.files("brushjax.app").joinpath("static").iterdir())
    return {
        file.name: (file.read_bytes(), mimetypes.guess_type(file.name)[0] or "text/plain")
        for file in files
        if file.is_file()
    }
