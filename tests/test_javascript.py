"""The scripts of the pages: their pure functions by node's test runner, all of them by eslint."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NODE = shutil.which("node")
ESLINT = ROOT / "node_modules" / ".bin" / "eslint"


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_functions_of_the_pages() -> None:
    tests = sorted(str(path) for path in (ROOT / "tests" / "js").glob("*.test.js"))
    assert len(tests) >= 3 and NODE is not None
    run(NODE, "--test", *tests)


@pytest.mark.skipif(not ESLINT.exists(), reason="needs eslint: npm install")
def test_the_scripts_are_clean() -> None:
    run(str(ESLINT), "talkingface/web/static", "tests/js", "--max-warnings", "0")
