// Audio worklet: sends the microphone's sound as 16-bit blocks of about 40 ms.

class Capture extends AudioWorkletProcessor {
  #block = new Int16Array(Math.round(sampleRate / 25));
  #filled = 0;

  process([[samples]]) {
    if (!samples) return true; // the microphone is not there yet
    for (const value of samples) {
      this.#block[this.#filled] = Math.round(32767 * Math.min(1, Math.max(-1, value)));
      this.#filled += 1;
      if (this.#filled === this.#block.length) {
        this.port.postMessage(this.#block.slice());
        this.#filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
