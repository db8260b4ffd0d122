// The dialog that takes a picture with the camera.

import { byId } from "../common.js";
import { deviceError, whyNoDevices } from "./page.js";

const WANTED = { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 960 } };

// take: receives the picture, a JPEG. failed: receives a text for the user.
export function prepareCamera({ take, failed }) {
  const dialog = byId("camera");
  const view = byId("camera-view");
  byId("camera-open").addEventListener("click", async () => {
    const missing = whyNoDevices("camera");
    if (missing) return failed(missing);
    try {
      view.srcObject = await navigator.mediaDevices.getUserMedia({ video: WANTED });
      dialog.showModal();
    } catch (error) {
      failed(deviceError(error, "camera").message);
    }
  });
  byId("camera-take").addEventListener("click", () => {
    if (!view.videoWidth) return;
    const canvas = document.createElement("canvas");
    canvas.width = view.videoWidth;
    canvas.height = view.videoHeight;
    canvas.getContext("2d").drawImage(view, 0, 0);
    canvas.toBlob(take, "image/jpeg", 0.95);
    dialog.close();
  });
  byId("camera-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    for (const track of view.srcObject?.getTracks() ?? []) track.stop();
    view.srcObject = null;
  });
}
