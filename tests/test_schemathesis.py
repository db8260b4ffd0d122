"""The server answers requests made from its OpenAPI document as the document says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from helpers.served import serving
from talkingface.web.limits import Limits

# "Valid data is accepted": a schema cannot say that a picture shows a face.
LEFT_OUT = "positive_data_acceptance"
# Wrong data may also be too large (413), too many (429) or of a wrong kind (415).
SETTINGS = '[checks]\nnegative_data_rejection.expected-statuses = ["4xx"]\n'


@pytest.mark.slow
def test_the_server_answers_as_its_document_says(tmp_path: Path) -> None:
    temp, settings = tmp_path / "temp", tmp_path / "settings.toml"
    temp.mkdir()
    settings.write_text(SETTINGS)
    code = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ["--exclude-checks", LEFT_OUT, "--generation-deterministic", "--no-color"]
    options += ["--max-examples", "10", "--max-time", "40"]
    with serving(Limits(), temp) as served:
        document = f"{served.url}/openapi.json"
        paths = httpx.get(document).json()["paths"]
        del paths["/openapi.json"]  # it is the document, and not asked for
        operations = sum(map(len, paths.values()))
        call = [sys.executable, "-c", code, "--config-file", str(settings), "run", document]
        command = [*call, "--url", served.url, *options]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-1000:]
    tested = re.search(r"Tested: (\d+)", ran.stdout)
    assert tested is not None and int(tested[1]) == operations >= 13, ran.stdout
