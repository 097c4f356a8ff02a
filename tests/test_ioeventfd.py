"""KVM_IOEVENTFD: what is refused and with which errno, the limit, and what fires."""

from __future__ import annotations

import errno
import itertools
import os

import pytest

from pvmmio_uc.bus import NR_IOBUS_DEVS
from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Route
from pvmmio_uc.vm import Vm

from .doorbells import CCW, DATAMATCH, FAST, NEVER_OPEN, PIO, U64, A, code, eventfd_fixture, fires, vm_fixture

vm = vm_fixture()
kick = eventfd_fixture()
other = eventfd_fixture()


# 1. assign: the result, in this order


@pytest.mark.parametrize("flags", [0, PIO, CCW])
@pytest.mark.parametrize("length", [0, 1, 2, 4, 8])
def test_lengths(vm: Vm, kick: EventFd, length: int, flags: int) -> None:
    assert code(vm.ioeventfds.assign, kick, A, length, flags) == 0
    assert len(vm.ioeventfds) == 1


@pytest.mark.parametrize("length", [3, 5, 6, 7, 9, 16, 32, 1 << 31, (1 << 32) - 1, -1])
def test_other_lengths(vm: Vm, kick: EventFd, length: int) -> None:
    with pytest.raises(RegistrationError, match="give 1, 2, 4, 8, or 0") as refused:
        vm.ioeventfds.assign(kick, A, length)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("addr", "length", "expected"),
    [
        (U64 - 7, 8, errno.EINVAL),
        (U64 - 8, 8, 0),
        (U64 - 3, 4, errno.EINVAL),
        (U64 - 4, 4, 0),
        (U64, 1, errno.EINVAL),
        (U64, 0, 0),
        (U64 + 1, 0, errno.EINVAL),
        (-1, 4, errno.EINVAL),
    ],
)
def test_wrapping(vm: Vm, kick: EventFd, addr: int, length: int, expected: int) -> None:
    assert code(vm.ioeventfds.assign, kick, addr, length) == expected


@pytest.mark.parametrize("bit", range(32))
def test_flag_bits(vm: Vm, kick: EventFd, bit: int) -> None:
    expected = 0 if bit <= 4 else errno.EINVAL
    assert code(vm.ioeventfds.assign, kick, A, 4, 1 << bit) == expected


@pytest.mark.parametrize("flags", [DATAMATCH, DATAMATCH | PIO, DATAMATCH | CCW])
@pytest.mark.parametrize("datamatch", [0, 1, U64])
def test_any_length_with_datamatch(vm: Vm, kick: EventFd, flags: int, datamatch: int) -> None:
    assert code(vm.ioeventfds.assign, kick, A, 0, flags, datamatch) == errno.EINVAL


def test_descriptors(vm: Vm, kick: EventFd) -> None:
    assert code(vm.ioeventfds.assign, NEVER_OPEN, A, 4) == errno.EBADF
    assert code(vm.ioeventfds.assign, -1, A, 4) == errno.EBADF
    null = os.open(os.devnull, os.O_RDWR)
    try:
        assert code(vm.ioeventfds.assign, null, A, 4) == errno.EINVAL
    finally:
        os.close(null)
    kick.close()
    assert code(vm.ioeventfds.assign, kick, A, 4) == errno.EBADF
    assert len(vm.ioeventfds) == 0


@pytest.mark.parametrize("mode", [{}, {"semaphore": True}, {"blocking": False}])
def test_every_mode_of_eventfd(vm: Vm, mode: dict[str, bool]) -> None:
    with EventFd(**mode) as eventfd:
        vm.ioeventfds.assign(eventfd, A, 4)
        vm.mmio.write(A, bytes(4))
        assert eventfd.read() == 1


# Each in the order of the kernel; of two that are wrong together the earlier answers.
WRONG: dict[str, tuple[dict[str, int], int]] = {
    "length": ({"length": 3}, errno.EINVAL),
    "wrap": ({"addr": U64 - 1}, errno.EINVAL),
    "flag": ({"flags": 0x20}, errno.EINVAL),
    "any with datamatch": ({"length": 0, "flags": DATAMATCH}, errno.EINVAL),
    "descriptor": ({"source": NEVER_OPEN}, errno.EBADF),
    "collision": ({"addr": A}, errno.EEXIST),
    "full": ({}, errno.ENOSPC),
}


