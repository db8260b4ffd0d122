"""Every corpus of the papers: its published layout and split, and all the way through."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from conftest import Cli
from helpers import trees
from talkingface import weights
from talkingface.data import extraction, shards, sources
from talkingface.data.clip import UNSEEN, Clip
from talkingface.data.sources import CORPORA, Recording
from talkingface.data.sources.tcdtimit import TEST_VOLUNTEERS, TRAINING_VOLUNTEERS
from talkingface.errors import BadRequest, UnreadableMedia
from talkingface.evaluation import detection
from talkingface.geometry import CropSpec


def touch(folder: Path, *names: str) -> Path:
    """Empty files of these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def splits(recordings: list[Recording]) -> dict[str, str]:
    return {r.key: r.split for r in recordings}


# names and splits


def test_the_help_lists_every_corpus_and_its_layout(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = cli("prepare", "--help").out
    for name, corpus in CORPORA.items():
        assert f"    {name.ljust(13)} {corpus.line}\n" in shown, name
        assert f"{' ' * 18}{corpus.layout}\n" in shown, name


def test_a_folder_without_the_corpus_is_refused_by_name(tmp_path: Path) -> None:
    for name, corpus in CORPORA.items():
        with pytest.raises(BadRequest, match="expected"):
            corpus.find(tmp_path, None)
        if name != "grid":
            with pytest.raises(BadRequest, match="is no folder"):
                corpus.find(tmp_path / "missing", None)


def test_grid_as_the_large_archives_unpack(tmp_path: Path) -> None:
    touch(tmp_path, "s1/bbaf2n.mpg", "s2/video/mpg_6000/bbaf2n.mpg", "s22/video/lgwzzp.mpg")
    unseen = sources.GRID.groups["unseen"]
    found = sources.grid(tmp_path, unseen)
    assert (
        {r.speaker for r in found}
        == {"s1", "s2", "s22"}
        == {r.speaker for r in found if r.split == UNSEEN}
    )
    assert unseen == ("s1", "s2", "s20", "s22")
    assert {r.split for r in sources.grid(tmp_path)} == {"train"}


def test_lombard_grid_holds_out_every_tenth_talker(tmp_path: Path) -> None:
    front = "lombardgrid_front/lombardgrid/front"
    names = ("s2_l_bbim3a", "s10_p_lwae8n", "s7_1_1_1_r_bbaf2n", "s32_l_pwip9p_WRONG_pwip7p")
    touch(tmp_path, *(f"{front}/{name}.mov" for name in names))
    found = {r.path.stem: r for r in sources.lombard_grid(tmp_path)}
    assert [found[n].speaker for n in names] == [
        "lombard-s2",
        "lombard-s10",
        "lombard-s7",
        "lombard-s32",
    ]
    assert found["s10_p_lwae8n"].split == UNSEEN
    assert found["s2_l_bbim3a"].split == sources.sentence_split("bbim3a")
    assert found["s2_l_bbim3a"].sentence == "bin blue in m three again"
    assert found["s2_l_bbim3a"].facts["voice"] == "lombard"
    assert found["s7_1_1_1_r_bbaf2n"].facts["voice"] == "plain"
    assert found["s32_l_pwip9p_WRONG_pwip7p"].sentence == ""


def test_lombard_words_come_from_the_places_of_phones(tmp_path: Path) -> None:
    trees.lombard_grid(tmp_path)
    first = next(r for r in sources.lombard_grid(tmp_path) if r.path.stem == "s2_p_bbaf2n")
    known = CORPORA["lombard-grid"].label(first)
    assert [w for w, _, _ in known.words] == "bin blue at f two now".split()
    assert known.words[0][1:] == pytest.approx((0.07, 0.28))
    assert known.words[-1][1:] == pytest.approx((0.91, 1.05))
    name, *times = known.phones[0]
    assert name == "b" and times == pytest.approx([0.07, 0.14]) and len(known.phones) == 14
    assert first.labels is not None
    first.labels.write_text('{"s2_p_bbaf2n": [{"phone": "b_B"}]}')
    with pytest.raises(UnreadableMedia, match="no alignment of s2_p_bbaf2n"):
        CORPORA["lombard-grid"].label(first)


def test_lrw_splits_are_its_folders_and_the_word_is_in_the_middle(tmp_path: Path) -> None:
    names = [
        f"lipread_mp4/{w}/{s}/{w}_00001.mp4"
        for w in ("ABOUT", "YOUNG")
        for s in ("train", "val", "test")
    ]
    touch(tmp_path, *names, "lipread_mp4/ABOUT/train/ABOUT_00001.txt")
    found = sources.lrw(tmp_path / "lipread_mp4")
    assert [r.split for r in found] == ["train", "val", "test"] * 2
    assert {r.speaker for r in found} == {""} and found[0].sentence == "about"
    text = tmp_path / "lipread_mp4/ABOUT/train/ABOUT_00001.txt"
    text.write_text("Disclaimer: x\nDuration: 0.53 seconds\n")
    word, start, end = CORPORA["lrw"].label(found[0]).words[0]
    assert word == "about" and end - start == pytest.approx(0.53)
    assert (start + end) / 2 == pytest.approx(29 / 25 / 2)
    assert CORPORA["lrw"].label(found[1]).words == ()  # no text file: no time
    text.write_text("nothing\n")
    with pytest.raises(UnreadableMedia, match="no line 'Duration"):
        CORPORA["lrw"].label(found[0])
    with pytest.raises(BadRequest, match="does not say who speaks"):
        sources.lrw(tmp_path, ["s1"])


def test_voxceleb_test_people_are_in_no_other_split(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    people = [f"id{number}" for number in range(10001, 10310, 3)]
    touch(one, *(f"mp4/{person}/abc/0000{n}.mp4" for person in people for n in (1, 2)))
    found = sources.voxceleb1(one)
    by_split: dict[str, set[str]] = {}
    for recording in found:
        by_split.setdefault(recording.split, set()).add(recording.speaker)
    assert by_split[UNSEEN] == {p for p in people if "id10270" <= p <= "id10309"}
    assert sum(map(len, by_split.values())) == len(people) and by_split["val"]
    touch(
        two,
        "dev/mp4/id00012/v/00001.mp4",
        "test/mp4/id00017/v/00001.mp4",
        "dev/aac/x",
        "test/aac/x",
    )
    found = sources.voxceleb2(two)
    assert splits(found) == {"id00012_v_00001": "train", "id00017_v_00001": UNSEEN}
    assert found[0].sound == two / "dev/aac/id00012/v/00001.m4a"
    assert found[0].sound_file == found[0].path  # the m4a is not there
    flat = touch(tmp_path / "flat", "mp4/id00012/v/00001.mp4", "mp4/id00017/v/00001.mp4")
    (flat / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\nid00017 ,n1 ,f ,test\n"
    )
    assert splits(sources.voxceleb2(flat))["id00017_v_00001"] == UNSEEN
    assert splits(sources.voxceleb2(flat, ["id00012"])) == {
        "id00012_v_00001": UNSEEN,
        "id00017_v_00001": "train",
    }
    (flat / "vox2_meta.csv").write_text("ID\nid00017\n")
    with pytest.raises(UnreadableMedia, match="no column 'Set'"):
        sources.voxceleb2(flat)


def test_tcdtimit_has_the_published_speaker_split(tmp_path: Path) -> None:
    train, test = TRAINING_VOLUNTEERS, TEST_VOLUNTEERS
    assert (len(train), len(test), len({*train, *test})) == (39, 17, 56)
    everybody = {f"{n:02}" for n in range(1, 60)}
    assert everybody - {name[:2] for name in train + test} == {"27", "35", "53"}
    trees.tcdtimit(tmp_path)
    found = sources.tcdtimit(tmp_path)
    assert splits(found) == {
        "tcdtimit_01M_sa1": "train",
        "tcdtimit_08F_sa1": UNSEEN,
        "tcdtimit_27M_sa1": "val",
        "tcdtimit_Lipspkr1_sa1": "train",
    }
    assert not any("30degcam" in str(r.path) for r in found)
    first = CORPORA["tcd-timit"].label(found[0])
    assert first.phones == (("sh", 0.1, 0.24), ("iy", 0.24, 0.32)) and first.words == ()
    assert first.sentence.startswith("She had your dark suit")
    assert found[1].phones == ()
    lab = found[3].path.with_suffix(".lab")
    lab.write_text("0 1000000 sil\n1000000 2000000 AE\n")
    assert CORPORA["tcd-timit"].label(found[3]).phones == (("ae", 0.1, 0.2),)
    (tmp_path / "volunteer_labelfiles.mlf").write_text("0 1 sil\n")
    with pytest.raises(UnreadableMedia, match="should be #!MLF!#"):
        sources.tcdtimit(tmp_path)


def test_cremad_tells_sentence_emotion_and_actor(tmp_path: Path) -> None:
    touch(tmp_path, *(f"VideoFlash/{actor}_WSI_SAD_XX.flv" for actor in range(1001, 1092)))
    touch(tmp_path, "VideoFlash/1001_WSI_SAD_XX.mp4")  # converted, and still there
    (tmp_path / "VideoDemographics.csv").write_text('"ActorID","Age","Sex"\n1001,51,"Male"\n')
    found = sources.cremad(tmp_path)
    counts = {split: sum(r.split == split for r in found) for split in ("train", "val", UNSEEN)}
    assert counts == {"train": 73, "val": 9, UNSEEN: 9}
    first = found[0]
    assert first.sentence == "we'll stop in a couple of minutes" and first.path.suffix == ".flv"
    assert first.facts == {
        **{"corpus": "crema-d", "language": "en", "emotion": "sad", "level": "unspecified"},
        **{"age": "51", "sex": "male"},
    }
    assert {r.speaker for r in sources.cremad(tmp_path, ["1002"]) if r.split == UNSEEN} == {"1002"}


def test_of_ones_own_videos_some_are_held_back(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "a/2.MOV", "a/3.webm", "b/1.mkv", "notes.txt")
    found = sources.videos(tmp_path, ["b"])
    assert sorted(r.split for r in found if r.speaker == "a") == ["test", "train", "val"]
    assert splits(found)["b_1"] == UNSEEN
    many = touch(tmp_path / "many", *(f"{n}.mp4" for n in range(50)))
    counts = [r.split for r in sources.videos(many)]
    assert (counts.count("test"), counts.count("val")) == (3, 3)
    assert {r.speaker for r in sources.videos(many)} == {"many"}
    two = touch(tmp_path / "two", "x.mp4", "y.mp4")
    assert {r.split for r in sources.videos(two)} == {"train"}
    assert {r.speaker for r in sources.obama(tmp_path)} == {"obama"}


@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_textgrid_is_read_in_both_formats(tmp_path: Path, long: bool, encoding: str) -> None:
    path = tmp_path / "a.TextGrid"
    trees.textgrid(path, [("Bin", 0.25, 0.5), ("blue", 0.5, 0.75)], long)
    path.write_text(path.read_text(), encoding=encoding)
    assert sources.read_textgrid(path) == (("bin", 0.25, 0.5), ("blue", 0.5, 0.75))


@pytest.mark.parametrize(
    "text", ["", 'File type = "ooTextFile"\n', 'ooTextFile "TextGrid"\n0\n1\n<exists>\n9']
)
def test_a_damaged_textgrid_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_text(text)
    with pytest.raises(UnreadableMedia, match=r"a\.TextGrid: no TextGrid with words"):
        sources.read_textgrid(path)


# prepare -> train -> evaluate

QUICK = ("lrw", "videos")  # the others take as long each: `slow`
EVERY = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CORPORA]


def mean_faces(frames: np.ndarray) -> np.ndarray:
    """Landmarks for (T, S, S, 3) crops without looking: the mean face, its mouth moving."""
    found = np.repeat(CropSpec().template()[None], len(frames), 0)
    found[:, 66, 1] += np.sin(np.arange(len(frames)))
    return found


def clips_in(folder: Path) -> dict[str, Clip]:
    return {clip.key: clip for path in shards.find(folder) for clip in shards.read(path)}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_corpus_goes_all_the_way(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in QUICK:  # looking for faces once more is slow, and no corpus's business
        monkeypatch.setattr(detection, "detect", mean_faces)
    tree, out, run = tmp_path / "tree", tmp_path / "shards", tmp_path / "run"
    trees.BUILD[name](tree)
    prepared = cli("prepare", name, tree, "-o", out, "--jobs", 1)
    assert prepared.code == 0, prepared.err
    expected = {r.key: r for r in CORPORA[name].find(tree, None)}
    clips = clips_in(out)
    assert set(clips) == set(expected), (out / "dropped.jsonl").read_text()
    for key, clip in clips.items():
        recording = CORPORA[name].label(expected[key])
        assert (clip.split, clip.speaker) == (recording.split, recording.speaker)
        assert clip.info.get("corpus", "grid") == name and len(clip.crops) == trees.FRAMES
        assert clip.info["natural_pose"] == (name == "obama")
        assert [w for w, _, _ in clip.words] == [w for w, _, _ in recording.words]
        assert ("phones" in clip.info) == bool(recording.phones)
        assert "moved" not in clip.info  # nothing here is late or early
        assert np.abs(clip.sound).max() > 1000
    trained = cli(
        *("train", "cran", out, "-o", run, "--preset", "cran-tiny"),
        *("--steps", "1,1,0", "--without", "reading"),
    )
    assert trained.code == 0, trained.err
    made = run / "weights.safetensors"
    info = weights.load_with_info(made)[1]
    assert info.training_data.startswith(f"{CORPORA[name].title}: ")
    assert CORPORA[name].licence in info.licence
    held_out = {"test", UNSEEN} & {r.split for r in expected.values()}
    if not held_out:
        return
    results = tmp_path / "results"
    ran = cli(
        *("evaluate", "--models", f"tiny={made}", "--cache", out, "--out", results),
        *("--clips", 1, "--experts", "", "--jobs", 1),
    )
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == held_out
    assert {row["model"] for row in rows} >= {"real", "still", "tiny"}
    assert all(row["error"] is None for row in rows)
    identities = {row["identity"] for row in rows}
    if name == "lrw":  # nobody knows whose other recording would be the same person's
        assert identities == {"first frame"}


def test_natural_pose_is_the_corpus_s_own_choice(tmp_path: Path) -> None:
    assert [c.name for c in CORPORA.values() if c.natural_pose] == ["obama"]
    assert extraction.ClipExtraction().natural_pose is False
