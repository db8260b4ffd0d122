"""Command that runs the web server."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkingface.cli.app import app
from talkingface.cli.controls import option, with_options
from talkingface.cli.options import AllowHost, Proxy, print_note, require_serve_extra
from talkingface.errors import BadRequest

if TYPE_CHECKING:
    from talkingface.web.worker_process import WorkerOptions

MODELS = ("cran", "atvg")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Limits by name, as in `talkingface.web.limits.Limits`; None keeps the number of cores.
_LIMITS: dict[str, tuple[Any, Any]] = {
    "jobs": option(int | None, None, min=1, help="files made at once [one per core]"),
    "queue": option(int, 8, min=0, help="files that may wait"),
    "streams": option(int | None, None, min=1, help="live videos at once [one per core]"),
    "picture_mb": option(float, 25, min=0.1, help="largest picture, MB"),
    "sound_mb": option(float, 200, min=0.1, help="largest recording, MB"),
    "megapixels": option(float, 64, min=0.1, help="most pixels of a picture"),
    "live_minutes": option(float, 10, min=0.1, help="longest live video"),
    "file_minutes": option(float, 60, min=0.1, help="longest file"),
    "keep_minutes": option(float, 10, min=0.1, help="how long a job's file waits to be fetched"),
    "patience": option(float, 30, min=1, help="seconds before a silent client is dropped"),
    "work_minutes": option(float, 120, min=0.1, help="longest time for the work of one request"),
    "drain_seconds": option(float, 30, min=0, help="time for work to end after SIGTERM"),
    "per_client": option(int, 8, min=1, help="requests with files at once, of one address"),
}
Host = Annotated[
    str, typer.Option(help="where to listen; anything but this machine itself is a risk")
]
Offered = Annotated[
    list[str] | None,
    typer.Option(help="a name or weights file to offer; repeat, the default first [cran, atvg]"),
]
Workers = Annotated[
    int, typer.Option(min=1, help="processes behind the port; limits are for all together")
]


@app.command()
@partial(with_options, argument="limits", options=_LIMITS, build=dict)
def serve(
    limits: dict[str, Any],
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 finds a free one")] = 8000,
    model: Offered = None,
    workers: Workers = 1,
    open_page: Annotated[bool, typer.Option("--open", help="show the page in a browser")] = False,
    allow_host: AllowHost = None,
    proxy: Proxy = None,
    temp: Annotated[
        Path | None, typer.Option(help="folder for temporary files [the system's]")
    ] = None,
) -> None:
    """Serve a page in which pictures speak, and an HTTP API.

    Videos are live or files. Nothing is kept: uploads and videos are gone with their request.
    docs/serving.md has the interface, the limits, and how to put it behind a proxy.

    Example: talkingface serve --open
    """
    if temp is not None and not temp.is_dir():
        raise BadRequest(f"--temp {temp}: is no folder; create it first")
    for name, value in limits.items():
        if value is not None and not math.isfinite(value):
            raise BadRequest(f"--{name.replace('_', '-')} {value}: give a finite number")
    require_serve_extra("serve")
    from talkingface.web import dispatcher
    from talkingface.web.server import bind
    from talkingface.web.worker_process import WorkerOptions

    listening = bind(host, port)
    address = _address(host, listening.getsockname()[1])
    started = partial(_announce, host, address, open_page)
    given = {name: value for name, value in limits.items() if value is not None}
    names = [*(allow_host or []), host]
    if workers > 1:
        most = max(workers, os.cpu_count() or 1)
        given = {"jobs": most, "streams": most, **given}
    options = WorkerOptions(model or MODELS, given, temp, names, proxy or (), workers)
    run = dispatcher.run if workers > 1 else _serve
    run(listening, options, started)


def _serve(listening: socket.socket, options: WorkerOptions, started: Callable[[], None]) -> None:
    """Serve with this process alone."""
    from talkingface.web.limits import Limits
    from talkingface.web.serve import app as served
    from talkingface.web.server import run
    from talkingface.web.service import Service

    limits = Limits(**options.limits)
    ready = served(Service(options.models, limits, options.temp), options.names)
    started()
    times = limits.idle_seconds, limits.connections
    run(ready, [listening], *times, options.proxies, limits.drain_seconds)


def _announce(host: str, address: str, open_page: bool) -> None:
    """Print where the page is, with a warning where others reach it."""
    if host not in LOOPBACK:
        print_note(
            f"listening on {host}: whoever reaches this machine can use it, without a password and "
            "unencrypted; put a proxy with both before it (docs/serving.md)"
        )
    print(f"talkingface serves {address} until it is interrupted (Ctrl+C)")
    sys.stdout.flush()
    if open_page:
        typer.launch(address)


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown and '[' not in shown else shown}:{port}/"
