"""Creation of a study from folders of videos, one folder per method.

A rater must not learn which method made a video. So every video gets a random name, all files get
the same time stamp, and the new container holds only pictures and sound: no comment, no title, no
note of the encoder. Pictures and sound are copied packet by packet.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from talkingface import media, video, video_writing
from talkingface.audio import FPS
from talkingface.errors import BadRequest, OutputError, UnreadableMedia
from talkingface.evaluation.pairs import VIDEOS as SUFFIXES
from talkingface.study import order, store
from talkingface.study.store import Design, PairRow, VideoRow
from talkingface.types import Picture

PLAYABLE = {
    "h264": "video",
    "aac": "sound",
    "mp3": "sound",
}  # codecs that every current browser plays in mp4
SAME_LENGTH = 0.2  # seconds by which the videos of a sample may differ without a note

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CreatedStudy:
    """Counts of a new study. notes: remarks for the user, one line each."""

    samples: int
    pairs: int
    checks: int
    notes: list[str]


@dataclass(frozen=True)
class _Source:
    """A given video: one method's version of a sample."""

    sample: str
    method: str
    path: Path
    info: video.VideoInfo


def create_study(
    methods: Mapping[str, Path],
    out: Path,
    design: Design | None = None,
    *,
    samples: int | None = None,
    progress: Progress | None = None,
) -> CreatedStudy:
    """Create a study in the folder `out`, which appears when it is complete.

    methods: method name -> folder; the first is compared with every other one. Files with the same
    stem are the same sample. A sample that a method lacks is left out, with a note. design: [as in
    the paper]. samples: use only so many, drawn with the design's seed. progress: is called with
    (videos done, all videos). Raises BadRequest, OutputError, UnreadableMedia.
    """
    design = design or Design()
    _check_names(methods)
    _check_new(out)
    with media.making_folder(out) as part:  # private: it holds tokens, and which video is whose
        (part / store.VIDEOS).mkdir()
        found = {name: _find_videos(folder) for name, folder in methods.items()}
        chosen, notes = _choose_samples(found, samples, design.seed)
        all_checks = order.checks_beside(
            order.fitting(len(chosen) * (len(methods) - 1), design.tasks, design.checks),
            design.checks,
        )
        done, total = 0, 2 * len(chosen) * len(methods) + all_checks

        def step() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        sources = _inspect_all(chosen, found, step)
        notes += _differences(chosen, sources)
        rows = _copy_all(sources, part, design.seed, step)
        pairs = _make_pairs(chosen, list(methods), rows)
        spoiled, checks = _make_checks(sources, rows, part, all_checks, design.seed, step)
        _reset_times(part)
        store.create(part, design, list(methods), [*rows.values(), *spoiled], [*pairs, *checks])
    return CreatedStudy(len(chosen), len(pairs), len(checks), notes)


def _check_names(methods: Mapping[str, Path]) -> None:
    if len(methods) < 2:
        raise BadRequest("a study compares at least two methods: give another NAME=FOLDER")
    for name in methods:
        if not name.strip() or not name.isprintable():
            raise BadRequest(f"{name!r} cannot name a method; give NAME=FOLDER")


def _check_new(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out}: exists already; a study is never overwritten, give another name")


# --- input ----------------------------------------------------------------------------------------


def _find_videos(folder: Path) -> dict[str, Path]:
    """Return sample -> file. Raises BadRequest for no folder, no video, or two of one name."""
    if not folder.is_dir():
        raise BadRequest(f"{folder}: is no folder; give one of videos, as NAME=FOLDER")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise BadRequest(f"{path}: the same sample as {found[path.stem].name}; keep one")
            found[path.stem] = path
    if not found:
        raise BadRequest(f"{folder}: holds no videos (mp4, mov, mkv …)")
    return found


def _choose_samples(
    found: Mapping[str, Mapping[str, Path]], most: int | None, seed: int
) -> tuple[list[str], list[str]]:
    """Choose the samples that every method has. Return them and a note for each left out."""
    every = sorted(set().union(*found.values()))
    lacking = {s: [m for m, videos in found.items() if s not in videos] for s in every}
    notes = [f"{s}: left out, there is none of {', '.join(m)}" for s, m in lacking.items() if m]
    common = [sample for sample, methods in lacking.items() if not methods]
    if not common:
        raise BadRequest(
            "no sample is there of every method: files of the same name are the same sample "
            f"({'; '.join(f'{m} has {min(v)}' for m, v in found.items())})"
        )
    if most is not None:
        if not 1 <= most <= len(common):
            raise BadRequest(f"{most} samples wanted, there are {len(common)} of every method")
        common = sorted(random.Random(f"{seed}/samples").sample(common, most))
    return common, notes


def _inspect_all(
    samples: Iterable[str], found: Mapping[str, Mapping[str, Path]], step: Callable[[], None]
) -> list[_Source]:
    """Check every video. Raises UnreadableMedia that names all unusable ones."""
    sources, wrong = [], []
    for sample in samples:
        for method, videos in found.items():
            try:
                info = _inspect(videos[sample])
                sources.append(_Source(sample, method, videos[sample], info))
            except UnreadableMedia as error:
                wrong.append((videos[sample], error))
            step()
    if wrong:
        more = ", ".join(str(path) for path, _ in wrong[1:])
        raise UnreadableMedia(
            f"{wrong[0][1]}" + (f" — and {len(wrong) - 1} more like it: {more}" if more else "")
        )
    return sources


