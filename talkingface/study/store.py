"""A study on disk: one SQLite file beside its videos. Every answer is one transaction.

The file is in write-ahead mode and synchronised at every commit. So an acknowledged answer
survives a killed server or a loss of power, and the tables can be read while people vote.
"""

from __future__ import annotations

import math
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from talkingface.errors import BadRequest
from talkingface.study import order

DATABASE, VIDEOS = "study.sqlite", "videos"
VERSION = 0x7F5D0001  # of the tables below, as SQLite's user_version
VideoLabel = Literal["a", "b"]
QUESTIONS = {"lips": "Lip Accuracy", "realism": "Video Realism", "quality": "Image Quality"}
PASS = 0.75  # share of right answers to attention checks below which a rater is left out
AWAY = 3600.0  # seconds without an answer after which a rater's open tasks go to others
DAY = 86_400.0  # seconds after which a rater who never answered is removed
MOST_RATERS = 10_000  # so that a public page cannot fill the disk
LONGEST = 86_400.0  # most seconds for an answer

SCHEMA = """
CREATE TABLE study (
    seed INTEGER NOT NULL, per_pair INTEGER NOT NULL, tasks INTEGER NOT NULL,
    checks REAL NOT NULL, contact TEXT NOT NULL, made TEXT NOT NULL
);
CREATE TABLE method (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE video (
    file TEXT PRIMARY KEY, sample TEXT NOT NULL, method TEXT NOT NULL, source TEXT NOT NULL,
    seconds REAL NOT NULL
);
-- first: of the method that is compared with all others; of a check the sound video
CREATE TABLE pair (
    id INTEGER PRIMARY KEY, sample TEXT NOT NULL, other TEXT NOT NULL,
    first TEXT NOT NULL REFERENCES video(file), second TEXT NOT NULL REFERENCES video(file),
    is_check INTEGER NOT NULL
);
CREATE TABLE rater (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, code TEXT NOT NULL UNIQUE,
    consented TEXT NOT NULL, seen REAL NOT NULL
);
CREATE TABLE task (
    rater INTEGER NOT NULL REFERENCES rater(id), position INTEGER NOT NULL,
    pair INTEGER NOT NULL REFERENCES pair(id), first_is_a INTEGER NOT NULL,
    PRIMARY KEY (rater, position), UNIQUE (rater, pair)
);
CREATE TABLE answer (
    rater INTEGER NOT NULL, pair INTEGER NOT NULL, question TEXT NOT NULL,
    first_wins INTEGER NOT NULL CHECK (first_wins IN (0, 1)),
    answered TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (rater, pair, question),
    FOREIGN KEY (rater, pair) REFERENCES task(rater, pair)
);
CREATE INDEX answer_pair ON answer(pair);
"""


class UnknownRater(BadRequest):
    """Raised for a token that no rater of this study has."""


class StudyClosed(BadRequest):
    """Raised when no pair needs more ratings, or when there are too many raters."""


@dataclass(frozen=True)
class Design:
    """Settings that are fixed when a study is created.

    seed: of samples, orders and sides. per_pair: wanted ratings per pair. tasks: most pairs that a
    rater sees, including attention checks. checks: share of attention checks, 0 to 0.5. contact:
    contact of the study, for the page.
    """

    seed: int = 0
    per_pair: int = 10
    tasks: int = 60
    checks: float = 0.1
    contact: str = ""

    def __post_init__(self) -> None:
        if self.per_pair < 1:
            raise BadRequest(f"{self.per_pair} ratings per pair: must be at least 1")
        if not 0 <= self.checks <= 0.5:
            raise BadRequest(f"a share of {self.checks} attention checks: must be 0 to 0.5")
        if order.fitting(self.tasks, self.tasks, self.checks) < 1:
            raise BadRequest(
                f"{self.tasks} tasks per rater have no room for a pair beside attention checks: "
                "raise --tasks"
            )


@dataclass(frozen=True)
class VideoRow:
    """A video under its random name. source: the original file. seconds: its length."""

    file: str
    sample: str
    method: str
    source: str
    seconds: float


@dataclass(frozen=True)
class PairRow:
    """Two videos by their random names; see the table `pair`."""

    sample: str
    other: str
    first: str
    second: str
    is_check: bool


@dataclass(frozen=True)
class Assignment:
    """A task as the page shows it. answers: question -> "a" or "b", empty before the first."""

    position: int
    answers: dict[str, VideoLabel]


@dataclass(frozen=True)
class State:
    """State of a rater. task: None when all are answered; then `code` proves it."""

    token: str
    answered: int
    total: int
    task: Assignment | None
    code: str | None


