// Step 2: the voice, as a file or recorded here.

import { listen, loudness, wav } from "./microphone.js";
import { acceptDrops, clock, part, show, size, Trouble } from "./page.js";

export class Sound {
  blob = null;
  #limits;
  #changed;
  #address = null;
  #recording = null;

  constructor(limits, changed) {
    this.#limits = limits;
    this.#changed = changed;
    part("sound-file").addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) this.take(file, file.name);
    });
    acceptDrops(part("sound-drop"), (file) => this.take(file, file.name));
    const most = `up to ${limits.live_minutes} minutes live, ${limits.file_minutes} as a file`;
    this.#about(`Speech, ${most}. Or skip this step and press “Speak live”.`);
    part("record").addEventListener("click", () => (this.#recording ? this.stop() : this.#record()));
  }

  take(blob, name) {
    const most = this.#limits.sound_mb * 1e6;
    if (blob.size > most) {
      this.#about(`${name} has ${size(blob.size)}; at most ${size(most)} are taken. Cut it or compress it.`, true);
      return;
    }
    this.blob = blob;
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = URL.createObjectURL(blob);
    const preview = part("sound-preview");
    preview.onerror = () => {
      show(preview, false);
      this.#about(`${name}, ${size(blob.size)}. This browser cannot play it; perhaps the server can.`);
    };
    preview.src = this.#address;
    show(preview, true);
    show(part("sound-invite"), false);
    this.#about(`${name}, ${size(blob.size)}.`);
    this.#changed();
  }

  async #record() {
    part("sound-preview").pause();
    const blocks = [];
    try {
      this.#recording = { blocks };
      const microphone = await listen((block) => {
        blocks.push(block);
        part("level").value = loudness(block);
        const seconds = (blocks.length * block.length) / microphone.rate;
        part("level-time").textContent = clock(seconds);
        if (seconds >= 60 * this.#limits.live_minutes) this.stop();
      });
      Object.assign(this.#recording, microphone);
    } catch (error) {
      this.#recording = null;
      this.#about(error instanceof Trouble ? error.message : String(error), true);
      return;
    }
    part("record").textContent = "Stop recording";
    part("record").classList.add("recording");
    show(part("level-row"), true);
    this.#about("Recording. Press again to stop.");
  }

  stop() {
    const recording = this.#recording;
    if (!recording?.stop) return;
    this.#recording = null;
    recording.stop();
    part("record").textContent = "Record again";
    part("record").classList.remove("recording");
    show(part("level-row"), false);
    if (recording.blocks.length) this.take(wav(recording.blocks, recording.rate), "Your recording");
    else this.#about("Nothing was recorded.", true);
  }

  #about(text, bad = false) {
    part("sound-about").textContent = text;
    part("sound-about").classList.toggle("bad", bad);
  }
}