def _inspect(path: Path) -> video.VideoInfo:
    info = video.probe(path)
    if not info.has_audio:
        raise UnreadableMedia(
            f"{path}: has no sound, so nobody can say whether its lips fit; mux the recording "
            "into it"
        )
    codecs = video.codecs(path)
    wanted = [PLAYABLE.get(name.removesuffix("float")) for name in (codecs.video, codecs.sound)]
    if wanted != ["video", "sound"] or codecs.pixels not in ("yuv420p", "yuvj420p"):
        raise UnreadableMedia(
            f"{path}: {codecs.video} ({codecs.pixels}) with {codecs.sound} does not play in every "
            "browser; convert all methods alike, as `ffmpeg -i IN -c:v libx264 -crf 14 -pix_fmt "
            "yuv420p -c:a aac OUT.mp4`"
        )
    return info


def _differences(samples: Iterable[str], sources: Iterable[_Source]) -> list[str]:
    """Return a note for each sample whose videos differ in length or size."""
    groups: dict[str, list[_Source]] = {sample: [] for sample in samples}
    for source in sources:
        groups[source.sample].append(source)
    notes = []
    for sample, group in groups.items():
        lengths = [source.info.seconds for source in group]
        if max(lengths) - min(lengths) > SAME_LENGTH:
            said = ", ".join(f"{s.method} {s.info.seconds:.2f} s" for s in group)
            notes.append(f"{sample}: the lengths differ ({said}): raters can tell them apart")
        if len({(s.info.width, s.info.height) for s in group}) > 1:
            said = ", ".join(f"{s.method} {s.info.width}x{s.info.height}" for s in group)
            notes.append(f"{sample}: the sizes differ ({said}): all are shown equally large")
    return notes


# --- output ---------------------------------------------------------------------------------------


def _copy_all(
    sources: Iterable[_Source], part: Path, seed: int, step: Callable[[], None]
) -> dict[tuple[str, str], VideoRow]:
    """Copy every video under a random name, in random order. Return (sample, method) -> row."""
    shuffled = list(sources)
    random.Random(f"{seed}/copies").shuffle(shuffled)
    rows = {}
    for source in shuffled:
        name = _opaque_name()
        strip(source.path, part / store.VIDEOS / name)
        row = VideoRow(
            name, source.sample, source.method, str(source.path.absolute()), source.info.seconds
        )
        rows[source.sample, source.method] = row
        step()
    return rows


def _opaque_name() -> str:
    return f"{secrets.token_hex(8)}.mp4"


def strip(source: Path, out: Path) -> None:
    """Copy the first video and sound stream into an mp4 that holds nothing else.

    See `video_reading.stripped`. Raises UnreadableMedia, OutputError.
    """
    with media.writing(out, OSError), out.open("wb") as file:
        for block in video.stripped(source):
            file.write(block)


def _make_pairs(
    samples: Iterable[str], methods: list[str], rows: Mapping[tuple[str, str], VideoRow]
) -> list[PairRow]:
    """Return the pairs of the first method with every other one, for every sample."""
    ours, *others = methods
    return [
        PairRow(sample, other, rows[sample, ours].file, rows[sample, other].file, False)
        for sample in samples
        for other in others
    ]


def _make_checks(
    sources: list[_Source],
    rows: Mapping[tuple[str, str], VideoRow],
    part: Path,
    count: int,
    seed: int,
    step: Callable[[], None],
) -> tuple[list[VideoRow], list[PairRow]]:
    """Make attention checks: pairs of a video and its spoiled copy, whose answers are obvious.

    The methods take turns, so that the checks favour none of them.
    """
    rng = random.Random(f"{seed}/checks")
    shuffled = list(sources)
    rng.shuffle(shuffled)
    spoiled, pairs = [], []
    for n in range(count):
        source = shuffled[n % len(shuffled)]
        name, good = _opaque_name(), rows[source.sample, source.method]
        made = part / f"{secrets.token_hex(8)}.mp4"
        frames = round(source.info.seconds * FPS)
        video_writing.write(made, spoiled_frames(source.path, frames, seed + n), source.path)
        strip(made, part / store.VIDEOS / name)
        made.unlink()
        spoiled.append(VideoRow(name, source.sample, "", good.source, source.info.seconds))
        pairs.append(PairRow(source.sample, "", good.file, name, True))
        step()
    return spoiled, pairs


def spoiled_frames(path: Path, count: int, seed: int) -> Iterator[Picture]:
    """Yield the first frame of a video `count` times, strongly blurred and with noise.

    It is worse in lips (they never move), in realism and in image quality.
    """
    first = next(iter(video.read_frames(path)))
    height, width = first.shape[:2]
    blurred = cv2.GaussianBlur(first, (0, 0), max(2.0, max(height, width) / 16))
    noise = np.random.default_rng(seed).normal(0, 24, (height, width, 1))
    spoiled = np.clip(blurred + noise, 0, 255).astype(np.uint8)
    for _ in range(max(1, count)):
        yield spoiled


def _reset_times(part: Path) -> None:
    """Set the same time stamps on all videos, because a server sends them."""
    for path in (part / store.VIDEOS).iterdir():
        os.utime(path, (0, 0))
