"""What can be chosen, and what this machine's CPU is good at."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Runtime = Literal["torch", "openvino"]
Precision = Literal["float32", "bfloat16", "int8", "auto"]
CPU_INFO = Path("/proc/cpuinfo")


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX-512 BF16 or AMX); False where unknown.

    One that does not imitates it, slower than float32.
    """
    if not CPU_INFO.exists():
        return False
    flags = CPU_INFO.read_text(encoding="utf-8", errors="replace").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
