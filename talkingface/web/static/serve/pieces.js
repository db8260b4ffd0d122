// Plays the pieces of an mp4 while they come, by MediaSource.

const BEHIND = 10; // seconds kept before the current time when the buffer is full
const MOST_LAG = 1.2; // seconds that live playback may be behind the newest frame

const Source = window.ManagedMediaSource ?? window.MediaSource;
const KIND = 'video/mp4; codecs="avc1.64001F, mp4a.40.2"';

export const canPlayPieces = () => Boolean(Source?.isTypeSupported(KIND));

export class PiecePlayer {
  static keeps = true; // the whole video, to be saved
  choices = {}; // for the server
  #video;
  #fail;
  #pieces = []; // the whole video, for the download
  #waiting = []; // pieces that are not yet in the buffer
  #source = null;
  #buffer = null;
  #over = false;
  #speaking = false;

  constructor(video, fail) {
    this.#video = video;
    this.#fail = fail;
  }

  start(speaking) {
    this.#speaking = speaking;
    this.#source = new Source();
    this.#video.disableRemotePlayback = true; // ManagedMediaSource demands it
    this.#video.src = URL.createObjectURL(this.#source);
    this.#video.play().catch(() => {}); // begins when there is something; the controls are there
  }

  async offer() {
    return null;
  }

  // start: the server's first message.
  open({ mime }) {
    const ready = () => {
      this.#buffer = this.#source.addSourceBuffer(mime);
      this.#buffer.addEventListener("updateend", () => this.#feed());
      this.#feed();
    };
    if (this.#source.readyState === "open") ready();
    else this.#source.addEventListener("sourceopen", ready, { once: true });
  }

  push(piece) {
    this.#pieces.push(piece);
    this.#waiting.push(piece);
    this.#feed();
  }

  // Resolves to the whole video as a Blob.
  async finish() {
    this.#over = true;
    this.#feed();
    return new Blob(this.#pieces, { type: "video/mp4" });
  }

  stop() {}

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
        if (error.name !== "QuotaExceededError") this.#fail(error);
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
}
