// Settings: options of the face's motion.

import { byId, setStatus, show } from "../common.js";

const percent = (value) => `${Math.round(100 * value)} %`;
// Text of each slider's value.
const SLIDERS = {
  mouth: percent,
  head: percent,
  blinks: (value) => `${value} a minute`,
  smooth: percent,
  strength: percent,
};
const NOT_WHEN_STILL = ["head", "blinks", "seed", "seed-new"]; // they have no effect then
const SEEDS = 10_000; // of the button; the field takes larger ones

const ABOUT = "The same take moves head, eyelids and gaze in the same way again; another take moves them differently.";
const STILL = "Head, eyebrows, eyelids and gaze stay as they are in the picture.";
const OF_VIDEO = "Head, eyes and all else stay as they are in the video.";
const FIXED = "This method moves the face in its own way. To choose how, take another method under “More”.";

export class Motion {
  #group = byId("motion");
  #ofVideo = false;

  constructor(expressions) {
    for (const name of expressions) {
      const text = name.replace("brows", "eyebrows").replaceAll("-", " ");
      byId("express").append(new Option(text, name));
    }
    this.#group.addEventListener("input", () => this.#update());
    byId("seed").addEventListener("change", ({ target }) => {
      if (!target.value || !target.checkValidity()) target.value = target.defaultValue;
    });
    byId("seed-new").addEventListener("click", () => {
      byId("seed").value = 1 + Math.floor(Math.random() * (SEEDS - 1));
    });
    byId("motion-reset").addEventListener("click", () => this.#reset());
    this.#reset();
  }

  // Enable the options if the chosen model has them.
  enable(moves) {
    this.#group.disabled = !moves;
    this.#update();
  }

  // Tell that only the mouth of a video moves, or that a picture does.
  set ofVideo(value) {
    this.#ofVideo = value;
    this.#update();
  }

  // Options for the server; none for a model without them.
  get choices() {
    if (this.#group.disabled) return {};
    const values = Object.fromEntries(["mouth", "smooth", "head", "blinks", "seed"].map((id) => [id, byId(id).value]));
    const name = byId("express").value;
    const added = name ? { express: `${name}=${byId("strength").value}` } : {};
    return { ...values, still: String(byId("still").checked), ...added };
  }

  #reset() {
    for (const field of this.#group.querySelectorAll("input")) {
      field.value = field.defaultValue;
      field.checked = field.defaultChecked;
    }
    byId("express").value = "";
    this.#update();
  }

  #update() {
    for (const [id, read] of Object.entries(SLIDERS)) {
      const text = read(Number(byId(id).value));
      byId(`${id}-value`).textContent = text;
      byId(id).setAttribute("aria-valuetext", text);
    }
    const still = byId("still").checked;
    for (const id of NOT_WHEN_STILL) byId(id).disabled = still;
    show(byId("strength-row"), Boolean(byId("express").value));
    const own = this.#ofVideo ? OF_VIDEO : still ? STILL : ABOUT;
    setStatus(byId("motion-about"), this.#group.disabled ? FIXED : own);
  }
}
