"""The container examples can be read, and name options, addresses and metrics that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from conftest import Cli
from talkingface.web.limits import Limits
from talkingface.web.metrics import Metrics
from talkingface.web.serve import app
from talkingface.web.service import Service

ROOT = Path(__file__).parents[1]
SERVE = ROOT / "examples" / "serve"
DOCKERFILE = (SERVE / "Dockerfile").read_text()


def read(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((SERVE / name).read_text()))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All addresses of the server."""
    service = Service(["cran-tiny"], Limits(jobs=1, streams=1), tmp_path_factory.mktemp("temp"))
    routes = app(service).routes
    service.temp_store.close()
    return {route.path for route in routes if isinstance(route, APIRoute)}


def check(cli: Cli, words: list[str]) -> None:
    """The server has each of the options."""
    shown = cli("serve", "--help").out
    for word in words:
        assert not word.startswith("-") or re.search(rf"{word}(?![\w-])", shown), word


def value(words: list[str], option: str) -> float:
    return float(words[words.index(option) + 1])


def check_shares(words: list[str], cores: float) -> None:
    """There is a worker process for each core, and a place for each of them."""
    workers, jobs, streams = (
        int(value(words, name)) for name in ("--workers", "--jobs", "--streams")
    )
    assert workers == cores
    Limits(jobs=jobs, streams=streams).share(0, workers)


def test_the_image_runs_the_server_without_root_and_knows_its_health(
    cli: Cli, paths: set[str]
) -> None:
    joined = DOCKERFILE.replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line[:1].isupper()]
    last = dict(lines)
    command = json.loads(last["ENTRYPOINT"])
    assert command[:2] == ["talkingface", "serve"] and last["USER"] == "10001"
    check(cli, command)
    for name, text in lines:
        if name == "COPY" and "--from" not in text:
            assert all((ROOT / part).exists() for part in text.split()[:-1]), text
    health = json.loads(last["HEALTHCHECK"].partition("CMD")[2])
    compile(health[2], "HEALTHCHECK", "exec")
    port, path = re.findall(r":(\d+)(/[\w/]+)", health[2])[0]
    assert path in paths and port == last["EXPOSE"] == command[command.index("--port") + 1]


def test_compose(cli: Cli) -> None:
    (own,) = read("compose.yaml")[0]["services"].values()
    check(cli, own["command"])
    context = SERVE / own["build"]["context"]
    assert (context / own["build"]["dockerfile"]).samefile(SERVE / "Dockerfile")
    assert own["read_only"] and own["tmpfs"][0].startswith("/tmp:")
    assert float(own["stop_grace_period"].rstrip("s")) > value(own["command"], "--drain-seconds")
    assert own["ports"] == ["127.0.0.1:8000:8000"]
    check_shares(own["command"], float(own["cpus"]))


def test_kubernetes(cli: Cli, paths: set[str]) -> None:
    deployment, service, scaler = read("kubernetes.yaml")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    check(cli, container["args"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"].partition("?")[0] in paths
    assert pod["metadata"]["annotations"]["prometheus.io/path"] in paths
    check_shares(container["args"], float(container["resources"]["requests"]["cpu"]))
    wait = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = value(container["args"], "--drain-seconds")
    assert pod["spec"]["terminationGracePeriodSeconds"] > wait + drain
    assert drain >= 60 * Limits().live_minutes  # no live video is cut
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert service["spec"]["sessionAffinity"] == "ClientIP"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (mount,), (volume,) = container["volumeMounts"], pod["spec"]["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/tmp"}
    metric = scaler["spec"]["metrics"][0]["pods"]
    labels = metric["metric"]["selector"]["matchLabels"]
    assert float(metric["target"]["averageValue"].rstrip("m")) / 1000 < value(
        container["args"], "--streams"
    )
    assert (metric["metric"]["name"], labels) == (
        "talkingface_slots",
        {"kind": "live", "state": "working"},
    )


def test_the_metric_of_the_scaler_is_there() -> None:
    class Pool:
        capacity = 4

        def counts(self) -> tuple[int, int]:
            return 3, 1

    metrics = Metrics()
    metrics.update({"live": Pool()}, False)  # type: ignore[dict-item]
    assert 'talkingface_slots{kind="live",state="working"} 3.0' in metrics.text().decode()
