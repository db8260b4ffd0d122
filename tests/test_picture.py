from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from talkingface import picture
from talkingface.errors import OutputError, UnreadableMedia

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def rgb() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_LINEAR))


def save(path: Path, array: np.ndarray) -> Path:
    if path.suffix in (".avif", ".gif"):  # OpenCV need not know them
        Image.fromarray(array[..., ::-1]).save(path)
        return path
    done, encoded = cv2.imencode(path.suffix, array)
    assert done
    path.write_bytes(encoded.tobytes())
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a b é 顔.png"])
def test_lossless_pictures_come_back_bit_for_bit(
    tmp_path: Path, rgb: np.ndarray, name: str
) -> None:
    assert np.array_equal(picture.read(save(tmp_path / name, rgb[..., ::-1])), rgb)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_pictures_keep_their_colours(tmp_path: Path, rgb: np.ndarray, name: str) -> None:
    read = picture.read(save(tmp_path / name, rgb[..., ::-1]))
    assert np.abs(read.astype(int) - rgb).mean() < 5  # RGB and BGR differ by far more
    assert np.abs(read[..., ::-1].astype(int) - rgb).mean() > 20


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_and_grey(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    deep = rgb[..., ::-1].astype(np.uint16) * 257
    assert np.array_equal(picture.read(save(tmp_path / f"deep{suffix}", deep)), rgb)
    grey = np.repeat(rgb[..., :1], 3, axis=2)
    assert np.array_equal(picture.read(save(tmp_path / f"grey{suffix}", rgb[..., 0])), grey)
    assert np.array_equal(picture.read(save(tmp_path / f"g16{suffix}", deep[..., 2])), grey)


@pytest.mark.parametrize(("suffix", "depth"), [(".png", 8), (".png", 16), (".webp", 8)])
def test_transparency_is_composited_on_white(
    tmp_path: Path, rgb: np.ndarray, suffix: str, depth: int
) -> None:
    alpha = np.tile(np.linspace(0, 255, 64).round(), (48, 1))[..., None]
    given = np.dstack([rgb[..., ::-1], alpha])
    given = given.astype(np.uint16) * 257 if depth == 16 else given.astype(np.uint8)
    expected = (rgb * alpha + 255.0 * (255.0 - alpha)) / 255.0
    path = tmp_path / f"a{suffix}"
    parameters = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []  # 101: lossless
    path.write_bytes(cv2.imencode(suffix, given, parameters)[1].tobytes())
    assert np.abs(picture.read(path) - expected).max() <= 0.51


def test_cmyk_jpeg_has_the_colours_of_its_inks() -> None:
    read = picture.read(FIXTURES / "cmyk.jpg").astype(int)
    inks = {(8, 8): (255, 0, 0), (8, 56): (0, 255, 0), (56, 8): (0, 0, 255)}
    inks[56, 56] = (127, 127, 127)
    for (y, x), colour in inks.items():
        assert np.abs(read[y, x] - colour).max() <= 3, (y, x)


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_honoured(tmp_path: Path, rgb: np.ndarray, orientation: int) -> None:
    path = save(tmp_path / "a.jpg", rgb[..., ::-1])
    upright = picture.read(path)
    plain = path.read_bytes()
    entry = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + b"\0" * 4
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    path.write_bytes(plain[:2] + segment + plain[2:])
    assert np.array_equal(picture.read(path), TURNS[orientation](upright))
    assert picture.open_size(path) == ((48, 64) if orientation > 4 else (64, 48))
    for suffix in (".png", ".webp", ".tiff"):  # with transparency, too
        turned = tmp_path / f"turned{suffix}"
        Image.fromarray(rgb).convert("RGBA").save(turned, exif=exif[6:], lossless=True)
        found = picture.load(turned)
        pixels, size = found.pixels, found.size
        assert np.array_equal(pixels, TURNS[orientation](rgb))
        assert picture.open_size(turned) == size == pixels.shape[1::-1]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".gif", ".bmp", ".tiff"])
def test_the_header_tells_the_size(tmp_path: Path, suffix: str) -> None:
    for height, width in [(48, 64), (301, 33)]:
        path = save(tmp_path / f"a{suffix}", np.zeros((height, width, 3), np.uint8))
        assert picture.open_size(path) == (width, height)
        found = picture.load(path)
        pixels, size = found.pixels, found.size
        assert size == (width, height) and pixels.shape == (height, width, 3)
    path = save(tmp_path / f"one{suffix}", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(UnreadableMedia, match="too small, 1x1 pixels; expected at least 32x32"):
        picture.read(path)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, rgb: np.ndarray) -> None:
    path = save(tmp_path / "bomb.png", rgb)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(bytes(data))
    limit = Image.MAX_IMAGE_PIXELS
    assert picture.open_size(path) == (60_000, 60_000)
    with pytest.raises(UnreadableMedia, match=r"too large, 60000x60000 pixels; .*200 megapixels"):
        picture.read(path)
    assert limit == Image.MAX_IMAGE_PIXELS  # it belongs to the whole process


