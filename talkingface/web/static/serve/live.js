// Live video: messages of the socket, uploads, and the sound of the microphone.

import { sentence, UserError } from "../common.js";
import { canPlayPieces, PiecePlayer } from "./pieces.js";
import { canPlayRtc, RtcPlayer } from "./rtc.js";

const SLICE = 256 * 1024; // bytes of a file per message
const MOST_WAITING = 4 * SLICE; // bytes that may wait in the socket

// Return the class that plays live video in this browser; null if nothing does.
// webrtc: whether the server sends WebRTC.
export function livePlayer(webrtc) {
  if (canPlayPieces()) return PiecePlayer;
  return webrtc && canPlayRtc() ? RtcPlayer : null;
}

// One live video. `report` is called with {started}, {frames, of} or {left} (bytes to send).
export class LiveVideo {
  isCancelled = false;
  #player;
  #report;
  #socket = null;
  #over = false;
  #listening = false; // the server expects the microphone's sound
  #settle;

  // Player: a class that `livePlayer` returned.
  constructor(Player, video, report) {
    this.#player = new Player(video, (error) => this.#settle.reject(error));
    this.#report = report;
    // Resolves to the whole video as a Blob; null when it was cancelled or is not kept.
    this.finished = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
  }

  // Call from a click, so that the browser plays sound. sound: a Blob, or {rate} of a microphone.
  start(image, sound, choices) {
    const speaking = !(sound instanceof Blob);
    this.#player.start(speaking);
    const address = new URL("/v1/live", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = new URLSearchParams({ ...choices, ...this.#player.choices });
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
    this.isCancelled = true;
    this.#settle.resolve(null);
    this.#socket?.close();
    this.#player.stop();
  }

  async #send(image, sound) {
    const offer = await this.#player.offer();
    if (offer) this.#socket.send(JSON.stringify({ offer }));
    await this.#upload("image", image);
    const speaking = !(sound instanceof Blob);
    if (!speaking) await this.#upload("audio", sound);
    else this.#socket.send(JSON.stringify({ microphone: sound.rate }));
    this.#listening = speaking;
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

  async #receive(data) {
    if (data instanceof ArrayBuffer) {
      this.#player.push(data);
      return;
    }
    const message = JSON.parse(data);
    if (message.answer) await this.#player.accept(message.answer).catch(this.#settle.reject);
    else if (message.start) {
      this.#player.open(message.start);
      this.#report({ started: message.start });
    } else if (message.done) {
      this.#over = true;
      this.#settle.resolve(await this.#player.finish());
    } else if (message.error) {
      this.#settle.reject(new UserError(sentence(message.error)));
      this.#player.stop();
    } else this.#report(message);
  }

  #closed(code) {
    if (this.#over) return;
    const why = code === 1009 ? "A message was too large." : "The connection to the server was lost.";
    this.#settle.reject(new UserError(why)); // nothing happens if it is settled already
    this.#player.stop();
  }
}
