"""The page in a real browser: what a person does with it, and what they see and hear.

Debian's chromium, driven by playwright. `tools/page_states.py` photographs the page.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SENTENCE
from helpers import media as recordings
from helpers.served import Flashes, Served, serving
from talkingface import picture, video
from talkingface.controls import Controls
from talkingface.web import rtc
from talkingface.web.generate_options import GenerateOptions, LiveOptions
from talkingface.web.limits import Limits
from talkingface.web.service import Service

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
MODELS = ("cran-tiny", "atvg-tiny")
PLAYED = "document.getElementById('video').currentTime"
SOUND_RATE = 16_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = Limits(picture_mb=2, sound_mb=5, megapixels=4, jobs=1, queue=2, streams=3)
    with serving(limits, tmp_path_factory.mktemp("temp"), models=MODELS) as own:
        yield own


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        own = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield own
        own.close()


Opened = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, served: Served) -> Iterator[Opened]:
    """Open pages. Check afterwards that they sent no foreign requests and had no errors."""
    contexts, troubles = [], []

    def watch(request: Any) -> None:
        if not request.url.startswith((served.url, "blob:", served.url.replace("http", "ws"))):
            troubles.append(request.url)

    def open_page(script: str = "", **options: Any) -> Any:
        size = {"width": 1280, "height": 900}
        context = browser.new_context(**{"viewport": size, "reduced_motion": "reduce"} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(script)
        page.on("request", watch)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(served.url)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    served.wait_until_idle()
    assert troubles == []


def until(page: Any, expression: str, seconds: float = 60.0) -> None:
    """Wait for an expression in the page by polling; its policy forbids playwright's own way."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"() => Boolean({expression})"):
        assert time.monotonic() < end, f"{expression}; it says: {page.inner_text('#watch')}"
        page.wait_for_timeout(25)


def said(page: Any, text: str, where: str = "#status") -> None:
    """Wait until a live region shows the text."""
    page.locator(where, has_text=re.compile(text)).wait_for()


def more(page: Any) -> None:
    """Open the settings that few people need."""
    page.locator("#more").evaluate("own => { own.open = true; }")


def choose(page: Any, image: Path | None = None, sound: Path | None = None) -> None:
    if image is not None:
        page.set_input_files("#picture-file", image)
        page.locator("#picture-about", has_text=re.compile("found|taken|no face|not a")).wait_for()
    if sound is not None:
        page.set_input_files("#sound-file", sound)


