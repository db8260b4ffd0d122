"""Fit ARKit's blendshapes, named expressions and visemes: `talkingface/blendshapes.safetensors`.

    python tools/make_blendshapes.py teach face_landmarker.task teacher.npz --clips GRID \
        --portraits PORTRAITS [PORTRAITS ...]
    python tools/make_blendshapes.py fit teacher.npz VOICES talkingface/blendshapes.safetensors

`teach` runs MediaPipe's FaceLandmarker (`pip install "mediapipe>=0.10.30"`, in an environment of
its own: it brings another OpenCV) and keeps meshes and scores. GRID has a folder for each speaker,
PORTRAITS are folders of .jpg files. `fit` fits the maps between expressions of the shipped lips and
scores, and the viseme read-out on VOICES, a folder as `tools/make_voices.py` writes it. Speakers
HELD_OUT and every fifth portrait are left out of it: `report teacher.npz` says how well they come
back. The same arguments give the same bytes.
"""

# ruff: noqa: RUF001 - letters of the IPA look like Latin ones and are not.

from __future__ import annotations

import argparse
import json
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch.nn import functional as F

from talkingface import arkit, audio, picture, video, visemes, weights
from talkingface.audio import FPS
from talkingface.controls import EXPRESSIONS
from talkingface.data import expression_space
from talkingface.landmarks import INNER_LIPS, INNER_PAIRS, MIRROR_MESH, OUTER_LIPS
from talkingface.models.expression import ExpressionSpace, fade, transform
from talkingface.models.lips import ExpressionNet
from talkingface.motion import Motion
from talkingface.training.lips import NO_SPEECH, disturb
from talkingface.types import Array, Floats, Picture

HELD_OUT = ("s4", "s26", "s10", "s25", "s34", "u3")
SIDE = 384  # pixels of the upright crop that the teacher sees
FACE = 0.6  # of that side: the longer side of the mesh
MANY, FEW = (60, 3), (12, 2)  # clips and step from frame to frame; MANY of over 100 clips

LIPS = np.concatenate([OUTER_LIPS, INNER_LIPS])
PORTRAIT_SHARE = (0.2, 0.3)  # weight of the portraits beside GRID: scores to lips, and back
RIDGE = (6e-3, 1e-2)  # penalty: scores to lips, and back
NOISE = 0.3  # of expressions of portraits, standard deviations of the space
DIRECTION_RIDGE = 0.05

# Parts of the teacher's directions in each named expression, and what it does to brows
# (interocular distances, inner and outer) and lids (1 is shut) at strength 1. Chosen by eye.
MOUTHS: Mapping[str, Mapping[str, float]] = {
    "smile": {"mouthSmile": 0.7},
    "sad": {"mouthFrown": 0.3, "mouthSmile": -0.25},
    "frown": {"mouthFrown": 0.15},
    "surprise": {},
    "brows-up": {},
}
BROWS = {
    "smile": (0.0, 0.0),
    "sad": (0.05, -0.02),
    "frown": (-0.07, -0.03),
    "surprise": (0.1, 0.1),
    "brows-up": (0.09, 0.1),
}
LIDS = {"smile": 0.1, "sad": 0.1, "frown": 0.05, "surprise": -0.3, "brows-up": 0.0}

# Scores that are regressed out of each other's directions, left and right averaged.
COVARIATES = (
    "mouthSmile", "mouthFrown", "jawOpen", "mouthUpperUp", "mouthLowerDown", "mouthPucker",
    "mouthFunnel", "mouthPress", "mouthShrugLower", "mouthShrugUpper", "mouthRollUpper",
    "mouthRollLower", "mouthStretch", "browInnerUp", "browOuterUp", "browDown", "eyeSquint",
    "eyeWide", "eyeBlink",
)  # fmt: skip

