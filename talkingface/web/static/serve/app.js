// The page: chosen options, running work, status texts.

import { byId, setStatus, show, UserError } from "../common.js";
import { FileVideo } from "./file.js";
import { Gallery } from "./gallery.js";
import { LevelMeter } from "./level.js";
import { livePlayer, LiveVideo } from "./live.js";
import { listen } from "./microphone.js";
import { Motion } from "./motion.js";
import { clock, refuseStrayDrops, videoName } from "./page.js";
import { Picture } from "./picture.js";
import { Sound } from "./sound.js";
import { Stage } from "./stage.js";

const FPS = 25;
const NO_LIVE =
  "This browser cannot play a video while it is made, so it is made as a file; it plays when it is finished.";
const SHOWN = {
  picture: "The picture as it is, with its face speaking.",
  face: "Only the face, cut out of its picture, upright and always of the same size: for other programs.",
};
// After a video that is not kept.
const SPOKEN = "That is all of it. To keep what you say, record it in step 2 and make a file.";
const WATCHED = "That is all of it. To watch it again, press “Watch now”. To save it, make a file.";
const MARKED = "People who see the video then know what it is.";
const UNMARKED =
  "Without it, nothing in the picture says that this person never said it. You take it on yourself to tell everyone you show it to.";

let running = null; // what can be cancelled
const video = byId("video");

const status = (text) => setStatus(byId("status"), text);

// Numbers that change all the time; screen readers do not read them.
function setProgressText(text) {
  byId("detail").textContent = text;
}

function showError(text) {
  byId("error").textContent = text;
  show(byId("error"), Boolean(text));
}

