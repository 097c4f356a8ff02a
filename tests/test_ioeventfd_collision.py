"""KVM_IOEVENTFD: which registrations collide, and which one a deassign removes."""

from __future__ import annotations

import errno
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.vm import Vm

from .doorbells import (
    CCW,
    DATAMATCH,
    DEASSIGN,
    FAST,
    NEVER_OPEN,
    PIO,
    U64,
    A,
    code,
    eventfd_fixture,
    fires,
    vm_fixture,
)

vm = vm_fixture()
kick = eventfd_fixture()
other = eventfd_fixture()


# 2. collision

WILD, DM1, DM2 = None, 1, 2
REGISTRATIONS = [(0, None), *((length, match) for length in (1, 2, 4, 8) for match in (WILD, DM1, DM2))]


def collides(first: tuple[int, int | None], second: tuple[int, int | None]) -> bool:
    (length1, match1), (length2, match2) = first, second
    if length1 == 0 or length2 == 0:
        return True
    return length1 == length2 and (match1 is None or match2 is None or match1 == match2)


@pytest.mark.parametrize("bus", [0, PIO, CCW])
@pytest.mark.parametrize("first", REGISTRATIONS)
def test_collision_at_one_address(
    kick: EventFd, other: EventFd, first: tuple[int, int | None], bus: int
) -> None:
    for second, eventfd in itertools.product(REGISTRATIONS, (kick, other)):
        vm = Vm()
        assign(vm, kick, first, bus)
        expected = errno.EEXIST if collides(first, second) else 0
        assert code(assign, vm, eventfd, second, bus) == expected, second
        vm.close()


def assign(vm: Vm, eventfd: EventFd, what: tuple[int, int | None], flags: int, addr: int = A) -> None:
    length, match = what
    vm.ioeventfds.assign(eventfd, addr, length, flags | (match is not None), match or 0)


def test_the_message_names_both(vm: Vm, kick: EventFd) -> None:
    vm.ioeventfds.assign(kick, A, 4, DATAMATCH, 0xFA)
    with pytest.raises(
        RegistrationError, match=r"0x1000000, length=4, .*0x1000000, length=4, datamatch=0xfa"
    ):
        vm.ioeventfds.assign(kick, A, 4)


@given(st.lists(st.sampled_from(REGISTRATIONS), max_size=6), st.sampled_from(REGISTRATIONS))
def test_collision_is_with_any_that_is_there(
    accepted: list[tuple[int, int | None]], new: tuple[int, int | None]
) -> None:
    vm, present = Vm(), []
    with EventFd(blocking=False) as kick:
        for one in [*accepted, new]:
            expected = errno.EEXIST if any(collides(old, one) for old in present) else 0
            assert code(assign, vm, kick, one, 0) == expected
            if not expected:
                present.append(one)
        vm.close()


def test_what_never_collides(vm: Vm, kick: EventFd) -> None:
    assigned = [(A, 4, 0), (A + 2, 4, 0), (A + 3, 8, 0), (A + 1, 0, 0), (A, 4, PIO), (A, 4, CCW), (A, 8, 0)]
    for addr, length, flags in assigned:
        assert code(vm.ioeventfds.assign, kick, addr, length, flags) == 0


def test_datamatch_is_compared_with_all_its_bits(vm: Vm, kick: EventFd) -> None:
    assert code(vm.ioeventfds.assign, kick, A, 1, DATAMATCH, 0xFA) == 0
    assert code(vm.ioeventfds.assign, kick, A, 1, DATAMATCH, 0x1000000FA) == 0
    assert fires(vm.mmio, A, b"\xfa", kick) == 1


def test_datamatch_without_its_flag_is_ignored(vm: Vm, kick: EventFd) -> None:
    vm.ioeventfds.assign(kick, A, 4, 0, 1)
    assert code(vm.ioeventfds.assign, kick, A, 4, 0, 2) == errno.EEXIST
    assert fires(vm.mmio, A, b"\7\0\0\0", kick) == 1
    assert code(vm.ioeventfds.deassign, kick, A, 4, 0, 3) == 0


# 3. deassign


@pytest.mark.parametrize(
    ("addr", "length", "flags"),
    [(A, 3, 0), (A, 16, 0), (U64, 8, 0), (A, 4, 0xFFE0), (A, 0, DATAMATCH), (A, 4, 0xFFFFFFFF)],
)
def test_deassign_validates_nothing(vm: Vm, kick: EventFd, addr: int, length: int, flags: int) -> None:
    assert code(vm.ioeventfds.deassign, kick, addr, length, flags | DEASSIGN) == errno.ENOENT


