"""Several processes, or several batches of one, give the result of one process and one batch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn

from conftest import Cli
from helpers.corpus import write_cache
from talkingface import weights
from talkingface.data.dataset import Cache, RawBatch, SampleConfig, clip_pool, prefetch
from talkingface.models.lipreader import MouthSpec, PublishedReaderConfig
from talkingface.training import loop, parallel, presets, reading
from talkingface.training.cran import CranRecipe, CranTraining
from talkingface.training.parallel import BatchIndex, MicroBatch, OptimizerGroup

ROOT = Path(__file__).parents[1]
READER = PublishedReaderConfig(
    mouth=MouthSpec(height=16, width=16), channels=(4, 4, 4), feature=8, hidden=8
)
TINY = ("--preset", "cran-tiny", "--set", "precision=float32", "--without", "reading")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_cache(folder)
    return folder


@pytest.fixture(scope="module")
def reader_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    torch.manual_seed(1)
    weights.save(path, reading.build_reader(READER), training_data="none", licence="MIT")
    return path


def training(batch: int, **changes: Any) -> CranTraining:
    row = presets.shortened(presets.CRAN["cran-tiny"], (2, 2, 8))
    stages = tuple(  # every loss weighs as much, so that a wrong one shows
        replace(stage, batch=batch, weights=dict.fromkeys(stage.weights, 1.0))
        for stage in row.stages
    )
    return replace(row, stages=stages, precision="float32", **changes)


def joined(parts: tuple[RawBatch, ...]) -> RawBatch:
    """Join several batches to one."""
    first, tensors = parts[0], [f.name for f in fields(RawBatch) if f.name != "count"]
    values: dict[str, Any] = {n: torch.cat([getattr(part, n) for part in parts]) for n in tensors}
    return replace(first, **values)


def noise_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch noise to depend on a sample's index in its batch of two, not on the batch's size."""

    def rand(*shape: Any, device: Any = None) -> Tensor:
        if shape == ((),):
            return torch.tensor(0.25)
        rows = torch.tensor([0.25, 0.75]).repeat(shape[0] // 2)
        return rows.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).clone()

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(torch, "randn", lambda *shape, device=None: rand(*shape) - 0.5)


def gradients(
    monkeypatch: pytest.MonkeyPatch, learn: Callable[[], None]
) -> dict[int, dict[str, Tensor]]:
    """Return each parameter's gradient before the step, by optimiser group in order of updates."""
    found: dict[int, dict[str, Tensor]] = {}

    def keep(learner: OptimizerGroup) -> None:
        found[len(found)] = {
            f"{index}.{name}": parameter.grad.clone()
            for index, module in enumerate(learner.modules)
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }

    monkeypatch.setattr(OptimizerGroup, "_update", keep)
    learn()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 2, 4, 5, 6])  # lips, pixels, discriminators with other words
