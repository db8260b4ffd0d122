"""Write docs/api.md, the page of the Python API, from docstrings: python tools/api_page.py

It shows the names of `talkingface` in the order of use, with signatures, docstrings and public
methods; then the types that these return, the errors and `talkingface.evaluation`.
With --check it only tells whether the page is up to date.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import talkingface
from talkingface import errors, evaluation
from talkingface.dubbing.dubbed_video import DubResult
from talkingface.dubbing.track import TrackReport
from talkingface.faces import Aligned
from talkingface.frames import Maps, PreparedFace
from talkingface.live_face import Percentiles
from talkingface.weights import WeightsInfo

DOCUMENT = Path(__file__).parents[1] / "docs" / "api.md"
ORDER = (
    *(
        "load",
        "TalkingFace",
        "Video",
        "Conversation",
        "DubbedVideo",
        "Turn",
        "FaceOptions",
        "OutputOptions",
        "Controls",
        "stream",
        "Stream",
        "Motion",
    ),
    *("LiveFace", "LiveFrame", "LiveStatistics", "LiveClock"),
    *("Job", "DubJob", "JobResult", "run_batch", "Workers", "align"),
)
APART = ("TalkingFaceError", "__version__")
RETURNED = (PreparedFace, Maps, Aligned, DubResult, TrackReport, WeightsInfo, Percentiles)
WIDTH = 100  # columns of a signature in one line

INTRODUCTION = """# Python API

This page describes every name that `import talkingface` gives. It is made from the docstrings by
`python tools/api_page.py`.

```python
import talkingface

speaker = talkingface.load("cran")
video = speaker.generate("examples/portrait.jpg", "examples/speech.wav", show="face")
video.save("talking.mp4")
```

- Pictures are (H, W, 3) uint8 RGB. Sound is mono float in [-1, 1] at 16 kHz. Videos have 25 frames
  per second.
- `PathLike` is `str` or `pathlib.Path`, `Picture` is the array of a picture, `Samples` is an array
  or a torch tensor of sound.
- Arguments called `keywords` are fields of `FaceOptions`: `face=2`, `show="face"`, `mark=True`;
  those of `Video.save` are fields of `OutputOptions`: `fps=50`, `codec="h265"`.
- Errors that a user can cause are subclasses of `TalkingFaceError` ([below](#errors)).
"""


def page() -> str:
    """Return the whole page."""
    names = [name for name in talkingface.__all__ if name not in APART]
    names.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    parts = [part for name in names for part in _entry(name, getattr(talkingface, name))]
    parts.append("## Types that are returned\n")
    for kind in RETURNED:
        parts += [f"### `{kind.__name__}`\n", _text(kind)]
    parts += _errors()
    parts += _evaluation()
    return "\n".join([INTRODUCTION, *parts])


def _entry(name: str, value: Any) -> Iterator[str]:
    """Yield the sections of one exported name: a function, or a class with its methods."""
    yield f"## `{name}`\n"
    if not inspect.isclass(value):
        yield _signature(name, value)
    elif dataclasses.is_dataclass(value):
        yield _signature(name, value, returns=False)
    yield _text(value)
    for method, found in vars(value).items() if inspect.isclass(value) else ():
        function = getattr(found, "fget", None) or getattr(found, "__func__", found)
        if method.startswith("_") or not inspect.isfunction(function):
            continue
        if isinstance(found, property):
            yield f"### `{name}.{method}: {function.__annotations__['return']}`\n"
        else:
            yield f"### `{name}.{method}`\n"
            yield _signature(method, function)
        yield _text(function)


def _signature(name: str, function: Any, returns: bool = True) -> str:
    """Return a signature as code, one parameter a line where it is long."""
    own = inspect.signature(function)
    rows, keyword_only = [], False
    for parameter in own.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            rows.append("*")
            keyword_only = True
        rows.append(_parameter(parameter))
    returned = f" -> {own.return_annotation}" if returns else ""
    text = f"{name}({', '.join(rows)}){returned}"
    if len(text) > WIDTH:
        text = "\n".join([f"{name}(", *(f"    {row}," for row in rows), f"){returned}"])
    return f"```python\n{text}\n```\n"


def _parameter(parameter: inspect.Parameter) -> str:
    """Return one parameter as code. A default that is a record of defaults is shown as its call."""
    many, named = parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD
    stars = "*" if parameter.kind == many else "**" if parameter.kind == named else ""
    text = f"{stars}{parameter.name}: {parameter.annotation}"
    default: Any = parameter.default
    if default is parameter.empty:
        return text
    if dataclasses.is_dataclass(default) and default == _defaults(type(default)):
        return f"{text} = {type(default).__name__}()"
    shown = "{}" if "factory" in repr(default) else repr(default).replace("'", '"')
    return f"{text} = {shown}"


def _defaults(kind: Any) -> Any:
    return kind()


def _text(value: Any) -> str:
    """Return a docstring as Markdown: paragraphs as they are, lines `name: ...` as a list."""
    parts: list[str] = []
    for paragraph in (inspect.getdoc(value) or "").split("\n\n"):
        items = re.split(r"\n(?=\w+(?:, \w+)*: )", paragraph)
        if re.match(r"\w+(?:, \w+)*: ", paragraph) and paragraph[:6] != "Raises":
            parts.append("\n".join(_item(item) for item in items))
        else:
            parts.append(" ".join(paragraph.split()))
    return "\n\n".join(parts) + "\n"


def _item(text: str) -> str:
    """Return `name: ...` as an item of a list."""
    name, _, rest = " ".join(text.split()).partition(": ")
    return f"- `{name}`: {rest}"


def _first(value: Any) -> str:
    """Return the first line of a docstring."""
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())


def _errors() -> list[str]:
    """Return the section of the errors."""
    base = errors.TalkingFaceError
    kinds = [
        value for value in vars(errors).values() if inspect.isclass(value) and value is not base
    ]
    rows = [f"| `{kind.__name__}` | {_first(kind)} |" for kind in kinds]
    intro = f"`talkingface.TalkingFaceError`: {_text(base)}"
    tail = "The subclasses are in `talkingface.errors`:\n"
    return ["## Errors\n", intro, tail, _table("error", rows)]


def _evaluation() -> list[str]:
    """Return the section of `talkingface.evaluation`."""
    values = [(name, getattr(evaluation, name)) for name in evaluation.__all__]
    rows = [
        f"| `{name}` | {_first(value) if callable(value) else f'constant, `{value!r}`'} |"
        for name, value in sorted(values, key=lambda pair: pair[0].lower())
    ]
    intro = f"{_first(evaluation)} Its commands: `talkingface evaluate --help`.\n"
    calls = [_signature(name, getattr(evaluation, name)) for name in ("evaluate", "evaluate_pairs")]
    texts = [_text(getattr(evaluation, name)) for name in ("evaluate", "evaluate_pairs")]
    pairs: Iterable[str] = (part for both in zip(calls, texts, strict=True) for part in both)
    return ["## `talkingface.evaluation`\n", intro, _table("name", rows), *pairs]


def _table(heading: str, rows: list[str]) -> str:
    """Return rows under a heading, as Markdown."""
    return "\n".join([f"| {heading} | |", "|---|---|", *rows]) + "\n"


def main() -> None:
    """Write the page, or with --check only tell whether it is up to date."""
    fresh = page()
    if "--check" not in sys.argv:
        DOCUMENT.write_text(fresh, encoding="utf-8")
    elif not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != fresh:
        sys.exit(f"{DOCUMENT}: older than the docstrings: python tools/api_page.py")


if __name__ == "__main__":
    main()