def test_deassign_validates_the_descriptor(vm: Vm, kick: EventFd) -> None:
    vm.ioeventfds.assign(kick, A, 4)
    assert code(vm.ioeventfds.deassign, NEVER_OPEN, A, 3) == errno.EBADF
    null = os.open(os.devnull, os.O_RDWR)
    try:
        assert code(vm.ioeventfds.deassign, null, A, 4) == errno.EINVAL
    finally:
        os.close(null)


@pytest.mark.parametrize(
    "change",
    [{"addr": A + 1}, {"length": 8}, {"flags": 0}, {"flags": DATAMATCH | PIO}, {"flags": DATAMATCH | CCW},
     {"datamatch": 2}, {"datamatch": 1 | 1 << 32}, {"source": "other"}],
    ids=str,
)  # fmt: skip
def test_deassign_needs_all_of_it(
    vm: Vm, kick: EventFd, other: EventFd, change: dict[str, int | str]
) -> None:
    same = {"source": kick, "addr": A, "length": 4, "flags": DATAMATCH, "datamatch": 1}
    vm.ioeventfds.assign(**same)  # type: ignore[arg-type]
    wrong = {**same, **change}
    if wrong["source"] == "other":
        wrong["source"] = other
    elsewhere = "addr" in change or change.get("flags", 0) & (PIO | CCW)  # type: ignore[operator]
    present = "there is none" if elsewhere else "there is <IoEventFd 0x1000000, length=4, datamatch=0x1,"
    with pytest.raises(RegistrationError, match=present) as refused:
        vm.ioeventfds.deassign(**wrong)  # type: ignore[arg-type]
    assert refused.value.errno == errno.ENOENT
    vm.ioeventfds.deassign(**same)  # type: ignore[arg-type]
    assert len(vm.mmio) == 0


@pytest.mark.parametrize("extra", [FAST, 0x20, 0xFFFFFFE0 | DEASSIGN])
def test_deassign_ignores_bits_from_4_up(vm: Vm, kick: EventFd, extra: int) -> None:
    vm.ioeventfds.assign(kick, A, 4)
    assert code(vm.ioeventfds.deassign, kick, A, 4, extra) == 0


def test_another_descriptor_of_the_same_eventfd(vm: Vm, kick: EventFd) -> None:
    vm.ioeventfds.assign(kick, A, 4)
    with kick.dup() as copy:
        assert code(vm.ioeventfds.deassign, copy, A, 4) == 0
        vm.ioeventfds.assign(copy.fileno(), A, 4)
        assert fires(vm.mmio, A, bytes(4), kick) == 1
    assert code(vm.ioeventfds.deassign, kick.fileno(), A, 4) == 0


def test_a_new_eventfd_with_the_old_number_is_another(vm: Vm) -> None:
    first = EventFd(blocking=False)
    number = first.fileno()
    vm.ioeventfds.assign(number, A, 4)
    first.close()
    with EventFd(blocking=False) as second:
        if number != second.fileno():
            os.dup2(second.fileno(), number)
        assert code(vm.ioeventfds.deassign, number, A, 4) == errno.ENOENT
        if number != second.fileno():
            os.close(number)


def test_a_closed_eventfd_stays_registered(vm: Vm, kick: EventFd, other: EventFd) -> None:
    vm.ioeventfds.assign(other, A, 4)
    other.close()
    assert vm.mmio.write(A, bytes(4)).device is not None
    assert code(vm.ioeventfds.assign, kick, A, 4) == errno.EEXIST
    assert code(vm.ioeventfds.deassign, kick, A, 4) == errno.ENOENT
    assert code(vm.ioeventfds.deassign, other, A, 4) == errno.EBADF


def test_close_drops_everything(vm: Vm, kick: EventFd) -> None:
    for flags, length in itertools.product((0, PIO, CCW), (0, 1)):
        vm.ioeventfds.assign(kick, A + length, length, flags)
    assert (len(vm.ioeventfds), len(list(vm.ioeventfds)), len(vm.fast)) == (6, 6, 1)
    vm.close()
    assert [len(bus) for bus in (vm.mmio, vm.pio, vm.ccw, vm.fast)] == [0, 0, 0, 0]
    assert len(vm.ioeventfds) == 0


def test_remove_takes_what_assign_gave_and_only_once(vm: Vm, kick: EventFd) -> None:
    first = vm.ioeventfds.assign(kick, A, 4)
    vm.ioeventfds.remove(first)
    second = vm.ioeventfds.assign(kick, A, 4)
    vm.ioeventfds.remove(first)
    assert list(vm.ioeventfds) == [second]
