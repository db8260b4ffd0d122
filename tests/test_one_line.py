"""Odd options and odd names: one line, without what a terminal would obey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Cli
from talkingface.cli.options import print_json, printable
from talkingface.video_writing import write

OUT = ("-o", "OUT")


def test_json_of_odd_names_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"a\x9b31m": ["é 面\x85", "\udcff", "\u202e", "\U000e0001", 1.5, float("nan")]}
    print_json(facts)
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable() and "é 面" in said
    assert json.loads(said) == {"a\x9b31m": [*facts["a\x9b31m"][:5], None]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("sheet", "VIDEO", *OUT, "--seconds", "inf"), "above 0"),
        (("sheet", "VIDEO", *OUT, "--seconds", "nan"), "above 0"),
        (("sheet", "VIDEO", *OUT, "--side", "100000"), "megapixels"),
        (("sheet", "VIDEO", *OUT, "--side", "5000"), "megapixels"),
        (("idle", "PORTRAIT", "-o", "a.mp4", "--device", "meta"), "device 'meta' computes nothing"),
        (("serve", "--picture-mb", "inf"), "--picture-mb inf: give a finite number"),
        (
            ("serve", "--temp", "/proc", "--port", "0", "--model", "still"),
            "/proc: cannot be written",
        ),
    ],
)
def test_odd_options_are_one_line(
    cli: Cli, portrait: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    names = {"OUT": tmp_path / "a.png", "VIDEO": tmp_path / "v.mp4", "PORTRAIT": portrait}
    if "VIDEO" in options:
        from talkingface import picture

        write(names["VIDEO"], [picture.read(portrait)[::6, ::6]] * 9, None)
    ran = cli(*(names.get(word, word) for word in options))
    assert ran.code == 2 and ran.err.count("\n") == 1 and says in ran.err, ran.err


def test_a_training_where_nothing_may_be_written_is_one_line(cli: Cli, tmp_path: Path) -> None:
    from helpers.corpus import write_cache

    write_cache(tmp_path / "cache")
    call = ("train", "sync", tmp_path / "cache", "--preset", "sync-tiny", "-o", "/proc/run")
    ran = cli(*call)
    assert ran.code == 2 and ran.err.count("\n") == 1 and "/proc/run: cannot be written" in ran.err


def test_names_are_printed_without_control_characters(cli: Cli, tmp_path: Path) -> None:
    name = tmp_path / "a\x1b[2J\x9b1m\u202egnp.jpg"
    ran = cli("generate", name, name, "-o", tmp_path / "b.mp4", "--model", "still")
    assert ran.code == 2 and "a\\x1b[2J\\x9b1m\\u202egnp.jpg" in ran.err
    assert all(letter.isprintable() for letter in ran.err.rstrip("\n"))
    assert printable("Ä ö\u3000漢字 a\udcff") == "Ä ö\u3000漢字 a\\udcff"


def test_a_turkish_locale_keeps_the_setting_of_threads() -> None:
    code = "import os; from talkingface.cli import main\n" + (
        "try: main(['version'])\nexcept SystemExit: print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert ran.stdout.splitlines()[-1] == "passive"


def test_json_stays_json_with_odd_names(cli: Cli, portrait: Path, tmp_path: Path) -> None:
    out = tmp_path / "a\x1b\x9b.json"
    ran = cli("landmarks", portrait, "-o", out, "--json")
    assert ran.code == 0 and json.loads(ran.out)["output"] == str(out) and "\x1b" not in ran.out
