import assert from "node:assert/strict";
import { test } from "node:test";

import { raterPath } from "../../talkingface/web/static/study/api.js";
import { shortcutOf } from "../../talkingface/web/static/study/keys.js";
import { currentQuestion, missingText, questionAfter } from "../../talkingface/web/static/study/questions.js";

const ALL = { lips: "a", realism: "b", quality: "a" };

test("what is left to do is said until all is done", () => {
  assert.equal(
    missingText({ a: false, b: false }, {}),
    "watch both videos to the end; answer: lips, realism, picture",
  );
  assert.equal(missingText({ a: true, b: false }, ALL), "watch video B to the end");
  assert.equal(missingText({ a: true, b: true }, { lips: "a", quality: "b" }), "answer: realism");
  assert.equal(missingText({ a: true, b: true }, ALL), "");
});

test("a key answers the question with the focus, else the first open one, else the last", () => {
  assert.equal(currentQuestion("quality", {}), "quality");
  assert.equal(currentQuestion(undefined, { lips: "a" }), "realism");
  assert.equal(currentQuestion(undefined, ALL), "quality");
});

test("the first and the last question are ends", () => {
  assert.equal(questionAfter("lips", 1), "realism");
  assert.equal(questionAfter("lips", -1), "lips");
  assert.equal(questionAfter("quality", 1), "quality");
});

test("shortcuts of one character can be turned off, others stay", () => {
  assert.equal(shortcutOf({ key: "S" }, true), "s");
  assert.equal(shortcutOf({ key: "S" }, false), null);
  assert.equal(shortcutOf({ key: "1" }, false), null);
  assert.equal(shortcutOf({ key: "Enter" }, false), "Enter");
  for (const other of ["ctrlKey", "altKey", "metaKey", "repeat"]) {
    assert.equal(shortcutOf({ key: "p", [other]: true }, true), null);
  }
});

test("a rater's token is escaped in addresses", () => {
  assert.equal(raterPath("a/b", "/tasks/1"), "/api/raters/a%2Fb/tasks/1");
});
