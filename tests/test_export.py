"""`talkingface export`: two graphs that another program runs, and gets the same frames."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from numpy.typing import NDArray
from test_models import _model, _portrait, _speech

from talkingface import weights
from talkingface.errors import BadRequest
from talkingface.runtimes import onnx as exporting
from talkingface.runtimes.graph import flat

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
Arrays = dict[str, NDArray[Any]]


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ask(run: Any, given: Arrays) -> Arrays:
    """A graph's outputs by name, of those inputs that it has."""
    names = [port.name for port in run.get_inputs()]
    results = run.run(None, {name: given[name] for name in names})
    return dict(zip([port.name for port in run.get_outputs()], results, strict=True))


@pytest.fixture(scope="module", params=["cran-tiny", "atvg-tiny"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model's name, the model, and both files."""
    name = request.param
    model, info = weights.load_with_info(name)
    path = tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
    return name, model, exporting.export(model, info, path)


def test_other_programs_get_the_same_frames(exported: Any) -> None:
    """Against torch, the state carried over chunks of every length."""
    _, model, (encode, speak) = exported
    portrait, speech = _portrait(1), _speech(model.config.speech, 1, 9)
    with torch.inference_mode():
        own, _ = model(model.encode(portrait), speech)
    encoder, speaker = session(encode), session(speak)
    face = {name: value.numpy() for name, value in flat(portrait, "portrait").items()}
    known = ask(encoder, face) | {f"identity.{name}": value for name, value in face.items()}
    for chunks in ((9,), (1, 1, 7), (4, 5)):
        kept = [port for port in speaker.get_inputs() if port.name.startswith("state")]
        state = {port.name: np.zeros(port.shape, np.float32) for port in kept}
        frames, landmarks = [], []
        for part in speech.split(chunks, dim=1):
            made = ask(speaker, {**known, **state, "speech": part.numpy()})
            state = {name: made[name.replace("state", "after", 1)] for name in state}
            frames.append(made["made.frames"])
            landmarks.append(made["made.landmarks"])
        assert np.abs(np.concatenate(frames, 1) - own.frames.numpy()).max() < 1e-4
        assert np.abs(np.concatenate(landmarks, 1) - own.landmarks.numpy()).max() < 1e-5


def test_a_mesh_is_asked_for_where_it_is_needed(exported: Any) -> None:
    name, _, (encode, _) = exported
    asked = {port.name: port.shape for port in session(encode).get_inputs()}
    assert {"portrait.image", "portrait.landmarks"} <= set(asked)
    assert asked.get("portrait.mesh") == ([1, 478, 2] if name == "atvg-tiny" else None)


def test_a_file_says_what_it_is(exported: Any) -> None:
    name, _, files = exported
    for file in files:
        graph = onnx.load(file)
        onnx.checker.check_model(graph)
        (entry,) = [p for p in graph.metadata_props if p.key == exporting.METADATA]
        about = json.loads(entry.value)
        assert about["name"] == name and about["licence"] == "MIT"
        assert about["training_data"] == "tiny and random, for tests: it does not speak"
        assert about["config"]["family"] == name.split("-")[0]
        assert {"sha256", "talkingface", "synthetic"} <= set(about)


def test_frames_are_as_many_as_one_likes(exported: Any) -> None:
    _, _, (_, speak) = exported
    speaker = session(speak)
    shapes = {p.name: p.shape for p in (*speaker.get_inputs(), *speaker.get_outputs())}
    assert shapes["speech"][1] == shapes["made.frames"][1] == "T"
    assert all(isinstance(side, int) for side in shapes["identity.portrait.image"])


def test_export_by_command(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def quick(module: Any, path: Path, *rest: Any) -> None:
        asked.append(path.name)
        path.write_bytes(b"onnx")

    monkeypatch.setattr(exporting, "_write", lambda path, module, *rest: quick(module, path, *rest))
    ran = cli("export", "cran-tiny", "-o", tmp_path / "c.onnx")
    assert ran.code == 0 and asked == ["c.encode.onnx", "c.speak.onnx"]
    assert [line.split(":")[0].rsplit("/")[-1] for line in ran.out.splitlines()] == asked
    again = cli("export", "cran-tiny", "-o", tmp_path / "c.onnx")
    assert again.code == 2 and "c.encode.onnx" in again.err and "--overwrite" in again.err
    assert cli("export", "cran-tiny", "-o", tmp_path / "c.onnx", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        ("cran-tiny", "model.pt", "an export is called NAME.onnx"),
        ("judge", "judge.onnx", "is no generator of faces"),
        ("cram", "cram.onnx", "no model is called 'cram'"),
    ],
)
def test_what_cannot_be_exported(
    model: str, name: str, said: str, cli: Cli, tmp_path: Path
) -> None:
    ran = cli("export", model, "-o", tmp_path / name)
    assert ran.code == 2 and said in ran.err and ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_one_line_says_how_to_get_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    ran = cli("export", "cran-tiny", "-o", tmp_path / "c.onnx")
    assert ran.code == 2 and "pip install 'talkingface[onnx]'" in ran.err


def test_a_model_that_looks_back_cannot_be_exported(tmp_path: Path) -> None:
    info = weights.load_with_info("cran-tiny")[1]
    with pytest.raises(BadRequest, match="looks back"):
        exporting.export(_model("cran-sequential"), info, tmp_path / "c.onnx")
