"""The format of tests/data/kvm/SCHEMA.md as tables: which step has which fields, and how each is checked."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import steps as s
from .checks import (
    Check,
    Field,
    Wrong,
    check_fields,
    either,
    hex_bytes,
    hex_text,
    integer,
    list_of,
    matching,
    record,
    within,
)

__all__ = ["parse_scenario"]

_BIT = integer(0, 1)
_U16 = integer(0, (1 << 16) - 1)
_U32 = integer(0, (1 << 32) - 1)
_U64 = integer(0, (1 << 64) - 1)
_SIZE = integer(1, 4096)
_PORT_SIZE = either(1, 2, 4)
_RC = integer(-4095, 0)
_TEXT = matching(r"(?s).*", "a string")
_EVENTFD = integer(0, (1 << 31) - 1)
_SPECIAL = either("null", "vm", "closed", "neg")
_COUNTS = {"at": Field("at", _U64), "rc": Field("rc", _RC)}


def _eventfd_id(value: object) -> Any:
    return _SPECIAL(value) if isinstance(value, str) else _EVENTFD(value)


def _map_of(key: Check, item: Check) -> Check:
    def check(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong(f"an object is needed, not {value!r:.60}")
        return {key(name): within(repr(name), item, held) for name, held in value.items()}

    return check


def _tagged(records: dict[str, Check]) -> Check:
    """A list whose first element says which of ``records`` the whole is."""

    def check(value: object) -> list[Any]:
        if (
            not isinstance(value, list)
            or not value
            or not isinstance(value[0], str)
            or value[0] not in records
        ):
            raise Wrong(f"a list that begins with one of {', '.join(records)} is needed, not {value!r:.60}")
        return [value[0], *records[value[0]](value[1:])]

    return check


def _same_length(checked: list[Any], size: int, data: bytes | str) -> list[Any]:
    length = len(data) if isinstance(data, bytes) else len(data) // 2
    if length != size:
        raise Wrong(f"the size is {size:#x} and there are {length:#x} bytes of data")
    return checked


def _memory_exit(value: object) -> list[Any]:
    checked = record(gpa=_U64, size=_SIZE, data=hex_text)(value)
    return _same_length(checked, checked[1], checked[2])


def _port_exit(value: object) -> list[Any]:
    checked = record(port=_U16, size=_PORT_SIZE, count=_SIZE, data=hex_text)(value)
    return _same_length(checked, checked[1] * checked[2], checked[3])


def _data_write(value: object) -> list[Any]:
    checked = record(address=_U64, size=_SIZE, data=hex_bytes)(value)
    return _same_length(checked, checked[1], checked[2])


_EVENTS = _map_of(matching(r"\d+", "an eventfd id"), integer(1, (1 << 64) - 1))
_REGISTERS = _map_of(matching(r"[a-z][a-z0-9]*", "a register"), _U64)
_EXITS = list_of(
    _tagged(
        {"W": _memory_exit, "R": _memory_exit, "O": _port_exit, "I": _port_exit, "V": record(events=_EVENTS)}
    )
)
_TRANSACTION = _tagged(
    {
        "w": _data_write,
        "r": record(gpa=_U64, size=_SIZE),
        "o": _data_write,
        "i": record(port=_U16, size=_PORT_SIZE, count=_SIZE),
    }
)


def _transactions(value: object) -> tuple[s.Transaction, ...]:
    return tuple(_as_transaction(kind, rest) for kind, *rest in list_of(_TRANSACTION)(value))


def _as_transaction(kind: str, rest: list[Any]) -> s.Transaction:
    if kind == "w":
        return s.MemoryWrite(rest[0], rest[2])
    if kind == "r":
        return s.MemoryRead(*rest)
    if kind == "o":
        return s.PortWrite(_U16(rest[0]), bytes(rest[2]))
    return s.PortRead(*rest)


class _Kind(NamedTuple):
    """One kind of step: its class, its fields, the fields of its result."""

    step: type[s.Step]
    fields: dict[str, Field]
    result: dict[str, Field]


_RESULT_RC = {"rc": Field("rc", _RC)}
_CALL = {
    "a": Field("addr", _U64),
    "l": Field("length", _U32),
    "f": Field("flags", _U32),
    "d": Field("datamatch", _U64, 0),
    "e": Field("eventfd", _eventfd_id),
}
_REPEATED = {"a": Field("addr", _U64), "n": Field("count", _U32), "st": Field("stride", _U64)}
_RAM = list_of(record(gpa=_U64, data=hex_text))

_KINDS = {
    "io": _Kind(s.IoEventFdCall, _CALL, _RESULT_RC),
    "many": _Kind(
        s.IoEventFdCalls, {**_CALL, **_REPEATED, "ds": Field("datamatch_stride", _U64, 0)}, _COUNTS
    ),
    "cz": _Kind(
        s.ZoneCall,
        {
            "a": Field("addr", _U64),
            "n": Field("size", _U32),
            "p": Field("pio", _U32, 0),
            "u": Field("unregister", _BIT, 0),
        },
        _RESULT_RC,
    ),
    "czmany": _Kind(
        s.ZoneCalls, {**_REPEATED, "l": Field("size", _U32), "p": Field("pio", _U32, 0)}, _COUNTS
    ),
    "ring": _Kind(
        s.DrainRing,
        {},
        {"ring": Field("ring", list_of(record(pio=_BIT, addr=_U64, size=_U32, data=hex_text)))},
    ),
    "close": _Kind(s.CloseEventFd, {"e": Field("eventfd", _EVENTFD)}, _RESULT_RC),
    "dup": _Kind(
        s.DupEventFd, {"e": Field("eventfd", _EVENTFD), "of": Field("source", _EVENTFD)}, _RESULT_RC
    ),
    "sig": _Kind(s.SignalEventFd, {"e": Field("eventfd", _EVENTFD), "v": Field("value", _U64)}, _RESULT_RC),
    "x": _Kind(
        s.GuestAccess,
        {
            "k": Field("label", _TEXT),
            "c": Field("code", hex_bytes),
            "r": Field("registers", _REGISTERS),
            "tx": Field("transactions", _transactions, None),
        },
        {
            "end": Field("end", matching(r"hlt|hang|exc\d+|internal\d+", "hlt, hang, exc<v> or internal<n>")),
            "ex": Field("ex", _EXITS, []),
            "ev": Field("ev", _EVENTS, {}),
            "rg": Field("rg", _REGISTERS, {}),
            "ram": Field("ram", _RAM, []),
        },
    ),
}
_RAW = {"on": Field("on", either("vm", "vcpu", "kvm")), "req": Field("request", _U64)}


def _kind_and_step(value: object) -> tuple[str, s.Step]:
    if not isinstance(value, dict):
        raise Wrong(f"an object is needed, not {value!r:.60}")
    if "o" not in value:
        raise Wrong("'o' is missing")
    kind = value["o"]
    if not isinstance(kind, str) or (kind != "raw" and kind not in _KINDS):
        raise Wrong(f"unknown kind {kind!r:.60}: known are {', '.join(_KINDS)}, raw")
    fields = {key: item for key, item in value.items() if key != "o"}
    return kind, within(kind, _raw if kind == "raw" else _step_of(_KINDS[kind]), fields)


def _step_of(kind: _Kind) -> Check:
    return lambda fields: kind.step(**check_fields(fields, kind.fields))


def _raw(fields: object) -> s.RawCall:
    null = isinstance(fields, dict) and "ptr" in fields
    known = {**_RAW, "ptr": Field("ptr", either("null"))} if null else {**_RAW, **_CALL}
    checked = check_fields(fields, known)
    on, request = checked.pop("on"), checked.pop("request")
    return s.RawCall(on, request, None if null else s.IoEventFdCall(**checked))


def _result(kind: str) -> Check:
    fields = _RESULT_RC if kind == "raw" else _KINDS[kind].result
    return lambda value: check_fields(value, fields)


def parse_scenario(value: object) -> s.Scenario:
    """The scenario in one decoded line; raises `Wrong` that says where and what."""
    top = check_fields(
        value,
        {
            "id": Field("id", matching(r".+", "a string that is not empty")),
            "steps": Field("steps", list_of(_kind_and_step)),
            "out": Field("out", list_of(lambda result: result)),
            "vm": Field("vm", _vm, s.VmOptions()),
        },
        others=True,
    )
    steps, out = top["steps"], top["out"]
    if len(steps) != len(out):
        raise Wrong(f"there are {len(steps)} steps and {len(out)} results in 'out': one result for each step")
    recorded = [
        within(f"'out': element {i}: {kind}", _result(kind), result)
        for i, ((kind, _), result) in enumerate(zip(steps, out, strict=True))
    ]
    return s.Scenario(top["id"], top["vm"], tuple(step for _, step in steps), tuple(recorded))


def _vm(value: object) -> s.VmOptions:
    flags = {name: Field(name, either(True, False), False) for name in s.VmOptions._fields}
    return s.VmOptions(**check_fields(value, flags))
