"""Check predicted lips against the phones that are spoken, in any voice and language.

A folder holds recordings and `phones.json`. That file lists the phones that close, round or open
the lips, and when each phone of each recording begins and ends. No picture and no real lips are
needed. The rules are in `RULES`; chance is measured by the same rules at random times of the same
speech.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface import audio, media
from talkingface.audio import FPS
from talkingface.errors import BadRequest, UnreadableMedia
from talkingface.evaluation import intervals
from talkingface.evaluation.files import Progress, prepare_outputs, require_folder, write_lines
from talkingface.evaluation.predicted_lips import (
    CLOSED,
    Lips,
    Predictor,
    open_predictors,
    run_predictors,
)
from talkingface.evaluation.tables import (
    Column,
    Estimate,
    Row,
    estimate,
    grouped,
    legend,
    markdown_table,
    table,
)
from talkingface.types import Array

PHONES, RESULTS, TABLES = "phones.json", "phones.jsonl", "phones.md"
CLASSES = ("closed", "rounded", "rounded_front", "open")
OPEN = 0.06  # interocular units
MARGIN = 0.02  # seconds that a closed phone's frames may lie outside it
SHORTEST = 0.03  # seconds: shorter phones are left out
TOLERANCE = 1e-6  # seconds: rounding of times
LONGER_RECORDING = 0.2  # seconds by which a last phone may end behind its recording
CONTROL_DRAWS = 20  # random times per phone
SEED = 2024  # of these
FIRST_HALF = ("a\u026a", "a\u028a")  # as in my, how: the first half is open
SILENCE = ""
RULES = f"""Rules, in interocular units of the mean face. A frame lasts 40 ms; a time stands for the
frame in which it lies. Speech frames are those whose middle lies in a phone.

- closed (p, b, m): the smallest aperture is below {CLOSED}, over the frames whose middle lies in
  the phone or at most {MARGIN * 1000:.0f} ms beside it.
- rounded (u, o, w), rounded_front (y): the width at the phone's middle is below the median of the
  sentence's speech frames.
- open (a): the aperture at the phone's middle is above {OPEN} and above the median of the
  sentence's speech frames. Of {" and ".join(FIRST_HALF)} the first half is the phone.

