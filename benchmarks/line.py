"""Output of the benchmarks: one JSON line per result, and a table of the lines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

EXAMPLES = Path(__file__).parent.parent / "examples"
SENTENCE = EXAMPLES.parent / "tests" / "fixtures" / "sentence.wav"  # 2.98 s
Line = dict[str, Any]


def context(threads: int) -> Line:
    """Return the circumstances of a number: processor, threads, and load of the machine."""
    import torch

    return {
        "threads": threads,
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "torch": torch.__version__,
        "cpu": processor(),
    }


def processor() -> str:
    """Return the processor's name, and which of the instructions that matter here it has."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    flags = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    kinds = [kind for kind in flags if kind in text.split()]
    return " ".join([names[0] if names else platform.processor(), *kinds])


def best(work: Callable[[], Any], times: int = 5) -> float:
    """Return the seconds of the fastest of several calls: other programs only add time."""
    shortest = float("inf")
    for _ in range(times):
        began = perf_counter()
        work()
        shortest = min(shortest, perf_counter() - began)
    return shortest


def table(lines: Iterable[Mapping[str, Any]], columns: list[str]) -> str:
    """Write some of the lines' entries as Markdown."""
    rows = [[_shown(line.get(column)) for column in columns] for line in lines]
    parts = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in parts)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def append(path: Path, lines: Iterable[Line]) -> None:
    """Add JSON lines to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, sort_keys=True) + "\n")
