"""Run attacks with honest clients beside them, and judge the server by what both of them got."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import numpy as np

from attacks import Attack
from attacks.target import Target
from helpers.honest_clients import TRY_AGAIN, Client, Crowd, LostError
from helpers.server_process import ServerProcess, Vitals

_CLOSED = 10.0  # seconds until the last connections are closed
_SETTLE = 90.0  # seconds until everything must be idle and removed
_LATE = 0.5  # seconds after which a frame is too late
_GROWN = 150  # megabytes of memory that may stay: of pools and caches
_GROWING = 50  # megabytes by which it may grow from the second quarter to the last
_LONG = 300.0  # seconds from which on a run shows growth
_FILES = 3  # open files that may stay


@dataclass
class Report:
    """Counts of a run. wrong: one line for each fault; none if all is well."""

    name: str
    seconds: float
    outcomes: Counter[str]
    crowd: Crowd
    health: HealthWatch
    before: Vitals
    after: Vitals | None = None
    wrong: list[str] = field(default_factory=list)


class HealthWatch:
    """A thread that asks for the server's health twice a second.

    seconds: of each answer. memory: megabytes of the server each time.
    """

    def __init__(self, server: ServerProcess) -> None:
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.memory: list[int] = []
        self._server, self._stop = server, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """Megabytes by which the last quarter's mean is above the second quarter's."""
        quarters = np.array_split(self.memory, 4)
        return float(quarters[3].mean() - quarters[1].mean())

    def _run(self) -> None:
        while self._server.is_alive and not self._stop.wait(0.5):
            began = time.monotonic()
            try:
                answer = httpx.get(f"{self._server.url}/v1/health", timeout=30)
                self.statuses[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                self.statuses[type(error).__name__] += 1
            self.seconds.append(time.monotonic() - began)
            self.memory.append(self._server.vitals().memory)


def run(
    server: ServerProcess,
    attacks: Mapping[str, Attack],
    seconds: float,
    clients: int,
    viewers: int,
    pause: float = 0.2,
) -> Report:
    """Run attacks at once, for so many seconds. clients, viewers: honest ones beside them."""
    before, end = server.vitals(), time.monotonic() + seconds
    target = Target(server.url, server.temp, pause)
    crowd, health = Crowd(server.url, end), HealthWatch(server)
    crowd.start(clients, viewers, max(5.0, min(20.0, seconds)))
    counts = {name: Counter[str]() for name in attacks}

    def attack(name: str) -> None:
        try:
            counts[name].update(attacks[name].run(target, end))
        except Exception as error:  # noqa: BLE001 it is a fault, of the attack or of the server
            counts[name][f"{type(error).__name__}: {error}"] += 1

    threads = [threading.Thread(target=attack, args=(name,)) for name in attacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    crowd.join()
    health.stop()
    name = "+".join(attacks) if len(attacks) < 3 else "all"
    outcomes = sum(counts.values(), Counter[str]())
    report = Report(name, seconds, outcomes, crowd, health, before)
    busy = {str(status) for status in TRY_AGAIN} if len(attacks) > 1 else set[str]()
    for own, found in counts.items():
        report.wrong += [
            f"{own}: {outcome} ({count} times)"
            for outcome, count in found.items()
            if outcome not in attacks[own].right | busy
        ]
    _judge(server, report)
    return report


def _judge(server: ServerProcess, report: Report) -> None:
    """Add what the server did wrong to the report."""
    if not server.is_alive:
        report.wrong.append(f"the server has ended: {server.process.returncode}")
        return
    report.wrong += [f"lost: {what}" for what in report.crowd.lost]
    unforeseen = set(report.health.statuses) - {"200", "503", "507"}
    report.wrong += [f"health: {status}" for status in sorted(unforeseen)]
    with httpx.Client(base_url=server.url, timeout=30) as client:
        began = time.monotonic()
        while not (idle := _is_idle(server, client)) and time.monotonic() - began < _SETTLE:
            time.sleep(0.5)
        if not idle:
            report.wrong.append(f"not idle: {client.get('/v1/health').text}, {server.vitals()}")
    try:
        Client(server.url, "198.51.100.200").whole()
    except (LostError, httpx.HTTPError) as error:
        report.wrong.append(f"no answer afterwards: {error}")
    began = time.monotonic()
    while _has_open_files(server, report.before) and time.monotonic() - began < _CLOSED:
        time.sleep(0.2)
    report.after = server.vitals()
    if _has_open_files(server, report.before):
        report.wrong.append(f"open files: {report.before.files}, then {report.after.files}")
    if report.after.memory > report.before.memory + _GROWN:
        report.wrong.append(f"memory: {report.before.memory}, then {report.after.memory} MB")
    if report.seconds >= _LONG and report.health.growth > _GROWING:
        report.wrong.append(f"memory grew by {report.health.growth:.0f} MB")
    if "Traceback" in (log := server.log()):
        report.wrong.append(f"unforeseen: {log[log.index('Traceback') :][-2000:]}")


def _has_open_files(server: ServerProcess, before: Vitals) -> bool:
    return server.vitals().files > before.files + _FILES


def _is_idle(server: ServerProcess, client: httpx.Client) -> bool:
    answer = client.get("/v1/health")
    if answer.status_code != 200:
        return False
    load = answer.json()
    return not any(load[pool][count] for pool in ("files", "live") for count in load[pool]) and (
        server.vitals().folders == 0
    )


def warm(server: ServerProcess) -> None:
    """Let the server do each kind of work once, so that later it takes no more memory."""
    client = Client(server.url, "198.51.100.200")
    for visit in (client.whole, client.recording, client.faces):
        visit()


COLUMNS = (
    "attack", "outcomes", "wrong", "health p50, max s", "served", "again", "lost",
    "visit p50, max s", "frames/s p50", "worst s", "late > 0.5 s", "MB first, most, last",
    "files", "folders", "log kB",
)  # fmt: skip


def row(report: Report, server: ServerProcess) -> list[str]:
    """Return the entries of a report for a table with `COLUMNS`."""
    crowd, before, after = report.crowd, report.before, report.after
    rates = np.concatenate([own.rates() for own in crowd.viewings] or [np.zeros(0)])
    late = np.concatenate([own.late() for own in crowd.viewings] or [np.zeros(0)])
    return [
        report.name,
        ", ".join(f"{count} x {name}" for name, count in sorted(report.outcomes.items())),
        str(len(report.wrong)),
        _spread(report.health.seconds),
        ", ".join(f"{count} {name}" for name, count in sorted(crowd.served.items())),
        str(crowd.again),
        str(len(crowd.lost)),
        _spread(crowd.seconds),
        f"{np.median(rates):.0f}" if len(rates) else "",
        str(rates.min()) if len(rates) else "",
        f"{np.mean(late > _LATE):.1%}" if len(late) else "",
        f"{before.memory}, {max(report.health.memory)}, {after.memory if after else ''}",
        f"{before.files}, {after.files if after else ''}",
        str(after.folders if after else ""),
        f"{len(server.log()) / 1000:.1f}",
    ]


def _spread(seconds: list[float]) -> str:
    return f"{np.median(seconds):.2f}, {max(seconds):.2f}" if seconds else ""