Phones shorter than {SHORTEST * 1000:.0f} ms are left out. "chance": the same rules for random
spans, {CONTROL_DRAWS} for each phone and as long as it, with their middle anywhere in the speech
of the same sentence (seed {SEED})."""
Phone = tuple[str, float, float]  # IPA symbol, begin and end in seconds


@dataclass(frozen=True)
class Sentence:
    """A recording whose phones are known. phones: without gaps; "" is silence."""

    name: str
    sound: Path
    language: str
    voice: str
    phones: tuple[Phone, ...]


@dataclass(frozen=True)
class PhoneCheck:
    """One phone. kind: of CLASSES. chance: how many of CONTROL_DRAWS random spans pass."""

    symbol: str
    kind: str
    start: float
    end: float
    passed: bool
    chance: int


@dataclass(frozen=True)
class PhoneResult:
    """Result of one model on one sentence: a line of `RESULTS`.

    too_short: number of phones left out, by kind.
    """

    model: str
    sha256: str
    recording: str
    language: str
    voice: str
    checks: list[PhoneCheck]
    too_short: dict[str, int]


def evaluate_phones(
    models: Sequence[str] | None,
    folder: Path,
    out: Path,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[PhoneResult]:
    """Check models on the sentences of a folder; write `RESULTS` and `TABLES` into `out`.

    models: see `open_predictors`. The same arguments give the same bytes. Raises BadRequest,
    UnreadableMedia, UnknownModel, BadWeights, OutputError.
    """
    sentences, kinds = read_sentences(folder)
    predictors = open_predictors(models, device)
    prepare_outputs(out, (RESULTS, TABLES), overwrite)
    results = run_predictors(
        predictors, sentences, lambda p, sentence: [_evaluate(p, sentence, kinds)], progress
    )
    write_lines(out / RESULTS, results, overwrite)
    media.write_text(out / TABLES, markdown(results), overwrite)
    return results


# --- files ----------------------------------------------------------------------------------------


def read_sentences(folder: Path) -> tuple[list[Sentence], dict[str, str]]:
    """Return the sentences of a folder's `PHONES`, and the class of each symbol that has one.

    Raises BadRequest (no folder, no such file), UnreadableMedia (what it holds is something else,
    or a recording is missing).
    """
    require_folder(folder, f"recordings and {PHONES}")
    path = folder / PHONES
    if not path.is_file():
        raise BadRequest(f"{path}: does not exist; expected the classes and times of phones")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableMedia(f"{path}: no readable JSON ({error})") from error
    if not isinstance(content, dict) or not {"classes", "files"} <= content.keys():
        raise UnreadableMedia(f'{path}: expected an object with "classes" and "files"')
    kinds = _kinds(path, content["classes"])
    files = content["files"]
    if not isinstance(files, dict) or not files:
        raise UnreadableMedia(f'{path}: its "files" name no recording')
    return [_sentence(path, name, files[name]) for name in sorted(files)], kinds


def _kinds(path: Path, classes: Any) -> dict[str, str]:
    if not isinstance(classes, dict) or not set(classes) <= set(CLASSES):
        found = ", ".join(map(str, classes)) if isinstance(classes, dict) else repr(classes)
        raise UnreadableMedia(
            f"{path}: its classes are {found}; expected some of {', '.join(CLASSES)}"
        )
    kinds: dict[str, str] = {}
    for kind, symbols in classes.items():
        for symbol in symbols:
            if symbol in kinds:
                raise UnreadableMedia(f"{path}: {symbol!r} is {kinds[symbol]} and {kind}; keep one")
            kinds[symbol] = kind
    return kinds


def _sentence(path: Path, name: str, entry: Any) -> Sentence:
    sound = path.parent / name
    if not sound.is_file():
        raise UnreadableMedia(f"{sound}: does not exist, {path.name} names it")
    try:
        phones = tuple((str(s), float(start), float(end)) for s, start, end in entry["phones"])
        language, voice = str(entry["language"]), str(entry["voice"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableMedia(
            f'{path}: {name} needs "language", "voice" and "phones", a list of [symbol, start, '
            f"end] in seconds ({type(error).__name__}: {error})"
        ) from error
    ends = [0.0, *(end for _, _, end in phones)]
    for (symbol, start, end), before in zip(phones, ends, strict=False):
        if not before - TOLERANCE <= start <= end:
            raise UnreadableMedia(
                f"{path}: {name} has {symbol!r} from {start} to {end} s behind one that ends at "
                f"{before} s; expected phones in order"
            )
    if not any(symbol != SILENCE for symbol, _, _ in phones):
        raise UnreadableMedia(f"{path}: {name} has no phone but silence")
    return Sentence(name, sound, language, voice, phones)


# --- one sentence ---------------------------------------------------------------------------------


def _evaluate(predictor: Predictor, sentence: Sentence, kinds: Mapping[str, str]) -> PhoneResult:
    lips = predictor.predict(audio.load(sentence.sound))
    length, last = len(lips.aperture) / FPS, sentence.phones[-1][2]
    if last > length + LONGER_RECORDING:
        raise UnreadableMedia(
            f"{sentence.sound}: lasts {length:.2f} s, its phones until {last:.2f} s; expected "
            "phones within the recording"
        )
    checks, too_short = check_phones(lips, sentence.phones, kinds, sentence.name)
    return PhoneResult(
        predictor.name,
        predictor.info.sha256,
        sentence.name,
        sentence.language,
        sentence.voice,
        checks,
        too_short,
    )


def check_phones(
    lips: Lips, phones: Sequence[Phone], kinds: Mapping[str, str], name: str = ""
) -> tuple[list[PhoneCheck], dict[str, int]]:
    """Check every phone that has a class by `RULES`; count those that are too short, by class.

    name: of the recording; it seeds the random times of the control.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    rules = PhoneRules(lips, phones)
    checks: list[PhoneCheck] = []
    too_short = dict.fromkeys(CLASSES, 0)
    for symbol, start, end in phones:
        kind = kinds.get(symbol)
        if kind is None:
            continue
        if end - start < SHORTEST - TOLERANCE:
            too_short[kind] += 1
            continue
        if symbol in FIRST_HALF and kind == "open":
            end = (start + end) / 2
        half = (end - start) / 2
        middles = random_times(phones, CONTROL_DRAWS, rng)
        chance = sum(rules.passes(kind, middle - half, middle + half) for middle in middles)
        checks.append(
            PhoneCheck(symbol, kind, start, end, rules.passes(kind, start, end), int(chance))
        )
    return checks, too_short


class PhoneRules:
    """Rules of the lips of one sentence, for each class of phones; see `RULES`."""

    def __init__(self, lips: Lips, phones: Sequence[Phone]) -> None:
        self._lips = lips
        speech = speech_frames((np.arange(len(lips.aperture)) + 0.5) / FPS, phones)
        self._aperture = float(np.median(lips.aperture[speech]))
        self._width = float(np.median(lips.width[speech]))

    def passes(self, kind: str, start: float, end: float) -> bool:
        """Return whether a span of the sentence, in seconds, passes. kind: one of CLASSES."""
        frame, near = phone_frames(start, end, len(self._lips.aperture))
        if kind == "closed":
            return bool(self._lips.aperture[near].min() < CLOSED)
        if kind == "open":
            return bool(self._lips.aperture[frame] > max(OPEN, self._aperture))
        return bool(self._lips.width[frame] < self._width)


def phone_frames(start: float, end: float, frames: int) -> tuple[int, NDArray[np.intp]]:
    """Return the frame in which a phone's middle lies, and all frames that belong to it.

    Those are the frames whose middle lies in the phone or at most `MARGIN` seconds beside it; if
    there is none, the first. start, end: seconds. frames: how many there are, >= 1.
    """
    at = int(np.clip(np.floor((start + end) / 2 * FPS + TOLERANCE), 0, frames - 1))
    middles = (np.arange(frames) + 0.5) / FPS
    near = (middles >= start - MARGIN - TOLERANCE) & (middles <= end + MARGIN + TOLERANCE)
    found = np.flatnonzero(near)
    return at, found if len(found) else np.array([at])


