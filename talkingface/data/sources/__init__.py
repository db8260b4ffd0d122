"""Corpora: one function per corpus, which lists the recordings of a folder.

A recording has its file, speaker, sentence and split. They follow from names by fixed rules, so
everyone who prepares the corpus gets the same splits. Nothing is decoded here. A new corpus is a
new function and a row in `CORPORA`. docs/corpora.md says which layouts were checked, and where.
"""

from talkingface.data.sources.cremad import CREMAD, cremad
from talkingface.data.sources.grid import (
    GRID,
    HELD_OUT_SPEAKERS,
    LOMBARD_GRID,
    grid,
    lombard_grid,
    read_alignment,
    sentence_of,
    sentence_split,
)
from talkingface.data.sources.lrw import LRW, lrw
from talkingface.data.sources.own import (
    OBAMA,
    VIDEOS_OF_ONES_OWN,
    obama,
    portraits,
    read_textgrid,
    videos,
)
from talkingface.data.sources.recording import UNKNOWN, Corpus, Recording
from talkingface.data.sources.tcdtimit import TCDTIMIT, read_master_labels, tcdtimit
from talkingface.data.sources.voxceleb import VOXCELEB1, VOXCELEB2, voxceleb1, voxceleb2

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        *(GRID, LOMBARD_GRID, LRW, VOXCELEB1, VOXCELEB2),
        *(TCDTIMIT, CREMAD, OBAMA, VIDEOS_OF_ONES_OWN),
    )
}

__all__ = [
    "CORPORA",
    "GRID",
    "HELD_OUT_SPEAKERS",
    "UNKNOWN",
    "Corpus",
    "Recording",
    "cremad",
    "grid",
    "lombard_grid",
    "lrw",
    "obama",
    "portraits",
    "read_alignment",
    "read_master_labels",
    "read_textgrid",
    "sentence_of",
    "sentence_split",
    "tcdtimit",
    "videos",
    "voxceleb1",
    "voxceleb2",
]
