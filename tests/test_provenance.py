"""C2PA manifests of outputs, read back by the library; a changed file is told."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Cli
from helpers import media as recordings
from talkingface import provenance, video, video_writing
from talkingface.dubbing import dubbed_video
from talkingface.errors import BadRequest
from talkingface.output_options import OutputOptions
from talkingface.version import __version__

c2pa = pytest.importorskip("c2pa", reason="needs the extra c2pa")
SIGNED = OutputOptions(c2pa=True)
FRAMES = [np.random.default_rng(k).integers(0, 255, (64, 96, 3), np.uint8) for k in range(3)]
FILES = [
    ("a.mp4", "a.mp4", "video/mp4"),
    ("a.mov", "a.mov", "video/quicktime"),
    ("a.gif", "a.gif", "image/gif"),
    ("a.webp", "a.webp", "image/webp"),
    ("f%d.png", "f2.png", "image/png"),
]


def read(data: bytes, kind: str) -> Any:
    return c2pa.Reader(kind, io.BytesIO(data))


def failures(reader: Any) -> set[str]:
    return {own["code"] for own in reader.get_validation_results()["activeManifest"]["failure"]}


@pytest.mark.parametrize(("name", "file", "kind"), FILES)
def test_a_manifest_says_how_a_file_was_made(
    tmp_path: Path, name: str, file: str, kind: str
) -> None:
    video_writing.write(tmp_path / name, FRAMES, None, options=SIGNED, tag="Synthetic")
    data = (tmp_path / file).read_bytes()
    reader = read(data, kind)
    manifest = reader.get_active_manifest()
    (actions,) = (own for own in manifest["assertions"] if own["label"] == "c2pa.actions.v2")
    (action,) = actions["data"]["actions"]
    assert action["action"] == "c2pa.created" and action["description"] == "Synthetic"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert action["softwareAgent"] == {"name": "talkingface", "version": __version__}
    assert not manifest.get("ingredients") and not manifest.get("thumbnail")
    assert "nobody vouches" in manifest["signature_info"]["issuer"]
    assert reader.get_validation_state() == "Valid"
    assert failures(reader) == {"signingCredential.untrusted"}  # all else holds
    changed = bytearray(data)
    places = [data.find(name) for name in (b"mdat", b"ANMF", b"IDAT")]
    changed[max(places) + 60 if max(places) > 0 else len(data) - 600] ^= 1  # in the pictures
    assert read(bytes(changed), kind).get_validation_state() == "Invalid"
    assert b"Synthetic" in data and not list(tmp_path.glob(".*"))


def test_ones_own_certificate_signs(tmp_path: Path) -> None:
    key, chain = provenance._self_signed()
    other, _ = provenance._self_signed()
    from cryptography.hazmat.primitives import serialization as form

    for name, own in (("key.pem", key), ("other.pem", other)):
        pem = own.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL, form.NoEncryption()
        )
        (tmp_path / name).write_bytes(pem)
    (tmp_path / "cert.pem").write_bytes(chain)
    signed = OutputOptions(
        c2pa=True, sign_certificate=tmp_path / "cert.pem", sign_key=tmp_path / "key.pem"
    )
    serials = []
    for name in ("a.mp4", "b.mp4"):
        video_writing.write(tmp_path / name, FRAMES, None, options=signed)
        reader = read((tmp_path / name).read_bytes(), "video/mp4")
        assert "timestamp" not in json.dumps(reader.get_validation_results()["activeManifest"])
        serials.append(reader.get_active_manifest()["signature_info"]["cert_serial_number"])
    assert serials[0] == serials[1]
    for change, said in (
        ({"sign_key": tmp_path / "other.pem"}, "other.pem: is not the key of"),
        ({"sign_key": tmp_path / "cert.pem"}, "cannot be read"),
        ({"sign_key": None}, "belong together"),
        ({"c2pa": False}, "give c2pa too"),
    ):
        with pytest.raises(BadRequest, match=said):
            video_writing.check_output(tmp_path / "c.mp4", options=signed.updated(**change))


def test_a_batch_is_signed_by_one_certificate_and_a_dubbed_video_is_composite(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    frames = video.read_frames(Path(__file__).parent / "clips" / "s1_bbaf2n.mp4")
    video_writing.write(clip, itertools.islice(frames, 6), None)
    sounds = [tmp_path / name for name in ("a.wav", "b.wav")]
    for sound in sounds:
        recordings.write_sound(sound, np.zeros(1_280, np.float32), 16_000, "pcm_s16le")
    out, own = tmp_path / "out", ("--model", "atvg-tiny", "--c2pa")
    given = [word for sound in sounds for word in ("--speech", sound)]
    for command in (
        ("batch", portrait, *given, "--out-dir", out, "--max-size", 256, "--jobs", 1),
        ("dub", clip, sounds[0], "-o", out / "dubbed.mp4"),
    ):
        ran = cli(*command, *own)
        assert ran.code == 0, ran.err
    serials = set()
    for path in sorted(out.iterdir()):
        reader = read(path.read_bytes(), "video/mp4")
        assert reader.get_validation_state() == "Valid" and video_writing.is_whole(path)
        manifest = reader.get_active_manifest()
        serials.add(manifest["signature_info"]["cert_serial_number"])
        (actions,) = (own for own in manifest["assertions"] if own["label"] == "c2pa.actions.v2")
        source = actions["data"]["actions"][0]["digitalSourceType"].rpartition("/")[2]
        dubbed = path.name == "dubbed.mp4"
        expected = "compositeWithTrainedAlgorithmicMedia" if dubbed else "trainedAlgorithmicMedia"
        assert source == expected
    assert len(list(out.iterdir())) == 3 and len(serials) == 1
    refused = cli("dub", clip, sounds[0], "-o", tmp_path / "a.webm", *own)
    assert refused.code == 2 and "holds no C2PA manifest" in refused.err
    with pytest.raises(BadRequest, match="coded as its source"):
        dubbed_video.check_output(tmp_path / "a.mp4", options=OutputOptions(fps=30))


@pytest.mark.parametrize("name", ["a.webm", "-"])
def test_a_container_that_holds_no_manifest(name: str) -> None:
    with pytest.raises(BadRequest, match="holds no C2PA manifest: give mp4, mov, gif, webp or PNG"):
        video_writing.check_output(name, options=SIGNED)
