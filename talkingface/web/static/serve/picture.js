// Step 1: the picture and its face.

import { byId, setStatus, show, UserError, userErrorOf } from "../common.js";
import { prepareCamera } from "./camera.js";
import { acceptDrops, size } from "./page.js";

const BOX = ["x", "y", "width", "height"];
const SMALLEST = 16; // pixels of the side of a drawn box

// Box of two opposite corners: x, y, width, height.
export function boxBetween([left, top], [right, bottom]) {
  return [Math.min(left, right), Math.min(top, bottom), Math.abs(right - left), Math.abs(bottom - top)];
}

// Box in text fields; null unless it is complete.
export function typedBox(values) {
  return values.every(Number.isFinite) && values[2] > 0 && values[3] > 0 ? values : null;
}

// Where a face is among several: "left", "middle" or "right".
export function sideOf([x, , width], whole) {
  const share = (x + width / 2) / whole;
  return share < 0.4 ? "left" : share > 0.6 ? "right" : "middle";
}

// Whether the server changes the mouth in a video.
async function takesVideos() {
  const { paths } = await (await fetch("/openapi.json")).json();
  return "/v1/dub/jobs" in paths;
}

export class Picture {
  blob = null;
  file = ""; // its name, for the name of the video
  isVideo = false; // a video whose mouth follows the voice
  #limits;
  #found = null; // the server's answer: width, height, faces
  #box = null; // x, y, width, height in picture pixels
  #name = "";
  #asking = null;
  #failed = false; // the server did not look at it
  #address = null;
  #changed;

