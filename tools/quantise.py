"""Make the int8 graph of a trained model: python tools/quantise.py cran --cache shards

Runs the model on clips that it was trained on, every speaker in turn, notes the widest range of
every layer's numbers and writes NAME.int8.safetensors beside the weights: `--precision int8` takes
it from there. For a model that ships with the package the registry's checksum is written too.
Then prints the error against float32 on clips that it never saw. Needs nncf and openvino.

The range is the widest, not an average of several: what is rare here is an open mouth, and the
library's own choice closed it (amplitude 0.6). What remembers over time and says where lips are
stays in float32 (CRAN's GRU, which nncf leaves alone, and what predicts expressions or landmarks):
there int8's errors add up.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkingface import weights
from talkingface.data.dataset import Cache, ClipInfo, clip_speech
from talkingface.data.shards import open_cache
from talkingface.evaluation.bench import portrait_of
from talkingface.metrics.lips import aperture
from talkingface.runtimes import quantised
from talkingface.runtimes.compiled import Compiled, convert, import_openvino
from talkingface.runtimes.graph import Step, flat

# What says where lips are: its errors would add up over frames. The second pattern: what the model
# itself does with expressions, outside its layers.
KEPT = [r".*\.(at|readout)[./].*", r"(__module\.model/)?aten::.*"]
EVERY = 5  # frames: one in so many is looked at


def main() -> None:
    """Quantise one model, measure it, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a name of `talkingface models`, or a .safetensors file")
    parser.add_argument("--cache", type=Path, required=True, help="what `prepare` wrote")
    parser.add_argument("--clips", type=int, default=40, help="to learn the ranges from")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    model, info = weights.load_with_info(options.model)
    if info.path is None:
        parser.error(f"{options.model} has no weights file")
    cache = open_cache(options.cache)
    step = Step(model)
    graph = convert(step)
    exact = Compiled(model, graph, step, "float32")
    clips = picked(cache, options.clips)
    small = quantise(graph, [inputs for clip in clips for inputs in heard(exact, cache, clip)])
    header = {
        "weights": info.sha256,
        "licence": info.licence,
        "training_data": info.training_data,
        "calibration": sorted(clip.key for clip in clips),
        "kept": KEPT,
        "openvino": import_openvino().__version__,
    }
    path = info.path.with_suffix(quantised.ENDING)
    quantised.write(path, small, header)
    if info.path.parent == weights.SHIPPED:
        weights.register_int8(info.name, path)
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")
    graph = quantised.read(path, info.sha256)
    print(compared(model, Compiled(model, graph, step, "float32"), cache))


def picked(cache: Cache, count: int) -> list[ClipInfo]:
    """So many training clips with speech, of every speaker in turn."""
    draw, clips = np.random.default_rng(0), [c for c in cache.split("train") if not c.silent]
    speakers = sorted({clip.speaker for clip in clips})
    own = {speaker: [c for c in clips if c.speaker == speaker] for speaker in speakers}
    turns = [own[speakers[turn % len(speakers)]] for turn in range(count)]
    return [choices[draw.integers(len(choices))] for choices in turns]


def heard(exact: Compiled, cache: Cache, clip: ClipInfo) -> Iterator[list[np.ndarray[Any, Any]]]:
    """The graph's inputs along a clip, one frame in EVERY; the picture is its middle frame."""
    face = exact.encode(portrait_of(cache, clip.start + clip.frames // 2))
    state: Any = exact._step.state
    for t, speech in enumerate(clip_speech(cache, clip, exact.config.speech).split(1)):
        if t % EVERY == 0:
            tensors = [*face.inputs[0], speech[None], *flat(state, "state").values()]
            yield [tensor.contiguous().numpy() for tensor in tensors]
        _, state = exact(face, speech[None], state)


def quantise(graph: Any, inputs: list[list[np.ndarray[Any, Any]]]) -> Any:
    """The graph with its convolutions and full layers in int8, for inputs such as these."""
    os.environ["NNCF_CI"] = "1"  # nothing is told to a server
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    names = [port.get_any_name() for port in graph.inputs]
    return nncf.quantize(
        graph,
        nncf.Dataset(inputs, lambda arrays: dict(zip(names, arrays, strict=True))),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(patterns=KEPT, validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            disable_bias_correction=True,  # won nothing: 47.9 dB with it and without
        ),
    )


def compared(model: Any, other: Any, cache: Cache) -> str:
    """A line: the error of `other` against `model` on eight clips of each held-out split."""
    lines = []
    for split in ("test", "stranger"):
        clips = sorted(cache.split(split), key=lambda clip: clip.key)
        chosen = [clips[i] for i in np.linspace(0, len(clips) - 1, 8).round().astype(int)]
        errors = np.array([error_of(model, other, cache, clip) for clip in chosen])
        psnr, correlation, amplitude = errors.mean(0)
        low, least, _ = errors.min(0)
        lines.append(
            f"{split}: PSNR {psnr:.1f} dB (least {low:.1f}), aperture correlation "
            f"{correlation:.4f} (least {least:.4f}), amplitude {amplitude:.3f}"
        )
    return "\n".join(lines)


def error_of(model: Any, other: Any, cache: Cache, clip: ClipInfo) -> tuple[float, float, float]:
    """PSNR of the crops, correlation and ratio of the aperture of predicted landmarks."""
    picture = portrait_of(cache, clip.start)
    speech = clip_speech(cache, clip, model.config.speech)[None]
    made = [each(each.encode(picture), speech)[0] for each in (model, other)]
    mean = (pixels(made[0].frames) - pixels(made[1].frames)).square().mean().item()
    apertures = [aperture(m.landmarks[0].double().numpy() * model.config.crop.size) for m in made]
    return (
        float(10 * np.log10(255**2 / max(mean, 1e-9))),
        float(np.corrcoef(*apertures)[0, 1]),
        float(apertures[1].std() / apertures[0].std()),
    )


def pixels(frames: Tensor) -> Tensor:
    """[-1, 1] -> whole numbers of 0 to 255."""
    return ((frames.clamp(-1, 1) + 1) * 127.5).round()


if __name__ == "__main__":
    main()
