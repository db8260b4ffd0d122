"""The root of the command line, to which the other modules add their commands."""

from __future__ import annotations

import shutil
from itertools import chain
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from talkingface.version import __version__

# The commands of `talkingface --help` by heading, in the order of use.
SECTIONS = {
    "Make videos": (
        *("generate", "say", "batch", "dub", "idle", "motion", "landmarks", "sheet", "models"),
    ),
    "Serve": ("serve",),
    "Data and training": ("prepare", "inspect", "landmark-space", "expression-space", "train"),
    "Measure": ("evaluate", "study"),
}


class _Group(TyperGroup):
    """Commands under the headings of SECTIONS."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a list of commands under each heading."""
        column = max(map(len, chain(*SECTIONS.values())))
        limit = formatter.width - column - 6
        for heading, names in SECTIONS.items():
            rows = [(n.ljust(column), self.commands[n].get_short_help_str(limit)) for n in names]
            with formatter.section(heading):
                formatter.write_dl(rows)


_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": shutil.get_terminal_size().columns,
}

app = typer.Typer(
    cls=_Group,
    help="One portrait and one speech recording in, a video of that face speaking out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)
train_app = typer.Typer(
    help="Train generators, and networks that measure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
study_app = typer.Typer(
    help="Ask people to compare pairs of videos.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"talkingface {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Take the options of the command line itself."""
