"""Weights files come back as they were saved, and a wrong one is refused with one clear line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from talkingface import models, older_weights, weights
from talkingface.errors import BadWeights, OutputError, UnknownModel


def make(preset: str = "cran-tiny", seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(models.PRESETS[preset])


def save(path: Path, model: nn.Module) -> None:
    weights.save(
        path, model, training_data="none", licence="MIT", metrics={"psnr": 30.5}, extra={"steps": 7}
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save(path, make())
    return path


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path) -> Path:
    """A registry of our own, in which `tiny-one` is shipped."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(weights, "SHIPPED", folder)
    weights.register("tiny-one", saved)
    return folder


def test_what_is_loaded_is_what_was_saved(saved: Path) -> None:
    loaded = weights.load(saved)
    assert loaded.config == models.PRESETS["cran-tiny"]
    expected = make().state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name].half().float()), name
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_file_is_half_the_size_of_its_floats(saved: Path) -> None:
    numbers = sum(value.numel() for value in make().state_dict().values())
    assert 2 * numbers < saved.stat().st_size < 2 * numbers + 16_000


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    for turn in range(3):
        again = tmp_path / f"{turn}.safetensors"
        save(again, make())
        assert again.read_bytes() == saved.read_bytes()


def test_the_header_says_what_is_in_it(saved: Path) -> None:
    info = weights.load_with_info(saved)[1]
    assert (info.name, info.family, info.licence) == ("tiny", "cran-published", "MIT")
    assert info.metrics == {"psnr": 30.5} and info.extra == {"steps": 7}
    assert info.parameters == sum(p.numel() for p in make().parameters())


def test_no_other_config_sneaks_in(tmp_path: Path) -> None:
    config = dataclasses.replace(models.PRESETS["cran-tiny"], scheme="frame", output="direct")
    path = tmp_path / "frame.safetensors"
    save(path, models.build(config))
    assert weights.load(path).config == config


Damage = Callable[[Path], None]

# Fields of version 0.1, each with the value of what there is now.
BEFORE: dict[str, Any] = {
    "hearing": older_weights.REMOVED_FIELDS["cran"]["hearing"],
    **{"mover": "hybrid", "head": "free", "audio": "strided"},
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("these are no weights\n" * 50)


def missing(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def no_header(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)


def edit_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = safetensors.torch.load(path.read_bytes())
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["talkingface"])
    change(header)
    safetensors.torch.save_file(tensors, path, {"talkingface": json.dumps(header)})


def unknown_family(path: Path) -> None:
    edit_header(path, lambda header: header["config"].update(family="gan"))


def unknown_field(path: Path) -> None:
    edit_header(path, lambda header: header["config"].update(wings=2))


def no_config(path: Path) -> None:
    edit_header(path, lambda header: header.pop("config"))


def a_later_format(path: Path) -> None:
    edit_header(path, lambda header: header.update(format=99))


def other_sizes(path: Path) -> None:
    edit_header(path, lambda header: header["config"].update(hidden=24))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = safetensors.torch.load(path.read_bytes())
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata)


def a_tensor_less(path: Path) -> None:
    edit_tensors(path, lambda tensors: tensors.pop("speech_mean"))


