"""Synthetic voices: commands that write a WAV, and the extra."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import SENTENCE, Cli
from talkingface import video, voice
from talkingface.errors import BadRequest
from talkingface.pipeline import TalkingFace

WRITES = "import sys, pathlib; text = sys.stdin.read(); sound = pathlib.Path(sys.argv[1]); "


def command(code: str, *arguments: str) -> str:
    return shlex.join([sys.executable, "-c", WRITES + code, str(SENTENCE), *arguments])


TO_STDOUT = command("assert text == 'Höre; ls > x'; sys.stdout.buffer.write(sound.read_bytes())")
TO_FILE = command("pathlib.Path(sys.argv[2]).write_bytes(sound.read_bytes())", "{output}")


@pytest.mark.parametrize("given", [TO_STDOUT, TO_FILE])
def test_a_command_speaks(given: str) -> None:
    assert voice.speak("Höre; ls > x", given) == SENTENCE.read_bytes()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("sys.exit('no such voice')", "no such voice"),
        ("sys.exit(3)", "status 3"),
        ("print('hello')", "6 bytes, which are no WAV"),
    ],
)
def test_a_command_that_fails_is_one_line(code: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        voice.speak("Hello.", command(code))
    assert "\n" not in str(caught.value)


def test_commands_and_texts_that_cannot_be() -> None:
    for given, says in (("nonsense-voice", "No such file"), ("'a", "No closing quotation")):
        with pytest.raises(BadRequest, match=says):
            voice.speak("Hello.", given)
    with pytest.raises(BadRequest, match="the text is empty"):
        voice.speak(" \n", TO_STDOUT)
    with pytest.raises(BadRequest, match="has 5001 characters: give at most 5000"):
        voice.speak("a" * 5001, TO_STDOUT)


def test_a_face_says_a_text(tiny: TalkingFace, portrait: Path, cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "a.mp4"
    ran = cli(
        *("say", portrait, "Hello.", "-o", output, "--voice-command", TO_FILE),
        *("--model", "cran-tiny", "--crop", "--crop-size", 64),
    )
    assert ran.code == 0 and str(output) in ran.out
    assert video.probe(output).seconds == pytest.approx(3.0, abs=0.05)
    made = tiny.say(portrait, "Hello.", voice_command=TO_FILE, show="face", crop_size=64)
    assert len(made) == 75


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hibari", None)
    voice._synthesizer.cache_clear()
    with pytest.raises(BadRequest, match=r"pip install 'talkingface\[voice\]'"):
        voice.speak("Hello.")


def test_a_text_at_which_the_voice_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails:
        def stream(self, text: str, seed: int) -> Iterator[np.ndarray]:
            yield np.zeros(9)
            raise IndexError("list index out of range")

    monkeypatch.setattr(voice, "_synthesizer", Fails)
    with pytest.raises(BadRequest, match=r"cannot speak this text .*: give plain words"):
        voice.speak("9" * 1000)


def test_the_extras_voice_speaks_the_same_each_time() -> None:
    pytest.importorskip("hibari", reason="needs talkingface[voice]")
    first = list(voice.sentences("Good morning. How are you today?"))
    again = list(voice.sentences("Good morning. How are you today?"))
    assert len(first) == 2 and all(map(np.array_equal, first, again))
    assert all(0.4 < len(part) / voice.RATE < 3 and np.abs(part).max() > 0.1 for part in first)
    for text, says in (("你好", "can be spoken"), ("9" * 400, "cannot speak this text")):
        with pytest.raises(BadRequest, match=says):
            voice.speak(text)
