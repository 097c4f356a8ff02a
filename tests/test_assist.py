"""decode="assist": the engine decodes; what differs from the exact path, and what must not."""

from __future__ import annotations

import pytest
from unicorn import UcError
from unicorn.unicorn_const import UC_HOOK_INTR

from pvmmio_uc import EventFd, FetchFromDevice, UserspaceExit
from pvmmio_uc.arch.layout import Variant

from .conftest import MakeGuest
from .plugin_guests import Guest, Registers, routes


@pytest.fixture
def assisted(make_guest: MakeGuest, variant: tuple[str, Variant]) -> Guest:
    """Every variant, with decode assist."""
    return make_guest(*variant, decode="assist")


def regions(guest: Guest) -> list[tuple[int, int, int]]:
    return sorted(guest.uc.mem_regions())


class TestDifferences:
    def test_wide_stores_come_as_two_of_four(self, assisted: Guest, bell: EventFd) -> None:
        if 8 not in assisted.sizes:
            pytest.skip("no 8-byte store")
        assisted.pv.ioeventfd(bell, assisted.mmio)
        assisted.value = 0x1122_3344_5566_7788
        assisted.run(assisted.store(8))
        accesses = [exit_.accesses[0] for exit_ in assisted.pv.exits]
        assert [(a.address - assisted.mmio, a.size) for a in accesses] in ([(0, 4), (4, 4)], [(0, 0), (4, 4)])
        assert bell.read() == 1
        assert routes(assisted)[1] == "userspace", "the upper half goes on to the next address"

    def test_unaligned_stores_come_byte_by_byte(self, assisted: Guest) -> None:
        assisted.value = 0x1122_3344
        assisted.run(assisted.store(4, 1))
        accesses = [exit_.accesses[0] for exit_ in assisted.pv.exits]
        assert [(a.address - assisted.mmio, a.size) for a in accesses] == [(1, 1), (2, 1), (3, 1), (4, 1)]
        assert b"".join(a.data for a in accesses) == assisted.data(0x1122_3344, 4)

    def test_unaligned_loads_touch_the_neighbours_and_are_right(self, assisted: Guest) -> None:
        image = bytes(range(0x10, 0x20))

        @assisted.pv.on_userspace
        def answer(exit_: UserspaceExit) -> bytes:
            at = exit_.address - assisted.mmio
            return image[at : at + exit_.size]

        for at in (1, 2, 3):
            assisted.value = 0
            assisted.run(assisted.load(4, at))
            assert assisted.data(assisted.value, 4) == image[at : at + 4]
        assert {exit_.address % 4 for exit_ in assisted.pv.exits} == {0}

    def test_whatever_the_engine_executes(self, make_guest: MakeGuest) -> None:
        guest = make_guest("x86", decode="assist")
        device = Registers(0x10)
        guest.pv.device(guest.mmio, 0x100, device)
        guest.machine["ecx"] = 3
        guest.run("add dword ptr [rbx], ecx", "xchg dword ptr [rbx + 4], ecx")
        assert device.written == [(0, 4, 0x13), (4, 4, 3)]
        guest.machine["rdi"], guest.machine["rcx"] = guest.mmio + 8, 3
        guest.run("rep stosd")
        assert [offset for offset, _, _ in device.written[2:]] == [8, 12, 16]

    @pytest.mark.parametrize("stage2", ["ept", "npt"])
    def test_a_read_modify_write_at_a_fast_doorbell_reads_and_then_signals(
        self, make_guest: MakeGuest, bell: EventFd, stage2: str
    ) -> None:
        guest = make_guest("x86", decode="assist", stage2=stage2)
        guest.pv.ioeventfd(bell, guest.mmio)
        guest.run(guest.store(4, 8), "inc dword ptr [rbx]")
        assert routes(guest) == ["userspace", "userspace", "fast"]


