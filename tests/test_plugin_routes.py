"""Stores and loads of every guest over every route: who got them, and with which value and bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from unicorn.unicorn_const import UC_PROT_READ

from pvmmio_uc import AccessRefused, EventFd, Reason, RegistrationError, UserspaceExit
from pvmmio_uc.arch import ARCHES
from pvmmio_uc.errors import NeverFires
from pvmmio_uc.plugin import Decode

from .conftest import MakeGuest
from .plugin_guests import DECODES, ONES, VARIANTS, Guest, Registers, routes, variant_name

VALUE = 0x8182_8384_8586_8788
CELLS = [
    (*case, stage2, decode)
    for case in VARIANTS
    for stage2 in ARCHES[case[0]].stage2_kinds
    for decode in DECODES
]


@pytest.fixture(params=CELLS, ids=[f"{variant_name(c[:2])}-{c[2]}-{c[3]}" for c in CELLS])
def cell(request: pytest.FixtureRequest, make_guest: MakeGuest) -> Iterator[Guest]:
    """Every variant on every stage 2, decoded both ways."""
    arch, variant, stage2, decode = request.param
    return make_guest(arch, variant, stage2=stage2, decode=decode)


def little(data: bytes) -> int:
    """As KVM compares on a little-endian host."""
    return int.from_bytes(data, "little")


def pieces(guest: Guest, size: int) -> list[int]:
    """The widths in which an aligned access arrives."""
    return [4, 4] if size == 8 and guest.pv.decode == "assist" else [size]


def test_ioeventfd_compares_length_and_the_image_in_memory(cell: Guest) -> None:
    cell.value = VALUE
    with EventFd(blocking=False) as right, EventFd(blocking=False) as wrong:
        expected = 0
        for size in cell.sizes:
            if len(pieces(cell, size)) > 1:
                continue
            at = 0x10 * size
            image = little(cell.data(VALUE, size))
            cell.pv.ioeventfd(right, cell.mmio + at, size, image)
            cell.pv.ioeventfd(wrong, cell.mmio + at, size, image ^ 1)
            cell.pv.ioeventfd(wrong, cell.mmio + at, 4 if size == 1 else 1)
            cell.run(cell.store(size, at))
            expected += 1
        assert right.count == expected
        assert wrong.count == 0
    assert routes(cell) == ["ioeventfd"] * expected


def test_device_gets_offset_size_and_value_as_the_cpu_sees_it(cell: Guest) -> None:
    device = Registers()
    cell.pv.device(cell.mmio + 0x20, 0x40, device)
    cell.value = VALUE
    for size in cell.sizes:
        cell.run(cell.store(size, 0x28))
        if pieces(cell, size) == [size]:
            assert device.written == [(8, size, VALUE & (ONES >> 64 - 8 * size))]
        else:
            high_first = cell.order == "big"
            halves = [(8, 4, VALUE & 0xFFFF_FFFF), (12, 4, VALUE >> 32)]
            swapped = [(8, 4, VALUE >> 32), (12, 4, VALUE & 0xFFFF_FFFF)]
            assert device.written == (swapped if high_first else halves)
        device.written.clear()
    assert set(routes(cell)) == {"device"}


def test_device_answers_with_a_value_that_the_cpu_sees(cell: Guest) -> None:
    device = Registers(0x11_2233_4455_6677)
    cell.pv.device(cell.mmio, 0x100, device)
    for size in cell.sizes:
        cell.value = 0
        cell.run(cell.load(size, 0x10))
        if pieces(cell, size) == [size]:
            assert device.read == [(0x10, size)]
            assert cell.value == device.value & (ONES >> 64 - 8 * size)
        else:
            assert sorted(device.read) == [(0x10, 4), (0x14, 4)]
            assert cell.value == 0x4455_6677_4455_6677
        device.read.clear()


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_device_with_an_order_of_its_own(any_guest: Guest, order: str) -> None:
    device = Registers(0x1122_3344)
    any_guest.pv.device(any_guest.mmio, 0x100, device, order=order)
    any_guest.value = 0x5566_7788
    any_guest.run(any_guest.store(4), any_guest.load(4))
    straight = order == any_guest.order
    assert device.written == [(0, 4, 0x5566_7788 if straight else 0x8877_6655)]
    assert any_guest.value & 0xFFFF_FFFF == (0x1122_3344 if straight else 0x4433_2211)


def test_coalesced_writes_wait_in_the_ring_and_reads_do_not(cell: Guest) -> None:
    cell.pv.coalesced(cell.mmio, 0x100)
    cell.value = VALUE
    for size in cell.sizes:
        cell.run(cell.store(size, 0x40))
        ring = cell.pv.drain_coalesced()
        assert b"".join(entry.data for entry in ring) == cell.data(VALUE, size)
        assert [(e.pio, e.address - cell.mmio, len(e.data)) for e in ring] == [
            (False, 0x40 + 4 * index, size) for index, size in enumerate(pieces(cell, size))
        ]
    assert set(routes(cell)) == {"coalesced"}
    cell.run(cell.load())
    assert routes(cell)[-1] == "userspace"
    assert cell.pv.drain_coalesced() == []


def test_user_space_sees_what_nobody_claims(cell: Guest) -> None:
    seen: list[UserspaceExit] = []
    cell.pv.on_userspace(seen.append)
    cell.value = VALUE
    for size in cell.sizes:
        _start, _ = cell.place(cell.store(size, 0x30))
        cell.run(cell.store(size, 0x30))
        assert [exit_.size for exit_ in seen] == pieces(cell, size)
        assert b"".join(exit_.data for exit_ in seen) == cell.data(VALUE, size)
        first = seen[0]
        assert (first.reason, first.write, first.address, first.count) == (
            Reason.MMIO, True, cell.mmio + 0x30, 1,
        )  # fmt: skip
        assert first.order == cell.order
        if size < 8:
            assert first.value == VALUE & (ONES >> 64 - 8 * size)
        assert first.pc == (None if cell.pv.decode == "assist" else cell.pv.exits[-1].pc)
        seen.clear()
    assert set(routes(cell)) == {"userspace"}


def test_user_space_answers_a_load_by_value_by_bytes_or_not_at_all(cell: Guest) -> None:
    ones = 0xFFFF_FFFF
    answers: list[tuple[object, int]] = [
        (0xA1B2_C3D4, 0xA1B2_C3D4),
        (cell.data(0xA1B2_C3D4, 4), 0xA1B2_C3D4),
        (None, ones),
        (-1, ones),
    ]
    for answer, expected in answers:
        cell.pv.on_userspace(lambda exit_, answer=answer: answer)
        cell.value = 0
        cell.run(cell.load(4))
        assert cell.value & ones == expected

    @cell.pv.on_userspace
    def by_hand(exit_: UserspaceExit) -> None:
        exit_.value = 0x1020_3040

    cell.run(cell.load(4))
    assert cell.value & ones == 0x1020_3040


def test_without_a_callback_loads_are_ones(any_guest: Guest) -> None:
    any_guest.value = 0
    any_guest.run(any_guest.load(1), any_guest.store(4))
    assert any_guest.value & 0xFF == 0xFF
    assert any_guest.pv.exits.steps.userspace == 2


def test_an_answer_of_another_length_is_an_error(any_guest: Guest) -> None:
    any_guest.pv.on_userspace(lambda exit_: b"\1\2\3")
    with pytest.raises(ValueError, match=r"takes 4 bytes.*gave 3"):
        any_guest.run(any_guest.load(4))


def test_loads_leave_the_rest_of_the_register_as_the_cpu_does(any_guest: Guest) -> None:
    """The same loads from RAM, with the same bytes, are what to compare with."""
    expected = {}
    any_guest.aim(any_guest.ram)
    any_guest.uc.mem_write(any_guest.ram, any_guest.data(0xF1F2_F3F4_F5F6_F7F8, 8))
    for size in any_guest.sizes:
        any_guest.value = VALUE
        any_guest.run(any_guest.load(size))
        expected[size] = any_guest.value
    image = any_guest.data(0xF1F2_F3F4_F5F6_F7F8, 8)

    any_guest.aim(any_guest.mmio)

    @any_guest.pv.on_userspace
    def same_bytes(exit_: UserspaceExit) -> bytes:
        at = exit_.address - any_guest.mmio
        return image[at : at + exit_.size]

    for size in any_guest.sizes:
        any_guest.value = VALUE
        any_guest.run(any_guest.load(size))
        assert any_guest.value == expected[size], size


class TestReadOnlyRam:
    """A read-only slot: loads are the guest's own affair, stores go to the bus and change nothing."""

    @pytest.fixture
    def rom(self, any_guest: Guest) -> Guest:
        address = any_guest.mmio + 0x8000
        any_guest.uc.mem_map(address, 0x1000, UC_PROT_READ)
        any_guest.uc.mem_write(address, any_guest.data(0x1234_5678, 4))
        any_guest.aim(address)
        return any_guest

    def test_loads_do_not_exit(self, rom: Guest) -> None:
        rom.run(rom.load(4))
        assert rom.value & 0xFFFF_FFFF == 0x1234_5678
        assert routes(rom) == []

    def test_stores_go_to_the_bus(self, rom: Guest, bell: EventFd) -> None:
        address = rom.mmio + 0x8000
        rom.pv.ioeventfd(bell, address, 4)
        rom.value = VALUE
        rom.run(rom.store(4), rom.store(4, 8), rom.load(4))
        assert routes(rom) == ["ioeventfd", "userspace"]
        assert rom.value & 0xFFFF_FFFF == 0x1234_5678, "the store has changed nothing"
        assert bell.read() == 1
        assert [exit_.address for exit_ in rom.pv.exits] == [address, address + 8]

    def test_a_slot_made_read_only_while_attached(self, any_guest: Guest) -> None:
        any_guest.aim(any_guest.ram)
        page = any_guest.ram & ~0xFFF
        any_guest.run(any_guest.store(4))
        any_guest.uc.mem_protect(page, 0x1000, UC_PROT_READ)
        any_guest.run(any_guest.store(4))
        any_guest.uc.mem_protect(page, 0x1000)
        any_guest.run(any_guest.store(4))
        assert routes(any_guest) == ["userspace"]


