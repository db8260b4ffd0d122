"""The trainings behind a paper's table, as rows; one command runs them all, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from talkingface.data.dataset import Cache
from talkingface.errors import BadRequest
from talkingface.training import presets
from talkingface.training.loop import WEIGHTS, Recipe

Method = Literal["cran", "baseline"]


@dataclass(frozen=True)
class Row:
    """One model of a table.

    name: of its folder among the runs. label: its name in the table; empty for a common start of
    other rows that is in no table. method, preset, steps, without, change: as on the command
    line of `talkingface train`. after: the row whose weights it starts from.
    """

    name: str
    label: str
    method: Method
    preset: str
    steps: str
    without: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    after: str = ""


def _branch(name: str, label: str, without: str, start: str, preset: str, steps: str) -> Row:
    """Return a row with discriminators from a common start (the paper: 30 epochs, then 15)."""
    return Row(name, label, "cran", preset, steps, tuple(without.split()), after=start)


def _scheme(name: str, label: str) -> Row:
    """Return a row of another scheme of Fig. 1, started from the recurrent one, with L_r."""
    without, change = ("image", "video", "reading"), (f"scheme={name}",)
    return Row(name, label, "cran", "cran", "0,400", without, change, "cran-start")


_SMALL = ("cran-start", "cran", "0,400")

SONG_TABLE1 = (
    Row("chung", "Chung 2017", "baseline", "chung", "1200,200"),
    Row("zhou", "Zhou 2019", "baseline", "zhou", "1000,400"),
    Row("chen", "Chen 2018", "baseline", "chen", "300,150"),
    Row("cran-start", "", "cran", "cran", "1100"),
    _branch("cran-r", "L_r", "image video reading", *_SMALL),
    _branch("cran-rv", "L_r,V", "image reading", *_SMALL),
    _branch("cran-riv", "L_r,I,V", "reading", *_SMALL),
    _branch("cran-rivl", "L_r,I,V,l", "", *_SMALL),
    _scheme("frame", "frame to frame"),
    _scheme("sequential", "sequential"),
)

# The poster's table: what ATVGnet is compared with.
ATVGNET_TABLE = tuple(row for row in SONG_TABLE1 if row.name in ("chung", "chen"))


# The same in seconds, for tests of the command line.
TINY = (
    Row("start", "", "cran", "cran-tiny", "2,2"),
    Row("r", "L_r", "cran", "cran-tiny", "0,0,2", ("image", "video"), after="start"),
    Row("chung", "Chung 2017", "baseline", "chung-tiny", "2,2"),
)

TABLES: Mapping[str, tuple[Row, ...]] = {
    "song-table1": SONG_TABLE1,
    "atvgnet-table": ATVGNET_TABLE,
    "tiny": TINY,
}


def rows_of(table: str, only: Sequence[str] = ()) -> tuple[Row, ...]:
    """Return the rows of a table, or those of these names. Raises BadRequest."""
    if table not in TABLES:
        raise BadRequest(f"no table is called {table!r}; known: {', '.join(TABLES)}")
    rows = {row.name: row for row in TABLES[table]}
    if unknown := set(only) - set(rows):
        raise BadRequest(f"{table} has no row {unknown.pop()!r}; it has {', '.join(rows)}")
    return tuple(row for name, row in rows.items() if not only or name in only)


def recipe_of(
    row: Row,
    cache: Cache,
    runs: Path,
    reader: str | Path,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Recipe:
    """Return the recipe of one row, on the split `train`. runs: the folder of the rows' runs."""
    init = runs / row.after / WEIGHTS if row.after else None
    change = (*row.change, f"seed={seed}")
    training = presets.choose(
        presets.PRESETS[row.method], row.preset, row.steps, row.without, change
    )
    own = {"reader": reader} if row.method == "cran" else {}
    return presets.RECIPES[type(training)](training, cache, device=device, init=init, **own)


def trained(table: str, runs: Path) -> dict[str, Path]:
    """Return label -> weights of a table's models. Raises BadRequest naming missing ones."""
    found = {row.label: runs / row.name / WEIGHTS for row in rows_of(table) if row.label}
    missing = [path.parent.name for path in found.values() if not path.is_file()]
    if missing:
        raise BadRequest(
            f"{runs}: {', '.join(missing)} of {table} have no {WEIGHTS}; train them: "
            f"`talkingface train table {table} SHARDS -o {runs}`"
        )
    return found
