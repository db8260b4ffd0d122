"""Commands that are killed hard and run again end as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "kill_test.py"
TASKS = ("prepare", "train", "batch", "dub")  # caches and single videos are written as these


@pytest.mark.long
def test_killed_commands_end_as_if_nothing_had_been() -> None:
    """Four commands are killed once; `tools/kill_test.py --kills 200` kills all, at length."""
    options = ["--kills", "4", "--seed", "7"]
    options += [word for name in TASKS for word in ("--task", name)]
    ran = subprocess.run(
        [sys.executable, str(TOOL), *options], capture_output=True, text=True, timeout=1800
    )
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(lines) == len(TASKS) and all(" 0 differ" in line for line in lines), ran.stdout
