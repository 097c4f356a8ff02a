"""One access on its way: split at pages, 8 bytes at a time, memory and bus before user space."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvmmio_uc.device import DeviceRegion
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Access, Route, Steps
from pvmmio_uc.vm import Vm, split_pages

from .doorbells import DATAMATCH, PIO, A, eventfd_fixture, vm_fixture

vm = vm_fixture()
kick = eventfd_fixture()
other = eventfd_fixture()

P = A + 0x1000  # a page boundary


class Slots:
    """RAM below ``ram``, and a read-only page at ``rom``."""

    def __init__(self, log: list[object], ram: int = 0, rom: int | None = None) -> None:
        self.log, self.ram, self.rom = log, bytearray(ram), rom

    def read(self, gpa: int, size: int) -> bytes | None:
        if gpa + size <= len(self.ram):
            return bytes(self.ram[gpa : gpa + size])
        if self.rom is not None and self.rom <= gpa and gpa + size <= self.rom + 0x1000:
            return b"\xa5" * size
        return None

    def write(self, gpa: int, data: bytes) -> bool:
        if gpa + len(data) > len(self.ram):
            return False
        self.log.append(("memory", gpa, data))
        self.ram[gpa : gpa + len(data)] = data
        return True


class Guest:
    """Sends accesses into a VM; ``log`` is everything that happened, in order."""

    def __init__(self, vm: Vm, *eventfds: EventFd, ram: int = 0, rom: int | None = None) -> None:
        self.vm, self.eventfds, self.steps = vm, eventfds, Steps()
        self.log: list[object] = []
        self.slots = Slots(self.log, ram, rom)

    def userspace(self, write: bool, address: int, data: bytes) -> bytes:
        for number, eventfd in enumerate(self.eventfds):
            if eventfd.wait(0):
                self.log.append(f"kick {number}")
        self.log.append(("W" if write else "R", address, len(data)))
        return data if write else bytes((address + index) & 255 for index in range(len(data)))

    def store(self, gpa: int, data: bytes) -> list[Access]:
        pieces = [(at, data[at - gpa : at - gpa + size]) for at, size in split_pages(gpa, len(data))]
        return self.vm.write(pieces, self.slots, self.steps, self.userspace)

    def load(self, gpa: int, size: int) -> bytes:
        return self.vm.read(split_pages(gpa, size), self.slots, self.steps, self.userspace)[0]


class TestSplitting:
    @pytest.mark.parametrize(
        ("address", "size", "pieces"),
        [
            (A, 0, []),
            (A, 8, [(A, 8)]),
            (A + 3, 8, [(A + 3, 8)]),
            (P - 8, 8, [(P - 8, 8)]),
            (P - 1, 4, [(P - 1, 1), (P, 3)]),
            (P - 7, 8, [(P - 7, 7), (P, 1)]),
            (P - 8, 16, [(P - 8, 8), (P, 8)]),
            (P - 1, 0x1002, [(P - 1, 1), (P, 0x1000), (P + 0x1000, 1)]),
        ],
    )
    def test_at_pages(self, address: int, size: int, pieces: list[tuple[int, int]]) -> None:
        assert split_pages(address, size) == pieces

    @given(st.integers(0, 1 << 48), st.integers(0, 0x3000))
    def test_pieces_join_and_stay_in_their_page(self, address: int, size: int) -> None:
        at = address
        for start, length in split_pages(address, size):
            assert start == at
            assert length > 0
            assert start >> 12 == (start + length - 1) >> 12
            at += length
        assert at == address + size


class TestWrites:
    def test_one_piece_stays_whole(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, A + 3, 8)
        assert [a.route for a in Guest(vm).store(A + 3, bytes(8))] == [Route.IOEVENTFD]

    def test_a_doorbell_across_the_boundary_sees_nothing(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, P - 4, 8)
        guest = Guest(vm)
        guest.store(P - 4, bytes(8))
        assert guest.log == [("W", P - 4, 4), ("W", P, 4)]

    def test_halves_at_the_boundary_both_fire(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, P - 4, 4)
        vm.ioeventfds.assign(kick, P, 4)
        guest = Guest(vm)
        accesses = guest.store(P - 4, bytes(range(8)))
        assert accesses == [
            Access(True, P - 4, 4, b"\0\1\2\3", Route.IOEVENTFD),
            Access(True, P, 4, b"\4\5\6\7", Route.IOEVENTFD),
        ]
        assert (guest.log, kick.wait(0)) == ([], 2)

    @pytest.mark.parametrize("first", range(1, 8))
    def test_any_length_takes_any_piece(self, vm: Vm, kick: EventFd, first: int) -> None:
        vm.ioeventfds.assign(kick, P - first, 0)
        vm.ioeventfds.assign(kick, P, 0)
        Guest(vm).store(P - first, bytes(8))
        assert kick.wait(0) == 2

    def test_the_second_piece_fires_before_the_first_exit(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, P, 4)
        guest = Guest(vm, kick)
        accesses = guest.store(P - 4, bytes(8))
        assert guest.log == ["kick 0", ("W", P - 4, 4)]
        assert [(a.address, a.route) for a in accesses] == [(P, Route.IOEVENTFD), (P - 4, Route.USERSPACE)]

    def test_memory_and_bus_come_before_user_space(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, 0x2000, 4)
        guest = Guest(vm, kick, ram=0x1000)
        pieces = [(0x3000, bytes(4)), (0xFFC, b"\1\2\3\4"), (0x2000, bytes(4))]
        vm.write(pieces, guest.slots, guest.steps, guest.userspace)
        assert guest.log == [("memory", 0xFFC, b"\1\2\3\4"), "kick 0", ("W", 0x3000, 4)]

    def test_a_piece_in_memory_is_stored(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, 0x1000, 4)
        vm.ioeventfds.assign(kick, 0xFFC, 4)
        guest = Guest(vm, kick, ram=0x1000)
        accesses = guest.store(0xFFC, bytes(range(8)))
        assert [a.route for a in accesses] == [Route.MEMORY, Route.IOEVENTFD]
        assert guest.slots.ram[0xFFC:] == bytes(range(4))
        assert kick.wait(0) == 1

    def test_a_doorbell_on_memory_never_fires(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, 0x100, 0)
        guest = Guest(vm, ram=0x1000)
        guest.store(0x100, bytes(4))
        assert guest.steps.bus == 0
        assert kick.wait(0) == 0

    def test_writes_to_read_only_memory_go_to_the_bus(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, A, 4)
        guest = Guest(vm, rom=A)
        assert [a.route for a in guest.store(A, bytes(4))] == [Route.IOEVENTFD]
        assert [a.route for a in guest.store(A + 8, bytes(4))] == [Route.USERSPACE]
        assert guest.load(A, 4) == b"\xa5" * 4


class TestWidePieces:
    """More than 8 bytes: from the front, and the first refusal ends it."""

    @pytest.mark.parametrize(
        ("doorbells", "log", "left"),
        [
            ([A, A + 8], [], 2),
            ([A], ["kick 0", ("W", A + 8, 8)], 0),
            ([A + 8], [("W", A, 8), ("W", A + 8, 8)], 0),
            ([], [("W", A, 8), ("W", A + 8, 8)], 0),
        ],
        ids=["both", "low", "high", "neither"],
    )
    def test_16_bytes(
        self, vm: Vm, kick: EventFd, doorbells: list[int], log: list[object], left: int
    ) -> None:
        for addr in doorbells:
            vm.ioeventfds.assign(kick, addr, 8)
        guest = Guest(vm, kick)
        guest.store(A, bytes(16))
        assert (guest.log, kick.wait(0)) == (log, left)

    def test_each_page_starts_afresh(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, P, 8)
        guest = Guest(vm, kick)
        guest.store(P - 8, bytes(16))
        assert guest.log == ["kick 0", ("W", P - 8, 8)]

    def test_any_length_takes_the_first_8_bytes(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, A, 0)
        guest = Guest(vm, kick)
        guest.store(A, bytes(16))
        assert guest.log == ["kick 0", ("W", A + 8, 8)]

    def test_an_odd_rest(self, vm: Vm) -> None:
        guest = Guest(vm)
        guest.store(A, bytes(11))
        assert guest.log == [("W", A, 8), ("W", A + 8, 3)]

    def test_two_ring_entries(self, vm: Vm) -> None:
        vm.zones.register(A, 32)
        Guest(vm).store(A, bytes(range(16)))
        assert [(e.address, e.data) for e in vm.ring.drain()] == [
            (A, bytes(range(8))),
            (A + 8, bytes(range(8, 16))),
        ]


class Ramp:
    """Reads as its offset, every byte."""

    def mmio_read(self, offset: int, size: int) -> int:
        return int.from_bytes(bytes([offset & 255] * size), "little")

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Takes everything."""


