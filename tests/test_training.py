"""The training loop and its recipes: exact resume, averages, what a loss trains, lip readers."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Cli
from helpers.corpus import landmarks as face_points
from helpers.corpus import write_cache
from talkingface import models, video, weights
from talkingface.data import shards
from talkingface.data.dataset import Cache
from talkingface.errors import BadShard
from talkingface.evaluation import detection
from talkingface.landmarks import IBUG
from talkingface.models.atvg_published import AtConfig, PublishedAtvg
from talkingface.models.blocks import base_grid
from talkingface.models.cran import CranConfig
from talkingface.models.discriminators import SMALL_REGRESSION_DISCRIMINATOR
from talkingface.models.lipreader import (
    GRID_WORDS,
    MouthSpec,
    PublishedReaderConfig,
    SmallReaderConfig,
    cut_words,
)
from talkingface.training import loop, parallel, presets, reading
from talkingface.training.atvg import AtvgRecipe, AtvgTraining
from talkingface.training.cran import CranRecipe, still_head
from talkingface.training.generator import Stage, _frozen
from talkingface.training.loop import EMA, LoopOptions
from talkingface.training.network import one_cycle
from talkingface.training.reading import MouthAugment, ReadingRecipe, ReadingTraining

TINY_READER = PublishedReaderConfig(
    mouth=MouthSpec(height=16, width=16), channels=(4, 4, 4), feature=8, hidden=8
)
EVERY_STEP = LoopOptions(log_every=1, save_every=3, validate_every=100)


@pytest.fixture(scope="module")
def reader_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    torch.manual_seed(1)
    reader = reading.build_reader(TINY_READER)
    weights.save(path, reader, training_data="none", licence="MIT")
    return path


def make_reading(cache: Cache, reader: Path) -> ReadingRecipe:
    return ReadingRecipe(ReadingTraining(TINY_READER, steps=7, batch=4), cache)


def make_cran(cache: Cache, reader: Path) -> CranRecipe:
    training = presets.shortened(presets.CRAN["cran-tiny"], (2, 2, 3))
    return CranRecipe(training, cache, reader=reader)


def make_atvg(cache: Cache, reader: Path) -> AtvgRecipe:
    return AtvgRecipe(presets.shortened(presets.ATVG["atvg-tiny"], (3, 4)), cache)


def make_published_atvg(cache: Cache) -> AtvgRecipe:
    """The published networks, tiny: AT-net is trained too, and VG-net generates the whole crop."""
    model = replace(
        models.PRESETS["atvg-paper"],
        at=AtConfig(audio_features=16, landmark_features=(8, 8), hidden=8, layers=1),
        vg=replace(models.PRESETS["atvg-paper"].vg, width=1 / 64),
    )
    drawing, both = presets.ATVG["atvg-tiny"].stages
    lips = Stage(2, {"lips": 1.0}, 1e-3, batch=2, frames=10, pictures=False)
    drawing = replace(drawing, steps=2, real_guide=1.0)
    both = replace(both, weights={**both.weights, "lips": 0.2}, real_guide=0.5)
    discriminator = replace(SMALL_REGRESSION_DISCRIMINATOR, size=(128, 128))
    stages = (lips, drawing, both)
    return AtvgRecipe(AtvgTraining(model, stages, regression_discriminator=discriminator), cache)


def make_mesh_cran(cache: Cache, scheme: Any) -> CranRecipe:
    """A tiny CRAN that corrects the warped picture, with fitted lips."""
    natural = scheme == "natural"
    tiny = CranConfig(
        scheme=scheme,
        audio_features=16,
        image_channels=(8, 8, 8),
        image_features=8,
        hidden=16,
        initial_channels=4,
        decoder_channels=(8, 8, 8),
        last_channels=8,
        mouth_region=(4, 124, 4, 124) if natural else (56, 128, 24, 104),
    )
    row = presets.CRAN["cran-natural" if natural else "cran"]
    stages = []
    for stage in row.stages:
        kept = {name: w for name, w in stage.weights.items() if name != "reading"}
        stages.append(replace(stage, weights=kept, steps=1, epochs=0, batch=2, frames=10))
    return CranRecipe(replace(row, model=tiny, stages=tuple(stages), reenacted=0.0), cache)


MAKERS = [
    pytest.param(make_reading, id="reading"),
    pytest.param(make_cran, id="cran-tiny"),
    pytest.param(make_atvg, id="atvg-tiny", marks=pytest.mark.slow),
]


def state_of(recipe: loop.Recipe) -> dict[str, Tensor]:
    """Return every number of every module and of the optimisers."""
    state = {
        f"{name}.{key}": value.clone()
        for name, module in recipe.modules.items()
        for key, value in module.state_dict().items()
    }
    for name, optimizer in recipe.optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            state |= {f"{name}/{index}/{key}": torch.as_tensor(v) for key, v in slots.items()}
    return state


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("make", MAKERS)
def test_killed_and_resumed_gives_the_same_bits(
    make: Any, cache: Cache, reader_file: Path, tmp_path: Path
) -> None:
    whole = make(cache, reader_file)
    assert loop.run(whole, tmp_path / "whole", EVERY_STEP) == 7
    killed = make(cache, reader_file)
    stopped = replace(EVERY_STEP, stop_after=5)  # the last checkpoint is of step 3
    assert loop.run(killed, tmp_path / "killed", stopped) == 5
    assert [row["step"] for row in log_of(tmp_path / "killed")] == [1, 2, 3, 4, 5]
    resumed = make(cache, reader_file)
    assert loop.run(resumed, tmp_path / "killed", EVERY_STEP) == 7
    assert_same_bits(state_of(whole), state_of(resumed))
    # what was written past the checkpoint is in the log once
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    exported = [
        (tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "killed")
    ]
    assert exported[0] == exported[1]


def test_means_of_the_log_are_the_same_where_checkpoints_fall_between_its_lines(
    cache: Cache, reader_file: Path, tmp_path: Path
) -> None:
    options = loop.LoopOptions(log_every=5, save_every=3, validate_every=100)
    loop.run(make_reading(cache, reader_file), tmp_path / "whole", options)
    stopped = replace(options, stop_after=4)
    loop.run(make_reading(cache, reader_file), tmp_path / "killed", stopped)
    loop.run(make_reading(cache, reader_file), tmp_path / "killed", options)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_a_finished_run_does_nothing(cache: Cache, reader_file: Path, tmp_path: Path) -> None:
    loop.run(make_reading(cache, reader_file), tmp_path, EVERY_STEP)
    log = log_of(tmp_path)
    again = make_reading(cache, reader_file)
    assert loop.run(again, tmp_path, EVERY_STEP) == 7
    assert log_of(tmp_path) == log


class Killed(BaseException):
    """Stands for a kill: no handler of errors catches it."""


@pytest.mark.parametrize("at", ["validate", "export"])
@pytest.mark.parametrize("validate_every", [3, 100])
def test_killed_after_the_last_checkpoint_still_writes_the_last_weights(
    cache: Cache,
    reader_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    validate_every: int,
) -> None:
    options = replace(EVERY_STEP, validate_every=validate_every)  # 3: there are earlier weights
    loop.run(make_reading(cache, reader_file), tmp_path / "whole", options)
    killed, folder = make_reading(cache, reader_file), tmp_path / "killed"

    def kill(*arguments: Any) -> Any:
        if loop.load_checkpoint(make_reading(cache, reader_file), folder / loop.CHECKPOINT) == 7:
            raise Killed
        return going_on(*arguments)

    going_on = getattr(killed, at)
    monkeypatch.setattr(killed, at, kill)
    with pytest.raises(Killed):
        loop.run(killed, folder, options)
    assert (folder / loop.WEIGHTS).exists() == (validate_every == 3)
    for _ in range(2):
        assert loop.run(make_reading(cache, reader_file), folder, options) == 7
        for name in (loop.WEIGHTS, "log.jsonl"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_another_runs_checkpoint_is_refused(
    cache: Cache, reader_file: Path, tmp_path: Path
) -> None:
    loop.run(make_reading(cache, reader_file), tmp_path, EVERY_STEP)
    other = replace(ReadingTraining(TINY_READER), reader=replace(TINY_READER, hidden=12))
    with pytest.raises(BadShard, match=r"checkpoint\.pt does not fit this recipe"):
        loop.run(ReadingRecipe(other, cache), tmp_path, EVERY_STEP)


def test_a_checkpoint_of_an_older_version_goes_on(
    cache: Cache, reader_file: Path, tmp_path: Path
) -> None:
    recipe, path = make_cran(cache, reader_file), tmp_path / "checkpoint.pt"
    loop.save_checkpoint(recipe, path, 3)
    state = torch.load(path, weights_only=True)
    for part in ("modules", "optimizers"):  # names of version 0.1
        state[part] = {n.replace("_discriminator", "_critic"): v for n, v in state[part].items()}
    reader = state["modules"]["reader"]
    state["modules"]["reader"] = {n.replace("classifier.", "answer."): v for n, v in reader.items()}
    assert "image_critic" in state["modules"] and "answer.bias" in state["modules"]["reader"]
    torch.save(state, path)
    again = make_cran(cache, reader_file)
    assert loop.load_checkpoint(again, path) == 3
    assert_same_bits(state_of(recipe), state_of(again))


def test_time_is_over(cache: Cache, reader_file: Path, tmp_path: Path) -> None:
    recipe = make_reading(cache, reader_file)
    assert loop.run(recipe, tmp_path, replace(EVERY_STEP, minutes=0.0)) == 1
    assert loop.load_checkpoint(make_reading(cache, reader_file), tmp_path / "checkpoint.pt") == 1


def test_the_log_has_means(tmp_path: Path) -> None:
    log = loop._Log(tmp_path / "log.jsonl", 0)
    for step, value in enumerate((1.0, 2.0, 6.0), start=1):
        later = {"discriminator": 0.5} if step == 3 else {}  # of a stage that has just begun
        log.add({"loss": value, **later})
    log.flush(3)
    assert log_of(tmp_path) == [{"step": 3, "loss": 3.0, "discriminator": 0.5}]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone gives memory back")
@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bfloat16_where_the_cpu_has_it(
    has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx512f" + " avx512_bf16" * has + "\n", encoding="utf-8")
    monkeypatch.setattr(loop, "CPU_INFO", info)
    cpu = torch.device("cpu")
    assert loop.chosen("auto", cpu) == ("bfloat16" if has else "float32")
    assert loop.chosen("auto", torch.device("cuda")) == "bfloat16"
    assert {loop.chosen("float32", cpu), loop.chosen("bfloat16", cpu)} == {"float32", "bfloat16"}
    info.unlink()
    assert loop.chosen("auto", cpu) == "float32"  # nobody knows


@pytest.mark.slow
def test_big_buffers_stay_with_the_process() -> None:
    work = """
