"""Other runtimes stay the same generator: contract, errors against torch, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import Cli
from test_models import CONFIGS, _model, _portrait, _speech
from torch import Tensor

import talkingface
from talkingface import audio, runtimes, weights
from talkingface.contract import Generator, Portrait
from talkingface.errors import BadRequest, BadWeights
from talkingface.evaluation import open_candidate
from talkingface.metrics.image import psnr
from talkingface.metrics.lips import aperture
from talkingface.runtimes import processor, quantised
from talkingface.runtimes.compiled import Compiled, convert
from talkingface.runtimes.graph import Step, flat, rebuilt

pytest.importorskip("openvino")
TINY = ("cran", "cran-expression", "cran-frame", "atvg", "chung", "still")


@pytest.fixture(scope="module")
def made() -> Callable[[str], tuple[Any, Compiled]]:
    """A tiny model by its name in tests/test_models.py, and compiled; each once."""
    known: dict[str, tuple[Any, Compiled]] = {}

    def make(name: str) -> tuple[Any, Compiled]:
        if name not in known:
            model = _model(name)
            step = Step(model)
            known[name] = model, Compiled(model, convert(step), step, "float32")
        return known[name]

    return make


def face_of(portrait: Portrait, index: int) -> Portrait:
    """A face of several."""
    return Portrait(*(tensor[index : index + 1] for tensor in flat(portrait, "").values()))


def run(model: Any, portrait: Portrait, speech: Tensor, *chunks: int) -> Tensor:
    """Frames of a clip fed in chunks."""
    state, parts = None, []
    with torch.inference_mode():
        identity = model.encode(portrait)
        for part in speech.split(list(chunks) or speech.shape[1], dim=1):
            answer, state = model(identity, part, state)
            parts.append(answer.frames)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("name", TINY)
def test_compiled_is_the_same_generator(name: str, made: Any) -> None:
    model, compiled = made(name)
    assert isinstance(compiled, Generator)
    speech = _speech(model.config.speech, 2, 5)
    with torch.inference_mode():
        own, _ = model(model.encode(_portrait(2)), speech)
        other, _ = compiled(compiled.encode(_portrait(2)), speech)
    expected, got = flat(own, "made"), flat(other, "made")
    assert list(got) == list(expected)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_compiled_in_any_chunking_is_the_same_to_the_bit(name: str, made: Any) -> None:
    model, compiled = made(name)
    speech = _speech(model.config.speech, 2, 6)
    whole = run(compiled, _portrait(2), speech)
    for chunks in ((1, 1, 1, 1, 1, 1), (4, 2)):
        assert torch.equal(run(compiled, _portrait(2), speech, *chunks), whole)


def test_compiled_takes_a_portrait_with_its_mesh(made: Any) -> None:
    model, compiled = made("cran")
    whole, speech = _portrait(1), _speech(model.config.speech, 1, 2)
    bare = replace(whole, mesh=None)
    assert whole.to("cpu").mesh is not None
    assert torch.equal(run(compiled, whole, speech), run(compiled, bare, speech))


def test_a_mesh_moves_the_mouth_that_is_compiled(made: Any) -> None:
    """Of a model that predicts expressions: lips begin where the portrait's own are."""
    model, compiled = made("atvg")
    portrait, speech = _portrait(1), _speech(model.config.speech, 1, 2)
    other = replace(portrait, mesh=_portrait(2).mesh[1:])  # type: ignore[index]
    clips = [run(compiled, face, speech) for face in (portrait, other)]
    assert (clips[0] - clips[1]).abs().max() > 1e-3
    torch.testing.assert_close(clips[1], run(model, other, speech), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="needs its mesh"):
        compiled.encode(replace(portrait, mesh=None))


def test_compiled_keeps_samples_apart(made: Any) -> None:
    model, compiled = made("cran")
    portrait, speech = _portrait(3), _speech(model.config.speech, 3, 3)
    together = run(compiled, portrait, speech)
    alone = run(
        compiled, face_of(portrait, 1), speech[1:2]
    )  # torch encodes three faces with other roundings
    torch.testing.assert_close(alone, together[1:2], atol=2e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["cran", "atvg"])
