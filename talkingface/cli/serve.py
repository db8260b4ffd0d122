"""Command that runs the web server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from talkingface.cli.app import app
from talkingface.cli.options import AllowHost, Proxy, print_note, require_serve_extra
from talkingface.errors import BadRequest

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="where to listen; anything but this machine itself is a risk")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 finds a free one")] = 8000,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="a name or weights file to offer; repeat, the default first [cran, atvg]"
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="show the page in a browser")] = False,
    allow_host: AllowHost = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="files made at once [one per core]")
    ] = None,
    queue: Annotated[int, typer.Option(min=0, help="files that may wait")] = 8,
    streams: Annotated[
        int | None, typer.Option(min=1, help="live videos at once [one per core]")
    ] = None,
    picture_mb: Annotated[float, typer.Option(min=0.1, help="largest picture, MB")] = 25,
    sound_mb: Annotated[float, typer.Option(min=0.1, help="largest recording, MB")] = 200,
    megapixels: Annotated[float, typer.Option(min=0.1, help="most pixels of a picture")] = 64,
    live_minutes: Annotated[float, typer.Option(min=0.1, help="longest live video")] = 10,
    file_minutes: Annotated[float, typer.Option(min=0.1, help="longest file")] = 60,
    keep_minutes: Annotated[
        float, typer.Option(min=0.1, help="how long a job's file waits to be fetched")
    ] = 10,
    patience: Annotated[
        float, typer.Option(min=1, help="seconds before a silent client is dropped")
    ] = 30,
    work_minutes: Annotated[
        float, typer.Option(min=0.1, help="longest time for the work of one request")
    ] = 120,
    per_client: Annotated[
        int, typer.Option(min=1, help="requests with files at once, of one address")
    ] = 8,
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
    require_serve_extra("serve")
    from talkingface.web.limits import Limits
    from talkingface.web.serve import app as served
    from talkingface.web.server import bind, run
    from talkingface.web.service import Service

    listening = bind(host, port)
    given = {"jobs": jobs, "streams": streams}
    limits = Limits(
        picture_mb=picture_mb,
        sound_mb=sound_mb,
        megapixels=megapixels,
        live_minutes=live_minutes,
        file_minutes=file_minutes,
        queue=queue,
        keep_minutes=keep_minutes,
        patience=patience,
        work_minutes=work_minutes,
        per_client=per_client,
        **{name: value for name, value in given.items() if value is not None},
    )
    offered = model or ["cran", "atvg"]
    service = Service(offered, limits, temp)
    address = _address(host, listening.getsockname()[1])
    if host not in LOOPBACK:
        print_note(
            f"listening on {host}: whoever reaches this machine can use it, without a password and "
            "unencrypted; put a proxy with both before it (docs/serving.md)"
        )
    print(f"talkingface serves {address} until it is interrupted (Ctrl+C)")
    sys.stdout.flush()
    if open_page:
        typer.launch(address)
    run(
        served(service, [*(allow_host or []), host]),
        [listening],
        limits.idle_seconds,
        limits.connections,
        proxy or (),
    )


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown and '[' not in shown else shown}:{port}/"