class TestReads:
    @pytest.mark.parametrize(
        ("gpa", "size", "exits"),
        [
            (A, 4, [("R", A, 4)]),
            (A, 16, [("R", A, 8), ("R", A + 8, 8)]),
            (P - 3, 8, [("R", P - 3, 3), ("R", P, 5)]),
        ],
    )
    def test_user_space_answers(self, vm: Vm, gpa: int, size: int, exits: list[object]) -> None:
        guest = Guest(vm)
        assert guest.load(gpa, size) == bytes((gpa + index) & 255 for index in range(size))
        assert guest.log == exits

    def test_doorbells_and_zones_do_not_read(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, A, 0)
        vm.zones.register(A, 8)
        guest = Guest(vm, kick)
        guest.load(A, 4)
        assert guest.log == [("R", A, 4)]

    def test_the_bytes_come_in_the_order_of_the_pieces(self, vm: Vm) -> None:
        region = DeviceRegion(vm.mmio, Ramp(), P, 8, lambda: "little")
        vm.mmio.register(P, 8, region)
        guest = Guest(vm)
        data, accesses = vm.read(split_pages(P - 2, 4), guest.slots, guest.steps, guest.userspace)
        assert data == bytes([(P - 2) & 255, (P - 1) & 255, 0, 0])
        assert [(a.address, a.route) for a in accesses] == [(P - 2, Route.USERSPACE), (P, Route.DEVICE)]

    def test_a_device_takes_the_first_chunk(self, vm: Vm) -> None:
        vm.mmio.register(A, 8, DeviceRegion(vm.mmio, Ramp(), A, 8, lambda: "little"))
        guest = Guest(vm)
        assert guest.load(A, 16) == bytes(8) + bytes(range(8, 16))
        assert guest.log == [("R", A + 8, 8)]

    def test_memory_and_mmio(self, vm: Vm) -> None:
        guest = Guest(vm, ram=0x1000)
        guest.slots.ram[0xFFE:] = b"\x11\x22"
        assert guest.load(0xFFE, 4) == b"\x11\x22\x00\x01"


