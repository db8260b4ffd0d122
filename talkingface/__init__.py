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
    from talkingface.batch import run_batch
    from talkingface.controls import Controls
    from talkingface.conversation import Conversation
    from talkingface.dubbing.dubbed_video import DubbedVideo
    from talkingface.errors import TalkingFaceError
    from talkingface.face_options import FaceOptions
    from talkingface.generated_video import Video
    from talkingface.jobs import DubJob, Job, JobResult
    from talkingface.live_clock import LiveClock
    from talkingface.live_face import LiveFace, LiveFrame, LiveStatistics
    from talkingface.motion import Motion
    from talkingface.output_options import OutputOptions
    from talkingface.pipeline import TalkingFace, align, load, stream
    from talkingface.streaming import Stream
    from talkingface.turns import Turn
    from talkingface.workers import Workers

__all__ = [
    "Controls",
    "Conversation",
    "DubJob",
    "DubbedVideo",
    "FaceOptions",
    "Job",
    "JobResult",
    "LiveClock",
    "LiveFace",
    "LiveFrame",
    "LiveStatistics",
    "Motion",
    "OutputOptions",
    "Stream",
    "TalkingFace",
    "TalkingFaceError",
    "Turn",
    "Video",
    "Workers",
    "__version__",
    "align",
    "load",
    "run_batch",
    "stream",
]


_MODULES = {  # of the names that are not in `pipeline`
    "Controls": "controls",
    "Conversation": "conversation",
    "DubJob": "jobs",
    "DubbedVideo": "dubbing.dubbed_video",
    "FaceOptions": "face_options",
    "Job": "jobs",
    "JobResult": "jobs",
    "LiveClock": "live_clock",
    "LiveFace": "live_face",
    "LiveFrame": "live_face",
    "LiveStatistics": "live_face",
    "Motion": "motion",
    "OutputOptions": "output_options",
    "Stream": "streaming",
    "TalkingFaceError": "errors",
    "Turn": "turns",
    "Video": "generated_video",
    "Workers": "workers",
    "run_batch": "batch",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'talkingface' has no attribute {name!r}")
    module = importlib.import_module(f"talkingface.{_MODULES.get(name, 'pipeline')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
