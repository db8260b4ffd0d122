"""Attacks on a running server, one function each: it goes on until a time and counts its outcomes.

An outcome is the status of an answer, "closed" where the server closed the connection, or "left"
where the attacker did. Each attack names the outcomes that are right; all others are faults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from attacks.target import Target
from talkingface import decoding


@dataclass(frozen=True)
class Attack:
    """An attack.

    run: attacks until this time (`time.monotonic`). right: the outcomes that are right, beside
    "429". environment: of the server that is attacked. small_disk: its folder for temporary files
    is on a small disk of its own.
    """

    run: Callable[[Target, float], Counter[str]]
    right: frozenset[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    small_disk: bool = False


def _right(*outcomes: str) -> frozenset[str]:
    return frozenset({"429", *outcomes})


def _table() -> dict[str, Attack]:
    from attacks import connections, decoders, forms, live, requests, storage

    direct = {decoding.SWITCH: "direct"}
    return {
        "nothing": Attack(requests.nothing, _right()),
        "eight-channels": Attack(decoders.eight_channels, _right("200"), direct),
        "decoder-crashes": Attack(decoders.crash, _right("415")),
        "decoder-killed": Attack(decoders.killed, _right("415")),
        "decoder-hangs": Attack(decoders.hang, _right("415")),
        "decoder-eats": Attack(decoders.eat, _right("415")),
        "odd-files": Attack(decoders.odd_files, _right("200", "400", "413", "415", "422")),
        "slow-connections": Attack(connections.slow, _right("closed", "408", "left")),
        "silent-connections": Attack(connections.silent, _right("closed", "408", "left")),
        "after-the-end": Attack(forms.after_the_end, _right("413", "closed")),
        "broken-forms": Attack(forms.broken, _right("400", "413", "415")),
        "vanishing": Attack(forms.vanish, _right("left")),
        "odd-requests": Attack(
            requests.odd, _right("400", "403", "404", "405", "414", "415", "421", "431", "closed")
        ),
        "flood": Attack(requests.flood, _right("200")),
        "forgotten-jobs": Attack(requests.forget, _right("202")),
        "live-vanishing": Attack(live.vanish, _right("left")),
        "live-not-reading": Attack(live.not_reading, _right("left")),
        "live-nonsense": Attack(live.nonsense, _right("400", "413", "415", "closed")),
        "full-disk": Attack(storage.full, _right("507", "200", "closed"), small_disk=True),
        "removed-folder": Attack(storage.removed, _right("200", "503")),
    }


ATTACKS = _table()
