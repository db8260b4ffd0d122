"""The server answers requests made from its OpenAPI document as the document says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.served import serving
from talkingface.web.limits import Limits

# "Valid data is accepted": a schema cannot say that a picture shows a face.
LEFT_OUT = "positive_data_acceptance"


@pytest.mark.long
def test_the_server_answers_as_its_document_says(tmp_path: Path) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    code = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ["--exclude-checks", LEFT_OUT, "--generation-deterministic", "--no-color"]
    options += ["--max-examples", "10", "--max-time", "90"]
    with serving(Limits(), temp) as served:
        document = f"{served.url}/openapi.json"
        command = [sys.executable, "-c", code, "run", document, "--url", served.url, *options]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-1000:]
    assert "Tested: 11" in ran.stdout
