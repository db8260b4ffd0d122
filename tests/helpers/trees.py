"""Miniature corpora in the layouts their authors publish, out of two clips of GRID.

Names, label files and folders are as published (docs/corpora.md says how that is known); what is
seen and said in a clip is GRID's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from helpers.media import write_film, write_sound
from talkingface import audio, video

CLIPS = Path(__file__).parents[1] / "clips"
ONE, TWO = "s1_bbaf2n", "s34_lbwh5n"
FIRST = 22  # of the frames used: just before the first word
FRAMES = 29
# of s1_bbaf2n, seconds from its beginning
WORDS = (
    *(("bin", 0.95, 1.18), ("blue", 1.18, 1.36), ("at", 1.36, 1.42)),
    *(("f", 1.42, 1.64), ("two", 1.64, 1.89), ("now", 1.89, 2.12)),
)


@cache
def film(name: str) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """All frames and the sound of a clip."""
    path = CLIPS / f"{name}.mp4"
    return tuple(video.read_frames(path)), audio.load(path).numpy()


def part(name: str, first: int = FIRST, count: int = FRAMES) -> tuple[list[np.ndarray], np.ndarray]:
    """So many frames of a clip, and their sound."""
    frames, sound = film(name)
    return list(frames[first : first + count]), sound[first * 640 : (first + count) * 640]


def put(path: Path, name: str, first: int = FIRST, count: int = FRAMES, mute: bool = False) -> Path:
    """A part of a clip as a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames, sound = part(name, first, count)
    return write_film(path, frames, None if mute else sound)


def put_sound(path: Path, name: str, codec: str) -> None:
    """The sound of the part of a clip that `put` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sound(path, part(name)[1], 16_000, codec)


def grid(folder: Path) -> None:
    """Two speakers of GRID, one of the archives' two layouts each."""
    put(folder / "s1" / "bbaf2n.mpg", ONE)
    put(folder / "s26" / "video" / "mpg_6000" / "lbwh5n.mpg", TWO)
    align(folder / "alignments" / "s1" / "bbaf2n.align", WORDS[:3])


# Sentences of a main speaker of GRID: six to train, two to validate, two to test.
MAIN_SENTENCES = (
    *("bbaf2n", "bbae1s", "lbwh5n", "lgby6p", "pgas9a", "sbbo2n"),
    *("bbbf3n", "bgaf1n", "bbbf2a", "bbbf4a"),
)


def grid_corpus(folder: Path) -> None:
    """Clips with word times of a main speaker of GRID, and of two unseen ones."""
    for number, name in enumerate(MAIN_SENTENCES):
        first = FIRST - number
        put(folder / "s1" / f"{name}.mpg", ONE, first)
        align(folder / "alignments" / "s1" / f"{name}.align", WORDS, first)
    for speaker, name in (("s4", ONE), ("s26", TWO)):
        put(folder / speaker / "bbaf2n.mpg", name)


def align(path: Path, words: Sequence[tuple[str, float, float]], first: int = FIRST) -> None:
    """Word times of a part of a clip as GRID has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["0 1750 sil"]
    for word, start, end in words:
        lines.append(
            f"{(start - first / 25) * 25_000:.0f} {(end - first / 25) * 25_000:.0f} {word}"
        )
    path.write_text("\n".join(lines) + "\n")


def lombard_grid(folder: Path) -> None:
    """Write the tree of the Zenodo archives: front view, sound and alignment apart."""
    root = folder / "lombardgrid"
    for stem, name in (("s2_p_bbaf2n", ONE), ("s3_l_lbwh5n", TWO), ("s10_l_bbaf2n", ONE)):
        put(root / "front" / f"{stem}.mov", name, mute=True)
        put_sound(root / "audio" / f"{stem}.wav", name, "pcm_s16le")
    phones: tuple[str, ...] = (
        "SIL",
        "b_B",
        "ih_I",
        "n_E",
        "b_B",
        "l_I",
        "uw_E",
        "ae_B",
        "t_E",
        "eh_B",
        "f_E",
    )
    phones += ("t_B", "uw_E", "n_B", "aw_E")
    rows = [{"phone": p, "offset": 0.07 * n, "duration": 0.07} for n, p in enumerate(phones)]
    (root / "alignment").mkdir()
    (root / "alignment" / "s2_p_bbaf2n.json").write_text(json.dumps({"s2_p_bbaf2n": rows}))


def lrw(folder: Path) -> None:
    """Two words; the text files as the BBC's metadata is."""
    for word, name in (("ABOUT", ONE), ("BLUE", TWO)):
        for split in ("train", "val", "test"):
            stem = f"{word}_00001"
            path = put(folder / "lipread_mp4" / word / split / f"{stem}.mp4", name)
            path.with_suffix(".txt").write_text(
                "Disclaimer: BBC\nDisk reference: 5535415699068794046\nChannel: 1\n"
                "Program start: 2015-01-01 12:00\nDuration: 0.53 seconds\n"
            )


def voxceleb1(folder: Path) -> None:
    """Clips of one's own, sound as published: id10270 is a test identity, id10027 "val" by name."""
    for person in ("id10002", "id10027", "id10270"):
        name = ONE if person != "id10270" else TWO
        put(folder / "mp4" / person / "1zcIwhmdeo4" / "00001.mp4", name, mute=True)
        put_sound(folder / "wav" / person / "1zcIwhmdeo4" / "00001.wav", name, "pcm_s16le")


