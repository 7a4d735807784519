"""The command `python -m brushjax app`: the web editor, on this machine."""

from __future__ import annotations

import importlib.util
import os
import socket
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from brushjax import config as configs
from brushjax.app.arguments import AppArguments

if TYPE_CHECKING:
    from brushjax.app.server import App

PASSWORD = "BRUSHJAX_PASSWORD"
LOCAL = ("127.0.0.1", "localhost", "::1")
CONNECTIONS = 256  # at once; more are answered "busy"
HEAD_BYTES = 1 << 14  # of a request
MOST_PORT = (1 << 16) - 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax app ...`, with the process's own arguments by default."""
    app_command(configs.parsed(AppArguments, arguments, "brushjax app"))


def app_command(arguments: AppArguments) -> None:
    """Serves until it is stopped.

    Raises:
        SystemExit: with a message instead of a traceback, for what can't be served.
    """
    try:
        password = checked(arguments)
        with _listening(arguments) as listening:
            app = make(arguments)
            address = _address(arguments.host, listening.getsockname()[1])
            print(f"brushjax is at {address} (Ctrl+C ends it)", flush=True)
            if arguments.browser:
                webbrowser.open(address)
            served(app, arguments, password).run(sockets=[listening])
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


def _address(host: str, port: int) -> str:
    """Where a browser finds the server."""
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def checked(arguments: AppArguments) -> str:
    """Returns the password.

    Raises:
        ValueError: others would be served without one; values that are out of range.
    """
    password = os.environ.get(PASSWORD, "")
    if arguments.host not in LOCAL and not password and not arguments.open:
        raise ValueError(
            f"expected a password in {PASSWORD} to serve at {arguments.host}, which others reach; "
            "or --open for none"
        )
    for name, least in (("rooms", 1), ("room_mb", 16), ("side", 64), ("steps", 1)):
        if getattr(arguments, name) < least:
            raise ValueError(f"expected --{name.replace('_', '-')} of at least {least}")
    if not 0 <= arguments.port <= MOST_PORT:
        raise ValueError(f"expected --port of 0 to {MOST_PORT}, got {arguments.port}")
    return password


def make(arguments: AppArguments) -> App:
    """Makes the application: its models are loaded once it runs.

    Raises:
        ImportError: the extra is not installed, with what to do.
        ValueError: a safety checker that is not there.
    """
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"expected {name}, which serves the editor: pip install -e '.[app]'")
    from brushjax.app.models import Models
    from brushjax.app.rooms import Limits, Rooms
    from brushjax.app.server import App

    limits = Limits(rooms=arguments.rooms, room_bytes=arguments.room_mb << 20, side=arguments.side)
    models = Models(arguments)
    return App(models, limits, Rooms(limits, arguments.folder))


def served(app: App, arguments: AppArguments, password: str = "") -> Any:
    """The server of an application, to be run."""
    import uvicorn

    from brushjax.app.guard import Patient

    hosts = [*LOCAL, arguments.host, socket.gethostname(), *arguments.domain]
    if arguments.host in ("0.0.0.0", "::") and not arguments.domain:
        hosts = ["*"]
    config = uvicorn.Config(
        app.asgi(hosts, password),
        http=Patient,
        ws="none",
        lifespan="on",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEAD_BYTES,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    return uvicorn.Server(config)


def _listening(arguments: AppArguments) -> socket.socket:
    """Takes the address.

    Raises:
        OSError: it is taken, or not ours.
    """
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((arguments.host, arguments.port))
    except OSError as error:
        made.close()
        raise OSError(
            f"can't listen at {arguments.host}:{arguments.port}: {error.strerror}; choose another "
            "--port, or 0 for a free one"
        ) from error
    made.listen(128)
    return made
