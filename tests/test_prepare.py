"""Preparation of a corpus: names, splits, reasons, resuming, shards and the cache."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
import wave
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import Cli
from helpers import matroska
from talkingface import audio, faces, picture, video, video_writing
from talkingface.data import extraction, shards, sources
from talkingface.data import prepare as preparation
from talkingface.data.clip import UNSEEN, Clip, fit_sound
from talkingface.data.filters import snr
from talkingface.data.prepare import prepare
from talkingface.errors import (
    BadRequest,
    BadShard,
    BadWeights,
    OutputError,
    UnreadableMedia,
)
from talkingface.geometry import CropSpec
from talkingface.landmarks import IBUG
from talkingface.models.lipreader import GRID_WORDS
from talkingface.workers import THIS_PROCESS

SPEC = CropSpec()
FRAMES = 26


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small shards, so that fourteen recordings are several."""
    monkeypatch.setattr(preparation, "CLIPS_PER_SHARD", 4)


def speaking(face: np.ndarray, frames: int) -> list[np.ndarray]:
    """A portrait (H, W, 3) that nods and whose lower third is stretched, as if it spoke."""
    grid: NDArray[np.float32] = np.indices(face.shape[:2]).astype(np.float32)
    rows, columns = grid[0], grid[1]
    made = []
    for k in range(frames):
        down = np.clip(rows / face.shape[0] - 0.6, 0, 1) * 30 * np.sin(k / 2) ** 2
        places = (rows - down + 2 * np.sin(k / 5)).astype(np.float32)
        moved = cv2.remap(face, columns, places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        made.append(np.asarray(moved, dtype=np.uint8))
    return made


@pytest.fixture(scope="session")
def face(portrait: Path) -> np.ndarray:
    """The example portrait at 240x240."""
    return cv2.resize(picture.read(portrait), (240, 240), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, face: np.ndarray, speech: Path) -> Path:
    """A folder in GRID's layout: three good clips of two speakers, and one of each bad kind."""
    folder = tmp_path_factory.mktemp("grid")
    for speaker in ("s4", "s7", "s9", "alignments/s7"):
        (folder / speaker).mkdir(parents=True)
    sound = audio.load(speech)[9000:]
    clip = speaking(face, FRAMES)
    for number, name in enumerate(("s4/pwij3p", "s7/bbaf2n", "s7/lwwzzs")):
        video_writing.write(folder / f"{name}.mp4", clip, sound[1000 * number :])
    (folder / "alignments/s7/bbaf2n.align").write_text(
        "0 2500 sil\n2500 10000 bin\n10000 10500 sp\n10500 20000 blue\n"
    )
    bad = folder / "s9"
    rng = np.random.default_rng(0)
    hum = (0.1 * rng.standard_normal(FRAMES * 640)).astype(np.float32)
    video_writing.write(bad / "blank.mp4", [np.full_like(face, 120)] * FRAMES, sound)
    (bad / "damaged.mpg").write_bytes(rng.bytes(5000))
    video_writing.write(bad / "noisy.mp4", clip, hum)
    video_writing.write(bad / "seldom.mp4", [*clip[:8], *[np.full_like(face, 120)] * 18], sound)
    video_writing.write(bad / "short.mp4", clip[:12], sound)
    video_writing.write(bad / "silent.mp4", clip, None)
    turn = cv2.getRotationMatrix2D((120, 120), 50, 0.8)
    tilted = [
        np.asarray(cv2.warpAffine(f, turn, (240, 240), borderMode=cv2.BORDER_REPLICATE), np.uint8)
        for f in clip
    ]
    video_writing.write(bad / "tilted.mp4", tilted, sound)
    video_writing.write(bad / "zeros.mp4", clip, np.zeros(FRAMES * 640, np.float32))
    return folder


@pytest.fixture(scope="session")
def stills(tmp_path_factory: pytest.TempPathFactory, face: np.ndarray) -> Path:
    """Two portraits and a picture without a face."""
    folder = tmp_path_factory.mktemp("stills")
    picture.write_png(folder / "0.png", face)
    picture.write_png(folder / "1.png", np.ascontiguousarray(face[:, ::-1]))
    picture.write_png(folder / "2.png", np.full_like(face, 90))
    return folder


@pytest.fixture(scope="session")
def prepared(corpus: Path, stills: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, prepared in one run by this process."""
    out = tmp_path_factory.mktemp("prepared") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "CLIPS_PER_SHARD", 4)
        prepare(corpus, out, workers=THIS_PROCESS, portraits=stills)
    return out


MEMBERS = ("jpg", "landmarks.npy", "mesh.npy", "wav", "json")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def all_clips(folder: Path) -> dict[str, Clip]:
    return {clip.key: clip for path in shards.find(folder) for clip in shards.read(path)}


def random_clip(key: str = "s1_a", frames: int = 30, seed: int = 0) -> Clip:
    """Smooth coloured pictures, random landmarks and sound."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, 9, 9, 3), dtype=np.uint8)
    crops = np.stack([cv2.resize(c, (64, 64), interpolation=cv2.INTER_CUBIC) for c in coarse])
    return Clip(
        key=key,
        speaker="s1",
        crops=crops,
        landmarks=rng.random((frames, 68, 2), dtype=np.float32),
        mesh=rng.random((frames, 478, 2), dtype=np.float32),
        sound=rng.integers(-32768, 32768, frames * 640, dtype=np.int16),
        words=(("bin", 0.1, 0.30001), ("blue", 0.31, 0.5)),
        sentence="bin blue",
        split="val",
        info={"yaw": -3.5, "source": "a.mpg"},
    )


# names


def test_every_word_of_grid_can_be_spelled() -> None:
    letters = ("blps", "bgrw", "abiw", "abcdefghijklmnopqrstuvxyz", "z123456789", "anps")
    spelled: set[str] = set()
    for place, options in enumerate(letters):
        for letter in options:
            name = "bbaa1a"[:place] + letter + "bbaa1a"[place + 1 :]
            words = (sources.sentence_of(name) or "").split()
            assert len(words) == 6
            spelled.add(words[place])
    assert spelled == set(GRID_WORDS) and len(spelled) == 51


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bbaf2n", "bin blue at f two now"),
        ("lgwzzp", "lay green with z zero please"),
        ("prii9a", "place red in i nine again"),
        ("swbx1s", "set white by x one soon"),
        ("unknown", None),
        ("bbaf2", None),
        ("bbaw2n", None),  # w is no letter of GRID
        ("bbaf0n", None),
        ("BBAF2N", None),
    ],
)
def test_sentences_from_names(name: str, sentence: str | None) -> None:
    assert sources.sentence_of(name) == sentence


