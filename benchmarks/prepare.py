"""Cost of preparing a corpus: core-seconds and bytes of some clips, and of the whole corpus.

python benchmarks/prepare.py lrw LRW --clips 40 --of 538766

Clips are made in this process, on one thread, and written into a shard that is thrown away; time is
processor time, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from talkingface.data import shards, sources
from talkingface.data.extraction import ClipExtraction, clips_of
from talkingface.data.prepare import default_filters
from talkingface.workers import single_thread


def main() -> None:
    """Time some clips, evenly from the first to the last, and multiply."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("corpus", choices=sources.CORPORA)
    options.add_argument("folder", type=Path)
    options.add_argument("--clips", type=int, default=40, help="recordings to time")
    options.add_argument("--of", type=int, help="recordings of the whole corpus [those found]")
    given = options.parse_args()
    corpus = sources.CORPORA[given.corpus]
    began = time.perf_counter()
    recordings = corpus.find(given.folder, None)
    listing = time.perf_counter() - began
    places = np.linspace(0, len(recordings) - 1, min(given.clips, len(recordings))).round()
    chosen = [recordings[int(place)] for place in places]
    options = ClipExtraction(
        natural_pose=corpus.natural_pose,
        filters=default_filters(corpus.name),
        label=corpus.label,
    )
    with single_thread(), tempfile.TemporaryDirectory() as folder:
        clips_of(chosen[0], options)  # loads the networks
        path = Path(folder) / "shard-00000.tar"
        began = time.process_time()
        made = [part for recording in chosen for part in clips_of(recording, options)]
        clips = [part.clip for part in made if part.clip is not None]
        shards.write(path, clips)
        seconds, size = time.process_time() - began, path.stat().st_size
    frames = sum(len(clip.crops) for clip in clips)
    whole = given.of or len(recordings)
    share = whole / len(chosen)
    print(f"{len(recordings)} recordings listed in {listing:.2f} s")
    print(f"{len(chosen)} recordings: {len(made)} clips, {len(clips)} kept, {frames} frames")
    each, one = seconds / len(chosen), 1e3 * seconds / frames
    print(f"{each:.2f} core-seconds a recording, {one:.1f} ms a frame")
    print(f"{size / len(chosen) / 1e3:.0f} kB a recording, {size / frames / 1e3:.2f} kB a frame")
    hours, gigabytes = seconds * share / 3600, size * share / 1e9
    print(f"{whole} recordings: {hours:.0f} core-hours, {gigabytes:.0f} GB")


if __name__ == "__main__":
    main()
