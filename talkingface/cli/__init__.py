"""The command line: options in, one line per result out. Only these modules print.

Everything heavy is imported inside the commands: `talkingface --help` answers at once.
"""

from __future__ import annotations

import os
import sys

from talkingface.cli import dub, evaluate, generate, prepare, reproduce, serve, study, train
from talkingface.cli.app import app, study_app, train_app
from talkingface.cli.options import parse_face, print_error
from talkingface.cli.signals import Stopped, stopping
from talkingface.errors import TalkingFaceError

__all__ = [
    "app",
    "dub",
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


# What goes on after a stop, by command.
_NEXT = {
    **dict.fromkeys(("dub", "prepare", "train", "evaluate"), ": the same command goes on"),
    "batch": ": the same command with --skip-existing goes on",
}


def main(argv: list[str] | None = None) -> None:
    """The `talkingface` command. A user's error is one line on standard error and exit code 2.

    Ctrl-C, SIGTERM and SIGHUP end it with 130, 143 and 129; files are whole or not there.
    """
    # Threads that wait by spinning bring a busy machine to a crawl; torch reads this on import.
    # In small letters: libgomp does not know capitals in a Turkish locale.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with stopping():
            app(argv, prog_name="talkingface")
    except Stopped as stopped:
        given = sys.argv[1:] if argv is None else argv
        print(f"stopped{_NEXT.get(next(iter(given), ''), '')}", file=sys.stderr)
        raise SystemExit(stopped.code) from None
    except TalkingFaceError as error:
        print_error(error)
        raise SystemExit(2) from None