def full_vm(kick: EventFd) -> Vm:
    vm = Vm()
    vm.ioeventfds.assign(kick, A, 4)
    for index in range(NR_IOBUS_DEVS):
        vm.zones.register(0x2000000 + index * 8, 8)
    return vm


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(WRONG, 2)))
def test_the_earlier_check_answers(kick: EventFd, first: str, second: str) -> None:
    arguments: dict[str, int | EventFd] = {"source": kick, "addr": 0x3000000, "length": 4, "flags": 0}
    for name in (second, first):
        arguments.update(WRONG[name][0])
    vm = full_vm(kick)
    with pytest.raises(RegistrationError) as refused:
        vm.ioeventfds.assign(**arguments)  # type: ignore[arg-type]
    assert refused.value.errno == WRONG[first][1]
    assert len(vm.ioeventfds) == 1
    vm.close()


def test_a_refused_registration_keeps_nothing(vm: Vm, kick: EventFd) -> None:
    vm.ioeventfds.assign(kick, A, 0)
    before = len(vm.mmio), len(vm.fast), len(vm.ioeventfds)
    assert code(vm.ioeventfds.assign, kick, A, 4) == errno.EEXIST
    assert (len(vm.mmio), len(vm.fast), len(vm.ioeventfds)) == before


class TestFlags:
    def test_fast_means_nothing(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, A, 4, FAST)
        assert code(vm.ioeventfds.assign, kick, A, 4) == errno.EEXIST
        assert fires(vm.mmio, A, bytes(4), kick) == 1
        assert len(vm.fast) == 0
        assert code(vm.ioeventfds.deassign, kick, A, 4) == 0

    def test_ccw_is_reached_by_nobody(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, A, 4, CCW)
        assert fires(vm.mmio, A, bytes(4), kick) == 0
        assert fires(vm.pio, A, bytes(4), kick) == 0
        assert code(vm.ioeventfds.assign, kick, A, 4) == 0

    def test_pio_beats_ccw(self, vm: Vm, kick: EventFd) -> None:
        vm.ioeventfds.assign(kick, 0x50, 1, PIO | CCW)
        assert fires(vm.pio, 0x50, b"\1", kick) == 1
        assert (len(vm.pio), len(vm.ccw)) == (1, 0)

    @pytest.mark.parametrize(("addr", "length"), [(0x50, 0), (0x50, 8), (0x10000, 1), (U64 - 1, 1)])
    def test_odd_ports_are_accepted(self, vm: Vm, kick: EventFd, addr: int, length: int) -> None:
        assert code(vm.ioeventfds.assign, kick, addr, length, PIO) == 0

    @pytest.mark.parametrize(
        ("flags", "length", "fast"),
        [(0, 0, 1), (0, 4, 0), (PIO, 0, 0), (CCW, 0, 0), (FAST, 0, 1), (FAST, 4, 0)],
    )
    def test_what_is_also_on_the_fast_bus(
        self, vm: Vm, kick: EventFd, flags: int, length: int, fast: int
    ) -> None:
        vm.ioeventfds.assign(kick, A, length, flags)
        assert [device.route for device in vm.fast] == [Route.FAST] * fast
        vm.ioeventfds.deassign(kick, A, length, flags)
        assert (len(vm.mmio), len(vm.pio), len(vm.ccw), len(vm.fast)) == (0, 0, 0, 0)


# 4. limit


def test_1500_on_one_bus_and_at_one_address(vm: Vm, kick: EventFd) -> None:
    for index in range(1500):
        vm.ioeventfds.assign(kick, A + 8 * index, 4)
        vm.ioeventfds.assign(kick, 0x40, 4, PIO | DATAMATCH, index)
    assert (len(vm.mmio), len(vm.pio)) == (1500, 1500)
    assert fires(vm.pio, 0x40, (1499).to_bytes(4, "little"), kick) == 1


