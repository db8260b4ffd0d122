"""CRAN's pictures, ATVGnet's lips: one model of two that were trained apart.

    python tools/graft_lips.py cran atvg OUT.safetensors

CRAN's decoder is shown where AT-net moves the lips, which hears the phones of any voice; what is
inside of the mouth it draws from its own hybrid feature, which hears the spectrum. Nothing is
trained. Names are those of `talkingface models`, or weights files.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from talkingface import phones, weights
from talkingface.models.atvg import Atvg
from talkingface.models.cran import Cran


def graft(drawing: Cran, moving: Atvg) -> Cran:
    """The first, its lips moved by the AT-net of the second."""
    own = drawing.config
    speech = replace(own.speech, kind="both", coefficients=own.speech.mels + phones.FEATURES)
    model = Cran(replace(own, speech=speech, mover="at")).eval()
    lips = {f"at.{name}": value for name, value in moving.at.state_dict().items()}
    model.load_state_dict({**drawing.state_dict(), **lips})
    return model


def main() -> None:
    """Load both, write one."""
    (drawing, drawn), (moving, moved) = (weights.load_with_info(name) for name in sys.argv[1:3])
    if not isinstance(drawing, Cran) or not isinstance(moving, Atvg):
        raise SystemExit("give a cran and an atvg")
    weights.save(
        Path(sys.argv[3]),
        graft(drawing, moving),
        training_data=f"{drawn.training_data}; lips as {moved.name}: {moved.training_data}",
        licence=drawn.licence,
        extra={**drawn.extra, "drawing": drawn.sha256, "lips": moved.sha256},
    )


if __name__ == "__main__":
    main()
