// The page: what was chosen, what runs, and what is said about it.

import { FileVideo } from "./file.js";
import { canPlayLive, LiveVideo } from "./live.js";
import { listen } from "./microphone.js";
import { Motion } from "./motion.js";
import { clock, part, refuseStrayDrops, show, Trouble } from "./page.js";
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
// What the numbers in a model's header mean, for people.
const NUMBERS = {
  head_correlation: (value) => `mouth opening follows real speakers on unheard sentences: r = ${value.toFixed(2)}`,
  head_amplitude: (value) => `opens ${Math.round(100 * value)} % as wide`,
};

let running = null; // what can be cancelled
let address = null; // of the finished video
const video = part("video");

function say(text) {
  if (part("status").textContent !== text) part("status").textContent = text; // else it is read again
}

// Numbers that change all the time: to be looked at, not to be read aloud.
function detail(text) {
  part("detail").textContent = text;
}

function complain(text) {
  part("error").textContent = text;
  show(part("error"), Boolean(text));
}

function progress(share) {
  const bar = part("progress-bar");
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

// Which buttons there are: while something runs, only those that end it.
function busy(what, speaking = false) {
  running = what;
  const focused = document.activeElement?.closest(".actions, .examples");
  for (const id of ["live", "file", "speak"]) show(part(id), !what);
  show(part("cancel"), Boolean(what));
  show(part("done"), Boolean(what) && speaking);
  show(part("hear-row"), Boolean(what) && speaking);
  show(part("progress"), Boolean(what) && !speaking);
  part("stage").setAttribute("aria-busy", String(Boolean(what)));
  detail("");
  if (what) {
    part("watch").scrollIntoView({ block: "nearest" });
    progress(null);
    complain("");
    show(part("download"), false);
  }
  // The button that had the focus may be gone.
  if (focused) [...part("actions").children].find((button) => !button.hidden && button.id !== "done")?.focus();
}

function offer(blob) {
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(blob);
  part("download").href = address;
  show(part("download"), true);
}

function stageFor(choices) {
  part("stage").classList.toggle("wide", choices.show === "maps");
  show(part("empty"), false);
  show(video, true);
  video.controls = true;
  video.playbackRate = 1;
}

function clearStage() {
  video.pause();
  video.removeAttribute("src");
  video.load();
  show(video, false);
  show(part("empty"), true);
}

function seconds(frames) {
  return clock(frames / FPS);
}

class Page {
  constructor(limits, models, expressions) {
    this.limits = limits;
    this.motion = new Motion(expressions);
    const moves = () => this.motion.enable(models.find(({ name }) => name === this.choices.model).moves);
    part("models").addEventListener("change", moves);
    this.picture = new Picture(limits, () => this.#ready());
    this.sound = new Sound(limits, () => this.#ready());
    part("live").addEventListener("click", () => this.watch());
    part("file").addEventListener("click", () => this.file());
    part("speak").addEventListener("click", () => this.speak());
    part("cancel").addEventListener("click", () => running?.cancel());
    part("examples").addEventListener("click", (event) => this.#example(event.target.closest(".example")));
    part("hear").addEventListener("change", (event) => {
      video.muted = !event.target.checked;
    });
    part("mark").addEventListener("change", ({ target }) => {
      part("mark-about").textContent = target.checked ? MARKED : UNMARKED;
      part("mark-about").classList.toggle("warn", !target.checked);
    });
    for (const radio of document.querySelectorAll("input[name=show]")) {
      radio.addEventListener("change", () => {
        part("show-about").textContent = SHOWN[radio.value];
      });
    }
    moves();
  }

  get choices() {
    return {
      model: document.querySelector("input[name=model]:checked").value,
      show: document.querySelector("input[name=show]:checked").value,
      mark: String(part("mark").checked),
      ...this.picture.choices,
      ...this.motion.choices,
    };
  }

  #ready() {
    if (running) return;
    complain("");
    const { blob: picture } = this.picture;
    const { blob: sound } = this.sound;
    if (picture && sound) say("Ready: watch it live, or make a file.");
    else if (picture) say("Now a voice: choose one, record one, or speak live.");
    else if (sound) say("Now a picture of a face.");
    else say("Choose a picture and a voice, or an example.");
  }

  // Whether what is needed is there; else says what is missing, and leads to it.
  #has(needSound) {
    this.sound.stop();
    part("sound-preview").pause();
    const missing = !this.picture.blob ? "picture" : needSound && !this.sound.blob ? "sound" : null;
    if (!missing) return true;
    complain(missing === "picture" ? "Choose a picture first, in step 1." : "Choose or record a voice first, in step 2.");
    part(`${missing}-file`).focus();
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
    const live = new LiveVideo(video, (news) => this.#tell(news));
    await this.#play(live, this.sound.blob, false);
  }

  async speak() {
    if (!this.#has(false)) return;
    if (!canPlayLive()) {
      complain("This browser cannot play a video while it is made. Record your voice in step 2, then make a file.");
      return;
    }
    const live = new LiveVideo(video, (news) => this.#tell(news, true));
    let microphone;
    try {
      microphone = await listen((block) => live.say(block));
    } catch (error) {
      complain(error.message);
      return;
    }
    const done = () => {
      microphone.stop();
      live.endSpeech();
      show(part("done"), false);
      say("One moment: the last frames …");
    };
    part("done").addEventListener("click", done, { once: true });
    video.muted = !part("hear").checked;
    try {
      await this.#play(live, { rate: microphone.rate }, true);
    } finally {
      part("done").removeEventListener("click", done);
      microphone.stop();
      video.muted = false;
    }
  }

  async #play(live, sound, speaking) {
    const { choices } = this;
    busy(live, speaking);
    say("Looking at the picture …");
    stageFor(choices);
    live.start(this.picture.blob, sound, { ...choices, idle: String(speaking) });
    try {
      const blob = await live.finished;
      if (blob) {
        offer(blob);
        say("That is all of it. You can watch it again, or save it.");
      } else {
        clearStage();
        say("Cancelled.");
      }
    } catch (error) {
      this.#failed(error);
    } finally {
      busy(null);
    }
  }

  #tell(news, speaking = false) {
    if (news.left) say("Sending …");
    else if (news.left === 0) say("Looking at the picture …");
    else if (news.started) {
      say(speaking ? "Speak: the face speaks with you." : `Playing${this.#note(news.started.note)} …`);
    } else if (speaking) detail(seconds(news.frames));
    else {
      progress(news.of ? news.frames / news.of : null);
      detail(`Made so far: ${seconds(news.frames)} of ${seconds(news.of)}.`);
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
        progress(news.sent < 1 ? news.sent : null);
        detail(`${Math.round(100 * news.sent)} %`);
      } else if (news.state === "waiting") {
        progress(null);
        say(`${lead}Waiting: ${news.ahead ? `${news.ahead} before you` : "you are next"}.`);
        detail("");
      } else {
        progress(news.of ? news.frames / news.of : null);
        const left = news.seconds_left === null ? "" : `, ${clock(news.seconds_left)} left`;
        say(`${lead}Making the file …`);
        detail(`Made so far: ${seconds(news.frames)} of ${seconds(news.of)}${left}.`);
      }
    });
    busy(job);
    say(`${lead}Sending …`);
    try {
      const made = await job.make(this.picture.blob, this.sound.blob, choices);
      if (made) {
        offer(made.blob);
        stageFor(choices);
        video.src = address;
        video.play().catch(() => {}); // the controls are there
        say(`Finished${this.#note(made.note)}. Save it, or watch it here.`);
      } else say("Cancelled.");
    } catch (error) {
      this.#failed(error);
    } finally {
      busy(null);
    }
  }

  #failed(error) {
    clearStage();
    say("");
    complain(error instanceof Trouble ? error.message : `Something went wrong in this page: ${error.message}`);
  }
}

function offerModels(models) {
  const list = part("models");
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
    complain("The server does not answer. Load the page again when it runs.");
  }
}

begin();