  constructor(limits, changed) {
    this.#limits = limits;
    this.#changed = changed;
    byId("picture-file").addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) this.take(file, file.name);
    });
    acceptDrops(byId("picture-drop"), (file) => this.take(file, file.name));
    for (const name of BOX) byId(`box-${name}`).addEventListener("input", () => this.#typed());
    byId("box-clear").addEventListener("click", () => {
      this.#setBox(null);
      this.#changed();
    });
    byId("mark-face").addEventListener("toggle", () => this.#marking());
    this.#enableDrawing(byId("picture-frame"));
    prepareCamera({
      take: (blob) => this.take(blob, "The camera's picture", "camera"),
      failed: (text) => this.#about(text, true),
    });
    this.#about(`One face, seen from the front, works best. Pictures have up to ${limits.picture_mb} MB.`);
  }

  // Options of the face for the server.
  get choices() {
    if (this.#box) return { box: this.#box.map(Math.round).join(",") };
    const chosen = document.querySelector("input[name=face]:checked");
    return chosen ? { face: chosen.value } : {};
  }

  // What keeps the picture from being used: a text for the user; "" for nothing.
  get problem() {
    if (!this.blob) return "Choose a picture first, in step 1.";
    if (this.isVideo || this.#box || this.#found?.faces.length) return "";
    if (this.#found) return "No face was found in the picture. Mark it in step 1, or choose another picture.";
    return this.#failed ? "The picture could not be looked at. Choose it again." : "";
  }

  // Whether the server still looks for faces.
  get isAsking() {
    return Boolean(this.blob) && !this.isVideo && !this.#found && !this.#failed;
  }

  async take(blob, name, file = name) {
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    this.#found = null;
    this.#failed = false;
    this.#setBox(null);
    show(byId("which-face"), false);
    byId("which-face-list").replaceChildren();
    show(byId("mark-face"), false);
    this.isVideo = blob.type.startsWith("video/");
    const most = (this.isVideo ? this.#limits.sound_mb : this.#limits.picture_mb) * 1e6;
    if (blob.size > most) {
      this.blob = null;
      this.#changed();
      this.#preview(null);
      this.#about(`${name} has ${size(blob.size)}; at most ${size(most)} are taken. Shrink it first.`, true);
      return;
    }
    if (this.isVideo && !(await takesVideos())) {
      this.blob = null;
      this.isVideo = false;
      this.#changed();
      this.#preview(null);
      this.#about("This server takes no videos: choose a picture.", true);
      return;
    }
    this.blob = blob;
    this.file = file;
    this.#name = name;
    this.#preview(blob);
    if (this.isVideo) this.#about(`${name}: a video. Its mouth will follow the voice, and all else stays.`);
    else this.#about(`${name}: looking for faces …`);
    this.#changed();
    if (this.isVideo) return;
    try {
      const form = new FormData();
      form.append("image", blob, "picture");
      const answer = await fetch("/v1/faces", { method: "POST", body: form, signal: asking.signal });
      if (!answer.ok) {
        if (answer.status === 413 || answer.status === 415) this.blob = null;
        throw await userErrorOf(answer);
      }
      this.#present(await answer.json());
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#failed = true;
      if (!this.blob) this.#preview(null);
      this.#about(error instanceof UserError ? error.message : "The server does not answer.", true);
    }
    if (this.#asking === asking) this.#changed();
  }

  #describe() {
    const { faces } = this.#found;
    const name = this.#name;
    const texts = {
      0: `${name}: no face was found. Draw a box around it on the picture, or choose another picture.`,
      1: `${name}: one face found.`,
    };
    if (this.#box) this.#about(`${name}: the face is where you marked it.`);
    else this.#about(texts[faces.length] ?? `${name}: ${faces.length} faces found. ${this.chosen} speaks.`, !faces.length);
  }

  // The face that speaks, of a picture with several: "Face 2 (right)"; else "".
  get chosen() {
    const faces = this.#found?.faces ?? [];
    if (this.#box || faces.length < 2) return "";
    const number = Number(document.querySelector("input[name=face]:checked")?.value ?? 1);
    const side = sideOf(faces[number - 1].box, this.#found.width);
    return `Face ${number} (${side})`;
  }

  #present(found) {
    this.#found = found;
    const count = found.faces.length;
    show(byId("mark-face"), true);
    byId("mark-face").open = count === 0;
    show(byId("which-face"), count > 1);
    const list = byId("which-face-list");
    list.replaceChildren();
    for (const { number, box } of count > 1 ? found.faces : []) {
      const label = document.createElement("label");
      const radio = document.createElement("input");
      Object.assign(radio, { type: "radio", name: "face", value: number, checked: number === 1 });
      radio.addEventListener("change", () => {
        this.#setBox(null);
        this.#changed();
      });
      label.append(radio, ` Face ${number} (${sideOf(box, found.width)})`);
      list.append(label);
    }
    this.#describe();
    this.#draw();
  }

  #preview(blob) {
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = blob && URL.createObjectURL(blob);
    const shown = byId(this.isVideo ? "video-preview" : "picture-preview");
    const other = byId(this.isVideo ? "picture-preview" : "video-preview");
    show(shown, true);
    show(other, false);
    other.removeAttribute("src");
    shown.onerror = () => show(byId("picture-frame"), false); // sent all the same
    if (this.#address) shown.src = this.isVideo ? `${this.#address}#t=0.001` : this.#address; // Safari draws no first frame
    show(byId("picture-frame"), Boolean(blob));
    show(byId("picture-invite"), !blob);
    byId("picture-faces").replaceChildren();
  }

  #about(text, bad = false) {
    setStatus(byId("picture-about"), text, bad);
  }

  // Draw outlines over the preview. Radio buttons and numbers show the same.
  #draw() {
    const layer = byId("picture-faces");
    layer.replaceChildren();
    if (!this.#found) return;
    const chosen = document.querySelector("input[name=face]:checked")?.value ?? "1";
    for (const { number, box } of this.#box ? [] : this.#found.faces) {
      const outline = this.#outline(box);
      if (this.#found.faces.length > 1) {
        const name = document.createElement("b");
        name.textContent = number;
        outline.append(name);
      }
      outline.classList.toggle("chosen", String(number) === chosen);
      layer.append(outline);
    }
    if (this.#box) {
      const outline = this.#outline(this.#box);
      outline.classList.add("chosen");
      layer.append(outline);
    }
  }

  #outline([x, y, width, height]) {
    const { width: wide, height: high } = this.#found;
    const outline = document.createElement("span");
    outline.style.left = `${(100 * x) / wide}%`;
    outline.style.top = `${(100 * y) / high}%`;
    outline.style.width = `${(100 * width) / wide}%`;
    outline.style.height = `${(100 * height) / high}%`;
    return outline;
  }

  #setBox(box, typed = false) {
    this.#box = box;
    if (!typed) {
      BOX.forEach((name, k) => {
        byId(`box-${name}`).value = box ? Math.round(box[k]) : "";
      });
    }
    if (!this.#found) return;
    this.#describe();
    this.#draw();
  }

  #typed() {
    this.#setBox(typedBox(BOX.map((name) => byId(`box-${name}`).valueAsNumber)), true);
    this.#changed();
  }

  #marking() {
    byId("picture-frame").classList.toggle("marking", byId("mark-face").open);
  }

  #enableDrawing(frame) {
    let start = null;
    const pointOf = (event) => {
      const area = byId("picture-preview").getBoundingClientRect();
      const share = (value, from, length) => Math.min(1, Math.max(0, (value - from) / length));
      return [
        share(event.clientX, area.left, area.width) * this.#found.width,
        share(event.clientY, area.top, area.height) * this.#found.height,
      ];
    };
    frame.addEventListener("pointerdown", (event) => {
      if (!this.#found || !byId("mark-face").open) return;
      event.preventDefault();
      frame.setPointerCapture(event.pointerId);
      start = pointOf(event);
    });
    frame.addEventListener("pointermove", (event) => {
      if (!start) return;
      const box = boxBetween(start, pointOf(event));
      if (Math.min(box[2], box[3]) >= SMALLEST) this.#setBox(box);
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      frame.addEventListener(kind, () => {
        if (start) this.#changed();
        start = null;
      });
    }
  }
}
