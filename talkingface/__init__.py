"""One portrait and one speech recording in, a video of that face speaking out.

    import talkingface
    speaker = talkingface.load("cran")
    speaker.generate("portrait.jpg", "speech.wav").save("talking.mp4")

The names below are imported when first used, so that `import talkingface` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from talkingface.errors import TalkingFaceError
    from talkingface.pipeline import Job, JobResult, TalkingFace, Video, align, load

__version__ = "0.1.0"

__all__ = [
    "Job",
    "JobResult",
    "TalkingFace",
    "TalkingFaceError",
    "Video",
    "__version__",
    "align",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'talkingface' has no attribute {name!r}")
    home = "talkingface.errors" if name == "TalkingFaceError" else "talkingface.pipeline"
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
