"""Commands of the user study: make it, let people vote, print the table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from talkingface.cli.app import study_app
from talkingface.cli.controls import option, takes_report, with_options
from talkingface.cli.options import (
    AllowHost,
    Overwrite,
    Proxy,
    Reporter,
    print_note,
    require_serve_extra,
)
from talkingface.errors import BadRequest

StudyFolder = Annotated[Path, typer.Argument(help="what `talkingface study make` wrote")]


# Settings by name, as in `talkingface.study.store.Design`.
_DESIGN: dict[str, tuple[Any, Any]] = {
    "per_pair": option(int, 10, help="ratings wanted of each pair"),
    "tasks": option(int, 60, help="pairs that a rater sees, at most, attention checks among them"),
    "checks": option(float, 0.1, help="share of attention checks in what a rater sees, 0 to 0.5"),
    "contact": option(str, "", help="who runs the study and how to reach them, shown to raters"),
    "seed": option(int, 0, help="of samples, orders and sides"),
}


@study_app.command()
@takes_report
@partial(with_options, argument="design", options=_DESIGN, build=dict)
def make(
    methods: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=FOLDER...",
            help="a folder of videos for each method; the first is compared with every other",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="a new folder, for the study")],
    design: dict[str, Any],
    report: Reporter,
    samples: Annotated[
        int | None, typer.Option(help="so many, drawn by --seed [all that every method has]")
    ] = None,
) -> None:
    """Make a study of folders of videos, one folder for each method.

    Files of the same name are the same sample. The videos are copied without being encoded anew,
    under names of chance and without their metadata, so that nobody who votes can tell which
    method made what. Attention checks, a video beside its spoiled twin, are made along with it.

    Example: talkingface study make ours=out/cran chung=out/chung zhou=out/zhou -o study
    """
    from talkingface.study import creation
    from talkingface.study.store import Design

    folders, settings = _folders(methods), Design(**design)
    with report.progress("videos") as progress:
        made = creation.create_study(folders, out, settings, samples=samples, progress=progress)
    for line in made.notes:
        report.note(line)
    text = (
        f"{made.samples} samples, {made.pairs} pairs, {made.checks} attention checks; "
        f"`talkingface study serve {out}` lets people vote"
    )
    facts = {"samples": made.samples, "pairs": made.pairs, "checks": made.checks}
    report.result(out, text, **facts, note="; ".join(made.notes) or None)


def _folders(methods: Sequence[str]) -> dict[str, Path]:
    """Return the folders of videos by method. Raises BadRequest."""
    folders: dict[str, Path] = {}
    for method in methods:
        name, equals, folder = method.partition("=")
        if not equals or not folder:
            raise BadRequest(f"{method!r}: give each method as NAME=FOLDER")
        if name in folders:
            raise BadRequest(f"two methods are called {name!r}: give each its own name")
        folders[name] = Path(folder)
    return folders


@study_app.command()
def serve(
    folder: StudyFolder,
    host: Annotated[
        str, typer.Option(help="where to listen; 0.0.0.0 for everybody who reaches this machine")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free", min=0, max=65535)] = 8001,
    allow_host: AllowHost = None,
    proxy: Proxy = None,
) -> None:
    """Let people vote in their browser, until interrupted.

    Every answer is kept at once: the server may be stopped and started again at any time, and who
    comes back goes on where they stopped. Put a server that speaks HTTPS before it where raters
    come over the internet.

    Example: talkingface study serve study --port 8001
    """
    require_serve_extra("study serve")
    from talkingface.web import server, study

    app = study.application(folder, [*(allow_host or []), host])
    with server.bind(host, port) as listening:
        if host not in ("127.0.0.1", "::1", "localhost"):
            print_note(f"listening on {host}: everybody who reaches this machine can vote")
        named = f"[{host}]" if ":" in host else host
        print(f"{folder}: http://{named}:{listening.getsockname()[1]}/", flush=True)
        server.run(app, [listening], proxies=proxy or ())


@study_app.command()
@takes_report
def table(
    folder: StudyFolder,
    report: Reporter,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder for study.md, study.tex, study.json")
    ] = None,
    passing: Annotated[
        float,
        typer.Option(
            "--pass", help="share of attention checks to get right, or be left out", min=0, max=1
        ),
    ] = 0.75,
    overwrite: Overwrite = False,
) -> None:
    """Print the votes as Table 2 of Song et al. 2019, with intervals, tests and rater agreement.

    May be called at any time, also while people vote.

    Example: talkingface study table study --out results
    """
    from talkingface.study import table as printed
    from talkingface.study.store import Study

    found = printed.outcome(Study(folder), passing)
    if out is not None:
        printed.write(found, out, overwrite)
    if report.json:
        print(printed.as_json(found), end="")
    report.summary(printed.markdown(found).removesuffix("\n"))