class TestPorts:
    def test_a_doorbell(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, 0x50, 1, PIO)
        steps = Steps()
        assert vm.port_write(0x50, b"\7", steps) == Access(True, 0x50, 1, b"\7", Route.IOEVENTFD)
        assert vm.port_write(0x4F, b"\7\7", steps) is None
        assert vm.port_read(0x50, 1, steps) is None
        assert (steps.signals, kick.wait(0)) == (1, 1)

    def test_a_device(self, vm: Vm) -> None:
        vm.pio.register(0x60, 8, DeviceRegion(vm.pio, Ramp(), 0x60, 8, lambda: "little"))
        assert vm.port_read(0x62, 2, Steps()) == Access(False, 0x62, 2, b"\2\2", Route.DEVICE)


class TestFastBus:
    def test_the_address_alone(self, vm: Vm, kick: EventFd, other: EventFd) -> None:
        vm.ioeventfds.assign(kick, A, 0)
        vm.ioeventfds.assign(other, A + 8, 4)
        steps = Steps()
        assert vm.fast_write(A, steps)
        assert not vm.fast_write(A + 1, steps)
        assert not vm.fast_write(A + 8, steps)
        assert (kick.wait(0), other.wait(0), steps.signals) == (1, 0, 1)

    def test_the_ordinary_bus_has_it_too(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, A, 0)
        assert [a.route for a in Guest(vm).store(A, bytes(2))] == [Route.IOEVENTFD]


class TestSteps:
    def test_comparisons_and_signals_are_counted(self, vm: Vm, kick: EventFd) -> None:
        for value in range(3):
            vm.ioeventfds.assign(kick, A, 4, DATAMATCH, value)
        guest = Guest(vm)
        guest.store(A, (2).to_bytes(4, "little"))
        # the middle one is found, the one before it is the same, then all three are offered it
        assert (guest.steps.bus, guest.steps.signals) == (1 + 1 + 3, 1)

    def test_user_space_is_counted_by_who_goes_there(self, vm: Vm) -> None:
        guest = Guest(vm)
        guest.store(A, bytes(4))
        assert guest.steps == Steps()


def test_close_gives_the_eventfds_back(vm: Vm, kick: EventFd) -> None:
    vm.ioeventfds.assign(kick, A, 0)
    vm.close()
    assert not vm.fast_write(A, Steps())
    assert vm.mmio.write(A, bytes(4)).device is None