Entry = tuple[int, int, int, int]  # a tag of TIFF, its type, its count, its value


def tiff(sizes: Sequence[Entry], side: int) -> bytes:
    """A grey TIFF of side x side pixels in a few bytes; sizes: its entries of width and height."""
    rows = min(side, 100)
    strip, count = zlib.compress(b"\x55" * (side * rows), 9), side // rows
    data = bytearray(b"II*\0\0\0\0\0" + strip + b"\0" * (len(strip) % 2))
    offsets = len(data)
    data += struct.pack(f"<{count}I", *[8] * count)
    lengths = len(data)
    data += struct.pack(f"<{count}I", *[len(strip)] * count)
    long8 = len(data)
    data += struct.pack("<Q", side)
    entries = [(t, k, n, long8 if k == 16 else value) for t, k, n, value in sizes]
    entries += [(258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (273, 4, count, offsets)]
    entries += [(277, 3, 1, 1), (278, 4, 1, rows), (279, 4, count, lengths)]
    data[4:8] = struct.pack("<I", len(data))
    data += struct.pack("<H", len(entries))
    return bytes(data) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)


def test_a_tiff_is_as_large_as_its_decoder_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    twice = [(256, 4, 1, 2000), (256, 4, 1, 64), (257, 3, 1, 2000), (257, 3, 1, 64)]
    for sizes in (twice, [(256, 16, 1, 0), (257, 16, 1, 0)]):  # 64-bit numbers, at an offset
        path.write_bytes(tiff(sizes, 2000))
        found = picture.load(path)
        pixels, size = found.pixels, found.size
        assert picture.open_size(path) == size == (2000, 2000) and pixels.shape == (2000, 2000, 3)
    for odd in (
        [(256, 4, 2, 2000), (257, 4, 2, 2000)],
        [(256, 1, 1, 200), (257, 1, 1, 200)],
        [(256, 4, 1, 2000)],
    ):
        path.write_bytes(tiff(odd, 2000))
        for read in (picture.open_size, picture.read):
            with pytest.raises(UnreadableMedia, match=r"a\.tif: (not a JPEG|a damaged picture)"):
                read(path)


@pytest.mark.parametrize("marker", [0x00, 0x01, *range(0xD0, 0xDB), 0x02, 0xC8, 0xDE, 0xF0])
def test_no_marker_hides_the_size_of_a_jpeg(tmp_path: Path, rgb: np.ndarray, marker: int) -> None:
    path = save(tmp_path / "a.jpg", rgb)
    plain = path.read_bytes()
    hidden = (
        b"\xff\xc0\x00\x0b\x08\x00\x40\x00\x40\x01\x01\x11\x00"  # 64x64, as a segment's content
    )
    path.write_bytes(plain[:2] + bytes([0xFF, marker]) + plain[2:] + hidden)
    try:
        assert picture.read(path).shape == (48, 64, 3) and picture.open_size(path) == (64, 48)
    except UnreadableMedia as error:
        assert "a.jpg: not a JPEG" in str(error) or "a.jpg: a damaged picture" in str(error)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(hidden)) + hidden
    path.write_bytes(plain[:2] + b"\xff\xff" + comment[1:] + plain[2:])
    assert picture.open_size(path) == (64, 48)


