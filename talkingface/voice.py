"""Synthetic speech of a text, offline: by the `voice` extra, or by any command that writes a WAV.

Only the sound goes to the face. Nothing of the text or of its phones does.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import tempfile
import threading
import wave
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from talkingface.errors import BadRequest
from talkingface.types import Floats

RATE = 24_000  # Hz, of `sentences`
LONGEST = 5_000  # characters of a text
_NAME = "heart"  # the voice that is in the package: others would be downloaded
_SECONDS = 600  # that a command may take
_OUTPUT = "{output}"
_LOCK = threading.Lock()  # one thread at a time uses the synthesizer


def name() -> str | None:
    """Return the name of the offline voice, None where the extra `voice` is not installed."""
    return None if find_spec("hibari") is None else f"hibari {_NAME}"


def speak(
    text: str, command: str | None = None, *, check: Callable[[], None] = lambda: None
) -> bytes:
    """Return a text as the content of a WAV file.

    text: English, 1 to 5,000 characters; with a command what that one knows.
    command: a program with its arguments. It reads the text on its standard input and writes a WAV
    to its standard output, or to the file whose name replaces {output}. No shell is involved.
    check: called after each sentence; what it raises ends the work.

    Raises BadRequest (no text, the extra is not installed, or the command fails).
    """
    if command is not None:
        return _run(_checked(text), command)
    parts: list[Floats] = []
    for part in sentences(text):
        parts.append(part)
        check()
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes(np.asarray(np.rint(np.concatenate(parts) * 32767), "<i2").tobytes())
    return file.getvalue()


def sentences(text: str) -> Iterator[Floats]:
    """Yield the speech of each sentence as soon as it is made, (N,) float32 at 24 kHz.

    The same text gives the same samples. Raises BadRequest (see `speak`).
    """
    spoken, made = 0, _synthesizer().stream(_checked(text), seed=0)
    while (sound := _next(made)) is not None:
        spoken += len(sound)
        yield np.asarray(sound, np.float32).clip(-1, 1)
    if spoken < RATE // 25:
        raise BadRequest(f"nothing in the text {text[:40]!r} can be spoken: give words")


def _next(made: Iterator[Floats]) -> Floats | None:
    """Return the speech of the next sentence, None after the last. Raises BadRequest."""
    try:
        with _LOCK:
            return next(made, None)
    except (ArithmeticError, LookupError, ValueError) as error:  # as for a number of 1,000 digits
        raise BadRequest(f"the voice cannot speak this text ({error}): give plain words") from error


def _checked(text: str) -> str:
    if not text.strip():
        raise BadRequest("the text is empty: give what the face is to say")
    if len(text) > LONGEST:
        raise BadRequest(f"the text has {len(text)} characters: give at most {LONGEST}")
    return text


@lru_cache(maxsize=1)
def _synthesizer() -> Any:
    try:
        from hibari import Hibari
    except ImportError as error:
        raise BadRequest(
            "there is no voice: pip install 'talkingface[voice]', or give a command that reads the "
            "text and writes a WAV (--voice-command)"
        ) from error
    return Hibari(voice=_NAME)


def _run(text: str, command: str) -> bytes:
    """Return what the command writes. Raises BadRequest."""
    with tempfile.TemporaryDirectory(prefix="talkingface-") as folder:
        output = Path(folder) / "voice.wav"
        try:
            words = [word.replace(_OUTPUT, str(output)) for word in shlex.split(command)]
            done = subprocess.run(
                words, input=text.encode(), capture_output=True, timeout=_SECONDS, check=True
            )
            content = output.read_bytes() if _OUTPUT in command else done.stdout
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()
            raise _failed(command, said[-1] if said else f"status {error.returncode}") from error
        except subprocess.TimeoutExpired as error:
            raise _failed(command, f"no end after {_SECONDS} s") from error
        except (OSError, ValueError, IndexError) as error:
            raise _failed(command, getattr(error, "strerror", None) or str(error)) from error
    if content[:4] != b"RIFF":
        raise _failed(command, f"{len(content)} bytes, which are no WAV")
    return content


def _failed(command: str, what: str) -> BadRequest:
    return BadRequest(
        f"--voice-command {command!r}: {what[:200]}; expected a program that reads text on its "
        f"standard input and writes a WAV to its standard output or to {_OUTPUT}"
    )
