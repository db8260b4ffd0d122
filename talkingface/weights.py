"""Weights files: safetensors with their own configuration, and the registry of pretrained ones.

A file holds float16 tensors and one header entry, `talkingface`: JSON with the model's config, its
training data, licence and metrics. A model is rebuilt from that header and loaded strictly, so a
file cannot be misread; nothing in it is executed. The same model and header give the same bytes.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from talkingface import media, models, older_weights
from talkingface.errors import BadWeights, TalkingFaceError, UnknownModel

HEADER = "talkingface"
FORMAT = 1
SHIPPED = Path(__file__).parent / "shipped"
REGISTRY = "registry.json"

# Bounds of what a file from elsewhere may ask for, checked before memory is taken.
_LARGEST_FILE = 2_000_000_000  # bytes
_MOST = 65_536  # of a config's integers
_MOST_LAYERS, _MOST_PIXELS = 64, 2048  # of layers and blocks, of a list; of a side
# What a header that describes no model raises while one is built.
_UNBUILDABLE = (
    *(TalkingFaceError, ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RuntimeError, TypeError, ValueError),
)

# Names that need no file: (what they are, seed of their random parameters).
WITHOUT_FILE = {
    "still": ("baseline: repeats the portrait", 0),
    "cran-tiny": ("tiny and random, for tests: it does not speak", 20),
    "atvg-tiny": ("tiny and random, for tests: it does not speak", 20),
}


@dataclass(frozen=True)
class WeightsInfo:
    """Description of a model, read from its weights file.

    name: the model's name, or the path of its file.
    family: kind of network: "cran", "atvg", "lipreader" and so on.
    path: the file; None for a model without one.
    sha256: hash of the file; "" for a model without one.
    licence: licence of the weights.
    training_data: corpora that the model was trained on.
    parameters: number of parameters.
    metrics: measures by name, taken when the file was saved.
    extra: further entries of the file's header.
    """

    name: str
    family: str
    path: Path | None
    sha256: str
    licence: str
    training_data: str
    parameters: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def save(
    path: Path,
    model: nn.Module,
    *,
    training_data: str,
    licence: str,
    metrics: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a generator (with `.config`) to `path`, whole or not at all.

    Floating tensors become float16. Raises BadWeights when a number does not fit into one,
    OutputError when the file cannot be written, UnknownModel for a family nobody could load.
    """
    config = models.config_to_json(model.config)
    if models.config_from_json(config) != model.config:
        raise ValueError(f"this config does not come back from JSON: {config}")
    header = {
        "format": FORMAT,
        "config": json.loads(config),
        "training_data": training_data,
        "licence": licence,
        "metrics": dict(metrics or {}),
        "extra": dict(extra or {}),
    }
    tensors = {name: _small(name, value, path) for name, value in model.state_dict().items()}
    # One entry only: the order of several would differ from run to run.
    data = safetensors.torch.save(tensors, {HEADER: json.dumps(header, sort_keys=True)})
    _write(path, data)


def _small(name: str, value: Tensor, path: Path) -> Tensor:
    """A tensor as it is stored: contiguous, on the CPU, float16 where it is a float."""
    value = value.detach().cpu()
    if not value.is_floating_point():
        return value.contiguous().clone()
    half = value.half().contiguous()
    if not torch.isfinite(half).all():
        raise BadWeights(
            f"{path}: tensor {name} holds numbers that float16 cannot (up to "
            f"{float(value.abs().max()):g}): the training diverged, use an earlier checkpoint"
        )
    return half


def _write(path: Path, data: bytes) -> None:
    """All of `data` under `path`, or nothing."""
    with media.replacing(path, overwrite=True) as part, media.writing(path, OSError):
        part.write_bytes(data)


