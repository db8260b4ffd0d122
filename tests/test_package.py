"""Promises of the package: its names, a light import, documents that are true, a whole wheel."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import talkingface
from conftest import Cli

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import api_page  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "examples" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
HEAVY = {"torch", "numpy", "cv2", "av", "safetensors", "rich", "fastapi", "starlette", "uvicorn"}


def test_exported_names() -> None:
    assert set(talkingface.__all__) == {
        "Controls",
        "Conversation",
        "DubJob",
        "DubbedVideo",
        "FaceOptions",
        "Job",
        "JobResult",
        "LiveClock",
        "LiveFace",
        "LiveFrame",
        "LiveStatistics",
        "Motion",
        "OutputOptions",
        "Stream",
        "TalkingFace",
        "TalkingFaceError",
        "Turn",
        "Video",
        "Workers",
        "__version__",
        "align",
        "load",
        "run_batch",
        "stream",
    }
    assert all(getattr(talkingface, name) is not None for name in talkingface.__all__)
    assert set(talkingface.__all__) <= set(dir(talkingface))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = talkingface.nonsense


@pytest.mark.parametrize("module", ["talkingface", "talkingface.cli"])
def test_the_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()


def test_the_version_is_said_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", talkingface.__version__)
    assert f"## {talkingface.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# The first version of each without the holes that are known of earlier ones, by what it does here:
# loads checkpoints, sends videos, reads forms, decodes pictures.
SAFE = {
    "torch": "2.10",  # CVE-2025-32434, CVE-2026-24747
    "starlette": "0.49.1",  # CVE-2025-62727
    "python-multipart": "0.0.26",  # CVE-2024-53981, CVE-2026-40347
    "opencv-python-headless": "4.12",  # CVE-2025-53644
}


def test_no_version_with_a_known_hole_is_allowed() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    blocks = re.findall(r"^(?:dependencies|serve) = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    needed = [Requirement(line) for line in re.findall(r'"(.+?)"', "".join(blocks))]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", pins, re.MULTILINE))
    for requirement in needed:
        assert pinned[requirement.name] in requirement.specifier, requirement
    bounds = {r.name: max(Version(s.version) for s in r.specifier) for r in needed}
    for name, version in SAFE.items():
        assert bounds[name] >= Version(version), name


def test_the_readme_is_short() -> None:
    assert README.count("\n") < 150


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page} points to {link}"


def test_the_page_of_the_python_api_is_up_to_date() -> None:
    text = api_page.DOCUMENT.read_text(encoding="utf-8")
    assert api_page.page() == text, "run python tools/api_page.py"


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"^ *```\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.strip() for line in lines]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("talkingface ")]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_names_real_commands_and_options(page: Path, cli: Cli) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        group = words[1:3] if words[1] in {"prepare", "study", "train"} else words[1:2]
        shown = cli(*group, "--help")
        assert shown.code == 0, words
        for option in (word for word in words if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown.out), (words, option)


def test_every_command_has_help_with_an_example(cli: Cli) -> None:
    def names(text: str) -> list[str]:
        group = "COMMAND [ARGS]" in text
        return re.findall(r"^  ([a-z][a-z-]*) {2,}", text, re.MULTILINE) if group else []

    todo, seen = [[name] for name in names(cli("--help").out)], 0
    assert len(todo) >= 7
    while todo:
        path = todo.pop()
        shown = cli(*path, "--help").out
        inner = names(shown)
        todo += [[*path, name] for name in inner]
        if not inner and path != ["version"]:
            seen += 1
            assert f"Example: talkingface {' '.join(path)}" in " ".join(shown.split()), path
    assert seen >= 4


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling")
def test_the_wheel_is_whole(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = [
        path.relative_to(ROOT).as_posix()
        for kind in ("*.py", "*.safetensors", "*.json", "py.typed", "static/**/*.*")
        for path in (ROOT / "talkingface").rglob(kind)
    ]
    assert set(wanted) <= inside and "talkingface/py.typed" in inside
    page = {
        "base.css",
        "common.js",
        "serve.html",
        "serve/app.js",
        "serve/style.css",
        "examples/nobody.jpg",
    }
    assert {f"talkingface/web/static/{name}" for name in page} <= inside
    assert any(name.endswith("licenses/NOTICE") for name in inside)
