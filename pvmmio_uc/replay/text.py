"""Steps and results in words, numbers in hex: for people who look for the step that went wrong."""

from __future__ import annotations

import errno
from dataclasses import fields

from .steps import (
    CloseEventFd,
    DrainRing,
    DupEventFd,
    GuestAccess,
    IoEventFdCall,
    IoEventFdCalls,
    MemoryRead,
    MemoryWrite,
    PortRead,
    PortWrite,
    RawCall,
    Result,
    SignalEventFd,
    Step,
    ZoneCall,
    ZoneCalls,
)

__all__ = ["describe_result", "describe_step"]

_KINDS: dict[type[Step], str] = {
    IoEventFdCall: "io",
    IoEventFdCalls: "many",
    ZoneCall: "cz",
    ZoneCalls: "czmany",
    DrainRing: "ring",
    CloseEventFd: "close",
    DupEventFd: "dup",
    SignalEventFd: "sig",
    RawCall: "raw",
    GuestAccess: "x",
}
_TRANSACTIONS = {MemoryWrite: "w", MemoryRead: "r", PortWrite: "o", PortRead: "i"}
_DECIMAL = frozenset({"eventfd", "source", "count"})


def describe_step(step: Step) -> str:
    """A step under the name that it has in the file, with its fields."""
    parts = [_KINDS[type(step)]]
    for field in fields(step):
        value = getattr(step, field.name)
        number = str(value) if field.name in _DECIMAL else _value(value)
        parts.append(f"{field.name}={number}")
    return " ".join(parts)


def describe_result(result: Result | None) -> str:
    """A result, empty parts left out; None is one that the level cannot foretell."""
    if result is None:
        return "not compared: this level cannot perform the step"
    parts = [f"{key}={_rc(value) if key == 'rc' else _value(value)}" for key, value in result.items()]
    kept = [part for part, value in zip(parts, result.values(), strict=True) if value not in ([], {})]
    return " ".join(kept) or "nothing"


def _rc(code: int) -> str:
    return f"-{errno.errorcode.get(-code, hex(-code))}" if code < 0 else hex(code)


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() or "-"
    if isinstance(value, bool) or not isinstance(value, (int, dict, list, tuple, Step)):
        return str(value)
    if isinstance(value, int):
        return f"{value:#x}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Step):
        return f"({describe_step(value)})"
    head = [_TRANSACTIONS[type(value)]] if type(value) in _TRANSACTIONS else []
    return "[" + " ".join([*head, *map(_value, value)]) + "]"
