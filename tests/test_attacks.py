"""The attacks of `tests/attacks`, a short while each: see tools/attack.py for longer ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks import ATTACKS, runner
from helpers.live_viewer import FrameCounter
from helpers.server_process import ServerProcess, server_process

ROOT = Path(__file__).parents[1]
OPTIONS = ("--model", "cran-tiny", "--proxy", "127.0.0.1", "--patience", "3", "--streams", "4",
           "--keep-minutes", "0.1", "--megapixels", "16")  # fmt: skip
GROUPS = [  # attacks at the same time
    ["decoder-crashes", "decoder-killed", "decoder-hangs", "decoder-eats", "odd-files"],
    ["silent-connections", "after-the-end", "broken-forms", "vanishing", "odd-requests"],
    ["flood", "forgotten-jobs"],
    ["live-vanishing", "live-not-reading", "live-nonsense"],
    ["removed-folder"],
]
OWN_SERVERS = ["eight-channels", "full-disk"]
SECONDS = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    temp = tmp_path_factory.mktemp("temp")
    with server_process(temp, *OPTIONS, faulty=5) as own:
        runner.warm(own)
        yield own
    assert list(temp.iterdir()) == []


def test_every_attack_is_tried() -> None:
    tried = [name for group in GROUPS for name in group] + OWN_SERVERS
    assert sorted([*tried, "nothing", "slow-connections"]) == sorted(ATTACKS)


@pytest.mark.long
@pytest.mark.parametrize("names", GROUPS, ids="+".join)
def test_the_server_answers_during_attacks_and_after_them(
    names: list[str], server: ServerProcess
) -> None:
    attacks = {name: ATTACKS[name] for name in names}
    report = runner.run(server, attacks, SECONDS, clients=1, viewers=0, pause=0.05)
    assert report.wrong == []
    assert report.outcomes.total() > 0 and report.crowd.served.total() > 0


@pytest.mark.long
def test_attacks_that_need_another_server() -> None:
    command = [sys.executable, "tools/attack.py", *OWN_SERVERS, "--model", "cran-tiny"]
    ran = subprocess.run(
        [*command, "--seconds", "1", "--clients", "1", "--viewers", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    rows = [line.split(" | ") for line in ran.stdout.splitlines() if line.startswith("| ")]
    said = {row[0].removeprefix("| "): row[1] for row in rows}
    assert "200" in said["eight-channels"]
    if "no disk can be mounted" not in ran.stderr:
        assert "507" in said["full-disk"]


@pytest.mark.long
def test_ten_clients_are_served_beside_100_slow_connections(server: ServerProcess) -> None:
    attacks = {"slow-connections": ATTACKS["slow-connections"]}
    report = runner.run(server, attacks, 3.0, clients=10, viewers=0)
    assert report.wrong == [] and len(report.crowd.seconds) >= 10
    assert report.outcomes["left"] + report.outcomes["closed"] >= 90


def test_frames_are_counted_wherever_the_pieces_are_cut() -> None:
    def box(name: bytes, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return (8 + len(data)).to_bytes(4, "big") + name + data

    def track(number: int, samples: int) -> bytes:
        head = box(b"tfhd", bytes(4), number.to_bytes(4, "big"))
        return box(b"traf", head, box(b"trun", bytes(4), samples.to_bytes(4, "big")))

    file = box(b"ftyp", b"isom") + box(b"moov", bytes(20))
    for samples in (2, 3):
        file += box(b"moof", box(b"mfhd", bytes(8)), track(1, samples), track(2, 7))
        file += box(b"mdat", bytes(100))
    for size in (1, 7, 100, len(file)):
        counter = FrameCounter()
        pieces = [file[n : n + size] for n in range(0, len(file), size)]
        assert sum(counter.add(piece) for piece in pieces) == 5
    counter = FrameCounter()
    assert counter.add(file[:-101]) == 2  # the second fragment is not complete