def test_an_alignment_is_read_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.align"
    path.write_text("0 23750 sil\n23750 29500 bin\n29500 29600 sp\n29600 34000 BLUE\n\n")
    assert sources.read_alignment(path) == (("bin", 0.95, 1.18), ("blue", 1.184, 1.36))


@pytest.mark.parametrize("line", ["1 2", "x 2 bin", "5 2 bin", "1 2 bin blue", "-1 2 bin"])
def test_a_damaged_alignment_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.align"
    path.write_text(f"0 5 sil\n{line}\n")
    with pytest.raises(UnreadableMedia, match=r"a\.align: line 2 is"):
        sources.read_alignment(path)


# splits


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """Empty files named as GRID: 400 of s1, a few of others."""
    every = ("blps", "bgrw", "abiw", "abcdefghijklmnopqrstuvxyz", "z123456789", "anps")
    some = ["".join(name) for name in itertools.islice(itertools.product(*every), 0, 64_000, 160)]
    pinned = ["bbas2p", "bbif1a", "bbil3s", "bbir6n", "bbaf2n", "unknown"]
    for speaker in ("s1", "s4", "s26", "s7"):
        (tmp_path / speaker).mkdir()
        for name in [*some, *pinned] if speaker == "s1" else some[:30]:
            (tmp_path / speaker / f"{name}.mpg").touch()
    return tmp_path


