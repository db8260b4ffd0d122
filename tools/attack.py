"""Attack a real server, with honest clients and live viewers beside the attackers.

    python tools/attack.py                             every attack in turn, 10 s each
    python tools/attack.py slow-connections --clients 10 --seconds 60
    python tools/attack.py all --seconds 600           all attacks at the same time

Starts `talkingface serve` as a process of its own, whose decoders fail at files that say so, and
prints a row for each attack: what the attackers got, what the honest clients got (served; told to
try again; lost), how long they waited, how many frames of the live videos came in each second, and
the server's memory, open files and folders, before and after. The exit code is 1 if anything was
wrong: an answer that the attack should not get, a lost visit, a server that is dead, does not
become idle, keeps memory, files or folders, or logs a traceback.

The attack `full-disk` needs a small disk: the right to mount a tmpfs. Without it, it is left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1])]
from attacks import ATTACKS, Attack, runner  # noqa: E402
from helpers.server_process import server_process  # noqa: E402

_DISK = "64m"  # size of the small disk
_SLOWER = 10  # times as long pauses where all attack at once


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk at a folder for the block. Yield whether that was allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def attack(attacks: Mapping[str, Attack], options: argparse.Namespace, pause: float) -> bool:
    """Run attacks at once on a server of their own; print a row. Return whether all was well."""
    own = [*("--model", options.model, "--proxy", "127.0.0.1", "--patience", "3")]
    own += ["--keep-minutes", "0.1", "--jobs", str(options.jobs), "--streams", str(options.streams)]
    environment = {key: value for it in attacks.values() for key, value in it.environment.items()}
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder)) as is_small:
        if not is_small:
            attacks = {name: it for name, it in attacks.items() if not it.small_disk}
            print(
                "no disk can be mounted here: attacks that need one are left out", file=sys.stderr
            )
        with server_process(
            Path(folder),
            *own,
            faulty=options.decoder_seconds,
            environment=environment if len(attacks) == 1 else {},
        ) as server:
            runner.warm(server)
            report = runner.run(
                server, attacks, options.seconds, options.clients, options.viewers, pause
            )
            print("| " + " | ".join(runner.row(report, server)) + " |", flush=True)
        report.wrong += [f"{path.name} is left" for path in Path(folder).iterdir()]
    for what in report.wrong:
        print(f"{report.name}: {what}", file=sys.stderr)
    return not report.wrong


def main() -> None:
    """Attack and print; exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*ATTACKS, "all", []], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack")
    parser.add_argument("--clients", type=int, default=2, help="honest clients")
    parser.add_argument("--viewers", type=int, default=1, help="of live videos")
    parser.add_argument("--model", default="cran")
    parser.add_argument("--jobs", type=int, default=2, help="of the server")
    parser.add_argument("--streams", type=int, default=8, help="of the server")
    parser.add_argument("--decoder-seconds", type=int, default=20, help="that a decoder may take")
    options = parser.parse_args()
    print("| " + " | ".join(runner.COLUMNS) + " |")
    print("|" + " --- |" * len(runner.COLUMNS))
    if options.names == ["all"]:
        fine = [attack(ATTACKS, options, _SLOWER * 0.2)]
    else:
        names = options.names or list(ATTACKS)
        fine = [attack({name: ATTACKS[name]}, options, 0.2) for name in names]
    print(f"load of the machine: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    sys.exit(not all(fine))


if __name__ == "__main__":
    main()