@dataclass(frozen=True)
class Vote:
    """One answer to a pair, not to a check. ours: for the first method. chose_a: for the left."""

    rater: int
    sample: str
    other: str
    question: str
    ours: bool
    chose_a: bool
    seconds: float


@dataclass(frozen=True)
class Standing:
    """Progress of a rater: pairs answered of `total`, checks answered right of those `met`."""

    rater: int
    code: str
    answered: int
    total: int
    right: int
    met: int

    def passed(self, threshold: float = PASS) -> bool:
        """Return whether the rater's votes count. A rater without checks passes."""
        return self.right >= threshold * self.met


def create(
    folder: Path,
    design: Design,
    methods: Sequence[str],
    videos: Iterable[VideoRow],
    pairs: Iterable[PairRow],
) -> None:
    """Write the database of a new study into a folder. methods: the compared one first."""
    (folder / DATABASE).touch(mode=0o600)  # SQLite's other files get the same mode
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        with _transaction(connection):
            row = (*astuple(design), _now())
            connection.execute("INSERT INTO study VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.executemany("INSERT INTO method VALUES (?, ?)", enumerate(methods))
            rows: Iterable[tuple[object, ...]] = (astuple(video) for video in videos)
            connection.executemany("INSERT INTO video VALUES (?, ?, ?, ?, ?)", rows)
            rows = (astuple(pair) for pair in pairs)
            columns = "(sample, other, first, second, is_check)"
            connection.executemany(f"INSERT INTO pair {columns} VALUES (?, ?, ?, ?, ?)", rows)


# Raters who fail the attention checks. share: of right answers, that passes.
_FAILING = (
    "failing AS (SELECT rater FROM answer JOIN pair ON pair.id = pair WHERE is_check "
    "GROUP BY rater HAVING total(first_wins) < :share * count(*))"
)
# Ratings of a row of `pair` by raters who do not fail, not counted further than `wanted`. A rater
# answers all questions of a pair at once.
_RATINGS = (
    "(SELECT count(*) FROM (SELECT 1 FROM answer WHERE answer.pair = pair.id AND "
    f"question = '{next(iter(QUESTIONS))}' AND rater NOT IN failing LIMIT :wanted))"
)


def _remove_idle_raters(connection: sqlite3.Connection) -> None:
    """Remove raters who began a day ago and never answered."""
    idle = (
        "(SELECT id FROM rater WHERE seen < ? AND NOT EXISTS "
        "(SELECT 1 FROM answer WHERE answer.rater = rater.id))"
    )
    before = (time.time() - DAY,)
    connection.execute(f"DELETE FROM task WHERE rater IN {idle}", before)
    connection.execute(f"DELETE FROM rater WHERE id IN {idle}", before)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a write transaction: all or nothing, without other writers."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class Study:
    """An existing study. Each method opens its own connection, so it is thread-safe."""

    def __init__(self, folder: Path | str) -> None:
        """Open a study. Raises BadRequest when the folder holds no study of this version."""
        self.folder = Path(folder)
        path = self.folder / DATABASE
        if not path.is_file():
            raise BadRequest(
                f"{self.folder}: holds no {DATABASE}; make a study with `talkingface study make`"
            )
        try:
            with self._connected() as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version != VERSION:
                    raise BadRequest(f"{path}: is no study, or one of another version; make anew")
                (row,) = connection.execute(
                    "SELECT seed, per_pair, tasks, checks, contact FROM study"
                )
                names = connection.execute("SELECT name FROM method ORDER BY id").fetchall()
        except sqlite3.Error as error:
            raise BadRequest(
                f"{path}: cannot be read as a study ({error}); give the folder that "
                "`talkingface study make` wrote, on a disk that can be written to"
            ) from error
        self.design = Design(*row)
        self.methods: list[str] = [name for (name,) in names]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / DATABASE
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            yield connection

    def missing(self) -> list[Path]:
        """Return the paths of missing videos."""
        with self._connected() as connection:
            files = connection.execute("SELECT file FROM video ORDER BY file").fetchall()
        return [path for (f,) in files if not (path := self.folder / VIDEOS / f).is_file()]

    def expected(self) -> tuple[int, float]:
        """Return the most that a new rater sees: (pairs, seconds); both sides play at once."""
        with self._connected() as connection:
            pairs, seconds = connection.execute(
                "SELECT count(*), avg(seconds) FROM pair JOIN video ON file = first WHERE NOT "
                "is_check"
            ).fetchone()
        fitting = order.fitting(pairs, self.design.tasks, self.design.checks)
        total = fitting + order.checks_beside(fitting, self.design.checks)
        return total, total * float(seconds or 0)

    def needs_ratings(self) -> bool:
        """Return whether any pair still needs ratings."""
        with self._connected() as connection:
            (open_,) = connection.execute(
                f"WITH {_FAILING} SELECT EXISTS (SELECT 1 FROM pair WHERE NOT is_check AND "
                f"{_RATINGS} < :wanted)",
                {"share": PASS, "wanted": self.design.per_pair},
            ).fetchone()
        return bool(open_)

    # --- raters -----------------------------------------------------------------------------------

    def begin(self) -> State:
        """Create a rater, who has consented, and assign all tasks. Raises StudyClosed."""
        with self._connected() as connection, _transaction(connection):
            _remove_idle_raters(connection)
            (raters,) = connection.execute("SELECT count(*) FROM rater").fetchone()
            votes = self._pairs_to_rate(connection)
            if not votes:
                raise StudyClosed("this study has all the answers it needs: thank you for coming")
            if raters >= MOST_RATERS:
                raise StudyClosed("this study takes no more raters: thank you for coming")
            token, code = secrets.token_urlsafe(16), secrets.token_hex(4).upper()
            cursor = connection.execute(
                "INSERT INTO rater (token, code, consented, seen) VALUES (?, ?, ?, ?)",
                (token, f"{code[:4]}-{code[4:]}", _now(), time.time()),
            )
            assert cursor.lastrowid is not None
            self._assign_tasks(connection, cursor.lastrowid, votes)
            return self._state(connection, cursor.lastrowid, token)

    def _assign_tasks(
        self, connection: sqlite3.Connection, rater: int, votes: Mapping[int, int]
    ) -> None:
        design = self.design
        rows = connection.execute("SELECT id FROM pair WHERE is_check ORDER BY id").fetchall()
        checks = [pair for (pair,) in rows]
        tasks = order.design(design.seed, rater, votes, checks, design.tasks, design.checks)
        connection.executemany(
            "INSERT INTO task VALUES (?, ?, ?, ?)",
            [(rater, n, task.pair, task.first_is_a) for n, task in enumerate(tasks)],
        )

    def _pairs_to_rate(self, connection: sqlite3.Connection) -> dict[int, int]:
        """Return the pairs with too few ratings -> their ratings, including expected ones.

        Ratings of raters who fail the attention checks do not count. An open task of a rater is an
        expected rating, until the rater was away for `AWAY` seconds.
        """
        wanted = self.design.per_pair
        done: dict[int, int] = dict(
            connection.execute(
                f"WITH {_FAILING} SELECT id, {_RATINGS} FROM pair WHERE NOT is_check",
                {"share": PASS, "wanted": wanted},
            ).fetchall()
        )
        if min(done.values(), default=wanted) >= wanted:
            return {}
        expected: dict[int, int] = dict(
            connection.execute(
                f"WITH {_FAILING} SELECT task.pair, count(*) FROM rater JOIN task ON "
                "task.rater = rater.id WHERE seen > :since AND rater.id NOT IN failing AND "
                "NOT EXISTS (SELECT 1 FROM answer WHERE answer.rater = task.rater AND "
                "answer.pair = task.pair) GROUP BY task.pair",
                {"share": PASS, "since": time.time() - AWAY},
            ).fetchall()
        )
        return {pair: n + expected.get(pair, 0) for pair, n in done.items() if n < wanted}

    def state(self, token: str) -> State:
        """Return the state of a rater. Raises UnknownRater."""
        with self._connected() as connection:
            return self._state(connection, self._rater(connection, token), token)

    def _rater(self, connection: sqlite3.Connection, token: str) -> int:
        row = connection.execute("SELECT id FROM rater WHERE token = ?", (token,)).fetchone()
        if row is None:
            raise UnknownRater("nobody of this study has that token: start anew, from the address")
        return int(row[0])

    def _state(self, connection: sqlite3.Connection, rater: int, token: str) -> State:
        answered, total = self._progress(connection, rater)
        shown = Assignment(answered, {}) if answered < total else None
        (code,) = connection.execute("SELECT code FROM rater WHERE id = ?", (rater,)).fetchone()
        return State(token, answered, total, shown, None if shown else code)

    def _progress(self, connection: sqlite3.Connection, rater: int) -> tuple[int, int]:
        """Return (answered tasks, all tasks). Tasks are answered in order, without gaps."""
        row = connection.execute(
            "SELECT (SELECT count(DISTINCT pair) FROM answer WHERE rater = ?), "
            "(SELECT count(*) FROM task WHERE rater = ?)",
            (rater, rater),
        ).fetchone()
        return int(row[0]), int(row[1])

    def assignment(self, token: str, position: int) -> Assignment:
        """Return a task that may be answered: the first open one or the last answered one.

        Raises UnknownRater, BadRequest.
        """
        with self._connected() as connection:
            rater = self._rater(connection, token)
            pair, first_is_a = self._answerable_task(connection, rater, position)
            rows = connection.execute(
                "SELECT question, first_wins FROM answer WHERE rater = ? AND pair = ?",
                (rater, pair),
            ).fetchall()
        return Assignment(position, {q: "a" if wins == first_is_a else "b" for q, wins in rows})

    def _answerable_task(
        self, connection: sqlite3.Connection, rater: int, position: int
    ) -> tuple[int, bool]:
        """Return (pair, whether its first video is A) of a task that may be answered now."""
        answered, _ = self._progress(connection, rater)
        row = connection.execute(
            "SELECT pair, first_is_a FROM task WHERE rater = ? AND position = ?",
            (rater, position),
        ).fetchone()
        if row is None or position not in (answered - 1, answered):
            raise BadRequest(
                f"pair {position + 1} is not open for an answer: {answered} are answered, only "
                "the next one and the last one can be"
            )
        return int(row[0]), bool(row[1])

    def answer(
        self, token: str, position: int, answers: Mapping[str, VideoLabel], seconds: float
    ) -> State:
        """Store the answers to all questions of one pair, in one transaction.

        position: of the first open task, or of the last answered one, whose answers are replaced.
        answers: question -> "a" or "b". seconds: time taken. Raises UnknownRater, BadRequest.
        """
        if set(answers) != set(QUESTIONS) or not set(answers.values()) <= {"a", "b"}:
            raise BadRequest(f'answers must be "a" or "b" to each of: {", ".join(QUESTIONS)}')
        if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST):
            raise BadRequest(f"{seconds} seconds for an answer: must be 0 to {LONGEST:.0f}")
        with self._connected() as connection, _transaction(connection):
            rater = self._rater(connection, token)
            pair, first_is_a = self._answerable_task(connection, rater, position)
            now = _now()
            rows = [
                (rater, pair, question, (side == "a") == first_is_a, now, seconds)
                for question, side in answers.items()
            ]
            connection.executemany("INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?, ?)", rows)
            connection.execute("UPDATE rater SET seen = ? WHERE id = ?", (time.time(), rater))
            return self._state(connection, rater, token)

    def video(self, token: str, position: int, side: VideoLabel) -> Path:
        """Return the file of one side of a rater's task. Raises UnknownRater, BadRequest."""
        with self._connected() as connection:
            rater = self._rater(connection, token)
            row = connection.execute(
                "SELECT first, second, first_is_a FROM task JOIN pair ON pair.id = task.pair "
                "WHERE rater = ? AND position = ?",
                (rater, position),
            ).fetchone()
        if row is None:
            raise BadRequest(f"pair {position + 1} is not one of yours")
        first, second, first_is_a = row
        return self.folder / VIDEOS / str(first if (side == "a") == bool(first_is_a) else second)

    # --- results ----------------------------------------------------------------------------------

    def votes(self) -> list[Vote]:
        """Return all answers of all raters, except those to attention checks."""
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT answer.rater, sample, other, question, first_wins, first_is_a, seconds "
                "FROM answer JOIN pair ON pair.id = answer.pair JOIN task ON "
                "task.rater = answer.rater AND task.pair = answer.pair WHERE NOT is_check "
                "ORDER BY answer.rater, position, question"
            ).fetchall()
        return [
            Vote(rater, sample, other, question, bool(wins), wins == first_is_a, seconds)
            for rater, sample, other, question, wins, first_is_a, seconds in rows
        ]

    def standings(self) -> list[Standing]:
        """Return the progress of every rater, in the order in which they began."""
        with self._connected() as connection:
            return self._standings(connection)

    def _standings(self, connection: sqlite3.Connection) -> list[Standing]:
        rows = connection.execute(
            "SELECT rater.id, code, count(DISTINCT answer.pair), "
            "(SELECT count(*) FROM task WHERE task.rater = rater.id), "
            "total(first_wins AND is_check), total(is_check) FROM rater "
            "LEFT JOIN answer ON answer.rater = rater.id LEFT JOIN pair ON pair.id = answer.pair "
            "GROUP BY rater.id ORDER BY rater.id"
        ).fetchall()
        return [
            Standing(rater, code, answered, total, int(right), int(met))
            for rater, code, answered, total, right, met in rows
        ]
