"""Bring the tables of modules in docs/design.md up to date: python tools/module_table.py

A row for each module: its name and the first line of its docstring. Which layer a module or package
belongs to is what the document says; a new one must be put into a table by hand, once.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, DOCUMENT = ROOT / "talkingface", ROOT / "docs" / "design.md"
HEADING = re.compile(r"^### Layer (\d+)[^\n]*\n", re.MULTILINE)
ROW = re.compile(r"^\| `([a-z_]+)(?:\.py|/[a-z_/.]*)` \|", re.MULTILINE)


def layers(text: str) -> dict[str, int]:
    """The layer of each module and package at the top, by the tables of a document."""
    parts = HEADING.split(text)
    sections = zip(parts[1::2], parts[2::2], strict=True)
    return {name: int(layer) for layer, body in sections for name in ROW.findall(_table(body)[1])}


def updated(text: str) -> str:
    """The document with a row for each module in the section of its layer."""
    parts = HEADING.split(text)
    headings = [found.group(0) for found in HEADING.finditer(text)]
    out = [parts[0]]
    for heading, body in zip(headings, parts[2::2], strict=True):
        before, table, after = _table(body)
        names = list(dict.fromkeys(ROW.findall(table)))
        rows = "".join(row for name in names for row in _rows(name))
        out.append(f"{heading}{before}| module | |\n|---|---|\n{rows}{after}")
    return "".join(out)


def _table(body: str) -> tuple[str, str, str]:
    """Split a section into the text before its table, the table, and what follows."""
    lines = body.splitlines(keepends=True)
    inside = [number for number, line in enumerate(lines) if line.startswith("|")]
    first, last = inside[0], inside[0]
    while last + 1 < len(lines) and lines[last + 1].startswith("|"):
        last += 1
    return "".join(lines[:first]), "".join(lines[first : last + 1]), "".join(lines[last + 1 :])


def _rows(name: str) -> list[str]:
    """The rows of a module, or of each module of a package that says what it is."""
    alone = PACKAGE / f"{name}.py"
    paths = [alone] if alone.exists() else sorted((PACKAGE / name).rglob("*.py"))
    found = []
    for path in paths:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if text:
            line = " ".join(text.split("\n\n")[0].split())
            found.append(f"| `{path.relative_to(PACKAGE)}` | {line.rstrip('.')} |\n")
    return found


def main() -> None:
    """Write the document, or with --check only say whether it is up to date."""
    text = DOCUMENT.read_text(encoding="utf-8")
    fresh = updated(text)
    if "--check" not in sys.argv:
        DOCUMENT.write_text(fresh, encoding="utf-8")
    elif fresh != text:
        sys.exit(f"{DOCUMENT}: its tables of modules are old: python tools/module_table.py")


if __name__ == "__main__":
    main()