def test_added_up_batches_are_one_batch(
    corpus: Path, reader_file: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Every gradient of two batches of two is that of one batch of four.

    A bias sums 4 x 10 x 72 x 80 = 230,400 numbers of float32 in another order: 6e-8 of their size
    each, so by chance sqrt(230,400) x 6e-8 = 3e-5 of the largest gradient. The
    real and fake halves of a fresh discriminator, 0.5 each, cancel to some 3e-4, which is off by
    2e-6.
    """
    cache = Cache(corpus)
    two = CranRecipe(training(2), cache, reader=reader_file)
    four = CranRecipe(training(4), cache, reader=reader_file)
    parts = tuple(two.batch(step, BatchIndex(number, 2)) for number in range(2))
    assert not torch.equal(parts[0].pictures, parts[1].pictures)
    if step >= 4:  # words are counted, not batches
        words = [torch.tensor(w) for w in ([3, -1], [5, 7])]
        parts = tuple(replace(p, word=w) for p, w in zip(parts, words, strict=True))
    noise_by_row(monkeypatch)

    def in_parts() -> None:
        for index, drawn in enumerate(parts):
            two.step(drawn, step, MicroBatch(index, parts))

    def whole() -> None:
        four.step(joined(parts), step)

    found = gradients(monkeypatch, in_parts)
    expected = gradients(monkeypatch, whole)
    assert len(found) == len(expected) == (1 if step < 4 else 3)
    for learner, values in expected.items():
        assert found[learner].keys() == values.keys()
        largest = max(float(value.abs().max()) for value in values.values())
        assert largest > 0
        for name, value in values.items():
            assert float((found[learner][name] - value).abs().max()) < 1e-4 * largest + 5e-6, name


def test_a_batch_counts_as_many_as_it_has() -> None:
    class Words:
        def __init__(self, count: int) -> None:
            self.count = count

    batches = tuple(map(Words, (1, 3, 0)))
    shares = [MicroBatch(i, batches).share(b, lambda b: b.count) for i, b in enumerate(batches)]
    assert shares == pytest.approx([0.75, 2.25, 0.0])
    assert parallel.WHOLE_STEP.share(Words(5), lambda b: b.count) == 1
    assert parallel.WHOLE_STEP.share(Words(0), lambda b: b.count) == 1  # a loss over nothing is 0


def test_weights_move_once_a_step() -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    learner, before = (
        OptimizerGroup([layer], [optimizer], most=100.0),
        layer.weight.detach().clone(),
    )
    for index, seen in enumerate(([2.0, 0.0], [0.0, 4.0])):
        learner.step(layer(torch.tensor(seen)).sum(), MicroBatch(index, (0, 1)))
        if index == 0:
            assert torch.equal(layer.weight, before)
    assert torch.allclose(layer.weight, before - torch.tensor([[1.0, 2.0]]))
    learner.step(layer(torch.ones(2)).sum())  # the next begins at zero
    assert torch.allclose(layer.weight, before - torch.tensor([[2.0, 3.0]]))
    with pytest.raises(RuntimeError, match="non-finite"):
        learner.step(layer(torch.full((2,), torch.nan)).sum())


def test_indices_number_all_batches_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processes", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        found += [parallel.batch_index(index, 2) for index in range(2)]
    assert found == [BatchIndex(number, 6) for number in range(6)]
    numbers = [index.global_number(step) for step in range(2) for index in found]
    assert numbers == list(range(12))


@pytest.mark.slow
def test_compiled_learns_the_same(
    cli: Cli, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced modules compute the same. The code generator, which takes minutes, is left out."""
    compiled: list[str] = []
    compile_one = torch.compile

    def traced(work: Any, **options: Any) -> Any:
        compiled.append(work.__name__)
        return compile_one(work, backend="eager", **options)

    def traced_module(module: nn.Module, **options: Any) -> None:
        compiled.append(type(module).__name__)

    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr(nn.Module, "compile", traced_module)
    command = ("train", "cran", corpus, *TINY, "--steps", "1,1,1", "-o")
    assert cli(*command, tmp_path / "plain").code == 0
    assert compiled == []
    assert cli(*command, tmp_path / "compiled", "--compile").code == 0
    assert compiled == [
        "encode",
        "predict_landmarks",
        "draw_region",
        "FrameDiscriminator",
        "VideoDiscriminator",
    ]
    plain, fused = state_of(tmp_path / "plain"), state_of(tmp_path / "compiled")
    for key, value in plain["modules"]["model"].items():
        assert torch.allclose(value, fused["modules"]["model"][key], atol=1e-6), key


def meeting(store: Any, ranks: range, many: int) -> list[str]:
    """Return the names that these ranks get, each in a thread."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(lambda own: parallel.rendezvous(store, own, many), ranks))


def test_a_restarted_process_joins_no_dead_one() -> None:
    store = distributed.HashStore()  # type: ignore[attr-defined]
    first = meeting(store, range(3), 3)
    assert len(set(first)) == 1
    second = meeting(store, range(3), 3)  # of the same store
    assert len(set(second)) == 1 and second[0] != first[0]
    # rank 0 published a name and died: others leave its rendezvous for the next one
    store.set("meeting", "dead")
    with ThreadPoolExecutor(3) as pool:
        late = [pool.submit(parallel.rendezvous, store, own, 3) for own in (1, 2)]
        time.sleep(3 * parallel.POLL)
        assert not any(found.done() for found in late)
        name = pool.submit(parallel.rendezvous, store, 0, 3).result(timeout=10)
        assert [found.result(timeout=10) for found in late] == [name, name]


# --- shares of the clips --------------------------------------------------------------------------


def test_each_index_has_its_own_clips_where_there_are_enough(corpus: Path) -> None:
    cache = Cache(corpus)
    one = cache.split("train")[0]
    clips = [
        replace(one, key=f"{speaker}{n}", speaker=speaker)
        for speaker, count in (("a", 96), ("b", 24))
        for n in range(count)
    ]
    config = SampleConfig(batch=2, frames=4)
    shares = [clip_pool(cache, clips, config, (number, 3)) for number in range(3)]
    keys = [{clip.key for clip in pool.speaking} for pool in shares]
    assert sum(map(len, keys)) == 120 and len(set.union(*keys)) == 120
    whole = clip_pool(cache, clips, config)
    for pool in (*shares, whole):  # speakers as often in each as in all
        mine = np.array([clip.speaker == "a" for clip in pool.speaking])
        assert pool.chances[mine].sum() == pytest.approx(2 / 3)
        assert pool.speakers == ("a", "b")
    few = clip_pool(cache, clips, config, (1, 4))
    assert few.speaking == clips  # 30 clips are less than sixteen batches of two


# --- prefetching ----------------------------------------------------------------------------------


def same(a: RawBatch, b: RawBatch) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(RawBatch)]
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in pairs)


@pytest.mark.slow
def test_processes_draw_what_a_thread_draws(corpus: Path, reader_file: Path) -> None:
    recipe = CranRecipe(training(2), Cache(corpus), reader=reader_file)
    thread = list(prefetch(recipe.batch, 3, 9))
    drawn = list(prefetch(recipe.batch, 3, 9, workers=2))
    assert len(thread) == len(drawn) == 6
    assert all(same(a, b) for a, b in zip(thread, drawn, strict=True))
    assert not same(drawn[0], drawn[1])


def _fail(step: int) -> int:
    if step == 2:
        raise ValueError("no such step")
    return step


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_fails_ahead_fails_in_its_turn(workers: int) -> None:
    steps = prefetch(_fail, 0, 4, workers)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(ValueError, match="no such step"):
        next(steps)


def _term_self(step: int) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return step


@pytest.mark.slow
def test_drawing_processes_outlive_sigterm() -> None:
    assert list(prefetch(_term_self, 0, 4, workers=2)) == [0, 1, 2, 3]


# --- stop signals ---------------------------------------------------------------------------------


def state_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return found


def assert_same_state(first: Path, second: Path) -> None:
    one, two = state_of(first), state_of(second)
    assert one["step"] == two["step"]
    for name, module in one["modules"].items():
        for key, value in module.items():
            assert torch.equal(value, two["modules"][name][key]), (name, key)
    for name, optimizer in one["optimizers"].items():
        for index, slots in optimizer["state"].items():
            for key, value in slots.items():
                assert torch.equal(value, two["optimizers"][name]["state"][index][key]), name


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint(
    cli: Cli, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", "cran", corpus, *TINY, "--steps", "1,2,1", "-o")
    assert cli(*command, tmp_path / "whole", "--workers", 1).code == 0
    step = CranRecipe.step

    def interrupted(
        recipe: CranRecipe, drawn: RawBatch, number: int, *part: Any
    ) -> dict[str, float]:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(recipe, drawn, number, *part)

    with monkeypatch.context() as patch:
        patch.setattr(CranRecipe, "step", interrupted)
        stopped = cli(*command, tmp_path / "run")
    assert stopped.code == 143 and "stopped after 3 of 4 steps" in stopped.err
    assert state_of(tmp_path / "run")["step"] == 3
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert cli(*command, tmp_path / "run").code == 0
    assert_same_state(tmp_path / "whole", tmp_path / "run")


def test_a_run_that_died_before_its_weights_makes_them(
    cli: Cli, corpus: Path, tmp_path: Path
) -> None:
    command = ("train", "cran", corpus, *TINY, "--steps", "1,1,0", "-o", tmp_path)
    assert cli(*command).code == 0
    made = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").unlink()
    assert cli(*command).code == 0
    assert (tmp_path / "weights.safetensors").read_bytes() == made


# --- several processes, through the real command line ---------------------------------------------


def launch(*arguments: object, output: Path) -> subprocess.Popen[bytes]:
    """Start `torchrun` with two processes."""
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    own = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *run, *map(str, arguments)],
            cwd=ROOT,
            env=own,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def finish(process: subprocess.Popen[bytes], output: Path) -> tuple[int, str]:
    try:
        return process.wait(timeout=240), output.read_text()
    finally:
        process.kill()


# The command line, in which rank 1 sends itself a signal at the third step of the first start.
DISTURBED = """
import os, signal, sys
from talkingface.cli import main
from talkingface.training import cran, reading
step = {recipe}.step
def disturbed(recipe, batch, number, *part):
    if os.environ["RANK"] == "1":
        print("step", number, "of process", os.getpid(), flush=True)
        if number == 2 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.{signal})
    return step(recipe, batch, number, *part)
{recipe}.step = disturbed
main(sys.argv[1:])
"""


def disturbed(folder: Path, recipe: str, name: str) -> Path:
    """Write DISTURBED for a recipe and a signal."""
    script = folder / "disturbed.py"
    script.write_text(DISTURBED.format(recipe=recipe, signal=name))
    return script


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_are_one_that_adds_up_two_batches(
    cli: Cli, corpus: Path, tmp_path: Path
) -> None:
    """Generator and discriminators agree through all stages.

    The agent restarts both processes, and they resume from the checkpoint. The mean of two numbers
    is the sum of their halves; another order of summing would change the last bits.
    """
    command = ("train", "cran", corpus, *TINY, "--steps", "1,2,2", "--save-every", 2, "-o")
    script, output = disturbed(tmp_path, "cran.CranRecipe", "SIGKILL"), tmp_path / "output"
    process = launch("--max-restarts", 1, script, *command, tmp_path / "two", output=output)
    code, said = finish(process, output)
    assert code == 0, said
    steps = re.findall(r"step (\d+) of process (\d+)", said)
    assert [number for number, _ in steps] == ["0", "1", "2", "2", "3", "4"]
    assert f"(pid: {steps[0][1]})" in said  # the agent saw it die
    assert said.count("5 of 5 steps") == 1  # one of them prints
    assert cli(*command, tmp_path / "added", "--accumulate", 2).code == 0
    assert cli(*command, tmp_path / "alone").code == 0
    two, added, alone = (state_of(tmp_path / name) for name in ("two", "added", "alone"))
    assert two["step"] == added["step"] == 5
    for name, module in two["modules"].items():
        for key, value in module.items():
            assert torch.allclose(value, added["modules"][name][key], rtol=1e-5, atol=1e-7), key
        if name != "reader":
            assert any(not torch.equal(v, alone["modules"][name][k]) for k, v in module.items())


@pytest.mark.slow
def test_a_stop_signal_of_one_stops_all(corpus: Path, tmp_path: Path) -> None:
    script = disturbed(tmp_path, "reading.ReadingRecipe", "SIGTERM")
    output, run = tmp_path / "output", tmp_path / "run"
    command = ("train", "lipreader", corpus, "--preset", "tiny", "-o", run)
    code, said = finish(launch(script, *command, output=output), output)
    assert code != 0 and "stopped after 3 of 6 steps" in said, said
    assert "exitcode  : 143" in said
    assert state_of(run)["step"] == 3


def test_time_is_told_by_the_first_process(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rank 0's clock stops the run: another's would leave the rest waiting."""
    recipe = reading.ReadingRecipe(presets.READING["tiny"], Cache(corpus))
    monkeypatch.setattr(loop, "rank", lambda: 1)
    assert loop.run(recipe, tmp_path, loop.LoopOptions(minutes=0.0)) == recipe.steps
    assert not list(tmp_path.iterdir())  # nor does it write
