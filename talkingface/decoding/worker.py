"""The decoding process: it reads one file at a time and sends what is in it.

It imports NumPy, Pillow and PyAV, not torch, so that it starts quickly.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)
_NO_NEW_PRIVILEGES = 38  # of prctl(2)
_BATCH = 1 << 18  # bytes of sound that are sent together
_BLOCK = 1 << 24  # bytes of a file that are sent together
_FILES = 64  # open at once
# Values of JSON, and arrays.
Found = Generator[tuple[Any, "list[NDArray[Any]]"], None, None]


def main() -> None:
    """Serve the process that started this one. Arguments: socket, memory, bytes, seconds."""
    connection, memory, most, seconds = map(int, sys.argv[2:])
    _follow_parent()
    _leave_network()
    _import_readers()
    shared = mmap.mmap(memory, 0)
    _set_limits(most)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write there whatever they find
    _Server(socket.socket(fileno=connection), shared, seconds).run()


def _follow_parent() -> None:
    """End when standard input is closed: by the end of the parent, however it ends.

    The kernel sends SIGIO then, which ends a decoder that hangs, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:
        os._exit(0)


def _leave_network() -> None:
    """Move into a network namespace without interfaces, where the kernel allows it."""
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.unshare(_NEW_NETWORK) != 0:  # not root
        libc.unshare(_NEW_USER | _NEW_NETWORK)


def _import_readers() -> None:
    import av  # noqa: F401
    from PIL import Image, ImageCms, ImageOps  # noqa: F401

    from talkingface import (  # noqa: F401
        media,
        picture,
        sound_packets,
        stored_tracks,
        stored_video,
        video_reading,
    )


def _set_limits(most: int) -> None:
    """Limit memory beside what is loaded, written files, open files; no core dumps."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + most
    for kind, limit in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    sys.dont_write_bytecode = True


class _Server:
    """One connection to the parent: requests in, answers out."""

    def __init__(self, connection: socket.socket, shared: mmap.mmap, seconds: int) -> None:
        self._socket, self._shared, self._seconds = connection, shared, seconds
        self._lines = connection.makefile("rb")

    def run(self) -> None:
        """Serve request after request until the parent closes the connection."""
        while line := self._lines.readline():
            request = json.loads(line)
            if "task" in request:  # else it came late for a task that has ended
                self._send(self._outcome(request))

    def _outcome(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do a task; return the message that ends it."""
        from talkingface.errors import UnreadableMedia

        try:
            if request["folder"] is not None:
                os.chdir(request["folder"])
            found = TASKS[request["task"]](Path(request["path"]), **request["options"])
            with closing(found):
                self._answer(found)
        except UnreadableMedia as error:
            return {"error": str(error)}
        except MemoryError:
            return {"failure": "memory"}
        except Exception as error:  # noqa: BLE001 the parent says which file it was
            return {"failure": f"{type(error).__name__}: {error}"}
        return {"end": True}

    def _answer(self, found: Found) -> None:
        """Send all that is found, unless the parent wants no more."""
        from talkingface.decoding import SLOT, SLOTS

        self._limit_time()
        for number, (value, arrays) in enumerate(found):
            if number >= SLOTS and "stop" in json.loads(self._lines.readline()):
                return
            if sum(array.nbytes for array in arrays) > SLOT:
                raise MemoryError
            begin = number % SLOTS * SLOT
            for array in arrays:
                self._shared[begin : begin + array.nbytes] = _bytes_of(array)
                begin += array.nbytes
            described = [(array.dtype.name, array.shape) for array in arrays]
            self._send({"value": value, "arrays": described})
            self._limit_time()

    def _limit_time(self) -> None:
        """Allow so many seconds of processor time for the next answer."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        limit = int(used.ru_utime + used.ru_stime) + self._seconds + 1
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of an array; a slice is copied."""
    flat = array.reshape(-1)
    return (flat if flat.flags.c_contiguous else flat.copy()).view("uint8").data


