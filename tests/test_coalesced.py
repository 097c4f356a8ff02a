"""Coalesced zones: what is accepted, what a zone takes, what a removal removes, and the ring."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvmmio_uc.bus import Bus
from pvmmio_uc.coalesced import CoalescedEntry, CoalescedRing, CoalescedZones
from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Route
from pvmmio_uc.vm import Vm

from .doorbells import DATAMATCH, PIO, U64, A, code, eventfd_fixture, fires, vm_fixture

vm = vm_fixture()
kick = eventfd_fixture()


def takes(bus: Bus, addr: int, size: int = 4) -> bool:
    """Whether a write goes to the ring."""
    device = bus.write(addr, bytes(size)).device
    return device is not None and device.route is Route.COALESCED


class TestRegister:
    @pytest.mark.parametrize("pio", [2, 0xFFFFFFFF, -1])
    def test_pio_field(self, vm: Vm, pio: int) -> None:
        assert code(vm.zones.register, A, 8, pio) == errno.EINVAL
        assert code(vm.zones.unregister, A, 8, pio) == errno.EINVAL

    @pytest.mark.parametrize(("addr", "size"), [(-1, 8), (U64 + 1, 8), (A, -1), (A, 1 << 32)])
    def test_numbers_that_do_not_fit_their_fields(self, vm: Vm, addr: int, size: int) -> None:
        assert code(vm.zones.register, addr, size) == errno.EINVAL
        assert code(vm.zones.unregister, addr, size) == errno.EINVAL

    def test_size_0_duplicates_and_overlaps(self, vm: Vm) -> None:
        for addr, size in [(A, 0), (A, 8), (A, 8), (A + 4, 8)]:
            assert code(vm.zones.register, addr, size) == 0
        assert len(vm.zones) == len(list(vm.zones)) == len(vm.mmio) == 4

    @pytest.mark.parametrize("pio", [0, 1])
    def test_the_1001st(self, vm: Vm, pio: int) -> None:
        for index in range(1000):
            vm.zones.register(0x1000 + index, 1, pio)
        assert code(vm.zones.register, 0x5000, 1, pio) == errno.ENOSPC
        assert len(vm.zones) == 1000
        assert code(vm.zones.register, 0x5000, 1, 1 - pio) == 0


class TestMatch:
    @pytest.mark.parametrize("addr", range(A - 2, A + 18))
    @pytest.mark.parametrize("size", range(1, 9))
    def test_a_write_wholly_inside(self, vm: Vm, addr: int, size: int) -> None:
        vm.zones.register(A, 16)
        assert takes(vm.mmio, addr, size) == (addr >= A and addr + size <= A + 16)

    def test_reads_exit(self, vm: Vm) -> None:
        vm.zones.register(A, 16)
        assert vm.mmio.read(A, 4).device is None

    def test_neighbours_do_not_join(self, vm: Vm) -> None:
        vm.zones.register(A, 8)
        vm.zones.register(A + 8, 8)
        assert not takes(vm.mmio, A + 6)
        assert takes(vm.mmio, A + 4)
        assert takes(vm.mmio, A + 8)

    def test_buses_are_apart(self, vm: Vm) -> None:
        vm.zones.register(0x50, 4, 1)
        assert takes(vm.pio, 0x50)
        assert not takes(vm.mmio, 0x50)

    def test_size_0_matches_nothing(self, vm: Vm) -> None:
        vm.zones.register(A, 0)
        assert not takes(vm.mmio, A, 1)

    @pytest.mark.parametrize(
        ("addr", "size", "expected"),
        [
            (A, 0xFFFFFFFF, False),  # a C int below 0: the entry ends in front of its start
            (A, 0x80000000, True),  # here too, but that end wraps, far above
            (0x80000000, 0x80000000, False),  # and here it does not
            (A, 0x7FFFFFFF, True),
            (U64 - 0xFFF, 0x1000, False),  # its end is 2**64, which is 0
            (U64 - 0xFFF, 0xFFF, True),
        ],
    )
    def test_huge_and_wrapping(self, vm: Vm, addr: int, size: int, expected: bool) -> None:
        vm.zones.register(addr, size)
        assert takes(vm.mmio, addr) == expected

    @pytest.mark.parametrize("size", range(1, 9))
    def test_the_entry(self, vm: Vm, size: int) -> None:
        vm.zones.register(A, 16)
        vm.zones.register(0x50, 8, 1)
        vm.mmio.write(A + 1, bytes(range(size)))
        vm.pio.write(0x50, bytes(range(size)))
        data = bytes(range(size))
        assert vm.ring.drain() == [CoalescedEntry(False, A + 1, data), CoalescedEntry(True, 0x50, data)]
        assert vm.ring.drain() == []


class TestBesideDoorbells:
    """They share the array: who comes first in it is asked first."""

    @pytest.mark.parametrize("zone_first", [False, True])
    def test_a_shorter_doorbell_at_the_start_wins(self, vm: Vm, kick: EventFd, zone_first: bool) -> None:
        self.both(vm, kick, zone_first, A, 4)
        assert fires(vm.mmio, A, bytes(4), kick) == 1
        assert len(vm.ring) == 0

    @pytest.mark.parametrize("zone_first", [False, True])
    @pytest.mark.parametrize(("offset", "length"), [(0, 8), (4, 4), (2, 1)])
    def test_else_the_first_wins(
        self, vm: Vm, kick: EventFd, zone_first: bool, offset: int, length: int
    ) -> None:
        self.both(vm, kick, zone_first, A + offset, length)
        assert fires(vm.mmio, A + offset, bytes(length), kick) == (not zone_first)
        assert len(vm.ring) == zone_first

    def test_what_does_not_match_goes_to_the_zone(self, vm: Vm, kick: EventFd) -> None:
        vm.zones.register(A, 8)
        vm.ioeventfds.assign(kick, A, 4, DATAMATCH, 7)
        assert fires(vm.mmio, A, b"\7\0\0\0", kick) == 1
        assert fires(vm.mmio, A, b"\6\0\0\0", kick) == 0
        assert fires(vm.mmio, A, b"\7\0", kick) == 0
        assert [entry.data for entry in vm.ring.drain()] == [b"\6\0\0\0", b"\7\0"]

    def test_on_the_port_bus_too(self, vm: Vm, kick: EventFd) -> None:
        vm.zones.register(0x50, 4, 1)
        vm.ioeventfds.assign(kick, 0x50, 1, PIO)
        assert fires(vm.pio, 0x50, b"\0", kick) == 1
        assert takes(vm.pio, 0x51, 1)

    def both(self, vm: Vm, kick: EventFd, zone_first: bool, addr: int, length: int) -> None:
        if zone_first:
            vm.zones.register(A, 8)
        vm.ioeventfds.assign(kick, addr, length)
        if not zone_first:
            vm.zones.register(A, 8)


class TestUnregister:
    def test_of_nothing_is_fine(self, vm: Vm) -> None:
        assert code(vm.zones.unregister, A, 8) == 0

    @pytest.mark.parametrize(
        ("addr", "size", "left"),
        [
            (A, 16, []),
            (A + 4, 4, []),
            (A + 16, 0, []),
            (A + 7, 0, []),
            (A, 17, [A]),
            (A - 1, 2, [A]),
            (A + 17, 0, [A]),
            (A + 15, 2, [A]),
            (A, 0x80000000, [A]),
        ],
    )
    def test_what_contains_the_range_goes(self, vm: Vm, addr: int, size: int, left: list[int]) -> None:
        vm.zones.register(A, 16)
        vm.zones.unregister(addr, size)
        assert [zone.addr for zone in vm.zones] == left
        assert len(vm.mmio) == len(left)

    def test_every_zone_that_contains_it(self, vm: Vm) -> None:
        for addr, size in [(A, 16), (A, 16), (A + 4, 4), (A + 8, 8), (A - 8, 0x100)]:
            vm.zones.register(addr, size)
        vm.zones.register(A, 16, 1)
        vm.zones.unregister(A + 4, 4)
        assert [(zone.addr, zone.size, zone.pio) for zone in vm.zones] == [(A + 8, 8, False), (A, 16, True)]

    def test_too_large_for_an_int_removes_not_even_itself(self, vm: Vm) -> None:
        vm.zones.register(A, 0xFFFFFFFF)
        vm.zones.unregister(A, 0xFFFFFFFF)
        assert len(vm.zones) == 1
        vm.zones.unregister(A, 0x7FFFFFFF)
        assert len(vm.zones) == 0

    def test_it_makes_room(self, vm: Vm) -> None:
        for index in range(1000):
            vm.zones.register(A + 8 * index, 8)
        vm.zones.unregister(A, 8)
        assert code(vm.zones.register, A, 8) == 0


class TestRing:
    @pytest.mark.parametrize(("page_size", "capacity"), [(4096, 169), (16384, 681), (65536, 2729)])
    def test_capacity(self, page_size: int, capacity: int) -> None:
        assert CoalescedRing(page_size).capacity == capacity
        assert Vm(page_size).ring.capacity == capacity

    def test_when_full_writes_exit_until_it_is_drained(self, vm: Vm) -> None:
        vm.zones.register(A, 0x1000)
        assert sum(takes(vm.mmio, A + index) for index in range(200)) == 169
        entries = vm.ring.drain()
        assert [entry.address for entry in entries] == list(range(A, A + 169))
        assert takes(vm.mmio, A)
        assert len(vm.ring) == 1

    def test_all_zones_share_it(self, vm: Vm) -> None:
        vm.zones.register(A, 0x100)
        vm.zones.register(0x50, 4, 1)
        for _ in range(100):
            takes(vm.mmio, A)
        assert sum(takes(vm.pio, 0x50) for _ in range(100)) == 69


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 24)), max_size=12),
    st.tuples(st.integers(0, 40), st.integers(0, 24)),
)
def test_unregister_against_a_list(zones: list[tuple[int, int]], gone: tuple[int, int]) -> None:
    mmio = Bus("MMIO")
    registered = CoalescedZones(mmio, Bus("PIO"), CoalescedRing())
    for addr, size in zones:
        registered.register(addr, size)
    registered.unregister(*gone)
    first, last = gone[0], sum(gone)
    left = [(addr, size) for addr, size in zones if not (addr <= first and last <= addr + size)]
    assert [(zone.addr, zone.size) for zone in registered] == left
    assert len(mmio) == len(left)


def test_messages_name_the_numbers(vm: Vm) -> None:
    with pytest.raises(RegistrationError, match=r"pio is 0x7: give 0 for memory or 1 for ports"):
        vm.zones.register(A, 8, 7)
    vm.zones.register(A, 8, 1)
    assert repr(next(iter(vm.zones))) == "<CoalescedZone 0x1000000+0x8, pio>"