VISEME_PHONES = {
    "sil": ("",),
    "PP": ("p", "b", "m"),
    "FF": ("f", "v", "ʋ"),
    "TH": ("θ", "ð"),
    "DD": ("t", "d", "ʈ", "ɖ", "ɾ", "ɽ"),
    "kk": ("k", "ɡ", "x", "ɣ", "h", "c", "ɟ"),
    "CH": ("tʃ", "dʒ", "ʃ", "ʒ", "ɕ", "tɕ", "dʑ"),
    "SS": ("s", "z", "ts", "dz"),
    "nn": ("n", "l", "ŋ", "ɲ", "ʎ", "ɴ", "ɳ"),
    "RR": ("ɹ", "r", "ʁ", "ɝ"),
    "aa": ("a", "ɑ", "æ", "ʌ", "ɐ"),
    "E": ("ɛ", "e", "ə", "ɜ", "œ"),
    "I": ("i", "ɪ", "j", "ɨ"),
    "O": ("o", "ɔ", "ɒ"),
    "U": ("u", "ʊ", "w", "ɯ", "ɤ", "y", "ø", "β"),
}
DIPHTHONGS = {
    "eɪ": ("E", "I"),
    "aɪ": ("aa", "I"),
    "ɔɪ": ("O", "I"),
    "aʊ": ("aa", "U"),
    "oʊ": ("O", "U"),
    "əʊ": ("O", "U"),
}
LENGTHENING = "ːʰʲᵝ"  # belongs to the symbol before it and changes no viseme
STEPS, BATCH, RATE, DECAY = 1500, 512, 3e-3, 0.03
FEATURE_NOISE = 1.0  # standard deviations of a feature
DISTURBED = 0.6  # weight of disturbed copies beside the clean voices
QUIET = (60.0, 0.3)  # seconds of noise and music, which are silence; weight of their frames


# --- the teacher ----------------------------------------------------------------------------------


def teach(task: Path, out: Path, clips: Path, portraits: Sequence[Path]) -> None:
    """Write meshes (N, 478, 2), scores (N, S) with their names, and the source of each row.

    A row's source is speaker/clip or folder/portrait.jpg.
    """
    teacher = Teacher(task)
    rows = []
    for name, crop in [*_portrait_crops(teacher, portraits), *_clip_crops(teacher, clips)]:
        seen = teacher(crop)
        if seen is not None:
            rows.append((name, *seen))
    teacher.close()
    names, meshes, scores = zip(*rows, strict=True)
    np.savez(
        out,
        mesh=np.stack(meshes),
        scores=np.stack(scores),
        names=np.array(teacher.names),
        source=np.array(names),
    )


class Teacher:
    """MediaPipe's FaceLandmarker: one picture to a mesh in pixels and 52 scores."""

    def __init__(self, task: Path) -> None:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions
        from mediapipe.tasks.python.vision import FaceLandmarker, FaceLandmarkerOptions

        options = FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(task)),
            output_face_blendshapes=True,
            min_face_detection_confidence=0.3,
        )
        self._mediapipe: Any = mediapipe
        self._landmarker = FaceLandmarker.create_from_options(options)
        self.names: list[str] = []

    def __call__(self, frame: Picture) -> tuple[Floats, Floats] | None:
        """Return mesh (478, 2) and scores of the largest face in (H, W, 3); None without one."""
        image = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame)
        )
        found = self._landmarker.detect(image)
        if not found.face_landmarks:
            return None
        height, width = frame.shape[:2]
        self.names = [shape.category_name for shape in found.face_blendshapes[0]]
        mesh = [(point.x * width, point.y * height) for point in found.face_landmarks[0]]
        scores = [shape.score for shape in found.face_blendshapes[0]]
        return np.array(mesh, np.float32), np.array(scores, np.float32)

    def close(self) -> None:
        """Stop its threads."""
        self._landmarker.close()

    def upright(self, frame: Picture) -> Array | None:
        """Return the similarity (2, 3) to a crop that the face fills upright; None without one."""
        large = cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        seen = self(np.asarray(large, np.uint8))
        if seen is None:
            return None
        mesh = seen[0].astype(np.float64) / 2
        across = mesh[[362, 263]].mean(0) - mesh[[33, 133]].mean(0)
        angle = np.arctan2(across[1], across[0])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        turned = mesh @ turn.T
        low, high = turned.min(0), turned.max(0)
        scale = SIDE * FACE / (high - low).max()
        shift = SIDE / 2 - scale * (low + high) / 2
        return np.concatenate([scale * turn, shift[:, None]], 1)


def _crop(frame: Picture, matrix: Array) -> Picture:
    border = cv2.BORDER_REPLICATE
    crop = cv2.warpAffine(frame, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=border)
    return np.asarray(crop, np.uint8)


def _portrait_crops(teacher: Teacher, folders: Sequence[Path]) -> Iterator[tuple[str, Picture]]:
    for path in (path for folder in folders for path in sorted(folder.glob("*.jpg"))):
        seen = picture.read(path)
        matrix = teacher.upright(seen)
        if matrix is not None:
            yield f"{path.parent.name}/{path.name}", _crop(seen, matrix)