def test_the_splits_are_by_rule(names: Path) -> None:
    recordings = sources.grid(names)
    of = {r.key: r.split for r in recordings}
    assert {r.split for r in recordings if r.speaker in ("s4", "s26")} == {UNSEEN}
    assert {r.split for r in recordings if r.speaker == "s7"} == {"train"}  # under 100 clips
    assert of["s1_bbas2p"] == of["s1_bbif1a"] == "test"
    assert of["s1_bbil3s"] == of["s1_bbir6n"] == "val"
    assert of["s1_bbaf2n"] == of["s1_unknown"] == "train"
    main = [r.split for r in recordings if r.speaker == "s1"]
    assert 0.02 < main.count("test") / len(main) < 0.09
    assert 0.02 < main.count("val") / len(main) < 0.09


def test_a_sentence_is_in_the_same_split_whoever_speaks_it(names: Path) -> None:
    for path in list((names / "s1").iterdir()):
        (names / "s7" / path.name).touch()
    of = {(r.speaker, r.path.stem): r.split for r in sources.grid(names, held_out=["s26"])}
    for name in {stem for speaker, stem in of if speaker == "s1"}:
        assert of["s1", name] == of["s7", name]
    assert {split for (speaker, _), split in of.items() if speaker == "s4"} == {"train"}


def test_a_clip_that_is_there_twice_is_read_once(names: Path) -> None:
    before = sources.grid(names)
    (names / "s1" / "bbaf2n.mkv").touch()
    assert sources.grid(names) == before  # the corpus's own .mpg


def test_sentence_and_words_come_with_the_recording(names: Path) -> None:
    for folder, name in (("alignments/s1", "bbaf2n"), ("s1/align", "bbas2p")):
        (names / folder).mkdir(parents=True)
        (names / folder / f"{name}.align").write_text("0 2500 sil\n2500 5000 bin\n")
    of = {r.key: r for r in sources.grid(names)}
    assert of["s1_bbaf2n"].words == of["s1_bbas2p"].words == (("bin", 0.1, 0.2),)
    assert of["s1_bbil3s"].sentence == "bin blue in l three soon"
    assert of["s1_bbil3s"].words == () and of["s1_unknown"].sentence == ""


