"""`talkingface inspect` of a folder of shards whose every number is known."""

from __future__ import annotations

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import Cli
from helpers import trees
from talkingface.data import report, shards
from talkingface.data.clip import Clip
from talkingface.data.inspection import EXAMPLES, inspect
from talkingface.data.inspection_page import page
from talkingface.data.report import Outcome

LENGTHS = (50, 75, 100, 25)  # frames


def clip(number: int) -> Clip:
    """A clip of one grey; an even number is anna's, the last is a still picture of nobody."""
    still = number == len(LENGTHS)
    frames = 1 if still else LENGTHS[number]
    return Clip(
        key=f"clip{number}",
        speaker="portrait" if still else ("anna", "ben")[number % 2],
        crops=np.full((frames, 16, 16, 3), 40 * number, np.uint8),
        landmarks=np.zeros((frames, 68, 2), np.float32),
        mesh=np.zeros((frames, 478, 2), np.float32),
        sound=np.zeros(frames * 640, np.int16),
        words=() if still else (("hello", 0.1, 0.4), (f"word{number}", 0.5, 0.6)),
        split="test" if number == 3 else "train",
        silent=still,
        info={"yaw": 3.0 * number, "snr": 20.0 + number},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with their reports: five clips kept, three dropped for two reasons."""
    source = trees.put(tmp_path / "bad & odd.mp4", trees.ONE)
    turned: dict[str, Any] = {
        "result": "turned away",
        "measure": "yaw",
        "limit": 40.0,
        "source": str(source),
    }
    for number, keys in enumerate(((0, 1, 2), (3, 4))):
        clips = [clip(key) for key in keys]
        shards.write(tmp_path / f"shard-{number:05d}.tar", clips)
        outcomes = [
            Outcome(
                c.key,
                c.speaker,
                c.split,
                "kept",
                len(c.crops),
                {"speech": 0.5},
                moved=3 * (c.key == "clip1"),
            )
            for c in clips
        ]
        if number == 0:
            for n in range(2):
                own = {"value": 41.0 + n, "measures": {"yaw": 41.0 + n}, **turned}
                outcomes.append(Outcome(f"turned{n}", "ben", "train", **own))
        else:
            gone: dict[str, Any] = {
                "source": str(tmp_path / "gone.mp4"),
                "detail": "gone.mp4: <damaged>",
            }
            outcomes.append(Outcome("gone", "ben", "train", "unreadable", **gone))
        report.write(tmp_path / f"shard-{number:05d}.json", outcomes)
    (tmp_path / "plan.json").write_text(
        '{"corpus": "videos", "filters": {"yaw": 40.0, "snr": 10.0}}'
    )
    return tmp_path


def test_everything_is_counted(folder: Path) -> None:
    found = inspect(folder)
    assert (found.shards, len(found.kept), len(found.speaking), found.moved) == (2, 5, 4, 1)
    assert found.size == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert found.reasons == {"unreadable": 1, "turned away": 2}
    assert [c.frames for c in found.speaking] == list(LENGTHS)
    assert found.values["yaw"] == {"kept": [0.0, 3.0, 6.0, 9.0], "dropped": [41.0, 42.0]}
    assert found.values["snr"] == {"kept": [20.0, 21.0, 22.0, 23.0], "dropped": []}
    assert found.values["speech"]["kept"] == [0.5] * 4 and "pitch" not in found.values
    assert list(found.examples) == ["kept", "unreadable", "turned away"]
    shown = found.examples["turned away"]
    assert [example.caption for example in shown] == [
        "turned0: yaw 41 (at most 40 degrees)",
        "turned1: yaw 42 (at most 40 degrees)",
    ]
    frame = trees.part(trees.ONE)[0][11]
    seen = shown[0].picture
    assert seen is not None and seen.shape == (112, 112, 3)
    small = cv2.resize(frame, (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(seen.astype(int) - small).mean() < 4
    assert found.examples["unreadable"][0].picture is None
    assert {int(e.picture[0, 0, 0]) for e in found.examples["kept"] if e.picture is not None} == {
        0,
        40,
        80,
        120,
        160,
    }


class Page(HTMLParser):
    """Every tag that is opened or closed, every address, every text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.bars = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "line"):
            self.open.append(tag)
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        self.bars += tag == "rect"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.bars += tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_that_says_it_all(cli: Cli, folder: Path) -> None:
    ran = cli("inspect", folder)
    assert ran.code == 0 and "dropped: 1 unreadable, 2 turned away" in ran.out
    assert "5 clips, 0.2 min of speech" in ran.out
    text = (folder / "inspect.html").read_text()
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == [] and parsed.bars > 20
    pictures = [a for a in parsed.addresses if a.startswith("data:image/jpeg;base64,")]
    assert len(pictures) == len(parsed.addresses) == 7  # five kept, two turned away
    for address in pictures:
        data = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)
    assert "prefers-color-scheme: dark" in text
    for said in (
        "8 words with their times, 5 different",
        "10 s",
        "anna",
        "turned0: yaw 41",
        "at most 40 degrees",
        "gone.mp4: <damaged>",
        "with their sound moved",
    ):
        assert said in parsed.text, said
    assert cli("inspect", folder).code == 0  # its own page is replaced
    assert cli("inspect", folder, "-o", folder / "inspect.html").code == 2


def test_json_has_the_counts_of_the_page(cli: Cli, folder: Path) -> None:
    facts = json.loads(cli("inspect", folder, "--json").out)
    assert (facts["shards"], facts["clips"], facts["still_pictures"], facts["moved"]) == (
        2,
        5,
        1,
        1,
    )
    assert facts["seconds"] == pytest.approx(sum(LENGTHS) / 25)
    assert facts["dropped"] == {"unreadable": 1, "turned away": 2}
    assert Path(facts["page"]).is_file()


def test_names_of_files_are_text_and_never_markup(cli: Cli, folder: Path) -> None:
    evil = folder.with_name("<script>alert(1)")
    folder.rename(evil)
    assert cli("inspect", evil).code == 0
    text = (evil / "inspect.html").read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text


def test_without_jinja_the_extra_is_named(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    ran = cli("inspect", folder)
    assert ran.code == 2 and "pip install 'talkingface[inspect]'" in ran.err
    assert ran.err.count("\n") == 1


def test_shards_alone_are_enough(cli: Cli, folder: Path) -> None:
    for path in (*folder.glob("*.json"), folder / "bad & odd.mp4"):
        path.unlink()
    found = inspect(folder)
    assert found.dropped == () and found.values["yaw"]["kept"] == [0.0, 3.0, 6.0, 9.0]
    assert "settings unknown" in page(found)
    wrong = cli("inspect", folder / "nothing")
    assert wrong.code == 2 and "run `talkingface prepare`" in wrong.err


def test_of_many_clips_a_few_are_shown_and_no_list_grows(tmp_path: Path) -> None:
    made = [clip(1) for _ in range(60)]
    many = [
        Clip(**{**vars(c), "key": f"k{n}", "speaker": f"p{n}", "words": ((f"w{n}", 0.0, 0.1),)})
        for n, c in enumerate(made)
    ]
    shards.write(tmp_path / "shard-00000.tar", many)
    found = inspect(tmp_path)
    assert len(found.examples["kept"]) == EXAMPLES
    assert found.examples["kept"][0].caption.startswith("k0,")
    assert found.examples["kept"][-1].caption.startswith("k59,")
    text = page(found)
    assert "Speech of 60 people" in text and "60 different, the 40 most frequent" in text