def a_tensor_more(path: Path) -> None:
    edit_tensors(path, lambda tensors: tensors.update(surprise=torch.zeros(2)))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "not a whole safetensors file"),
        (empty, "not a whole safetensors file"),
        (text, "not a whole safetensors file"),
        (missing, "No such file"),
        (a_folder, "directory"),
        (no_header, "without a 'talkingface' header"),
        (no_config, "describes no model of this version"),
        (unknown_family, "describes no model of this version"),
        (unknown_field, "wings"),
        (a_later_format, "another format than 1"),
        (other_sizes, "its header's model needs"),
        (a_tensor_less, "speech_mean is missing"),
        (a_tensor_more, "surprise is (2,), its header's model needs no such tensor"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_damaged_file_is_refused_by_name(saved: Path, damage: Damage, says: str) -> None:
    damage(saved)
    with pytest.raises(BadWeights) as caught:
        weights.load(saved)
    assert str(saved) in str(caught.value) and says in str(caught.value)
    assert "\n" not in str(caught.value)


def as_before(path: Path, **changed: object) -> None:
    """Write the config of `path` as version 0.1 did, with some of its fields changed."""
    before = {**BEFORE, "family": "cran", **changed}
    edit_header(path, lambda header: header["config"].update(before))


def test_a_file_of_the_version_before_is_the_same_model(saved: Path) -> None:
    expected = weights.load(saved).state_dict()
    as_before(saved)
    loaded = weights.load(saved)
    assert loaded.config == models.PRESETS["cran-tiny"]
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_a_file_whose_at_net_says_which_points_it_moves_is_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "atvg.safetensors"
    weights.save(path, weights.load("atvg-tiny"), training_data="none", licence="MIT")
    expected = weights.load(path)
    edit_header(path, lambda header: header["config"].setdefault("at", {}).update(points="all"))
    assert weights.load(path).config == expected.config
    edit_header(
        path, lambda header: header["config"].setdefault("at", {}).update(points="speaking")
    )
    with pytest.raises(BadWeights, match=r'needs at\.points="speaking", which version 0\.2\.0'):
        weights.load(path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"mover": "at"}, 'mover="at"'),
        ({"audio": "sequence"}, 'audio="sequence"'),
        ({"head": "drawn"}, 'head="drawn"'),
        ({"hearing": {**BEFORE["hearing"], "taught": "fixed"}}, "hearing="),
        ({"speech": {"kind": "raw", "coefficients": 400}}, "speech of the kind raw"),
        ({"speech": {"kind": "both", "coefficients": 69}}, "speech of the kind both"),
        ({"speech": {"kind": "phones", "coefficients": 48}}, "speech of the kind phones"),
        ({"family": "detail"}, "the family detail"),
        ({"family": "lipreader-sentences"}, "the family lipreader-sentences"),
    ],
)
def test_a_file_that_needs_what_was_removed_is_refused(
    saved: Path, changed: dict[str, object], says: str
) -> None:
    as_before(saved, **changed)
    with pytest.raises(BadWeights, match=r"which version 0\.2\.0 removed") as caught:
        weights.load(saved)
    assert f"{saved}: needs " in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_numbers_that_do_not_fit_are_not_saved(tmp_path: Path, bad: float) -> None:
    model = make()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = bad
    with pytest.raises(BadWeights, match="float16"):
        save(tmp_path / "bad.safetensors", model)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_earlier_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        save(saved, make(seed=2))
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_shipped_weights_are_loaded_by_name(shipped: Path) -> None:
    model, info = weights.load_with_info("tiny-one")
    assert info.name == "tiny-one" and len(info.sha256) == 64
    assert model.config == models.PRESETS["cran-tiny"]
    assert [info.name for info in weights.listing()] == [
        *("tiny-one", "still", "cran-tiny", "atvg-tiny")
    ]


def test_a_changed_shipped_file_is_refused(shipped: Path) -> None:
    path = shipped / "tiny-one.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # still a whole safetensors file, one bit off
    path.write_bytes(data)
    assert isinstance(weights.load(path), nn.Module)
    with pytest.raises(BadWeights, match="sha256"):
        weights.load("tiny-one")


def test_an_unknown_name_gets_a_hint(shipped: Path) -> None:
    with pytest.raises(UnknownModel, match=r"did you mean 'tiny-one'\?.*still, cran-tiny"):
        weights.load("tiny-On")
    with pytest.raises(UnknownModel, match="known: tiny-one, still"):
        weights.load("zzz")
    with pytest.raises(UnknownModel, match="preset without trained weights"):
        weights.load("cran-paper")


def test_names_without_a_file_are_the_same_every_time() -> None:
    torch.manual_seed(3)
    first = weights.load("cran-tiny")
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1)), "loading must not touch the caller's random numbers"
    second = weights.load("cran-tiny").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.state_dict().items())


def test_what_ships_is_whole_named_and_small() -> None:
    infos = [info for info in weights.listing() if info.path is not None]
    files = sorted(path.name for path in weights.SHIPPED.glob("*.safetensors"))
    assert files == sorted(info.path.name for info in infos if info.path)
    package = Path(weights.__file__).parent
    assert sum(path.stat().st_size for path in package.rglob("*.safetensors")) < 64 * 2**20
    for info in infos:
        assert info.licence and info.training_data and info.metrics, info.name
