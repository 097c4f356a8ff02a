"""Each rule of the buses, broken by itself, is noticed by the recorded scenario that is named after it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pvmmio_uc import bus, coalesced, ioeventfd, vm
from pvmmio_uc.bus import Bus, Found
from pvmmio_uc.coalesced import CoalescedRing, CoalescedZones
from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.ioeventfd import IoEventFd, IoEventFds
from pvmmio_uc.replay import bus_level
from pvmmio_uc.replay.bus_level import BusLevel
from pvmmio_uc.replay.runner import perform
from pvmmio_uc.vm import Vm

from .recorded import recorded

Patch = pytest.MonkeyPatch


def linear_search(patch: Patch) -> None:
    """Everybody who contains the access is asked, in the order of the array."""

    def search(self: Bus, addr: int, size: int) -> Found:
        end = (addr + size) & bus.U64
        inside = [entry[4] for entry in self._entries if bus._compare(addr, end, entry) == 0]
        return Found(tuple(inside), tuple(range(1, len(inside) + 2)))

    patch.setattr(Bus, "_search", search)


def no_walk_back(patch: Patch) -> None:
    """The search begins where the bisection ends."""
    whole = Bus._search

    def search(self: Bus, addr: int, size: int) -> Found:
        base, count = 0, len(self)
        while count:
            pivot = base + count // 2
            order = bus._compare(addr, (addr + size) & bus.U64, self._entries[pivot])
            if order == 0:
                found = whole(self, addr, size).devices
                found = found[found.index(self._entries[pivot][4]) :]
                return Found(found, tuple(range(len(found) + 1)))
            base, count = (pivot + 1, (count - 1) // 2) if order > 0 else (base, count // 2)
        return Found((), (0,))

    patch.setattr(Bus, "_search", search)


def newest_first(patch: Patch) -> None:
    """A new entry is put in front of its equals."""
    place = Bus._place

    def before_equals(self: Bus, addr: int, end: int, length: int) -> int:
        index = place(self, addr, end, length)
        while index and self._entries[index - 1][:2] == (addr, end):
            index -= 1
        return index

    patch.setattr(Bus, "_place", before_equals)


def ioeventfds_count(patch: Patch) -> None:
    """The limit of a bus is for all that stands on it."""
    register = Bus.register

    def limited(self: Bus, *arguments: Any, ioeventfd: bool = False) -> None:
        register(self, *arguments)

    patch.setattr(Bus, "register", limited)
    unregister = Bus.unregister
    patch.setattr(Bus, "unregister", lambda self, *arguments, ioeventfd=False: unregister(self, *arguments))


def _writing(patch: Patch, takes: Callable[[IoEventFd, int, bytes], bool]) -> None:
    def write(self: IoEventFd, addr: int, data: bytes) -> bool:
        taken = takes(self, addr, data)
        if taken:
            self.context.signal()
        return taken

    patch.setattr(IoEventFd, "write", write)


def _value_fits(self: IoEventFd, data: bytes) -> bool:
    return self.datamatch is None or int.from_bytes(data, "little") == self.datamatch


def any_width(patch: Patch) -> None:
    """A doorbell of a length takes shorter writes too."""
    _writing(patch, lambda self, addr, data: addr == self.addr and _value_fits(self, data))


def anywhere_inside(patch: Patch) -> None:
    """A doorbell takes a narrow write that does not begin at its address."""
    _writing(patch, lambda self, addr, data: len(data) <= (self.length or 8) and _value_fits(self, data))


def datamatch_is_cut(patch: Patch) -> None:
    """Datamatch is compared in the width of the write."""

    def takes(self: IoEventFd, addr: int, data: bytes) -> bool:
        fits = self.length in (0, len(data)) and addr == self.addr
        cut = None if self.datamatch is None else self.datamatch & ((1 << 8 * len(data)) - 1)
        return fits and cut in (None, int.from_bytes(data, "little"))

    _writing(patch, takes)


def whole_widths_only(patch: Patch) -> None:
    """Any length means 1, 2, 4 or 8."""
    write = IoEventFd.write
    patch.setattr(
        IoEventFd, "write", lambda self, addr, data: len(data) in (1, 2, 4, 8) and write(self, addr, data)
    )


def reads_fire(patch: Patch) -> None:
    """A doorbell of any length takes reads."""

    def read(self: IoEventFd, addr: int, size: int) -> bytes | None:
        return bytes(size) if self.length == 0 and self.write(addr, bytes(size)) else None

    patch.setattr(IoEventFd, "read", read)


def _argument_check(patch: Patch, skip: Callable[[int, int, int], bool]) -> None:
    check = ioeventfd._check_arguments

    def lenient(addr: int, length: int, flags: int, datamatch: int) -> None:
        if not skip(addr, length, flags):
            check(addr, length, flags, datamatch)

    patch.setattr(ioeventfd, "_check_arguments", lenient)


def wrap_to_zero_is_fine(patch: Patch) -> None:
    """The last bytes of the address space can be registered."""
    _argument_check(patch, lambda addr, length, flags: addr + length == 1 << 64)


def unknown_flags_are_fine(patch: Patch) -> None:
    """Bit 5 is ignored."""
    _argument_check(patch, lambda addr, length, flags: flags == 1 << 5)


def any_length_with_datamatch(patch: Patch) -> None:
    """Length 0 and DATAMATCH go together."""
    _argument_check(patch, lambda addr, length, flags: length == 0 and flags & 1 == 1)


def collision_by_range(patch: Patch) -> None:
    """Whatever overlaps collides."""
    check = IoEventFds._check_collision

    def overlapping(self: IoEventFds, new: IoEventFd) -> None:
        check(self, new)
        for old in self:
            if old.bus is new.bus and old.addr < new.addr < old.addr + old.length:
                raise RegistrationError(errno.EEXIST, "overlaps")

    patch.setattr(IoEventFds, "_check_collision", overlapping)


def no_collision_with_other_eventfds(patch: Patch) -> None:
    """Only the same eventfd collides."""
    check = IoEventFds._check_collision

    def same_eventfd(self: IoEventFds, new: IoEventFd) -> None:
        if any(old.context is new.context for old in self):
            check(self, new)

    patch.setattr(IoEventFds, "_check_collision", same_eventfd)


def deassign_validates(patch: Patch) -> None:
    """Deassign checks what assign checks."""
    deassign = IoEventFds.deassign

    def checked(
        self: IoEventFds, source: Any, addr: int, length: int, flags: int = 0, datamatch: int = 0
    ) -> None:
        ioeventfd._check_arguments(addr, length, flags, datamatch)
        deassign(self, source, addr, length, flags, datamatch)

    patch.setattr(IoEventFds, "deassign", checked)


def ring_without_a_free_slot(patch: Patch) -> None:
    """All 170 entries of the ring are used."""
    create = CoalescedRing.__init__

    def one_more(self: CoalescedRing, page_size: int = 4096) -> None:
        create(self, page_size)
        self.capacity += 1

    patch.setattr(CoalescedRing, "__init__", one_more)


def unregister_is_exact(patch: Patch) -> None:
    """Only the zone of exactly this range is removed."""
    unregister = CoalescedZones.unregister

    def exact(self: CoalescedZones, addr: int, size: int, pio: int = 0) -> None:
        if any((zone.addr, zone.size) == (addr, size) for zone in self):
            unregister(self, addr, size, pio)

    patch.setattr(CoalescedZones, "unregister", exact)


def unsigned_zones(patch: Patch) -> None:
    """A zone of 4 GiB less a byte is one."""
    patch.setattr(coalesced, "_as_int32", lambda size: size)


def no_page_split(patch: Patch) -> None:
    """A write across a page stays whole."""
    patch.setattr(bus_level, "split_pages", lambda address, size: [(address, size)])


def every_chunk_is_offered(patch: Patch) -> None:
    """Of a wide write the high half fires even where the low one is refused."""
    whole = Vm.write

    def write(self: Vm, pieces: Any, *rest: Any) -> Any:
        return whole(self, [chunk for gpa, data in pieces for chunk in vm._chunks(gpa, data)], *rest)

    patch.setattr(Vm, "write", write)


def exit_before_the_next_piece(patch: Patch) -> None:
    """Each piece is finished before the next is offered."""
    whole = Vm.write

    def write(self: Vm, pieces: Any, *rest: Any) -> Any:
        return [access for piece in pieces for access in whole(self, [piece], *rest)]

    patch.setattr(Vm, "write", write)


BROKEN = {
    linear_search: "order-lost-3",
    no_walk_back: "dm-different",
    newest_first: "cz-ioeventfd-8",
    ioeventfds_count: "many-1500",
    any_width: "wild-4",
    anywhere_inside: "wild-8",
    datamatch_is_cut: "dm-high-bits",
    whole_widths_only: "len0-any-piece",
    reads_fire: "reads",
    wrap_to_zero_is_fine: "wrap-fffffffffffffff8-8",
    unknown_flags_are_fine: "flag-bit-5",
    any_length_with_datamatch: "len0-datamatch",
    collision_by_range: "overlap-mixed",
    no_collision_with_other_eventfds: "dup-other-eventfd",
    deassign_validates: "deassign-no-validation",
    ring_without_a_free_slot: "cz-full",
    unregister_is_exact: "cz-unregister-part",
    unsigned_zones: "cz-huge",
    no_page_split: "cross-second",
    every_chunk_is_offered: "sse-high",
    exit_before_the_next_piece: "cross-second",
}


@pytest.mark.parametrize(("broken", "noticed_by"), BROKEN.items(), ids=[rule.__name__ for rule in BROKEN])
def test_a_broken_rule_is_noticed(
    monkeypatch: Patch, broken: Callable[[Patch], None], noticed_by: str
) -> None:
    broken(monkeypatch)
    noticed = {scenario.id for scenario in recorded("named") if perform(scenario, BusLevel).mismatches}
    assert noticed_by in noticed
