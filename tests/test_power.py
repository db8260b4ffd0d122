"""After a power cut, what was said to be saved is there; the rest is old, new, or done again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.power import ForgetfulDisk
from talkingface import models, video_writing, weights
from talkingface.data import report, shards
from talkingface.data.extraction import ExtractedClip
from talkingface.data.filters import KEPT
from talkingface.data.prepare import write_shard
from talkingface.data.report import Outcome
from talkingface.dubbing import passes
from talkingface.evaluation.files import ResultCache
from talkingface.evaluation.results import Result
from talkingface.training import loop
from test_dubbing_files import dubbed, make_video, set_stubs
from test_prepare import random_clip

Say = Callable[[], None]


@dataclass(frozen=True)
class Writer:
    """prepare: what is there before. write: saves things, and calls `say` after each.

    check: gets a folder that a cut left, and how many were said to be saved.
    """

    write: Callable[[Path, Say], None]
    check: Callable[[Path, int], None]
    prepare: Callable[[Path], None] = lambda folder: None


def cuts_of(writer: Writer, folder: Path) -> Iterator[tuple[Path, int]]:
    """Run a writer; yield what the cuts left, each where the writer wrote."""
    place = folder / "disk"
    place.mkdir()
    writer.prepare(place)
    disk = ForgetfulDisk(place)
    with disk.watched():
        writer.write(place, disk.say)
    for number, cut in enumerate(disk.cuts):
        if cut not in disk.cuts[:number]:
            cut.write(place)
            yield place, cut.said


# ---- the disk


def test_the_disk_forgets_what_was_not_synced(tmp_path: Path) -> None:
    def write(folder: Path, say: Say) -> None:
        part = folder / "part"
        part.write_text("new content")
        os.replace(part, folder / "a.txt")
        say()

    found = set()

    def prepare(folder: Path) -> None:
        (folder / "a.txt").write_text("old")

    writer = Writer(write, lambda *_: None, prepare)
    for place, said in cuts_of(writer, tmp_path):
        found.add((said, (place / "a.txt").read_text()))
    assert (1, "old") in found and (1, "new c") in found and (1, "new content") not in found


# ---- weights


def network(number: int) -> torch.nn.Module:
    """A tiny model whose parameters tell its number."""
    model = models.build(models.PRESETS["cran-tiny"])
    torch.nn.init.constant_(next(model.parameters()), float(number))
    return model


def save_weights(folder: Path, number: int) -> None:
    path = folder / "weights.safetensors"
    weights.save(path, network(number), training_data="none", licence="MIT")


def write_weights(folder: Path, say: Say) -> None:
    for number in (1, 2):
        save_weights(folder, number)
        say()


def check_weights(folder: Path, said: int) -> None:
    model = weights.load(folder / "weights.safetensors")
    assert next(model.parameters()).flatten()[0].item() in (said, said + 1)


# ---- checkpoints and their log


def recipe_of(number: int) -> Any:
    layer = torch.nn.Linear(3, 3)
    torch.nn.init.constant_(layer.weight, float(number))
    return SimpleNamespace(modules={"a": layer}, optimizers={"a": torch.optim.Adam([layer.weight])})


def write_checkpoints(folder: Path, say: Say) -> None:
    log = loop._Log(folder / "log.jsonl", 0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.5})
        log.sync()
        loop.save_checkpoint(recipe_of(step), folder / loop.CHECKPOINT, step)
        say()


def check_checkpoints(folder: Path, said: int) -> None:
    recipe, notes = recipe_of(-1), list[str]()
    step = loop.load_checkpoint(recipe, folder / loop.CHECKPOINT, notes.append)
    assert step in (said, said + 1) and not notes
    assert recipe.modules["a"].weight[0, 0].item() == (step or -1)
    path = folder / "log.jsonl"
    loop._Log(path, step)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == list(range(1, step + 1))


# ---- shards, their reports, the cache

NUMBERS = (0, 1)


def extracted(number: int) -> ExtractedClip:
    clip = random_clip(f"s{number}_a")
    return ExtractedClip(Outcome(clip.key, clip.speaker, clip.split, KEPT), shards.pack(clip))


def write_shards(folder: Path, say: Say = lambda: None) -> None:
    for number in NUMBERS:
        write_shard(folder, number, [[extracted(number)]])
        say()


def check_shards(folder: Path, said: int) -> None:
    for number in NUMBERS:
        path = folder / f"shard-{number:05d}.json"
        assert number >= said or path.exists()
        if path.exists():  # the next run takes it as done
            assert [outcome.key for outcome in report.read(path)] == [f"s{number}_a"]
            (clip,) = shards.read(path.with_suffix(".tar"))
            assert np.array_equal(clip.sound, random_clip(f"s{number}_a").sound)


def write_cache(folder: Path, say: Say) -> None:
    shards.build_cache(folder, folder / "cache")
    say()


def check_cache(folder: Path, said: int) -> None:
    cache, paths = folder / "cache", shards.find(folder)
    done = shards._is_made_of(cache, shards._fingerprint(paths))
    assert done or not said
    opened = shards.open_cache(folder)
    for clip in opened.clips:
        expected = random_clip(clip.key)
        assert np.array_equal(opened.landmarks[clip.rows], expected.landmarks)
        assert len(opened.frames[clip.rows]) == len(expected.crops)
    assert [own.key for own in opened.clips] == ["s0_a", "s1_a"]
    assert not list(folder.glob(".*.part"))


# ---- videos


def write_videos(folder: Path, say: Say) -> None:
    for number in (0, 1):
        frames = [np.full((32, 32, 3), 40 * k, np.uint8) for k in range(3)]
        video_writing.write(folder / f"{number}.mp4", frames, None)
        say()


def check_videos(folder: Path, said: int) -> None:
    for number in (0, 1):
        path = folder / f"{number}.mp4"
        assert number >= said or path.exists()
        assert not path.exists() or video_writing.is_whole(path)


# ---- dubbed videos


def dub_video(folder: Path, name: str) -> None:
    """Dub two frames in two parts, and save the tracking after every frame."""
    with pytest.MonkeyPatch.context() as patch:
        set_stubs(patch)
        patch.setattr(passes, "_PART", 0.04)
        patch.setattr(passes, "_SAVED", 0.0)
        dubbed(folder / "a.mp4", folder / name, 0.08, overwrite=True)


def prepare_dubbing(folder: Path) -> None:
    make_video(folder / "a.mp4", count=2)
    dub_video(folder, "whole.mp4")


def write_dubbed(folder: Path, say: Say) -> None:
    dub_video(folder, "b.mp4")
    say()


def check_dubbed(folder: Path, said: int) -> None:
    whole = (folder / "whole.mp4").read_bytes()
    if said:
        assert (folder / "b.mp4").read_bytes() == whole
    dub_video(folder, "b.mp4")  # goes on with what is left
    assert (folder / "b.mp4").read_bytes() == whole
    assert not list(folder.glob(".*.parts"))


# ---- results


def write_results(folder: Path, say: Say) -> None:
    cache = ResultCache(folder / "cached.jsonl", Result)
    for key in "abc":
        cache.add(key, Result("m", "0", key, "s", "test", "first frame", "a:0"))
        os.mkdir(folder / key)  # a step


def check_results(folder: Path, _: int) -> None:
    cache = ResultCache(folder / "cached.jsonl", Result)
    for key in "abc":
        found = cache.get(key)
        assert found is None or found.clip == key


WRITERS = {
    "weights": Writer(write_weights, check_weights, lambda folder: save_weights(folder, 0)),
    "checkpoints": Writer(write_checkpoints, check_checkpoints),
    "shards": Writer(write_shards, check_shards),
    "cache": Writer(write_cache, check_cache, write_shards),
    "videos": Writer(write_videos, check_videos),
    "dubbed videos": Writer(write_dubbed, check_dubbed, prepare_dubbing),
    "results": Writer(write_results, check_results),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_power_cut_loses_nothing_that_was_said_to_be_saved(name: str, tmp_path: Path) -> None:
    count = 0
    for folder, said in cuts_of(WRITERS[name], tmp_path):
        WRITERS[name].check(folder, said)
        count += 1
    assert count >= 4
