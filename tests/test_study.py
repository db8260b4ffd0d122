"""The user study: its design, blinding, stored answers, and the numbers of its table."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partialmethod
from pathlib import Path
from statistics import NormalDist
from typing import Any

import httpx
import numpy as np
import pytest
from scipy import stats
from starlette.applications import Starlette

import talkingface.study
from conftest import Cli
from helpers import media
from helpers.raters import STUDIES, simulated
from talkingface import video, video_writing
from talkingface.errors import BadRequest, UnreadableMedia
from talkingface.evaluation import intervals
from talkingface.study import creation, order, statistics, store, table
from talkingface.study.store import QUESTIONS, Design, PairRow, State, Study, VideoRow
from talkingface.web.client_quota import Rate
from talkingface.web.study import application

METHODS = ("ours-secret", "chung-hidden", "zhou-covert")
SAMPLES = ("anna", "ben", "carl")
FRAMES = 12
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking "
    "--autoplay-policy=no-user-gesture-required"
)


def write_clip(path: Path, seed: int, tag: str | None = None, frames: int = FRAMES) -> Path:
    """Write a video of a grey square that moves over a coloured ground, with a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = np.random.default_rng(seed).integers(40, 200, 3)
    pictures = np.tile(ground.astype(np.uint8), (frames, 48, 64, 1))
    for n, picture in enumerate(pictures):
        picture[10:30, 2 + 2 * n : 14 + 2 * n] = 128
    tone = 0.2 * np.sin(np.arange(frames * 640) * (0.05 + 0.01 * seed)).astype(np.float32)
    video_writing.write(path, iter(pictures), tone, tag=tag)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three methods, three samples."""
    root = tmp_path_factory.mktemp("methods")
    for m, method in enumerate(METHODS):
        for s, sample in enumerate(SAMPLES):
            write_clip(root / method / f"{sample}.mp4", 10 * m + s, f"made by {method}")
    return {method: root / method for method in METHODS}


@pytest.fixture(scope="module")
def made(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Study of all folders; tests must not vote in it."""
    out = tmp_path_factory.mktemp("made") / "study"
    creation.create_study(folders, out, Design(seed=3, per_pair=2, tasks=8, checks=0.25))
    return out


def bare(folder: Path, samples: int = 4, **design: object) -> Study:
    """Create a study without files: two methods beside "ours", and two attention checks."""
    checks = 2
    folder.mkdir(parents=True, exist_ok=True)
    methods = ("ours", "chung", "zhou")
    names = [f"s{n:02}" for n in range(samples)]
    videos = [VideoRow(f"{m}-{s}", s, m, "", 1.0) for m in methods for s in names]
    videos += [VideoRow(f"spoiled-{n}", names[0], "", "", 1.0) for n in range(checks)]
    pairs = [PairRow(s, o, f"ours-{s}", f"{o}-{s}", False) for s in names for o in methods[1:]]
    pairs += [PairRow("s00", "", "ours-s00", f"spoiled-{n}", True) for n in range(checks)]
    store.create(folder, Design(**design), methods, videos, pairs)  # type: ignore[arg-type]
    return Study(folder)


def rows(study: Study, query: str, *arguments: object) -> list[Any]:
    with sqlite3.connect(study.folder / store.DATABASE) as connection:
        return connection.execute(query, arguments).fetchall()


def first_is_a(study: Study, state: State) -> bool:
    assert state.task is not None
    ((is_a,),) = rows(
        study,
        "SELECT first_is_a FROM task JOIN rater ON rater.id = rater WHERE token = ? AND "
        "position = ?",
        state.token,
        state.task.position,
    )
    return bool(is_a)


def vote(study: Study, state: State, first: bool | dict[str, bool]) -> State:
    """Answer the open task for or against its first video, or per question."""
    assert state.task is not None
    wins = first if isinstance(first, dict) else dict.fromkeys(QUESTIONS, first)
    is_a = first_is_a(study, state)
    answers: dict[str, store.VideoLabel] = {q: "a" if w == is_a else "b" for q, w in wins.items()}
    return study.answer(state.token, state.task.position, answers, 3.5)


def is_check(study: Study, state: State) -> bool:
    assert state.task is not None
    ((check,),) = rows(
        study,
        "SELECT is_check FROM task JOIN rater ON rater.id = rater JOIN pair ON pair.id = pair "
        "WHERE token = ? AND position = ?",
        state.token,
        state.task.position,
    )
    return bool(check)


# --- creation -------------------------------------------------------------------------------------


def test_a_study_of_folders(folders: dict[str, Path], cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "fourth").mkdir()
    for name in ("anna.mp4", "ben.mp4"):
        os.link(folders[METHODS[1]] / name, tmp_path / "fourth" / name)
    write_clip(tmp_path / "fourth" / "dora.mp4", 99)
    out = tmp_path / "study"
    arguments = [f"{name}={path}" for name, path in folders.items()]
    ran = cli("study", "make", *arguments, f"fourth={tmp_path / 'fourth'}", "-o", out)
    assert ran.code == 0
    assert ran.out.startswith(f"{out}: 2 samples, 6 pairs, 1 attention checks; ")
    assert "note: carl: left out, there is none of fourth\n" in ran.err
    assert f"note: dora: left out, there is none of {', '.join(METHODS)}\n" in ran.err
    study = Study(out)
    assert study.methods == [*METHODS, "fourth"] and study.missing() == []
    pairs = rows(study, "SELECT sample, other, first, second FROM pair WHERE NOT is_check")
    assert Counter(other for _, other, _, _ in pairs) == dict.fromkeys([*METHODS[1:], "fourth"], 2)
    origin = dict(rows(study, "SELECT file, source FROM video"))
    for sample, other, first, second in pairs:
        assert origin[first] == str(folders[METHODS[0]] / f"{sample}.mp4")
        assert Path(str(origin[second])).stem == sample and f"/{other}/" in str(origin[second])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fourth", "study"]


