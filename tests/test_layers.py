"""Imports go down the layers of docs/design.md, never in a circle, and its tables are true."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import module_table  # noqa: E402

PACKAGE = ROOT / "talkingface"
ENTRANCES = {"talkingface", "talkingface.__main__"}  # they may take from every layer


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def layer_of(module: str, table: dict[str, int]) -> int:
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
                else:
                    found.add(node.module)
    return found - {name}


def upward(graph: dict[str, set[str]], table: dict[str, int]) -> list[str]:
    """Every import of a module from a higher layer, or of one of the package's entrances."""
    return [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets
        if target in ENTRANCES or layer_of(target, table) > layer_of(name, table)
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
    found = module_table.layers(module_table.DOCUMENT.read_text(encoding="utf-8"))
    return {f"talkingface.{name}": layer for name, layer in found.items()}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {
        name: imports(name, path.read_text(encoding="utf-8"), set(MODULES))
        for name, path in MODULES.items()
        if name not in ENTRANCES
    }


def test_every_module_has_a_layer(table: dict[str, int]) -> None:
    names = {".".join(name.split(".")[:2]) for name in MODULES if name not in ENTRANCES}
    assert names == set(table), "docs/design.md does not say in which layer these are, or they went"


def test_the_tables_of_modules_are_true() -> None:
    text = module_table.DOCUMENT.read_text(encoding="utf-8")
    assert module_table.updated(text) == text, "run python tools/module_table.py"


def test_no_import_goes_up(graph: dict[str, set[str]], table: dict[str, int]) -> None:
    assert upward(graph, table) == []


def test_no_imports_in_a_circle(graph: dict[str, set[str]]) -> None:
    assert cycle(graph) == []


def test_the_walk_sees_what_is_wrong() -> None:
    text = "x\n### Layer 0: a\n\n| module | |\n|---|---|\n| `low.py` | x |\n| `also.py` | x |\n"
    text += "\n### Layer 1: b\n\n| module | |\n|---|---|\n| `high/inner.py` | y |\n\n## End\n"
    known = module_table.layers(text)
    assert known == {"low": 0, "also": 0, "high": 1}
    table = {f"talkingface.{name}": layer for name, layer in known.items()}
    modules = {"talkingface", "talkingface.low", "talkingface.high", "talkingface.high.inner"}
    lazy = "def f():\n    from talkingface.high import inner\n"
    assert imports("talkingface.low", lazy, modules) == {"talkingface.high.inner"}
    assert upward({"talkingface.low": {"talkingface.high.inner"}}, table) != []
    assert upward({"talkingface.high": {"talkingface.low"}}, table) == []
    entrance = imports("talkingface.low", "from talkingface import load", modules)
    assert upward({"talkingface.low": entrance}, table) != []
    entrance = imports("talkingface.low", "from talkingface import __version__", modules)
    assert upward({"talkingface.low": entrance}, table) != []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_docstrings_say_what_a_thing_does_or_is() -> None:
    """No first line leaves its verb to the reader: "Whether ...", "How far ...", "What ..."."""
    riddles = ("What", "Who", "Whose", "Of", "How", "Where", "Whether", "Which", "Why", "When")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        f"{name}: {text.splitlines()[0]}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
        if text.split()[0] in riddles
    ]
    assert found == []
