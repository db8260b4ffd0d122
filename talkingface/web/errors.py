"""Errors that the server returns to clients."""

from __future__ import annotations

import errno
import logging

RETRY_AFTER = 10  # seconds
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = logging.getLogger("talkingface.web")


class ApiError(Exception):
    """Rejected request: an HTTP status and one line that says what to do.

    retry_after: seconds after which the client may try again.
    """

    def __init__(self, status: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.retry_after = status, text, retry_after


def storage_error(error: BaseException) -> ApiError | None:
    """Return the error for clients and log one line if `error` is of a full disk; else None."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) not in _DISK_FULL:
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    _log.error("the disk for temporary files is full")
    return ApiError(507, "the server's disk is full: try again later", 60)
