import assert from "node:assert/strict";
import { test } from "node:test";

import { meterValue, SilenceDetector } from "../../talkingface/web/static/serve/level.js";
import { loudness, wav } from "../../talkingface/web/static/serve/microphone.js";
import { videoName } from "../../talkingface/web/static/serve/page.js";
import { boxBetween, sideOf, typedBox } from "../../talkingface/web/static/serve/picture.js";
import { oldText } from "../../talkingface/web/static/serve/stage.js";

test("a drawn box is the same from every corner", () => {
  const box = [10, 20, 30, 40];
  for (const [start, end] of [
    [[10, 20], [40, 60]],
    [[40, 60], [10, 20]],
    [[10, 60], [40, 20]],
  ]) {
    assert.deepEqual(boxBetween(start, end), box);
  }
});

test("a typed box counts when it is complete", () => {
  assert.deepEqual(typedBox([0, 0, 5, 6]), [0, 0, 5, 6]);
  for (const values of [[0, 0, NaN, 6], [0, 0, 0, 6], [0, 0, 5, -1]]) assert.equal(typedBox(values), null);
});

test("loudness is the largest sample", () => {
  assert.equal(loudness(new Int16Array([0, -16384, 100])), 0.5);
  assert.equal(loudness(new Int16Array(4)), 0);
});

test("a recording is a WAV file of 16 bits and one channel", async () => {
  const file = wav([new Int16Array([1, -2]), new Int16Array([3])], 44_100);
  const view = new DataView(await file.arrayBuffer());
  const text = (at) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
  assert.deepEqual([0, 8, 12, 36].map(text), ["RIFF", "WAVE", "fmt ", "data"]);
  assert.deepEqual([view.getUint32(4, true), view.getUint32(40, true)], [36 + 6, 6]);
  assert.deepEqual([20, 22, 34].map((at) => view.getUint16(at, true)), [1, 1, 16]);
  assert.deepEqual([view.getUint32(24, true), view.getUint32(28, true)], [44_100, 88_200]);
  assert.deepEqual([44, 46, 48].map((at) => view.getInt16(at, true)), [1, -2, 3]);
  assert.equal(file.type, "audio/wav");
});

test("a video is called as its picture and its sound", () => {
  assert.equal(videoName("anna.jpg", "Hello there.wav"), "anna-Hello-there.mp4");
  assert.equal(videoName("/static/examples/man.jpg", "live"), "man-live.mp4");
  assert.equal(videoName("हिन्दी.png", "../..\\x:y.mp3"), "हिन्दी-x-y.mp4");
  assert.equal(videoName("?.jpg", ""), "talking.mp4");
  assert.equal(videoName("a".repeat(300), "b").length, 40 + 1 + 1 + 4);
});

test("a video is old when something it was made from has changed", () => {
  const made = { picture: 1, sound: 2, settings: "3" };
  assert.equal(oldText(made, { ...made }), "");
  assert.match(oldText(made, { ...made, sound: 0 }), /with another voice\.$/);
  const all = oldText(made, { picture: 0, sound: 0, settings: "0" });
  assert.match(all, /with another picture, another voice and other settings\.$/);
  assert.equal(oldText({ picture: 1, settings: "3" }, { ...made, sound: 0 }), ""); // speech that was live
});

test("a face is left, in the middle or right", () => {
  assert.deepEqual([0, 45, 90].map((x) => sideOf([x, 0, 10, 10], 100)), ["left", "middle", "right"]);
});

test("a meter shows 60 decibels", () => {
  assert.deepEqual([0, 0.001, 1].map(meterValue), [0, 0, 1]);
  assert.ok(Math.abs(meterValue(0.1) - 2 / 3) < 1e-9);
});

test("silence is told after 3 s, and after 10 s once something was heard", () => {
  const own = new SilenceDetector(1000);
  own.hear(0.001, 2000);
  assert.deepEqual([3900, 4000].map((now) => own.isSilent(now)), [false, true]);
  own.hear(0.5, 5000);
  assert.deepEqual([14_900, 15_000].map((now) => own.isSilent(now)), [false, true]);
});
