// A video as a file: starts a job, polls it, fetches the video, and removes the job.

import { sentence, UserError, userErrorOf } from "../common.js";

const LEASE = 60; // seconds without a request after which the server cancels a job
const DUBBING = ["model", "mark", "mouth", "smooth", "lease"]; // choices that count for a video
const PAUSE = 0.5; // seconds that the server may wait before it answers

// `report` is called with {sent} (a share of the upload), then with the server's state of the job.
export class FileVideo {
  #report;
  #job = null;
  #request = new XMLHttpRequest();
  #stopping = new AbortController();

  constructor(report) {
    this.#report = report;
  }

  // Resolves to {blob, note}; null when it was cancelled.
  // image: a picture, or a video whose mouth changes. sound: a Blob, or a sentence to be spoken.
  async make(image, sound, choices) {
    const forget = () => this.#forget();
    window.addEventListener("pagehide", forget);
    try {
      this.#job = await this.#begin(image, sound, choices);
      const state = await this.#wait();
      const { signal } = this.#stopping;
      const answer = await fetch(state.video, { signal });
      if (!answer.ok) throw await userErrorOf(answer);
      return { blob: await answer.blob(), note: state.note };
    } catch (error) {
      if (error.name === "AbortError") return null;
      if (error instanceof TypeError) throw new UserError("The connection to the server was lost.");
      throw error;
    } finally {
      window.removeEventListener("pagehide", forget);
      forget();
    }
  }

  cancel() {
    this.#request.abort();
    this.#stopping.abort();
  }

  #forget() {
    if (this.#job) fetch(`/v1/jobs/${this.#job}`, { method: "DELETE", keepalive: true }).catch(() => {});
    this.#job = null;
  }

  // XMLHttpRequest, because it reports the progress of an upload.
  #begin(image, sound, choices) {
    const form = new FormData();
    const filmed = image.type.startsWith("video/");
    for (const [name, value] of Object.entries({ ...choices, lease: LEASE })) {
      if (!filmed || DUBBING.includes(name)) form.append(name, value);
    }
    form.append(filmed ? "video" : "image", image, "picture");
    if (sound instanceof Blob) form.append("audio", sound, "recording");
    else form.append("text", sound);
    const request = this.#request;
    return new Promise((resolve, reject) => {
      request.upload.onprogress = ({ loaded, total }) => this.#report({ sent: loaded / total });
      request.onerror = () => reject(new UserError("The connection to the server was lost."));
      request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
      request.onload = () => {
        if (request.status === 202) resolve(request.response.id);
        else reject(new UserError(sentence(request.response?.error ?? `the server answered ${request.status}`)));
      };
      request.open("POST", filmed ? "/v1/dub/jobs" : "/v1/jobs");
      request.responseType = "json";
      request.send(form);
    });
  }

  async #wait() {
    for (;;) {
      const { signal } = this.#stopping;
      const answer = await fetch(`/v1/jobs/${this.#job}?wait=${PAUSE}`, { signal });
      if (!answer.ok) throw await userErrorOf(answer);
      const state = await answer.json();
      if (state.state === "failed") throw new UserError(sentence(state.error));
      if (state.state === "done") return state;
      this.#report(state);
    }
  }
}