def _clip_crops(teacher: Teacher, corpus: Path) -> Iterator[tuple[str, Picture]]:
    """Yield every third or second frame of at most so many random clips of each speaker."""
    rng = np.random.default_rng(0)
    for folder in sorted(path for path in corpus.iterdir() if path.name != "alignments"):
        clips = sorted(p for p in folder.iterdir() if p.suffix in (".mpg", ".mkv"))
        most, step = MANY if len(clips) > 100 else FEW
        if len(clips) > most:
            clips = [clips[k] for k in sorted(rng.choice(len(clips), most, replace=False))]
        for clip in clips:
            matrix = None
            for number, frame in enumerate(video.read_frames(clip)):
                matrix = teacher.upright(frame) if matrix is None else matrix
                if number % step == 0 and matrix is not None:
                    yield f"{folder.name}/{clip.stem}", _crop(frame, matrix)


# --- what the teacher says ------------------------------------------------------------------------


@dataclass(frozen=True)
class Taught:
    """Rows of the teacher and their mirror images.

    scores: (N, 22) of arkit.MOUTH; every: (N, C) of COVARIATES. expression: (N, K); lips: (N, 40,
    2), how far the lips are from the neutral face, reference frame. mesh: (N, 478, 2), aligned.
    clip: (N,), number of the clip; all portraits are clip 0. weight: (N,). held: (N,), left out.
    """

    scores: Array
    every: Array
    expression: Array
    lips: Array
    mesh: Array
    clip: NDArray[np.int64]
    weight: Array
    held: NDArray[np.bool_]

    def where(self, rows: NDArray[np.bool_]) -> Taught:
        """Return some of the rows."""
        return Taught(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def portrait(self) -> NDArray[np.bool_]:
        """Return which rows are portraits."""
        return self.clip == 0


def read_taught(path: Path, space: ExpressionSpace) -> Taught:
    """Read what `teach` wrote; portraits are the rows whose source is a .jpg."""
    with np.load(path) as file:
        mesh, scores = file["mesh"].astype(np.float32), file["scores"].astype(np.float64)
        names, source = [str(n) for n in file["names"]], [str(n) for n in file["source"]]
    flipped = mesh[:, MIRROR_MESH] * np.array([-1, 1], np.float32)
    swapped = [names.index(_other_side(name)) for name in names]
    mesh = np.concatenate([mesh, flipped])
    scores = np.concatenate([scores, scores[:, swapped]])
    source += [_mirrored(name) for name in source]
    kinds = sorted({name for name in source if not _is_portrait(name)})
    clip = np.array([0 if _is_portrait(name) else 1 + kinds.index(name) for name in source])
    aligned = transform(torch.from_numpy(mesh), space.align(torch.from_numpy(mesh))).double()
    expression, lips = _expressions(aligned.numpy(), clip, space)
    people = Counter(name.split("/")[0] for name in source)
    columns = [names.index(name) for name in arkit.MOUTH]
    sides = [
        [k for k, n in enumerate(names) if n in (c, f"{c}Left", f"{c}Right")] for c in COVARIATES
    ]
    return Taught(
        scores[:, columns],
        np.stack([scores[:, side].mean(1) for side in sides], 1),
        expression,
        lips,
        aligned.numpy(),
        clip,
        np.array([1.0 if _is_portrait(n) else people[n.split("/")[0]] ** -0.5 for n in source]),
        np.array([_is_held(name) for name in source]),
    )


def _is_portrait(source: str) -> bool:
    return source.endswith((".jpg", ".jpg mirrored"))


def _mirrored(source: str) -> str:
    return f"{source} mirrored"


def _other_side(name: str) -> str:
    return name.replace("Left", "*").replace("Right", "Left").replace("*", "Right")


def _is_held(source: str) -> bool:
    original = source.removesuffix(" mirrored")
    if _is_portrait(source):
        return zlib.crc32(original.encode()) % 5 == 0
    return original.split("/")[0] in HELD_OUT


def _expressions(
    mesh: Array, clip: NDArray[np.int64], space: ExpressionSpace
) -> tuple[Array, Array]:
    """Expressions (N, K) and displacements of the lips (N, 40, 2) of aligned meshes.

    Of a clip, from its own neutral face. Of a portrait, from the mean of those not held out: who it
    is stays in it as noise. `ExpressionSpace.fit` would take a smile for identity.
    """
    neutral = np.zeros_like(mesh)
    for number in range(1, clip.max() + 1):
        rows = clip == number
        neutral[rows] = expression_space.neutral_of(mesh[rows], space.reference.double().numpy())
    neutral[clip == 0] = mesh[clip == 0].mean(0)
    moved = torch.from_numpy(mesh - neutral).float()
    expression = space.coefficients(moved * fade(space.reference)[:, None])
    return expression.double().numpy(), (mesh - neutral)[:, LIPS]


# --- scores and expressions -----------------------------------------------------------------------


def centred(values: Array, clip: NDArray[np.int64]) -> Array:
    """Return values (N, C) less their mean over each clip, which depends on the person."""
    sums = np.zeros((clip.max() + 1, values.shape[1]))
    np.add.at(sums, clip, values)
    return values - (sums / np.bincount(clip, minlength=len(sums)).clip(1)[:, None])[clip]


def ridge(x: Array, y: Array, weight: Array, penalty: float) -> Array:
    """Minimise sum w |x A - y|^2 + penalty |A|^2: A (P, K)."""
    weighted = x * weight[:, None]
    solved: Array = np.linalg.solve(weighted.T @ x + penalty * np.eye(x.shape[1]), weighted.T @ y)
    return solved


def shared(taught: Taught, portraits: float) -> Array:
    """Return weights (N,) of which the portraits have this share of 1."""
    parts = np.where(taught.portrait, taught.weight, 0), np.where(taught.portrait, 0, taught.weight)
    out: Array = portraits * parts[0] / parts[0].sum() + (1 - portraits) * parts[1] / parts[1].sum()
    return out


def fit_maps(taught: Taught) -> tuple[Array, Array]:
    """Return A (K, 22), expressions to scores, and B (22, K), scores to expressions.

    Who a portrait shows is noise in its expression. For A, which would shrink by that, a portrait's
    expression is made of its scores by B.
    """
    scores = centred(taught.scores, taught.clip)
    expression = centred(taught.expression, taught.clip)
    from_mouth = ridge(scores, expression, shared(taught, PORTRAIT_SHARE[0]), RIDGE[0])
    noise = np.random.default_rng(0).standard_normal(expression.shape)
    made = scores @ from_mouth + NOISE * noise
    known = np.where(taught.portrait[:, None], made, expression)
    return ridge(known, scores, shared(taught, PORTRAIT_SHARE[1]), RIDGE[1]), from_mouth


def lip_rows(space: ExpressionSpace) -> Array:
    """Return the effect of expressions on the lips' points and gaps: (K, 89).

    The squares of a row sum to the mean square of the points plus that of the gaps.
    """
    moves = space.displacement(torch.eye(space.components)).double().numpy()
    gaps = moves[:, INNER_PAIRS[:, 1], 1] - moves[:, INNER_PAIRS[:, 0], 1]
    points = moves[:, LIPS].reshape(len(moves), -1)
    return np.concatenate([points / len(LIPS) ** 0.5, gaps / gaps.shape[1] ** 0.5], 1)


def fit_named(taught: Taught, net: ExpressionNet) -> Array:
    """Return what each of EXPRESSIONS adds to the expression at strength 1: (N, K)."""
    portraits = taught.where(taught.portrait)
    scores = centred(portraits.every, portraits.clip)
    spread = scores.std(0)
    moved = centred(portraits.mesh.reshape(len(scores), -1), portraits.clip)
    weight = np.full(len(scores), 1 / len(scores))
    slopes = ridge(scores / spread, moved, weight, DIRECTION_RIDGE) / spread[:, None]
    rows = []
    for name in EXPRESSIONS:
        parts = MOUTHS[name]
        amounts = np.array([parts.get(score, 0.0) for score in COVARIATES])
        rows.append(_near_mouth((amounts @ slopes).reshape(-1, 2), net))
    return np.stack(rows)


def _near_mouth(displacement: Array, net: ExpressionNet) -> Array:
    """Return the expression (K,) closest to a displacement (478, 2) of the mouth alone.

    Chin and jaw stay: their shape tells who smiles. The lips stay as far apart as they were.
    """
    space = net.space
    reference = space.reference.double().numpy()
    from_mouth = (reference - reference[list(INNER_PAIRS[4])].mean(0)) / [1.0, 0.8]
    near = 1 / (1 + np.exp((np.linalg.norm(from_mouth, axis=1) - 0.62) / 0.06))
    count = np.ones(len(reference))
    count[LIPS] = 3
    moves = space.displacement(torch.eye(space.components)).double().numpy() * count[:, None]
    rows = moves.reshape(len(moves), -1)
    wanted = (displacement * (near * count)[:, None]).ravel()
    found = ridge(rows.T, wanted[:, None], np.ones(rows.shape[1]), 1e-4)[:, 0]
    both = space.lip_gap(torch.from_numpy(np.stack([found, 0 * found])).float()).double().numpy()
    return np.asarray(found - (both[0] - both[1]) * net.opening.double().numpy())


# --- visemes --------------------------------------------------------------------------------------


def visemes_of(symbol: str) -> tuple[str, ...]:
    """Return the visemes of a phone, in order; none for a phone that is not in the table."""
    bare = "".join(letter for letter in symbol if letter not in LENGTHENING)
    bare = "".join(c for c in unicodedata.normalize("NFD", bare) if not unicodedata.combining(c))
    if bare in DIPHTHONGS:
        return DIPHTHONGS[bare]
    return tuple(name for name, phones in VISEME_PHONES.items() if bare in phones)


def viseme_frames(
    phones: Sequence[tuple[str, float, float]], frames: int
) -> tuple[NDArray[np.int64], Array]:
    """Return the viseme that fills most of each frame, and its share: (T,) twice.

    A diphthong's second half is its second vowel.
    """
    share = np.zeros((frames, len(visemes.NAMES)))
    middles = np.arange(frames)
    for symbol, start, end in phones:
        names = visemes_of(symbol)
        edges = np.linspace(start * FPS, end * FPS, len(names) + 1)
        for name, begin, stop in zip(names, edges[:-1], edges[1:], strict=True):
            covered = np.minimum(stop, middles + 1) - np.maximum(begin, middles)
            share[:, visemes.NAMES.index(name)] += covered.clip(0)
    return share.argmax(1), share.max(1)


def fit_visemes(net: ExpressionNet, voices: Path) -> tuple[Array, Array]:
    """Return weight (P, 15) and bias (15,) of the softmax read-out of `net.features`.

    Cross-entropy on the voices of a folder, clean and disturbed, with noise on the features.
    """
    files = json.loads((voices / "phones.json").read_text(encoding="utf-8"))["files"]
    rng = np.random.default_rng(0)
    x, y, weight = [], [], []
    for name in sorted(files):
        sound = audio.load(voices / name)
        for heard, count in ((sound, 1.0), (disturb(sound, rng), DISTURBED)):
            x.append(_features(net, heard))
            labels, share = viseme_frames(files[name]["phones"], len(x[-1]))
            y.append(torch.from_numpy(labels))
            weight.append(torch.from_numpy(count * share).float())
    seconds, count = QUIET
    for number in range(round(seconds / 5)):
        sound = NO_SPEECH[number % len(NO_SPEECH)](5 * audio.SAMPLE_RATE, rng)
        x.append(_features(net, disturb(sound, rng)))
        y.append(torch.zeros(len(x[-1]), dtype=torch.long))
        weight.append(torch.full((len(x[-1]),), count))
    return _softmax(torch.cat(x), torch.cat(y), torch.cat(weight))


def _features(net: ExpressionNet, sound: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.features(audio.windows(sound, net.config.speech))


def _softmax(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> tuple[Array, Array]:
    mean, spread = x.mean(0), x.std(0)
    rows = (x - mean) / spread
    generator = torch.Generator().manual_seed(0)
    slope = torch.zeros(x.shape[1], len(visemes.NAMES), requires_grad=True)
    bias = torch.zeros(len(visemes.NAMES), requires_grad=True)
    optimizer = torch.optim.AdamW([slope, bias], RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        index = torch.randint(len(rows), (BATCH,), generator=generator)
        noise = FEATURE_NOISE * torch.randn(BATCH, x.shape[1], generator=generator)
        logits = (rows[index] + noise) @ slope + bias
        loss = F.cross_entropy(logits, y[index], reduction="none", label_smoothing=0.02)
        optimizer.zero_grad()
        (weight[index] * loss).mean().backward()
        optimizer.step()
        schedule.step()
    found = slope.detach() / spread[:, None]
    return found.double().numpy(), (bias.detach() - mean @ found).double().numpy()


# --- the file, and how good it is -----------------------------------------------------------------


def fit(taught_path: Path, voices: Path, out: Path) -> None:
    """Fit everything and write the file."""
    net = weights.load("lips")
    assert isinstance(net, ExpressionNet)
    taught = read_taught(taught_path, net.space)
    known = taught.where(~taught.held)
    to_mouth, from_mouth = fit_maps(known)
    weight, bias = fit_visemes(net, voices)
    names = EXPRESSIONS
    tensors = {
        "to_mouth": to_mouth,
        "from_mouth": from_mouth,
        "lips": lip_rows(net.space),
        "expression": fit_named(known, net),
        "brows": np.array([BROWS[name] for name in names]),
        "lids": np.array([[LIDS[name]] * 2 for name in names]),
        "viseme_weight": weight,
        "viseme_bias": bias,
    }
    about = {
        "kind": "blendshapes",
        "teacher": "MediaPipe FaceLandmarker blendshape model, Apache-2.0",
        "training_data": "GRID (CC BY 4.0), SFHQ and SFHQ-T2I portraits (MIT), synthetic voices",
    }
    halves = {name: np.ascontiguousarray(value, np.float16) for name, value in tensors.items()}
    out.write_bytes(save(halves, {"talkingface": json.dumps(about, sort_keys=True)}))


def report(taught: Taught, net: ExpressionNet) -> None:
    """Print the accuracy of the file on held-out people, and the agreement with the teacher."""
    held = taught.where(taught.held & ~taught.portrait)
    lips = net.space.displacement(torch.eye(net.space.components)).double().numpy()[:, LIPS]

    def show(name: str, scores: Array, neutral: Array, target: Array) -> None:
        back = arkit.from_arkit(_table(scores)).expression
        back = back - arkit.from_arkit(_table(neutral)).expression
        error = np.linalg.norm(np.einsum("nk,kpc->npc", back, lips) - target, axis=-1).mean(1)
        high = np.percentile(error, 95)
        print(f"{name}: lips {error.mean():.4f}, median {np.median(error):.4f}, 95 % {high:.4f}")

    motion = Motion.still(held.expression.astype(np.float32))
    own = arkit.to_arkit(motion)[:, [arkit.NAMES.index(name) for name in arkit.MOUTH]]
    show("own curves", own, 0 * own, np.einsum("nk,kpc->npc", held.expression, lips))
    show("teacher's curves", held.scores, 0 * own, held.lips)
    show("teacher's curves less those at rest", held.scores, _at_rest(held), held.lips)
    for column, name in enumerate(arkit.MOUTH):
        found = [
            np.corrcoef(own[rows, column], held.scores[rows, column])[0, 1]
            for rows in (held.clip == number for number in np.unique(held.clip))
            if own[rows, column].std() > 1e-4 and held.scores[rows, column].std() > 1e-4
        ]
        print(f"  {name:18} correlation within clips {np.mean(found):.2f} in {len(found)} clips")


def _at_rest(taught: Taught) -> Array:
    """Return each row's scores of its clip at rest, found in the scores alone: (N, 22)."""
    columns = [arkit.NAMES.index(name) for name in arkit.MOUTH]
    out = np.zeros_like(taught.scores)
    for number in np.unique(taught.clip):
        rows = taught.clip == number
        out[rows] = arkit.at_rest(_table(taught.scores[rows]))[columns]
    return out


def _table(mouth: Array) -> Floats:
    """Scores of arkit.MOUTH (N, 22) -> (N, 52), the others zero."""
    out = np.zeros((len(mouth), len(arkit.NAMES)), np.float32)
    out[:, [arkit.NAMES.index(name) for name in arkit.MOUTH]] = mouth
    return out


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    teaching = commands.add_parser("teach", help="keep what the teacher says of pictures")
    teaching.add_argument("task", type=Path)
    teaching.add_argument("out", type=Path)
    teaching.add_argument("--clips", type=Path, required=True)
    teaching.add_argument("--portraits", type=Path, nargs="+", required=True)
    for name, about in (("fit", "write the file"), ("report", "say how good the file is")):
        one = commands.add_parser(name, help=about)
        one.add_argument("taught", type=Path)
        if name == "fit":
            one.add_argument("voices", type=Path)
            one.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "teach":
        teach(arguments.task, arguments.out, arguments.clips, arguments.portraits)
    elif arguments.command == "fit":
        fit(arguments.taught, arguments.voices, arguments.out)
    else:
        net = weights.load("lips")
        assert isinstance(net, ExpressionNet)
        report(read_taught(arguments.taught, net.space), net)


if __name__ == "__main__":
    main()
