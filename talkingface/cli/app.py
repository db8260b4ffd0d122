"""The command line's tree, empty: the other modules add their commands to it."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from talkingface.version import __version__

# The order of the commands in `talkingface --help`: of use, not of the alphabet.
ORDER = (
    *("generate", "serve", "batch", "idle", "motion", "landmarks", "sheet", "models"),
    *("prepare", "inspect", "train", "evaluate", "study"),
    *("landmark-space", "expression-space", "version"),
)


class _Group(TyperGroup):
    """Commands in the order of ORDER."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands as they are listed."""
        known = super().list_commands(ctx)
        return sorted(known, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": shutil.get_terminal_size().columns,
}

app = typer.Typer(
    cls=_Group,
    help="One portrait and one speech recording in, a video of that face speaking out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)
train_app = typer.Typer(
    help="Train generators, baselines, lip readers, and the networks that measure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
study_app = typer.Typer(
    help="Ask people: pairs of videos, three questions, and the table of their votes.",
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