def speech_frames(middles: Array, phones: Sequence[Phone]) -> NDArray[np.bool_]:
    """Return which frames lie in a phone, by their middles (T,) in seconds; if none, all."""
    spans = [(start, end) for symbol, start, end in phones if symbol != SILENCE]
    inside = np.any([(middles >= start) & (middles < end) for start, end in spans], axis=0)
    return np.asarray(inside if inside.any() else np.ones(len(middles), dtype=bool))


def random_times(phones: Sequence[Phone], count: int, rng: np.random.Generator) -> Array:
    """Draw times (count,) of a sentence's speech, in seconds, uniformly."""
    spans = np.array([(start, end) for symbol, start, end in phones if symbol != SILENCE])
    ends = np.cumsum(spans[:, 1] - spans[:, 0])
    places = rng.uniform(0, ends[-1], count)
    which = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
    return np.asarray(spans[which, 1] - (ends[which] - places))


# --- tables ---------------------------------------------------------------------------------------


def read_result(**row: Any) -> PhoneResult:
    """Return the result of a line of `RESULTS`, for `files.read_lines`."""
    return PhoneResult(**{**row, "checks": [PhoneCheck(**check) for check in row["checks"]]})


def shares(results: Sequence[PhoneResult]) -> dict[str, Estimate]:
    """Return per class the share of phones that pass, its chance (KIND_chance) and how many were
    checked (KIND_phones); intervals over sentences."""
    row: dict[str, Estimate] = {}
    for kind in CLASSES:
        own = [[check for check in result.checks if check.kind == kind] for result in results]
        counts = np.array([len(checks) for checks in own], dtype=np.float64)
        passed = np.array([sum(c.passed for c in checks) for checks in own], dtype=np.float64)
        chance = np.array([sum(c.chance for c in checks) for checks in own], dtype=np.float64)
        row[kind] = estimate(intervals.ratio(passed, counts))
        by_chance = estimate(intervals.ratio(chance, counts * CONTROL_DRAWS))
        row[f"{kind}_chance"] = Estimate(by_chance.value)
        row[f"{kind}_phones"] = Estimate(float(counts.sum()))
    return row


def markdown(results: Sequence[PhoneResult]) -> str:
    """Write the tables of results as Markdown: over all, the worst language, each language, each
    voice."""
    kinds = [k for k in CLASSES if any(c.kind == k for r in results for c in r.checks)]
    groups = grouped(results, lambda r: r.model)
    parts = [
        "# Lips and phones\n",
        f"Share of phones, in per cent, at which the predicted lips do what the phone asks for.\n"
        f"{legend(None, 'recordings')}\n",
        f"{RULES}\n",
        table("model", {model: _row(own) for model, own in groups.items()}, _columns(kinds)),
        _left_out(groups[results[0].model], kinds),
        "## Worst language\n",
        markdown_table(
            ["model", *kinds],
            [[model, *(_worst(own, kind) for kind in kinds)] for model, own in groups.items()],
        ),
    ]
    own_rows = {
        "language": grouped(results, lambda r: (r.model, r.language)),
        "voice": grouped(results, lambda r: (r.model, f"{r.voice} ({r.language})")),
    }
    for title, found in own_rows.items():
        rows = {
            f"{model}, {name}": _row(found[model, name])
            for model in groups
            for name in sorted(name for other, name in found if other == model)
        }
        parts += [f"## Each {title}\n", table(f"model, {title}", rows, _columns(kinds))]
    return "\n".join(parts)


def _columns(kinds: Sequence[str]) -> list[Column]:
    return [
        column
        for kind in kinds
        for column in (
            (f"{kind} %", kind, 1),
            ("chance %", f"{kind}_chance", 1),
            ("phones", f"{kind}_phones", 0),
        )
    ]


def _row(results: Sequence[PhoneResult]) -> Row:
    return {
        name: value if name.endswith("_phones") else value.times(100)
        for name, value in shares(results).items()
    }


def _worst(results: Sequence[PhoneResult], kind: str) -> str:
    """Return the language with the smallest share, as "41.7 % (hi)"; of equals the first."""
    found = []
    for language in sorted({result.language for result in results}):
        value = shares([r for r in results if r.language == language])[kind].value
        if np.isfinite(value):
            found.append((value, language))
    if not found:
        return "-"
    value, language = min(found)
    return f"{100 * value:.1f} % ({language})"


def _left_out(results: Sequence[PhoneResult], kinds: Sequence[str]) -> str:
    counts = {kind: sum(result.too_short.get(kind, 0) for result in results) for kind in kinds}
    text = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"Left out as shorter than {SHORTEST * 1000:.0f} ms: {text}.\n"
