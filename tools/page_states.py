"""Photograph every state of the page: `python tools/page_states.py FOLDER [--only NAME,NAME]`.

It serves the page on loopback, opens it in Debian's chromium and brings it into each state. Of
each state it writes NAME-WIDTH-SCHEME.png, 1280 and 390 pixels wide, light and dark, to be looked
at. The microphone and the camera are Chromium's own fakes.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import media as recordings  # noqa: E402
from helpers.served import Served, serving  # noqa: E402
from talkingface import audio, picture  # noqa: E402
from talkingface.web.limits import Limits  # noqa: E402

PORTRAIT, SPEECH = ROOT / "examples/portrait.jpg", ROOT / "examples/speech.wav"
CLIP = ROOT / "tests/clips/s1_bbaf2n.mp4"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
VARIANTS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
PATIENCE = 180_000  # milliseconds
# Pages in a browser without Media Source Extensions, without WebRTC too, or with a microphone that
# gives only zeros.
NO_PIECES = "delete window.MediaSource; delete window.ManagedMediaSource;"
NO_LIVE = f"{NO_PIECES} delete window.RTCPeerConnection;"
SILENCE = """navigator.mediaDevices.getUserMedia = async () =>
  new AudioContext().createMediaStreamDestination().stream;"""


@dataclass(frozen=True)
class Files:
    """Inputs that are made for the pictures. two: two faces. none: no face. text: no media."""

    two: Path
    none: Path
    text: Path
    long: Path


@dataclass(frozen=True)
class Visit:
    """One page in the browser."""

    page: Any
    files: Files
    another: Callable[[], Any]

    def choose(self, image: Path | None = PORTRAIT, sound: Path | None = SPEECH) -> None:
        if image is not None:
            self.page.set_input_files("#picture-file", image)
            self.says("found|taken|no face|not a|damaged", "#picture-about")
        if sound is not None:
            self.page.set_input_files("#sound-file", sound)

    def drop(self, file: Path, where: str) -> None:
        """Drop a file on an element, as from a file manager."""
        script = """([data, name, type]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], name, { type }));
            return given;
        }"""
        data = base64.b64encode(file.read_bytes()).decode()
        given = self.page.evaluate_handle(script, [data, file.name, "video/mp4"])
        self.page.dispatch_event(where, "drop", {"dataTransfer": given})

    def reload(self, script: str) -> None:
        """Load the page again, with a script that runs before its own."""
        self.page.add_init_script(script)
        self.page.reload()
        self.page.wait_for_selector("body[data-ready]")

    def says(self, text: str, where: str = "#status") -> None:
        self.page.locator(where, has_text=re.compile(text)).wait_for(timeout=PATIENCE)

    def click(self, name: str) -> None:
        self.page.click(f"#{name}", timeout=PATIENCE)

    def played(self, seconds: float = 1.0) -> None:
        for _ in range(PATIENCE // 50):
            if self.page.evaluate("document.getElementById('video').currentTime") > seconds:
                return
            self.page.wait_for_timeout(50)
        raise TimeoutError(self.page.inner_text("#watch"))

    def watch_example(self) -> None:
        self.page.locator(".example").nth(1).click()
        self.finished()

    def finished(self) -> None:
        self.says("That is all of it|Finished")


STATES: dict[str, Callable[[Visit], None]] = {}


def state(reach: Callable[[Visit], None]) -> Callable[[Visit], None]:
    STATES[reach.__name__.replace("_", "-")] = reach
    return reach


@state
def empty(_: Visit) -> None:
    pass


@state
def missing_picture(own: Visit) -> None:
    own.click("live")


@state
def missing_voice(own: Visit) -> None:
    own.choose(sound=None)
    own.click("live")


@state
def ready(own: Visit) -> None:
    own.choose()
    own.says("Ready")


@state
def gallery_mixed(own: Visit) -> None:
    own.page.locator(".face").nth(1).click()
    own.page.locator(".voice").nth(4).click()
    own.says("Ready")


@state
def two_faces(own: Visit) -> None:
    own.choose(own.files.two)
    own.page.check("input[name=face][value='2']")
    own.says("Ready")


@state
def no_face(own: Visit) -> None:
    own.choose(own.files.none)
    own.click("live")


@state
def face_marked(own: Visit) -> None:
    own.choose(own.files.none)
    for side, value in (("x", 100), ("y", 60), ("width", 160), ("height", 180)):
        own.page.fill(f"#box-{side}", str(value))


@state
def refused_picture(own: Visit) -> None:
    own.choose(own.files.text)


@state
def refused_sound(own: Visit) -> None:
    own.choose(sound=own.files.text)
    own.click("live")
    own.says("recording", "#error")


@state
def live_woman(own: Visit) -> None:
    own.page.locator(".example").first.click()
    own.played(2.3)


@state
def live_man(own: Visit) -> None:
    own.page.locator(".example").nth(1).click()
    own.played(1.2)


@state
def live_ended(own: Visit) -> None:
    own.watch_example()
    own.page.hover("#video")


@state
def live_paused(own: Visit) -> None:
    own.watch_example()
    own.page.evaluate("document.getElementById('video').pause()")
    own.page.evaluate("document.getElementById('video').currentTime = 1.24")
    own.page.hover("#video")


@state
def older_result(own: Visit) -> None:
    own.watch_example()
    own.page.locator(".face").first.click()
    own.page.locator(".voice").nth(2).click()
    own.says("older", "#old")


@state
def file_sent(own: Visit) -> None:
    own.choose(sound=own.files.long)
    own.click("file")
    own.says("Made so far", "#detail")


@state
def file_beside_older(own: Visit) -> None:
    own.watch_example()
    own.choose(sound=own.files.long)
    own.click("file")
    own.says("Made so far", "#detail")


@state
def file_waiting(own: Visit) -> None:
    first = Visit(own.another(), own.files, own.another)
    for visit in (first, own):
        visit.choose(sound=own.files.long)
        visit.click("file")
        visit.says("Making|Waiting")
    own.says("you are next")


@state
def file_finished(own: Visit) -> None:
    own.choose()
    own.click("file")
    own.finished()


@state
def face_only(own: Visit) -> None:
    own.choose()
    own.page.evaluate("document.getElementById('more').open = true")
    own.page.check("input[name=show][value=face]")
    own.click("live")
    own.played(1.2)


@state
def cancelled(own: Visit) -> None:
    own.choose(sound=own.files.long)
    own.click("live")
    own.played(0.5)
    own.click("cancel")


@state
def recording(own: Visit) -> None:
    own.click("record")
    own.says("1 s", "#level-time")


@state
def recorded(own: Visit) -> None:
    own.click("record")
    own.says("2 s", "#level-time")
    own.click("record")
    own.says("Your recording", "#sound-about")


@state
def camera(own: Visit) -> None:
    own.click("camera-open")
    own.page.wait_for_timeout(1000)


@state
def speaking(own: Visit) -> None:
    own.choose(sound=None)
    own.click("speak")
    own.says("the face speaks with you")
    own.played(1)


@state
def speaking_unheard(own: Visit) -> None:
    own.page.evaluate(SILENCE)
    own.choose(sound=None)
    own.click("speak")
    own.says("hear nothing", "#silent")
    own.played(1)


@state
def spoken(own: Visit) -> None:
    speaking(own)
    own.click("done")
    own.finished()


@state
def settings(own: Visit) -> None:
    own.page.evaluate("document.getElementById('more').open = true")
    own.page.select_option("#express", "smile")
    own.page.uncheck("#mark")
    own.page.check("#still")


@state
def sentence_typed(own: Visit) -> None:
    if own.page.is_hidden("#sentence"):
        raise RuntimeError("the server has no voice: pip install 'talkingface[voice]'")
    own.choose(sound=None)
    own.page.fill("#text", "Good morning! What would you like for breakfast?")
    own.page.click("#sentence button")
    own.says("Ready")


@state
def sentence_finished(own: Visit) -> None:
    sentence_typed(own)
    own.click("file")
    own.finished()


@state
def video_dropped(own: Visit) -> None:
    own.drop(CLIP, "#picture-drop")
    own.says("a video", "#picture-about")
    own.page.wait_for_timeout(500)  # its first frame


@state
def video_ready(own: Visit) -> None:
    video_dropped(own)
    own.choose(image=None)
    own.says("Ready")


@state
def video_finished(own: Visit) -> None:
    video_ready(own)
    own.click("file")
    own.finished()


@state
def rtc_playing(own: Visit) -> None:
    own.reload(NO_PIECES)
    own.choose()
    own.click("live")
    own.played(1.2)


@state
def rtc_ended(own: Visit) -> None:
    rtc_playing(own)
    own.finished()


@state
def without_live(own: Visit) -> None:
    own.reload(NO_LIVE)
    own.choose()
    own.click("live")
    own.says("cannot play")


@state
def keyboard(own: Visit) -> None:
    for _ in range(3):
        own.page.keyboard.press("Tab")


@state
def mouse(own: Visit) -> None:
    own.choose()
    own.page.click("label:has(#picture-file)")
    own.page.click("#seed-new")


@state
def connection_lost(own: Visit) -> None:
    own.choose()
    own.page.route("**/v1/jobs", lambda route: route.abort())
    own.click("file")
    own.says("lost", "#error")


def make_files(folder: Path) -> Files:
    files = Files(*(folder / name for name in ("two.png", "none.png", "text.jpg", "long.flac")))
    whole = picture.read(PORTRAIT)
    two = np.full((384, 640, 3), 127, np.uint8)
    two[:, :384] = whole[::2, ::2]
    two[100:356, 384:] = whole[::3, ::3]
    picture.write_png(files.two, two)
    picture.write_png(files.none, np.full((300, 400, 3), 127, np.uint8))
    files.text.write_text("This is neither a picture nor a sound. " * 20)
    samples = np.concatenate([part.numpy() for part in audio.read(SPEECH, 16_000)])
    recordings.write_sound(files.long, np.tile(samples, 8), 16_000, "flac")
    return files


@contextmanager
def visiting(browser: Any, served: Served, files: Files) -> Iterator[Visit]:
    """Open a page; close it, and all that were opened beside it, at the end."""
    contexts = []

    def another() -> Any:
        contexts.append(browser.new_context(reduced_motion="reduce"))
        page = contexts[-1].new_page()
        page.goto(served.url)
        page.wait_for_selector("body[data-ready]")
        return page

    try:
        yield Visit(another(), files, another)
    finally:
        for context in contexts:
            context.close()
        served.wait_until_idle(20)


def photograph(page: Any, name: str, folder: Path) -> None:
    for width, scheme in VARIANTS:
        page.set_viewport_size({"width": width, "height": 900 if width > 600 else 844})
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(STATES), help="names of states, with commas")
    parser.add_argument("--models", default="cran,atvg")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    limits = Limits(jobs=1, queue=2, streams=3)
    with (
        tempfile.TemporaryDirectory() as made,
        tempfile.TemporaryDirectory() as temp,
        serving(limits, Path(temp), models=given.models.split(",")) as served,
        sync_playwright() as started,
    ):
        files = make_files(Path(made))
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name in given.only.split(","):
            with visiting(browser, served, files) as visit:
                STATES[name](visit)
                photograph(visit.page, name, given.folder)
            print(name, flush=True)
        browser.close()


if __name__ == "__main__":
    main()
