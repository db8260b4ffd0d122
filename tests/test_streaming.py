"""A face that listens: any chunking gives the whole clip's frames, and a saved stream goes on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import talkingface
from talkingface import audio, liveliness, models, picture, streaming, weights
from talkingface.animation import BEGIN
from talkingface.contract import Generated
from talkingface.controls import Controls
from talkingface.data import expression_space
from talkingface.errors import BadRequest, BadWeights, OutputError
from talkingface.frames import OutputFrame
from talkingface.geometry import invert, transform, warp_crop
from talkingface.landmarks import INNER_LIPS, OUTER_LIPS
from talkingface.models.cran import CranConfig
from talkingface.models.lips import LipsConfig
from talkingface.pipeline import TalkingFace
from talkingface.render.face import FaceRenderer
from talkingface.render.mouth import MouthInterior
from talkingface.render.warp import MeshWarp
from talkingface.streaming import Stream

SPACE = Path(__file__).parent / "fixtures" / "expression_space.safetensors"
LIVE = 640 * 3 + 17  # samples per chunk: no whole number of frames


@pytest.fixture(scope="module")
def sound(speech: Path) -> np.ndarray:
    return audio.load(speech)[4000 : 4000 + 29 * 640 + 100].numpy()


@pytest.fixture(scope="module")
def face(portrait: Path) -> np.ndarray:
    return np.ascontiguousarray(picture.read(portrait)[::2, ::2])


def speaker(scheme: str) -> TalkingFace:
    """A tiny random generator of that scheme, or of that name; its states differ in kind."""
    if scheme in ("frame", "recurrent", "sequential", "natural"):
        config: Any = replace(models.PRESETS["cran-tiny"], scheme=scheme)
        if scheme == "natural":
            small = LipsConfig(rank=8, hidden=4, points=len(expression_space.load(SPACE).points))
            config = CranConfig(
                scheme="natural",
                readout=small,
                mouth_region=(4, 124, 4, 124),
                image_channels=(8, 8, 8),
                decoder_channels=(8, 8, 8),
                hidden=16,
            )
        torch.manual_seed(3)
        model: Any = models.build(config)
        if scheme == "natural":  # a random basis would tear the face
            space = expression_space.load(SPACE)
            model.readout.space.load_state_dict(space.state_dict())
        info = weights.load_with_info("cran-tiny")[1]
        return TalkingFace(model.eval().requires_grad_(False), info)
    return talkingface.load(scheme)


SCHEMES = ("frame", "recurrent", "sequential", "natural", "atvg-tiny")


def push_all(stream: Stream, sound: np.ndarray, size: int) -> list[np.ndarray]:
    parts = [sound[start : start + size] for start in range(0, len(sound), size)]
    return list(chain(*map(stream.push, parts), stream.finish()))


def levels_apart(first: list[np.ndarray], second: list[np.ndarray]) -> int:
    assert len(first) == len(second)
    return int(np.abs(np.stack(first).astype(int) - np.stack(second)).max())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_any_chunking_gives_the_whole_clips_frames(
    scheme: str, face: np.ndarray, sound: np.ndarray
) -> None:
    maker = speaker(scheme)
    whole = list(maker.generate(face, sound, show="face"))
    assert len(whole) == 30
    rng = np.random.default_rng(5)
    stream, frames, at = maker.open(face, show="face"), [], 0
    while at < len(sound):
        size = int(rng.choice([0, 1, 160, 641, 5000]))
        frames += stream.push(sound[at : at + size])
        assert stream.frames == len(frames)
        at += size
    assert levels_apart(frames + stream.finish(), whole) <= 1  # float noise at a rounding


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_saved_stream_goes_on_to_the_bit(
    scheme: str, face: np.ndarray, sound: np.ndarray, tmp_path: Path
) -> None:
    maker, cut = speaker(scheme), 4 * LIVE
    undisturbed = push_all(maker.open(face), sound, LIVE)
    before = maker.open(face)
    frames = list(chain(*(before.push(sound[s : s + LIVE]) for s in range(0, cut, LIVE))))
    before.save(tmp_path / "stream.safetensors")
    after = maker.open(face, resume=tmp_path / "stream.safetensors")
    assert after.frames == len(frames) > 0
    frames += push_all(after, sound[cut:], LIVE)
    assert len(frames) == 30
    assert all(np.array_equal(a, b) for a, b in zip(frames, undisturbed, strict=True))


@pytest.mark.slow
def test_a_head_of_the_models_own_moves_by_seed_and_as_far_as_asked(
    face: np.ndarray, sound: np.ndarray
) -> None:
    maker = speaker("natural")

    def heads(**controls: Any) -> np.ndarray:
        stream = maker.open(face, controls=Controls(**controls))
        frames = [*stream.output(sound), *stream.flush()]
        return np.stack([frame.motion.head[frame.t] for frame in frames if frame.motion])

    whole, half = heads(seed=1), heads(seed=1, head=0.5)
    assert np.abs(whole[-1]).max() > 1e-3 and np.array_equal(whole, heads(seed=1))
    np.testing.assert_allclose(half, whole / 2, atol=1e-7)
    assert not np.array_equal(whole, heads(seed=2))
    assert not heads(head=0.0).any() and not heads(still=True).any()
    breath = liveliness.breathing(1, 0, len(whole))
    moves = whole[BEGIN:] - breath[BEGIN:]
    assert np.abs(moves).max() > 1e-3  # more than breathing, and 0 at the beginning
    assert np.abs(whole[0]).max() < np.abs(whole).max() / 4
    with pytest.raises(BadRequest, match="for no other face: give cran or atvg"):
        maker.motion(sound)


def test_what_is_carried_matters(face: np.ndarray, sound: np.ndarray, tmp_path: Path) -> None:
    maker = talkingface.load("cran-tiny")
    first = maker.open(face, show="face")
    first.push(sound[: 6 * LIVE])
    first.save(tmp_path / "kept")
    went_on = maker.open(face, show="face", resume=tmp_path / "kept").push(sound[6 * LIVE :])
    fresh = maker.open(face, show="face").push(sound[6 * LIVE :])
    assert went_on and not np.array_equal(went_on[0], fresh[0])


def test_a_frame_needs_half_a_window_after_its_middle(face: np.ndarray, sound: np.ndarray) -> None:
    """Latency is derived from the features: pushed sample by sample around that time."""
    maker = talkingface.load("cran-tiny")
    stream, spec = maker.open(face, show="face"), maker.model.config.speech
    half_window = (spec.hops * audio.HOP + audio.WINDOW - audio.HOP) / 2 / audio.SAMPLE_RATE
    assert stream.latency == pytest.approx(half_window - 0.5 / audio.FPS, abs=0.6 / 1000)
    needed = audio.SAMPLES_PER_FRAME + round(stream.latency * audio.SAMPLE_RATE)
    assert stream.push(sound[: needed - 1]) == []
    assert len(stream.push(sound[needed - 1 : needed])) == 1


def test_no_frame_of_an_encoders_waits_longer_than_it_says(
    face: np.ndarray, sound: np.ndarray
) -> None:
    """Blocks of tokens come at once, so frames wait by turns; the longest wait is the latency."""
    stream = talkingface.load("atvg-tiny").open(face, show="face")
    assert stream.latency == pytest.approx(0.3425)
    waits: list[int] = []
    latency = round(stream.latency * audio.SAMPLE_RATE)
    for pushed in range(20, len(sound) + 1, 20):
        for _ in stream.push(sound[pushed - 20 : pushed]):
            waits.append(pushed - audio.SAMPLES_PER_FRAME * (len(waits) + 1))
    assert len(waits) > 15 and latency <= max(waits) < latency + 20


def test_the_live_call_is_the_readmes(face: np.ndarray, sound: np.ndarray) -> None:
    chunks = np.array_split(sound, 9)
    lists = list(talkingface.stream(face, chunks, model="cran-tiny", show="face", mark=True))
    assert all(lists) and sum(map(len, lists)) == 30
    bare = push_all(talkingface.load("cran-tiny").open(face, show="face"), sound, LIVE)
    marked = list(chain(*lists))
    assert all((a[:100] == b[:100]).mean() > 0.99 for a, b in zip(marked, bare, strict=True))
    assert all(
        (a[-14:, :60] != b[-14:, :60]).mean() > 0.5 for a, b in zip(marked, bare, strict=True)
    )


def test_what_is_shown(face: np.ndarray, sound: np.ndarray) -> None:
    maker = talkingface.load("cran-tiny")
    shown = {show: maker.open(face, show=show).push(sound[:8000]) for show in ("picture", "maps")}
    assert {frame.shape for frame in shown["picture"]} == {face.shape}
    assert {frame.shape for frame in shown["maps"]} == {(256, 768, 3)}
    with pytest.raises(BadRequest, match="show is 'whole': give picture, face, maps"):
        maker.open(face, show="whole")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="makes no maps"):
        talkingface.load("still").open(face, show="maps").push(sound[:8000])


def test_a_frame_is_the_picture_bent_and_what_the_model_adds(face: np.ndarray) -> None:
    """In whole pictures and in bare faces alike, at their own resolution; the sharper, the less."""
    prepared = talkingface.load("atvg-tiny").prepare(face)
    assert prepared.mouth is not None and prepared.moving is not None
    mesh = prepared.mouth.mesh.clone()
    mesh[:, torch.from_numpy(np.r_[INNER_LIPS[11:], OUTER_LIPS[11:], 152]), 1] += 0.04
    change = torch.zeros(1, 1, 3, 128, 128)
    change[..., 80:100, 50:80] = 0.2
    crop = prepared.crop
    for side in (None, 128, 256):
        renderer = prepared.renderer if side is None else prepared.face_renderer(side)
        if side is None:
            whole, matrix, margin = face, prepared.matrix, 0
        else:  # pixel x of the crop is (x + 0.5) scale - 0.5 of the larger one, after a margin
            scale, margin = side / 128, side // 4
            to_side = prepared.matrix * scale
            to_side[:, 2] += 0.5 * scale - 0.5 + margin
            whole = warp_crop(face, to_side, side + 2 * margin)
            matrix = np.array([[1, 0, 0.5], [0, 1, 0.5]]) / scale - [[0, 0, 0.5], [0, 0, 0.5]]
            matrix[:, 2] -= margin / scale
        cut = np.s_[margin : whole.shape[0] - margin, margin : whole.shape[1] - margin]
        own, rest, moved = (
            transform(points[0].double().numpy() * 128, invert(matrix))
            for points in (prepared.mouth.mesh, prepared.mouth.neutral, mesh)
        )
        behind = MouthInterior(whole, own, rest)
        warp = MeshWarp(own, prepared.moving)
        expected = FaceRenderer(whole, warp, behind).draw(moved)[cut]
        made = Generated(torch.zeros(1, 1, 3, 128, 128), mesh=mesh[:, None])
        bent = renderer(OutputFrame(crop, made, 0))
        assert levels_apart([bent], [expected]) <= 1 and not np.array_equal(bent, whole[cut])
        added = renderer(OutputFrame(crop, replace(made, change=change), 0)).astype(int) - bent
        pixels = np.stack(np.meshgrid(*map(np.arange, whole.shape[1::-1])), -1)[cut]
        inside = transform(pixels.astype(float), matrix)
        heart = np.all((inside > [51, 81]) & (inside < [78, 98]), axis=-1, keepdims=True)
        lit = heart & (bent < 220)
        eyes = float(np.linalg.norm(own[[33, 133]].mean(0) - own[[362, 263]].mean(0)))
        share = min(1.0, max(0.0, (96 - eyes) / 48))
        assert (share == 1) == (side == 128) and (share < 0.1) == (side is None)
        assert lit.any() and np.abs(added[lit] - 0.2 * 127.5 * share).max() <= 1
        away = ((inside < [48, 78]) | (inside > [81, 101])).any(-1)
        assert not added[away].any()


def test_bad_sounds_and_finished_streams(face: np.ndarray, sound: np.ndarray) -> None:
    stream = talkingface.load("cran-tiny").open(face)
    wrong: list[Any] = [sound * 32768, (sound * 100).astype(np.int64), np.full(100, np.nan)]
    for bad in wrong:
        with pytest.raises(BadRequest):
            stream.push(bad)
    assert stream.finish() == []  # nothing was said
    with pytest.raises(BadRequest, match="finished"):
        stream.push(sound)


def test_saved_streams_that_cannot_be_taken_up(
    face: np.ndarray, sound: np.ndarray, tmp_path: Path
) -> None:
    maker, path = talkingface.load("cran-tiny"), tmp_path / "kept"
    stream = maker.open(face)
    stream.push(sound)
    stream.save(path)
    with pytest.raises(OutputError, match="exists already"):
        stream.save(path)
    with pytest.raises(BadWeights, match="saved with model cran-tiny"):
        talkingface.load("atvg-tiny").open(face, resume=path)
    for wrong in (tmp_path / "none", Path(__file__)):
        with pytest.raises(BadWeights, match="no saved stream"):
            maker.open(face, resume=wrong)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Five times as long needs no more memory: measured in a process of its own."""
    code = """
import resource, sys
import numpy as np, torch
import talkingface
torch.set_num_threads(1)
face = np.ascontiguousarray(talkingface.picture.read(sys.argv[1])[::4, ::4])
noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype(np.float32)
chunks = (noise for _ in range(int(sys.argv[2])))
frames = sum(map(len, talkingface.stream(face, chunks, model="cran-tiny", show="face")))
print(frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    portrait = Path(__file__).parents[1] / "examples" / "portrait.jpg"
    used = {}
    for seconds in (15, 75):
        call = [sys.executable, "-c", "import talkingface.picture\n" + code]
        ran = subprocess.run(
            [*call, str(portrait), str(seconds)], capture_output=True, text=True, check=True
        )
        frames, used[seconds] = map(int, ran.stdout.split())
        assert frames == 25 * seconds
    assert used[75] - used[15] < 5_000  # KiB


def test_the_label_is_small_and_only_there(portrait: Path) -> None:
    whole = picture.read(portrait)
    for side in (64, 128, 768):
        shown = np.ascontiguousarray(whole[:side, :side])
        marked = picture.label(shown)
        changed = (marked != shown).any(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert rows.min() > side * 0.7 and columns.max() < max(90, side * 0.35)
        assert 0.003 < changed.mean() < 0.35 and marked is not shown
        assert marked[changed].max() > 200 and marked[changed].min() < 120  # light on dark


def test_reading_in_parts_is_loading(speech: Path) -> None:
    whole = audio.load(speech)
    for block in (640, 7000, 10**6):
        parts = list(audio.read(speech, block))
        assert torch.equal(torch.cat(parts), whole)
        assert all(len(part) == block for part in parts[:-1]) and 0 < len(parts[-1]) <= block


def test_a_long_chunk_comes_part_by_part(face: np.ndarray) -> None:
    long = np.zeros(16_000 * 5, np.float32)
    lists = list(talkingface.load("cran-tiny").stream(face, [long], show="face"))
    assert sum(map(len, lists)) == 125 and max(map(len, lists)) <= streaming.CHUNK


def test_a_sharp_picture_takes_the_motion_alone(portrait: Path, sound: np.ndarray) -> None:
    """Frames are those that the whole model would give; its pictures are still there to look at."""
    speaker = talkingface.load("atvg-tiny")
    sharp, soft = picture.read(portrait), picture.read(portrait)[::4, ::4].copy()
    for face, alone in ((sharp, True), (soft, False)):
        video = speaker.generate(face, sound[:8000])
        whole = [video._painter(frame) for frame in video._frames(whole=True)]
        assert all(np.array_equal(a, b) for a, b in zip(video, whole, strict=True))
        assert {frame.crop.shape for frame in video._frames()} == {
            (0, 0, 3) if alone else (128, 128, 3)
        }
        assert all(maps.crop.shape == (128, 128, 3) for maps in video.maps())