import resource, torch
from talkingface.training import loop
loop.configure_malloc()
for step in range(25):
    torch.ones(10_000_000).add_(step)  # 9,800 pages
    if step in (4, 24):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
    command = [sys.executable, "-c", work]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    early, late = map(int, ran.stdout.split())
    assert late - early < 3 * 9_800  # of 20 times as many; the heap may grow once or twice


def test_the_average_is_exponential() -> None:
    source, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    average = EMA(source, target, decay=0.5)
    expected = np.ones(2)
    for step, value in enumerate((3.0, -1.0, 7.0)):
        with torch.no_grad():
            source.weight.fill_(value)
            source.running_mean.fill_(value)  # type: ignore[union-attr]
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert np.allclose(target.weight.numpy(), expected)
        assert target.running_mean is not None and target.running_mean.tolist() == [value] * 2
    assert not target.weight.requires_grad and not target.training


# --- the generator's recipe -----------------------------------------------------------------------


def copies(recipe: CranRecipe) -> dict[str, dict[str, Tensor]]:
    return {name: copy.deepcopy(m.state_dict()) for name, m in recipe.modules.items()}


def changed(recipe: CranRecipe, before: dict[str, dict[str, Tensor]]) -> set[str]:
    """Return the modules with a changed parameter."""
    return {
        name
        for name, module in recipe.modules.items()
        if any(not torch.equal(p, before[name][key]) for key, p in module.named_parameters())
    }


