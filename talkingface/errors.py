"""Errors that a user can cause. The command line prints each as one line and exits with code 2."""


class TalkingFaceError(Exception):
    """Base class of all errors that a user can cause.

    The message is one line: it names the file, what was found, what was expected and what to do.
    """


class UnreadableMedia(TalkingFaceError):
    """A picture, recording or video that is missing, empty, damaged or of another kind."""


class DecodingFailed(UnreadableMedia):
    """A file at which its decoder crashes, takes too long or needs too much memory."""


class NoFaceFound(TalkingFaceError):
    """No usable face, or no face with the number or box that was asked for."""


class BadLandmarks(TalkingFaceError):
    """Landmarks that are no face: not 68 points, outside the picture, or all in one place."""


class BadMotion(TalkingFaceError):
    """A file without a motion of a face, or with numbers out of range."""


class UnknownModel(TalkingFaceError):
    """An unknown model name."""


class BadWeights(TalkingFaceError):
    """A weights file that is damaged, belongs to another model, or has other tensors."""


class BadShard(TalkingFaceError):
    """A training shard that is damaged or was written by another version."""


class OutputError(TalkingFaceError):
    """An output that exists already, or cannot be written."""


class BadRequest(TalkingFaceError):
    """Options out of their range, or that contradict each other or the input."""
