"""Check the finished frames of still portraits: lips, colour, sharpness and still parts.

A folder holds pictures. Each model generates videos of each picture: of a second of silence, a
second of quiet noise, sentences whose phones are known, and a second of speech at several sizes and
without colour. Everything is measured on the frames of `TalkingFace.generate`, before any video is
encoded. `portrait_tables.RULES` lists the measures; no real video is needed.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talkingface import audio, media, picture, pipeline
from talkingface.audio import SAMPLE_RATE
from talkingface.controls import MOUTH_ALONE, Controls
from talkingface.data import disturbances
from talkingface.errors import BadRequest, TalkingFaceError
from talkingface.evaluation import portrait_measures as measures
from talkingface.evaluation import portrait_sheets
from talkingface.evaluation.detection import follow
from talkingface.evaluation.face_descriptor import Descriptor, open_descriptor
from talkingface.evaluation.files import (
    Progress,
    ResultCache,
    find_pictures,
    key_of,
    number,
    numbers,
    prepare_outputs,
    rounded,
    write_lines,
)
from talkingface.evaluation.jobs import run
from talkingface.evaluation.phone_checks import (
    SHORTEST,
    TOLERANCE,
    Sentence,
    phone_frames,
    read_sentences,
)
from talkingface.evaluation.portrait_measures import (
    NOISE,
    SENTENCES,
    SIZES,
    STEP,
    StillParts,
    percentile,
    quotient,
)
from talkingface.evaluation.portrait_sheets import Mouth, mouth_box
from talkingface.evaluation.portrait_tables import (
    Closure,
    PortraitResult,
    markdown,
    read_result,
)
from talkingface.evaluation.predicted_lips import CLOSED
from talkingface.evaluation.results import check_rows, named_row, reason
from talkingface.faces import choose_face
from talkingface.pipeline import TalkingFace
from talkingface.types import Array, Picture

RESULTS, TABLES = "portraits.jsonl", "portraits.md"
CACHE_FILE, MOUTHS = "portraits-measured.jsonl", "mouths"  # for a run that is resumed
VOICES = Path("tests/fixtures/voices")  # default of sentences with phones
SEED = 8093  # of the quiet noise
MAX_SIDE = 1024  # pixels of a picture, except where sharpness is measured
CURVES = ("gap", "green", "green_share", "background", "forehead", "worst_spot", "likeness")
LIKENESS_STEP = 10  # frames: one in so many is measured


@dataclass(frozen=True)
class Subject:
    """A portrait. picture: at most `MAX_SIDE` pixels; original: as its file; mesh: of `picture`."""

    name: str
    original: Picture
    picture: Picture
    mesh: Array

    @classmethod
    def read(cls, path: Path) -> Subject:
        """Read a portrait and find its face. Raises UnreadableMedia, NoFaceFound."""
        original = picture.read(path)
        side = max(original.shape[:2])
        small = measures.resampled(original, min(side, MAX_SIDE))
        return cls(path.name, original, small, choose_face(small, name=str(path)).mesh[:, :2])


def evaluate_portraits(
    models: Sequence[str],
    folder: Path,
    out: Path,
    *,
    voices: Path = VOICES,
    sample: int | None = None,
    likeness: bool = False,
    sheet: bool = False,
    controls: Controls = MOUTH_ALONE,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[PortraitResult]:
    """Check models on the portraits of a folder; write `RESULTS` and `TABLES` into `out`.

    models: generators by name or weights file; ROW=FILE calls the row ROW. voices: a folder of
    sentences and their phones (see `phone_checks.read_sentences`). sample: only so many portraits,
    chosen by the hash of their names. likeness: also measure it by dlib. sheet: also write contact
    sheets of mouths. controls: the faces' motion beside speech. Cached results in `out` are used
    again if portraits, weights and code are the same. A portrait without a face becomes a line with
    its error.

    Raises BadRequest, UnreadableMedia (the sentences), UnknownModel, BadWeights, OutputError.
    """
    paths = find_portraits(folder, sample)
    sentences, kinds = read_sentences(voices)
    describe = open_descriptor() if likeness else None
    generators = open_generators(models, device)
    prepare_outputs(out, (RESULTS, TABLES), overwrite)
    mouths = out / MOUTHS if sheet else None
    if mouths is not None:
        prepare_outputs(mouths, (), overwrite)
    cached = ResultCache(out / CACHE_FILE, read_result)
    tasks = [
        (_Evaluator(label, model, sentences, kinds, describe, mouths, controls), path)
        for label, model in generators
        for path in paths
    ]
    results = run(lambda task: [_cached(*task, cached)], tasks, progress=progress)
    write_lines(out / RESULTS, results, overwrite)
    media.write_text(out / TABLES, markdown(results), overwrite)
    for label, _ in generators if sheet else ():
        found = [_row_path(out / MOUTHS, label, path) for path in paths]
        rows = [path for path in found if path.exists()]
        portrait_sheets.write_sheets(out, f"portraits-{label}", rows)
    return results


# --- files ----------------------------------------------------------------------------------------


def find_portraits(folder: Path, sample: int | None = None) -> list[Path]:
    """Return the pictures of a folder, by name. sample: only so many, chosen by the hash of names.

    Raises BadRequest.
    """
    found = find_pictures(folder)
    if sample is None:
        return found
    if sample < 1:
        raise BadRequest(f"--sample {sample}: give 1 or more portraits")
    return sorted(sorted(found, key=lambda path: _digest(path.name))[:sample])


def _digest(*texts: str) -> str:
    return hashlib.md5("\n".join(texts).encode(), usedforsecurity=False).hexdigest()


def open_generators(models: Sequence[str], device: str = "cpu") -> list[tuple[str, TalkingFace]]:
    """Open generators, each with the name of its row. Raises BadRequest, UnknownModel, BadWeights.

    models: names or weights files; ROW=FILE calls the row ROW.
    """
    found = []
    for name in models:
        label, source = named_row(name)
        model = pipeline.load(source, device)
        found.append((label or model.info.name, model))
    check_rows(label for label, _ in found)
    return found


# --- one portrait ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Evaluator:
    """A model with the settings of its checks. mouths: folder for rows of the sheets, or None."""

    label: str
    model: TalkingFace
    sentences: Sequence[Sentence]
    kinds: Mapping[str, str]
    describe: Descriptor | None
    mouths: Path | None
    controls: Controls


def _cached(
    evaluator: _Evaluator, path: Path, cached: ResultCache[PortraitResult]
) -> PortraitResult:
    """Return the result of a portrait, cached or new; new if its row of the sheet is missing."""
    chosen = choose_sentences(evaluator.sentences, path.name)
    with media.writing(path, OSError):
        content = path.read_bytes()
    key = key_of(
        {
            "model": [evaluator.label, evaluator.model.info.name, evaluator.model.info.sha256],
            "portrait": [path.name, hashlib.sha256(content).hexdigest()],
            "sentences": [[s.name, _digest(repr(s.phones))] for s in chosen],
            "kinds": dict(evaluator.kinds),
            "controls": repr(evaluator.controls),
            "likeness": evaluator.describe is not None,
            "code": code_hash(),
        }
    )
    row = None if evaluator.mouths is None else _row_path(evaluator.mouths, evaluator.label, path)
    known = cached.get(key)
    if known is not None and (row is None or row.exists() or known.error is not None):
        return known
    try:
        result, mouths = evaluate_portrait(evaluator, Subject.read(path), chosen)
        if row is not None:
            title = f"{path.name}, {evaluator.label}"
            picture.write_png(row, portrait_sheets.mouth_row(mouths, title), overwrite=True)
    except TalkingFaceError as error:
        info = evaluator.model.info
        result = PortraitResult(evaluator.label, info.sha256, path.name, [], error=reason(error))
    cached.add(key, result)
    return result


def _row_path(folder: Path, label: str, portrait: Path) -> Path:
    return folder / f"{label}-{portrait.name}.png"


@cache
def code_hash() -> str:
    """Return a hash of the code that decides the numbers, the renderer included."""
    root = Path(__file__).parents[1]
    names = ["portrait_checks.py", "portrait_measures.py", "face_descriptor.py"]
    names += ["phone_checks.py", "predicted_lips.py", "detection.py"]
    parts = [*root.glob("*.py"), *(root / "evaluation" / name for name in names)]
    parts += [path for name in ("models", "faces", "render") for path in root.glob(f"{name}/*.py")]
    return _digest(*(path.read_text(encoding="utf-8") for path in sorted(parts)))


def choose_sentences(sentences: Sequence[Sentence], portrait: str) -> list[Sentence]:
    """Return `SENTENCES` of them, chosen by the hash of the portrait's name and theirs."""
    return sorted(sentences, key=lambda one: _digest(portrait, one.name))[:SENTENCES]