def test_a_store_across_a_page_is_two_pieces(any_guest: Guest, bell: EventFd) -> None:
    if any_guest.pv.decode == "assist":
        pytest.skip("byte by byte with decode='assist'")
    edge = any_guest.mmio + 0x1000
    any_guest.pv.ioeventfd(bell, edge - 1, 4)
    any_guest.pv.ioeventfd(bell, edge)
    any_guest.aim(edge)
    any_guest.value = VALUE
    any_guest.run(any_guest.store(4, -1))
    (exit_,) = any_guest.pv.exits
    pieces_of_it = sorted(exit_.accesses, key=lambda access: access.address)
    assert [(a.address - edge, a.size, str(a.route)) for a in pieces_of_it] == [
        (-1, 1, "userspace"),
        (0, 3, "ioeventfd"),
    ]
    assert b"".join(a.data for a in pieces_of_it) == any_guest.data(VALUE, 4)
    assert bell.read() == 1, "any length; the piece of 1 byte is not one of 4"


@pytest.mark.parametrize("below", [1, 2, 3])
def test_an_access_between_ram_and_a_device(any_guest: Guest, below: int) -> None:
    """Each side gets its bytes, in both directions."""
    edge = any_guest.mmio + 0x4000
    any_guest.uc.mem_map(edge - 0x1000, 0x1000)
    device = Registers(0x5152_5354)
    any_guest.pv.device(edge, 0x1000, device)
    any_guest.aim(edge)
    any_guest.value = 0x6162_6364
    image = any_guest.data(0x6162_6364, 4)
    any_guest.run(any_guest.store(4, -below))
    assert bytes(any_guest.uc.mem_read(edge - below, below)) == image[:below]
    told = sum(size for _, size, _ in device.written)
    assert told == 4 - below

    any_guest.run(any_guest.load(4, -below))
    loaded = any_guest.data(any_guest.value, 4)
    assert loaded[:below] == image[:below]


