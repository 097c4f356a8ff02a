"""The memory slots: what is RAM, what is a hole, and what a change of the mapping does to a guest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unicorn import UC_ARCH_X86, UC_MODE_64, Uc, UcError
from unicorn.unicorn_const import (
    UC_ERR_EXCEPTION,
    UC_ERR_INSN_INVALID,
    UC_HOOK_MEM_READ_UNMAPPED,
    UC_HOOK_MEM_WRITE_UNMAPPED,
    UC_PROT_ALL,
    UC_PROT_EXEC,
    UC_PROT_READ,
    UC_PROT_WRITE,
)

from pvmmio_uc import EventFd, PvMmio, UserspaceExit
from pvmmio_uc.memory import GuestMemory

from .conftest import MakeGuest
from .plugin_guests import Guest, routes

U64 = (1 << 64) - 1
PAGE = 0x1000
UNMAPPED = UC_HOOK_MEM_READ_UNMAPPED | UC_HOOK_MEM_WRITE_UNMAPPED
PERMISSIONS = [
    UC_PROT_ALL,
    UC_PROT_READ,
    UC_PROT_READ | UC_PROT_WRITE,
    UC_PROT_READ | UC_PROT_EXEC,
    UC_PROT_EXEC,
]


def memory_with(*regions: tuple[int, int, int]) -> tuple[Uc, GuestMemory]:
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    for first, size, permissions in regions:
        uc.mem_map(first, size, permissions)
    memory = GuestMemory(uc)
    memory.refresh()
    return uc, memory


class TestSlots:
    def test_nothing_is_mapped(self) -> None:
        _, memory = memory_with()
        assert memory.holes() == [(0, U64)]
        assert memory.read_only() == []
        assert memory.read(0, 1) is None
        assert 0 not in memory

    def test_refresh_tells_whether_anything_changed(self) -> None:
        uc, memory = memory_with((0x1000, PAGE, UC_PROT_ALL))
        assert not memory.refresh()
        uc.mem_protect(0x1000, PAGE, UC_PROT_READ)
        assert memory.refresh()
        uc.mem_unmap(0x1000, PAGE)
        assert memory.refresh()
        assert not memory.refresh()
        assert memory.slots == ()

    def test_accesses_across_slots(self) -> None:
        _, memory = memory_with((0x1000, PAGE, UC_PROT_ALL), (0x2000, PAGE, UC_PROT_READ), (0x5000, PAGE, 7))
        assert memory.read(0x1FFE, 4) == bytes(4)
        assert memory.read(0x2FFE, 4) is None
        assert memory.read(0x4FFF, 2) is None
        assert not memory.write(0x1FFE, b"abcd"), "the second slot is read-only"
        assert memory.read(0x1FFE, 2) == bytes(2), "and nothing of it was written"
        assert memory.write(0x1FFC, b"abcd")
        assert memory.read(0x1FFC, 4) == b"abcd"
        assert memory.write_reaches(0x1FFF, 1)
        assert not memory.write_reaches(0x1FFF, 2)
        assert 0x2000 in memory

    def test_the_last_byte_of_the_address_space(self) -> None:
        _, memory = memory_with((U64 - PAGE + 1, PAGE, UC_PROT_ALL))
        assert memory.holes() == [(0, U64 - PAGE)]
        assert memory.read(U64, 1) == b"\0"
        assert memory.read(U64, 2) is None

    def test_what_the_user_unmapped_since_is_not_there(self) -> None:
        uc, memory = memory_with((0x1000, PAGE, UC_PROT_ALL))
        uc.mem_unmap(0x1000, PAGE)
        assert memory.read(0x1000, 1) is None
        assert not memory.write(0x1000, b"x")

    def test_code_and_tables_are_found_where_they_were_mapped_since(self) -> None:
        uc, memory = memory_with()
        uc.mem_map(0x1000, PAGE)
        assert memory.read(0x1000, 1) is None
        assert memory.load(0x1000, 1) == b"\0"
        assert memory.load(0x2000, 1) is None

    def test_windows_are_holes(self) -> None:
        uc, memory = memory_with((0x1000, PAGE, UC_PROT_ALL))
        uc.mmio_map(0x2000, PAGE, lambda *_: 0, None, lambda *_: None, None)
        memory.windows.add((0x2000, 0x2FFF))
        assert not memory.refresh()
        assert 0x2000 not in memory

    @given(
        st.lists(
            st.tuples(st.integers(0, 40), st.integers(1, 4), st.sampled_from(PERMISSIONS)),
            max_size=6,
            unique_by=lambda region: region[0] // 8,
        )
    )
    def test_every_page_is_a_slot_or_a_hole(self, regions: list[tuple[int, int, int]]) -> None:
        pages: dict[int, int] = {}
        mapped = []
        for first, size, permissions in regions:
            if not any(page in pages for page in range(first, first + size)):
                pages |= dict.fromkeys(range(first, first + size), permissions)
                mapped.append((first * PAGE, size * PAGE, permissions))
        _, memory = memory_with(*mapped)
        holes = memory.holes()
        assert all(first <= last for first, last in holes)
        assert sorted(holes) == holes
        for page in range(50):
            address = page * PAGE
            in_hole = any(first <= address <= last for first, last in holes)
            assert in_hole == (page not in pages)
            permissions = pages.get(page, 0)
            assert (address in memory) == bool(permissions & UC_PROT_READ)
            assert memory.write_reaches(address, PAGE) == bool(permissions & UC_PROT_WRITE)
            rom = any(first <= address <= last for first, last in memory.read_only())
            assert rom == (bool(permissions & UC_PROT_READ) and not permissions & UC_PROT_WRITE)


class TestChangesBetweenRuns:
    def test_a_device_becomes_ram_and_back(self, any_guest: Guest) -> None:
        guest = any_guest
        page = guest.mmio & ~0xFFF
        for turn in range(3):
            guest.run(guest.store(4))
            assert guest.pv.exits.total == turn + 1
            guest.uc.mem_map(page, PAGE)
            guest.value = 0x1234 + turn
            guest.run(guest.store(4), guest.load(4))
            assert guest.uc.mem_read(guest.mmio, 4) == guest.data(0x1234 + turn, 4)
            assert guest.pv.exits.total == turn + 1
            guest.uc.mem_unmap(page, PAGE)

    def test_a_registration_in_between_does_not_hide_the_change(
        self, any_guest: Guest, bell: EventFd
    ) -> None:
        guest = any_guest
        page = guest.mmio + 0x4000
        guest.uc.mem_map(page, PAGE)
        guest.aim(page)
        guest.run(guest.store(4))
        guest.uc.mem_unmap(page, PAGE)
        guest.pv.ioeventfd(bell, page, 4)
        guest.run(guest.store(4))
        assert bell.read() == 1

    def test_many_slots(self, guest: Guest) -> None:
        for index in range(0, 60, 2):
            guest.uc.mem_map(guest.mmio + 0x100000 + index * PAGE, PAGE)
        for index in range(0, 60, 7):
            guest.aim(guest.mmio + 0x100000 + index * PAGE)
            guest.run(guest.store(4))
        assert guest.pv.exits.total == len([i for i in range(0, 60, 7) if i % 2])

    def test_all_ram_goes_and_the_guest_has_no_code(self, guest: Guest) -> None:
        start, end = guest.place(guest.store(4))
        for first, last, _ in list(guest.uc.mem_regions()):
            guest.uc.mem_unmap(first, last - first + 1)
        with pytest.raises(Exception, match=f"executes at pc {start:#x}"):
            guest.uc.emu_start(start, end)


class TestChangesInACallback:
    """User space maps and unmaps RAM while the guest is out on an exit."""

    def test_the_page_that_the_guest_goes_on_to_use(self, any_guest: Guest) -> None:
        guest = any_guest
        page = (guest.mmio & ~0xFFF) + 0x1000

        @guest.pv.on_userspace
        def map_next(exit_: UserspaceExit) -> None:
            if exit_.address < page:
                guest.uc.mem_map(page, PAGE)

        guest.aim(page)
        guest.value = 0x5566
        guest.run(guest.store(4, -8), guest.store(4), guest.load(4))
        assert guest.uc.mem_read(page, 4) == guest.data(0x5566, 4)
        assert guest.pv.exits.total == 1

    def test_code_that_the_guest_then_runs_can_use_devices(self, any_guest: Guest) -> None:
        guest = any_guest
        if guest.variant.bits == 16:
            pytest.skip("another code segment: the stub would need a far jump")
        page = 0x4050_0000 if guest.arch == "arm64" else 0x50_0000  # where its translation has code
        code = guest.place(guest.store(4, 8), guest.count)
        image = bytes(guest.uc.mem_read(code[0], code[1] - code[0]))

        @guest.pv.on_userspace
        def bring_code(exit_: UserspaceExit) -> None:
            if exit_.address == guest.mmio:
                guest.uc.mem_map(page, PAGE)
                guest.uc.mem_write(page, image)

        register = {"x86": "eax", "arm64": "x9", "ppc": "ctr"}[guest.arch]
        jump = {"x86": "jmp rax" if guest.variant.bits == 64 else "jmp eax", "arm64": "br x9", "ppc": "bctr"}
        guest.machine[register] = page
        guest.counter = 0
        start, _ = guest.place(guest.store(4), jump[guest.arch])
        guest.uc.emu_start(start, page + len(image))
        assert [exit_.address - guest.mmio for exit_ in guest.pv.exits] == [0, 8]
        assert guest.counter == 1

    def test_ram_that_goes_becomes_mmio(self, any_guest: Guest) -> None:
        guest = any_guest
        if guest.arch == "ppc" and guest.variant.paging and guest.pv.decode == "assist":
            pytest.skip("after mem_unmap in a callback the engine tells a pc that is 4 too high")
        page = (guest.mmio & ~0xFFF) + 0x1000
        guest.uc.mem_map(page, PAGE)
        seen: list[int] = []

        @guest.pv.on_userspace
        def unmap(exit_: UserspaceExit) -> None:
            seen.append(exit_.address)
            if exit_.address < page:
                guest.uc.mem_unmap(page, PAGE)

        guest.aim(page)
        guest.run(guest.store(4), guest.store(4, -8), guest.store(4), guest.load(4))
        assert seen == [page - 8, page, page]

    def test_ram_that_becomes_read_only(self, any_guest: Guest) -> None:
        guest = any_guest
        page = (guest.mmio & ~0xFFF) + 0x1000
        guest.uc.mem_map(page, PAGE)
        guest.pv.on_userspace(lambda exit_: guest.uc.mem_protect(page, PAGE, UC_PROT_READ))
        guest.aim(page)
        guest.run(guest.store(4), guest.store(4, -8), guest.store(4), guest.load(4))
        assert [exit_.address - page for exit_ in guest.pv.exits] == [-8, 0]


def test_an_unmapped_hook_of_the_users_keeps_its_part_of_a_hole(any_guest: Guest) -> None:
    """Demand paging next to a device, in a hook that was there before the plugin looked."""
    guest = any_guest
    page = (guest.mmio & ~0xFFF) + 0x1000
    guest.machine.close()
    calls: list[int] = []

    def demand(uc: Uc, access: int, address: int, size: int, value: int, data: object) -> bool:
        calls.append(address)
        uc.mem_map(page, PAGE)
        return True

    guest.uc.hook_add(UNMAPPED, demand, None, page, page + PAGE - 1)
    with PvMmio(guest.uc, decode=guest.pv.decode) as pv:
        guest.aim(page)
        guest.value = 0x77
        guest.run(guest.store(4, -8), guest.store(4), guest.store(4, -8), guest.load(4))
        assert [exit_.address - page for exit_ in pv.exits] == [-8, -8]
    assert calls == [page]
    assert guest.value & 0xFF == 0x77


def test_a_hook_added_later_does_not_spoil_a_later_error(make_guest: MakeGuest, arch: str) -> None:
    """It takes a fault that the plugin has already noted; what fails afterwards is not that fault."""
    guest = make_guest(arch)
    page = (guest.mmio & ~0xFFF) + 0x1000

    def demand(uc: Uc, *_: object) -> bool:
        uc.mem_map(page, PAGE)
        return True

    guest.uc.hook_add(UNMAPPED, demand, None, page, page + PAGE - 1)
    guest.aim(page)
    undefined = {"x86": "ud2", "arm64": ".byte 0,0,0,0", "ppc": "trap"}[guest.arch]
    with pytest.raises(UcError) as caught:
        guest.run(guest.store(4), undefined)
    assert caught.value.errno in (UC_ERR_EXCEPTION, UC_ERR_INSN_INVALID)
    assert "userspace" not in routes(guest)
