"""The in-kernel devices stand on the bus among the doorbells, and the local APIC in front of it."""

from __future__ import annotations

import errno

import pytest

from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Route, Steps
from pvmmio_uc.irqchip import LAPIC_BASE
from pvmmio_uc.vm import Vm

from .doorbells import PIO, code, eventfd_fixture, fires, vm_fixture

vm = vm_fixture()
kick = eventfd_fixture()

IOAPIC = 0xFEC00000


class NoMemory:
    def read(self, gpa: int, size: int) -> bytes | None:
        return None

    def write(self, gpa: int, data: bytes) -> bool:
        return False


def store(vm: Vm, gpa: int, data: bytes) -> list[Route]:
    return [a.route for a in vm.write([(gpa, data)], NoMemory(), Steps(), lambda *exit_: b"")]


def load(vm: Vm, gpa: int, size: int) -> bytes:
    return vm.read([(gpa, size)], NoMemory(), Steps(), lambda write, address, data: data)[0]


class TestLocalApic:
    def test_it_takes_its_page_from_everybody(self, vm: Vm, kick: EventFd) -> None:
        vm.create_irqchip()
        vm.ioeventfds.assign(kick, LAPIC_BASE + 0x80, 4)
        for offset in (0, 0x80, 0x81, 0xFFC, 0xFFF):
            assert store(vm, LAPIC_BASE + offset, b"\1") == [Route.DEVICE]
        assert store(vm, LAPIC_BASE + 0x80, bytes(4)) == [Route.DEVICE]
        assert kick.wait(0) == 0

    def test_without_one_it_is_plain_mmio(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, LAPIC_BASE + 0x80, 4)
        assert store(vm, LAPIC_BASE + 0x80, bytes(4)) == [Route.IOEVENTFD]
        assert store(vm, LAPIC_BASE + 0x84, bytes(4)) == [Route.USERSPACE]

    def test_its_neighbours_are_not_its(self, vm: Vm) -> None:
        vm.create_irqchip()
        assert store(vm, LAPIC_BASE - 4, bytes(4)) == [Route.USERSPACE]
        assert store(vm, LAPIC_BASE + 0x1000, bytes(4)) == [Route.USERSPACE]

    def test_registers(self, vm: Vm) -> None:
        vm.create_irqchip()
        store(vm, LAPIC_BASE + 0x80, b"\x12\x34\x56\x78")
        store(vm, LAPIC_BASE + 0x80, b"\xff\xff")  # swallowed
        store(vm, LAPIC_BASE + 0x84, b"\xff\xff\xff\xff")  # no register begins here
        assert load(vm, LAPIC_BASE + 0x80, 4) == b"\x12\x34\x56\x78"
        assert load(vm, LAPIC_BASE + 0x82, 2) == b"\x56\x78"
        assert load(vm, LAPIC_BASE + 0x80, 8) == bytes(8)
        assert load(vm, LAPIC_BASE + 0x82, 4) == bytes(4)

    def test_the_bus_is_not_asked(self, vm: Vm) -> None:
        vm.create_irqchip()
        steps = Steps()
        vm.write([(LAPIC_BASE, bytes(4))], NoMemory(), steps, lambda *exit_: b"")
        assert steps.bus == 0


class TestIoApic:
    @pytest.mark.parametrize(
        ("offset", "length", "wins"), [(0, 4, True), (0, 0, False), (0x10, 4, False), (0, 8, True)]
    )
    def test_who_wins(self, vm: Vm, kick: EventFd, offset: int, length: int, wins: bool) -> None:
        vm.create_irqchip()
        vm.ioeventfds.assign(kick, IOAPIC + offset, length)
        assert fires(vm.mmio, IOAPIC + offset, bytes(length or 4), kick) == wins

    def test_selected_registers(self, vm: Vm) -> None:
        vm.create_irqchip()
        store(vm, IOAPIC, b"\1\0\0\0")
        assert load(vm, IOAPIC, 4) == b"\1\0\0\0"
        assert load(vm, IOAPIC + 0x10, 4) == (0x170011).to_bytes(4, "little")
        store(vm, IOAPIC + 0x10, bytes(4))
        assert load(vm, IOAPIC + 0x10, 4) == (0x170011).to_bytes(4, "little")
        store(vm, IOAPIC, b"\x12\0\0\0")
        store(vm, IOAPIC + 0x10, b"\x78\x56\x34\x12")
        assert load(vm, IOAPIC + 0x10, 4) == b"\x78\x56\x34\x12"
        assert load(vm, IOAPIC + 0x10, 8) == b"\x78\x56\x34\x12" + bytes(4)

    def test_the_rest_of_the_window_is_taken_and_ignored(self, vm: Vm) -> None:
        vm.create_irqchip()
        assert store(vm, IOAPIC + 0x14, b"\5\0\0\0") == [Route.DEVICE]
        assert load(vm, IOAPIC + 0x20, 3) == bytes(3)
        assert load(vm, IOAPIC, 4) == bytes(4)
        assert store(vm, IOAPIC + 0xFD, bytes(4)) == [Route.USERSPACE]


