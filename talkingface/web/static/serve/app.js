// The page: chosen options, running work, status texts.

import { byId, setStatus, show, UserError } from "../common.js";
import { FileVideo } from "./file.js";
import { canPlayLive, LiveVideo } from "./live.js";
import { listen } from "./microphone.js";
import { Motion } from "./motion.js";
import { clock, refuseStrayDrops } from "./page.js";
import { Picture } from "./picture.js";
import { Sound } from "./sound.js";

const FPS = 25;
const NO_LIVE =
  "This browser cannot play a video while it is made, so it is made as a file; it plays when it is finished.";
const SHOWN = {
  picture: "The face is put back into its picture.",
  face: "Only the face, 128 pixels wide, as the model draws it.",
  maps: "How the model works: where it draws anew (white), the new colour, and the face.",
};
const MARKED = "People who see the video then know what it is.";
const UNMARKED =
  "Without it, nothing in the picture says that this person never said it. You take it on yourself to tell everyone you show it to.";
// Texts for the numbers in a model's header.
const NUMBERS = {
  head_correlation: (value) => `mouth opening follows real speakers on unheard sentences: r = ${value.toFixed(2)}`,
  head_amplitude: (value) => `opens ${Math.round(100 * value)} % as wide`,
};

let running = null; // what can be cancelled
let address = null; // of the finished video
const video = byId("video");

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
  show(byId("cancel"), Boolean(what));
  show(byId("done"), Boolean(what) && speaking);
  show(byId("hear-row"), Boolean(what) && speaking);
  show(byId("progress"), Boolean(what) && !speaking);
  byId("stage").setAttribute("aria-busy", String(Boolean(what)));
  setProgressText("");
  if (what) {
    byId("watch").scrollIntoView({ block: "nearest" });
    setProgress(null);
    showError("");
    show(byId("download"), false);
  }
  // The button that had the focus may be gone.
  if (focused) [...byId("actions").children].find((button) => !button.hidden && button.id !== "done")?.focus();
}

function offerDownload(blob) {
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(blob);
  byId("download").href = address;
  show(byId("download"), true);
}

function stageFor(choices) {
  byId("stage").classList.toggle("wide", choices.show === "maps");
  show(byId("empty"), false);
  show(video, true);
  video.controls = true;
  video.playbackRate = 1;
}

function clearStage() {
  video.pause();
  video.removeAttribute("src");
  video.load();
  show(video, false);
  show(byId("empty"), true);
}

function seconds(frames) {
  return clock(frames / FPS);
}