class TestWindows:
    def test_they_are_gone_when_the_run_is_over(self, assisted: Guest) -> None:
        before = regions(assisted)
        assisted.run(assisted.store(4), assisted.load(4))
        assert regions(assisted) == before
        assert assisted.uc._mmio_callbacks == {}

    def test_also_after_an_error(self, assisted: Guest) -> None:
        before = regions(assisted)
        assisted.pv.on_userspace(lambda exit_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            assisted.run(assisted.store(4))
        assert regions(assisted) == before

    def test_a_guest_that_sweeps_its_address_space(self, make_guest: MakeGuest, arch: str) -> None:
        """Few windows then have to do: each costs as much to take away as to make."""
        guest = make_guest(arch, decode="assist")
        before = regions(guest)
        seen: list[int] = []
        most = 0

        @guest.pv.on_userspace
        def note(exit_: UserspaceExit) -> None:
            nonlocal most
            seen.append(exit_.address)
            most = max(most, len(regions(guest)))

        base = guest.mmio
        start, forward, again = {
            "x86": ("mov ecx, 300", "add rbx, 0x1000", "dec ecx\njnz again"),
            "arm64": ("movz x3, #300", "add x1, x1, #1, lsl #12", "subs x3, x3, #1\nb.ne again"),
            "ppc": ("li 6, 300\nmtctr 6", "addi 4, 4, 0x1000", "bdnz again"),
        }[arch]
        guest.run(start, "again:", guest.store(4), forward, again)
        assert seen == [base + 0x1000 * page for page in range(300)]
        assert regions(guest) == before
        assert most <= 70

    def test_what_is_next_to_a_device_stays_the_users(self, assisted: Guest) -> None:
        page = (assisted.mmio & ~0xFFF) + 0x1000
        assisted.pv.on_userspace(lambda exit_: assisted.uc.mem_map(page, 0x1000))
        assisted.aim(page)
        assisted.run(assisted.store(4, -4), assisted.store(4))
        assert len(assisted.pv.exits) == 1

    def test_the_page_of_a_device_that_was_touched_is_taken_until_the_run_ends(self, assisted: Guest) -> None:
        page = assisted.mmio & ~0xFFF
        assisted.pv.on_userspace(lambda exit_: assisted.uc.mem_map(page, 0x1000))
        with pytest.raises(UcError, match="MAP"):
            assisted.run(assisted.store(4))
        assisted.uc.mem_map(page, 0x1000)

    def test_registrations_from_a_callback_do_not_take_a_window_for_ram(
        self, assisted: Guest, bell: EventFd
    ) -> None:
        page = assisted.mmio

        @assisted.pv.on_userspace
        def register(exit_: UserspaceExit) -> None:
            if exit_.address == page:
                assisted.pv.ioeventfd(bell, page + 0x10, 4)
                assisted.pv.device(page + 0x20, 8, Registers(7))

        assisted.run(assisted.store(4), assisted.store(4, 0x10), assisted.load(1, 0x20))
        assert routes(assisted) == ["userspace", "ioeventfd", "device"]
        assert assisted.value & 0xFF == 7

    def test_a_jump_into_one(self, assisted: Guest) -> None:
        with pytest.raises(FetchFromDevice) as caught:
            assisted.run(assisted.store(4), assisted.words.jump)
        assert caught.value.address is not None
        assert caught.value.address >> 12 == assisted.mmio >> 12

    @pytest.mark.parametrize("what", ["store", "load"])
    def test_the_last_page_of_the_address_space(self, make_guest: MakeGuest, what: str) -> None:
        """The engine does not look again there after a hook has mapped it."""
        for arch, last in (("ppc", 0xFFFF_F000), ("x86", (1 << 64) - 0x1000)):
            guest = make_guest(arch, decode="assist")
            guest.machine[guest.words.base] = last
            guest.run(getattr(guest, what)(4, 8), guest.count)
            (exit_,) = guest.pv.exits
            assert exit_.address & 0xFFF == 8


class TestNothingOfItShows:
    @pytest.mark.parametrize("decode", ["software", "assist"])
    def test_a_guest_page_fault_is_what_it_was(self, make_guest: MakeGuest, decode: str) -> None:
        """mem_unmap walks the guest's tables, with a physical number, and leaves CR2 and a fault behind."""
        results = []
        for touch in (False, True):
            guest = make_guest("x86", Variant(64, True, "little"), decode=decode)
            alias = 0x4000_0000  # guest-virtual; the device has no page of its own number
            directory = 0x0020_2000
            guest.uc.mem_write(directory + 0x1000, (guest.mmio & ~0x1FFFFF | 0x83).to_bytes(8, "little"))
            guest.uc.mem_write(directory + 0x3000, bytes(0x1000))
            if touch:
                guest.aim(alias + 0x10)
                guest.run(guest.store(4), guest.load(4))
                assert [exit_.address for exit_ in guest.pv.exits] == [guest.mmio + 0x10] * 2
            guest.machine.close()
            results.append(self.faults(guest))
        assert results[0] == results[1]
        assert results[0][0] == (14, guest.mmio)

    def faults(self, guest: Guest) -> list[tuple[int, int]]:
        """The exceptions of an access that the guest's tables do not map: number and CR2."""
        seen: list[tuple[int, int]] = []

        def interrupt(uc: object, number: int, data: object) -> None:
            seen.append((number, guest.machine["cr2"]))
            guest.uc.emu_stop()

        hook = guest.uc.hook_add(UC_HOOK_INTR, interrupt)
        guest.aim(guest.mmio)
        for _ in range(2):
            guest.run(guest.store(4))
        guest.uc.hook_del(hook)
        return seen