def load(name_or_path: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Load the generator of that name or weights file, float32, in eval mode, without gradients.

    Raises UnknownModel for a name nobody knows, BadWeights for a file that is missing or damaged,
    is not the registered one, or does not fit the model that its own header describes.
    """
    return load_with_info(name_or_path, device)[0]


def is_file_name(text: str) -> bool:
    """Return whether `load` takes a text for a file, not for the name of a pretrained model."""
    return text.endswith(".safetensors") or os.sep in text


def load_with_info(
    name_or_path: str | Path, device: torch.device | str = "cpu"
) -> tuple[nn.Module, WeightsInfo]:
    """`load`, and what is known about the model."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or is_file_name(text):
        path = Path(name_or_path)
        model, info = _from_file(path, path.stem, expected_sha256=None)
    elif text in WITHOUT_FILE:
        model, info = _without_file(text)
    else:
        entry = _entry(text)
        model, info = _from_file(SHIPPED / entry["file"], text, entry["sha256"])
    return model.eval().requires_grad_(False).to(device), info


def listing() -> list[WeightsInfo]:
    """Every model that `load` takes by name, shipped ones first."""
    shipped = [
        _from_file(SHIPPED / entry["file"], name, entry["sha256"])[1]
        for name, entry in _registry().items()
    ]
    return shipped + [_without_file(name)[1] for name in WITHOUT_FILE]


def register(name: str, source: Path) -> WeightsInfo:
    """Ship the weights file `source` under `name`: copied beside the registry, its sha256 noted."""
    info = _from_file(source, name, expected_sha256=None)[1]
    file = f"{name}.safetensors"
    _write(SHIPPED / file, source.read_bytes())
    entry = {
        "file": file,
        "sha256": info.sha256,
        "family": info.family,
        "licence": info.licence,
        "training_data": info.training_data,
    }
    registry = {**_registry(), name: entry}
    _write(SHIPPED / REGISTRY, (json.dumps(registry, indent=2, sort_keys=True) + "\n").encode())
    return info


def _registry() -> dict[str, dict[str, str]]:
    path = SHIPPED / REGISTRY
    if not path.exists():
        return {}
    entries: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return entries


def _entry(name: str) -> dict[str, str]:
    """The registry's row of a name; UnknownModel says what the user may have meant."""
    registry = _registry()
    if name in registry:
        return registry[name]
    if name in models.PRESETS:
        family = models.PRESETS[name].family.removesuffix("-published")
        method = family if family in ("cran", "atvg") else "baseline"
        command = f"talkingface train {method} --preset {name}"
        raise UnknownModel(
            f"{name!r} is a preset without trained weights: train it (`{command}`) and give the "
            "path of its .safetensors file"
        )
    known = [*registry, *WITHOUT_FILE]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UnknownModel(
        f"no model is called {name!r}; {hint}known: {', '.join(known)}, "
        "or the path of a .safetensors file"
    )


def _without_file(name: str) -> tuple[nn.Module, WeightsInfo]:
    purpose, seed = WITHOUT_FILE[name]
    config = models.PRESETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.build(config)
    info = WeightsInfo(name, config.family, None, "", "MIT", purpose, _count(model))
    return model, info


def _from_file(path: Path, name: str, expected_sha256: str | None) -> tuple[nn.Module, WeightsInfo]:
    """Read, verify and rebuild; every way a file can be wrong becomes one BadWeights line."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise BadWeights(f"{path}: is no regular file; expected a .safetensors file")
        if path.stat().st_size > _LARGEST_FILE:
            raise BadWeights(
                f"{path}: {path.stat().st_size} bytes; no model of this version has more than "
                f"{_LARGEST_FILE}"
            )
        data = path.read_bytes()
    except OSError as error:
        raise BadWeights(f"{path}: cannot be read ({error.strerror or error})") from error
    found = hashlib.sha256(data).hexdigest()
    if expected_sha256 is not None and found != expected_sha256:
        raise BadWeights(
            f"{path}: sha256 is {found[:12]}..., the registry expects {expected_sha256[:12]}...: "
            "the file was changed or damaged, install talkingface again"
        )
    header, tensors = _parse(path, data)
    model: Any = _rebuild(path, header, tensors)
    info = WeightsInfo(
        name=name,
        family=model.config.family,
        path=path,
        sha256=found,
        licence=str(header.get("licence", "")),
        training_data=str(header.get("training_data", "")),
        parameters=_count(model),
        metrics=header.get("metrics", {}),
        extra=header.get("extra", {}),
    )
    return model, info


def _parse(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The `talkingface` header entry and the tensors of a safetensors file."""
    try:
        tensors = safetensors.torch.load(data)
    except (
        safetensors.SafetensorError,
        KeyError,
    ) as error:  # KeyError: a dtype torch does not know
        raise BadWeights(
            f"{path}: not a whole safetensors file ({len(data)} bytes; {_line(error)}): "
            "fetch or save it again"
        ) from error
    length = int.from_bytes(data[:8], "little")  # validated by the loader above
    try:
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER])
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise BadWeights(
            f"{path}: a safetensors file without a {HEADER!r} header, so not one of talkingface's: "
            "save models with talkingface.weights.save"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise BadWeights(f"{path}: written in another format than {FORMAT}: update talkingface")
    if not all(isinstance(header.get(name, {}), dict) for name in ("config", "metrics", "extra")):
        raise BadWeights(f"{path}: its header is damaged: config, metrics and extra are objects")
    return header, tensors


def _rebuild(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the module that the header describes, with the file's tensors, loaded strictly.

    It is built without memory first: a header may describe one of any size.
    """
    try:
        values = older_weights.current_config(path, header["config"])
        _check_bounds("config", values)
        config = models.config_from_json(json.dumps(values))
        with torch.device("meta"):
            described = models.build(config)
        tensors = older_weights.renamed_tensors(config.family, tensors)
    except BadWeights:
        raise
    except _UNBUILDABLE as error:
        raise BadWeights(
            f"{path}: its header describes no model of this version "
            f"({_line(error) or type(error).__name__}): update talkingface, or train again"
        ) from error
    expected = {name: tuple(value.shape) for name, value in described.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise BadWeights(
                f"{path}: tensor {name} is {found.get(name, 'missing')}, its header's model needs "
                f"{expected.get(name, 'no such tensor')}: the file is damaged or of another version"
            )
        if tensors[name].is_floating_point() and not torch.isfinite(tensors[name]).all():
            raise BadWeights(
                f"{path}: tensor {name} holds NaN or infinite numbers: the file is damaged, or its "
                "training diverged"
            )
    model = models.build(config)
    model.load_state_dict(dict(tensors), strict=True)
    return model


def _check_bounds(name: str, value: Any) -> None:
    """Raise ValueError for a number or list that no config has. name: of the field."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_bounds(key, inner)
    elif isinstance(value, list):
        if len(value) > _MOST_LAYERS:
            raise ValueError(f"{name} has {len(value)} entries, at most {_MOST_LAYERS}")
        for inner in value:
            _check_bounds(name, inner)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
    elif isinstance(value, int):
        few = name.endswith(("layers", "blocks"))
        most = _MOST_LAYERS if few else _MOST_PIXELS if name in ("size", "side") else _MOST
        if abs(value) > most:
            raise ValueError(f"{name} is {str(value)[:20]}, at most {most}")


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
