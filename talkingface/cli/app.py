"""The command line's tree, empty: the other modules hang their commands on it."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="One portrait and one speech recording in, a video of that face speaking out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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
