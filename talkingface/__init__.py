"""One portrait and one speech recording in, a video of that face speaking out.

    import talkingface
    speaker = talkingface.load("cran")
    speaker.generate("portrait.jpg", "speech.wav").save("talking.mp4")

The names below are imported when first used, so that `import talkingface` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from talkingface.version import __version__

if TYPE_CHECKING:
    from talkingface.controls import Controls
    from talkingface.errors import TalkingFaceError
    from talkingface.motion import Motion
    from talkingface.pipeline import Job, JobResult, TalkingFace, Video, align, load, stream
    from talkingface.streaming import Stream

__all__ = [
    "Controls",
    "Job",
    "JobResult",
    "Motion",
    "Stream",
    "TalkingFace",
    "TalkingFaceError",
    "Video",
    "__version__",
    "align",
    "load",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'talkingface' has no attribute {name!r}")
    elsewhere = {
        "Controls": "controls",
        "Motion": "motion",
        "Stream": "streaming",
        "TalkingFaceError": "errors",
    }
    home = importlib.import_module(f"talkingface.{elsewhere.get(name, 'pipeline')}")
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
