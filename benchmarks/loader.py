"""Speed of the loader alone: python benchmarks/loader.py CACHE [--workers 0,1,2]

Batches of `cran`'s stage of pictures, drawn as a training draws them: core-seconds of a batch by
part (one thread), frames per second of one core, and how many cores 5,000 frames/s take; then
frames per second as they arrive, by a thread and by processes. CACHE: what `talkingface prepare`
wrote, or a cache. Work that is left to the training process, on its device, is timed beside.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from line import Line, append, context, table

from talkingface.data import dataset
from talkingface.data.dataset import Cache, clip_pool, prefetch
from talkingface.data.shards import open_cache
from talkingface.training import presets
from talkingface.training.generator import GeneratorTraining, Stage

WANTED = 5_000  # frames per second
# What a batch's time is made of: functions of `dataset`, and their part's name.
PARTS = {
    "_reenact": "puppets",
    "augment_faces": "augmentation of pictures",
    "_speech": "speech features, augmented",
    "_collate": "collate",
}
COLUMNS = ["part", "ms_per_frame", "share", "frames_per_second", "cores_for_5000"]
FEEDS = ["workers", "frames_per_second", "threads", "cores", "load"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cache", type=Path, help="shards, or a cache")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--workers", default="0,1,2", help="numbers of processes, 0: a thread")
    parser.add_argument("--out", type=Path, help="add JSON lines to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make = BatchSource(open_cache(options.cache))
    lines = parts(make, options.batches)
    print(table(lines, COLUMNS))
    arriving = [feed(make, options.batches, int(n)) for n in options.workers.split(",")]
    print("\n" + table(arriving, FEEDS))
    if options.out is not None:
        append(options.out, [*lines, *arriving])


class BatchSource:
    """Loader of a stage's batches by number; it can be pickled."""

    def __init__(self, cache: Cache) -> None:
        training: GeneratorTraining = presets.CRAN["cran"]
        stage: Stage = next(stage for stage in training.stages if stage.pictures)
        self.cache, self.spec = cache, training.model.speech
        self.config = dataset.SampleConfig(
            batch=stage.batch,
            frames=stage.frames,
            balance=training.balance,
            silent=training.silent,
            reenacted=training.reenacted,
            augment=training.augment,
        )
        self.pool = clip_pool(cache, cache.split("train"), self.config)
        self.frames = stage.batch * stage.frames

    def __call__(self, number: int) -> dataset.RawBatch:
        return dataset.sample_batch(self.cache, self.pool, self.spec, self.config, (0, number))


def parts(make: BatchSource, batches: int) -> list[Line]:
    """Return the processor time of a frame by part; the fastest repetition of a batch counts."""
    names = [*PARTS.values(), "floats (training process)"]
    best: list[dict[str, float]] = []
    for number in range(batches):
        repeated = [_timed(make, number) for _ in range(3)]
        best.append(min(repeated, key=lambda seconds: seconds["all"]))
    total = {name: sum(b[name] for b in best) / (batches * make.frames) for name in best[0]}
    rest = total["all"] - sum(total[name] for name in PARTS.values())
    rows = {**{name: total[name] for name in names}, "read, choose, the rest": rest}
    rows["drawing, all"] = total["all"]
    return [
        {
            "benchmark": "loader",
            "part": name,
            "ms_per_frame": seconds * 1e3,
            "share": seconds / total["all"],
            "frames_per_second": 1 / seconds if seconds else float("inf"),  # none in this cache
            "cores_for_5000": WANTED * seconds,
            **context(1),
        }
        for name, seconds in rows.items()
    ]


def _timed(make: BatchSource, number: int) -> dict[str, float]:
    """Return the seconds of one batch's parts."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return work(*arguments, **options)
            finally:
                seconds[name] += time.process_time() - began

        return call

    before = {name: getattr(dataset, name) for name in PARTS}
    for function, name in PARTS.items():
        seconds[name] = 0.0
        setattr(dataset, function, timed(name, before[function]))
    try:
        drawn = timed("all", make)(number)
    finally:
        for name, work in before.items():
            setattr(dataset, name, work)
    timed("floats (training process)", drawn.to)("cpu")
    return dict(seconds)


def feed(make: BatchSource, batches: int, workers: int) -> Line:
    """Return the frames per second that arrive once all workers have started."""
    count = batches * max(1, workers)
    arriving = prefetch(make, 0, count + 4 * max(1, workers), workers)
    for _ in range(2 * max(1, workers)):
        next(arriving)
    began = time.perf_counter()
    for _ in range(count):
        next(arriving)
    speed = count * make.frames / (time.perf_counter() - began)
    return {
        "benchmark": "loader",
        "workers": workers,
        "frames_per_second": speed,
        **context(torch.get_num_threads()),
    }


if __name__ == "__main__":
    main()
