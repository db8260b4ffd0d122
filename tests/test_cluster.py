"""The commands of the cluster examples and of docs/training.md exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "examples" / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sbatch"))


def words_of(path: Path) -> list[str]:
    """Return a script's command: everything from `talkingface` on, its lines joined."""
    text = path.read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if re.match(r"srun .*\btalkingface\b", line))
    words = shlex.split(line)
    return words[words.index("talkingface") + 1 :]


def check(cli: Cli, words: list[str]) -> None:
    """The command exists, with each of the options."""
    command = words[:2]
    if command[0] != "train":  # what follows is no command
        command = command[:1]
    shown = cli(*command, "--help")
    assert shown.code == 0, command
    options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    for option in options:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown.out), option


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_read_and_its_options_are_there(path: Path, cli: Cli) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "--requeue" in path.read_text()
    check(cli, words_of(path))


def test_the_job_can_be_read_and_its_options_are_there(cli: Cli) -> None:
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    spec: dict[str, Any] = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    arguments: list[str] = container["args"]
    assert container["command"] == ["torchrun"] and container["image"] == "IMAGE"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert f"--nnodes={spec['completions']}" in arguments
    assert spec["parallelism"] == spec["completions"]
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in arguments
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    words = arguments[arguments.index("talkingface") + 1 :]
    check(cli, words)


def test_two_scripts_are_there() -> None:
    assert [path.name for path in SCRIPTS] == ["prepare.sbatch", "slurm.sbatch"]


def test_the_commands_of_the_guide_are_there(cli: Cli) -> None:
    blocks = (ROOT / "docs" / "training.md").read_text().split("```")[1::2]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if "talkingface" in line]
    assert len(commands) >= 12
    for words in commands:
        check(cli, words[words.index("talkingface") + 1 :])
