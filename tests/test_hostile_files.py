"""Weights, saved streams, shards, motions and landmarks from elsewhere: one line, no memory."""

from __future__ import annotations

import dataclasses
import json
import resource
import time
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
from talkingface.errors import BadWeights
from talkingface.streaming import HEADER as STREAM

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
