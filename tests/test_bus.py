"""The bus: the kernel's order and search, whatever is registered and however often it changes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvmmio_uc.bus import NR_IOBUS_DEVS, Bus
from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.exits import Route

from .bus_model import U64, BusModel

Takes = Callable[[int, bytes], bool]


class Probe:
    """Notes what it is offered, takes what ``takes`` says, and reads as the first letter of its name."""

    route = Route.DEVICE

    def __init__(self, name: str, takes: Takes, log: list[str]) -> None:
        self.name, self.takes, self.log = name, takes, log

    def write(self, addr: int, data: bytes) -> bool:
        taken = self.takes(addr, data)
        self.log.append(self.name if taken else f"({self.name})")
        return taken

    def read(self, addr: int, size: int) -> bytes | None:
        return self.name[:1].encode() * size if self.write(addr, bytes(size)) else None

    def __repr__(self) -> str:
        return self.name


def wild(addr: int, length: int) -> Takes:
    return lambda at, data: at == addr and len(data) == length


def matching(addr: int, length: int, value: int) -> Takes:
    return lambda at, data: at == addr and data == value.to_bytes(length, "little")


def any_length(addr: int) -> Takes:
    return lambda at, data: at == addr


def always(at: int, data: bytes) -> bool:
    return True


def never(at: int, data: bytes) -> bool:
    return False


class Vector(NamedTuple):
    """Devices in their order of registration, the array they make, and who is offered what.

    Of an access it is the names in the order in which they are asked, in brackets those that decline.
    """

    devices: list[tuple[str, int, int, Takes]]
    array: str
    accesses: list[tuple[int, bytes, str]]


A = 0x1000
Z = ("zone", A, 0x1000, always)


def _e(name: str, addr: int, length: int = 4) -> tuple[str, int, int, Takes]:
    return name, addr, length, wild(addr, length)


def _value(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


VECTORS = {
    "four widths": Vector(
        [_e("w8", A, 8), _e("w4", A, 4), _e("w2", A, 2), _e("w1", A, 1)],
        "w1 w2 w4 w8",
        [
            (A, bytes(1), "w1"),
            (A, bytes(2), "w2"),
            (A, bytes(4), "w4"),
            (A, bytes(8), "w8"),
            (A, bytes(3), "(w4) (w8)"),
            (A + 2, bytes(2), "(w4) (w8)"),
        ],
    ),
    "two datamatches": Vector(
        [("FA", A, 4, matching(A, 4, 0xFA)), ("CE", A, 4, matching(A, 4, 0xCE))],
        "FA CE",
        [
            (A, _value(0xFA, 4), "FA"),
            (A, _value(0xCE, 4), "(FA) CE"),
            (A, _value(1, 4), "(FA) (CE)"),
            (A, _value(0xFA, 1), "(FA) (CE)"),
            (A, _value(0xFA, 8), ""),
        ],
    ),
    "any length": Vector(
        [("len0", A, 0, any_length(A))],
        "len0",
        [
            *((A, bytes(size), "len0") for size in (1, 2, 4, 8)),
            (A + 1, bytes(1), ""),
            (A - 4, bytes(8), ""),
        ],
    ),
    "by address alone": Vector(
        [("a", A, 0, any_length(A)), ("b", A + 4, 0, any_length(A + 4))],
        "a b",
        [(A, b"", "a"), (A + 4, b"", "b"), (A + 2, b"", ""), (A + 5, b"", ""), (A - 1, b"", "")],
    ),
    "a zone and then a doorbell in it": Vector(
        [Z, _e("e", A + 4)], "zone e", [(A + 4, bytes(4), "zone"), (A + 0x800, bytes(4), "")]
    ),
    "a doorbell and then a zone around it": Vector(
        [_e("e", A + 4), Z],
        "e zone",
        [(A + 4, bytes(4), "e"), (A + 4, bytes(2), "(e) zone"), (A + 0x800, bytes(4), "zone")],
    ),
    "a zone and three doorbells": Vector(
        [Z, _e("e004", A + 4), _e("e200", A + 0x200), _e("e300", A + 0x300)],
        "zone e004 e200 e300",
        [
            (A + 0x100, bytes(4), ""),
            (A + 0x250, bytes(4), ""),
            (A + 0x400, bytes(4), ""),
            (A + 0x200, bytes(4), "e200"),
            (A + 4, bytes(4), "zone"),
        ],
    ),
    "a zone, a doorbell at its start": Vector(
        [Z, _e("e", A)], "e zone", [(A, bytes(4), "e"), (A, bytes(2), "(e) zone")]
    ),
    "a doorbell, a zone that starts there": Vector(
        [_e("e", A), Z], "e zone", [(A, bytes(4), "e"), (A, bytes(2), "(e) zone")]
    ),
    "two registers, one wide write": Vector([_e("a", A), _e("b", A + 4)], "a b", [(A, bytes(8), "")]),
    "len 0 and then four bytes": Vector(
        [("len0", A, 0, any_length(A)), ("z4", A, 4, always)],
        "len0 z4",
        [(A, bytes(8), ""), (A, bytes(4), "len0"), (A, bytes(1), "len0")],
    ),
    "four bytes and then len 0": Vector(
        [("z4", A, 4, always), ("len0", A, 0, any_length(A))],
        "z4 len0",
        [(A, bytes(8), "len0"), (A, bytes(4), "z4"), (A, bytes(1), "z4")],
    ),
    "order-lost-3": Vector(
        [_e("w1", A + 4, 1), _e("w2", A + 2, 2), _e("w8", A, 8)],
        "w2 w1 w8",
        [(A, bytes(8), ""), (A + 2, bytes(2), "w2"), (A + 4, bytes(1), "w1")],
    ),
    "order-lost-5": Vector(
        [_e("w1", A + 4, 1), _e("w2", A + 2, 2), _e("w8", A, 8), _e("p", A + 0x10), _e("q", A + 0x20)],
        "w2 w1 w8 p q",
        [(A, bytes(8), "w8"), (A + 2, bytes(2), "(w8)"), (A + 4, bytes(1), "w1")],
    ),
}


def build(vector: Vector) -> tuple[Bus, list[str]]:
    bus, log = Bus("MMIO"), []
    for name, addr, length, takes in vector.devices:
        bus.register(addr, length, Probe(name, takes, log))
    return bus, log


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_array_order(vector: Vector) -> None:
    bus, _ = build(vector)
    assert " ".join(map(repr, bus)) == vector.array


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_who_is_offered_a_write(vector: Vector) -> None:
    bus, log = build(vector)
    for addr, data, tried in vector.accesses:
        log.clear()
        verdict = bus.write(addr, data)
        assert " ".join(log) == tried, (hex(addr), data)
        assert (verdict.device is not None) == bool(log and log[-1][0] != "(")


def test_reads_go_the_same_way() -> None:
    bus, log = build(VECTORS["a doorbell and then a zone around it"])
    verdict = bus.read(A + 4, 2)
    assert (log, verdict.data, repr(verdict.device)) == (["(e)", "zone"], b"zz", "zone")
    assert bus.read(A - 8, 2) == (None, b"", 2)


def test_removing_the_neighbour_brings_a_lost_entry_back() -> None:
    bus, log = build(VECTORS["order-lost-3"])
    small = next(device for device in bus if repr(device) == "w1")
    bus.unregister(A + 4, 1, small)
    assert repr(bus.write(A, bytes(8)).device) == "w8"
    assert log == ["w8"]


def test_an_empty_bus_finds_nothing() -> None:
    assert Bus("MMIO").write(0, b"\0") == (None, b"", 0)


class TestLimit:
    def full(self) -> Bus:
        bus = Bus("MMIO")
        for index in range(NR_IOBUS_DEVS):
            bus.register(index * 8, 8, Probe(str(index), never, []))
        return bus

    @pytest.mark.parametrize("ioeventfd", [False, True])
    def test_the_1001st_device(self, ioeventfd: bool) -> None:
        bus = self.full()
        with pytest.raises(RegistrationError, match="1000") as refused:
            bus.register(0x10000, 8, Probe("more", never, []), ioeventfd=ioeventfd)
        assert refused.value.errno == errno.ENOSPC
        assert len(bus) == NR_IOBUS_DEVS

    def test_ioeventfds_do_not_count(self) -> None:
        bus = Bus("MMIO")
        for index in range(1500):
            bus.register(index, 0, Probe(str(index), never, []), ioeventfd=True)
        bus.register(0x10000, 8, Probe("zone", never, []))
        assert len(bus) == 1501

    def test_a_removed_device_makes_room(self) -> None:
        bus = self.full()
        bus.unregister(8, 8, list(bus)[1])
        bus.register(0x10000, 8, Probe("more", never, []))

    def test_a_removed_ioeventfd_makes_none(self) -> None:
        bus = Bus("MMIO")
        doorbell = Probe("doorbell", never, [])
        bus.register(0x10000, 4, doorbell, ioeventfd=True)
        for index in range(NR_IOBUS_DEVS):
            bus.register(index * 8, 8, Probe(str(index), never, []))
        bus.unregister(0x10000, 4, doorbell, ioeventfd=True)
        with pytest.raises(RegistrationError):
            bus.register(0x10000, 4, doorbell, ioeventfd=True)


def test_unregistering_a_stranger_says_so() -> None:
    bus, _ = build(VECTORS["four widths"])
    with pytest.raises(RegistrationError, match="MMIO bus at 0x1000") as refused:
        bus.unregister(A, 8, Probe("stranger", never, []))
    assert refused.value.errno == errno.ENOENT
    assert len(bus) == 4


EDGES = st.sampled_from([0, 1, 2, 4, 8, 0xFFF, 0x1000, U64 - 8, U64 - 1, U64, 1 << 63, 0xFFFFFFFF80000000])
ADDRESSES = st.one_of(st.integers(0, 24), EDGES)
LENGTHS = st.sampled_from([0, 0, 1, 2, 4, 4, 8, 8, 16, 32, 0x1000, -1, -8, (1 << 31) - 1, -(1 << 31)])
REGISTER = st.tuples(ADDRESSES, LENGTHS)
REMOVE = st.integers(0, 30)
KEYS = st.tuples(ADDRESSES, st.integers(0, 8))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(REGISTER, REGISTER, REGISTER, REMOVE), max_size=40), st.lists(KEYS, max_size=12))
def test_it_is_the_kernels_array_and_search(
    changes: list[tuple[int, int] | int], keys: list[tuple[int, int]]
) -> None:
    bus, model = Bus("MMIO"), BusModel()
    present: list[tuple[int, int, Probe]] = []
    for number, change in enumerate(changes):
        if isinstance(change, tuple):
            probe = Probe(str(number), never, [])
            bus.register(*change, probe, ioeventfd=bool(number % 2))
            model.register(*change, probe)
            present.append((*change, probe))
        elif present:
            addr, length, probe = present.pop(change % len(present))
            bus.unregister(addr, length, probe, ioeventfd=bool(int(probe.name) % 2))
            model.unregister(probe)
        assert list(bus) == [entry.name for entry in model.ranges]
        for addr, size in keys:
            names, comparisons = model.offered(addr, size)
            found = bus.find(addr, size)
            assert (list(found.devices), list(found.comparisons)) == (names, comparisons)


@settings(max_examples=50, deadline=None)
@given(st.lists(REGISTER, min_size=1, max_size=20), KEYS, st.integers(0, 20))
def test_comparisons_until_somebody_takes_it(
    ranges: list[tuple[int, int]], key: tuple[int, int], taker: int
) -> None:
    bus, model = Bus("MMIO"), BusModel()
    for number, (addr, length) in enumerate(ranges):
        probe = Probe(str(number), always if number == taker else never, [])
        bus.register(addr, length, probe)
        model.register(addr, length, probe)
    names, comparisons = model.offered(*key)
    taken = next(
        (at for at, probe in enumerate(names) if isinstance(probe, Probe) and probe.takes is always), -1
    )
    verdict = bus.write(key[0], bytes(key[1]))
    assert verdict.comparisons == comparisons[taken]
    assert verdict.device is (names[taken] if taken >= 0 else None)


def test_what_is_remembered_stays_bounded() -> None:
    bus, _ = build(VECTORS["four widths"])
    for addr in range(10_000):
        bus.find(addr, 1)
    assert len(bus._remembered) <= 4096