class Page {
  constructor(limits, models, expressions) {
    this.limits = limits;
    this.motion = new Motion(expressions);
    const moves = () => this.motion.enable(models.find(({ name }) => name === this.choices.model).moves);
    byId("models").addEventListener("change", moves);
    this.picture = new Picture(limits, () => this.#ready());
    this.sound = new Sound(limits, () => this.#ready());
    byId("live").addEventListener("click", () => this.watch());
    byId("file").addEventListener("click", () => this.file());
    byId("speak").addEventListener("click", () => this.speak());
    byId("cancel").addEventListener("click", () => running?.cancel());
    byId("examples").addEventListener("click", (event) => this.#example(event.target.closest(".example")));
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
    moves();
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

  #ready() {
    if (running) return;
    showError("");
    const { blob: picture } = this.picture;
    const { blob: sound } = this.sound;
    if (picture && sound) setStatus(byId("status"), "Ready: watch it live, or make a file.");
    else if (picture) setStatus(byId("status"), "Now a voice: choose one, record one, or speak live.");
    else if (sound) setStatus(byId("status"), "Now a picture of a face.");
    else setStatus(byId("status"), "Choose a picture and a voice, or an example.");
  }

  // Return whether the input is complete; else show what is missing and focus it.
  #has(needSound) {
    this.sound.stop();
    byId("sound-preview").pause();
    const missing = !this.picture.blob ? "picture" : needSound && !this.sound.blob ? "sound" : null;
    if (!missing) return true;
    showError(missing === "picture" ? "Choose a picture first, in step 1." : "Choose or record a voice first, in step 2.");
    byId(`${missing}-file`).focus();
    return false;
  }

  async #example(button) {
    if (!button || running) return;
    const fetched = (name) => fetch(`/static/examples/${name}`).then((answer) => answer.blob());
    const { picture, sound, name, voice } = button.dataset;
    const [image, speech] = await Promise.all([fetched(picture), fetched(sound)]);
    this.sound.take(speech, voice);
    this.picture.take(image, name);
    await this.watch();
  }

  async watch() {
    if (!this.#has(true)) return;
    if (!canPlayLive()) {
      await this.file(NO_LIVE);
      return;
    }
    const live = new LiveVideo(video, (news) => this.#showNews(news));
    await this.#play(live, this.sound.blob, false);
  }

  async speak() {
    if (!this.#has(false)) return;
    if (!canPlayLive()) {
      showError("This browser cannot play a video while it is made. Record your voice in step 2, then make a file.");
      return;
    }
    const live = new LiveVideo(video, (news) => this.#showNews(news, true));
    let microphone;
    try {
      microphone = await listen((block) => live.sendSound(block));
    } catch (error) {
      showError(error.message);
      return;
    }
    const done = () => {
      microphone.stop();
      live.endSpeech();
      show(byId("done"), false);
      setStatus(byId("status"), "One moment: the last frames …");
    };
    byId("done").addEventListener("click", done, { once: true });
    video.muted = !byId("hear").checked;
    try {
      await this.#play(live, { rate: microphone.rate }, true);
    } finally {
      byId("done").removeEventListener("click", done);
      microphone.stop();
      video.muted = false;
    }
  }

  async #play(live, sound, speaking) {
    const { choices } = this;
    setRunning(live, speaking);
    setStatus(byId("status"), "Looking at the picture …");
    stageFor(choices);
    live.start(this.picture.blob, sound, { ...choices, idle: String(speaking) });
    try {
      const blob = await live.finished;
      if (blob) {
        offerDownload(blob);
        setStatus(byId("status"), "That is all of it. You can watch it again, or save it.");
      } else {
        clearStage();
        setStatus(byId("status"), "Cancelled.");
      }
    } catch (error) {
      this.#failed(error);
    } finally {
      setRunning(null);
    }
  }

  #showNews(news, speaking = false) {
    if (news.left) setStatus(byId("status"), "Sending …");
    else if (news.left === 0) setStatus(byId("status"), "Looking at the picture …");
    else if (news.started) {
      setStatus(byId("status"), speaking ? "Speak: the face speaks with you." : `Playing${this.#note(news.started.note)} …`);
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
    if (!this.#has(true)) return;
    const { choices } = this;
    const lead = typeof before === "string" && before ? `${before} ` : "";
    const job = new FileVideo((news) => {
      if ("sent" in news) {
        setProgress(news.sent < 1 ? news.sent : null);
        setProgressText(`${Math.round(100 * news.sent)} %`);
      } else if (news.state === "waiting") {
        setProgress(null);
        setStatus(byId("status"), `${lead}Waiting: ${news.ahead ? `${news.ahead} before you` : "you are next"}.`);
        setProgressText("");
      } else {
        setProgress(news.of ? news.frames / news.of : null);
        const left = news.seconds_left === null ? "" : `, ${clock(news.seconds_left)} left`;
        setStatus(byId("status"), `${lead}Making the file …`);
        setProgressText(`Made so far: ${seconds(news.frames)} of ${seconds(news.of)}${left}.`);
      }
    });
    setRunning(job);
    setStatus(byId("status"), `${lead}Sending …`);
    try {
      const made = await job.make(this.picture.blob, this.sound.blob, choices);
      if (made) {
        offerDownload(made.blob);
        stageFor(choices);
        video.src = address;
        video.play().catch(() => {}); // the controls are there
        setStatus(byId("status"), `Finished${this.#note(made.note)}. Save it, or watch it here.`);
      } else setStatus(byId("status"), "Cancelled.");
    } catch (error) {
      this.#failed(error);
    } finally {
      setRunning(null);
    }
  }

  #failed(error) {
    clearStage();
    setStatus(byId("status"), "");
    showError(error instanceof UserError ? error.message : `Something went wrong in this page: ${error.message}`);
  }
}

function offerModels(models) {
  const list = byId("models");
  models.forEach((model, k) => {
    const label = document.createElement("label");
    label.className = "model";
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "model", value: model.name, checked: k === 0 });
    const text = document.createElement("span");
    const name = document.createElement("strong");
    name.textContent = model.name;
    const more = document.createElement("small");
    const measured = Object.entries(NUMBERS)
      .filter(([key]) => key in model.metrics)
      .map(([key, said]) => said(model.metrics[key]));
    more.textContent = [`${(model.parameters / 1e6).toFixed(1)} million parameters`, ...measured].join("; ");
    text.append(name, model.good_at ? `: ${model.good_at}` : "", more);
    label.append(radio, text);
    list.append(label);
  });
}

async function begin() {
  refuseStrayDrops();
  const asked = async (path) => (await fetch(path)).json();
  try {
    const [{ models, expressions }, limits] = await Promise.all([asked("/v1/models"), asked("/v1/limits")]);
    offerModels(models);
    new Page(limits, models, expressions);
    document.body.dataset.ready = "true";
  } catch {
    showError("The server does not answer. Load the page again when it runs.");
  }
}

begin();