REFUSED = """
import resource, sys
from talkingface import picture
for name in sys.argv[1:]:
    try:
        read = picture.read(name) is not None
    except picture.UnreadableMedia:
        read = False
    print(read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_what_is_too_large_costs_nothing(tmp_path: Path) -> None:
    sides = {2000: True, 14_200: False, 20_000: False}
    names = []
    for side in sides:
        path = tmp_path / f"{side}.tif"
        path.write_bytes(tiff([(256, 4, 1, side), (257, 4, 1, side)], side))
        names.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *names], capture_output=True, text=True, check=False
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [read == "True" for read, _ in lines] == list(sides.values()), done.stderr
    assert int(lines[-1][1]) - int(lines[0][1]) < 100  # MB


def test_pillow_is_imported_when_a_picture_is_read() -> None:
    code = "import sys, talkingface.picture, talkingface.pipeline; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_colour_profile_is_converted_to_srgb(tmp_path: Path, rgb: np.ndarray) -> None:
    path = tmp_path / "a.png"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(rgb).save(path, icc_profile=srgb)
    assert np.abs(picture.read(path).astype(int) - rgb).max() <= 1
    swapped = bytearray(srgb)  # red's place in the table is blue's, and the other way round
    for entry in range(132, 132 + 12 * struct.unpack(">I", srgb[128:132])[0], 12):
        tag = bytes(srgb[entry : entry + 4])
        swapped[entry : entry + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(tag, tag)
    for suffix in (".png", ".jpg"):
        path = tmp_path / f"swapped{suffix}"
        Image.fromarray(rgb).save(path, icc_profile=bytes(swapped))
        plain = np.asarray(Image.open(path)).astype(int)
        assert np.abs(picture.read(path) - plain[..., ::-1]).max() <= 2
    Image.fromarray(rgb).save(path, icc_profile=b"no profile at all")
    assert np.array_equal(picture.read(path), np.asarray(Image.open(path)))


def test_display_p3_becomes_srgb(tmp_path: Path) -> None:
    """By the matrix of the two primaries and the white point in linear light (CSS Color 4)."""
    # red, green and blue of Display P3 in the profile's light (D50), in 1 / 65536
    primaries = {"r": (33758, 15808, -69), "g": (19128, 45367, 2744), "b": (10304, 4361, 51391)}
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for entry in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12):
        tag = profile[entry : entry + 4].decode()
        place = struct.unpack(">I", profile[entry + 4 : entry + 8])[0]
        if tag[1:] == "XYZ" and tag[0] in primaries:
            profile[place + 8 : place + 20] = struct.pack(">3i", *primaries[tag[0]])
    pixels = np.random.default_rng(0).integers(110, 190, (64, 64, 3)).astype(np.uint8)
    from_p3 = np.array([
        [1.2249401, -0.2249402, 0.0],
        [-0.0420569, 1.0420571, 0.0],
        [-0.0196376, -0.0786361, 1.0982735],
    ])  # fmt: skip
    value = pixels / 255
    linear = (((value + 0.055) / 1.055) ** 2.4 @ from_p3.T).clip(0.0031308, 1)
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    path = tmp_path / "p3.png"
    Image.fromarray(pixels).save(path, icc_profile=bytes(profile))
    found = picture.read(path)
    assert np.abs(found - expected).max() < 2.5
    assert np.abs(found.astype(int) - pixels).mean() > 3  # it is another picture than untagged


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".avif", ".png", ".tiff"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path, first = tmp_path / f"a{suffix}", Image.fromarray(rgb)
    first.save(path, save_all=True, append_images=[Image.new("RGB", first.size, "blue")])
    assert np.abs(picture.read(path).astype(int) - rgb).mean() < 10


@pytest.mark.parametrize("suffix", [".eps", ".ppm", ".ico", ".pdf"])
def test_other_kinds_are_refused(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    Image.fromarray(rgb).save(tmp_path / f"a{suffix}")
    renamed = (tmp_path / f"a{suffix}").rename(tmp_path / "a.jpg")
    with pytest.raises(UnreadableMedia, match=r"a\.jpg: not a JPEG"):
        picture.read(renamed)


def test_a_large_picture_is_shrunk_by_averaging(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 9000)
    wide = np.repeat(np.tile(ramp[None], (64, 1)).astype(np.uint8)[..., None], 3, axis=2)
    read = picture.read(save(tmp_path / "wide.png", wide))
    assert read.shape == (29, 4096, 3)
    assert np.abs(read[10, :, 0] - np.linspace(0, 255, 4096)).max() <= 1.5


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_a_picture_cut_short_is_refused(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    path = save(tmp_path / f"a{suffix}", noise)
    whole = path.read_bytes()
    for share in (0.1, 0.6):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UnreadableMedia, match=r"a\.\w+: (a damaged picture|not a JPEG)"):
            picture.read(path)
    assert capfd.readouterr().err == ""  # one clear line is the error's, OpenCV keeps quiet


def test_what_is_no_picture(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.jpg", tmp_path / "empty.png"
    text.write_text("hello, world")
    empty.touch()
    cases = {text: "not a JPEG", empty: "is empty", tmp_path: "is a folder"}
    cases[tmp_path / "none.png"] = "no such file"
    for path, found in cases.items():
        with pytest.raises(UnreadableMedia, match=found) as caught:
            picture.read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_write_png_is_complete_or_nothing(tmp_path: Path, rgb: np.ndarray) -> None:
    path = tmp_path / "out.png"
    picture.write_png(path, rgb)
    assert np.array_equal(picture.read(path), rgb)
    with pytest.raises(OutputError, match=r"out\.png: exists already"):
        picture.write_png(path, rgb)
    picture.write_png(path, 255 - rgb, overwrite=True)
    assert np.array_equal(picture.read(path), 255 - rgb)
    with pytest.raises(OutputError, match="does not exist; create it first"):
        picture.write_png(tmp_path / "none" / "out.png", rgb)
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