def test_threads_do_not_hear_each_other(name: str, made: Any) -> None:
    """Four streams of other faces and other words, taken in turns by two threads."""
    model, compiled = made(name)
    portrait, speech = _portrait(4), _speech(model.config.speech, 4, 8)
    faces = [face_of(portrait, i) for i in range(4)]
    alone = [run(compiled, face, speech[i : i + 1]) for i, face in enumerate(faces)]

    def two(first: int) -> list[Tensor]:
        states: list[Any] = [None, None]
        clips: list[list[Tensor]] = [[], []]
        with torch.inference_mode():
            seen = [compiled.encode(faces[first + k]) for k in range(2)]
            for t in range(8):
                for k in range(2):
                    heard = speech[first + k : first + k + 1, t : t + 1]
                    answer, states[k] = compiled(seen[k], heard, states[k])
                    clips[k].append(answer.frames)
        return [torch.cat(clip, dim=1) for clip in clips]

    with ThreadPoolExecutor(2) as pool:
        clips = [clip for pair in pool.map(two, (0, 2)) for clip in pair]
    for one, clip in zip(alone, clips, strict=True):
        assert torch.equal(one, clip)


@pytest.mark.parametrize("name", ["cran", "atvg"])
def test_a_state_goes_from_one_runtime_to_the_other(name: str, made: Any) -> None:
    """A stream that was saved goes on wherever it is resumed."""
    model, compiled = made(name)
    portrait, speech = _portrait(1), _speech(model.config.speech, 1, 6)
    whole = run(model, portrait, speech)
    with torch.inference_mode():
        _, state = model(model.encode(portrait), speech[:, :3])
        rest, state = compiled(compiled.encode(portrait), speech[:, 3:5], state)
        last, _ = model(model.encode(portrait), speech[:, 5:], state)
    joined = torch.cat([rest.frames, last.frames], dim=1)
    torch.testing.assert_close(joined, whole[:, 3:], atol=1e-4, rtol=0)


def test_structures_survive_being_flat() -> None:
    value = (torch.ones(1), None, Portrait(torch.zeros(2), torch.ones(3)), (torch.ones(4),))
    names = flat(value, "x")
    assert list(names) == ["x.0", "x.2.image", "x.2.landmarks", "x.3.0"]
    again = rebuilt(value, iter(names.values()))
    assert (
        again[1] is None
        and isinstance(again[2], Portrait)
        and torch.equal(again[3][0], value[3][0])
    )


@pytest.mark.parametrize("name", ["cran-sequential", "cran-natural"])
def test_a_model_that_looks_at_its_own_pictures_is_for_torch(name: str) -> None:
    with pytest.raises(BadRequest, match="looks back at its own pictures runs in torch only"):
        Step(_model(name))


# --- trained weights ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(portrait: Path, speech: Path) -> Callable[[Any], Any]:
    """What a generator makes of the example files: 75 frames."""

    def play(model: Any) -> Any:
        aligned = talkingface.align(portrait)
        image = torch.from_numpy(aligned.crop).permute(2, 0, 1)[None] / 127.5 - 1
        points = torch.from_numpy(np.float32(aligned.landmarks))[None]
        mesh = torch.from_numpy(aligned.mesh)[None]
        heard = audio.windows(audio.load(speech), model.config.speech)[None]
        with torch.inference_mode():
            return model(model.encode(Portrait(image, points, mesh)), heard)[0]

    return play


@pytest.mark.parametrize("name", ["cran", "atvg"])
@pytest.mark.parametrize(
    ("how", "least", "correlation"),
    [
        (("openvino", "float32"), 80, 0.9999),
        (("openvino", "int8"), 45, 0.99),
        (("torch", "bfloat16"), 45, 0.99),
    ],
)
def test_shipped_models_say_the_same_in_every_runtime(
    name: str, how: tuple[str, str], least: float, correlation: float, clip: Any
) -> None:
    """The issue's bar is 40 dB and 0.99."""
    model, info = weights.load_with_info(name)
    if "int8" in how and weights.int8_sha256(info) is None:
        pytest.skip(f"{name} has no int8 graph")
    own, other = clip(model), clip(runtimes.choose(model, info, *how))
    error = (own.frames - other.frames.float()).square().mean().item() / 4
    assert -10 * np.log10(max(error, 1e-12)) > least
    lips = [aperture(made.landmarks[0].double().numpy() * 128) for made in (own, other)]
    assert np.corrcoef(*lips)[0, 1] > correlation
    assert lips[1].std() / lips[0].std() == pytest.approx(1, abs=0.03)


def quantised_models() -> list[str]:
    """Shipped models with an int8 graph."""
    return [info.name for info in weights.listing() if weights.int8_sha256(info)]


def test_an_int8_graph_knows_what_it_was_made_from() -> None:
    for name in quantised_models():
        data = (weights.SHIPPED / f"{name}{quantised.ENDING}").read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][quantised.HEADER])
        _, info = weights.load_with_info(name)
        assert header["weights"] == info.sha256 and "GRID" in header["training_data"]
        assert "CC BY 4.0" in header["licence"] and len(header["calibration"]) >= 20


# --- what is refused ------------------------------------------------------------------------------


