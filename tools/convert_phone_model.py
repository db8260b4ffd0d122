"""Development tool: the acoustic model of a pocketsphinx wheel -> safetensors for `phones.py`.

    unzip pocketsphinx-5.1.1-*.whl -d wheel
    python tools/convert_phone_model.py wheel/pocketsphinx/model/en-us/en-us \
        talkingface/phones.safetensors

Kept are the Gaussians of all 42 codebooks, one per phone, and the weights of the three states of
each phone without context.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

BYTE_ORDER = 0x11223344
STATES, GAUSSIANS, STREAMS = 3, 128, 3


def gaussians(path: Path) -> NDArray[np.float32]:
    """`means` or `variances`: (codebooks, streams, Gaussians, cepstra)."""
    data = path.read_bytes()
    at = data.index(b"endhdr\n") + 7
    magic, books, streams, count = struct.unpack("<4i", data[at : at + 16])
    if magic != BYTE_ORDER:
        raise SystemExit(f"{path}: not written on a little-endian machine")
    widths = struct.unpack(f"<{streams}i", data[at + 16 : at + 16 + 4 * streams])
    at += 16 + 4 * streams + 4  # the last number is how many values follow
    total = books * count * sum(widths)
    return np.frombuffer(data, "<f4", total, at).reshape(books, streams, count, widths[0])


def mixture_weights(path: Path) -> NDArray[np.uint8]:
    """`sendump`: (streams, Gaussians, states), minus log in steps of 1024 log 1.0001."""
    data, at = path.read_bytes(), 0
    while length := struct.unpack("<i", data[at : at + 4])[0]:  # strings that describe it
        at += 4 + length
    rows, columns = struct.unpack("<2i", data[at + 4 : at + 12])
    values = np.frombuffer(data, np.uint8, STREAMS * rows * columns, at + 12)
    return values.reshape(STREAMS, rows, columns)


def phones(path: Path) -> list[str]:
    """`mdef`: the names of the phones without context, in the order of their states."""
    data = path.read_bytes()
    at = 12 + struct.unpack("<2i", data[4:12])[1]
    count = struct.unpack("<10i", data[at : at + 40])[0]
    return [name.decode() for name in data[at + 40 :].split(b"\0", count)[:count]]


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    names = phones(options.model / "mdef")
    weights = mixture_weights(options.model / "sendump")[..., : STATES * len(names)]
    weights = weights.reshape(STREAMS, GAUSSIANS, len(names), STATES).transpose(2, 0, 1, 3)
    tensors = {
        "means": torch.from_numpy(gaussians(options.model / "means").copy()).half(),
        "deviations": torch.from_numpy(np.sqrt(gaussians(options.model / "variances"))).half(),
        "weights": torch.from_numpy(weights.copy()),
    }
    save_file(tensors, options.output, {"phones": " ".join(names)})
    print(f"{options.output}: {len(names)} phones, {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
