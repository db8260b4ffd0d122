import assert from "node:assert/strict";
import { test } from "node:test";

import { loudness, wav } from "../../talkingface/web/static/serve/microphone.js";
import { boxBetween, typedBox } from "../../talkingface/web/static/serve/picture.js";

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
