// Page to vote: shows and plays a pair and sends the answers. The server chooses the pairs.
"use strict";

const QUESTIONS = ["lips", "realism", "quality"];
const NAMES = { lips: "lips", realism: "realism", quality: "picture" };
const SIDES = ["a", "b"];
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

const figures = Object.fromEntries(SIDES.map((side) => [side, $(`figure[data-side="${side}"]`)]));
const videos = Object.fromEntries(SIDES.map((side) => [side, $("video", figures[side])]));
const still = matchMedia("(prefers-reduced-motion: reduce)");

let rater = null; // last state from the server: token, answered, total, task, code
let task = null; // the pair on the page: position, answers, videos
let since = 0; // when it came up, in ms
let stopped = 0; // when the rater stopped for now, in ms
let watched = { a: false, b: false };
let playing = []; // sides that are to play, or do
let waiting = false; // for a video to arrive
let turn = 0; // counts plays: one that was overtaken by another must not go on
let sending = false;
let again = null; // what "Try again" does

// --- requests to the server ---------------------------------------------------------------------

class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function call(method, path, body) {
  const options = { method, headers: {}, cache: "no-store" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new ApiError(0, "The server does not answer. Check your connection, then try again.");
  }
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, said?.error ?? `The server said ${answer.status}.`);
  return said;
}

const own = (path = "") => `/api/raters/${encodeURIComponent(rater.token)}${path}`;

// --- screens ------------------------------------------------------------------------------------

function show(id) {
  if (id !== "vote") stop();
  for (const section of $$("main > section")) section.hidden = section.id !== id;
  document.title = $(`#${id} h1`)?.textContent || "Which video is better?";
  scrollTo(0, 0);
  $(`#${id} h1`)?.focus({ preventScroll: true });
}

function failed(error, retry) {
  if (error.status === 410) return show("closed");
  $("#trouble .lead").textContent = error.message;
  again = retry;
  show("trouble");
}

async function start() {
  try {
    const token = location.hash.slice(1);
    rater = token ? await known(token) : null;
    rater ??= await call("GET", "/api/return");
    if (!rater) return await welcome();
    remember();
    if (!rater.task) return finish();
    $("#sofar").textContent = `${rater.answered} of ${rater.total} pairs`;
    if (rater.answered === 0) return open(rater.task);
    show("again");
  } catch (error) {
    failed(error, start);
  }
}

async function known(token) {
  try {
    return await call("GET", `/api/raters/${encodeURIComponent(token)}`);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

async function welcome() {
  const study = await call("GET", "/api/study");
  if (!study.open) return show("closed");
  $("#howmany").textContent = study.total === 1 ? "one pair" : `${study.total} pairs`;
  $("#minutes").textContent = study.minutes === 1 ? "a minute" : `${study.minutes} minutes`;
  $("#contact").hidden = !study.contact;
  $("#contact span").textContent = study.contact;
  $("#consent").reset();
  $("#consent .trouble").hidden = true;
  show("welcome");
}

async function begin(event) {
  event.preventDefault();
  if (sending) return;
  sending = true;
  try {
    rater = await call("POST", "/api/raters", { consent: true });
    remember();
    open(rater.task);
  } catch (error) {
    if (error.status === 410) return show("closed");
    const line = $("#consent .trouble");
    line.textContent = error.message;
    line.hidden = false;
  } finally {
    sending = false;
  }
}

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
  $("#code").value = rater.code;
  show("done");
}

async function copy(button) {
  const field = $(`#${button.dataset.copy}`);
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Press Ctrl+C"; // without HTTPS a page may not copy by itself
  }
}

// --- one pair -----------------------------------------------------------------------------------

function open(next) {
  stop();
  task = next;
  since = performance.now();
  const answered = Object.keys(task.answers).length > 0;
  watched = { a: answered, b: answered };
  for (const side of SIDES) {
    videos[side].src = task.videos[side];
    videos[side].load();
  }
  for (const question of QUESTIONS) {
    for (const box of $$(`input[name="${question}"]`)) {
      box.checked = box.value === task.answers[question];
    }
  }
  $("#where").textContent = `Pair ${task.position + 1} of ${rater.total}`;
  $("#progress").max = rater.total;
  $("#progress").value = task.position;
  $("#back").hidden = task.position === 0 || answered;
  $("#next").textContent = task.position + 1 === rater.total ? "Finish" : "Next";
  show("vote");
  refresh();
  if (!still.matches && !answered) play(SIDES); // nobody waits for it
}

const chosen = (question) => $(`input[name="${question}"]:checked`)?.value;

function missing() {
  const unseen = SIDES.filter((side) => !watched[side]);
  const open = QUESTIONS.filter((question) => !chosen(question)).map((question) => NAMES[question]);
  const parts = [];
  if (unseen.length === 2) parts.push("watch both videos to the end");
  if (unseen.length === 1) parts.push(`watch video ${unseen[0].toUpperCase()} to the end`);
  if (open.length) parts.push(`answer: ${open.join(", ")}`);
  return parts.join("; ");
}

function setHint(text, bad = false) {
  const line = $("#todo");
  if (line.textContent !== text) line.textContent = text; // a screen reader reads it when it changes
  line.classList.toggle("trouble", bad);
}

