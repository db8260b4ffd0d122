"""The house stands: imports go down the floors of docs/design.md, and never in a circle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "talkingface"
DOORS = {"talkingface", "talkingface.__main__"}  # they may take from every floor
ROOT_NAMES = {"__version__"}  # all that a module may take from the package's own __init__


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def floors(text: str) -> dict[str, int]:
    """The table of docs/design.md: "audio.py" -> talkingface.audio -> 0."""
    found: dict[str, int] = {}
    floor = -1
    for first, second in re.findall(r"^\| *(F\d|) *\| *([^|]*?) *\|", text, re.MULTILINE):
        floor = int(first[1:]) if first else floor
        for name in re.findall(r"`([a-z_]+)(?:\.py|/)`", second):
            found[f"talkingface.{name}"] = floor
    return found


def floor_of(module: str, table: dict[str, int]) -> int:
    return table.get(".".join(module.split(".")[:2]), 0)


def imports(name: str, source: str, modules: set[str]) -> set[str]:
    """The modules of this package that `source` imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import hides where it goes"
            if node.module not in modules:
                continue
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules:
                    found.add(inner)
                elif node.module != "talkingface" or alias.name not in ROOT_NAMES:
                    found.add(node.module)
    return found - {name}


def upward(graph: dict[str, set[str]], table: dict[str, int]) -> list[str]:
    """Every import of a module from a higher floor, or of one of the package's doors."""
    return [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets
        if target in DOORS or floor_of(target, table) > floor_of(name, table)
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports; [] when there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


@pytest.fixture(scope="module")
def table() -> dict[str, int]:
    return floors((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {
        name: imports(name, path.read_text(encoding="utf-8"), set(MODULES))
        for name, path in MODULES.items()
        if name not in DOORS
    }


def test_every_module_has_a_floor(table: dict[str, int]) -> None:
    rooms = {".".join(name.split(".")[:2]) for name in MODULES if name not in DOORS}
    assert rooms - set(table) == set(), "docs/design.md does not say on which floor these are"


def test_no_import_goes_up(graph: dict[str, set[str]], table: dict[str, int]) -> None:
    assert upward(graph, table) == []


def test_no_imports_in_a_circle(graph: dict[str, set[str]]) -> None:
    assert cycle(graph) == []


def test_the_walk_sees_what_is_wrong() -> None:
    table = floors("| F0 | `low.py`, `also.py` | x |\n| | `third.py` |\n| F1 | `high/` | y |\n")
    names = ("low", "also", "third", "high")
    assert [table[f"talkingface.{name}"] for name in names] == [0, 0, 0, 1]
    modules = {"talkingface", "talkingface.low", "talkingface.high", "talkingface.high.room"}
    lazy = "def f():\n    from talkingface.high import room\n"
    assert imports("talkingface.low", lazy, modules) == {"talkingface.high.room"}
    assert upward({"talkingface.low": {"talkingface.high.room"}}, table) != []
    assert upward({"talkingface.high": {"talkingface.low"}}, table) == []
    door = imports("talkingface.low", "from talkingface import load", modules)
    assert upward({"talkingface.low": door}, table) != []
    assert imports("talkingface.low", "from talkingface import __version__", modules) == set()
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []
