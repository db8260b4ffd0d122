"""Weights, saved streams, shards, motions and landmarks from elsewhere: one line, no memory."""

from __future__ import annotations

import dataclasses
import io
import json
import resource
import subprocess
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import talkingface
from conftest import Cli
from talkingface import models
from talkingface.data import report, shards
from talkingface.errors import BadShard, BadWeights
from talkingface.streaming import HEADER as STREAM
from test_prepare import random_clip

Entries = dict[str, Any]
DEEP = "[" * 100_000
CONFIG: Entries = json.loads(json.dumps(dataclasses.asdict(models.PRESETS["cran-tiny"])))
INFO = {"format": 1, "training_data": "none", "licence": "MIT", "metrics": {}, "extra": {}}


def peak() -> int:
    """MB that this process has taken at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# weights


def header(**config: Any) -> str:
    return json.dumps({**INFO, "config": {**CONFIG, **config}})


WEIGHTS = {
    "huge": header(hidden=12_000),
    "huge within bounds": header(hidden=65_536, image_features=65_536, audio_features=65_536),
    "beyond bounds": header(hidden=200_000),
    "many layers": header(audio_layers=1_000_000),
    "layers within bounds of numbers": header(audio_layers=60_000),
    "long list": header(image_channels=[8] * 10_000),
    "many pixels": header(crop={"size": 60_000, "eye_distance": 0.3, "eye_y": 0.3}),
    "negative": header(image_features=-5),
    "infinite": header().replace(f'"hidden": {CONFIG["hidden"]}', '"hidden": 1e999'),
    "long number": header(image_features=10**30),
    "too many digits": header().replace(f'"hidden": {CONFIG["hidden"]}', '"hidden": ' + "9" * 5000),
    "a list": json.dumps({**INFO, "config": [1]}),
    "null": json.dumps({**INFO, "config": None}),
    "no config": json.dumps(INFO),
    "deep": '{"format": 1, "config": ' + DEEP + "]" * 100_000 + "}",
    "unclosed": DEEP,
    "no object": "null",
    "family of a list": header(family=["x"]),
    "family of an object": header(family={"x": 1}),
    "family of null": header(family=None),
    "another family": header(family="head"),
    "speech of text": header(speech="x"),
    "speech of null": header(speech=None),
    "metrics of a list": json.dumps({**INFO, "config": CONFIG, "metrics": [1, 2]}),
    "not JSON": "\0\1",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_ask_for_too_much_are_refused(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "bomb.safetensors"
    tensors = {"a": torch.zeros(1)}
    path.write_bytes(safetensors.torch.save(tensors, {"talkingface": WEIGHTS[name]}))
    refused(cli, "generate", portrait, speech, "-o", tmp_path / "a.mp4", "--model", path)


def refused(cli: Cli, *command: object) -> str:
    """Run a command that must fail with one line, quickly and without memory; return the line."""
    before, start = peak(), time.monotonic()
    ran = cli(*command)
    assert ran.code == 2 and ran.err.startswith("error: ") and ran.err.count("\n") == 1
    assert len(ran.err) < 500 and "Traceback" not in ran.err
    assert peak() - before < 200 and time.monotonic() - start < 10
    return ran.err


def test_weights_of_wrong_numbers_or_sizes_are_refused(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.safetensors"
    command = ("generate", portrait, speech, "-o", tmp_path / "a.mp4", "--model", path)
    state = models.build(models.PRESETS["cran-tiny"]).state_dict()
    name = next(name for name, value in state.items() if value.is_floating_point())
    for number in (float("nan"), float("inf")):
        state[name].view(-1)[-1] = number
        path.write_bytes(safetensors.torch.save(state, {"talkingface": header()}))
        assert f"tensor {name} holds NaN or infinite numbers" in refused(cli, *command)
    path.write_bytes(b"")
    with path.open("r+b") as sparse:
        sparse.truncate(30 << 30)
    assert "32212254720 bytes" in refused(cli, *command)
    path.unlink()
    path.mkdir()
    refused(cli, *command)


# saved streams

Saved = tuple[Entries, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    from conftest import EXAMPLES
    from talkingface import picture

    return np.ascontiguousarray(picture.read(EXAMPLES / "portrait.jpg")[::3, ::3])


def saved_by(name: str, face: np.ndarray, path: Path) -> Saved:
    stream = talkingface.load(name).open(face, max_size=64)
    stream.push(np.zeros(16_000, np.float32))
    stream.save(path)
    with safetensors.safe_open(str(path), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        return json.loads(file.metadata()[STREAM]), tensors


@pytest.fixture(scope="module", params=["cran-tiny", "cran"])
def kept(
    request: pytest.FixtureRequest, face: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Saved:
    return saved_by(request.param, face, tmp_path_factory.mktemp("kept") / "kept.safetensors")


def without(key: str) -> Callable[[Entries], Any]:
    return lambda header: {k: v for k, v in header.items() if k != key}


def having(**changed: Any) -> Callable[[Entries], Any]:
    return lambda header: {**header, **changed}


HEADERS: dict[str, Callable[[Entries], Any]] = {
    "list": lambda header: [],
    "null": lambda header: None,
    "deep": lambda header: DEEP,
    **{f"no {key}": without(key) for key in ("model", "sha256", "pushed", "given", "finished")},
    "no state": without("state"),
    "pushed is text": having(pushed="x"),
    "pushed is true": having(pushed=True),
    "pushed is negative": having(pushed=-16_000),
    "pushed is huge": having(pushed=10**18, given=10**18 // 640),
    "given is huge": having(given=10**18),
    "given is less": having(given=3),
    "given is a float": having(given=1e300),
    "finished is text": having(finished="x"),
    "sha256 is a number": having(sha256=5),
    "state of another name": having(state=["nope"]),
    "state is null": having(state=None),
    "state is a number": having(state=5),
    "state is the sound": having(state="sound"),
    "state is two sounds": having(state=["sound", "sound"]),
    "state is deep": having(state=[[[[["x"]]]]]),
    "state is an object": having(state={"a": 1}),
    "state is empty": having(state=[]),
}
TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], Entries]] = {
    "no sound": lambda tensors: {k: v for k, v in tensors.items() if k != "sound"},
    "sound of two": lambda tensors: {**tensors, "sound": torch.zeros(3, 3)},
    "sound of NaN": lambda tensors: {**tensors, "sound": tensors["sound"] * float("nan")},
    "sound of integers": lambda tensors: {**tensors, "sound": tensors["sound"].int()},
    "short sound": lambda tensors: {**tensors, "sound": torch.zeros(10)},
    "long sound": lambda tensors: {**tensors, "sound": torch.zeros(1_000_000)},
    "no state": lambda tensors: {"sound": tensors["sound"]},
    "empty state": lambda tensors: {
        k: v if k == "sound" else v.flatten()[:0].clone() for k, v in tensors.items()
    },
    "state of NaN": lambda tensors: {
        k: v if k == "sound" or not v.is_floating_point() else v * float("nan")
        for k, v in tensors.items()
    },
    "state of another place": lambda tensors: {
        k: v if k == "sound" else v + 1_000_000 if v.dtype == torch.int64 else v[..., :-1].clone()
        for k, v in tensors.items()
    },
}


def resume(kept: Saved, header: Any, tensors: Entries, face: np.ndarray, path: Path) -> Any:
    text = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(safetensors.torch.save(tensors, {STREAM: text}))
    return talkingface.load(kept[0]["model"]).open(face, max_size=64, resume=path)


def test_a_saved_stream_is_taken(kept: Saved, face: np.ndarray, tmp_path: Path) -> None:
    stream = resume(kept, *kept, face, tmp_path / "a")
    assert stream.frames == kept[0]["given"] > 0
    assert stream.push(np.zeros(6_400, np.float32))


@pytest.mark.parametrize("name", HEADERS)
def test_a_saved_stream_of_another_header_is_refused(
    kept: Saved, face: np.ndarray, tmp_path: Path, name: str
) -> None:
    with pytest.raises(BadWeights, match=r"no saved stream \(|saved with model") as error:
        resume(kept, HEADERS[name](kept[0]), kept[1], face, tmp_path / "a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", TENSORS)
def test_a_saved_stream_of_other_tensors_is_refused(
    kept: Saved, face: np.ndarray, tmp_path: Path, name: str
) -> None:
    if name == "no state" and kept[0]["state"] is None:
        pytest.skip("it has none")
    with pytest.raises(BadWeights, match=r"no saved stream \("):
        resume(kept, kept[0], TENSORS[name](kept[1]), face, tmp_path / "a")


# shards

FACTS: dict[str, Callable[[Entries], Any]] = {
    "frames infinite": having(frames=float("inf")),
    "frames huge": having(frames=10**12),
    "frames negative": having(frames=-5),
    "size huge": having(size=10**9),
    "words of one": having(words=[[1]]),
    "words at no time": having(words=[["a", 0, float("inf")]]),
    "words null": having(words=None),
    "speaker of a list": having(speaker=[1]),
    "info of a list": having(info=[1]),
    "no checksums": having(crc32=None),
    "list": lambda facts: [],
    "null": lambda facts: None,
    "deep": lambda facts: DEEP,
    "digits": lambda facts: '{"version": 2, "frames": ' + "9" * 5000 + "}",
}


def npy(head: str, data: bytes = b"") -> bytes:
    text = head.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def jpeg_of(side: int) -> Callable[[bytes], bytes]:
    """A JPEG whose header says another size."""

    def change(data: bytes) -> bytes:
        place = data.index(b"\xff\xc0") + 5
        return data[:place] + side.to_bytes(2, "big") * 2 + data[place + 4 :]

    return change


def two_sizes(data: bytes) -> bytes:
    """A JPEG of 20,000 x 20,000, with a marker without length, and a small frame header after it.

    Readers that skip markers by their lengths find the small one.
    """
    large = jpeg_of(20_000)(data)
    claimed = b"\xff\xc0\x00\x0b\x08" + data[data.index(b"\xff\xc0") + 5 :][:4] + b"\1\1\x11\0"
    return large[:2] + b"\xff\x01" + large[2:] + claimed


MEMBERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a large JPEG": ("jpg", jpeg_of(20_000)),
    "a JPEG of two sizes": ("jpg", two_sizes),
    "no JPEG": ("jpg", lambda data: b"\xff\xd8" + bytes(100)),
    "a PNG": ("jpg", lambda data: b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "a huge shape": (
        "landmarks.npy",
        lambda data: npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**11, 68, 2)}"),
    ),
    "another huge shape": (
        "mesh.npy",
        lambda data: npy("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 2)}"),
    ),
    "objects": (
        "landmarks.npy",
        lambda data: npy(
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n."
        ),
    ),
    "a deep shape": (
        "landmarks.npy",
        lambda data: npy("{'descr': '<f4', 'shape': (" + "(" * 3000 + ")}"),
    ),
    "NaN": ("mesh.npy", lambda data: data[:-4] + np.float32("nan").tobytes()),
    "long points": ("mesh.npy", lambda data: data + bytes(10_000_000)),
    "no sound": ("wav", lambda data: b"RIFF"),
}


@pytest.fixture(scope="module")
def clip() -> dict[str, bytes]:
    """The members of one clip, by kind."""
    return dict(shards.pack(random_clip("s1_a")).members)


def refuse_shard(cli: Cli, folder: Path, clip: dict[str, bytes]) -> str:
    write_tar(folder, [(f"s1_a.{kind}", data) for kind, data in clip.items()])
    line = refused(cli, "train", "lipreader", folder, "-o", folder / "run")
    assert not list(folder.glob(".*.part")) and not (folder / "cache").exists()
    return line


def write_tar(folder: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(folder / "shard-00000.tar", "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def with_facts(clip: dict[str, bytes], change: Callable[[Entries], Any]) -> dict[str, bytes]:
    facts = change(json.loads(clip["json"]))
    return {**clip, "json": (facts if isinstance(facts, str) else json.dumps(facts)).encode()}


@pytest.mark.parametrize("name", FACTS)
def test_a_shard_of_odd_facts_is_refused(
    cli: Cli, clip: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    assert "s1_a" in refuse_shard(cli, tmp_path, with_facts(clip, FACTS[name]))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_shard_of_odd_members_is_refused(
    cli: Cli, clip: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    kind, change = MEMBERS[name]
    changed = {**clip, kind: change(clip[kind])}
    sums = {own: zlib.crc32(data) for own, data in changed.items() if own != "json"}
    assert kind in refuse_shard(cli, tmp_path, with_facts(changed, having(crc32=sums)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_a_shard_is_refused(cli: Cli, tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "shard-00000.tar", "w") as archive:
        entry = tarfile.TarInfo("s1_a.json")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    assert "no plain file" in refused(cli, "train", "lipreader", tmp_path, "-o", tmp_path / "run")


def test_a_shard_of_holes_is_refused(cli: Cli, tmp_path: Path) -> None:
    hole = tmp_path / "s1_a.json"
    with hole.open("wb") as file:
        file.truncate(3 << 30)
    tar = ["tar", "--format=gnu", "-S", "-cf", "shard-00000.tar", hole.name]
    subprocess.run(tar, cwd=tmp_path, check=True)
    assert "no plain file" in refused(cli, "train", "lipreader", tmp_path, "-o", tmp_path / "run")


def test_a_changed_byte_of_a_clip_is_found(
    cli: Cli, clip: dict[str, bytes], tmp_path: Path
) -> None:
    data = clip["mesh.npy"]
    line = refuse_shard(cli, tmp_path, {**clip, "mesh.npy": data[:-1] + bytes([data[-1] ^ 1])})
    assert "its checksum differs" in line


ROW: Entries = {"key": "a", "speaker": "s", "split": "t", "result": "kept"}
REPORTS = {
    "deep": DEEP,
    "list": "[1]",
    "object": '{"a": 1}',
    "frames infinite": json.dumps([{**ROW, "frames": float("inf")}]),
    "another field": json.dumps([{**ROW, "x": 1}]),
    "key of a list": json.dumps([{**ROW, "key": []}]),
    "measures of null": json.dumps([{**ROW, "measures": None}]),
    "empty": "",
}


@pytest.mark.parametrize("name", REPORTS)
def test_an_odd_report_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "shard-00000.json"
    path.write_text(REPORTS[name])
    with pytest.raises(BadShard, match=r"is no report \("):
        report.read(path)


# motions and landmarks

ZEROS = [[0.0] * 16] * 3
JSON = {
    "deep": DEEP,
    "list": "[]",
    "null": "null",
    "empty": "",
    "text": json.dumps({"expression": "x"}),
    "ragged": json.dumps({"expression": [[1], [1, 2]]}),
    "NaN": json.dumps({"expression": [[float("nan")] * 16] * 3}),
    "infinite": json.dumps({"expression": [[float("inf")] * 16] * 3}),
    "huge": json.dumps({"expression": [[10**400] * 16] * 3}),
    "digits": '{"expression": [[' + "9" * 5000 + "]]}",
    "times of text": json.dumps({"expression": ZEROS, "times": ["a", "b", "c"]}),
    "times apart": json.dumps({"expression": ZEROS, "times": [0, 1, 1e9]}),
    "times ragged": json.dumps({"expression": ZEROS, "times": [[0], [1, 2]]}),
    "head of NaN": json.dumps({"expression": ZEROS, "head": [[float("nan")] * 6] * 3}),
    "names ragged": json.dumps({"arkit": {"names": [["a"], "b"], "values": [[1]]}}),
    "no UTF-8": "\udcff",
}


@pytest.mark.parametrize("name", JSON)
def test_an_odd_motion_is_refused(cli: Cli, portrait: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(JSON[name], errors="surrogateescape")
    call = ("generate", portrait, path, "-o", tmp_path / "a.mp4", "--model", "atvg-tiny")
    assert f"{path}: " in refused(cli, *call)


@pytest.mark.parametrize("name", ["a huge shape", "objects", "a deep shape", "another huge shape"])
def test_an_odd_archive_of_a_motion_is_refused(
    cli: Cli, portrait: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("expression.npy", MEMBERS[name][1](b""))
    call = ("generate", portrait, path, "-o", tmp_path / "a.mp4", "--model", "atvg-tiny")
    assert f"{path}: " in refused(cli, *call)


@pytest.mark.parametrize("number", ["NaN", "1e999", "1" + "0" * 400, "9" * 5000, "true", '"1"'])
def test_odd_landmarks_are_refused(cli: Cli, portrait: Path, tmp_path: Path, number: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text("[" + ", ".join([f"[{number}, 5]"] * 68) + "]")
    call = ("landmarks", portrait, "--landmarks", path, "--overlay", tmp_path / "a.png")
    assert f"{path}: " in refused(cli, *call)