def test_a_subset_is_drawn_by_the_seed(folders: dict[str, Path], tmp_path: Path) -> None:
    chosen = []
    for n, seed in enumerate((0, 0, *range(1, 7))):
        out = tmp_path / str(n)
        said: list[tuple[int, int]] = []
        design = Design(seed=seed, checks=0)
        one = creation.create_study(
            folders, out, design, samples=1, progress=lambda *at, said=said: said.append(at)
        )
        assert (one.samples, one.pairs, one.checks, one.notes) == (1, 2, 0, [])
        assert said[-1] == (6, 6) and [done for done, _ in said] == list(range(1, 7))
        chosen.append(rows(Study(out), "SELECT DISTINCT sample FROM video"))
    assert chosen[0] == chosen[1] and len({str(c) for c in chosen}) > 1


def test_what_is_shown_is_what_was_given_and_says_nothing(
    made: Path, folders: dict[str, Path]
) -> None:
    study = Study(made)
    given = rows(study, "SELECT file, source FROM video WHERE method != ''")
    assert len(given) == 9
    for file, source in given:
        copy = made / store.VIDEOS / str(file)
        shown, before = media.decode_video(copy), media.decode_video(Path(str(source)))
        assert [at for at, _ in shown] == [at for at, _ in before]
        assert all((a == b).all() for (_, a), (_, b) in zip(shown, before, strict=True))
        decoded, spoken = media.decode_sound(copy)[0], media.decode_sound(Path(str(source)))[0]
        assert (decoded == spoken).all()
    telling = [*METHODS, *SAMPLES, "made by", "x264", "Lavf"]
    source_bytes = (folders[METHODS[0]] / "anna.mp4").read_bytes()
    assert all(word.encode() in source_bytes for word in ("made by", METHODS[0], "x264", "Lavf"))
    files = list((made / store.VIDEOS).iterdir())
    assert len(files) == 9 + 2
    for path in files:
        assert re.fullmatch(r"[0-9a-f]{16}\.mp4", path.name)
        assert not [word for word in telling if word.encode() in path.read_bytes()]
        assert video.probe(path).tag is None
    assert len({path.stat().st_mtime for path in files}) == 1


def test_an_attention_check_has_an_obvious_answer(made: Path) -> None:
    study = Study(made)
    checks = rows(study, "SELECT first, second FROM pair WHERE is_check")
    assert len(checks) == 2 and len({good for good, _ in checks}) == 2
    for good, bad in checks:
        sound, spoiled = (
            np.stack([frame for _, frame in media.decode_video(made / store.VIDEOS / str(f))])
            for f in (good, bad)
        )
        assert sound.shape == spoiled.shape
        moving = np.abs(np.diff(sound.astype(int), axis=0)).mean()
        assert np.abs(np.diff(spoiled.astype(int), axis=0)).mean() < 0.1 * moving
        assert np.abs(spoiled[0].astype(int) - sound[0]).mean() > 10  # noise on a blur
        assert media.decode_sound(made / store.VIDEOS / str(bad))[0].std() > 0.05


def test_lengths_and_sizes_that_differ_are_noted(tmp_path: Path) -> None:
    write_clip(tmp_path / "a" / "x.mp4", 1)
    write_clip(tmp_path / "b" / "x.mp4", 2, frames=25)
    made = creation.create_study({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "study")
    assert len(made.notes) == 1
    assert "x: the lengths differ (a 0.48 s, b 1.00 s)" in made.notes[0]


def test_what_cannot_be_shown_is_refused_by_name(
    folders: dict[str, Path], cli: Cli, tmp_path: Path
) -> None:
    whole = (folders[METHODS[0]] / "anna.mp4").read_bytes()
    bad = tmp_path / "bad"
    bad.mkdir()
    other = f"ours={folders[METHODS[0]]}"

    def refused(content: bytes | None, *says: str) -> None:
        if content is not None:
            (bad / "anna.mp4").write_bytes(content)
        ran = cli("study", "make", other, f"bad={bad}", "-o", tmp_path / "study")
        assert ran.code == 2 and ran.err.count("\n") == 1, ran.err
        assert all(text in ran.err for text in says), ran.err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]

    refused(None, "bad", "holds no videos")
    refused(whole[:2000], "anna.mp4", "cut short")
    refused(b"no video at all", "anna.mp4", "damaged")
    (bad / "ben.mp4").write_bytes(b"")
    refused(b"", "anna.mp4", "is empty", "and 1 more like it", "ben.mp4")
    (bad / "ben.mp4").unlink()
    frames = [np.full((48, 64, 3), 90, np.uint8)] * 12
    (bad / "anna.mp4").unlink()
    video_writing.write(bad / "anna.mp4", iter(frames), None)
    refused(None, "anna.mp4", "no sound")
    (bad / "anna.mp4").unlink()
    video_writing.write(bad / "other.mp4", iter(frames), np.zeros(7680, np.float32))
    refused(None, "no sample is there of every method")
    (bad / "other.mp4").rename(bad / "anna.mp4")
    (bad / "anna.mkv").write_bytes(whole)
    refused(None, "the same sample", "keep one")


def test_a_codec_that_browsers_lack_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    import av

    path = tmp_path / "old" / "anna.avi"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        picture, sound = container.add_stream("mpeg4", rate=25), container.add_stream("mp2", 44100)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for n in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * n, np.uint8), "rgb24")
            container.mux(picture.encode(frame))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
        silence.sample_rate = 44100
        container.mux(sound.encode(silence))
        container.mux([*picture.encode(None), *sound.encode(None)])
    with pytest.raises(UnreadableMedia, match=r"mpeg4.*ffmpeg -i IN"):
        creation.create_study({"a": folders[METHODS[0]], "old": path.parent}, tmp_path / "study")


def test_contradictions_are_refused(folders: dict[str, Path], cli: Cli, tmp_path: Path) -> None:
    ours, other = (f"{name}={folders[name]}" for name in METHODS[:2])

    def refused(*arguments: object, says: str) -> None:
        ran = cli("study", "make", *arguments, "-o", tmp_path / "study")
        assert ran.code == 2 and ran.out == "" and says in ran.err, ran.err

    refused(ours, says="at least two methods")
    refused(ours, ours, says="two methods are called")
    refused(ours, "zhou", says="NAME=FOLDER")
    refused(ours, "zhou=nowhere", says="nowhere: is no folder")
    refused(ours, other, "--samples", 9, says="9 samples wanted, there are 3")
    refused(ours, other, "--checks", 0.9, says="must be 0 to 0.5")
    refused(ours, other, "--per-pair", 0, says="must be at least 1")
    refused(ours, other, "--tasks", 1, says="raise --tasks")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine").write_text("mine")
    refused(ours, other, says="exists already")
    for command in ("serve", "table"):
        ran = cli("study", command, tmp_path / "study")
        assert ran.code == 2 and "holds no study.sqlite" in ran.err
    (tmp_path / "study" / "study.sqlite").write_text("no database, but rather long" * 100)
    ran = cli("study", "table", tmp_path / "study")
    assert ran.code == 2 and "cannot be read as a study" in ran.err and ran.err.count("\n") == 1


