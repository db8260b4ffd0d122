"""Change any setting of a training by its dotted name: `model.hidden=256`, `stages.0.steps=100`.

Settings are frozen dataclasses in each other, in tuples and in dicts. Types come from annotations.
"""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from talkingface.errors import BadRequest

T = TypeVar("T")
_FIXED = frozenset({"family"})  # fields that name a class
_KINDS = {int: "a whole number, 0 or more", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class _Change:
    """One change. item: as the user gave it; path: the rest of its name; text: its value."""

    item: str
    path: tuple[str, ...]
    text: str


def change(settings: T, items: Sequence[str]) -> T:
    """Return settings with the changes "NAME=VALUE", all made at once.

    NAME: fields with dots between, a number for an entry of a tuple, `*` for all of them, a key for
    a dict's. A field of the `model`, or of one of its parts, may be given by its name alone.
    VALUE: of the field's type; entries of a tuple with commas between; `none` removes a dict's key.
    Raises BadRequest, which names the change, what is known and what is expected.
    """
    changes = []
    for item in items:
        name, sign, text = item.partition("=")
        if not sign or not name:
            raise BadRequest(f"--set {item}: give NAME=VALUE, as steps=100 or model.hidden=64")
        path = tuple(name.strip().split("."))
        changes.append(_Change(item, _whole_path(settings, path, item), text.strip()))
    changed: T = _changed(settings, type(settings), changes, ())
    return changed


def names(settings: object) -> list[str]:
    """Return the dotted names of all settings that can be changed."""
    return list(_leaves(settings, ()))


def require_positive(settings: object, *names: str) -> None:
    """Raise ValueError where one of these numbers is less than 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is 1 at least, not {getattr(settings, name)}")


def _leaves(value: object, path: tuple[str, ...]) -> Iterable[str]:
    children = _children(value)
    if not children:
        yield ".".join(path)
    for name, child in children.items():
        yield from _leaves(child, (*path, name))


def _children(value: object) -> dict[str, Any]:
    """Return what is in a group of settings, by name; {} for a single one."""
    if is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in fields(value) if f.name not in _FIXED}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return {str(index): entry for index, entry in enumerate(value)}
    return {}


def _whole_path(settings: object, path: tuple[str, ...], item: str) -> tuple[str, ...]:
    """Complete the name of a field of the model or of its parts that is given without dots."""
    model = getattr(settings, "model", None)
    if len(path) > 1 or model is None or path[0] in _children(settings):
        return path
    if path[0] in _children(model):
        return ("model", *path)
    parts = {name: part for name, part in _children(model).items() if is_dataclass(part)}
    found = [name for name, part in parts.items() if path[0] in _children(part)]
    if len(found) > 1:
        known = " or ".join(f"model.{name}.{path[0]}" for name in found)
        raise BadRequest(f"--set {item}: which one? Give {known}")
    return ("model", found[0], *path) if found else path


def _changed(value: Any, hint: Any, changes: list[_Change], at: tuple[str, ...]) -> Any:
    """Apply changes to the value at a path. hint: its type."""
    if is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        inner = _by_name(changes, _children(value), at)
        new = {n: _changed(getattr(value, n), hints[n], c, (*at, n)) for n, c in inner.items()}
        try:
            return replace(value, **new)  # type: ignore[type-var]
        except ValueError as error:  # of a check across fields
            raise BadRequest(f"--set {' '.join(c.item for c in changes)}: {error}") from error
    if isinstance(value, Mapping):
        return _changed_keys(value, typing.get_args(hint)[1], changes, at)
    if children := _children(value):
        inner = _by_name(changes, children, at)
        entries = children.items()
        return tuple(_changed(v, None, inner[n], (*at, n)) if n in inner else v for n, v in entries)
    last = changes[-1]
    if last.path:
        raise BadRequest(f"--set {last.item}: {'.'.join(at)} is one value, without further parts")
    return _parsed(last, hint, at)


def _changed_keys(
    value: Mapping[str, Any], kind: Any, changes: list[_Change], at: tuple[str, ...]
) -> dict[str, Any]:
    """Return a dict with changed, new and removed keys. kind: the type of its values."""
    made = dict(value)
    for key, inner in _by_name(changes, None, at).items():
        if inner[-1].text.lower() == "none":
            made.pop(key, None)
        else:
            made[key] = _changed(made.get(key), kind, inner, (*at, key))
    return made


def _by_name(
    changes: list[_Change], known: Mapping[str, Any] | None, at: tuple[str, ...]
) -> dict[str, list[_Change]]:
    """Sort changes of a group by the names in it. known: these names, None where all are."""
    sorted_changes: dict[str, list[_Change]] = {}
    for c in changes:
        if not c.path:
            raise BadRequest(f"--set {c.item}: {'.'.join(at)} has parts: {', '.join(known or '')}")
        everything = c.path[0] == "*" and known is not None and "0" in known
        for name in known if everything and known else c.path[:1]:
            if known is not None and name not in known:
                raise _unknown(c.item, name, known, at)
            sorted_changes.setdefault(name, []).append(_Change(c.item, c.path[1:], c.text))
    return sorted_changes


def _unknown(item: str, name: str, known: Iterable[str], at: tuple[str, ...]) -> BadRequest:
    """Return the error of a name that is not known, with what is."""
    close = [".".join((*at, word)) for word in difflib.get_close_matches(name, known, 2)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    where = f" of {'.'.join(at)}" if at else ""
    return BadRequest(
        f"--set {item}: no setting{where} is called {name!r}.{hint} Known: {', '.join(known)}"
    )


def _parsed(change: _Change, hint: Any, at: tuple[str, ...]) -> Any:
    """Return a change's text as a value of this type."""
    try:
        return _value(change.text, hint)
    except (ValueError, KeyError) as error:
        expected = f"{'.'.join(at)} is {_kind(hint)}"
        raise BadRequest(f"--set {change.item}: {expected}, not {change.text!r}") from error


def _value(text: str, hint: Any) -> Any:
    """Convert a text to a type. Raises ValueError or KeyError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {str(word): word for word in arguments}[text]
    if origin is tuple:
        parts = [part for part in text.split(",") if part]
        kinds = arguments[:1] * len(parts) if arguments[-1] is Ellipsis else arguments
        return tuple(_value(part, kind) for part, kind in zip(parts, kinds, strict=True))
    if hint is bool:
        return {"true": True, "false": False}[text.lower()]
    number = hint(text)
    if (hint is int and number < 0) or (hint is float and not math.isfinite(number)):
        raise ValueError(text)
    return number


def _kind(hint: Any) -> str:
    """Describe a type to a user: "a whole number", "one of frame, time"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list, with commas between, each {_kind(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} values with commas between, each {_kind(arguments[0])}"
    return _KINDS[hint]
