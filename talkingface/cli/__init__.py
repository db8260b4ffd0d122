"""The command line: options in, one line per result out. Only these modules print.

Everything heavy is imported inside the commands: `talkingface --help` answers at once.
"""

from __future__ import annotations

import os

from talkingface.cli import evaluate, generate, prepare, reproduce, serve, study, train
from talkingface.cli.app import app, study_app, train_app
from talkingface.cli.options import parse_face, print_error
from talkingface.errors import TalkingFaceError

__all__ = [
    "app",
    "evaluate",
    "generate",
    "main",
    "parse_face",
    "prepare",
    "reproduce",
    "serve",
    "study",
    "train",
]

app.add_typer(train_app, name="train")
app.add_typer(study_app, name="study")


def main(argv: list[str] | None = None) -> None:
    """The `talkingface` command. A user's error is one line on standard error and exit code 2."""
    # Threads that wait by spinning bring a busy machine to a crawl; torch reads this on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(argv, prog_name="talkingface")
    except TalkingFaceError as error:
        print_error(error)
        raise SystemExit(2) from None
