"""Run every benchmark, one after the other: python benchmarks/run.py [--out speed.jsonl] [--quick]

The network alone, where the time of a video goes, memory against length, live streams, training
(not `loader` and `prepare`, which want a corpus). Each prints its table and adds its JSON lines to
the file. The whole takes about half an hour on two cores, most of it for the hour of sound in
`memory`; --quick leaves out what is long. Use an idle machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SUITE = {
    "network": [],
    "stages": [],
    "memory": ["--lengths", "10,60,600,3600"],
    "server": ["--clients", "1,2,3,4"],
    "training": [],
}
QUICK = {"memory": ["--lengths", "10,60"], "server": ["--clients", "1,2", "--seconds", "4"]}


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("speed.jsonl"), help="is appended to")
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of an hour")
    parser.add_argument("--only", help="names, with commas between")
    options = parser.parse_args()
    for name in options.only.split(",") if options.only else SUITE:
        words = QUICK.get(name, SUITE[name]) if options.quick else SUITE[name]
        print(f"\n## {name}\n", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *words, "--out", str(options.out)]
        # threads that wait by spinning would be measured too; the command line sets the same
        subprocess.run(command, check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})


if __name__ == "__main__":
    main()