@pytest.fixture(scope="module")
def long_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sentence repeated five times, a quarter of a minute."""
    samples = np.frombuffer(SENTENCE.read_bytes()[44:], "<i2") / 32768
    path = tmp_path_factory.mktemp("long") / "long.flac"
    return recordings.write_sound(path, np.tile(samples, 5), SOUND_RATE, "flac")


def test_the_empty_page(opened: Opened) -> None:
    page = opened()
    assert page.locator("input[name=model]").count() == 2
    for button, missing in (("live", "picture"), ("file", "picture"), ("speak", "picture")):
        page.click(f"#{button}")
        assert f"Choose a {missing} first" in page.inner_text("#error")
        assert page.evaluate("document.activeElement.id") == f"{missing}-file"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anybody_can_use_it(opened: Opened, portrait: Path, speech: Path, scheme: str) -> None:
    page = opened(color_scheme=scheme, viewport={"width": 360, "height": 740})
    choose(page, portrait, speech)
    page.locator("#mark-face").evaluate("own => { own.open = true; }")
    more(page)
    page.uncheck("#mark")
    page.check(f"input[name=model][value={MODELS[1]}]")
    page.select_option("#express", "smile")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.evaluate(SMALL)
    assert small == []
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if node.get("role", {}).get("value")
        in {
            *("button", "radio", "checkbox", "spinbutton", "textbox", "link", "image", "group"),
            *("slider", "combobox"),
        }
        and not node.get("ignored")
    ]
    assert len(controls) > 25
    sliders = {name for role, name in controls if role == "slider"}
    assert sliders >= {"Mouth", "Head and eyebrows", "Blinking", "Softer lips"}
    assert [control for control in controls if not control[1] and control[0] != "group"] == []
    assert page.evaluate(CONTRAST) == []


# What a finger must hit and is smaller than 44 pixels.
SMALL = r"""() => {
  const kinds = 'button, .button, summary, .segments label, .model, .check, .numbers input, audio'
    + ', .slider input, select, .seed input';
  return [...document.querySelectorAll(kinds)].filter((own) => {
    const { width, height } = own.getBoundingClientRect();
    return own.checkVisibility() && Math.min(width, height) < 44;
  }).map((own) => own.outerHTML);
}"""

# WCAG 2.2, 1.4.3: text on what is behind it, at least 4.5 to 1 (3 to 1 for large text).
CONTRAST = r"""() => {
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (own) => {
    for (let at = own; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const own of document.querySelectorAll('body *')) {
    const text = [...own.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || !own.checkVisibility()) continue;
    const style = getComputedStyle(own);
    const [a, b] = [light(parse(style.color)), light(behind(own))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) bad.push(`${ratio.toFixed(2)} ${own.textContent.trim()}`);
  }
  return bad;
}"""

LISTEN = """() => {
  const context = new AudioContext();
  const source = context.createMediaElementSource(document.getElementById('video'));
  const analyser = context.createAnalyser();
  source.connect(analyser).connect(context.destination);
  window.loudest = 0;
  const look = new Float32Array(analyser.fftSize);
  setInterval(() => {
    analyser.getFloatTimeDomainData(look);
    window.loudest = Math.max(window.loudest, ...look);
  }, 20);
}"""


def counted(served: Served, *wanted: tuple[int, int]) -> None:
    """Wait until the live pool has one of these counts (working, waiting)."""
    end = time.monotonic() + 10
    while (found := served.service.live_pool.counts()) not in wanted:
        assert time.monotonic() < end, found
        time.sleep(0.01)


def test_one_click_shows_it_live_with_sound(opened: Opened, served: Served, tmp_path: Path) -> None:
    page = opened()
    page.evaluate(LISTEN)
    began = time.monotonic()
    page.locator(".example").first.click()
    counted(served, (1, 0))
    until(page, f"{PLAYED} > 0.1")
    assert time.monotonic() - began < 10
    assert page.evaluate("document.activeElement.id") == "cancel"  # made, it will be the download
    until(page, f"{PLAYED} > 1.2")
    state = page.evaluate(
        """() => { const own = document.getElementById('video');
        return [own.videoWidth, own.buffered.start(0), own.paused, window.loudest]; }"""
    )
    assert state[:3] == [512, 0, False] and state[3] > 0.05
    said(page, "That is all of it")
    until(page, "document.getElementById('video').ended")
    assert page.evaluate(PLAYED) == pytest.approx(7.4, abs=0.1)
    with page.expect_download() as saving:
        page.click("#download")
    path = tmp_path / saving.value.suggested_filename
    saving.value.save_as(path)
    info = video.probe(path)
    assert path.name == "nobody-picnic.mp4" and info.has_audio
    assert info.tag == served.service.speakers[MODELS[0]].tag
    assert len(list(video.read_frames(path))) == 185


# The times at which the picture turns white, as the browser shows it; and those of the clicks in
# what it has been sent, as the browser decodes it.
WATCH = """() => {
  const own = document.getElementById('video');
  const small = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  window.white = [];
  const look = (now, frame) => {
    small.drawImage(own, 0, 0, 1, 1);
    if (small.getImageData(0, 0, 1, 1).data[0] > 128) window.white.push(frame.mediaTime);
    own.requestVideoFrameCallback(look);
  };
  own.requestVideoFrameCallback(look);
}"""
CLICKS = """async (content) => {
  const whole = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)).buffer;
  const sound = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(whole);
  const samples = sound.getChannelData(0);
  const found = [];
  samples.forEach((value, k) => {
    const time = k / sound.sampleRate;
    if (Math.abs(value) > 0.3 && (!found.length || time > found.at(-1) + 0.1)) found.push(time);
  });
  return found;
}"""


def test_lips_and_sound_are_together_in_the_browser(
    opened: Opened, portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "open", lambda *_: Flashes())
    frames = [20, 45, 60]
    times = [(k + 0.5) / 25 for k in frames]
    sound = recordings.clicks(SOUND_RATE, times, 3.0)
    file = recordings.write_sound(tmp_path / "a.wav", sound, SOUND_RATE, "pcm_s16le")
    page = opened()
    choose(page, portrait, file)
    page.evaluate(WATCH)
    page.click("#live")
    said(page, "That is all of it")
    until(page, "document.getElementById('video').ended")
    seen = page.evaluate("window.white")
    assert seen and {round(time, 3) for time in seen} <= {k / 25 for k in frames}
    with page.expect_download() as saving:
        page.click("#download")
    content = base64.b64encode(saving.value.path().read_bytes()).decode()
    assert page.evaluate(CLICKS, content) == pytest.approx(times, abs=0.005)


def test_by_keyboard_alone(opened: Opened) -> None:
    page = opened(viewport={"width": 1280, "height": 700})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert "example" in page.evaluate("document.activeElement.className")
    page.keyboard.press("Enter")
    until(page, f"{PLAYED} > 0.1")
    said(page, "That is all of it")
    order = []
    page.evaluate("document.querySelector('.skip').focus()")
    for _ in range(40):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    wanted = ["picture-file", "camera-open", "sound-file", "record", "download", "live", "mark"]
    assert [name for name in order if name in wanted][: len(wanted)] == wanted


def test_an_upload_watched_in_every_way(opened: Opened, portrait: Path, speech: Path) -> None:
    page = opened()
    choose(page, portrait, speech)
    assert "portrait.jpg: one face found" in page.inner_text("#picture-about")
    said(page, "Ready")
    more(page)
    page.check("input[name=show][value=face]")
    page.click("#live")
    until(page, f"document.getElementById('video').videoWidth === 256 && {PLAYED} > 1")
    said(page, "That is all of it")
    page.check(f"input[name=model][value={MODELS[1]}]")
    page.uncheck("#mark")
    assert "You take it on yourself" in page.inner_text("#mark-about")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[GenerateOptions]:
    """Record the options that the page sends. The server answers with flashes."""
    found: list[GenerateOptions] = []

    def opened(_: Service, __: Path, options: GenerateOptions, *___: Any) -> Flashes:
        found.append(options)
        return Flashes()

    monkeypatch.setattr(Service, "open", opened)
    return found


def test_how_the_face_moves(
    opened: Opened, portrait: Path, speech: Path, asked: list[GenerateOptions]
) -> None:
    page = opened(viewport={"width": 360, "height": 740})
    choose(page, portrait, speech)
    more(page)
    page.check(f"input[name=model][value={MODELS[1]}]")
    page.focus("#mouth")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#mouth-value") == "120 %"
    assert page.get_attribute("#mouth", "aria-valuetext") == "120 %"
    for name, value in (("head", "0.5"), ("blinks", "30"), ("smooth", "0.25")):
        page.fill(f"#{name}", value)
    assert page.inner_text("#blinks-value") == "30 a minute"
    assert page.is_hidden("#strength")
    page.select_option("#express", "brows-up")
    page.fill("#strength", "0.8")
    page.click("#seed-new")
    seed = int(page.input_value("#seed"))
    wanted = Controls(1.2, 0.25, 0.5, 30, False, seed, {"brows-up": 0.8})
    assert 0 < seed < 10_000
    for button, end in (("live", "That is all of it"), ("file", "Finished")):
        page.click(f"#{button}")
        said(page, end)
        assert asked[-1].controls == wanted and not (
            isinstance(asked[-1], LiveOptions) and asked[-1].idle
        )
    page.check("#still")
    assert [page.is_disabled(f"#{name}") for name in ("head", "blinks", "seed")] == [True] * 3
    page.click("#live")
    said(page, "That is all of it")
    assert asked[-1].controls == replace(wanted, still=True)
    page.click("#motion-reset")
    page.click("#live")
    said(page, "Looking|Playing")
    said(page, "That is all of it")
    assert asked[-1].controls == Controls() and len(asked) == 4


def test_a_model_that_does_not_move_takes_no_controls(
    opened: Opened, portrait: Path, speech: Path, asked: list[GenerateOptions]
) -> None:
    page = opened()
    choose(page, portrait, speech)
    more(page)
    page.check(f"input[name=model][value={MODELS[1]}]")
    page.fill("#mouth", "1.5")
    page.check(f"input[name=model][value={MODELS[0]}]")
    assert page.is_disabled("#mouth") and page.is_disabled("#express")
    assert "take another method" in page.inner_text("#motion-about")
    page.click("#live")
    said(page, "That is all of it")
    assert asked[-1].controls == Controls()


def test_cancelled_in_the_middle(
    opened: Opened, served: Served, portrait: Path, long_speech: Path
) -> None:
    page = opened()
    choose(page, portrait, long_speech)
    page.click("#live")
    until(page, f"{PLAYED} > 1")
    page.click("#cancel")
    served.wait_until_idle(1)
    said(page, "Cancelled")
    assert page.is_hidden("#video") and page.is_visible("#live")
    page.click("#file")
    said(page, r"Made so far: \d+ s of 15 s", "#detail")
    page.click("#cancel")
    served.wait_until_idle(1)
    said(page, "Cancelled")


def test_a_file_with_progress(
    opened: Opened, served: Served, portrait: Path, long_speech: Path, tmp_path: Path
) -> None:
    page = opened()
    choose(page, portrait, long_speech)
    more(page)
    page.check("input[name=show][value=face]")
    page.click("#file")
    said(page, r"Made so far: \d+ s of 15 s, \d+ s left", "#detail")
    assert 0 < page.evaluate("document.getElementById('progress-bar').value") < 1
    said(page, "Finished")
    served.wait_until_idle(2)  # it is in the page now, and nowhere else
    until(page, f"{PLAYED} > 0.2")
    with page.expect_download() as saving:
        page.click("#download")
    saving.value.save_as(tmp_path / "a.mp4")
    info = video.probe(tmp_path / "a.mp4")
    assert info.width == 256 and info.seconds == pytest.approx(14.9, abs=0.1)


def test_who_waits_sees_so_and_a_closed_page_frees_its_place(
    opened: Opened, served: Served, portrait: Path, long_speech: Path
) -> None:
    first, second = opened(), opened()
    for page in (first, second):
        choose(page, portrait, long_speech)
        page.click("#file")
        said(page, "Making|Waiting")
    said(second, "you are next")
    first.close()
    said(second, "Making")
    second.click("#cancel")
    served.wait_until_idle(2)


def test_two_watch_at_once(opened: Opened, served: Served) -> None:
    pages = [opened(), opened()]
    for k, page in enumerate(pages):
        page.locator(".example").nth(k).click()
        counted(served, (1, 0), (2, 0))
    for page in pages:
        until(page, f"{PLAYED} > 0.5")
    for page in pages:
        until(page, f"{PLAYED} > 3.7")
        said(page, "That is all of it")


def test_what_is_refused(
    opened: Opened, served: Served, portrait: Path, speech: Path, tmp_path: Path
) -> None:
    (tmp_path / "large.jpg").write_bytes(bytes(3_000_000))
    picture.write_png(tmp_path / "wide.png", np.zeros((2100, 2100, 3), np.uint8))
    (tmp_path / "text.wav").write_text("hello, this is no sound. " * 20)
    (tmp_path / "loud.wav").write_bytes(bytes(6_000_000))
    page = opened()
    choose(page, tmp_path / "large.jpg")
    assert "at most 2.0 MB are taken" in page.inner_text("#picture-about")
    choose(page, tmp_path / "wide.png")
    assert "at most 4 megapixels are taken" in page.inner_text("#picture-about")
    choose(page, tmp_path / "text.wav")
    assert "not a JPEG" in page.inner_text("#picture-about")
    choose(page, portrait, tmp_path / "loud.wav")
    assert "at most 5.0 MB are taken" in page.inner_text("#sound-about")
    choose(page, sound=tmp_path / "text.wav")
    for button in ("live", "file"):
        page.click(f"#{button}")
        said(page, "The recording: damaged, cut short or of an unknown kind", "#error")
        assert page.is_visible("#live") and page.is_visible("#empty")
    choose(page, sound=speech)
    page.click("#live")
    said(page, "That is all of it")
    assert page.is_hidden("#error")


def test_a_face_that_is_missed_is_marked_on_the_picture(
    opened: Opened, speech: Path, tmp_path: Path
) -> None:
    picture.write_png(tmp_path / "grey.png", np.full((300, 400, 3), 127, np.uint8))
    page = opened()
    choose(page, tmp_path / "grey.png", speech)
    assert "no face was found" in page.inner_text("#picture-about")
    page.click("#live")
    said(page, "No face was found", "#error")
    assert "Ready" not in page.inner_text("#status")
    area = page.locator("#picture-preview").bounding_box()
    left, top = area["x"] + 0.25 * area["width"], area["y"] + 0.2 * area["height"]
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.4 * area["width"], top + 0.6 * area["height"], steps=5)
    page.mouse.up()
    values = [float(page.input_value(f"#box-{side}")) for side in ("x", "y", "width", "height")]
    assert values == pytest.approx([100, 60, 160, 180], abs=3)
    said(page, "where you marked it", "#picture-about")
    assert page.is_hidden("#error")
    page.click("#live")
    until(page, f"{PLAYED} > 0.1")
    said(page, "That is all of it")
    page.fill("#box-x", "5000")  # as one does without a pointer
    page.click("#live")
    said(page, "outside the picture", "#error")


def test_a_result_stays_until_another_replaces_it(
    opened: Opened, portrait: Path, long_speech: Path, tmp_path: Path
) -> None:
    page = opened()
    page.locator(".example").nth(1).click()
    said(page, "when it is finished", "#download")
    assert page.get_attribute("#download", "href") is None
    said(page, "That is all of it")
    assert page.inner_text("#old") == ""
    page.uncheck("#mark")
    said(page, "made with other settings", "#old")
    page.check("#mark")
    until(page, "!document.getElementById('old').textContent")
    choose(page, portrait, long_speech)
    said(page, "made with another picture and another voice", "#old")
    for button in ("file", "live"):
        page.click(f"#{button}")
        said(page, r"Made so far: \d+ s of 15 s", "#detail")
        assert page.is_visible("#video") and page.is_visible("#download")
        page.click("#cancel")
        said(page, "Cancelled")
        said(page, "older", "#old")
        with page.expect_download() as saving:
            page.click("#download")
        assert saving.value.suggested_filename == "man-muffins.mp4"
        assert video.probe(saving.value.path()).seconds == pytest.approx(3.9, abs=0.1)


@pytest.mark.parametrize("width", [1280, 390])
def test_controls_are_below_the_picture_and_settings_below_the_video(
    opened: Opened, width: int
) -> None:
    page = opened(viewport={"width": width, "height": 844})
    page.locator(".example").nth(1).click()
    until(page, f"{PLAYED} > 0.3")
    box = page.locator("#video").bounding_box()
    shown = min(box["width"], box["height"])  # the picture is square
    assert box["height"] - shown >= 70
    settings = page.locator(".settings").bounding_box()
    assert width > 390 or settings["y"] > box["y"] + box["height"]
    said(page, "That is all of it")


def test_a_click_leaves_no_ring(opened: Opened, portrait: Path) -> None:
    page = opened()
    outline = "getComputedStyle(document.querySelector('label:has(#picture-file)')).outlineStyle"
    with page.expect_file_chooser() as choosing:
        page.click("label:has(#picture-file)")
    choosing.value.set_files(portrait)
    assert page.evaluate("document.activeElement.id") == "picture-file"
    assert page.evaluate(outline) == "none"
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "picture-file"
    assert page.evaluate(outline) == "solid"


def test_which_of_two_faces(opened: Opened, portrait: Path, speech: Path, tmp_path: Path) -> None:
    whole = picture.read(portrait)
    two = np.full((384, 640, 3), 127, np.uint8)
    two[:, :384] = whole[::2, ::2]
    two[100:356, 384:] = whole[::3, ::3]
    picture.write_png(tmp_path / "two.png", two)
    page = opened()
    choose(page, tmp_path / "two.png", speech)
    assert "2 faces found. Face 1 (left) speaks." in page.inner_text("#picture-about")
    page.check("input[name=face][value='2']")
    assert "2 faces found. Face 2 (right) speaks." in page.inner_text("#picture-about")
    said(page, "Face 2 .right. will speak")
    page.click("#live")
    until(page, f"{PLAYED} > 1")
    said(page, "That is all of it")


def test_who_pauses_is_watched_alive(
    opened: Opened, portrait: Path, asked: list[GenerateOptions]
) -> None:
    page = opened(script=SILENT)
    choose(page, portrait)
    page.click("#speak")
    until(page, f"{PLAYED} > 1.5")  # though the microphone gives nothing
    assert isinstance(asked[-1], LiveOptions) and asked[-1].idle
    page.click("#done")
    said(page, "That is all of it")


# A microphone that is muted: it gives zeros.
MUTED = """navigator.mediaDevices.getUserMedia = async () =>
  new AudioContext().createMediaStreamDestination().stream;"""


def test_who_is_not_heard_is_told(opened: Opened, portrait: Path) -> None:
    page = opened()
    page.click("#record")
    until(page, "document.getElementById('level').value > 0.3")  # the fake microphone beeps
    page.click("#record")
    said(page, "Your recording", "#sound-about")
    page.evaluate(MUTED)
    page.click("#record")
    said(page, "I hear nothing", "#record-silent")
    page.click("#record")
    said(page, "I heard nothing", "#sound-about")
    choose(page, portrait)
    page.click("#speak")
    said(page, "I hear nothing", "#silent")
    assert page.is_visible("#live-level")
    page.click("#done")
    said(page, "That is all of it")
    assert page.inner_text("#silent") == ""


# A microphone of which no sound arrives.
SILENT = """Object.defineProperty(MessagePort.prototype, 'onmessage', { set() {} });"""


def test_speaking_live(opened: Opened, served: Served, portrait: Path) -> None:
    page = opened()
    choose(page, portrait)
    page.click("#speak")
    said(page, "the face speaks with you")
    until(page, f"{PLAYED} > 1.5")
    assert page.evaluate("document.getElementById('video').muted") is True
    lag = page.evaluate(
        """() => { const own = document.getElementById('video');
        return own.buffered.end(0) - own.currentTime; }"""
    )
    assert lag < 1.5
    page.click("#done")
    said(page, "That is all of it")
    assert page.is_visible("#download")
    assert page.evaluate("document.getElementById('video').muted") is False


ORDER = """async () => {
  const { LiveVideo } = await import('/static/serve/live.js');
  const sent = [];
  let socket;
  window.WebSocket = class {
    static OPEN = 1;
    readyState = 1;
    bufferedAmount = 0;
    constructor() { socket = this; }
    send(data) { sent.push(typeof data === 'string' ? data : data.byteLength); }
  };
  const { PiecePlayer } = await import('/static/serve/pieces.js');
  const live = new LiveVideo(PiecePlayer, document.createElement('video'), () => {});
  live.start(new Blob(['12345']), { rate: 48000 }, {});
  live.sendSound(new Int16Array(100));  // the microphone is faster than the connection
  await socket.onopen();
  live.sendSound(new Int16Array(100));
  live.endSpeech();
  live.sendSound(new Int16Array(100));  // and a block is still on its way
  live.endSpeech();
  return sent;
}"""


def test_sound_is_sent_between_its_beginning_and_its_end(opened: Opened) -> None:
    page = opened()
    sent = page.evaluate(ORDER)
    assert sent == ['{"image":5}', 5, '{"microphone":48000}', 200, '{"end": true}']


def test_recording_and_camera(opened: Opened, served: Served) -> None:
    page = opened()
    page.click("#record")
    said(page, "1 s", "#level-time")
    page.click("#record")
    said(page, "Your recording", "#sound-about")
    until(page, "document.getElementById('sound-preview').duration > 0")  # known once it is loaded
    seconds = page.evaluate("document.getElementById('sound-preview').duration")
    assert 0.5 < seconds < 10
    page.click("#camera-open")
    until(page, "document.getElementById('camera-view').videoWidth > 0")
    page.click("#camera-take")
    said(page, "The camera's picture: no face was found", "#picture-about")
    assert page.evaluate("document.getElementById('camera-view').srcObject") is None
    page.fill("#box-x", "100")
    page.fill("#box-y", "100")
    page.fill("#box-width", "200")
    page.fill("#box-height", "200")
    page.click("#live")
    until(page, f"{PLAYED} > 0.3")
    said(page, "That is all of it")


NO_PIECES = "delete window.MediaSource; delete window.ManagedMediaSource;"


def test_a_browser_that_cannot_play_live(
    opened: Opened, portrait: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtc, "available", lambda: False)
    page = opened(script=NO_PIECES)
    choose(page, portrait, speech)
    page.click("#live")
    said(page, "cannot play a video while it is made")
    said(page, "Finished")
    until(page, f"{PLAYED} > 0.2")
    page.click("#speak")
    said(page, "Record your voice in step 2", "#error")


# Loudness of the stream that the video plays, and whether its picture changes.
LISTEN_TO_STREAM = """() => {
  const own = document.getElementById('video');
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(own.srcObject).connect(analyser);
  const look = new Float32Array(analyser.fftSize);
  window.loudest = 0;
  setInterval(() => {
    analyser.getFloatTimeDomainData(look);
    window.loudest = Math.max(window.loudest, ...look);
  }, 20);
}"""


@pytest.mark.skipif(not rtc.available(), reason="needs the extra webrtc")
def test_a_browser_without_media_source_plays_by_webrtc(
    opened: Opened, portrait: Path, long_speech: Path
) -> None:
    page = opened(script=NO_PIECES)
    choose(page, portrait, long_speech)
    page.click("#live")
    until(page, f"{PLAYED} > 0.5")
    page.evaluate(LISTEN_TO_STREAM)
    until(page, f"{PLAYED} > 3 && window.loudest > 0.05")
    assert page.evaluate("document.getElementById('video').videoWidth") == 640
    page.click("#cancel")
    said(page, "Cancelled")
    page.click("#speak")
    until(page, f"{PLAYED} > 1")
    page.click("#done")
    said(page, "That is all of it. To keep what you say")
    assert page.is_visible("#video")  # its last frame
    assert page.get_attribute("#video", "poster").startswith("data:image/jpeg")


def stub_jobs(page: Any, address: str, film: bytes) -> list[bytes]:
    """Answer jobs posted to `address` with a finished video. Return the forms that are posted."""
    posted: list[bytes] = []
    state = {"id": "1", "frames": 1, "of": 1, "state": "done", "video": "/v1/jobs/1/video"}

    def create(route: Any) -> None:
        posted.append(route.request.post_data_buffer)
        route.fulfill(status=202, json=state)

    page.route("**/v1/jobs/1?*", lambda route: route.fulfill(json=state))
    page.route("**/v1/jobs/1/video", lambda route: route.fulfill(body=film))
    page.route(address, create)
    return posted


def fields(form: bytes) -> dict[str, str]:
    """Return the text fields of a posted form."""
    found = re.findall(rb'name="(\w+)"\r\n\r\n(.*?)\r\n--', form, re.DOTALL)
    return {name.decode(): value.decode() for name, value in found}


CLIP = Path(__file__).parent / "clips" / "s1_bbaf2n.mp4"


def test_a_sentence_is_typed_where_the_server_has_a_voice(opened: Opened, portrait: Path) -> None:
    page = opened()
    offers = page.evaluate("async () => (await fetch('/v1/models')).json()")

    def offer(voice: bool) -> None:
        page.route("**/v1/models", lambda route: route.fulfill(json=offers | {"voice": voice}))
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.is_visible("#sentence") == voice

    offer(False)
    offer(True)
    posted = stub_jobs(page, "**/v1/jobs", CLIP.read_bytes())
    choose(page, portrait)
    page.fill("#text", " Good morning, everybody! ")
    page.click("#sentence button")
    said(page, "Good morning", "#sound-about")
    assert page.is_hidden("#live") and page.is_visible("#speak")
    page.click("#file")
    said(page, "Finished")
    assert fields(posted[0])["text"] == "Good morning, everybody!"
    assert page.get_attribute("#download", "download") == "portrait-Good-morning-everybody.mp4"


def test_a_video_is_taken_where_the_server_dubs(opened: Opened, speech: Path) -> None:
    page = opened()
    paths = page.evaluate("async () => (await (await fetch('/openapi.json')).json()).paths")
    page.route(
        "**/openapi.json", lambda route: route.fulfill(json={"paths": paths | {"/v1/dub/jobs": {}}})
    )
    posted = stub_jobs(page, "**/v1/dub/jobs", CLIP.read_bytes())
    page.set_input_files("#picture-file", CLIP)
    said(page, "Its mouth will follow the voice", "#picture-about")
    choose(page, sound=speech)
    said(page, "Ready: make a file")
    for name in ("#speak", "#live", "#head", "#blinks", "#still", "#seed"):
        assert page.is_hidden(name)
    assert page.is_visible("#mouth") and page.is_visible("#smooth")
    page.click("#file")
    said(page, "Finished")
    assert set(fields(posted[0])) <= {"model", "mark", "mouth", "smooth", "lease"}
    assert b'name="video"; filename' in posted[0]
    assert page.get_attribute("#download", "download") == "s1_bbaf2n-sentence.mp4"


def test_a_server_that_goes_away(
    browser: Any, portrait: Path, long_speech: Path, tmp_path: Path
) -> None:
    page = browser.new_page()
    with serving(Limits(), tmp_path, models=MODELS[:1]) as own:
        page.goto(own.url)
        page.wait_for_selector("body[data-ready]")
        choose(page, portrait, long_speech)
        page.click("#live")
        until(page, f"{PLAYED} > 0.5")
    said(page, "The connection to the server was lost", "#error")
    page.click("#file")
    said(page, "The connection to the server was lost", "#error")
    page.close()


def test_on_a_phone_the_video_comes_into_view(opened: Opened) -> None:
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.locator(".example").first.tap()
    until(page, f"{PLAYED} > 1.2")
    area = page.evaluate(
        "(() => { const own = document.getElementById('stage')"
        ".getBoundingClientRect(); return [own.top, own.bottom]; })()"
    )
    assert area[0] > -40 and area[1] < 740
    said(page, "That is all of it")