function refresh() {
  const left = missing();
  $("#next").disabled = left !== "";
  setHint(left && `Still to do: ${left}`);
  for (const side of SIDES) $(".seen", figures[side]).hidden = !watched[side];
  const label = waiting ? "Loading …" : playing.length ? "Stop" : watched.a && watched.b ? "Play again" : "Play both";
  $("#both span").textContent = label;
  $("#both use").setAttribute("href", playing.length ? "#stop" : "#play");
}

async function next(event) {
  event?.preventDefault();
  if (sending || missing()) return;
  sending = true;
  const answers = Object.fromEntries(QUESTIONS.map((question) => [question, chosen(question)]));
  const seconds = (performance.now() - since) / 1000;
  try {
    rater = await call("PUT", own(`/tasks/${task.position}`), { answers, seconds });
    if (rater.task) open(rater.task);
    else finish();
  } catch (error) {
    if (error.status === 409 || error.status === 404) await start(); // answered in another window
    else setHint(error.message, true);
  } finally {
    sending = false;
  }
}

async function back() {
  if (sending) return;
  sending = true;
  try {
    open(await call("GET", own(`/tasks/${task.position - 1}`)));
  } catch (error) {
    if (error.status === 409 || error.status === 404) await start();
    else setHint(error.message, true);
  } finally {
    sending = false;
  }
}

// --- playing ------------------------------------------------------------------------------------

function stop() {
  turn += 1;
  playing = [];
  waiting = false;
  for (const side of SIDES) videos[side].pause();
}

function ready(video) {
  if (video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const settle = (event) => {
      for (const kind of ["canplay", "error"]) video.removeEventListener(kind, settle);
      if (event.type === "error") reject(video.error);
      else resolve();
    };
    for (const kind of ["canplay", "error"]) video.addEventListener(kind, settle);
    if (video.error) video.load();
  });
}

function listen(side) {
  for (const one of SIDES) videos[one].muted = one !== side;
  $(`input[name="sound"][value="${side}"]`).checked = true;
}

async function play(sides) {
  stop();
  const mine = turn;
  if (sides.length === 1) listen(sides[0]);
  else listen($('input[name="sound"]:checked').value);
  playing = [...sides];
  waiting = true;
  refresh();
  try {
    await Promise.all(sides.map((side) => ready(videos[side])));
    if (mine !== turn) return;
    waiting = false;
    refresh();
    for (const side of sides) videos[side].currentTime = 0;
    await Promise.all(sides.map((side) => videos[side].play()));
  } catch (error) {
    if (mine !== turn) return; // stopped meanwhile, on purpose
    stop();
    refresh();
    // a browser plays nothing with sound before the first click or key
    if (error?.name !== "NotAllowedError") setHint("A video did not load. Press “Play both” to try again.", true);
  }
}

function ended(side) {
  watched[side] = true;
  playing = playing.filter((one) => one !== side);
  refresh();
}

const toggle = () => {
  if (!playing.length) return play(SIDES);
  stop();
  refresh();
};

// --- keys ---------------------------------------------------------------------------------------

/** The question that a key answers: the one with the focus, else the first that is open. */
function current() {
  const focused = document.activeElement?.closest("[data-question]")?.dataset.question;
  return focused ?? QUESTIONS.find((question) => !chosen(question)) ?? QUESTIONS.at(-1);
}

function focus(question) {
  ($(`input[name="${question}"]:checked`) ?? $(`input[name="${question}"]`)).focus();
}

function choose(side, move) {
  const question = current();
  $(`input[name="${question}"][value="${side}"]`).checked = true;
  refresh();
  focus((move && QUESTIONS.find((one) => !chosen(one))) || question);
}

function step(by) {
  const at = QUESTIONS.indexOf(current()) + (document.activeElement?.closest("[data-question]") ? by : 0);
  focus(QUESTIONS[Math.min(Math.max(at, 0), QUESTIONS.length - 1)]);
}

const KEYS = {
  1: () => choose("a", true),
  2: () => choose("b", true),
  ArrowLeft: () => choose("a", false),
  ArrowRight: () => choose("b", false),
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  s: () => listen($('input[name="sound"]:checked').value === "a" ? "b" : "a"),
  p: toggle,
  Enter: () => next(),
};

function pressed(event) {
  if ($("#vote").hidden || event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.target;
  const natively = target.closest("button") || target.name === "sound";
  if (natively && event.key.length > 1) return; // Enter on a button, arrows on a switch
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || event.repeat) return;
  event.preventDefault();
  action();
}

// --- beginning ----------------------------------------------------------------------------------

for (const side of SIDES) {
  videos[side].addEventListener("ended", () => ended(side));
  $(".single", figures[side]).addEventListener("click", () => play([side]));
  $(`input[name="sound"][value="${side}"]`).addEventListener("change", () => listen(side));
}
for (const button of $$("[data-copy]")) button.addEventListener("click", () => copy(button));
for (const button of $$("[data-anew]")) button.addEventListener("click", anew);
$("#consent").addEventListener("submit", begin);
$("#questions").addEventListener("submit", next);
$("#questions").addEventListener("change", refresh);
$("#both").addEventListener("click", toggle);
$("#back").addEventListener("click", back);
$("#goon").addEventListener("click", () => open(rater.task));
$("#resume").addEventListener("click", () => {
  since += performance.now() - stopped;
  show("vote");
  refresh();
});
$("#retry").addEventListener("click", () => again());
$("#pause").addEventListener("click", () => {
  stopped = performance.now();
  $("#address").value = location.href;
  show("paused");
});
document.addEventListener("keydown", pressed);
start();