def test_full_buses(kick: EventFd) -> None:
    vm = full_vm(kick)
    assert code(vm.ioeventfds.assign, kick, 0x3000000, 4) == errno.ENOSPC
    assert code(vm.ioeventfds.assign, kick, 0x3000000, 0) == errno.ENOSPC
    assert len(vm.fast) == 0
    assert code(vm.ioeventfds.assign, kick, 0x50, 4, PIO) == 0
    vm.close()


# 5. lost registrations: the bus itself is in test_bus


def test_another_datamatch_behind_a_nested_doorbell_is_lost(vm: Vm, kick: EventFd, other: EventFd) -> None:
    vm.ioeventfds.assign(other, A, 8, DATAMATCH, 5)
    vm.ioeventfds.assign(other, A + 4, 1)
    vm.ioeventfds.assign(kick, A, 8, DATAMATCH, 7)
    assert fires(vm.mmio, A, (7).to_bytes(8, "little"), kick) == 0
    vm.ioeventfds.deassign(other, A + 4, 1)
    assert fires(vm.mmio, A, (7).to_bytes(8, "little"), kick) == 1


# 6. the match


@pytest.mark.parametrize("offset", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("length", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("size", range(1, 9))
def test_a_wildcard_takes_its_address_and_length(
    vm: Vm, kick: EventFd, length: int, size: int, offset: int
) -> None:
    vm.ioeventfds.assign(kick, A, length)
    expected = offset == 0 and length in (0, size)
    assert fires(vm.mmio, A + offset, bytes(size), kick) == expected


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_datamatch(vm: Vm, kick: EventFd, length: int) -> None:
    value = 0xF1E2D3C4B5A69788 & ((1 << 8 * length) - 1)
    vm.ioeventfds.assign(kick, A, length, DATAMATCH, value)
    image = value.to_bytes(length, "little")
    assert fires(vm.mmio, A, image, kick) == 1
    assert fires(vm.mmio, A, bytes([image[0] ^ 1]) + image[1:], kick) == 0
    assert fires(vm.mmio, A, image[:-1] + bytes([image[-1] ^ 0x80]), kick) == 0
    if length > 1:
        assert fires(vm.mmio, A, image[: length // 2], kick) == 0
        assert fires(vm.mmio, A, image[::-1], kick) == 0


@pytest.mark.parametrize("length", [1, 2, 4])
def test_bits_above_the_length_never_match(vm: Vm, kick: EventFd, length: int) -> None:
    vm.ioeventfds.assign(kick, A, length, DATAMATCH, 1 << 8 * length)
    for value in (0, 1):
        assert fires(vm.mmio, A, value.to_bytes(length, "little"), kick) == 0


@pytest.mark.parametrize("length", [0, 4])
def test_reads_never_match(vm: Vm, kick: EventFd, length: int) -> None:
    vm.ioeventfds.assign(kick, A, length)
    assert vm.mmio.read(A, 4).device is None
    assert kick.wait(0) == 0


def test_one_fires_once(vm: Vm, kick: EventFd, other: EventFd) -> None:
    vm.ioeventfds.assign(kick, A, 4)
    vm.ioeventfds.assign(other, A, 8)
    vm.mmio.write(A, bytes(4))
    vm.mmio.write(A, bytes(4))
    assert (kick.wait(0), other.wait(0)) == (2, 0)


def test_the_counter_sticks(vm: Vm, kick: EventFd) -> None:
    vm.ioeventfds.assign(kick, A, 4)
    kick.write(U64 - 1)
    for _ in range(3):
        assert vm.mmio.write(A, bytes(4)).device is not None
    assert kick.wait(0) == U64
    assert fires(vm.mmio, A, bytes(4), kick) == 1


def test_repr_tells_what_it_is(vm: Vm, kick: EventFd) -> None:
    entry = vm.ioeventfds.assign(kick, A, 0)
    assert repr(entry) == "<IoEventFd 0x1000000, length=any, ioeventfd>"
