"""What is in a corpus: one function per corpus, from a folder to a list of recordings.

A recording says where its file is, who speaks, what is said and which split it belongs to, all by
names and by rule, so that everybody who prepares the corpus gets the same splits. Nothing is
decoded here. A new corpus is a new function and a row in `CORPORA`; docs/corpora.md says what of
each layout was checked, and where.
"""

from talkingface.data.sources.cremad import CREMAD, cremad
from talkingface.data.sources.grid import (
    GRID,
    LOMBARD_GRID,
    STRANGERS,
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
    "STRANGERS",
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