def test_every_loss_is_there_and_everybody_learns_in_its_stage(
    cache: Cache, reader_file: Path
) -> None:
    recipe = make_cran(cache, reader_file)
    discriminators = {"discriminator/image", "discriminator/video"}
    expected = [
        (0, {"lips"}, {"model", "ema"}),
        (2, {"pixels", "gradient", "lips"}, {"model", "ema"}),
        (
            4,
            {"pixels", "gradient", "lips", "image", "video", "reading"} | discriminators,
            {"model", "ema", "image_discriminator", "video_discriminator"},
        ),
    ]
    for step, names, learn in expected:
        before = copies(recipe)
        losses = recipe.step(recipe.batch(step), step)
        assert set(losses) == names, step
        assert all(np.isfinite(value) for value in losses.values())
        assert changed(recipe, before) == learn  # the frozen reader never


@pytest.mark.parametrize("form", ["printed", "bounded"])
def test_the_reader_learns_where_it_is_an_adversary(
    cache: Cache, reader_file: Path, form: Any
) -> None:
    training = presets.shortened(presets.CRAN["cran-tiny"], (2, 2, 20))
    recipe = CranRecipe(replace(training, reading=form), cache, reader=reader_file)
    before = copies(recipe)
    worded = (step for step in range(4, recipe.steps) if bool((recipe.batch(step).word >= 0).any()))
    step = next(worded)  # a batch without a word trains no reader
    losses = recipe.step(recipe.batch(step), step)
    assert "discriminator/reading" in losses and "reader" in changed(recipe, before)