def test_int8_graphs_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    name = quantised_models()[0]
    info = weights.load_with_info(name)[1]
    own = replace(info, path=tmp_path / "mine.safetensors", name="mine")
    with pytest.raises(BadRequest, match=r"mine was not quantised.*mine\.int8\.safetensors"):
        quantised.path_of(own)
    file = tmp_path / "mine.int8.safetensors"
    copy(weights.SHIPPED / f"{name}{quantised.ENDING}", file)
    assert quantised.path_of(own) == file
    said = rf"made from weights {info.sha256[:12]}.*, these are 1234"
    with pytest.raises(BadWeights, match=said):
        quantised.read(file, "1234")
    with pytest.raises(BadWeights, match="changed or damaged"):
        quantised.read(file, info.sha256, "1234")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BadWeights, match="no int8 graph"):
        quantised.read(file, info.sha256)
    safetensors.torch.save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(BadWeights, match="no int8 graph"):
        quantised.read(file, info.sha256)


@pytest.mark.parametrize(
    ("runtime", "precision", "said"),
    [
        ("tensorrt", "float32", "runtime is 'tensorrt': give torch, openvino"),
        ("torch", "float16", "precision is 'float16': give float32, bfloat16, int8, auto"),
        ("torch", "int8", "int8 needs the runtime openvino"),
        ("openvino", "int8", "cran-tiny was not quantised"),
    ],
)
def test_what_cannot_be_is_said(runtime: str, precision: str, said: str, cli: Cli) -> None:
    with pytest.raises(BadRequest, match=said):
        talkingface.load("cran-tiny", runtime=runtime, precision=precision)


def test_openvino_is_for_the_cpu() -> None:
    with pytest.raises(BadRequest, match="openvino is for the CPU, not for 'cuda'"):
        talkingface.load("cran-tiny", "cuda", runtime="openvino")


def test_without_the_extra_one_line_says_how_to_get_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, portrait: Path, speech: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    out = tmp_path / "talking.mp4"
    ran = cli("generate", portrait, speech, "-o", out, "--model", "cran-tiny",
              "--runtime", "openvino")  # fmt: skip
    assert ran.code == 2 and not out.exists()
    assert ran.err.count("\n") == 1 and "pip install 'talkingface[fast]'" in ran.err


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bfloat16_where_the_cpu_has_it(
    has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx512f" + " avx512_bf16" * has + "\n", encoding="utf-8")
    monkeypatch.setattr(processor, "CPU_INFO", info)
    speaker = talkingface.load("cran-tiny", precision="auto")
    assert type(speaker.model).__name__ == ("Half" if has else "Cran")
    if not has:
        with pytest.raises(BadRequest, match="no bfloat16"):
            talkingface.load("cran-tiny", runtime="openvino", precision="bfloat16")


def test_openvino_tells_nobody_that_it_was_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from talkingface.runtimes.compiled import import_openvino as get; get(); "
        "print([m for m in sys.modules if m.startswith('openvino_telemetry') and sys.modules[m]])"
    )
    home = {**os.environ, "HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True)
    assert ran.stdout == "[]\n" and list(tmp_path.iterdir()) == []


# --- where it is chosen ---------------------------------------------------------------------------


def test_generate_with_another_runtime(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path
) -> None:
    files = []
    for runtime, precision in (("torch", "auto"), ("openvino", "int8")):
        files.append(tmp_path / f"{runtime}.mp4")
        name = quantised_models()[0]
        ran = cli("generate", portrait, speech, "-o", files[-1], "--model", name, "--crop",
                  "--runtime", runtime, "--precision", precision)  # fmt: skip
        assert ran.code == 0, ran.err
    first, second = ([*talkingface.video.read_frames(file)] for file in files)
    assert len(first) == len(second) == 75
    assert min(map(psnr, first, second)) > 36  # both were compressed


def test_nobody_sees_how_it_is_converted(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path
) -> None:
    ran = cli("generate", portrait, speech, "-o", tmp_path / "a.mp4", "--model", "atvg-tiny",
              "--runtime", "openvino")  # fmt: skip
    assert ran.code == 0 and ran.err == "" and ran.out.count("\n") == 1


def test_an_evaluation_has_rows_of_runtimes() -> None:
    row = open_candidate("cran-tiny@openvino")
    assert row.name == "cran-tiny@openvino:float32" and isinstance(row.generator, Compiled)
    assert open_candidate("mine=cran-tiny@torch:bfloat16").name == "mine@torch:bfloat16"
    assert type(open_candidate("cran-tiny").generator).__name__ == "Cran"
    with pytest.raises(BadRequest, match="draws no landmarks"):
        open_candidate("atvg-tiny@landmarks@openvino")
    assert set(TINY) <= set(CONFIGS)
