"""A label reader that kills its worker process; it must be importable there."""

from __future__ import annotations

import os

from talkingface.data.sources import Recording
from talkingface.errors import UnreadableMedia


def dies(recording: Recording) -> Recording:
    """End the process at one recording, like a decoder that crashes; refuse all others."""
    if recording.path.stem == "poison":
        os._exit(11)
    raise UnreadableMedia(f"{recording.path.name}: read by a process that lives")
