"""The model registry: family -> (class, config), preset name -> config; configs as JSON."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

from torch import nn

from talkingface.errors import UnknownModel
from talkingface.models import (
    atvg,
    atvg_published,
    cran,
    cran_published,
    head_motion,
    lipreader,
    lips,
)
from talkingface.models.baselines import chen, chung, still, zhou
from talkingface.models.measures import identity, sync

FAMILIES: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "cran": (cran.Cran, cran.CranConfig),
    "cran-published": (cran_published.PublishedCran, cran_published.PublishedCranConfig),
    "atvg": (atvg.Atvg, atvg.AtvgConfig),
    "atvg-published": (atvg_published.PublishedAtvg, atvg_published.PublishedAtvgConfig),
    "chen": (chen.Chen, chen.ChenConfig),
    "chung": (chung.Chung, chung.ChungConfig),
    "zhou": (zhou.Zhou, zhou.ZhouConfig),
    "still": (still.Still, still.StillConfig),
    "lipreader-published": (lipreader.PublishedLipReader, lipreader.PublishedReaderConfig),
    "lipreader-small": (lipreader.SmallLipReader, lipreader.SmallReaderConfig),
    "lips": (lips.ExpressionNet, lips.LipsConfig),
    "head": (head_motion.HeadNet, head_motion.HeadConfig),
    "identity": (identity.FaceEmbedding, identity.IdentityConfig),
    "sync": (sync.SyncNet, sync.SyncConfig),
}
PRESETS: dict[str, Any] = {
    **cran.PRESETS,
    **cran_published.PRESETS,
    **atvg.PRESETS,
    **atvg_published.PRESETS,
    **chung.PRESETS,
    **chen.PRESETS,
    **zhou.PRESETS,
    **still.PRESETS,
}


def build(config: Any) -> nn.Module:
    """A fresh, randomly initialised generator of this config's family."""
    return FAMILIES[config.family][0](config)


def config_to_json(config: Any) -> str:
    """A config dataclass as one line of JSON, for a weights file's header."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


def config_from_json(text: str) -> Any:
    """Return the config that `config_to_json` wrote; unknown families and fields are errors."""
    values = json.loads(text)
    family = values.get("family")
    if family not in FAMILIES:
        raise UnknownModel(f"no model family is called {family!r}; known: {', '.join(FAMILIES)}")
    return _revive(FAMILIES[family][1], values)


def _revive(kind: Any, value: Any) -> Any:
    """JSON values back to the dataclass (and tuples) they came from."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise UnknownModel(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
        made: Any = kind  # mypy: is_dataclass narrows to something that cannot be called
        return made(**{name: _revive(hints[name], item) for name, item in value.items()})
    if isinstance(kind, types.GenericAlias) and kind.__origin__ is tuple:
        return tuple(value)
    return value