function setProgress(share) {
  const bar = byId("progress-bar");
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

// Show the buttons: while something runs, only those that end it.
function setRunning(what, speaking = false) {
  running = what;
  const focused = document.activeElement?.closest(".actions, .examples");
  for (const id of ["live", "file", "speak"]) show(byId(id), !what);
  for (const own of byId("examples").children) own.disabled = Boolean(what);
  show(byId("cancel"), Boolean(what));
  for (const id of ["done", "hear-row", "live-level-row"]) show(byId(id), Boolean(what) && speaking);
  show(byId("progress"), Boolean(what) && !speaking);
  byId("stage").setAttribute("aria-busy", String(Boolean(what)));
  setProgressText("");
  if (what) {
    byId("watch").scrollIntoView({ block: "nearest" });
    setProgress(null);
    showError("");
  }
  // The button that had the focus may be gone.
  if (focused) {
    const usable = (own) => own.offsetParent && own.id !== "done" && own.ariaDisabled !== "true";
    [...byId("actions").children].find(usable)?.focus();
  }
}

function seconds(frames) {
  return clock(frames / FPS);
}

class Page {
  constructor(limits, { models, expressions, voice, webrtc }) {
    this.Player = livePlayer(webrtc);
    this.motion = new Motion(expressions);
    const moves = () => this.motion.enable(models.find(({ name }) => name === this.choices.model).moves);
    byId("models").addEventListener("change", moves);
    this.stage = new Stage(video);
    this.picture = new Picture(limits, () => this.#changed());
    this.sound = new Sound(limits, Boolean(voice), () => this.#changed());
    this.gallery = new Gallery(this.picture, this.sound, () => this.watch());
    byId("live").addEventListener("click", () => this.watch());
    byId("file").addEventListener("click", () => this.file());
    byId("speak").addEventListener("click", () => this.speak());
    byId("cancel").addEventListener("click", () => running?.cancel());
    byId("hear").addEventListener("change", (event) => {
      video.muted = !event.target.checked;
    });
    byId("mark").addEventListener("change", ({ target }) => {
      byId("mark-about").textContent = target.checked ? MARKED : UNMARKED;
      byId("mark-about").classList.toggle("warn", !target.checked);
    });
    for (const radio of document.querySelectorAll("input[name=show]")) {
      radio.addEventListener("change", () => {
        byId("show-about").textContent = SHOWN[radio.value];
      });
    }
    for (const kind of ["change", "click"]) {
      document.querySelector(".settings").addEventListener(kind, () => this.#compare());
    }
    const { live_size: live, file_size: file } = limits;
    byId("live-size").textContent = `“Watch now” begins at once, with up to ${live} pixels.`;
    byId("file-size").textContent = `A file has up to ${file} pixels and takes a while.`;
    moves();
    this.#changed();
  }

  get choices() {
    return {
      model: document.querySelector("input[name=model]:checked").value,
      show: document.querySelector("input[name=show]:checked").value,
      mark: String(byId("mark").checked),
      ...this.picture.choices,
      ...this.motion.choices,
    };
  }

  // Everything a video is made from, to be compared with what is chosen later.
  get #made() {
    return { picture: this.picture.blob, sound: this.sound.value, settings: JSON.stringify(this.choices) };
  }

  #compare() {
    if (!running) this.stage.compare(this.#made);
  }

  #changed() {
    this.gallery?.show(this.picture.file, this.sound.file);
    if (running) return;
    this.#offer();
    showError("");
    this.#compare();
    status(this.#next());
  }

  // Whether the video is made as a file, and not while it is watched.
  get #onlyAsFile() {
    return this.picture.isVideo || typeof this.sound.value === "string";
  }

  // Show what there is to do with a picture, a video or a sentence (the style sheet hides the rest).
  #offer() {
    document.body.dataset.source = this.picture.isVideo ? "video" : this.#onlyAsFile ? "sentence" : "recording";
    byId("file").classList.toggle("primary", this.#onlyAsFile);
    show(byId("speak-about"), !this.sound.value && !this.picture.isVideo);
    this.motion.ofVideo = this.picture.isVideo;
  }

  // What to do next.
  #next() {
    const { picture, sound } = this;
    if (!picture.blob && !sound.value) return "Choose a face and a voice, or an example.";
    if (!picture.blob) return "Now a face.";
    if (picture.isAsking) return "Looking for a face …";
    if (picture.problem) return picture.problem;
    if (!sound.value) return `Now a voice: choose one${picture.isVideo ? " or record one" : ", record one, or speak live"}.`;
    if (this.#onlyAsFile) return "Ready: make a file.";
    return picture.chosen ? `Ready: ${picture.chosen} will speak.` : "Ready: watch it now, or make a file.";
  }

  // Return whether the input is complete; else show what is missing and focus it.
  #has(needSound) {
    this.sound.stop();
    byId("sound-preview").pause();
    const { problem } = this.picture;
    if (!problem && (this.sound.value || !needSound)) return true;
    status("");
    showError(problem || "Choose or record a voice first, in step 2.");
    byId(problem ? "picture-file" : "sound-file").focus();
    return false;
  }

  async watch() {
    if (running || !this.#has(true)) return;
    if (!this.Player) {
      await this.file(NO_LIVE);
      return;
    }
    if (this.#onlyAsFile) {
      await this.file();
      return;
    }
    const live = new LiveVideo(this.Player, video, (news) => this.#showNews(news));
    await this.#play(live, this.sound.value, false);
  }

  async speak() {
    if (running || !this.#has(false)) return;
    if (!this.Player) {
      showError("This browser cannot play a video while it is made. Record your voice in step 2, then make a file.");
      return;
    }
    const live = new LiveVideo(this.Player, video, (news) => this.#showNews(news, true));
    let meter = null; // there are blocks before it is
    let microphone;
    try {
      microphone = await listen((block) => {
        meter?.push(block);
        live.sendSound(block);
      });
    } catch (error) {
      showError(error.message);
      return;
    }
    meter = new LevelMeter(byId("live-level"), byId("silent"));
    const stop = () => {
      microphone.stop();
      meter.stop();
    };
    const done = () => {
      stop();
      live.endSpeech();
      show(byId("done"), false);
      show(byId("live-level-row"), false);
      status("One moment: the last frames …");
    };
    byId("done").addEventListener("click", done, { once: true });
    video.muted = !byId("hear").checked;
    try {
      await this.#play(live, { rate: microphone.rate }, true);
    } finally {
      byId("done").removeEventListener("click", done);
      stop();
      video.muted = false;
    }
  }

  async #play(live, sound, speaking) {
    const made = this.#made;
    const name = videoName(this.picture.file, speaking ? "live" : this.sound.file);
    if (speaking) delete made.sound;
    setRunning(live, speaking);
    status("Looking at the picture …");
    this.stage.begin(speaking, this.Player.keeps);
    live.start(this.picture.blob, sound, { ...this.choices, idle: String(speaking) });
    try {
      const blob = await live.finished;
      if (blob) {
        this.stage.finish({ blob, name, made }, true);
        status("That is all of it. You can watch it again, or save it.");
      } else if (live.isCancelled) {
        this.stage.back();
        status("Cancelled.");
      } else {
        this.stage.rest();
        status(speaking ? SPOKEN : WATCHED);
      }
    } catch (error) {
      this.stage.back();
      this.#failed(error);
    } finally {
      setRunning(null);
      this.#compare();
    }
  }

  #showNews(news, speaking = false) {
    if (news.left) status("Sending …");
    else if (news.left === 0) status("Looking at the picture …");
    else if (news.started) {
      status(speaking ? "Speak: the face speaks with you." : `Playing${this.#note(news.started.note)} …`);
    } else if (speaking) setProgressText(seconds(news.frames));
    else {
      setProgress(news.of ? news.frames / news.of : null);
      setProgressText(`Made so far: ${seconds(news.frames)} of ${seconds(news.of)}.`);
    }
  }

  #note(note) {
    return note ? ` (${note})` : "";
  }

  async file(before = "") {
    if (running || !this.#has(true)) return;
    const made = this.#made;
    const name = videoName(this.picture.file, this.sound.file);
    const lead = before && `${before} `;
    const job = new FileVideo((news) => {
      if ("sent" in news) {
        setProgress(news.sent < 1 ? news.sent : null);
        setProgressText(`${Math.round(100 * news.sent)} %`);
      } else if (news.state === "waiting") {
        setProgress(null);
        status(`${lead}Waiting: ${news.ahead ? `${news.ahead} before you` : "you are next"}.`);
        setProgressText("");
      } else {
        setProgress(news.of ? news.frames / news.of : null);
        const left = news.seconds_left === null ? "" : `, ${clock(news.seconds_left)} left`;
        status(`${lead}Making the file …`);
        setProgressText(`Made so far: ${seconds(news.frames)} of ${seconds(news.of)}${left}.`);
      }
    });
    setRunning(job);
    status(`${lead}Sending …`);
    try {
      const answer = await job.make(this.picture.blob, this.sound.value, this.choices);
      if (answer) {
        this.stage.finish({ blob: answer.blob, name, made }, false);
        status(`Finished${this.#note(answer.note)}. Save it, or watch it here.`);
      } else status("Cancelled.");
    } catch (error) {
      this.#failed(error);
    } finally {
      setRunning(null);
      this.#compare();
    }
  }

  #failed(error) {
    status("");
    showError(error instanceof UserError ? error.message : `Something went wrong in this page: ${error.message}`);
  }
}

function offerModels(models) {
  for (const [k, model] of models.entries()) {
    const label = document.createElement("label");
    label.className = "model";
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "model", value: model.name, checked: k === 0 });
    const name = document.createElement("strong");
    name.textContent = model.name;
    const text = document.createElement("span");
    text.append(name, model.good_at ? `: ${model.good_at}` : "");
    label.append(radio, text);
    byId("models").append(label);
  }
}

async function begin() {
  refuseStrayDrops();
  const asked = async (path) => (await fetch(path)).json();
  try {
    const [offers, limits] = await Promise.all([asked("/v1/models"), asked("/v1/limits")]);
    offerModels(offers.models);
    new Page(limits, offers);
    document.body.dataset.ready = "true";
  } catch {
    showError("The server does not answer. Load the page again when it runs.");
  }
}

begin();
