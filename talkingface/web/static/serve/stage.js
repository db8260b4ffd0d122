// The stage: the video, whether it is older than what is chosen now, and its file to be saved.

import { byId, setStatus, show } from "../common.js";

const CHANGED = { picture: "another picture", sound: "another voice", settings: "other settings" };

// Return the text for a video that was made from other things than those chosen now; "" for the same.
// A part that `made` leaves out does not count.
export function oldText(made, now) {
  const parts = Object.keys(CHANGED).filter((part) => part in made && made[part] !== now[part]);
  if (!parts.length) return "";
  const texts = parts.map((part) => CHANGED[part]);
  const last = texts.pop();
  return `This is the older video, made with ${texts.length ? `${texts.join(", ")} and ${last}` : last}.`;
}

export class Stage {
  #video;
  #result = null; // {blob, name, made}: what can be saved
  #address = null; // of its blob

  constructor(video) {
    this.#video = video;
    for (const kind of ["loadedmetadata", "resize"]) video.addEventListener(kind, () => this.#fit());
  }

  // Show a video that is being made. speaking: nobody pauses his own speech. kept: it can be saved
  // when it is finished.
  begin(speaking, kept) {
    this.#show(true);
    this.#video.controls = !speaking;
    const link = byId("download");
    show(link, kept);
    link.removeAttribute("href");
    link.setAttribute("aria-disabled", "true");
    link.textContent = "Save it when it is finished";
    setStatus(byId("old"), "");
  }

  // Offer a finished video to be saved. It is on the stage already if it was watched live.
  finish(result, watched) {
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = URL.createObjectURL(result.blob);
    this.#result = result;
    this.#show(true);
    this.#offer();
    if (watched) return;
    this.#video.src = this.#address;
    this.#video.play().catch(() => {}); // the controls are there
  }

  // Show the finished video again, or nothing: after an error, or when the work was cancelled.
  back() {
    this.#video.pause();
    this.#show(Boolean(this.#result));
    if (this.#result) {
      this.#video.src = this.#address;
      this.#offer();
    } else {
      this.#video.removeAttribute("src");
      this.#video.load();
    }
  }

  // After a video that is not kept: its last frame stays, unless there is a finished video.
  rest() {
    if (this.#result) {
      this.back();
      return;
    }
    this.#video.controls = false;
    show(byId("download"), false);
  }

  // Say whether the finished video is older than what is chosen now.
  compare(now) {
    const text = this.#result ? oldText(this.#result.made, now) : "";
    setStatus(byId("old"), text);
    byId("stage").classList.toggle("aged", Boolean(text));
  }

  #show(visible) {
    show(byId("screen"), visible);
    show(byId("empty"), !visible);
    show(byId("download"), visible);
    this.#video.controls = true;
    this.#video.playbackRate = 1;
    this.#video.removeAttribute("poster");
  }

  #offer() {
    const link = byId("download");
    link.href = this.#address;
    link.download = this.#result.name;
    link.removeAttribute("aria-disabled");
    link.textContent = "Save the video";
  }

  // The screen has the video's shape, with room for the controls below it.
  #fit() {
    const { videoWidth, videoHeight } = this.#video;
    if (videoWidth) byId("screen").style.setProperty("--shape", videoWidth / videoHeight);
  }
}