class TestPics:
    @pytest.mark.parametrize(
        ("port", "length", "wins"), [(0x20, 1, True), (0x20, 0, False), (0x21, 1, False)]
    )
    def test_who_wins(self, vm: Vm, kick: EventFd, port: int, length: int, wins: bool) -> None:
        vm.create_irqchip()
        vm.ioeventfds.assign(kick, port, length, PIO)
        assert fires(vm.pio, port, b"\1", kick) == wins

    @pytest.mark.parametrize("port", [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1])
    def test_their_ports_are_taken(self, vm: Vm, port: int) -> None:
        assert vm.port_write(port, b"\0", Steps()) is None
        vm.create_irqchip()
        taken = vm.port_write(port, b"\0", Steps())
        assert taken is not None
        assert taken.route is Route.DEVICE

    def test_the_mask(self, vm: Vm) -> None:
        vm.create_irqchip()
        vm.pio.write(0x21, b"\xfb")
        assert vm.pio.read(0x21, 1).data == b"\xfb"
        assert vm.pio.read(0x20, 1).data == b"\0"
        assert vm.pio.read(0xA1, 1).data == b"\0"

    @pytest.mark.parametrize(("first_word", "words"), [(0x11, 3), (0x10, 2)])
    def test_initialisation_takes_its_words(self, vm: Vm, first_word: int, words: int) -> None:
        vm.create_irqchip()
        vm.pio.write(0x21, b"\xfb")
        vm.pio.write(0x20, bytes([first_word]))
        for _ in range(words):
            vm.pio.write(0x21, b"\x55")
            assert vm.pio.read(0x21, 1).data == b"\0"
        vm.pio.write(0x21, b"\xaa")
        assert vm.pio.read(0x21, 1).data == b"\xaa"

    def test_two_bytes_are_dropped(self, vm: Vm) -> None:
        vm.create_irqchip()
        assert vm.pio.write(0x20, b"\x11\x22").device is not None
        assert vm.pio.read(0x20, 2).data == bytes(2)


class TestRoom:
    def test_with_irqchip(self, vm: Vm) -> None:
        vm.create_irqchip()
        assert (self.zones(vm, 0), self.zones(vm, 1)) == (999, 997)

    def test_with_pit(self, vm: Vm) -> None:
        vm.create_irqchip()
        vm.create_pit()
        assert (self.zones(vm, 0), self.zones(vm, 1)) == (999, 996)

    def test_no_room_for_the_irqchip(self, vm: Vm) -> None:
        for index in range(1000):
            vm.zones.register(0x1000000 + index, 1)
        assert code(vm.create_irqchip) == errno.ENOSPC
        assert vm.lapic is None
        assert len(vm.pio) == 0

    def zones(self, vm: Vm, pio: int) -> int:
        for index in range(1001):
            if code(vm.zones.register, 0x1000 + index, 1, pio):
                return index
        return -1


class TestTwice:
    def test_irqchip(self, vm: Vm) -> None:
        vm.create_irqchip()
        assert code(vm.create_irqchip) == errno.EEXIST
        assert (len(vm.mmio), len(vm.pio)) == (1, 3)

    def test_pit(self, vm: Vm) -> None:
        vm.create_irqchip()
        vm.create_pit()
        assert code(vm.create_pit) == errno.EEXIST
        assert len(vm.pio) == 4


def test_a_pit_needs_the_irqchip(vm: Vm) -> None:
    with pytest.raises(RegistrationError, match=r"create_irqchip\(\) first") as refused:
        vm.create_pit()
    assert refused.value.errno == errno.ENOENT


def test_the_timer_reads_back(vm: Vm) -> None:
    vm.create_irqchip()
    vm.create_pit()
    vm.pio.write(0x40, b"\x34")
    assert vm.pio.read(0x40, 1).data == b"\x34"
    assert vm.pio.write(0x43, b"\0\0").device is None
