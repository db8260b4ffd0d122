// Invented faces and synthetic voices that the page offers, and two examples of both together.

import { byId } from "../common.js";

const FOLDER = "/static/examples/";
const FACES = [
  { file: "nobody.jpg", name: "An invented woman", short: "Woman" },
  { file: "man.jpg", name: "An invented man", short: "Man" },
  { file: "young.jpg", name: "An invented young woman", short: "Young woman" },
  { file: "curls.jpg", name: "An invented woman with curls", short: "Curls" },
  { file: "beard.jpg", name: "An invented man with a beard", short: "Beard" },
];
const VOICES = [
  { file: "picnic.wav", name: "American woman", text: "What about a picnic by the river on Sunday instead?" },
  { file: "muffins.wav", name: "American man", text: "Mama made a pile of pumpkin muffins by the window." },
  { file: "soup.m4a", name: "British woman", text: "Could you pour me a bowl of warm tomato soup?" },
  { file: "bike.m4a", name: "British man", text: "My bike pump is a bit too big to put in a bag." },
  { file: "french.m4a", name: "French woman", text: "Le papa de Pauline a beaucoup aimé ma soupe au potiron." },
  { file: "spanish.m4a", name: "Spanish man", text: "Mi papá me compró un globo muy bonito en el mercado." },
  { file: "japanese.m4a", name: "Japanese woman", text: "赤い帽子のおばあさんが、豚まんを半分くれました。" },
];
const EXAMPLES = [[FACES[0], VOICES[0]], [FACES[1], VOICES[1]]];

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const thumbnail = ({ file }, side) => element("img", { src: FOLDER + file, alt: "", width: side, height: side });
const quoted = (text) => element("span", { className: "quoted" }, `“${text}”`);
const fetched = async ({ file }) => (await fetch(FOLDER + file)).blob();

function button(className, chosen, ...children) {
  const made = element("button", { type: "button", className }, ...children);
  made.addEventListener("click", chosen);
  return made;
}

export class Gallery {
  #buttons = new Map(); // of each file

  // picture, sound: they take what is chosen. play: plays both, after an example.
  constructor(picture, sound, play) {
    const showFace = (face, blob) => picture.take(blob, face.name, FOLDER + face.file);
    const useVoice = (voice, blob) => sound.take(blob, `${voice.name}: “${voice.text}”`, FOLDER + voice.file);
    for (const face of FACES) {
      this.#offer("faces", face, button("face", async () => showFace(face, await fetched(face)), thumbnail(face, 56), element("span", {}, face.short)));
    }
    for (const voice of VOICES) {
      this.#offer("voices", voice, button("voice", async () => useVoice(voice, await fetched(voice)), voice.name));
    }
    for (const [face, voice] of EXAMPLES) {
      const text = element("span", {}, element("strong", {}, face.name), element("br"), quoted(voice.text));
      const both = async () => {
        const [image, speech] = await Promise.all([face, voice].map(fetched));
        useVoice(voice, speech);
        showFace(face, image);
        play();
      };
      byId("examples").append(button("example", both, thumbnail(face, 72), text));
    }
  }

  #offer(list, { file }, made) {
    this.#buttons.set(FOLDER + file, made);
    byId(list).append(made);
  }

  // Show which of them are in use. files: of the picture and of the sound.
  show(...files) {
    for (const [file, made] of this.#buttons) made.setAttribute("aria-pressed", String(files.includes(file)));
  }
}