# --- the tasks ------------------------------------------------------------------------------------


def _picture(path: Path, background: list[int]) -> Found:
    from talkingface import picture

    found = picture.decode(path, tuple(background))
    alpha = [] if found.alpha is None else [found.alpha]
    yield (found.size, found.note), [found.pixels, *alpha]


def _picture_size(path: Path, formats: list[str]) -> Found:
    from talkingface import picture

    yield picture.decode_size(path, tuple(formats)), []


def _sound(path: Path, rate: int | None, channels: int | None, track: int | None) -> Found:
    """Rate, channels and layout, then chunks as they are decoded, many at a time."""
    from talkingface import media
    from talkingface.errors import UnreadableMedia

    sound = media.decode_sound(path, rate, channels, track)
    yield {"rate": sound.rate, "channels": sound.channels, "layout": sound.layout}, []
    batch: list[NDArray[Any]] = []
    try:
        for chunk in sound.chunks:
            batch.append(chunk)
            if sum(own.nbytes for own in batch) >= _BATCH:
                yield None, batch
                batch = []
    except UnreadableMedia:
        yield None, batch
        raise
    yield None, batch


def _sound_lengths(path: Path) -> Found:
    from talkingface import media

    for seconds in media.count_sound(path):
        yield seconds, []


def _packet_facts(path: Path, track: int | None) -> Found:
    from talkingface import sound_packets

    found = sound_packets.read_facts(path, track)
    yield None if found is None else asdict(found), []


def _packets(path: Path, track: int | None) -> Found:
    from talkingface import sound_packets

    yield from sound_packets.batches(sound_packets.read_packets(path, track))


def _video_info(path: Path) -> Found:
    from talkingface import video_reading

    yield asdict(video_reading.probe(path)), []


def _frames(path: Path, fps: int) -> Found:
    """Frame by frame; without pixels where it is the frame before once more."""
    from talkingface import video_reading

    before = None
    for frame in video_reading.read_frames(path, fps):
        yield None, [] if frame is before else [frame]
        before = frame


def _is_whole(path: Path) -> Found:
    from talkingface import video_reading

    yield video_reading.is_whole(path), []


def _codecs(path: Path) -> Found:
    from talkingface import video_reading

    for found in video_reading.inspect(path):
        yield asdict(found), []


def _stripped(path: Path) -> Found:
    """Blocks of an mp4's bytes."""
    import numpy as np

    from talkingface import video_reading

    mp4 = np.frombuffer(video_reading.stripped(path), np.uint8)
    for start in range(0, len(mp4), _BLOCK):
        yield None, [mp4[start : start + _BLOCK]]


def _stored_video(path: Path) -> Found:
    from talkingface import stored_video

    yield stored_video.as_json(stored_video.probe(path)), []


def _stored_frames(path: Path, layout: dict[str, Any], **options: Any) -> Found:
    """Time and length of each frame; its picture, and its planes where they are wanted."""
    from talkingface import stored_video
    from talkingface.planes import Layout

    known = Layout(**layout)
    for frame in stored_video.decode_stored(path, known, **options):
        yield [frame.time, frame.length], [frame.picture, *frame.planes]


def _stored_tracks(path: Path) -> Found:
    from talkingface import stored_tracks

    for part in stored_tracks.decode_tracks(path):
        yield part, []


TASKS: dict[str, Callable[..., Found]] = {
    "picture": _picture,
    "picture_size": _picture_size,
    "sound": _sound,
    "sound_lengths": _sound_lengths,
    "packet_facts": _packet_facts,
    "packets": _packets,
    "video_info": _video_info,
    "frames": _frames,
    "is_whole": _is_whole,
    "codecs": _codecs,
    "stripped": _stripped,
    "stored_video": _stored_video,
    "stored_frames": _stored_frames,
    "stored_tracks": _stored_tracks,
}
