// Functions that parts of this page use.

import { UserError } from "../common.js";

export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const minutes = Math.floor(whole / 60);
  return minutes ? `${minutes} min ${String(whole % 60).padStart(2, "0")} s` : `${whole} s`;
}

export function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

// Name of a video's file: videoName("anna.jpg", "hello.wav") is "anna-hello.mp4".
export function videoName(...files) {
  const stems = files.map((file) => {
    const stem = file.replace(/^.*\//, "").replace(/\.\w{1,5}$/, "");
    const words = stem.replace(/[^\p{L}\p{M}\p{N}_]+/gu, "-").replace(/^-+|-+$/g, "");
    return [...words].slice(0, 40).join("");
  });
  return `${stems.filter(Boolean).join("-") || "talking"}.mp4`;
}

// Files dropped on `zone` go to `take`; the page around it must not open them.
export function acceptDrops(zone, take) {
  const over = (event, on) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.addEventListener("dragenter", (event) => over(event, true));
  zone.addEventListener("dragover", (event) => over(event, true));
  zone.addEventListener("dragleave", (event) => over(event, zone.contains(event.relatedTarget)));
  zone.addEventListener("drop", (event) => {
    over(event, false);
    const file = event.dataTransfer.files[0];
    if (file) take(file);
  });
}

export function refuseStrayDrops() {
  for (const kind of ["dragover", "drop"]) {
    window.addEventListener(kind, (event) => event.preventDefault());
  }
}

// Camera and microphone exist only where the page came from this computer or by https.
export function whyNoDevices(what) {
  if (navigator.mediaDevices?.getUserMedia) return null;
  return window.isSecureContext
    ? `This browser gives no access to a ${what}.`
    : `Browsers give a page the ${what} only over https, or from this very computer.`;
}

export function deviceError(error, what) {
  const why = {
    NotAllowedError: `The ${what} was not allowed. Allow it in the browser's address bar, then try again.`,
    NotFoundError: `No ${what} was found.`,
    NotReadableError: `The ${what} is in use by another program.`,
  };
  return new UserError(why[error.name] ?? `The ${what} could not be opened (${error.message}).`);
}
