"""The evaluation: models whose score is known, curves with a known answer, tables recomputed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import talkingface
from conftest import Cli
from helpers.corpus import FRAMES, LEVELS, curve, landmarks, write_cache
from helpers.players import Drawer, Loudness, Player, clip_of, frames_of, read_pixel
from talkingface import evaluation, video, weights
from talkingface.contract import Generated, Portrait
from talkingface.data.clip import UNSEEN
from talkingface.data.dataset import Cache
from talkingface.errors import BadRequest
from talkingface.evaluation import (
    EvaluatedModel,
    Evaluator,
    Result,
    VideoWithLandmarks,
    detection,
    measures,
)
from talkingface.evaluation import evaluator as evaluators
from talkingface.metrics.lips import aperture, reading_accuracy
from talkingface.models.lipreader import PublishedLipReader, PublishedReaderConfig
from talkingface.training.reading import word_logits, words_of
from talkingface.workers import Workers

EYES = np.ptp([landmarks(0)[36:42, 0].mean(), landmarks(0)[42:48, 0].mean()])  # pixels apart


@pytest.fixture
def evaluator(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    monkeypatch.setattr(detection, "detect", read_pixel)
    return Evaluator(cache)


def measured(
    evaluator: Evaluator, frames: np.ndarray, key: str = "s1_test0", **options: Any
) -> Result:
    model = EvaluatedModel("player", "abc", Player(frames))
    result = evaluator.evaluate(model, clip_of(evaluator.cache, key), "first frame", **options)
    assert result is not None
    return result


def test_a_perfect_model_is_perfect(evaluator: Evaluator, cache: Cache) -> None:
    clip = clip_of(cache, "s1_test0")
    result = measured(evaluator, frames_of(cache, clip))
    real = evaluator.evaluate(EvaluatedModel("real", "", None), clip, "first frame")
    assert real is not None and real.metrics == result.metrics
    metrics = result.metrics
    for name in ("correlation", "amplitude", "ssim", "mouth_ssim", "sharpness"):
        assert metrics[name] == pytest.approx(1.0, abs=1e-6), name
    assert metrics["lmd_pixels"] == metrics["missed"] == 0.0
    assert metrics["psnr"] is metrics["mouth_psnr"] is None  # infinite
    # what was drawn is what is measured, to the half level of a pixel
    expected = curve(7) / EYES
    assert np.allclose(np.array(result.aperture, float), expected, atol=0.51 / LEVELS / EYES)
    assert result.real_aperture == result.aperture


def test_a_still_model_does_not_move(evaluator: Evaluator, cache: Cache) -> None:
    clip = clip_of(cache, "s1_test0")
    still = EvaluatedModel("still", "", weights.load("still"))  # type: ignore[arg-type]
    result = evaluator.evaluate(still, clip, "first frame", silence=True)
    assert result is not None
    assert result.metrics["amplitude"] == 0.0 and result.metrics["missed"] == 0.0
    assert result.metrics["correlation"] is None and result.metrics["silence"] is None
    psnr, mouth = result.metrics["psnr"], result.metrics["motion_mouth"]
    assert psnr is not None and 10 < psnr < 60
    rest = result.metrics["motion_rest"]
    assert mouth is not None and mouth < 1e-3 and rest is not None and rest < 1e-3
    assert result.metrics["jitter"] == 0 and result.metrics["lag"] is None


def test_a_late_model_scores_what_the_shifted_curve_says(
    evaluator: Evaluator, cache: Cache
) -> None:
    frames = frames_of(cache, clip_of(cache, "s1_test0"))
    scores: list[float] = []
    for late in (1, 2, 4):
        result = measured(evaluator, np.concatenate([frames[:late], frames[:-late]]))
        gaps = frames[:, 0, 0, 0].astype(float)
        expected = np.corrcoef(np.concatenate([gaps[:late], gaps[:-late]]), gaps)[0, 1]
        assert result.metrics["correlation"] == pytest.approx(expected, abs=1e-6)
        assert result.metrics["lag"] == late
        scores.append(result.metrics["correlation"] or 0.0)
    assert 1 > scores[0] > scores[1] > scores[2]


def test_half_the_motion_is_half_the_amplitude(evaluator: Evaluator, cache: Cache) -> None:
    frames = frames_of(cache, clip_of(cache, "s1_test0"))
    frames[:, 0, 0, 0] = np.rint(frames[:, 0, 0, 0] / 2 + 40)
    metrics = measured(evaluator, frames).metrics
    assert metrics["amplitude"] == pytest.approx(0.5, abs=0.01)
    assert metrics["correlation"] == pytest.approx(1.0, abs=1e-3)


def test_lost_frames_are_counted_and_left_out(evaluator: Evaluator, cache: Cache) -> None:
    frames = frames_of(cache, clip_of(cache, "s1_test0"))
    frames[5:8, 0, 0] = 255
    result = measured(evaluator, frames)
    assert result.metrics["missed"] == 3 and result.aperture[5:8] == [None] * 3
    assert result.metrics["correlation"] == pytest.approx(1.0)


def test_a_clip_in_pieces_is_the_whole_clip(
    evaluator: Evaluator, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluators, "CHUNK", 7)
    clip = clip_of(cache, "s1_test1")
    made = evaluator.generate(Player(frames_of(cache, clip)), clip, clip).frames
    assert np.array_equal(made, frames_of(cache, clip))


def test_silence_is_told_from_speech(evaluator: Evaluator, cache: Cache) -> None:
    clip = clip_of(cache, "s1_test0")
    frames = frames_of(cache, clip)
    for kind, expected in ((Loudness, 0.0), (Player, 1.0)):
        model = EvaluatedModel("any", "", kind(frames))
        result = evaluator.evaluate(model, clip, "first frame", silence=True)
        assert result is not None and result.metrics["silence"] == pytest.approx(expected)


def test_real_landmarks_drive_a_row_of_their_own(evaluator: Evaluator, cache: Cache) -> None:
    clip = clip_of(cache, "s1_test0")
    still = np.repeat(frames_of(cache, clip)[:1], FRAMES, axis=0)
    plain, shown = (
        EvaluatedModel("any", "", Drawer(still)),
        EvaluatedModel("any", "", Drawer(still), True),
    )
    deaf = evaluator.evaluate(plain, clip, "first frame")
    driven = evaluator.evaluate(shown, clip, "first frame", silence=True)
    assert deaf is not None and deaf.metrics["correlation"] is None
    assert driven is not None and driven.metrics["correlation"] == pytest.approx(1, abs=1e-3)
    assert driven.metrics["lmd_pixels"] == pytest.approx(0, abs=0.02)
    assert not {"silence", "head_correlation"} & set(driven.metrics)


def test_displacements_are_carried_to_another_face(
    cache: Cache, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluators, "CHUNK", 7)
    clip, other = clip_of(cache, "s1_test0"), clip_of(cache, "s1_test1")
    own = cache.landmarks[clip.start : clip.start + clip.frames]
    for picture in (clip, other):
        drawer = Drawer(frames_of(cache, clip))
        evaluator.generate(drawer, picture, clip, driven=True)
        given = np.concatenate(drawer.given)
        assert len(drawer.given) == 5
        assert np.allclose(given[0], cache.landmarks[picture.start], atol=1e-6)
        assert np.allclose(np.diff(given, axis=0), np.diff(own, axis=0), atol=1e-6)


def test_atvg_draws_what_it_is_given(cache: Cache, evaluator: Evaluator) -> None:
    clip, model = clip_of(cache, "s1_test0"), evaluation.open_model("atvg-tiny@landmarks")
    assert (model.name, model.driven) == ("atvg-tiny@landmarks", True)
    assert model.generator is not None
    known = cache.landmarks[clip.start : clip.start + 3].copy()
    portrait = evaluators.portrait_of(cache, clip.start)
    generated = evaluator.generate_from(
        model.generator, portrait, torch.from_numpy(known), driven=True
    )
    known[2] += 0.1
    moved = evaluator.generate_from(model.generator, portrait, torch.from_numpy(known), driven=True)
    assert generated.frames.shape == (3, 128, 128, 3)
    assert generated.mask is not None and generated.mask.shape == (3, 128, 128)
    assert np.array_equal(moved.frames[:2], generated.frames[:2])
    assert not np.array_equal(moved.frames[2], generated.frames[2])
    with pytest.raises(BadRequest, match="draws no landmarks"):
        player = Player(frames_of(cache, clip)[:1])
        evaluator.generate_from(player, portrait, torch.from_numpy(known), driven=True)


def test_a_portrait_of_the_cache_has_the_mesh_that_was_found(
    cache: Cache, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clip_of(cache, "s1_test1")
    found = np.array(cache.mesh)
    found[clip.start, 1] += 0.25  # the tip of the nose: none of the 68, none interpolates it
    monkeypatch.setattr(cache, "mesh", found)
    portrait = evaluators.portrait_of(cache, clip.start)
    assert portrait.mesh is not None and np.array_equal(portrait.mesh[0], found[clip.start])
    assert np.array_equal(portrait.landmarks[0], cache.landmarks[clip.start])
    seen = []

    class Looker(Player):
        def encode(self, portrait: Portrait) -> Portrait:
            seen.append(portrait)
            return super().encode(portrait)

    evaluator.generate(Looker(frames_of(cache, clip)), clip, clip)
    assert seen[0].mesh is not None and torch.equal(seen[0].mesh, portrait.mesh)


def test_lips_alone_are_those_that_the_model_draws_from(evaluator: Evaluator, cache: Cache) -> None:
    """Nothing is drawn, and the aperture is that of the landmarks of the whole generator."""
    clip, seen = clip_of(cache, "s1_test0"), []
    for name in ("cran-tiny", "atvg-tiny"):
        one = evaluation.open_model(f"row={name}@lips")
        assert (one.name, one.lips) == ("row@lips", True) and one.generator is not None
        drawn = evaluator.generate(one.generator, clip, clip).landmarks
        assert drawn is not None
        alone = evaluator.evaluate(one, clip, "first frame")
        assert alone is not None and alone.words == [] and "psnr" not in alone.metrics
        assert np.allclose(np.array(alone.aperture, float), aperture(drawn), atol=1e-4)
        seen.append(np.array(alone.aperture, float))
        whole = evaluation.open_model(f"row={name}")
        assert (
            evaluator.facts(whole, clip, "first frame", False)["model"][1:]
            != (evaluator.facts(one, clip, "first frame", False)["model"][1:])
        )
    assert not np.allclose(seen[0], seen[1])


def test_the_landmarks_a_model_predicts_are_measured_too(
    evaluator: Evaluator, cache: Cache
) -> None:
    clip = clip_of(cache, "s1_test0")
    frames = frames_of(cache, clip)
    for kind, expected in ((Drawer, (1.0, 0.5)), (Player, (None, None))):
        result = evaluator.evaluate(EvaluatedModel("any", "", kind(frames)), clip, "first frame")
        assert result is not None
        for name, value in zip(("head_correlation", "head_amplitude"), expected, strict=True):
            assert result.metrics.get(name) == (value and pytest.approx(value, abs=1e-4))
        text = evaluation.markdown([result])
        assert ("amplitude of its landmarks" in text) == (kind is Drawer)
        if kind is Drawer:
            row = cells(text, "test, identity: first frame", "further")["any"]
            assert row["amplitude of its landmarks"] == "0.50"


def test_the_upper_half_outside_the_mask_is_compared_with_the_identity() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    frames = np.stack([picture, picture])
    frames[1, 0, :] += 10  # one row of four in one frame of two
    frames[:, 4:] = 0  # the lower half may do what it likes
    assert measures.upper_change(frames, picture) == pytest.approx(10 / 4 / 2)
    mask = np.zeros((2, 8, 8), np.float32)
    mask[1, 0, :4] = 0.6
    assert measures.upper_change(frames, picture, mask) == pytest.approx(4 * 10 / (64 - 4))
    assert math.isnan(measures.upper_change(frames, picture, np.ones((2, 8, 8), np.float32)))


class Masked(Player):
    """New colour in the whole upper half, and none elsewhere."""

    def __call__(self, identity: Any, speech: Tensor, state: Any = None) -> tuple[Generated, Any]:
        generated, state = super().__call__(identity, speech, state)
        mask = torch.zeros_like(generated.frames[:, :, :1])
        mask[..., :64, :] = 1.0
        return Generated(generated.frames, mask=mask), state


def test_a_mask_says_what_may_change(evaluator: Evaluator, cache: Cache) -> None:
    clip = clip_of(cache, "s1_test0")
    frames = np.repeat(frames_of(cache, clip)[:1], FRAMES, axis=0)
    frames[1:, 20:40] ^= 4
    for kind, expected in ((Player, 4 * 20 / 64), (Masked, None)):
        result = evaluator.evaluate(EvaluatedModel("any", "", kind(frames)), clip, "first frame")
        assert result is not None
        assert result.metrics["upper_change"] == (expected and pytest.approx(expected))


def test_the_other_recording_is_of_the_same_speaker_and_always_the_same(
    evaluator: Evaluator,
) -> None:
    chosen = {}
    for clip in evaluator.cache.clips:
        if not clip.silent:
            other = evaluator.portrait(clip, "another recording")
            chosen[clip.key] = other and other.key
            assert evaluator.portrait(clip, "first frame") == clip
    assert chosen["s1_test2"] == "s1_test0" and chosen["s4_a"] == "s4_b"
    assert chosen["s26_a"] is None
    alone = clip_of(evaluator.cache, "s26_a")
    assert evaluator.evaluate(EvaluatedModel("real", "", None), alone, "another recording") is None


def test_the_real_face_is_looked_for_once(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def detect(frames: np.ndarray) -> np.ndarray:
        looked.append(len(frames))
        return read_pixel(frames)

    monkeypatch.setattr(detection, "detect", detect)
    clip = clip_of(cache, "s1_test0")
    first = Evaluator(cache, detections=tmp_path).real(clip)
    second = Evaluator(cache, detections=tmp_path).real(clip)
    assert looked == [FRAMES] and np.array_equal(first.landmarks, second.landmarks)
    other = write_cache(tmp_path / "other", np.zeros((128, 128, 3), np.uint8))
    Evaluator(other, detections=tmp_path).real(
        clip_of(other, "s1_test0")
    )  # same name, other pixels
    assert looked == [FRAMES] * 2


def judge() -> PublishedLipReader:
    torch.manual_seed(3)
    return PublishedLipReader(PublishedReaderConfig(channels=(4, 4, 4), feature=8, hidden=8)).eval()


def test_ranks_are_the_reading_accuracy(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "detect", read_pixel)
    reader, clip = judge(), clip_of(cache, "s1_test0")
    evaluator = Evaluator(cache, reader, "judged")
    result = evaluator.evaluate(EvaluatedModel("real", "", None), clip, "first frame")
    assert result is not None and result.judge == "judged"
    frames = frames_of(cache, clip)
    place = torch.from_numpy(read_pixel(frames) / 128).float()
    words = words_of(clip, cache.word_index)
    logits = word_logits(reader, video.to_tensor(frames), place, words).numpy()
    assert len(result.words) == 5
    for n in (1, 5, 20, 51):
        right = np.mean([rank <= n for rank in result.ranks])
        assert right == reading_accuracy(logits, np.array(result.words), n)
    unseen = evaluator.evaluate(
        EvaluatedModel("real", "", None), clip_of(cache, "s4_a"), "first frame"
    )
    assert unseen is not None and unseen.ranks == []  # no words are known


class Brightness:
    """A learned metric: brightness of the first pixel and the picture, end of the sound."""

    sha256 = "bright"

    def __call__(self, video: VideoWithLandmarks, picture: Any, sound: Any) -> dict[str, float]:
        assert len(sound) == 640 * len(video.frames) and len(video.landmarks) == FRAMES
        found = {"made": video.frames[3, 0, 0, 0], "picture": picture[0, 0, 0], "end": sound[-1]}
        return {name: float(value) for name, value in found.items()}


def test_learned_metrics_get_the_video_the_identity_picture_and_the_sound(cache: Cache) -> None:
    evaluator = Evaluator(cache, learned_metrics=[Brightness()])
    clip, other = clip_of(cache, "s1_test0"), clip_of(cache, "s1_test1")
    metrics = evaluator._learned_measures(
        VideoWithLandmarks(frames_of(cache, clip), read_pixel(frames_of(cache, clip))), other, clip
    )
    assert metrics["made"] == frames_of(cache, clip)[3, 0, 0, 0]
    assert metrics["picture"] == frames_of(cache, other)[0, 0, 0, 0] != metrics["made"]
    end = cache.sound[(clip.start + clip.frames) * 640 - 1] / 32768
    assert metrics["end"] == pytest.approx(end)
    model = EvaluatedModel("any", "", None)
    known = Evaluator(cache).facts(model, clip, "first frame", False)
    with_metric = evaluator.facts(model, clip, "first frame", False)
    assert {name for name in known if known[name] != with_metric[name]} == {"experts"}


@pytest.fixture(scope="module")
def results(cache: Cache) -> list[Result]:
    """Two models on all held-out clips: late by one frame, and real; judged at random."""
    evaluator, results = Evaluator(cache, judge(), "judged"), []
    patch = pytest.MonkeyPatch()
    patch.setattr(detection, "detect", read_pixel)
    for clip in cache.split("test", "unseen"):
        frames = frames_of(cache, clip)
        late = Player(np.concatenate([frames[:1], frames[:-1]]))
        for model in (EvaluatedModel("real", "", None), EvaluatedModel("late", "abc", late)):
            for identity in evaluation.IDENTITIES:
                result = evaluator.evaluate(model, clip, identity)
                results += [] if result is None else [result]
    patch.undo()
    return results


def test_results_survive_the_file(results: list[Result], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    evaluation.write_results(path, results)
    assert evaluation.read_results(path) == results
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(results) == 22
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert rows[0]["metrics"]["psnr"] is None


def cells(text: str, section: str, first: str) -> dict[str, dict[str, str]]:
    """The table of this section whose first heading is `first`: row -> heading -> number."""
    body = text.split(f"## {section}\n")[1].split("## ")[0]
    lines = body[body.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    numbers = [[row[0], *(cell.split(" [")[0].rstrip("*") for cell in row[1:])] for row in rows]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in numbers}


def test_tables_equal_a_naive_recomputation(results: list[Result], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    evaluation.write_results(path, results)
    text = evaluation.markdown(evaluation.read_results(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    late = [r for r in rows if (r["model"], r["identity"]) == ("late", "first frame")]
    test = [r for r in late if r["split"] == "test"]
    lips = cells(text, "test, identity: first frame", "model")["late"]
    made, real = (np.concatenate([r[k] for r in test]) for k in ("aperture", "real_aperture"))
    each = [np.corrcoef(r["aperture"], r["real_aperture"])[0, 1] for r in test]
    assert lips["clips"] == "3"
    assert lips["corr."] == f"{np.mean(each):.3f}"
    assert lips["corr. pooled"] == f"{np.corrcoef(made, real)[0, 1]:.3f}"
    assert lips["ampl. pooled"] == f"{np.std(made) / np.std(real):.2f}"
    assert lips["LMD px"] == f"{np.mean([r['metrics']['lmd_pixels'] for r in test]):.2f}"
    body = text.split("## test, identity: first frame\n")[1]
    assert f"{np.mean([r['metrics']['mouth_psnr'] for r in test]):.2f}" in body
    ranks = np.concatenate([r["ranks"] for r in test])
    read = cells(text, "test, identity: first frame", "read by the judge")
    assert read["late"]["words"] == "15"
    assert read["late"]["top-5 %"] == f"{100 * np.mean(ranks <= 5):.1f}"
    assert read["chance"]["top-1 %"] == f"{100 / 51:.1f}"
    speakers = cells(text, "unseen, identity: first frame", "model, speaker")
    assert set(speakers) == {"late, s26", "late, s4", "real, s26", "real, s4"}
    own = [r["metrics"]["correlation"] for r in late if r["speaker"] == "s4"]
    assert speakers["late, s4"]["corr."] == f"{np.mean(own):.3f}"
    assert speakers["real, s4"]["amplitude"] == "1.00"


@pytest.fixture(scope="module")
def photographed(tmp_path_factory: pytest.TempPathFactory, portrait: Path) -> Path:
    """The corpus with a real portrait in every frame, so that the real detector finds a face."""
    folder = tmp_path_factory.mktemp("photographed")
    write_cache(folder, talkingface.align(portrait).crop)
    return folder


def test_a_still_face_measures_as_still(photographed: Path) -> None:
    found = evaluation.detect(Cache(photographed).frames[:12])
    assert np.isfinite(found).all()
    assert aperture(found).std() < 0.002  # speech is 0.02 to 0.06


@pytest.mark.slow
def test_the_command_measures_and_writes(cli: Cli, photographed: Path, tmp_path: Path) -> None:
    reader = tmp_path / "judge.safetensors"
    weights.save(reader, judge(), training_data="none", licence="MIT")
    out = tmp_path / "results"
    options = ("--cache", photographed, "--out", out, "--clips", 1, "--judge", reader, "--jobs", 1)
    more = ("--reference", "still", "--author-compat")
    ran = cli("evaluate", "--models", "mine=cran-tiny,still", *options, *more)
    assert ran.code == 0 and ran.err == "", ran.err
    results = evaluation.read_results(out / "results.jsonl")
    assert [r.model for r in results[:4]] == ["real", "still", "mine", "real"]
    assert [*dict.fromkeys((r.split, r.identity) for r in results)] == [
        ("test", "first frame"),
        ("test", "another recording"),
        (UNSEEN, "first frame"),  # s26 has one recording only
    ]
    for name in ("tables.md", "speed.md"):
        assert (out / name).read_text().rstrip() in ran.out
    tables = (out / "tables.md").read_text()
    assert "differs from still" in tables and "As ATVGnet's released script" in tables
    assert "differs from still" in (out / "tables.tex").read_text()
    again = cli("evaluate", "--models", "still", *options)
    assert again.code == 2 and "exists already" in again.err
    unasked = cli("evaluate", "--models", "still", *options, "--experts", "judge", "--overwrite")
    assert unasked.code == 2 and "judge is a lipreader-published, which measures" in unasked.err


@pytest.fixture(scope="module")
def evaluated(photographed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation in this process."""
    out = tmp_path_factory.mktemp("evaluated")
    evaluation.evaluate(["still"], photographed, out, splits=["test"], clips=2)
    return out