def test_a_refused_access_is_counted_dropped_and_filled_with_ones(any_guest: Guest) -> None:
    class Narrow(Registers):
        def mmio_read(self, offset: int, size: int) -> int:
            raise AccessRefused(f"no {size}-byte register at {offset:#x}")

        def mmio_write(self, offset: int, size: int, value: int) -> None:
            raise AccessRefused("read-only")

    any_guest.pv.device(any_guest.mmio, 0x10, Narrow())
    any_guest.value = 0
    any_guest.run(any_guest.store(2), any_guest.load(2), any_guest.count)
    assert any_guest.value & 0xFFFF == 0xFFFF
    assert routes(any_guest) == ["error", "error"]


def test_overlapping_devices_are_refused(guest: Guest) -> None:
    place = guest.mmio
    first = guest.pv.device(place, 0x100, Registers(), name="first")
    for address, size in ((place, 1), (place + 0xFF, 1), (place - 1, 2), (place - 8, 0x200)):
        with pytest.raises(RegistrationError, match=r"EEXIST.*first") as caught:
            guest.pv.device(address, size, Registers())
        assert caught.value.errno == 17
    guest.pv.device(place - 8, 8, Registers())
    guest.pv.device(place + 0x100, 8, Registers())
    first.remove()
    guest.pv.device(place, 0x100, Registers(0x42))
    guest.run(guest.load(1))
    assert guest.value & 0xFF == 0x42