def voxceleb2(folder: Path) -> None:
    """dev and test, sound in aac, the table of identities."""
    people = (("dev", "id00012", ONE), ("dev", "id00104", TWO), ("test", "id00017", TWO))
    for part_, person, name in people:
        put(folder / part_ / "mp4" / person / "21Uxsk56VDQ" / "00001.mp4", name, mute=True)
        put_sound(folder / part_ / "aac" / person / "21Uxsk56VDQ" / "00001.m4a", name, "aac")
    (folder / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\nid00012 ,n000012 ,m ,dev\n"
        "id00104 ,n000104 ,f ,dev\nid00017 ,n000017 ,f ,test\n"
    )


def tcdtimit(folder: Path) -> None:
    """A volunteer of each of the published split's parts and a lipspeaker; phones as HTK labels."""
    places = (("volunteers/01M", ONE), ("volunteers/08F", TWO), ("volunteers/27M", ONE))
    for place, name in (*places, ("lipspeakers/Lipspkr1", TWO)):
        put(folder / place / "Clips" / "straightcam" / "sa1.mp4", name)
    put(folder / "volunteers/01M/Clips/30degcam/sa1.mp4", ONE)
    (folder / "volunteers/01M/Clips/straightcam/sa1.txt").write_text(
        "She had your dark suit in greasy wash water all year.\n"
    )
    (folder / "volunteer_labelfiles.mlf").write_text(
        '#!MLF!#\n"Q:/Videos/TCD-TIMIT/volunteers/01M/Clips/straightcam/sa1.rec"\n'
        "0 1000000 sil\n1000000 2400000 sh\n2400000 3200000 iy\n3200000 11600000 sil\n.\n"
        '"Q:/Videos/TCD-TIMIT/volunteers/08F/Clips/straightcam/sa1.rec"\n0 900000 sil\n.\n'
    )


def cremad(folder: Path) -> None:
    """Three actors, one emotion each; the tables beside."""
    for stem, name in (
        ("1001_DFA_ANG_XX", ONE),
        ("1005_IEO_HAP_LO", ONE),
        ("1010_TSI_NEU_XX", TWO),
    ):
        put(folder / "VideoFlash" / f"{stem}.flv", name)
    (folder / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
        '1005,29,"Male","Asian","Not Hispanic"\n1010,27,"Male","Caucasian","Not Hispanic"\n'
    )
    (folder / "SentenceFilenames.csv").write_text(
        '"Stimulus_Number","Filename"\n1,"1001_DFA_ANG_XX"\n'
    )


def obama(folder: Path) -> None:
    """Three addresses by their YouTube ids."""
    for number, stem in enumerate(("--QxAtXZJpQ", "-9mSTKUWS7U", "0SaVqB0w718")):
        put(folder / f"{stem}.mp4", TWO, FIRST + number)


def videos(folder: Path) -> None:
    """Two people's videos of several kinds; one with word times, one with a transcript."""
    for stem, name in (
        ("anna/hello", ONE),
        ("anna/again", ONE),
        ("anna/more", ONE),
        ("ben/hello", TWO),
    ):
        put(folder / f"{stem}.mp4", name)
    (folder / "ben" / "hello.txt").write_text("lay blue with h\nfive now\n")
    textgrid(
        folder / "anna" / "hello.TextGrid",
        [(w, a - FIRST / 25, b - FIRST / 25) for w, a, b in WORDS[:3]],
    )


def textgrid(path: Path, words: list[tuple[str, float, float]], long: bool = True) -> None:
    """A TextGrid as Praat and forced aligners write it, with a tier of phones beside the words."""
    tiers = {"words": words, "phones": [("b", 0.0, 0.1)]}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    add = lines.append
    for label, value in (("xmin", 0), ("xmax", 1.16)):
        add(f"{label} = {value} " if long else f"{value}")
    add("tiers? <exists> " if long else "<exists>")
    add(f"size = {len(tiers)} " if long else f"{len(tiers)}")
    if long:
        add("item []: ")
    for number, (name, rows) in enumerate(tiers.items(), 1):
        marks = [("", 0.0, rows[0][1]), *rows]
        if long:
            add(f"    item [{number}]:")
        facts = (
            *(("class", '"IntervalTier"'), ("name", f'"{name}"'), ("xmin", 0), ("xmax", 1.16)),
            ("intervals: size", len(marks)),
        )
        for label, fact in facts:
            add(f"        {label} = {fact} " if long else f"{fact}")
        for place, (word, start, end) in enumerate(marks, 1):
            if long:
                add(f"        intervals [{place}]:")
            for label, mark in (("xmin", start), ("xmax", end), ("text", f'"{word}"')):
                add(f"            {label} = {mark} " if long else f"{mark}")
    path.write_text("\n".join(lines) + "\n")


BUILD: dict[str, Callable[[Path], None]] = {
    "grid": grid,
    "lombard-grid": lombard_grid,
    "lrw": lrw,
    "voxceleb1": voxceleb1,
    "voxceleb2": voxceleb2,
    "tcd-timit": tcdtimit,
    "crema-d": cremad,
    "obama": obama,
    "videos": videos,
}