def evaluate_portrait(
    evaluator: _Evaluator, subject: Subject, sentences: Sequence[Sentence]
) -> tuple[PortraitResult, list[Mouth]]:
    """Measure one model on one portrait; also return the mouths for the sheet.

    Raises what `TalkingFace.generate` raises.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(subject.name.encode())])
    noise = disturbances.at_level(disturbances.white_noise(SAMPLE_RATE, rng), NOISE)
    silence, last = _gaps(evaluator, subject, torch.zeros(SAMPLE_RATE))
    noisy, _ = _gaps(evaluator, subject, noise)
    measured = [_measure_sentence(evaluator, subject, sentence) for sentence in sentences]
    metrics = _closing_metrics(silence, noisy, measured)
    metrics |= _frame_metrics(
        {name: np.concatenate([one.curves[name] for one in measured]) for name in CURVES}
    )
    excerpt = audio.load(sentences[0].sound)[SAMPLE_RATE : 2 * SAMPLE_RATE]  # its second second
    metrics["green_skin"] = measures.skin_tint(subject.picture, subject.mesh)
    metrics["grey"] = _grey(evaluator, subject, excerpt)
    for side in SIZES:
        metrics |= _sharpness(evaluator, subject, excerpt, side)
    own = float(measures.gap(subject.mesh))
    height, width = subject.original.shape[:2]
    result = PortraitResult(
        evaluator.label,
        evaluator.model.info.sha256,
        subject.name,
        [width, height],
        number(own),
        numbers(metrics),
        rounded(silence),
        rounded(noisy),
        {one.sentence: rounded(one.curves["gap"]) for one in measured},
        [closure for one in measured for closure in one.closures],
    )
    shown = [Mouth("picture", own, mouth_box(subject.picture, subject.mesh))]
    shown += [mouth for one in measured for mouth in one.mouths]
    return result, [*shown, Mouth("silence", float(silence[-1]), last)]


def _frames(evaluator: _Evaluator, shown: Picture, sound: Tensor) -> Iterable[Picture]:
    size = max(MAX_SIDE, *shown.shape[:2])
    return evaluator.model.generate(shown, sound, controls=evaluator.controls, max_size=size)


def _gaps(evaluator: _Evaluator, subject: Subject, sound: Tensor) -> tuple[Array, Picture]:
    """Return the gap of every frame (T,) of a sound, and the mouth of the last frame."""
    gaps, last = [], subject.picture
    for frame, mesh in follow(_frames(evaluator, subject.picture, sound), subject.picture):
        gaps.append(float(measures.gap(mesh)))
        last = frame
    return np.array(gaps), mouth_box(last, subject.mesh)


@dataclass(frozen=True)
class _MeasuredSentence:
    """Measures of a sentence spoken by a portrait.

    curves: measure -> its values (T,), NaN where undefined or not measured. elsewhere: frames (T,)
    outside closures.
    """

    sentence: str
    curves: dict[str, Array]
    closures: list[Closure]
    elsewhere: measures.Mask
    mouths: list[Mouth]


def _measure_sentence(
    evaluator: _Evaluator, subject: Subject, sentence: Sentence
) -> _MeasuredSentence:
    still = StillParts(subject.picture, subject.mesh)
    likeness = _likeness(evaluator.describe, subject)
    rows: list[tuple[float, ...]] = []
    mouths: list[Picture] = []
    sound = audio.load(sentence.sound)
    for frame, mesh in follow(_frames(evaluator, subject.picture, sound), subject.picture):
        apart = likeness(frame, mesh) if len(rows) % LIKENESS_STEP == 0 else math.nan
        gap, colours = float(measures.gap(mesh)), measures.tint(frame, mesh)
        rows.append((gap, *colours, *still.change(frame), apart))
        mouths.append(mouth_box(frame, subject.mesh))
    curves = dict(zip(CURVES, np.array(rows).T, strict=True))
    gaps = curves["gap"]
    closures, elsewhere = find_closures(gaps, sentence, evaluator.kinds)
    chosen = portrait_sheets.choose_frames(gaps.tolist(), closures)
    shown = [Mouth(text, float(gaps[at]), mouths[at]) for at, text in chosen]
    return _MeasuredSentence(sentence.name, curves, closures, elsewhere, shown)


def _likeness(describe: Descriptor | None, subject: Subject) -> Callable[[Picture, Array], float]:
    """Return a function: distance of a frame from the picture, NaN without descriptor or face."""
    if describe is None:
        return lambda frame, mesh: math.nan
    own = describe(subject.picture, subject.mesh)

    def distance(frame: Picture, mesh: Array) -> float:
        if not np.isfinite(mesh).all():
            return math.nan
        return float(np.linalg.norm(describe(frame, mesh) - own))

    return distance


def find_closures(
    gaps: Array, sentence: Sentence, kinds: Mapping[str, str]
) -> tuple[list[Closure], measures.Mask]:
    """Return a sentence's closures with their gaps, and which frames (T,) belong to none.

    gaps: (T,) of its frames. kinds: the class of each symbol; "closed" are closures.
    """
    closures: list[Closure] = []
    elsewhere = np.ones(len(gaps), dtype=bool)
    for phone in sentence.phones:
        symbol, start, end = phone
        if kinds.get(symbol) != "closed":
            continue
        at, near = phone_frames(start, end, len(gaps))
        elsewhere[near] = False
        if end - start < SHORTEST - TOLERANCE:
            continue
        smallest = percentile(gaps[near], 0)
        closures.append(
            Closure(sentence.name, symbol, start, end, number(float(gaps[at])), number(smallest))
        )
    return closures, elsewhere


def _closing_metrics(
    silence: Array, noise: Array, measured: Sequence[_MeasuredSentence]
) -> dict[str, float]:
    metrics = dict(zip(("silence_shut", "silence_share"), measures.closing(silence), strict=True))
    metrics |= zip(("noise_shut", "noise_share"), measures.closing(noise), strict=True)
    gaps = np.concatenate([one.curves["gap"] for one in measured])
    elsewhere = gaps[np.concatenate([one.elsewhere for one in measured])]
    metrics["speech_shut"] = float((elsewhere < CLOSED).mean()) if len(elsewhere) else math.nan
    metrics["widest"] = percentile(gaps, 95)
    metrics["missed"] = float((~np.isfinite(gaps)).mean())
    return metrics


def _frame_metrics(curves: Mapping[str, Array]) -> dict[str, float]:
    """Return the numbers of all frames of speech; "likeness" only if it was measured."""
    metrics = {name: _mean(curves[name]) for name in CURVES if name not in ("gap", "worst_spot")}
    metrics["greenest"] = percentile(curves["green"], 100)
    metrics["worst_spot"] = percentile(curves["worst_spot"], 100)
    metrics["likeness_worst"] = percentile(curves["likeness"], 100)
    if not np.isfinite(curves["likeness"]).any():
        del metrics["likeness"], metrics["likeness_worst"]
    return metrics


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _grey(evaluator: _Evaluator, subject: Subject, sound: Tensor) -> float:
    """Return the most colour in the frames of a picture without colour, in levels."""
    grey = measures.grey_copy(subject.picture)
    return float(max(measures.colour_spread(frame) for frame in _frames(evaluator, grey, sound)))


def _sharpness(
    evaluator: _Evaluator, subject: Subject, sound: Tensor, side: int
) -> dict[str, float]:
    """Measure sharpness at one size of the picture: names of `SHARPNESS` with the size behind.

    An enlarged picture and its frames are first shrunk back to the picture's own size, so that only
    detail of the original is compared.
    """
    shown = measures.resampled(subject.original, side)
    own_side = min(side, max(subject.original.shape[:2]))
    before = measures.resampled(shown, own_side)
    mesh = choose_face(before, name=subject.name).mesh[:, :2]
    frames = (measures.resampled(frame, own_side) for frame in _frames(evaluator, shown, sound))
    own = measures.sharpness(before, mesh)
    found = [
        measures.sharpness(frame, mesh)
        for at, (frame, mesh) in enumerate(follow(frames, before))
        if at % STEP == STEP - 1
    ]
    metrics = {
        "enlarged": float(max(subject.original.shape[:2]) < side),
        "mouth_skin": percentile(np.array([quotient(x.mouth, x.skin) for x in found]), 50),
        "picture_mouth_skin": quotient(own.mouth, own.skin),
        "mouth": percentile(np.array([quotient(x.mouth, own.mouth) for x in found]), 50),
        "skin": percentile(np.array([quotient(x.skin, own.skin) for x in found]), 50),
    }
    return {f"{name}_{side}": value for name, value in metrics.items()}