def assert_same_files(one: Path, two: Path) -> None:
    for name in ("results.jsonl", "tables.md", "tables.tex"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.slow
def test_two_processes_give_the_same_files(
    photographed: Path, evaluated: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"splits": ["test"], "clips": 2, "workers": Workers(2)}
    evaluation.evaluate(["still"], photographed, tmp_path, **options)
    assert_same_files(evaluated, tmp_path)


def test_a_cluster_gives_the_same_files(
    cli: Cli,
    photographed: Path,
    evaluated: Path,
    scheduler: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photographed.parent)
    options = ("--models", "still", "--splits", "test", "--clips", 2, "--experts", "")
    cluster = ("--engine", "dask", "--scheduler", scheduler)
    ran = cli("evaluate", *options, "--cache", photographed.name, "--out", tmp_path, *cluster)
    assert ran.code == 0, ran.err
    assert_same_files(evaluated, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ["lip"]}, "no model is called 'lip'"),
        ({"models": ["lips"]}, "lips is a lips, which makes no video: give a generator"),
        ({"splits": ["tset"]}, "no clip of split 'tset'; it has test, train, unseen, val"),
        ({"clips": 0}, "at least 1"),
        ({"judge": "still"}, "the judge must be a lip reader"),
        (
            {"models": ["cran-tiny@landmarks"]},
            "tiny@landmarks: a cran-published draws no landmarks",
        ),
        ({"models": ["still@lips"]}, "still@lips: a still of this kind predicts no landmarks"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    cache: Cache, photographed: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {"models": ["still"], **options}
    with pytest.raises(talkingface.errors.TalkingFaceError, match=said):
        evaluation.evaluate(given.pop("models"), photographed, tmp_path / "out", **given)


def test_a_lip_reader_is_no_generator(photographed: Path, tmp_path: Path) -> None:
    reader = tmp_path / "judge.safetensors"
    weights.save(reader, judge(), training_data="none", licence="MIT")
    with pytest.raises(BadRequest, match="makes no video"):
        evaluation.evaluate([reader], photographed, tmp_path / "out")
