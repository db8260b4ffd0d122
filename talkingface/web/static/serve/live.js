// Live video: messages of the socket, playback by MediaSource.

import { sentence, UserError } from "../common.js";

const SLICE = 256 * 1024; // bytes of a file per message
const MOST_WAITING = 4 * SLICE; // bytes that may wait in the socket
const BEHIND = 10; // seconds kept before the current time when the buffer is full
const MOST_LAG = 1.2; // seconds that live playback may be behind the newest frame

const Source = window.ManagedMediaSource ?? window.MediaSource;
const KIND = 'video/mp4; codecs="avc1.64001F, mp4a.40.2"';

export const canPlayLive = () => Boolean(Source?.isTypeSupported(KIND));

// One live video. `report` is called with {started}, {frames, of} or {left} (bytes to send).
export class LiveVideo {
  #video;
  #report;
  #socket = null;
  #pieces = []; // the whole video, for the download
  #waiting = []; // pieces that are not yet in the buffer
  #source = null;
  #buffer = null;
  #over = false;
  #speaking = false;
  #listening = false; // the server expects the microphone's sound
  #settle;

  constructor(video, report) {
    this.#video = video;
    this.#report = report;
    // Resolves to the whole video as a Blob; null when it was cancelled.
    this.finished = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
  }

  // Call from a click, so that the browser plays sound. sound: a Blob, or {rate} of a microphone.
  start(image, sound, choices) {
    this.#speaking = !(sound instanceof Blob);
    this.#source = new Source();
    this.#video.disableRemotePlayback = true; // ManagedMediaSource demands it
    this.#video.src = URL.createObjectURL(this.#source);
    this.#video.play().catch(() => {}); // begins when there is something; the controls are there
    const address = new URL("/v1/live", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = new URLSearchParams(choices);
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#send(image, sound);
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code }) => this.#closed(code);
    this.#socket = socket;
  }

  sendSound(block) {
    if (this.#listening && this.#socket.readyState === WebSocket.OPEN) this.#socket.send(block);
  }

  endSpeech() {
    if (this.#listening && this.#socket.readyState === WebSocket.OPEN) this.#socket.send('{"end": true}');
    this.#listening = false; // a block of sound may still be on its way from the microphone
  }

  cancel() {
    this.#settle.resolve(null);
    this.#socket?.close();
  }

  async #send(image, sound) {
    await this.#upload("image", image);
    if (sound instanceof Blob) await this.#upload("audio", sound);
    else this.#socket.send(JSON.stringify({ microphone: sound.rate }));
    this.#listening = this.#speaking;
    this.#report({ left: 0 });
  }

  async #upload(name, blob) {
    this.#socket.send(JSON.stringify({ [name]: blob.size }));
    for (let at = 0; at < blob.size; at += SLICE) {
      const slice = await blob.slice(at, at + SLICE).arrayBuffer();
      while (this.#socket.bufferedAmount > MOST_WAITING) await new Promise((done) => setTimeout(done, 20));
      if (this.#socket.readyState !== WebSocket.OPEN) return;
      this.#socket.send(slice);
      this.#report({ left: blob.size - at });
    }
  }

  #receive(data) {
    if (data instanceof ArrayBuffer) {
      this.#pieces.push(data);
      this.#waiting.push(data);
      this.#feed();
      return;
    }
    const message = JSON.parse(data);
    if (message.start) this.#open(message.start);
    else if (message.done) {
      this.#over = true;
      this.#feed();
      this.#settle.resolve(new Blob(this.#pieces, { type: "video/mp4" }));
    } else if (message.error) this.#settle.reject(new UserError(sentence(message.error)));
    else this.#report(message);
  }

  #open(start) {
    const ready = () => {
      this.#buffer = this.#source.addSourceBuffer(start.mime);
      this.#buffer.addEventListener("updateend", () => this.#feed());
      this.#feed();
    };
    if (this.#source.readyState === "open") ready();
    else this.#source.addEventListener("sourceopen", ready, { once: true });
    this.#report({ started: start });
  }

  // Append the next piece to the buffer.
  #feed() {
    const buffer = this.#buffer;
    if (!buffer || buffer.updating || this.#source.readyState !== "open") return;
    if (this.#waiting.length) {
      try {
        buffer.appendBuffer(this.#waiting[0]);
        this.#waiting.shift();
      } catch (error) {
        const old = this.#video.currentTime - BEHIND;
        if (error.name !== "QuotaExceededError") this.#settle.reject(error);
        else if (old > 0) buffer.remove(0, old);
        else setTimeout(() => this.#feed(), 1000);
      }
    } else if (this.#over) this.#source.endOfStream();
    if (this.#speaking) this.#catchUp();
  }

  // Play a little faster when a speaking person's video lags behind.
  #catchUp() {
    const { buffered, currentTime } = this.#video;
    const lag = buffered.length ? buffered.end(buffered.length - 1) - currentTime : 0;
    this.#video.playbackRate = !this.#over && lag > MOST_LAG ? 1.1 : 1;
  }

  #closed(code) {
    if (this.#over) return;
    const why = code === 1009 ? "A message was too large." : "The connection to the server was lost.";
    this.#settle.reject(new UserError(why)); // nothing happens if it is settled already
  }
}
