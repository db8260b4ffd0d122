"""Latency of live speech in Chromium, as an mp4 in pieces and by WebRTC.

    python benchmarks/live_latency.py [--seconds 30]

A page speaks live with a microphone that beeps once a second. In place of a face the server draws
white frames where the sound is loud, after a lookahead of 100 ms and without computing anything.
Measured is the time from a beep to the first white frame that Chromium shows: microphone, upload,
lookahead, encoding, sending, buffering and display. A model's own time and the rest of its
lookahead (`latency` of docs/serving.md) come on top. Needs the extras dev and webrtc.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from page_states import ARGUMENTS, CHROMIUM, NO_LIVE, PORTRAIT  # noqa: E402

from helpers.served import Flashes, serving  # noqa: E402
from talkingface.web.limits import Limits  # noqa: E402
from talkingface.web.service import Service  # noqa: E402

WAYS = {"mp4 in pieces": "", "WebRTC": NO_LIVE}
LOOKAHEAD = 1000 * Flashes.latency  # milliseconds
EVERY = 1000  # milliseconds between two beeps

# A microphone that beeps, and the times of its beeps and of white frames, in milliseconds.
MICROPHONE = """
window.beeps = [];
window.shown = [];
navigator.mediaDevices.getUserMedia = async () => {
  const context = new AudioContext();
  const gain = new GainNode(context, { gain: 0 });
  const to = context.createMediaStreamDestination();
  const tone = new OscillatorNode(context, { frequency: 1000 });
  tone.connect(gain).connect(to);
  tone.start();
  setInterval(() => {
    const at = context.currentTime + 0.05;
    gain.gain.setValueAtTime(0.9, at);
    gain.gain.setValueAtTime(0, at + 0.12);
    window.beeps.push(performance.now() + 50);
  }, EVERY);
  return to.stream;
};
""".replace("EVERY", str(EVERY))
WATCH = """() => {
  const own = document.getElementById('video');
  const small = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  let white = false;
  const look = (now, frame) => {
    small.drawImage(own, 0, 0, 1, 1);
    const bright = small.getImageData(0, 0, 1, 1).data[0] > 128;
    if (bright && !white) window.shown.push(frame.expectedDisplayTime);
    white = bright;
    own.requestVideoFrameCallback(look);
  };
  own.requestVideoFrameCallback(look);
}"""


def measure(browser: Any, url: str, script: str, seconds: float) -> np.ndarray:
    """Return the latency of each beep in milliseconds, NaN for one that was not seen."""
    page = browser.new_page()
    page.add_init_script(script + MICROPHONE)
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    page.set_input_files("#picture-file", PORTRAIT)
    page.locator("#picture-about", has_text="found").wait_for()
    page.click("#speak")
    page.evaluate(WATCH)
    page.wait_for_timeout(1000 * seconds)
    beeps, shown = np.array(page.evaluate("beeps")), np.array(page.evaluate("shown"))
    page.close()
    # The first beeps wait for the connection; the last one may still be on its way.
    return np.array([_first_after(shown, beep) for beep in beeps[3:-2]])


def _first_after(shown: np.ndarray, beep: float) -> float:
    later = shown[shown > beep]
    return later[0] - beep if len(later) and later[0] < beep + EVERY else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    setattr(Service, "open", lambda *_: Flashes())  # noqa: B010
    with (
        tempfile.TemporaryDirectory() as temp,
        serving(Limits(), Path(temp)) as served,
        sync_playwright() as started,
    ):
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        print(f"| way | beeps seen | p50 | p95 | p50 less the lookahead of {LOOKAHEAD:g} ms |")
        print("|---|---|---|---|---|")
        for way, script in WAYS.items():
            found = measure(browser, served.url, script, given.seconds)
            seen = found[np.isfinite(found)]
            middle, late = np.percentile(seen, (50, 95)) if len(seen) else (np.nan, np.nan)
            numbers = f"{middle:.0f} ms | {late:.0f} ms | {middle - LOOKAHEAD:.0f} ms"
            print(f"| {way} | {len(seen)} of {len(found)} | {numbers} |", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
