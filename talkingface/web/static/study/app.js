// Page to vote: shows and plays a pair and sends the answers. The server chooses the pairs.

import { byId, setStatus, show } from "../common.js";
import { call, raterPath } from "./api.js";
import { prepareKeys } from "./keys.js";
import { Player } from "./player.js";
import { answersOnPage, choose, missingText, setAnswers, SIDES, step } from "./questions.js";

const UNLOADED = "A video did not load. Press “Play both” to try again.";
const still = matchMedia("(prefers-reduced-motion: reduce)");
const $ = (selector) => document.querySelector(selector);
const player = new Player(refresh, () => setHint(UNLOADED, true));

let rater = null; // last state from the server: token, answered, total, task, code
let task = null; // the pair on the page: position, answers, videos
let since = 0; // when it came up, in ms
let stopped = 0; // when the rater stopped for now, in ms
let sending = false;
let again = null; // what "Try again" does

// --- screens ------------------------------------------------------------------------------------

function showScreen(id) {
  if (id !== "vote") player.stop();
  for (const section of document.querySelectorAll("main > section")) show(section, section.id === id);
  document.title = $(`#${id} h1`)?.textContent || "Which video is better?";
  scrollTo(0, 0);
  $(`#${id} h1`)?.focus({ preventScroll: true });
}

function failed(error, retry) {
  if (error.status === 410) return showScreen("closed");
  $("#trouble .lead").textContent = error.message;
  again = retry;
  showScreen("trouble");
}

async function start() {
  try {
    const token = location.hash.slice(1);
    rater = token ? await known(token) : null;
    rater ??= await call("GET", "/api/return");
    if (!rater) return await welcome();
    remember();
    if (!rater.task) return finish();
    byId("sofar").textContent = `${rater.answered} of ${rater.total} pairs`;
    if (rater.answered === 0) return open(rater.task);
    showScreen("again");
  } catch (error) {
    failed(error, start);
  }
}

async function known(token) {
  try {
    return await call("GET", raterPath(token));
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

async function welcome() {
  const study = await call("GET", "/api/study");
  if (!study.open) return showScreen("closed");
  byId("howmany").textContent = study.total === 1 ? "one pair" : `${study.total} pairs`;
  byId("minutes").textContent = study.minutes === 1 ? "a minute" : `${study.minutes} minutes`;
  show(byId("contact"), Boolean(study.contact));
  $("#contact span").textContent = study.contact;
  byId("consent").reset();
  show($("#consent .trouble"), false);
  showScreen("welcome");
}

// Run one request at a time.
async function once(send) {
  if (sending) return;
  sending = true;
  try {
    await send();
  } finally {
    sending = false;
  }
}

const begin = () =>
  once(async () => {
    try {
      rater = await call("POST", "/api/raters", { consent: true });
      remember();
      open(rater.task);
    } catch (error) {
      if (error.status === 410) return showScreen("closed");
      const line = $("#consent .trouble");
      line.textContent = error.message;
      show(line, true);
    }
  });

async function anew() {
  rater = null;
  history.replaceState(null, "", location.pathname);
  try {
    await welcome();
  } catch (error) {
    failed(error, anew);
  }
}

function remember() {
  history.replaceState(null, "", `#${rater.token}`);
}

function finish() {
  byId("code").value = rater.code;
  showScreen("done");
}

async function copy(button) {
  const field = byId(button.dataset.copy);
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Press Ctrl+C"; // without HTTPS a page may not copy by itself
  }
}

// --- one pair -----------------------------------------------------------------------------------

function open(pair) {
  task = pair;
  since = performance.now();
  const answered = Object.keys(task.answers).length > 0;
  player.load(task.videos, answered);
  setAnswers(task.answers);
  byId("where").textContent = `Pair ${task.position + 1} of ${rater.total}`;
  byId("progress").max = rater.total;
  byId("progress").value = task.position;
  show(byId("back"), task.position > 0 && !answered);
  byId("next").textContent = task.position + 1 === rater.total ? "Finish" : "Next";
  showScreen("vote");
  refresh();
  if (!still.matches && !answered) player.play(SIDES); // nobody waits for it
}

const missing = () => missingText(player.watched, answersOnPage());

function setHint(text, bad = false) {
  setStatus(byId("todo"), text, bad);
}

function refresh() {
  const { watched, playing, waiting } = player;
  const left = missing();
  byId("next").disabled = left !== "";
  setHint(left && `Still to do: ${left}`);
  for (const side of SIDES) show($(`figure[data-side="${side}"] .seen`), watched[side]);
  const seen = watched.a && watched.b;
  $("#both span").textContent = waiting ? "Loading …" : playing.length ? "Stop" : seen ? "Play again" : "Play both";
  $("#both use").setAttribute("href", playing.length ? "#stop" : "#play");
}

// Send a request about the pair; begin anew when it was answered in another window.
const about = (send) =>
  once(async () => {
    try {
      await send();
    } catch (error) {
      if (error.status === 409 || error.status === 404) await start();
      else setHint(error.message, true);
    }
  });

function next() {
  if (missing()) return;
  const seconds = (performance.now() - since) / 1000;
  const body = { answers: answersOnPage(), seconds };
  about(async () => {
    rater = await call("PUT", raterPath(rater.token, `/tasks/${task.position}`), body);
    if (rater.task) open(rater.task);
    else finish();
  });
}

const back = () =>
  about(async () => open(await call("GET", raterPath(rater.token, `/tasks/${task.position - 1}`))));

function answer(side, move) {
  choose(side, move);
  refresh();
}

// --- beginning ----------------------------------------------------------------------------------

const KEYS = {
  1: () => answer("a", true),
  2: () => answer("b", true),
  ArrowLeft: () => answer("a", false),
  ArrowRight: () => answer("b", false),
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  s: () => player.swapSound(),
  p: () => player.toggle(),
  Enter: next,
};

function onSubmit(form, send) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
}

for (const side of SIDES) {
  $(`figure[data-side="${side}"] .single`).addEventListener("click", () => player.play([side]));
}
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
for (const button of document.querySelectorAll("[data-anew]")) button.addEventListener("click", anew);
onSubmit(byId("consent"), begin);
onSubmit(byId("questions"), next);
byId("questions").addEventListener("change", refresh);
byId("both").addEventListener("click", () => player.toggle());
byId("back").addEventListener("click", back);
byId("goon").addEventListener("click", () => open(rater.task));
byId("resume").addEventListener("click", () => {
  since += performance.now() - stopped;
  showScreen("vote");
  refresh();
});
byId("retry").addEventListener("click", () => again());
byId("pause").addEventListener("click", () => {
  stopped = performance.now();
  byId("address").value = location.href;
  showScreen("paused");
});
prepareKeys(KEYS, () => !byId("vote").hidden, byId("shortcuts"));
start();