def test_ports_and_memory_do_not_overlap(make_guest: MakeGuest, decode: Decode) -> None:
    guest = make_guest("x86", decode=decode)
    guest.pv.device(0x50, 0x10, Registers(1), pio=True)
    with pytest.warns(NeverFires, match="there is RAM"):
        guest.pv.device(0x50, 0x10, Registers(2))
    guest.run("in al, 0x50")
    assert guest.value & 0xFF == 1


def test_the_first_registration_of_a_zone_and_a_doorbell_decides(any_guest: Guest, bell: EventFd) -> None:
    """KVM's search: of a zone and a doorbell in it the first registered is found."""
    guest = any_guest
    guest.pv.coalesced(guest.mmio, 0x80)
    guest.pv.ioeventfd(bell, guest.mmio + 0x10, 4)
    guest.run(guest.store(4, 0x10))
    assert routes(guest) == ["coalesced"]
    guest.pv.ioeventfd(bell, guest.mmio + 0x90, 4)
    guest.pv.coalesced(guest.mmio + 0x80, 0x80)
    guest.run(guest.store(4, 0x90))
    assert routes(guest) == ["coalesced", "ioeventfd"]


def test_two_engines_side_by_side(make_guest: MakeGuest, any_guest: Guest) -> None:
    other = make_guest("arm64" if any_guest.arch != "arm64" else "x86")
    with EventFd(blocking=False) as one, EventFd(blocking=False) as two:
        any_guest.pv.ioeventfd(one, any_guest.mmio, 4)
        other.pv.ioeventfd(two, other.mmio, 4)

        @any_guest.pv.on_userspace
        def run_the_other(exit_: UserspaceExit) -> None:
            other.run(other.store(4))

        any_guest.run(any_guest.store(4), any_guest.store(4, 8), any_guest.store(4))
        assert (one.read(), two.read()) == (2, 1)
    assert routes(any_guest) == ["ioeventfd", "userspace", "ioeventfd"]
    assert routes(other) == ["ioeventfd"]
