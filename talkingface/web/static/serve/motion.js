// Step 3: how the face moves beside what is said.

import { part, show } from "./page.js";

const percent = (value) => `${Math.round(100 * value)} %`;
// How the value of each slider reads.
const SLIDERS = {
  mouth: percent,
  head: percent,
  blinks: (value) => `${value} a minute`,
  smooth: percent,
  strength: percent,
};
const NOT_WHEN_STILL = ["head", "blinks", "seed", "seed-new"]; // they have no effect then
const SEEDS = 10_000; // of the button; the field takes larger ones

const ABOUT = "The same seed gives the same performance; another one moves head, eyelids and gaze differently.";
const STILL = "Head, brows, eyelids and gaze stay as they are in the picture.";
const FIXED = "This model draws whole faces: how they move cannot be chosen. Choose another model for that.";

export class Motion {
  #group = part("motion");

  constructor(expressions) {
    for (const name of expressions) {
      const text = name.replaceAll("-", " ");
      part("express").append(new Option(text, name));
    }
    this.#group.addEventListener("input", () => this.#update());
    part("seed").addEventListener("change", ({ target }) => {
      if (!target.value || !target.checkValidity()) target.value = target.defaultValue;
    });
    part("seed-new").addEventListener("click", () => {
      part("seed").value = 1 + Math.floor(Math.random() * (SEEDS - 1));
    });
    part("motion-reset").addEventListener("click", () => this.#reset());
    this.#reset();
  }

  // Whether the model that is chosen takes any of this.
  enable(moves) {
    this.#group.disabled = !moves;
    this.#update();
  }

  // As the server takes them; none for a model that takes none.
  get choices() {
    if (this.#group.disabled) return {};
    const values = Object.fromEntries(["mouth", "smooth", "head", "blinks", "seed"].map((id) => [id, part(id).value]));
    const name = part("express").value;
    const added = name ? { express: `${name}=${part("strength").value}` } : {};
    return { ...values, still: String(part("still").checked), ...added };
  }

  #reset() {
    for (const field of this.#group.querySelectorAll("input")) {
      field.value = field.defaultValue;
      field.checked = field.defaultChecked;
    }
    part("express").value = "";
    this.#update();
  }

  #update() {
    for (const [id, read] of Object.entries(SLIDERS)) {
      const text = read(Number(part(id).value));
      part(`${id}-value`).textContent = text;
      part(id).setAttribute("aria-valuetext", text);
    }
    const still = part("still").checked;
    for (const id of NOT_WHEN_STILL) part(id).disabled = still;
    show(part("strength-row"), Boolean(part("express").value));
    const about = this.#group.disabled ? FIXED : still ? STILL : ABOUT;
    if (part("motion-about").textContent !== about) part("motion-about").textContent = about;
  }
}
