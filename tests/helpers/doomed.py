"""A label reader that kills its worker process; it must be importable there."""

from __future__ import annotations

import os

from talkingface.data.sources import Recording
from talkingface.errors import UnreadableMedia


def dies(recording: Recording) -> Recording:
    """As a file that makes a decoder crash: the process is gone. Others are read at once."""
    if recording.path.stem == "poison":
        os._exit(11)
    raise UnreadableMedia(f"{recording.path.name}: read by a process that lives")
