"""Commands that are killed hard and run again end as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "kill_test.py"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["prepare", "cache", "train", "generate", "batch"])
def test_a_killed_command_ends_as_if_nothing_had_been(task: str) -> None:
    options = ("--kills", "2", "--seed", "7", "--task", task)
    ran = subprocess.run(
        [sys.executable, str(TOOL), *options], capture_output=True, text=True, timeout=900
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
