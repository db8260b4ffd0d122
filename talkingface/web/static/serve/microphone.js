// Microphone as blocks of 16-bit samples, and recordings of them.

import { UserError } from "../common.js";
import { deviceError, whyNoDevices } from "./page.js";

const WANTED = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };

// Calls `onBlock` with an Int16Array every 40 ms until `stop` is called. Resolves to {rate, stop}.
export async function listen(onBlock) {
  const missing = whyNoDevices("microphone");
  if (missing) throw new UserError(missing);
  if (!window.AudioWorkletNode) throw new UserError("This browser cannot record here: choose a recording instead.");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: WANTED });
  } catch (error) {
    throw deviceError(error, "microphone");
  }
  const context = new AudioContext();
  let stopped = false;
  const stop = () => {
    stopped = true;
    for (const track of stream.getTracks()) track.stop();
    if (context.state !== "closed") context.close();
  };
  try {
    await context.audioWorklet.addModule("/static/serve/capture.js");
    await context.resume();
  } catch (error) {
    stop();
    throw deviceError(error, "microphone");
  }
  const capture = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit" });
  capture.port.onmessage = ({ data }) => {
    if (!stopped) onBlock(data);
  };
  context.createMediaStreamSource(stream).connect(capture);
  return { rate: context.sampleRate, stop };
}

export function loudness(block) {
  let most = 0;
  for (const value of block) most = Math.max(most, Math.abs(value));
  return most / 32768;
}

// Blocks of one rate as a WAV file (RIFF, PCM, 16 bits, one channel).
export function wav(blocks, rate) {
  const bytes = blocks.reduce((sum, block) => sum + block.byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const write = (at, text) => [...text].forEach((letter, k) => head.setUint8(at + k, letter.charCodeAt(0)));
  write(0, "RIFF");
  head.setUint32(4, 36 + bytes, true);
  write(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, rate, true);
  head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  write(36, "data");
  head.setUint32(40, bytes, true);
  return new Blob([head, ...blocks], { type: "audio/wav" });
}
