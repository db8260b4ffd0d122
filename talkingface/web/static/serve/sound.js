// Step 2: the voice, as a file or recorded here.

import { byId, setStatus, show, UserError } from "../common.js";
import { LevelMeter } from "./level.js";
import { listen, wav } from "./microphone.js";
import { acceptDrops, clock, size } from "./page.js";

export class Sound {
  value = null; // a recording as a Blob, or a sentence as a string
  file = ""; // its name, for the name of the video
  #limits;
  #changed;
  #address = null;
  #recording = null;

  // speaks: whether the server has a voice for sentences.
  constructor(limits, speaks, changed) {
    this.#limits = limits;
    this.#changed = changed;
    byId("sound-file").addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) this.take(file, file.name);
    });
    acceptDrops(byId("sound-drop"), (file) => this.take(file, file.name));
    this.#about(`Speech, up to ${limits.live_minutes} minutes live, ${limits.file_minutes} as a file.`);
    byId("record").addEventListener("click", () => (this.#recording ? this.stop() : this.#record()));
    show(byId("sentence"), speaks);
    byId("sentence").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#type(byId("text").value.trim());
    });
  }

  #type(text) {
    if (!text) return;
    this.value = text;
    this.file = text;
    byId("sound-preview").pause();
    show(byId("sound-preview"), false);
    show(byId("sound-invite"), true);
    this.#about(`A synthetic voice says: “${text}”`);
    this.#changed();
  }

  take(blob, name, file = name) {
    const most = this.#limits.sound_mb * 1e6;
    if (blob.size > most) {
      this.#about(`${name} has ${size(blob.size)}; at most ${size(most)} are taken. Cut it or compress it.`, true);
      return;
    }
    this.value = blob;
    this.file = file;
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = URL.createObjectURL(blob);
    const preview = byId("sound-preview");
    preview.onerror = () => {
      show(preview, false);
      this.#about(`${name}, ${size(blob.size)}. This browser cannot play it; perhaps the server can.`);
    };
    preview.src = this.#address;
    show(preview, true);
    show(byId("sound-invite"), false);
    preview.onloadedmetadata = () => {
      if (Number.isFinite(preview.duration)) this.#about(`${name}, ${clock(Math.max(1, preview.duration))}.`);
    };
    this.#about(`${name}, ${size(blob.size)}.`);
    this.#changed();
  }

  async #record() {
    byId("sound-preview").pause();
    const blocks = [];
    let meter = null; // there are blocks before it is
    try {
      this.#recording = { blocks };
      const microphone = await listen((block) => {
        blocks.push(block);
        meter?.push(block);
        const seconds = (blocks.length * block.length) / microphone.rate;
        byId("level-time").textContent = clock(seconds);
        if (seconds >= 60 * this.#limits.live_minutes) this.stop();
      });
      meter = new LevelMeter(byId("level"), byId("record-silent"));
      Object.assign(this.#recording, microphone, { meter });
    } catch (error) {
      this.#recording = null;
      this.#about(error instanceof UserError ? error.message : String(error), true);
      return;
    }
    byId("record").textContent = "Stop recording";
    byId("record").classList.add("recording");
    show(byId("level-row"), true);
    this.#about("Recording. Press again to stop.");
  }

  stop() {
    const recording = this.#recording;
    if (!recording?.stop) return;
    this.#recording = null;
    recording.stop();
    recording.meter.stop();
    byId("record").textContent = "Record again";
    byId("record").classList.remove("recording");
    show(byId("level-row"), false);
    if (recording.meter.heard) this.take(wav(recording.blocks, recording.rate), "Your recording", "recording");
    else this.#about("I heard nothing. Check the microphone, then record again.", true);
  }

  #about(text, bad = false) {
    setStatus(byId("sound-about"), text, bad);
  }
}