def test_discriminators_get_no_gradient_from_the_generators_step(
    cache: Cache, reader_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_cran(cache, reader_file)
    monkeypatch.setattr(recipe, "_discriminators", lambda *arguments: {})
    before = copies(recipe)
    recipe.step(recipe.batch(4), 4)
    discriminators = ("image_discriminator", "video_discriminator", "reader")
    for name in discriminators:
        parameters = list(recipe.modules[name].parameters())
        assert all(p.grad is None for p in parameters), name
        assert all(p.requires_grad for p in parameters), name
        buffers = dict(recipe.modules[name].named_buffers())  # norms have not moved either
        assert all(torch.equal(value, before[name][key]) for key, value in buffers.items())
    assert any(p.grad is not None for p in recipe.model.parameters())


def test_a_discriminator_held_still_still_passes_gradients_on() -> None:
    layer, seen = nn.Linear(3, 1), torch.ones(2, 3, requires_grad=True)
    discriminator, weight = nn.Sequential(layer, nn.Dropout(0.5)), layer.weight
    with _frozen(discriminator):
        discriminator(seen).sum().backward()
    assert seen.grad is not None and torch.allclose(seen.grad, weight.detach().expand(2, 3))
    assert weight.grad is None and weight.requires_grad


def test_the_total_is_the_weighted_sum_and_an_ablation_a_missing_key(
    cache: Cache, reader_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = presets.shortened(presets.CRAN["cran-tiny"], (2, 2, 3))
    stage = training.stages[2]
    without = {name: w for name, w in stage.weights.items() if name != "reading"}
    stages = (*training.stages[:2], replace(stage, weights=without))
    recipe = CranRecipe(replace(training, stages=stages), cache, reader=reader_file)
    totals: dict[str, float] = {}
    monkeypatch.setattr(recipe, "_update", lambda name, loss: totals.update({name: loss.item()}))
    losses = recipe.step(recipe.batch(4), 4)
    assert "reading" not in losses
    assert totals["model"] == pytest.approx(sum(w * losses[name] for name, w in without.items()))


@pytest.mark.parametrize(
    "at_net", ["expression", pytest.param("published", marks=pytest.mark.slow)]
)
def test_at_net_and_vg_net_learn_in_their_stages(
    cache: Cache, reader_file: Path, at_net: str
) -> None:
    """Fitted lips are frozen; the published AT-net is trained."""
    drawing = {"pixels", "gradient", "score", "regression"}
    discriminator = {
        "discriminator/score",
        "discriminator/regression_real",
        "discriminator/regression_fake",
    }
    both = (
        drawing | discriminator | {"image", "video", "discriminator/image", "discriminator/video"}
    )
    if at_net == "expression":
        recipe = make_atvg(cache, reader_file)
        expected = [(0, drawing | discriminator, {"vg"}), (3, both, {"vg"})]
    else:
        recipe = make_published_atvg(cache)
        expected = [
            (0, {"lips"}, {"at"}),
            (2, drawing | discriminator, {"vg"}),
            (4, both | {"lips"}, {"at", "vg"}),
        ]
    torch.manual_seed(0)
    for step, names, learn in expected:
        before = {k: p.clone() for k, p in recipe.model.named_parameters()}
        judge = copy.deepcopy(recipe.regression.state_dict())
        losses = recipe.step(recipe.batch(step), step)
        assert set(losses) == names, step
        assert all(np.isfinite(value) for value in losses.values())
        moved = {k for k, p in recipe.model.named_parameters() if not torch.equal(p, before[k])}
        assert {k.split(".")[0] for k in moved} == learn, step
        learned = any(
            not torch.equal(v, judge[k]) for k, v in recipe.regression.state_dict().items()
        )
        assert learned == ("score" in names)


@pytest.mark.parametrize("scheme", ["recurrent", "natural"])
def test_a_decoder_learns_to_correct_real_meshes(cache: Cache, scheme: str) -> None:
    """Fitted lips and the sampling of head motion are frozen; heads are still in frames."""
    recipe = make_mesh_cran(cache, scheme)
    drawn: list[tuple[Any, ...]] = []
    draw = recipe.model.draw_region

    def spy(*arguments: Any, **named: Any) -> Any:
        made, state = draw(*arguments, **named)
        drawn.append((named["meshes"], made.mesh))
        return made, state

    recipe.model.draw_region = spy
    drawing = {"pixels", "gradient"}
    judged = drawing | {"image", "video", "discriminator/image", "discriminator/video"}
    expected = [drawing, judged]
    for step, names in enumerate(expected):
        before = {k: v.clone() for k, v in recipe.model.state_dict().items()}
        losses = recipe.step(recipe.batch(step), step)
        assert set(losses) == names, step
        assert all(np.isfinite(value) for value in losses.values())
        after = recipe.model.state_dict()
        moved = {k.split(".")[0] for k, v in after.items() if not torch.equal(v, before[k])}
        assert not moved & {"readout", "prosody", "head_output"}
        assert "decoder" in moved
    assert len(drawn) == 2 and all(torch.equal(real, mesh) for real, mesh in drawn)


def test_a_head_is_laid_where_the_portraits_is(cache: Cache) -> None:
    recipe = make_mesh_cran(cache, "natural")
    batch = recipe.batch(0).to("cpu")
    assert batch.portrait.mesh is not None
    own = batch.portrait.mesh[:, None].expand_as(batch.mesh)
    angle, middle = torch.tensor(0.1), torch.tensor([0.5, 0.4])
    turn = 1.05 * torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    grid = base_grid(128, 128).expand(2, -1, -1, -1) / 2 + 0.5
    back = (grid - middle - 0.02) @ torch.linalg.inv(turn).T + middle
    picture = torch.nn.functional.interpolate(
        batch.frames[:, 0, :, ::16, ::16], (128, 128), mode="bicubic"
    )
    moved = torch.nn.functional.grid_sample(picture, back * 2 - 1, "bicubic", "border", False)
    shape = batch.frames.shape
    turned = replace(
        batch,
        mesh=(own - middle) @ turn.T + middle + 0.02,
        frames=moved[:, None].expand(shape),
        before=moved,
    )
    still = still_head(turned)
    torch.testing.assert_close(still.mesh, own, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        still.landmarks, own[:, :, torch.from_numpy(IBUG)], atol=1e-5, rtol=0
    )
    for frames in (still.frames[:, 3], still.before):
        error = (frames - picture).abs()[..., 24:-24, 24:-24]
        assert float(error.mean()) < 0.02 < float((moved - picture).abs().mean())


@pytest.mark.slow
def test_the_exported_gain_makes_lips_open_as_far_as_real_ones(
    cache: Cache, reader_file: Path, tmp_path: Path
) -> None:
    recipe = make_published_atvg(cache)
    with torch.no_grad():
        recipe.ema.at.to_coefficients.weight.mul_(20)

    def spread() -> tuple[float, float]:
        own: list[np.ndarray] = []
        true: list[np.ndarray] = []
        for _, _, landmarks, made in recipe._held_out_clips():
            assert made[""].landmarks is not None
            for curves, points in ((own, made[""].landmarks[0]), (true, landmarks)):
                gap = (points[:, 66, 1] - points[:, 62, 1]).numpy()
                curves.append(gap - gap.mean())
        return float(np.concatenate(own).std()), float(np.concatenate(true).std())

    own, true = spread()
    recipe.ema.at.to_coefficients.weight.mul_(true / own / 1.1)  # a tenth too little
    path = tmp_path / "weights.safetensors"
    recipe.export(path, 1, {})
    own, true = spread()
    assert own == pytest.approx(true, rel=1e-3)
    model, info = weights.load_with_info(path)
    assert info.metrics["gain"] == pytest.approx(1.1, rel=1e-3)
    assert isinstance(model, PublishedAtvg)
    assert float(model.at.gain) == pytest.approx(1.1, rel=1e-2)  # half precision in the file


# --- the readers' recipe --------------------------------------------------------------------------


def test_batches_are_a_function_of_the_step(cache: Cache, reader_file: Path) -> None:
    first, second = make_reading(cache, reader_file), make_reading(cache, reader_file)
    a, b = first.batch(3), second.batch(3)
    assert torch.equal(a.mouths, b.mouths) and torch.equal(a.words, b.words)
    assert not torch.equal(a.mouths[0], first.batch(4).mouths[0])


def test_an_epoch_has_every_word_once(cache: Cache) -> None:
    training = ReadingTraining(TINY_READER, batch=5, augment=reading.NO_AUGMENTATION)
    recipe = ReadingRecipe(training, cache)
    assert len(recipe.words) == 30 and len(recipe.held_out) == 5
    seen = [int(word) for step in range(6) for word in recipe.batch(step).words]
    assert sorted(seen) == sorted(word.index for word in recipe.words)
    # without augmentation the second epoch shows the same pictures, in another order
    second = [int(word) for step in range(6, 12) for word in recipe.batch(step).words]
    assert sorted(second) == sorted(seen) and second != seen


def test_the_two_readers_share_no_sentence(cache: Cache) -> None:
    halves = [
        {
            w.clip.key
            for w in ReadingRecipe(ReadingTraining(TINY_READER, corpus_half=h), cache).words
        }
        for h in ("first", "second", "both")
    ]
    assert halves[0] and halves[1] and not halves[0] & halves[1]
    assert halves[0] | halves[1] == halves[2]
    trainer, judge = presets.READING["trainer"], presets.READING["judge"]
    assert {trainer.corpus_half, judge.corpus_half} == {"first", "second"}
    assert type(trainer.reader) is not type(judge.reader) and trainer.seed != judge.seed


def test_an_unchanged_word_is_cut_from_the_clip(cache: Cache) -> None:
    word = reading.words_of(cache.split("train")[0], cache.word_index)[2]
    rows = slice(word.clip.start, word.clip.start + word.clip.frames)
    expected, lengths = cut_words(
        video.to_tensor(np.array(cache.frames[rows]))[None],
        torch.from_numpy(cache.landmarks[rows].copy())[None],
        torch.tensor([[word.first, word.last]]),
        TINY_READER.mouth,
    )
    cut = reading.cut_word(cache, word, TINY_READER.mouth)
    assert len(cut) == int(lengths[0]) == word.last - word.first + 4
    assert torch.allclose(cut, expected[0], atol=1e-6)
    still = MouthAugment(0, 0, 1.0, 0, 0, 0, 0)  # the mirror alone
    mirrored = reading.cut_word(cache, word, TINY_READER.mouth, still, np.random.default_rng(0))
    assert torch.allclose(mirrored, expected[0].flip(-1), atol=1e-6)


def test_a_changed_word_keeps_its_size_and_range(cache: Cache) -> None:
    for seed, word in enumerate(reading.words_of(cache.split("train")[0], cache.word_index) * 4):
        rng = np.random.default_rng(seed)
        cut = reading.cut_word(cache, word, TINY_READER.mouth, MouthAugment(), rng)
        assert cut.shape[1:] == (1, 16, 16) and 1 <= len(cut) <= word.last - word.first + 6
        assert float(cut.abs().max()) <= 1


def test_the_rate_goes_up_and_down() -> None:
    training = ReadingTraining(TINY_READER, steps=100, rate=2e-3, warm_up=0.2)
    rates = [one_cycle(training, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.04 * 2e-3) and rates[20] == pytest.approx(2e-3)
    assert rates[60] == pytest.approx(1e-3) and rates[-1] < 1e-5
    assert int(np.argmax(rates)) == 20 and all(np.diff(rates[:21]) > 0)
    assert all(np.diff(rates[20:]) < 0)


def test_a_reader_learns_its_words(cache: Cache) -> None:
    training = ReadingTraining(TINY_READER, steps=40, batch=8, rate=0.02, smoothing=0.0)
    recipe = ReadingRecipe(training, cache)
    losses = [recipe.step(recipe.batch(step), step)["loss"] for step in range(40)]
    assert losses[0] > 3  # of 51 words nothing is known: log 51 = 3.9
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])  # of six seeds at most 0.5


@pytest.mark.parametrize("name", sorted(presets.READING))
def test_a_preset_can_be_saved_and_loaded(name: str, cache: Cache, tmp_path: Path) -> None:
    training = presets.READING[name]
    recipe = ReadingRecipe(training, cache)
    path = tmp_path / "weights.safetensors"
    recipe.export(path, 3, {"top1": 0.5})
    loaded, info = weights.load_with_info(path)
    assert loaded.config == training.reader and info.metrics == {"top1": 0.5}
    assert info.extra["half"] == training.corpus_half and "words of" in info.training_data


def test_reading_accuracy_counts_words(cache: Cache) -> None:
    recipe = ReadingRecipe(ReadingTraining(TINY_READER), cache)
    bias = dict(recipe.network.named_parameters())["classifier.bias"]
    bias.data[recipe.held_out[0].index] = 1e4  # always says the first word
    measures = reading.read_accuracy(recipe.network, cache, recipe.held_out)
    assert measures["top1"] == pytest.approx(1 / 5)
    assert reading.read_accuracy(recipe.network, cache, []) == {}
    assert recipe.network.training


def renamed(folder: Path, names: dict[str, str]) -> Path:
    """The small corpus with other words instead of some of GRID's."""
    write_cache(folder)
    rows = json.loads((folder / "clips.json").read_text())
    for row in rows:
        row["words"] = [(names.get(w, w), a, b) for w, a, b in row["words"]]
    (folder / "clips.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.slow
def test_a_reader_knows_the_words_of_its_corpus(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = np.zeros((1, 68, 2)) + face_points(4)  # faces of noise need no looking for
    monkeypatch.setattr(detection, "detect", lambda frames: np.repeat(found, len(frames), 0))
    corpus = renamed(tmp_path / "corpus", {"bin": "about", "two": "young"})
    words = ("about", "at", "blue", "f", "young")
    assert Cache(corpus).vocabulary == words
    assert Cache(corpus).word_index["young"] == 4
    assert Cache(renamed(tmp_path / "grid", {})).vocabulary == GRID_WORDS
    run = tmp_path / "run"
    trained = cli("train", "lipreader", corpus, "-o", run, "--preset", "tiny")
    assert trained.code == 0, trained.err
    reader, info = weights.load_with_info(run / "weights.safetensors")
    assert isinstance(reader.config, PublishedReaderConfig | SmallReaderConfig)
    assert reader.config.words == 5 and reading.vocabulary_of(info) == words
    own = ("train", "cran", corpus, "--preset", "cran-tiny", "--steps", "0,0,1", "-o")
    fits = cli(*own, tmp_path / "fits", "--reader", run / "weights.safetensors")
    assert fits.code == 0, fits.err
    shipped = Path(weights.__file__).parent / "shipped" / "lipreader.safetensors"
    other = cli(*own, tmp_path / "other", "--reader", shipped)
    assert other.code == 2 and "reads 51 words, the shards have 5 others" in other.err
    out, judge = tmp_path / "out", run / "weights.safetensors"
    ran = cli(
        *("evaluate", "--models", "cran-tiny", "--cache", corpus, "-o", out, "--judge", judge),
        *("--splits", "test", "--clips", 1, "--jobs", 1, "--experts", ""),
    )
    assert ran.code == 0 and "| chance | - | 20.0 | 100.0 |" in (out / "tables.md").read_text()


def test_without_word_times_there_is_nothing_to_read(cli: Cli, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_cache(corpus)
    rows = json.loads((corpus / "clips.json").read_text())
    (corpus / "clips.json").write_text(json.dumps([{**row, "words": []} for row in rows]))
    ran = cli("train", "lipreader", corpus, "-o", tmp_path / "run", "--preset", "tiny")
    assert ran.code == 2 and "no word with its times" in ran.err


def test_the_command_trains_and_goes_on(cli: Cli, cache: Cache, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_cache(corpus)
    first = cli("train", "lipreader", corpus, "-o", run, "--preset", "tiny", "--minutes", 0)
    assert first.code == 0 and "1 of 6 steps" in first.out, first
    second = cli("train", "lipreader", corpus, "-o", run, "--preset", "tiny")
    assert second.code == 0 and "6 of 6 steps" in second.out, second
    assert weights.load_with_info(run / "weights.safetensors")[1].family == "lipreader-published"
    third = cli("train", "lipreader", corpus, "-o", run, "--preset", "tiny", "--json")
    assert json.loads(third.out) == {"output": str(run), "steps": 6, "steps_in_all": 6}
    assert cli("train", "lipreader", corpus, "-o", run, "--preset", "tiny", "-q").out == ""
    wrong = cli("train", "lipreader", corpus, "-o", run, "--preset", "huge")
    assert wrong.code == 2 and "no preset is called 'huge'" in wrong.err


@pytest.mark.parametrize(
    "words",
    [
        ("lipreader", "--preset", "tiny"),
        ("cran", "--preset", "cran-tiny", "--without", "reading", "--steps", "1,1,1"),
    ],
)
def test_the_commands_take_shards_and_join_the_other_processes(
    cli: Cli, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    joined: list[torch.device] = []
    opened: list[Path] = []

    def join(device: torch.device) -> torch.device:
        joined.append(device)
        return device

    def open_shards(folder: Path, _: Path | None) -> Cache:
        opened.append(folder)
        return cache

    monkeypatch.setattr(parallel, "start_processes", join)
    monkeypatch.setattr(shards, "open_cache", open_shards)
    name, *options = words
    ran = cli("train", name, tmp_path / "shards", "-o", tmp_path / "run", *options)
    assert ran.code == 0, ran.err
    assert len(joined) == 1 and opened == [tmp_path / "shards"]
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_without_a_folder_for_temporary_files_it_is_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cache(tmp_path / "cache")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    ran = cli("train", "sync", tmp_path / "cache", "-o", tmp_path / "run", "--preset", "sync-tiny")
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert "no folder for temporary files can be written" in ran.err and "TMPDIR" in ran.err