def test_every_third_portrait_is_held_out(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.jpg").touch()
    (tmp_path / "notes.txt").touch()
    splits = [r.split for r in sources.portraits(tmp_path)]
    assert splits == ["portrait-heldout", "train", "train"] * 2 + ["portrait-heldout"]


def test_a_folder_without_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no clips of GRID"):
        sources.grid(tmp_path)
    with pytest.raises(BadRequest, match="no pictures"):
        sources.portraits(tmp_path)


# what is kept and what is dropped


def test_every_clip_is_kept_or_dropped_by_its_reason(
    prepared: Path, corpus: Path, stills: Path
) -> None:
    # done already: only summed again
    summary = prepare(corpus, prepared, workers=THIS_PROCESS, portraits=stills)
    assert {outcome.key: outcome.result for outcome in summary.outcomes} == {
        "s4_pwij3p": "kept",
        "s7_bbaf2n": "kept",
        "s7_lwwzzs": "kept",
        "s9_blank": "no face",
        "s9_damaged": "unreadable",
        "s9_noisy": "noise",
        "s9_seldom": "no face",
        "s9_short": "too short",
        "s9_silent": "no sound",
        "s9_tilted": "turned away",
        "s9_zeros": "no sound",
        "portrait_0": "kept",
        "portrait_1": "kept",
        "portrait_2": "no face",
    }
    assert summary.splits() == {UNSEEN: 1, "train": 3, "portrait-heldout": 1}
    assert summary.frames == 3 * FRAMES + 2
    head, *rows = summary.table()
    assert head == [
        *("speaker", "kept", "unreadable", "no sound", "no face", "turned away", "noise"),
        "too short",
    ]
    assert rows[2] == ["s9", "0", "1", "2", "2", "1", "1", "1"]
    assert rows[-1] == ["all", "5", "1", "2", "3", "1", "1", "1"]


def odd_files(folder: Path) -> dict[str, bytes]:
    """Videos, by name, that once stopped a whole run."""
    jpeg, tracks = matroska.jpeg(), [matroska.video_track(1), matroska.sound_track(2)]
    shown = [matroska.cluster(40 * k, [(1, jpeg)]) for k in range(30)]
    unknown = [tracks[0], matroska.sound_track(2, codec=b"A_NOBODYS")]
    sound = [*shown, *matroska.second(2, 2)]
    return {
        "codec": matroska.file(unknown, sound),
        "jump": matroska.file(tracks, [*sound, *matroska.second(2, 10**7)]),
        "frame": matroska.file(tracks, [*sound, matroska.cluster(10**12, [(1, jpeg)])]),
        "late": matroska.file(tracks, [*shown, *matroska.second(2, 10**5)]),
        "rate": matroska.file([tracks[0], matroska.sound_track(2, rate=1)], sound),
    }


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_no_odd_file_stops_a_corpus(corpus: Path, tmp_path: Path, cli: Cli, jobs: int) -> None:
    for name, data in odd_files(tmp_path).items():
        path = tmp_path / "videos" / f"{name}.mkv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    shutil.copy(corpus / "s7" / "bbaf2n.mp4", tmp_path / "videos" / "zebra.mp4")
    out = tmp_path / "out"
    ran = cli("prepare", "videos", tmp_path / "videos", "-o", out, "--jobs", jobs)
    assert ran.code == 0, ran.err
    rows = [
        row for path in sorted(out.glob("shard-*.json")) for row in json.loads(path.read_text())
    ]
    assert {row["key"].split("_")[-1]: row["result"] for row in rows} == {
        **dict.fromkeys(odd_files(tmp_path), "unreadable"),
        "zebra": "kept",
    }


@pytest.mark.parametrize("kind", [MemoryError, cv2.error])
def test_an_error_that_nobody_foresaw_is_an_outcome(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    load = audio.load

    def broken(path: Path) -> torch.Tensor:
        if path.stem == "bbaf2n":
            raise kind("no room\nat all")
        return load(path)

    monkeypatch.setattr(audio, "load", broken)
    shutil.copytree(corpus / "s7", tmp_path / "grid" / "s7")
    summary = prepare(tmp_path / "grid", tmp_path / "out", workers=THIS_PROCESS)
    found = {outcome.key: outcome for outcome in summary.outcomes}
    assert found["s7_bbaf2n"].result == "crashed"
    assert found["s7_bbaf2n"].detail == f"{kind.__name__}: no room"
    assert found["s7_lwwzzs"].result == "kept"
    row = next(r for r in summary.table() if r[0] == "speaker")
    assert "crashed" in row
    assert "no room" in (tmp_path / "out" / "dropped.jsonl").read_text()


def test_what_is_wrong_with_the_whole_run_stops_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> torch.Tensor:
        raise BadWeights("the face finder's weights are damaged")

    monkeypatch.setattr(audio, "load", broken)
    with pytest.raises(BadWeights):
        prepare(corpus, tmp_path, workers=THIS_PROCESS)


def test_a_prepared_clip_is_the_face_and_the_sound(prepared: Path, corpus: Path) -> None:
    clip = all_clips(prepared)["s7_bbaf2n"]
    source = corpus / "s7" / "bbaf2n.mp4"
    track = faces.track(video.read_frames(source), SPEC)
    assert clip.crops.shape == (FRAMES, 128, 128, 3)
    assert np.abs(clip.landmarks - track.landmarks).max() < 1e-4
    assert np.abs(clip.crops.astype(int) - track.crops).mean() < 2  # the JPEG's
    sound = audio.load(source).numpy()[: FRAMES * 640]
    assert np.abs(clip.sound[: len(sound)] / 32768 - sound).max() <= 1 / 32768
    assert clip.words == (("bin", 0.1, 0.4), ("blue", 0.42, 0.8))
    assert clip.sentence == "bin blue" and clip.split == "train" and not clip.silent
    assert clip.info["found"] == 1 and clip.info["snr"] > 10 and not clip.info["natural_pose"]
    assert abs(clip.info["yaw"]) < 10 and clip.info["source"] == "bbaf2n.mp4"


def test_a_portrait_is_a_silent_clip_of_one_frame(prepared: Path) -> None:
    clips = all_clips(prepared)
    first, second = clips["portrait_0"], clips["portrait_1"]
    assert first.silent and len(first.crops) == 1 and not first.sound.any()
    assert (first.split, second.split) == ("portrait-heldout", "train")
    aligned = first.landmarks[0] * 128
    template = SPEC.template()
    assert np.abs(aligned[36:48].mean(0) - template[36:48].mean(0)).max() < 4


def test_with_natural_pose_the_head_moves_in_its_crop(
    corpus: Path, tmp_path: Path, prepared: Path
) -> None:
    only = tmp_path / "grid"
    only.mkdir()
    (only / "s7").symlink_to(corpus / "s7")
    prepare(only, tmp_path / "shards", workers=THIS_PROCESS, natural_pose=True)
    free, still = all_clips(tmp_path / "shards")["s7_bbaf2n"], all_clips(prepared)["s7_bbaf2n"]
    assert free.info["natural_pose"]
    nose = [clip.landmarks[:, 27:31, 1].mean(1).std() for clip in (free, still)]
    assert nose[0] > 2 * nose[1]


def test_a_long_recording_is_cut_into_segments(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "SEGMENT", 10)
    monkeypatch.setattr(extraction, "FEWEST_FRAMES", 7)
    path = corpus / "s7" / "bbaf2n.mp4"
    words = (("bin", 0.1, 0.3), ("blue", 0.35, 0.45), ("at", 0.5, 0.72))
    recording = sources.Recording("k", "s7", path, "train", "bin blue at", words)
    monkeypatch.setattr(extraction, "segment_length", lambda sound, first: 10)
    made = extraction.clips_of(recording, extraction.ClipExtraction())
    one, two = (part.clip for part in made[:2])
    assert isinstance(one, Clip) and isinstance(two, Clip)
    assert [(clip.key, len(clip.crops)) for clip in (one, two)] == [("k", 10), ("k_1", 10)]
    last = made[2].outcome
    assert (last.key, last.result, last.value, last.limit) == ("k_2", "too short", 6, 7)
    assert (last.first, last.source) == (20, str(path)) and made[2].clip is None
    assert one.words == (("bin", 0.1, 0.3),)  # "blue" is cut in two: in neither
    (word,) = two.words
    assert word[0] == "at" and word[1:] == pytest.approx((0.1, 0.32))
    whole = fit_sound(audio.load(path).numpy(), 20)
    assert np.array_equal(np.concatenate([one.sound, two.sound]), whole)


def test_a_long_recording_is_cut_where_it_is_quietest() -> None:
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(700 * 640).astype(np.float32)
    for frame in (40, 180, 390, 500):  # the first is too early, the last one is not needed
        sound[(frame - 3) * 640 : (frame + 3) * 640] *= 0.01
    first = extraction.segment_length(sound, 0)
    assert abs(first - 180) <= 1
    second = extraction.segment_length(sound, first)
    assert abs(first + second - 390) <= 1
    third = extraction.segment_length(sound, first + second)
    assert 125 <= third <= 250
    rest = extraction.segment_length(sound, first + second + third)
    assert first + second + third + rest >= 700
    assert extraction.segment_length(sound[: 260 * 640], 0) <= 260 - extraction.FEWEST_FRAMES
    assert extraction.segment_length(sound[: 250 * 640], 0) == extraction.SEGMENT


def test_sound_is_padded_and_cut_to_its_frames() -> None:
    sound = fit_sound(np.array([0.5, -1.0, 1.0, 2.0], np.float32), 1)
    assert sound.shape == (640,) and sound[:5].tolist() == [16384, -32768, 32767, 32767, 0]
    assert fit_sound(np.ones(1000, np.float32), 1).shape == (640,)


def test_snr_tells_a_tone_in_pauses_from_noise() -> None:
    rng = np.random.default_rng(1)
    time = np.arange(48_000) / 16_000
    tone = np.sin(2 * np.pi * 200 * time) * (time % 1 < 0.5)
    noise = rng.standard_normal(48_000)
    for wanted in (10.0, 20.0, 40.0):
        level = np.sqrt(0.5 / 10 ** (wanted / 10))
        sound = (tone + level * noise).astype(np.float32)
        exact = 10 * np.log10((0.5 + level**2) / level**2)
        assert snr(sound) == pytest.approx(exact, abs=1.5)
    assert snr(noise.astype(np.float32)) < 3 and snr(np.zeros(100, np.float32)) == 0


# resuming


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    corpus: Path, stills: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"

    def kill_at(place: int) -> preparation.Progress:
        def progress(done: int, total: int) -> None:
            assert total == 14
            if done == place:
                raise Killed

        return progress

    for place, finished in ((2, 0), (6, 1)):
        with pytest.raises(Killed):
            prepare(corpus, out, workers=THIS_PROCESS, portraits=stills, progress=kill_at(place))
        assert len(list(out.glob("shard-*.json"))) == len(list(out.glob("*.tar"))) == finished
    (out / ".shard-00001.tar.0a1b2c3d.part").write_bytes(b"what a hard kill leaves")
    first = (out / "shard-00000.tar").stat().st_mtime_ns
    prepare(corpus, out, workers=THIS_PROCESS, portraits=stills)
    assert (out / "shard-00000.tar").stat().st_mtime_ns == first
    assert contents(out) == contents(prepared)

    def fail(*_: object) -> None:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(preparation, "clips_of", fail)
    reported = []
    prepare(
        corpus,
        out,
        workers=THIS_PROCESS,
        portraits=stills,
        progress=lambda done, total: reported.append(done),
    )
    assert reported == [14]


def test_a_folder_of_other_shards_is_refused(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    before = contents(prepared)
    for options in ({}, {"natural_pose": True}, {"held_out": ("s7",)}):
        with pytest.raises(BadRequest, match="other recordings, splits or options"):
            prepare(corpus, prepared, workers=THIS_PROCESS, **options)
    assert contents(prepared) == before
    shards.write(tmp_path / "shard-00000.tar", [random_clip()])
    with pytest.raises(BadRequest, match="no plan"):
        prepare(corpus, tmp_path, workers=THIS_PROCESS)
    with pytest.raises(OutputError, match="is a file"):
        prepare(corpus, tmp_path / "shard-00000.tar", workers=THIS_PROCESS)
    with pytest.raises(BadRequest, match="expected one of: grid"):
        prepare(corpus, tmp_path / "new", corpus="lrs9")


@pytest.mark.slow
def test_the_command_line_in_two_processes_gives_the_same_clips(
    corpus: Path, stills: Path, prepared: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "shards"
    ran = cli("prepare", "grid", corpus, "-o", out, "--portraits", stills, "--jobs", 2)
    assert ran.code == 0 and ran.err == ""
    assert "3 s of faces" in ran.out and "1 unseen, 3 train, 1 portrait-heldout" in ran.out
    ours, theirs = all_clips(prepared), all_clips(out)
    assert list(ours) == list(theirs)
    for key, clip in ours.items():
        assert np.array_equal(clip.crops, theirs[key].crops)
        assert np.array_equal(clip.landmarks, theirs[key].landmarks)


def test_json_is_for_programs(corpus: Path, stills: Path, prepared: Path, cli: Cli) -> None:
    ran = cli("prepare", "grid", corpus, "-o", prepared, "--portraits", stills, "--json")
    assert ran.code == 0 and ran.err == ""
    facts = json.loads(ran.out)
    assert facts["splits"] == {"unseen": 1, "train": 3, "portrait-heldout": 1}
    assert facts["output"] == str(prepared) and facts["missing_shards"] == 0
    assert facts["seconds"] > 3 and sum(facts["dropped"].values()) > 0


# shards


def content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def test_a_shard_gives_back_what_it_was_given(tmp_path: Path) -> None:
    given = [random_clip("s1_a"), random_clip("s1_b", 1, 1), random_clip("s1_c", 500, 2)]
    path = tmp_path / "shard-00000.tar"
    assert shards.write(path, given) == 3
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    for clip, back in zip(given, shards.read(path), strict=True):
        assert np.array_equal(back.landmarks, clip.landmarks)
        assert np.array_equal(back.mesh, clip.mesh)
        assert np.array_equal(back.sound, clip.sound)
        error = np.square(back.crops.astype(float) - clip.crops).mean()
        assert 10 * np.log10(255**2 / error) > 36
        for name in ("key", "speaker", "words", "sentence", "split", "silent", "info"):
            assert getattr(back, name) == getattr(clip, name), name


def test_a_shard_is_plain_webdataset(tmp_path: Path) -> None:
    """Shards are readable with tarfile, wave, json and OpenCV alone."""
    clip = random_clip()
    path = tmp_path / "shard-00000.tar"
    shards.write(path, [clip])
    with tarfile.open(path) as archive:
        members = {m.name: content(archive, m) for m in archive}
        assert {m.mtime for m in archive.getmembers()} == {0}
    assert list(members) == [f"s1_a.{kind}" for kind in MEMBERS]
    strip = cv2.imdecode(np.frombuffer(members["s1_a.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert strip is not None and strip.shape == (30 * 64, 64, 3)
    with wave.open(io.BytesIO(members["s1_a.wav"])) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, 19200)
    assert json.loads(members["s1_a.json"])["sentence"] == "bin blue"
    again = tmp_path / "again.tar"
    shards.write(again, [clip])
    assert again.read_bytes() == path.read_bytes()


def test_nothing_is_left_of_a_shard_that_fails(tmp_path: Path) -> None:
    def clips() -> Iterator[Clip]:
        yield random_clip()
        raise Killed

    with pytest.raises(Killed):
        shards.write(tmp_path / "shard-00000.tar", clips())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="does not exist; create it first"):
        shards.write(tmp_path / "missing" / "shard-00000.tar", [random_clip()])


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_flipped_bit_is_found_and_its_member_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "shard-00000.tar"
    shards.write(path, [random_clip("s1_a"), random_clip("s1_b", seed=3)])
    with tarfile.open(path) as archive:
        member = archive.getmember(f"s1_b.{kind}")
    data = bytearray(path.read_bytes())
    data[member.offset_data + (0 if kind == "json" else member.size // 2)] ^= 0x10
    path.write_bytes(data)
    found = shards.read(path)
    assert next(found).key == "s1_a"
    with pytest.raises(BadShard, match=rf"shard-00000\.tar: s1_b\.{kind} is damaged"):
        next(found)


def test_a_shard_that_is_cut_short_is_found(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.tar"
    shards.write(path, [random_clip("s1_a"), random_clip("s1_b", seed=3)])
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        ends = [member.offset for member in archive]
    for size in (0, 100, *ends[1:], *(end + 700 for end in ends), len(data) - 10_000):
        path.write_bytes(data[:size])
        with pytest.raises(BadShard, match=r"shard-00000\.tar"):
            list(shards.read(path))
    path.write_bytes(b"no archive at all " * 1000)
    with pytest.raises(BadShard, match=r"shard-00000\.tar"):
        list(shards.read(path))


def test_a_shard_that_lacks_a_member_or_is_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.tar"
    shards.write(path, [random_clip("s1_a"), random_clip("s1_b")])

    def rewrite(change: Callable[[str, bytes], bytes | None]) -> Path:
        changed = tmp_path / "changed.tar"
        with tarfile.open(path) as source, tarfile.open(changed, "w") as target:
            for member in source:
                data = change(member.name, content(source, member))
                if data is not None:
                    member.size = len(data)
                    target.addfile(member, io.BytesIO(data))
        return changed

    def without(lost: str, name: str, data: bytes) -> bytes | None:
        return None if name == lost else data

    for lost in ("s1_a.wav", "s1_b.json"):
        changed = rewrite(partial(without, lost))
        with pytest.raises(BadShard, match=f"clip {lost[:4]} lacks {lost[5:]}"):
            list(shards.read(changed))
    changed = rewrite(lambda name, data: data.replace(b'"version": 2', b'"version": 9'))
    with pytest.raises(BadShard, match="version 9, this release reads 2"):
        list(shards.read(changed))


def test_shards_without_meshes_are_of_another_version(tmp_path: Path) -> None:
    """Shards of version 1 give an error that says to prepare the corpus again."""
    whole, path = tmp_path / "whole.tar", tmp_path / "shard-00000.tar"
    shards.write(whole, [random_clip("s1_a"), random_clip("s1_b")])
    with tarfile.open(whole) as source, tarfile.open(path, "w") as target:
        for member in source:
            data = content(source, member).replace(b'"version": 2', b'"version": 1')
            if "mesh" not in member.name:
                target.addfile(member, io.BytesIO(data))
    for refused in (lambda: list(shards.read(path)), lambda: shards.open_cache(tmp_path)):
        with pytest.raises(BadShard, match="version 1, this release reads 2; prepare the corpus"):
            refused()


# the cache


def test_a_cache_is_what_the_shards_hold(prepared: Path, tmp_path: Path) -> None:
    cache = shards.open_cache(prepared, tmp_path / "cache")
    clips = all_clips(prepared)
    assert [row.key for row in cache.clips] == list(clips)
    for row in cache.clips:
        clip = clips[row.key]
        span = slice(row.start, row.start + row.frames)
        assert np.array_equal(cache.frames[span], clip.crops)
        assert np.array_equal(cache.landmarks[span], clip.landmarks)
        assert np.array_equal(cache.mesh[span], clip.mesh)
        assert np.array_equal(clip.mesh[:, IBUG], clip.landmarks)
        sound = cache.samples(row, 0, row.frames * 640)
        assert torch.equal(sound, torch.from_numpy(clip.sound / np.float32(32768)))
        assert (row.speaker, row.split, row.words) == (clip.speaker, clip.split, clip.words)
        assert row.silent == clip.silent and row.info["sentence"] == clip.sentence
    assert len(cache.frames) == sum(row.frames for row in cache.clips)


def test_a_cache_is_built_once_and_again_when_the_shards_change(tmp_path: Path) -> None:
    shards.write(tmp_path / "shard-00000.tar", [random_clip("s1_a")])
    (tmp_path / ".cache.part").mkdir()  # what a hard kill leaves
    (tmp_path / ".cache.part" / "frames.npy").touch()
    assert len(shards.open_cache(tmp_path).clips) == 1
    made = (tmp_path / "cache" / "frames.npy").stat().st_mtime_ns
    assert len(shards.open_cache(tmp_path).clips) == 1
    assert (tmp_path / "cache" / "frames.npy").stat().st_mtime_ns == made
    assert len(shards.open_cache(tmp_path / "cache").clips) == 1  # a cache opens as it is
    shards.write(tmp_path / "shard-00001.tar", [random_clip("s1_b")])
    assert len(shards.open_cache(tmp_path).clips) == 2
    assert not (tmp_path / ".cache.part").exists()


def test_a_bad_shard_leaves_the_old_cache_as_it_was(tmp_path: Path) -> None:
    shards.write(tmp_path / "shard-00000.tar", [random_clip("s1_a")])
    shards.open_cache(tmp_path)
    before = contents(tmp_path / "cache")
    shards.write(tmp_path / "shard-00001.tar", [random_clip("s1_a")])
    with pytest.raises(BadShard, match=r"s1_a is in shard-00000\.tar too"):
        shards.open_cache(tmp_path)
    assert contents(tmp_path / "cache") == before
    with pytest.raises(BadShard, match="run `talkingface prepare`"):
        shards.open_cache(tmp_path / "cache" / "nothing")
    (tmp_path / "cache" / "mesh.npy").unlink()
    with pytest.raises(BadShard, match=r"older version, without mesh\.npy; run `talkingface prep"):
        shards.open_cache(tmp_path / "cache")


def test_training_reads_shards_without_pyav(tmp_path: Path) -> None:
    shards.write(tmp_path / "shard-00000.tar", [random_clip("s1_a")])
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from pathlib import Path\n"
        "from talkingface.data import dataset, shards\n"
        "assert len(shards.open_cache(Path(sys.argv[1])).clips) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


@pytest.mark.parametrize(
    "change",
    [
        {"crops": np.zeros((30, 64, 32, 3), np.uint8)},
        {"landmarks": np.zeros((30, 68, 2))},
        {"sound": np.zeros(30 * 640 - 1, np.int16)},
        {"key": "a.b"},
    ],
)
def test_a_clip_whose_parts_do_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|a key is"):
        Clip(**{**vars(random_clip()), **change})
