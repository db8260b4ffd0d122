// Plays live video by WebRTC, for browsers without MediaSource. Nothing of it is kept.

const LAST_FRAMES = 500; // milliseconds until the last frames are shown

export const canPlayRtc = () => Boolean(window.RTCPeerConnection);

// The frame that a video shows, as an address; null where it shows none.
function shownFrame(video) {
  const { videoWidth: width, videoHeight: height } = video;
  if (!width) return null;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.toDataURL("image/jpeg", 0.9);
}

export class RtcPlayer {
  static keeps = false;
  choices = { rtc: "true" }; // for the server
  #video;
  #peer = null;

  constructor(video) {
    this.#video = video;
  }

  start() {
    this.#peer = new RTCPeerConnection();
    const stream = new MediaStream();
    this.#peer.ontrack = ({ track }) => stream.addTrack(track);
    for (const kind of ["video", "audio"]) this.#peer.addTransceiver(kind, { direction: "recvonly" });
    this.#video.removeAttribute("src");
    this.#video.srcObject = stream;
    this.#video.play().catch(() => {}); // the controls are there
  }

  async offer() {
    await this.#peer.setLocalDescription();
    return this.#peer.localDescription.sdp;
  }

  async accept(answer) {
    await this.#peer.setRemoteDescription({ type: "answer", sdp: answer });
  }

  open() {}

  push() {}

  // Resolves to null when the last frames were shown. The very last one stays.
  async finish() {
    await new Promise((done) => setTimeout(done, LAST_FRAMES));
    const frame = shownFrame(this.#video);
    this.stop();
    if (frame) this.#video.poster = frame;
    return null;
  }

  stop() {
    this.#peer?.close();
    this.#video.srcObject = null;
  }
}
