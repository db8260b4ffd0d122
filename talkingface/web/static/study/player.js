// The two videos of a pair: played together or one alone, with the sound of one.

import { SIDES } from "./questions.js";

export class Player {
  watched = { a: false, b: false };
  playing = []; // sides that are to play, or do
  waiting = false; // for a video to arrive
  #videos = Object.fromEntries(
    SIDES.map((side) => [side, document.querySelector(`figure[data-side="${side}"] video`)]),
  );
  #turn = 0; // counts plays: one that was overtaken by another must not go on
  #changed;
  #failed;

  // changed: called when what is played or watched changes. failed: called when a video does not load.
  constructor(changed, failed) {
    this.#changed = changed;
    this.#failed = failed;
    for (const side of SIDES) {
      this.#videos[side].addEventListener("ended", () => this.#ended(side));
      this.#soundSwitch(side).addEventListener("change", () => this.listen(side));
    }
  }

  load(sources, watched) {
    this.stop();
    this.watched = { a: watched, b: watched };
    for (const side of SIDES) {
      this.#videos[side].src = sources[side];
      this.#videos[side].load();
    }
  }

  stop() {
    this.#turn += 1;
    this.playing = [];
    this.waiting = false;
    for (const side of SIDES) this.#videos[side].pause();
  }

  async play(sides) {
    this.stop();
    const turn = this.#turn;
    this.listen(sides.length === 1 ? sides[0] : this.#audible());
    this.playing = [...sides];
    this.waiting = true;
    this.#changed();
    const videos = sides.map((side) => this.#videos[side]);
    try {
      await Promise.all(videos.map(ready));
      if (turn !== this.#turn) return;
      this.waiting = false;
      this.#changed();
      for (const video of videos) video.currentTime = 0;
      await Promise.all(videos.map((video) => video.play()));
    } catch (error) {
      if (turn !== this.#turn) return; // stopped meanwhile, on purpose
      this.stop();
      this.#changed();
      // a browser plays nothing with sound before the first click or key
      if (error?.name !== "NotAllowedError") this.#failed();
    }
  }

  toggle() {
    if (!this.playing.length) return void this.play(SIDES);
    this.stop();
    this.#changed();
  }

  listen(side) {
    for (const one of SIDES) this.#videos[one].muted = one !== side;
    this.#soundSwitch(side).checked = true;
  }

  swapSound() {
    this.listen(this.#audible() === "a" ? "b" : "a");
  }

  #audible() {
    return document.querySelector('input[name="sound"]:checked').value;
  }

  #soundSwitch(side) {
    return document.querySelector(`input[name="sound"][value="${side}"]`);
  }

  #ended(side) {
    this.watched[side] = true;
    this.playing = this.playing.filter((one) => one !== side);
    this.#changed();
  }
}

// Resolves when a video can be played; rejects with its error.
function ready(video) {
  if (video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const settle = (event) => {
      for (const kind of ["canplay", "error"]) video.removeEventListener(kind, settle);
      if (event.type === "error") reject(video.error);
      else resolve();
    };
    for (const kind of ["canplay", "error"]) video.addEventListener(kind, settle);
    if (video.error) video.load();
  });
}
