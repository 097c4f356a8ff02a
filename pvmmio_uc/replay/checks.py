"""Checks of decoded JSON: each takes a value and gives it back, converted, or raises `Wrong`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "REQUIRED",
    "Check",
    "Field",
    "Wrong",
    "check_fields",
    "either",
    "hex_bytes",
    "hex_text",
    "integer",
    "list_of",
    "matching",
    "record",
    "within",
]

Check = Callable[[object], Any]

_HEX = re.compile(r"(?:[0-9a-f]{2})*\Z")


class Wrong(Exception):
    """A value that does not fit. ``where`` is the way to it from the outside in, ``what`` the complaint."""

    def __init__(self, what: str, *where: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where

    def __str__(self) -> str:
        return ": ".join((*self.where, self.what))


class _Required:
    pass


REQUIRED = _Required()
"""The default of a field that must be there."""


class Field(NamedTuple):
    """One key of an object: the name it gets, its check, and what stands in where it is absent."""

    name: str
    check: Check
    default: object = REQUIRED


def within(place: str, check: Check, value: object) -> Any:
    """``check`` of a value found at ``place``: a complaint says where."""
    try:
        return check(value)
    except Wrong as wrong:
        raise Wrong(wrong.what, place, *wrong.where) from None


def integer(low: int, high: int) -> Check:
    """An exact integer from ``low`` to ``high``."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Wrong(f"an integer is needed, not {_shown(value)}")
        if not low <= value <= high:
            raise Wrong(f"{_shown(value)} is not in {low:#x}..{high:#x}")
        return value

    return check


def either(*allowed: object) -> Check:
    """One of a few values of the same type as given."""

    def check(value: object) -> object:
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise Wrong(f"{_shown(value)} is not one of {', '.join(map(repr, allowed))}")
        return value

    return check


def matching(pattern: str, what: str) -> Check:
    """A string that ``pattern`` matches as a whole."""
    compiled = re.compile(pattern)

    def check(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise Wrong(f"{what} is needed, not {_shown(value)}")
        return value

    return check


def hex_text(value: object) -> str:
    """Whole bytes in lower-case hex, left as text."""
    if not isinstance(value, str) or not _HEX.match(value):
        raise Wrong(f"whole bytes in lower-case hex are needed, not {_shown(value)}")
    return value


def hex_bytes(value: object) -> bytes:
    """Whole bytes in lower-case hex, as bytes."""
    return bytes.fromhex(hex_text(value))


def list_of(check: Check) -> Check:
    """A list whose every element passes ``check``."""

    def check_list(value: object) -> list[Any]:
        if not isinstance(value, list):
            raise Wrong(f"a list is needed, not {_shown(value)}")
        return [within(f"element {index}", check, item) for index, item in enumerate(value)]

    return check_list


def record(**elements: Check) -> Check:
    """A list of exactly these elements in this order."""

    def check_record(value: object) -> list[Any]:
        if not isinstance(value, list) or len(value) != len(elements):
            raise Wrong(f"[{', '.join(elements)}] is needed, not {_shown(value)}")
        return [within(name, elements[name], item) for name, item in zip(elements, value, strict=True)]

    return check_record


def check_fields(value: object, known: Mapping[str, Field], *, others: bool = False) -> dict[str, Any]:
    """An object with these keys as a dict of the names given for them; ``others``: pass over unknown keys."""
    if not isinstance(value, dict):
        raise Wrong(f"an object is needed, not {_shown(value)}")
    missing = [key for key, field in known.items() if field.default is REQUIRED and key not in value]
    if missing:
        raise Wrong(f"{_keys(missing)} missing")
    unknown = [key for key in value if key not in known]
    if unknown and not others:
        raise Wrong(f"{_keys(unknown)} unknown: known are {', '.join(map(repr, known))}")
    return {
        field.name: within(repr(key), field.check, value[key]) if key in value else field.default
        for key, field in known.items()
    }


def _keys(keys: list[str]) -> str:
    return f"{', '.join(map(repr, keys))} {'is' if len(keys) == 1 else 'are'}"


def _shown(value: object) -> str:
    text = f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
