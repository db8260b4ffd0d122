// Level of a microphone, and whether it hears anything.

import { setStatus } from "../common.js";
import { loudness } from "./microphone.js";

const QUIET = 0.02; // loudness of a quiet room, at most; 1 is full scale
const FIRST = 3_000; // milliseconds without sound at the beginning after which the page says so
const LATER = 10_000; // the same once something was heard: people pause
const SHOWN = 3; // decades of loudness on the meter: 60 dB
const NOTHING = "I hear nothing. Speak louder, or check that the right microphone is chosen and that it is not muted.";

// Value of a meter from 0 to 1 for a loudness from 0 to 1: decibels, as ears hear.
export function meterValue(loud) {
  return Math.min(1, Math.max(0, 1 + Math.log10(Math.max(loud, 1e-9)) / SHOWN));
}

export class SilenceDetector {
  #since;
  #patience = FIRST;
  heard = false; // something, at any time

  constructor(now) {
    this.#since = now;
  }

  // Take the loudness at a time in milliseconds.
  hear(loud, now) {
    if (loud < QUIET) return;
    this.#since = now;
    this.#patience = LATER;
    this.heard = true;
  }

  isSilent(now) {
    return now - this.#since >= this.#patience;
  }
}

export class LevelMeter {
  #meter;
  #note;
  #detector = new SilenceDetector(performance.now());
  #timer;

  // meter: shows the level. note: a live region that says when nothing is heard.
  constructor(meter, note) {
    this.#meter = meter;
    this.#note = note;
    this.#timer = setInterval(() => {
      setStatus(note, this.#detector.isSilent(performance.now()) ? NOTHING : "");
    }, 250);
  }

  // Take a block of 16-bit samples.
  push(block) {
    const loud = loudness(block);
    this.#detector.hear(loud, performance.now());
    this.#meter.value = meterValue(loud);
  }

  get heard() {
    return this.#detector.heard;
  }

  stop() {
    clearInterval(this.#timer);
    this.#meter.value = 0;
    setStatus(this.#note, "");
  }
}
