"""Read weights files of older versions under the present names of families, fields and tensors.

This is the only place that knows how older files name things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from talkingface.errors import BadWeights

RENAMED_FAMILIES = {"lipreader-lean": "lipreader-small"}

# Fields of a family's config; "vg.window": of its part `vg`.
_REGION = {"window": "mouth_region", "seed_channels": "initial_channels"}
RENAMED_FIELDS: Mapping[str, Mapping[str, str]] = {
    "cran": _REGION,
    "cran-published": _REGION,
    "atvg": {"vg.window": "mouth_region"},
    "chung": _REGION,
    "chen": _REGION,
    "zhou": _REGION,
}

# Beginnings of the names of tensors.
_NETWORK = {
    **{f"image_encoder.{level}.": f"image_encoder.layers.{level}." for level in range(8)},
    "image_head.": "image_encoder.projection.",
    "seed.": "decoder.initial_map.",
    "ups.": "decoder.ups.",
    "last.": "decoder.to_features.",
    "head.": "decoder.to_rgb.",
}
_MMRNN = {
    "vg.mmrnn.heard.": "vg.mmrnn.from_input.",
    "vg.mmrnn.kept.": "vg.mmrnn.from_state.",
}
_READER = {"cells.": "rnn.", "answer.": "classifier."}
RENAMED_TENSORS: Mapping[str, Mapping[str, str]] = {
    "cran": _NETWORK,
    "cran-published": {**_NETWORK, "lip_head.": "lip_predictor."},
    "atvg-published": {"at.head.": "at.to_coefficients.", **_MMRNN},
    "atvg": {
        **_MMRNN,
        "vg.head.": "vg.to_rgb.",
        "vg.last.": "vg.to_features.",
    },
    "chung": {f"network.{old}": f"network.{new}" for old, new in _NETWORK.items()},
    "zhou": _NETWORK,
    "lipreader-published": _READER,
    "lipreader-small": _READER,
    "sync": {"eye.": "video_encoder.", "ear.": "audio_encoder."},
    "": {"judge.": "classifier.", "answer.": "classifier."},  # discriminators, in checkpoints alone
}

# What version 0.2.0 removed: whole families; fields of a family's config, each with the one value
# that means what the model does now, or ANY; kinds of `audio.SpeechSpec`.
ANY = "any value"
REMOVED_FAMILIES = ("lipreader-sentences", "detail")
_CRAN: Mapping[str, Any] = {
    "hearing": {
        "filters": 40,
        "start": "mel",
        "taught": "no",
        "widths": [128, 128, 128],
        "reach": 2,
    },
    "mover": "hybrid",
    "head": "free",
    "audio": "strided",
    "gru_layers": 1,
}
_DRAWING = ("bound", "window", "image_channels", "landmark_maps", "hidden", "last_channels")
REMOVED_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "cran": {
        **_CRAN,
        "output": "mesh",
        "lips": "expression",
        "kernel": 3,
        "transposed": False,
        **dict.fromkeys(("audio_channels", "audio_strides", "audio_norm", "audio_layers"), ANY),
    },
    "cran-published": {
        **_CRAN,
        "head_motion": "none",
        **dict.fromkeys(("readout", "prosody_rank", "bound"), ANY),
    },
    "atvg": {
        "at.points": "all",
        "at": ANY,
        "at_net": "expression",
        "vg.kind": "lean",
        "vg.width": ANY,
    },
    "atvg-published": {
        "at.points": "all",
        "at_net": "published",
        "lips": ANY,
        "vg.kind": "published",
        **{f"vg.{name}": ANY for name in _DRAWING},
    },
}
REMOVED_SPEECH = ("raw", "both", "phones")


def current_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header's config as it would be written now.

    Raises BadWeights where a removed field has another value than the one that means what the model
    does now.
    """
    known = {name: dict(x) if isinstance(x, dict) else x for name, x in config.items()}
    family = known["family"] = _family(known)
    asked = [f"the family {family}"] if family in REMOVED_FAMILIES else []
    for name, value in _removed_fields(family, known).items():
        part, field = _part(known, name)
        found = part.pop(field, value)
        if found != value and value is not ANY:
            asked.append(f"{name}={json.dumps(found)}")
    speech = config.get("speech")
    if isinstance(speech, dict) and speech.get("kind") in REMOVED_SPEECH:
        asked.append(f"speech of the kind {speech['kind']}")
    if asked:
        raise BadWeights(
            f"{path}: needs {', '.join(asked)}, which version 0.2.0 removed: load it with "
            "talkingface 0.1, or train again"
        )
    for name, new in RENAMED_FIELDS.get(family, {}).items():
        part, field = _part(known, name)
        if field in part:
            part[new] = part.pop(field)
    return known


def renamed_tensors(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's tensors under the names that the family's modules have now."""
    renamed = dict(tensors)
    for old, new in RENAMED_TENSORS.get(family, {}).items():
        for name in [name for name in renamed if name.startswith(old)]:
            renamed[new + name.removeprefix(old)] = renamed.pop(name)
    return renamed


def _family(config: Mapping[str, Any]) -> str:
    """Return the family as it is called now; published networks were of the same."""
    family: str = config["family"]
    if family == "cran" and config.get("output", "mesh") != "mesh":
        return "cran-published"
    if family == "atvg" and config.get("at_net") == "published":
        return "atvg-published"
    return RENAMED_FAMILIES.get(family, family)


def _removed_fields(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    removed = dict(REMOVED_FIELDS.get(family, {}))
    if family == "cran":  # the head moves where it is natural, and only there
        removed["head_motion"] = "sampled" if config.get("scheme") == "natural" else "none"
    return removed


def _part(config: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return the part of a config that a dotted name is in, and the name there."""
    *outer, field = name.split(".")
    return (config.get(outer[0], {}) if outer else config), field