# --- the design -----------------------------------------------------------------------------------


def test_sides_and_checks_of_a_rater_are_balanced() -> None:
    votes = dict.fromkeys(range(200), 0)
    for rater in range(1, 30):
        tasks = order.design(5, rater, votes, range(900, 910), 60, 0.1)
        assert len(tasks) == 60 == len({task.pair for task in tasks})
        assert sum(task.first_is_a for task in tasks) == 30
        checks = [n for n, task in enumerate(tasks) if task.pair >= 900]
        assert [n // 10 for n in checks] == list(range(6))  # one in each ten


def test_everybody_has_an_order_of_their_own_and_it_can_be_computed_again() -> None:
    votes = dict.fromkeys(range(50), 0)
    designs = [order.design(0, rater, votes, [99], 40, 0.1) for rater in range(1, 200)]
    assert designs == [order.design(0, rater, votes, [99], 40, 0.1) for rater in range(1, 200)]
    assert len({str(design) for design in designs}) == 199
    assert order.design(1, 1, votes, [99], 40, 0.1) != designs[0]
    # over raters, each pair is about equally often anywhere, and either side first
    places = [
        n
        for design in designs
        for n, t in enumerate(d for d in design if d.pair != 99)
        if t.pair == 7
    ]
    assert stats.kstest([(p + 0.5) / 39 for p in places], "uniform").pvalue > 0.001
    left = [t.first_is_a for design in designs for t in design if t.pair == 7]
    assert stats.binomtest(sum(left), len(left)).pvalue > 0.001


def test_pairs_with_the_fewest_ratings_come_first() -> None:
    votes = {pair: pair % 3 for pair in range(30)}
    tasks = order.design(0, 1, votes, [], 12, 0)
    assert Counter(votes[task.pair] for task in tasks) == {0: 10, 1: 2}


def test_checks_are_the_share_that_was_asked_for() -> None:
    for tasks, share in ((60, 0.1), (20, 0.25), (7, 0.5), (60, 0.0), (3, 0.01)):
        n = order.fitting(1000, tasks, share)
        checks = order.checks_beside(n, share)
        assert n + checks <= tasks < n + 1 + order.checks_beside(n + 1, share)
        assert abs(checks - share * (n + checks)) <= 1 and (checks > 0) == (share > 0)
    assert order.fitting(4, 60, 0.1) == 4 and order.checks_beside(4, 0.1) == 1
    assert order.fitting(54, 60, 0.1) == 54 and order.checks_beside(54, 0.1) == 6


# --- answers --------------------------------------------------------------------------------------


def test_every_pair_gets_the_ratings_it_needs_then_the_study_is_closed(tmp_path: Path) -> None:
    study = bare(tmp_path, samples=5, per_pair=3, tasks=5, checks=0.2)
    raters = 0
    while study.needs_ratings():
        state, raters = study.begin(), raters + 1
        assert state.total <= 5
        while state.task is not None:
            state = vote(study, state, True)
    counts = rows(
        study,
        "SELECT count(DISTINCT rater) FROM pair LEFT JOIN answer ON pair = id WHERE NOT is_check "
        "GROUP BY id",
    )
    assert [n for (n,) in counts] == [3] * 10 and raters == 8  # 30 ratings by fours
    with pytest.raises(store.StudyClosed, match="all the answers it needs"):
        study.begin()


def test_raters_at_the_same_time_share_the_work(tmp_path: Path) -> None:
    study = bare(tmp_path, samples=10, per_pair=2, tasks=10, checks=0)
    for _ in range(4):
        study.begin()
    given = rows(study, "SELECT count(rater) FROM pair JOIN task ON pair = id GROUP BY id")
    # 40 tasks over 20 pairs, though nobody has answered yet
    assert sorted(n for (n,) in given)[:1] == [2] and len(given) == 22 - 2


def test_who_leaves_or_fails_the_checks_makes_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = bare(tmp_path, samples=2, per_pair=1, tasks=9, checks=0.3)
    state = study.begin()
    while state.task is not None:  # answers wrongly where the answer is obvious
        state = vote(study, state, not is_check(study, state))
    assert [s.passed() for s in study.standings()] == [False]
    assert study.needs_ratings()
    assert study.begin().total == 6  # who comes next gets everything again
    assert rows(study, "SELECT count(*) FROM answer") == [(18,)]  # what they said is kept
    with sqlite3.connect(tmp_path / store.DATABASE) as connection:
        found = study._pairs_to_rate(connection)
    assert set(found.values()) == {1}  # about to be rated by the second
    later = time.time() + store.AWAY + 1
    monkeypatch.setattr(time, "time", lambda: later)
    with sqlite3.connect(tmp_path / store.DATABASE) as connection:
        assert set(study._pairs_to_rate(connection).values()) == {0}


def test_the_last_pair_can_be_changed_and_no_other(tmp_path: Path) -> None:
    study = bare(tmp_path, samples=4, per_pair=1, tasks=6, checks=0)
    token = study.begin().token
    for n in range(3):
        assert vote(study, study.state(token), True).answered == n + 1
    before = study.assignment(token, 2)
    assert set(before.answers) == set(QUESTIONS)
    changed: dict[str, store.VideoLabel] = {
        q: "b" if s == "a" else "a" for q, s in before.answers.items()
    }
    assert study.answer(token, 2, changed, 1).answered == 3
    assert study.assignment(token, 2).answers == changed
    assert study.assignment(token, 3).answers == {}
    for position in (0, 1, 4, 5, 6, -1):
        with pytest.raises(BadRequest, match="not open for an answer"):
            study.answer(token, position, changed, 1)
        with pytest.raises(BadRequest, match="not open for an answer"):
            study.assignment(token, position)
    wins = rows(study, "SELECT first_wins FROM answer ORDER BY rowid")
    assert [w for (w,) in wins] == [1] * 6 + [0] * 3


def test_nobody_is_mixed_up_when_many_vote_at_once(tmp_path: Path) -> None:
    study = bare(tmp_path, samples=4, per_pair=50, tasks=8, checks=0.2)

    def rate(number: int) -> None:
        state, rng = study.begin(), random.Random(number)
        while state.task is not None:
            state = vote(study, state, {q: rng.random() < 0.5 for q in QUESTIONS})

    threads = [threading.Thread(target=rate, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [s.answered for s in study.standings()] == [s.total for s in study.standings()]
    assert len(study.standings()) == 8 and len({s.code for s in study.standings()}) == 8
    counts = rows(study, "SELECT rater, count(*), count(DISTINCT pair) FROM answer GROUP BY rater")
    assert {(votes, pairs) for _, votes, pairs in counts} == {(24, 8)}


# --- the page's interface -------------------------------------------------------------------------


class Client:
    """A simulated browser: calls the application in this process and keeps its cookies."""

    def __init__(self, app: Starlette) -> None:
        self.study: Study = app.state.study
        self.app, self._cookies = app, httpx.Cookies()

    def __call__(self, method: str, path: str, **how: Any) -> httpx.Response:
        return asyncio.run(self._call(method, path, **how))

    async def _call(
        self, method: str, path: str, address: str = "127.0.0.1", **how: Any
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(address, 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", cookies=self._cookies
        ) as client:
            answer = await client.request(method, path, **how)
            self._cookies = client.cookies
            return answer

    get = partialmethod(__call__, "GET")
    put = partialmethod(__call__, "PUT")
    post = partialmethod(__call__, "POST")
    delete = partialmethod(__call__, "DELETE")


@pytest.fixture
def client(folders: dict[str, Path], tmp_path: Path) -> Client:
    design = Design(seed=1, per_pair=2, tasks=8, checks=0.25, contact="Ask <me>")
    creation.create_study(folders, tmp_path / "study", design)
    return Client(application(tmp_path / "study"))


def begin(client: Client) -> dict[str, object]:
    answer = client.post("/api/raters", json={"consent": True})
    assert answer.status_code == 201
    return dict(answer.json())


ALL_A = {"answers": dict.fromkeys(QUESTIONS, "a"), "seconds": 4}


def test_a_rater_from_consent_to_code(client: Client) -> None:
    about = client.get("/api/study").json()
    assert about == {"open": True, "total": 8, "minutes": 2, "contact": "Ask <me>"}
    assert client.get("/api/return").json() is None
    state = begin(client)
    at = f"/api/raters/{state['token']}"
    assert (state["answered"], state["total"], state["code"]) == (0, 8, None)
    for n in range(8):
        assert client.get(at).json() == state
        assert client.get("/api/return").json() == state  # by the cookie
        assert state["task"]["position"] == n  # type: ignore[index]
        assert state["task"] == client.get(f"{at}/tasks/{n}").json()
        state = client.put(f"{at}/tasks/{n}", json=ALL_A).json()
    assert state["task"] is None and re.fullmatch(r"[0-9A-F]{4}-[0-9A-F]{4}", str(state["code"]))
    last = client.get(f"{at}/tasks/7").json()
    assert last["answers"] == ALL_A["answers"]
    again = client.put(f"{at}/tasks/7", json=ALL_A)
    assert again.status_code == 200 and again.json() == state


def test_nothing_shows_which_method_is_which(client: Client) -> None:
    said = [client.get(path) for path in ("/", "/api/study", "/static/study/app.js", "/api/return")]
    tags, addresses, token = [], set(), begin(client)["token"]
    for n in range(8):
        said.append(client.get(f"/api/raters/{token}/tasks/{n}"))
        for address in said[-1].json()["videos"].values():
            shown = client.get(address)
            assert shown.headers["content-type"] == "video/mp4"
            said.append(shown)
            tags.append(shown.headers["etag"])
            addresses.add(address)
            assert shown.headers["last-modified"] == "Thu, 01 Jan 1970 00:00:00 GMT"
        said.append(client.put(f"/api/raters/{token}/tasks/{n}", json=ALL_A))
    assert len(addresses) == len(set(tags)) == 16  # though our videos are in several pairs
    study = client.study
    files = [str(file) for (file,) in rows(study, "SELECT file FROM video")]
    for answer in said:
        assert answer.status_code == 200
        everything = answer.content + repr(answer.headers).encode()
        for word in (*METHODS, *SAMPLES, *files, str(study.folder)):
            assert word.encode() not in everything, (answer.url, word)


def test_sides_are_as_they_were_laid_out(client: Client) -> None:
    study = client.study
    token = str(begin(client)["token"])
    laid = rows(
        study,
        "SELECT first_is_a, first, second FROM task JOIN pair ON pair.id = pair ORDER BY position",
    )
    for n, (is_a, first, second) in enumerate(laid):
        for side, file in zip("ab", (first, second) if is_a else (second, first), strict=True):
            content = client.get(f"/api/raters/{token}/tasks/{n}/{side}").content
            assert content == (study.folder / store.VIDEOS / str(file)).read_bytes()


def test_parts_of_a_video(client: Client) -> None:
    address = begin(client)["task"]["videos"]["b"]  # type: ignore[index]
    whole = client.get(address)
    assert whole.headers["accept-ranges"] == "bytes"
    part = client.get(address, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole.content[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"


def test_headers_keep_the_page_to_itself(client: Client) -> None:
    page = client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert "unsafe" not in page.headers["content-security-policy"]
    html = page.text
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)|https?:", html)
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', html):
        assert client.get(name).status_code == 200
    cookie = client.post("/api/raters", json={"consent": True}).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie


def test_bad_requests_get_one_line(client: Client) -> None:
    token = begin(client)["token"]
    task = f"/api/raters/{token}/tasks/0"

    def expect_error(answer: httpx.Response, status: int, says: str) -> None:
        assert answer.status_code == status, answer.text
        assert list(answer.json()) == ["error"] and says in answer.json()["error"], answer.text
        assert "Traceback" not in answer.text and "\n" not in answer.json()["error"]

    expect_error(client.get("/api/raters/nobody"), 404, "nobody of this study has that token")
    expect_error(client.put("/api/raters/nobody/tasks/0", json=ALL_A), 404, "nobody of this study")
    expect_error(client.get("/api/raters/nobody/tasks/0/a"), 404, "nobody of this study")
    expect_error(client.get("/nowhere"), 404, "Not Found")
    expect_error(client.get("/api/raters/x/../../../../etc/passwd"), 404, "Not Found")
    expect_error(client.delete("/api/study"), 405, "Method Not Allowed")
    expect_error(client.get(f"{task}/c"), 404, 'the sides "a" and "b"')
    expect_error(client.get(f"/api/raters/{token}/tasks/8/a"), 409, "not one of yours")
    expect_error(client.get(f"/api/raters/{token}/tasks/{10**40}/a"), 409, "not one of yours")
    expect_error(
        client.put(f"/api/raters/{token}/tasks/1", json=ALL_A), 409, "not open for an answer"
    )
    expect_error(client.post("/api/raters", json={}), 400, "consent")
    expect_error(client.post("/api/raters", json={"consent": "yes"}), 400, "consent")
    expect_error(client.post("/api/raters", data={"consent": "true"}), 415, "application/json")
    send = {"Content-Type": "application/json"}
    for body, status, says in (
        (b"{", 400, "no JSON"),
        (b"\xff", 400, "no JSON"),
        (b"[1]", 400, "a JSON object"),
        (b"[" * 3000, 400, "no JSON"),
        (b" " * 5000, 413, "longer than 4096 bytes"),
        (b'{"answers": 1, "seconds": 1}', 400, "expected"),
        (b'{"answers": {"lips": "a"}, "seconds": 1}', 409, "to each of: lips, realism, quality"),
        (b'{"answers": {"lips": ["a"]}, "seconds": 1}', 400, "expected"),
        (json.dumps({**ALL_A, "seconds": True}).encode(), 400, "must be a number"),
        (json.dumps({**ALL_A, "seconds": -1}).encode(), 409, "must be 0 to"),
        (json.dumps({**ALL_A, "seconds": math.nan}).encode(), 400, "no JSON"),
        (
            json.dumps({"answers": dict.fromkeys(QUESTIONS, "c"), "seconds": 1}).encode(),
            409,
            "must",
        ),
    ):
        expect_error(client.put(task, content=body, headers=send), status, says)
    for huge in (b"1e400", b"1" + 400 * b"0", b"-1" + 400 * b"0"):
        body = b'{"answers": %s, "seconds": %s}' % (json.dumps(ALL_A["answers"]).encode(), huge)
        expect_error(client.put(task, content=body, headers=send), 409, "must be 0 to")
    expect_error(client.get(f"/api/raters/{token}/tasks/{'1' * 5000}"), 409, "not open")
    assert client.get(f"/api/raters/{token}").json()["answered"] == 0


def test_what_breaks_here_is_not_shown(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    token = begin(client)["token"]
    for error, status in ((RuntimeError("secret"), 500), (sqlite3.OperationalError("secret"), 503)):
        monkeypatch.setattr(Study, "state", lambda *_, error=error: (_ for _ in ()).throw(error))
        answer = client.get(f"/api/raters/{token}")
        assert answer.status_code == status
        assert "secret" not in answer.text and list(answer.json()) == ["error"]


def test_other_sites_cannot_vote(client: Client, made: Path) -> None:
    yes = {"consent": True}
    for host, origin, status in (
        ("evil.example", None, 421),
        ("localhost", "http://evil.example", 403),
        ("localhost", "http://[", 403),
        ("localhost", "http://localhost", 201),
    ):
        headers = {"host": host} | ({} if origin is None else {"origin": origin})
        assert client.post("/api/raters", json=yes, headers=headers).status_code == status
    allowed = Client(application(made, ["study.example"]))
    assert allowed.get("/", headers={"host": "study.example"}).status_code == 200


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_address_begins_only_so_often(client: Client) -> None:
    clock = Clock()
    client.app.state.begun = Rate(2, 3600, clock)

    def post(address: str) -> httpx.Response:
        answer: httpx.Response = client.post("/api/raters", json={"consent": True}, address=address)
        return answer

    answers = [post("192.0.2.7") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[-1].headers["retry-after"] == "3600"
    assert post("192.0.2.8").status_code == 201
    assert [post("127.0.0.1").status_code for _ in range(3)] == [201] * 3  # of this machine
    clock.now += 3601
    assert post("192.0.2.7").status_code == 201


def test_raters_who_never_answered_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = bare(tmp_path, samples=2, per_pair=5, tasks=4, checks=0)
    monkeypatch.setattr(store, "MOST_RATERS", 3)
    first = study.begin()
    vote(study, first, True)
    for _ in range(2):
        study.begin()
    with pytest.raises(store.StudyClosed, match="no more raters"):
        study.begin()
    later = time.time() + store.DAY + 1
    monkeypatch.setattr(time, "time", lambda: later)
    study.begin()
    assert rows(study, "SELECT count(*) FROM rater") == [(2,)]  # who voted, and the new one
    assert study.state(first.token).answered == 1


def test_a_study_of_many_raters_answers_fast(tmp_path: Path) -> None:
    study = bare(tmp_path, samples=30, per_pair=2, tasks=60, checks=0)
    many = range(4000)
    raters = [(n, f"t{n}", f"c{n}", "", 0.0) for n in many]
    tasks = ((n, k, k + 1, 1) for n in many for k in range(60))
    with sqlite3.connect(tmp_path / store.DATABASE) as connection:
        connection.executemany("INSERT INTO rater VALUES (?, ?, ?, ?, ?)", raters)
        connection.executemany("INSERT INTO task VALUES (?, ?, ?, ?)", tasks)
    began = time.monotonic()
    assert study.needs_ratings()
    assert time.monotonic() - began < 0.2


def test_a_study_is_private(made: Path) -> None:
    assert made.stat().st_mode & 0o777 == 0o700
    assert (made / store.DATABASE).stat().st_mode & 0o777 == 0o600


def test_a_study_without_its_videos_is_not_served(made: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / store.DATABASE).write_bytes((made / store.DATABASE).read_bytes())
    ran = cli("study", "serve", tmp_path, "--port", 0)
    assert ran.code == 2 and "is missing, of 11 videos" in ran.err


# --- a server that is killed ----------------------------------------------------------------------


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "talkingface", "study", "serve", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line
    return server, found.group()


def kill(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGKILL)
    server.wait(10)
    assert server.stdout is not None
    server.stdout.close()


def test_a_killed_server_loses_no_answer_that_it_took(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    creation.create_study(folders, folder, Design(per_pair=200, tasks=8, checks=0.25))
    taken, last_state = 0, None
    for seconds in (0.15, 0.3):
        server, address = serve(folder)
        try:
            killer = threading.Timer(seconds, server.kill)
            with httpx.Client(base_url=address, timeout=10) as client:
                if last_state is None:
                    last_state = client.post("/api/raters", json={"consent": True}).json()
                killer.start()
                for _ in range(2000):  # until it is killed, amid an answer
                    if last_state["task"] is None:
                        last_state = client.post("/api/raters", json={"consent": True}).json()
                    at = f"/api/raters/{last_state['token']}/tasks/{last_state['task']['position']}"
                    last_state = client.put(at, json=ALL_A).json()
                    taken += 1
        except httpx.TransportError:
            pass
        finally:
            killer.cancel()
            kill(server)
        study = Study(folder)
        ((kept, pairs),) = rows(
            study, "SELECT count(*), count(DISTINCT rater * 100 + pair) FROM answer"
        )
        assert kept == 3 * int(str(pairs))  # never one question without the others
        # the one under way may have been kept, without its answer coming back
        assert taken > 0 and taken <= int(str(pairs)) <= taken + 1
        assert last_state is not None
        state = study.state(last_state["token"])
        assert state.answered in (last_state["answered"], last_state["answered"] + 1)
        taken = int(str(pairs))
        last_state = {
            "token": state.token,
            "task": state.task and {"position": state.task.position},
        }
        last_state["answered"] = state.answered


# --- numbers --------------------------------------------------------------------------------------


def test_wilson_and_sign_test_are_the_textbook_ones() -> None:
    z = NormalDist().inv_cdf(0.975)
    for won, n in ((0, 5), (3, 7), (74, 100), (300, 300)):
        for bound in statistics.wilson(won, n):  # (share - p)^2 = z^2 p (1 - p) / n, Wilson 1927
            assert (won / n - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / n, abs=1e-9)
        votes = np.repeat([1, 0], [won, n - won])
        tail = sum(math.comb(n, k) for k in range(min(won, n - won) + 1)) / 2**n
        assert statistics.sign_test(votes, np.arange(n)) == pytest.approx(min(1, 2 * tail))
    assert all(math.isnan(bound) for bound in statistics.wilson(0, 0))


@pytest.mark.parametrize(
    ("clusters", "quantile"),
    [(2, math.tan(0.475 * math.pi)), (3, 0.95 * math.sqrt(2 / 0.0975))],  # closed forms
)
def test_few_clusters_have_the_exact_quantile_of_student(clusters: int, quantile: float) -> None:
    votes = np.array([1, 1, 1, 0] * clusters)
    raters = np.repeat(np.arange(clusters), 4)
    low, high = statistics.two_way(votes, raters, np.arange(len(votes)))
    single = 0.75 * 0.25 / len(votes) * len(votes) / (len(votes) - 1)  # all raters vote alike
    half = quantile * math.sqrt(single) / (0.75 * 0.25)
    assert math.log(high / (1 - high)) - math.log(3) == pytest.approx(half)
    assert math.log(3) - math.log(low / (1 - low)) == pytest.approx(half)


def test_without_scipy_the_table_names_the_extra(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("table", "statistics"):
        monkeypatch.delitem(sys.modules, f"talkingface.study.{name}")
        monkeypatch.delattr(talkingface.study, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    ran = cli("study", "table", tmp_path)
    assert ran.code == 2 and "pip install 'talkingface[study]'" in ran.err
    assert ran.err.count("\n") == 1


def test_a_sample_is_won_by_its_majority_and_ties_are_left_out() -> None:
    votes = [1, 1, 0, 1, 0, 0, 0, 1, 1, 1]
    samples = list("aaabbbccdd")  # a won, b lost, c tied, d won
    expected = stats.binomtest(2, 3).pvalue
    assert statistics.sign_test(np.array(votes), np.array(samples)) == pytest.approx(expected)
    assert math.isnan(statistics.sign_test(np.array([1, 0]), np.array(["c", "c"])))
    many = statistics.sign_test(np.ones(4000), np.arange(4000))
    assert 0 <= many < 1e-300  # no overflow


def test_krippendorffs_alpha_is_the_published_one() -> None:
    # Krippendorff 2011, example A (two raters, ten units, yes or no): 0.095
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    counts = np.array([[2 - a - b, a + b] for a, b in zip(first, second, strict=True)])
    assert statistics.krippendorff(counts) == pytest.approx(0.095, abs=5e-4)
    # example C (four raters, twelve units, five categories, missing votes): 0.743
    data = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    table_ = np.zeros((12, 5))
    for row in data:
        for unit, value in enumerate(row.split()):
            if value != ".":
                table_[unit, int(value) - 1] += 1
    assert statistics.krippendorff(table_) == pytest.approx(0.743, abs=5e-4)
    alike = np.array([[3, 0], [0, 4], [2, 0]])
    assert statistics.krippendorff(alike) == 1 == statistics.pairwise_agreement(alike)
    assert math.isnan(statistics.krippendorff(np.array([[3, 0], [2, 0]])))
    assert math.isnan(statistics.krippendorff(np.zeros((0, 2))))
    # 2 of 3 alike: 1 of 3 pairs of raters; 1 to 1: none of one
    assert statistics.pairwise_agreement(np.array([[2, 1], [1, 1]])) == pytest.approx(1 / 4)


def test_two_way_is_the_known_formula_where_one_is_known() -> None:
    rng = np.random.default_rng(0)
    votes, whose, _ = simulated(rng, 0.6, 30, 40, 10, (0.6, 0.0))
    share = votes.mean()
    # every vote a sample of its own: clustered by raters alone, as the bootstrap over raters has it
    low, high = statistics.two_way(votes, whose, np.arange(len(votes)))
    won, of = np.bincount(whose, votes), np.bincount(whose)
    drawn = intervals.interval(intervals.ratio(won, of))
    ratio = stats.t.ppf(0.975, 29) / stats.norm.ppf(0.975)
    assert (high - low) / (drawn[1] - drawn[0]) == pytest.approx(ratio, abs=0.08)
    assert low < share < high
    # and the other way round
    assert statistics.two_way(votes, np.arange(len(votes)), whose) == pytest.approx((low, high))
    # every vote a rater and a sample of its own: the delta method on the logit
    alone = np.arange(len(votes))
    half = stats.t.ppf(0.975, len(votes) - 1) / math.sqrt(len(votes) * share * (1 - share))
    half *= math.sqrt(len(votes) / (len(votes) - 1))  # the clusters' n / (n - 1)
    middle = math.log(share / (1 - share))
    expected = [1 / (1 + math.exp(-(middle + sign * half))) for sign in (-1, 1)]
    assert statistics.two_way(votes, alone, alone) == pytest.approx(expected, abs=1e-3)


def test_two_way_at_the_edges() -> None:
    whose, what = np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4)
    low, high = statistics.two_way(np.ones(20), whose, what)
    unanimous = stats.binomtest(4, 4).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((unanimous.low, 1))
    mirrored = statistics.two_way(np.zeros(20), whose, what)
    assert mirrored == pytest.approx((1 - high, 1 - low))
    for one in (whose * 0, what * 0):
        assert all(math.isnan(bound) for bound in statistics.two_way(np.ones(20), one, what * 0))
    empty = np.zeros(0)
    assert all(math.isnan(bound) for bound in statistics.two_way(empty, empty, empty))


@pytest.mark.parametrize(("share", "raters", "samples", "per_sample", "between"), STUDIES)
def test_the_interval_covers_the_truth_at_about_its_rate(
    share: float, raters: int, samples: int, per_sample: int, between: tuple[float, float]
) -> None:
    """Simulated raters, whose mean preference is known."""
    rng = np.random.default_rng(7)
    two, one = [], []
    for _ in range(400):
        votes = simulated(rng, share, raters, samples, per_sample, between)
        two.append(statistics.two_way(*votes))
        one.append(statistics.wilson(votes[0].sum(), len(votes[0])))
    covered, naive = (
        np.mean([low <= share <= high for low, high in found]) for found in (two, one)
    )
    assert 0.92 <= covered <= 0.99
    if any(between):
        assert naive < 0.90  # every vote for itself promises too much
    else:
        assert naive == pytest.approx(0.95, abs=0.03)


# --- the table ------------------------------------------------------------------------------------


def test_the_table_counts_what_was_voted(cli: Cli, tmp_path: Path) -> None:
    """Ten raters, 10 samples: votes are dealt so that the shares are 0.74, 0.66, 0.73 and 1/2."""
    study = bare(tmp_path / "study", samples=10, per_pair=10, tasks=22, checks=0.1)
    wanted = {"lips": 74, "realism": 66, "quality": 73}
    seen: Counter[tuple[str, str]] = Counter()
    for _ in range(10):
        state = study.begin()
        while state.task is not None:
            position = state.task.position
            if is_check(study, state):
                state = vote(study, state, True)
                continue
            ((other,),) = rows(
                study,
                "SELECT other FROM task JOIN pair ON pair.id = pair JOIN rater ON rater.id = rater "
                "WHERE token = ? AND position = ?",
                state.token,
                position,
            )
            wins = {}
            for question, of_100 in wanted.items():
                n = seen[str(other), question]
                seen[str(other), question] += 1
                part = of_100 if other == "chung" else 50
                wins[question] = (n + 1) * part // 100 > n * part // 100
            state = vote(study, state, wins)
    bad = Study(tmp_path / "study")
    assert not bad.needs_ratings()
    out = tmp_path / "results"
    ran = cli("study", "table", tmp_path / "study", "--out", out)
    assert ran.code == 0 and ran.err == ""
    assert ran.out == (out / "study.md").read_text()
    assert re.search(
        r"\| Voting to ours vs. others \| Lip Accuracy \| Video Realism \| Image Quality \|\n.*\n"
        r"\| chung \| 0\.74/0\.26\* \[0\.\d\d, 0\.\d\d\] \| 0\.66/0\.34\S* \[[^]]*\] \| "
        r"0\.73/0\.27\* \[[^]]*\] \|\n\| zhou \| 0\.50/0\.50 \[",
        ran.out,
    ), ran.out
    assert "10 raters began, 10 voted; 0 of these are left out" in ran.out
    latex = (out / "study.tex").read_text()
    assert "\\begin{tabular}{lrrr}" in latex and "chung & 0.74/0.26$^{*}$ {\\scriptsize [" in latex
    found = json.loads((out / "study.json").read_text())
    first = found["results"][0]
    assert (first["votes"], first["ours"], first["raters"], first["samples"]) == (100, 74, 10, 10)
    for name in ("two_way", "wilson", "over_raters", "over_samples"):
        assert first[name][0] < 0.74 < first[name][1]
    expected = stats.binomtest(74, 100).proportion_ci(method="wilson")
    assert first["wilson"] == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert all(rater["passed"] and rater["met"] == 6 for rater in found["raters"])
    again = cli("study", "table", tmp_path / "study", "--out", out)
    assert again.code == 2 and "exists already" in again.err
    assert cli("study", "table", tmp_path / "study", "--out", out, "--overwrite").code == 0
    printed = json.loads(cli("study", "table", tmp_path / "study", "--json").out)
    assert cli("study", "table", tmp_path / "study", "--quiet").out == ""
    assert printed == json.loads((out / "study.json").read_text())


def test_who_fails_the_checks_is_left_out_and_counted(cli: Cli, tmp_path: Path) -> None:
    study = bare(tmp_path, samples=4, per_pair=9, tasks=10, checks=0.2)
    for careful in (True, True, False):
        state = study.begin()
        while state.task is not None:
            state = vote(study, state, careful)  # the careless is always wrong
    study.begin()
    stopped = study.begin()
    while is_check(study, stopped):
        stopped = vote(study, stopped, True)
    vote(study, stopped, True)
    found = table.outcome(study)
    assert {r.share for r in found.results} == {1.0}
    assert (found.panel.raters, found.panel.voted, found.panel.left_out) == (5, 4, 1)
    every = table.outcome(study, threshold=0.0)
    assert every.panel.left_out == 0 and every.results[0].votes == found.results[0].votes + 4
    ran = cli("study", "table", tmp_path, "--pass", 0)
    assert "0 of these are left out (under 0% of" in ran.out
    assert cli("study", "table", tmp_path, "--pass", 2).code == 2


def test_an_empty_study_has_an_empty_table(made: Path, cli: Cli) -> None:
    ran = cli("study", "table", made)
    assert ran.code == 0 and f"| {METHODS[1]} | - | - | - |" in ran.out
    assert "nan" not in ran.out


def test_simulated_raters_through_the_whole_study(tmp_path: Path) -> None:
    """Raters who prefer ours with known probabilities; one in six clicks at random."""
    truth = {
        ("chung", "lips"): 0.8, ("chung", "realism"): 0.65, ("chung", "quality"): 0.5,
        ("zhou", "lips"): 0.25, ("zhou", "realism"): 0.9, ("zhou", "quality"): 0.7,
    }  # fmt: skip
    study = bare(tmp_path, samples=12, per_pair=10, tasks=30, checks=0.1)
    rng = np.random.default_rng(11)
    raters = 0
    while study.needs_ratings():
        raters += 1
        random_clicks = raters % 6 == 0
        state = study.begin()
        while state.task is not None:
            ((other, check),) = rows(
                study,
                "SELECT other, is_check FROM task JOIN pair ON pair.id = pair JOIN rater ON "
                "rater.id = rater WHERE token = ? AND position = ?",
                state.token,
                state.task.position,
            )
            chance = {
                q: 0.5 if random_clicks else 0.97 if check else truth[str(other), q]
                for q in QUESTIONS
            }
            state = vote(study, state, {q: bool(rng.random() < p) for q, p in chance.items()})
    found = table.outcome(study)
    assert found.panel.left_out == raters // 6
    covered = [r.two_way[0] <= truth[r.other, r.question] <= r.two_way[1] for r in found.results]
    assert sum(covered) >= 5
    stars = {
        (r.other, r.question) for r in found.results if not r.two_way[0] <= 0.5 <= r.two_way[1]
    }
    assert {("chung", "lips"), ("zhou", "realism"), ("zhou", "lips")} <= stars
    assert ("chung", "quality") not in stars
    assert all(r.votes >= 120 for r in found.results)
    assert 0.45 < found.panel.chose_a < 0.55


# --- the page itself ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_a_whole_study_with_the_keyboard(
    folders: dict[str, Path], cli: Cli, tmp_path: Path
) -> None:
    """A real browser, from consent to code: the table has what its keys said."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    expect = playwright.expect
    folder = tmp_path / "study"
    creation.create_study(folders, folder, Design(per_pair=1, tasks=10, checks=0.25))
    study = Study(folder)
    server, address = serve(folder)
    wrong: list[str] = []
    try:
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())
            page = browser.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda line: wrong.append(line.text))
            page.on(
                "request",
                lambda r: None if r.url.startswith((address, "data:")) else wrong.append(r.url),
            )
            page.goto(address)
            expect(page.locator("#howmany")).to_have_text("8 pairs")
            page.locator("#consent input").focus()
            page.keyboard.press("Enter")  # not without the tick
            expect(page.locator("#welcome")).to_be_visible()
            page.keyboard.press("Space")
            page.keyboard.press("Enter")
            page.locator("#shortcuts").uncheck()
            page.keyboard.press("1")
            expect(page.locator("#questions input:checked")).to_have_count(0)
            page.reload()
            expect(page.locator("#shortcuts")).not_to_be_checked()
            page.locator("#shortcuts").check()
            for n in range(8):
                expect(page.locator("#where")).to_have_text(f"Pair {n + 1} of 8")
                token = page.url.split("#")[1]
                is_a = first_is_a(study, study.state(token))
                # ours have the better lips, the others are more real; the picture is for A's side
                lips, realism = ("1", "2") if is_a else ("2", "1")
                if is_check(study, study.state(token)):
                    realism = lips
                page.keyboard.press(lips)
                expect(page.locator("#next")).to_be_disabled()
                page.keyboard.press(realism)
                page.keyboard.press("ArrowLeft" if lips == "1" else "ArrowRight")
                expect(page.locator(".seen:visible")).to_have_count(2, timeout=60_000)
                expect(page.locator("#next")).to_be_enabled()
                expect(page.locator("#todo")).to_be_empty()
                page.keyboard.press("Enter")
                if n == 2:  # comes back after a while
                    expect(page.locator("#where")).to_have_text("Pair 4 of 8")
                    page.goto(address)
                    expect(page.locator("#sofar")).to_have_text("3 of 8 pairs")
                    page.locator("#goon").press("Enter")
                if n == 4:  # looks at the last one again
                    expect(page.locator("#where")).to_have_text("Pair 6 of 8")
                    page.locator("#back").press("Enter")
                    expect(page.locator("#where")).to_have_text("Pair 5 of 8")
                    expect(page.locator("#next")).to_be_enabled()
                    page.keyboard.press("Enter")
            expect(page.locator("#code")).to_have_value(study.standings()[0].code)
            page.locator("#done [data-anew]").press("Enter")
            expect(page.locator("#closed")).to_be_visible()
            browser.close()
    finally:
        kill(server)
    assert wrong == []
    found = cli("study", "table", folder).out
    for method in METHODS[1:]:
        assert re.search(rf"\| {method} \| 1\.00/0\.00\S* .*\| 0\.00/1\.00\S* ", found), found
    assert "1 raters began, 1 voted; 0 of these are left out" in found
