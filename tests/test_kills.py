"""Commands that are killed hard and run again end as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "kill_test.py"


@pytest.mark.slow
def test_killed_commands_end_as_if_nothing_had_been() -> None:
    """Each is killed once; `tools/kill_test.py --kills 200` takes half an hour."""
    options = ("--kills", "5", "--seed", "7")
    ran = subprocess.run(
        [sys.executable, str(TOOL), *options], capture_output=True, text=True, timeout=900
    )
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(lines) == 5 and all(" 0 differ" in line for line in lines), ran.stdout
