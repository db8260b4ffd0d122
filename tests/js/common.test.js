import assert from "node:assert/strict";
import { test } from "node:test";

import { sentence, setStatus, UserError, userErrorOf } from "../../talkingface/web/static/common.js";
import { clock, deviceError, size, whyNoDevices } from "../../talkingface/web/static/serve/page.js";

test("sentences begin with a capital letter and end with a full stop", () => {
  assert.equal(sentence("the picture is too large"), "The picture is too large.");
  assert.equal(sentence("Really?"), "Really?");
  assert.equal(sentence(""), ".");
});

test("times and sizes are for people", () => {
  assert.deepEqual([0, 59.6, 61, 600].map(clock), ["0 s", "1 min 00 s", "1 min 01 s", "10 min 00 s"]);
  assert.deepEqual([1, 1499, 999_999, 2_500_000].map(size), ["1 kB", "1 kB", "1000 kB", "2.5 MB"]);
});

test("the server's error line becomes a sentence with its status", async () => {
  const error = await userErrorOf(Response.json({ error: "no face found" }, { status: 422 }));
  assert.ok(error instanceof UserError);
  assert.deepEqual([error.message, error.status], ["No face found.", 422]);
  const plain = await userErrorOf(new Response("<html>", { status: 502 }));
  assert.equal(plain.message, "The server answered 502.");
});

test("an unchanged text is not set again", () => {
  const classes = new Map();
  let count = 0;
  const element = {
    classList: { toggle: (name, on) => classes.set(name, on) },
    get textContent() {
      return "one";
    },
    set textContent(_) {
      count += 1;
    },
  };
  setStatus(element, "one");
  assert.equal(count, 0);
  setStatus(element, "two", true);
  assert.deepEqual([count, classes.get("bad")], [1, true]);
});

test("errors of camera and microphone say what to do", () => {
  assert.match(deviceError({ name: "NotAllowedError" }, "camera").message, /camera was not allowed\. Allow it/);
  assert.match(deviceError({ name: "OddError", message: "x" }, "microphone").message, /could not be opened \(x\)/);
  globalThis.window = { isSecureContext: false };
  Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
  assert.match(whyNoDevices("camera"), /only over https/);
});
