"""Errors that a user can cause: the command line turns each into one line and exit code 2."""


class TalkingFaceError(Exception):
    """Base of every error a user can cause: its text names the file, the finding and what to do."""


class UnreadableMedia(TalkingFaceError):
    """A picture, recording or video that is missing, empty, damaged or of another kind."""


class NoFaceFound(TalkingFaceError):
    """No usable face, or no face with the number or box that was asked for."""


class BadLandmarks(TalkingFaceError):
    """Landmarks that no face has: not 68 points, outside the picture, or all in one place."""


class BadMotion(TalkingFaceError):
    """A file that holds no motion of a face, or numbers that none can have."""


class UnknownModel(TalkingFaceError):
    """A model name that the registry does not know."""


class BadWeights(TalkingFaceError):
    """A weights file that is damaged, of another model, or whose tensors do not fit."""


class BadShard(TalkingFaceError):
    """A training shard that is damaged or was written by another version."""


class OutputError(TalkingFaceError):
    """An output that exists already, or cannot be written."""


class BadRequest(TalkingFaceError):
    """Options that contradict each other or the input."""
