"""Corpora: one function per corpus, which lists the recordings of a folder.

A recording has its file, speaker, sentence and split. They follow from names by fixed rules, so
everyone who prepares the corpus gets the same splits. Nothing is decoded here. A new corpus is a
new function and a row in `CORPORA`. docs/corpora.md says which layouts were checked, and where.
"""

from talkingface.data.sources.cremad import cremad
from talkingface.data.sources.grid import (
    LIPNET_UNSEEN,
    grid,
    label_lombard,
    lombard_grid,
    read_alignment,
    sentence_of,
    sentence_split,
)
from talkingface.data.sources.lrw import label_lrw, lrw
from talkingface.data.sources.own import label_videos, obama, portraits, read_textgrid, videos
from talkingface.data.sources.recording import Corpus, Recording
from talkingface.data.sources.tcdtimit import label_tcdtimit, tcdtimit
from talkingface.data.sources.voxceleb import voxceleb1, voxceleb2

_VOXCELEB = "VoxCeleb terms; the videos stay their owners'"

# fmt: off
GRID = Corpus(
    "grid", "GRID", "Cooke et al. 2006", "34 speakers, six-word sentences",
    "<speaker>/<clip>.mpg, alignments/<speaker>/<clip>.align",
    grid, "CC BY 4.0", groups={"unseen": LIPNET_UNSEEN, "atvg": ("s29",)},
)
_ALL = (
    GRID,
    Corpus(
        "lombard-grid", "Lombard GRID", "Alghamdi et al. 2018",
        "54 speakers, plain and raised voices",
        "lombardgrid/{front,audio,alignment}/<s>_<l|p>_<clip>.{mov,wav,json}",
        lombard_grid, "see zenodo.org/records/3736465", label_lombard,
    ),
    Corpus(
        "lrw", "Lip Reading in the Wild", "Chung and Zisserman 2016", "500 words, 29 frames each",
        "lipread_mp4/WORD/<train|val|test>/WORD_00001.mp4 and .txt",
        lrw, "BBC: non-commercial research under an agreement with the BBC", label_lrw,
    ),
    Corpus(
        "voxceleb1", "VoxCeleb1", "Nagrani et al. 2017",
        "1,251 identities; its video is one's own cut",
        "mp4/<id>/<video>/<utterance>.mp4, wav/<id>/<video>/<utterance>.wav",
        voxceleb1, _VOXCELEB,
    ),
    Corpus(
        "voxceleb2", "VoxCeleb2", "Chung et al. 2018", "6,112 identities, a million utterances",
        "<dev|test>/mp4/<id>/<video>/00001.mp4, <dev|test>/aac/.../00001.m4a",
        voxceleb2, _VOXCELEB,
    ),
    Corpus(
        "tcd-timit", "TCD-TIMIT", "Harte and Gillen 2015",
        "62 speakers, phonetically rich sentences",
        "volunteers/01M/Clips/straightcam/*.mp4, lipspeakers/Lipspkr1/..., *.mlf",
        tcdtimit, "TCD-TIMIT: research use, see sigmedia.tcd.ie", label_tcdtimit,
    ),
    Corpus(
        "crema-d", "CREMA-D", "Cao et al. 2014", "91 actors, twelve sentences, six emotions",
        "VideoFlash/1001_DFA_ANG_XX.flv, VideoDemographics.csv",
        cremad, "Open Database License (ODbL)",
    ),
    Corpus(
        "obama", "Obama's weekly addresses", "Suwajanakorn et al. 2017", "one person, pose kept",
        "<video>.mp4", obama, "as the videos'", label_videos, natural_pose=True,
    ),
    Corpus(
        "videos", "own videos", "", "a folder of your own videos, with or without transcripts",
        "<person>/<video>.mp4, <video>.txt or <video>.TextGrid beside",
        videos, "as the videos'", label_videos,
    ),
)
# fmt: on
CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _ALL}

__all__ = [
    "CORPORA",
    "GRID",
    "Corpus",
    "Recording",
    "cremad",
    "grid",
    "lombard_grid",
    "lrw",
    "obama",
    "portraits",
    "read_alignment",
    "read_textgrid",
    "sentence_of",
    "sentence_split",
    "tcdtimit",
    "videos",
    "voxceleb1",
    "voxceleb2",
]
