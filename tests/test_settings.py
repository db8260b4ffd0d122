"""Every setting of every training by its dotted name, and the trainers' table."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Cli
from helpers.corpus import write_cache
from talkingface.errors import BadRequest
from talkingface.training import presets, settings
from talkingface.training.trainers import TRAINERS

ROWS = [
    pytest.param(row, id=f"{trainer}-{name}")
    for trainer, table in presets.PRESETS.items()
    for name, row in table.items()
]


def value_at(config: Any, name: str) -> Any:
    def inner(value: Any, part: str) -> Any:
        if isinstance(value, dict):
            return value[part]
        return value[int(part)] if isinstance(value, tuple) else getattr(value, part)

    return reduce(inner, name.split("."), config)


def text_of(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(text_of, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("row", ROWS)
def test_every_setting_of_every_preset_can_be_given(row: Any) -> None:
    names = settings.names(row)
    assert len(names) > 10 and not any(name.endswith("family") for name in names)
    same = [f"{name}={text_of(value_at(row, name))}" for name in names]
    assert settings.change(row, same) == row
    for item in same:
        assert settings.change(row, [item]) == row, item


@pytest.mark.parametrize(
    ("item", "name", "value"),
    [
        ("stages.1.steps=100", "stages.1.steps", 100),
        ("stages.0.weights.gradient=0.25", "stages.0.weights.gradient", 0.25),
        ("stages.0.schedule=constant", "stages.0.schedule", "constant"),
        ("model.mouth_region=8,120,8,120", "model.mouth_region", (8, 120, 8, 120)),
        ("model.decoder_channels=48,32", "model.decoder_channels", (48, 32)),
        ("stages.0.pictures=false", "stages.0.pictures", False),
        ("average=0.99", "average", 0.99),
        ("augment.tract=0.9,1.1", "augment.tract", (0.9, 1.1)),
        ("scheme=frame", "model.scheme", "frame"),  # of the model, by its name alone
        ("stages.*.lr=1e-4", "stages.1.lr", 1e-4),
    ],
)
def test_a_change_has_its_type_and_leaves_the_rest(item: str, name: str, value: Any) -> None:
    row = presets.CRAN["cran"]
    changed = settings.change(row, [item])
    assert value_at(changed, name) == value and type(value_at(changed, name)) is type(value)
    back = f"{name}={text_of(value_at(row, name))}"
    others = ["stages.0.lr=8e-4"] if "*" in item else []
    assert settings.change(changed, [back, *others]) == row


def test_losses_are_left_out_and_added() -> None:
    row = presets.choose(presets.CRAN, "cran", change=["stages.1.weights.image=none"])
    assert (
        "image" not in row.stages[1].weights and "image" in presets.CRAN["cran"].stages[1].weights
    )
    row = presets.choose(presets.CRAN, "cran", change=["stages.0.weights.image=0.1"])
    assert row.stages[0].weights["image"] == 0.1
    with pytest.raises(BadRequest, match=r"no loss is called 'imag'; known: gradient, image"):
        presets.choose(presets.CRAN, "cran", change=["stages.0.weights.imag=0.1"])
    whole = presets.choose(presets.CRAN, "cran", without=["image", "video"])
    assert set(whole.stages[1].weights) == {"pixels", "gradient", "reading"}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("model.hiden=4", r"no setting of model is called 'hiden'\. Did you mean model\.hidden\?"),
        (
            "stagse.0.steps=4",
            r"no setting is called 'stagse'\. Did you mean stages\? Known: model,",
        ),
        ("stages.2.steps=4", r"no setting of stages is called '2'\. Known: 0, 1"),
        ("model.hidden=wide", r"model\.hidden is a whole number, 0 or more, not 'wide'"),
        ("model.hidden=1.5", r"model\.hidden is a whole number, 0 or more, not '1\.5'"),
        ("stages.0.pictures=perhaps", r"stages\.0\.pictures is true or false, not 'perhaps'"),
        ("average=nan", r"average is a number, not 'nan'"),
        (
            "model.scheme=none",
            r"model\.scheme is one of frame, sequential, recurrent, natural, not",
        ),
        (
            "model.mouth_region=1,2,3",
            r"model\.mouth_region is 4 values with commas between, each a whole",
        ),
        (
            "model.image_channels=a",
            r"model\.image_channels is a list, with commas between, each a whole number",
        ),
        ("model=cran", r"model has parts: speech, crop, scheme"),
        ("average.x=1", r"average is one value, without further parts"),
        ("model.family=atvg", r"no setting of model is called 'family'"),
        ("stages.1.batch=0", r"batch is 1 at least, not 0"),
        ("stages.1.steps=-1", r"stages\.1\.steps is a whole number, 0 or more, not '-1'"),
        ("steps", r"give NAME=VALUE, as steps=100"),
        ("model.speech.hops=7", r"the lips and the model must hear the same features"),
    ],
)
def test_wrong_changes_are_named_with_what_is_known(item: str, said: str) -> None:
    with pytest.raises(BadRequest, match=rf"^--set {re.escape(item)}: {said}"):
        settings.change(presets.CRAN["cran"], [item])


def test_changes_that_need_each_other_are_made_together() -> None:
    items = ["model.speech.hops=7", "model.readout.speech.hops=7"]
    row: Any = settings.change(presets.CRAN["cran"], items)
    assert row.model.speech.hops == row.model.readout.speech.hops == 7


def test_a_name_of_two_parts_is_ambiguous() -> None:
    row = presets.ATVG["atvg"]
    with pytest.raises(BadRequest, match=r"Give model\.lips\.hidden or model\.vg\.hidden"):
        settings.change(row, ["hidden=4"])
    assert settings.change(row, ["recurrence=frame"]).model.vg.recurrence == "frame"


def test_every_trainer_has_its_presets_and_its_algorithm() -> None:
    assert {trainer.name for trainer in TRAINERS} == set(presets.PRESETS)
    for trainer in TRAINERS:
        table = presets.PRESETS[trainer.name]
        assert trainer.preset in table
        algorithms = presets.FITS if trainer.fits else presets.RECIPES
        assert all(type(row) in algorithms for row in table.values())
        shown = trainer.presets.replace("NAME-tiny", "chung-tiny chen-tiny zhou-tiny")
        for name in table if trainer.presets else ():
            assert re.search(rf"(?<![\w-]){name}(?![\w-])", shown) or name == "tiny", name


def test_the_commands_take_changes(cli: Cli, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_cache(corpus)
    command = ("train", "lipreader", corpus, "--preset", "tiny", "-o")
    ran = cli(*command, run, "--set", "steps=2", "--set", "reader.hidden=6", "--set", "batch=3")
    assert ran.code == 0 and "2 of 2 steps" in ran.out, ran
    state = torch.load(run / "checkpoint.pt", weights_only=True)["modules"]["reader"]
    assert any(value.shape == (24, 8) for value in state.values())  # an LSTM of 6, on features of 8
    wrong = cli(*command, run, "--set", "reader.hiden=6")
    assert wrong.code == 2 and "Did you mean reader.hidden?" in wrong.err
    cran = ("train", "cran", corpus, "--preset", "cran-tiny", "-o", tmp_path / "cran")
    drawn = cli(*cran, "--steps", "0,2", "--set", "stages.1.batch=1", "--set", "seed=3")
    assert drawn.code == 0, drawn.err
    assert len((tmp_path / "cran" / "log.jsonl").read_text().splitlines()) == 2


def test_a_loss_that_a_model_lacks_is_named(cli: Cli, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_cache(corpus)
    command = ("train", "cran", corpus, "--preset", "cran-tiny", "--steps", "0,1", "-o")
    ran = cli(*command, tmp_path / "run", "--without", "pixels")
    assert ran.code == 2 and "pixels" in ran.err and "Traceback" not in ran.err, ran.err


def test_weights_of_another_network_are_no_beginning(cli: Cli, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_cache(corpus)
    command = ("train", "cran", corpus, "--preset", "cran-tiny", "--steps", "0,1", "-o")
    ran = cli(*command, tmp_path / "run", "--init", "atvg")
    assert ran.code == 2 and "atvg: Atvg is no beginning for this training" in ran.err, ran.err
